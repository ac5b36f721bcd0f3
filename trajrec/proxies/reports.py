"""Reports of the taps in Python programs, as the proxy takes them; see `trajrec.proxies.remote`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeAlias

from trajrec.errors import RerunStopped
from trajrec.proxies.frames import receive_frame, send_frame, split
from trajrec.proxies.messages import SocketReader
from trajrec.taps.exceptions import name_of
from trajrec.wire.exchange import Exchange, Headers, HttpAnswer, HttpRequest, header

Begin: TypeAlias = Callable[[HttpRequest, str], Exchange | None]
"""Takes a request and the mark of its episode ("" without one); returns the exchange that notes or
answers it, or None. It raises `RerunStopped` if a rerun has no such request."""

MARK_HEADER = "x-trajrec-episode"
"""The header by which a client names the episode of a request."""

MARK_CHARS = 200
"""The characters of such a name that count."""

ASK_S = 30.0
"""How long a program may take to say which request it is about to send."""


THINK_S = 24 * 3600.0
"""How long there may be no report. A model may think for long."""


def take_reports(reader: SocketReader, begin: Begin) -> None:
    """Take the reports of one exchange, until it ends or its program does."""

    def read(n: int) -> bytes:
        return reader.exactly(n, time.monotonic() + seconds)

    seconds = ASK_S
    connection = reader.connection
    asked, body = receive_frame(read)
    request = HttpRequest(str(asked["method"]), str(asked["url"]), _headers(asked["headers"]), body)
    try:
        exchange = begin(request, header(request.headers, MARK_HEADER)[:MARK_CHARS])
    except RerunStopped as exc:
        send_frame(connection, {"kind": "miss", "message": str(exc)})
        return
    if exchange is None:
        send_frame(connection, {"kind": "none"})
        return
    if exchange.answer is not None:
        send_frame(connection, *_told(exchange.answer))
        return
    other = exchange.sent_body
    head = {"kind": "record", "has_body": other is not None, "url": exchange.sent_url}
    try:
        send_frame(connection, head, other or b"")
        seconds = THINK_S
        while _note(exchange, *receive_frame(read)):
            pass
    except (OSError, LookupError, TypeError, ValueError):
        exchange.ended(ConnectionResetError("the program ended before the answer did"))


def _note(exchange: Exchange, head: dict[str, Any], data: bytes) -> bool:
    """Note one report; return whether there will be more."""
    if head["kind"] == "responded":
        exchange.responded(int(head["status"]), _headers(head["headers"]))
        return True
    for piece in split(data, [int(size) for size in head["sizes"]]):
        exchange.received(piece)
    if head["kind"] != "ended":
        return True
    error = head["error"]
    exchange.ended(None if error is None else _reported_error(*error))
    return False


def _headers(pairs: list[list[str]]) -> Headers:
    return [(str(name).lower(), str(value)) for name, value in pairs]


def _told(answer: HttpAnswer) -> tuple[dict[str, Any], bytes]:
    """Return a recorded answer as a message."""
    error = answer.error
    head = {
        "kind": "answer",
        "status": answer.status,
        "headers": answer.headers,
        "sizes": [len(chunk) for chunk in answer.chunks],
        "error": None if error is None else [name_of(error), str(error)],
        "hangs": answer.hangs,
    }
    return head, b"".join(answer.chunks)


def _reported_error(name: str, message: str, is_exception: bool) -> BaseException:
    """Return an exception with the name and message of one in another program.

    It is only described, never raised, so its class needs nothing but the name.
    """
    module, _, qualname = str(name).rpartition(".")
    base = Exception if is_exception else BaseException
    kind: type[BaseException] = type(qualname, (base,), {"__module__": module})
    return kind(str(message))
