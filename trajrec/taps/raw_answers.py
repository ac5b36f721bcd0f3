"""Recorded answers as the bytes of HTTP/1.1, for libraries that parse a response themselves.

The body goes in the chunked coding: each recorded piece is one chunk, so that a reader gets the
pieces as they were.
"""

from __future__ import annotations

import http

from trajrec.wire.exchange import HttpAnswer

HANG_S = 30.0
"""How long a request waits that was given up before its answer came, if nobody gives it up."""

# A response with one of these has no body.
_EMPTY_STATUSES = (204, 304)
# The body comes in chunks, whatever the recorded response said.
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})


def reason_of(status: int) -> str:
    """Return the usual reason phrase of a status, "" if it has none.

    >>> reason_of(429)
    'Too Many Requests'
    """
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""


def head_of(answer: HttpAnswer) -> bytes:
    """Return the status line and the headers, with the empty line after them.

    >>> head_of(HttpAnswer(204, [("x-request-id", "a")], []))
    b'HTTP/1.1 204 No Content\\r\\nx-request-id: a\\r\\n\\r\\n'
    """
    lines = [f"HTTP/1.1 {answer.status} {reason_of(answer.status)}"]
    for name, value in answer.headers:
        if name not in _FRAMING:
            # A line break within a value would begin another header.
            lines.append(f"{name}: {value}".replace("\r", " ").replace("\n", " "))
    if answer.status not in _EMPTY_STATUSES:
        lines.append("transfer-encoding: chunked")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


def pieces_of(answer: HttpAnswer) -> list[bytes]:
    """Return the body, one chunk for each piece, and its end if the recorded body had one.

    The end comes with the last piece, as it mostly does: aiohttp reports it as one more chunk if it
    comes alone.

    >>> pieces_of(HttpAnswer(200, [], [b"a", b"bc"]))
    [b'1\\r\\na\\r\\n', b'2\\r\\nbc\\r\\n0\\r\\n\\r\\n']
    """
    if answer.status in _EMPTY_STATUSES:
        return []
    # An empty chunk would be the end.
    pieces = [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in answer.chunks if chunk]
    if answer.error is None and not answer.hangs:
        last = pieces.pop() if pieces else b""
        pieces.append(last + b"0\r\n\r\n")
    return pieces
