"""Heads of HTTP/1.1 messages: read with limits, parsed strictly, written again."""

from __future__ import annotations

import re
import socket
import time
from typing import NamedTuple

from trajrec.wire.exchange import Headers

MAX_HEAD_BYTES = 64 * 1024
"""The longest head of a message; real ones have about 2 kB."""

MAX_BODY_BYTES = 256 * 1024 * 1024
"""The longest body of a request: a conversation with many pictures has some 10 MB."""

READ_BYTES = 256 * 1024
"""Bytes that one read takes at most."""

# Of one connection; the proxy and its upstream have others.
_OF_CONNECTION = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
    }
)

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_TARGET = re.compile(r"/[\x21-\x7e]*\Z")
_METHOD = re.compile(r"[A-Z]{1,20}\Z")
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class RefusedError(Exception):
    """A request that the proxy does not take.

    Attributes:
        status: The HTTP status to answer with.
    """

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)


class RequestHead(NamedTuple):
    """The head of a request.

    Attributes:
        method: The method.
        target: The path with its query.
        headers: Names as they were written, and values.
    """

    method: str
    target: str
    headers: Headers

    def value(self, name: str) -> str:
        """Return the header of a name, "" without one.

        Raises:
            RefusedError: It is given twice, so that two readers could take different ones.
        """
        values = [value for key, value in self.headers if key.lower() == name]
        if len(values) > 1:
            raise RefusedError(400, f"the header {name} is given twice")
        return values[0] if values else ""


class ResponseHead(NamedTuple):
    """The head of a response.

    Attributes:
        version: "HTTP/1.1" or "HTTP/1.0".
        status: The status.
        reason: Its phrase.
        headers: Names as they were written, and values.
    """

    version: str
    status: int
    reason: str
    headers: Headers

    @property
    def lower_headers(self) -> Headers:
        """The headers with their names in lower case."""
        return [(name.lower(), value) for name, value in self.headers]


class SocketReader:
    """Reads messages from a socket.

    Args:
        connection: The socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._rest = b""

    def take_rest(self) -> bytes:
        """Return the bytes that were read beyond the last message."""
        rest = self._rest
        self._rest = b""
        return rest

    def head(self, deadline: float) -> bytes:
        """Return the next head without its empty line; b"" if the connection was closed.

        Args:
            deadline: When to give up, by `time.monotonic`.

        Raises:
            RefusedError: The head is too long.
            TimeoutError: It did not come in time.
        """
        while (end := self._rest.find(b"\r\n\r\n")) < 0:
            if len(self._rest) > MAX_HEAD_BYTES:
                raise RefusedError(431, "the head of the request is too long")
            data = self._receive(deadline)
            if not data:
                return b""
            self._rest += data
        head = self._rest[:end]
        self._rest = self._rest[end + 4 :]
        return head

    def exactly(self, n: int, deadline: float) -> bytes:
        """Return the next n bytes.

        Raises:
            ConnectionError: The connection was closed before.
            TimeoutError: They did not come in time.
        """
        pieces = [self._rest[:n]]
        self._rest = self._rest[n:]
        missing = n - len(pieces[0])
        while missing:
            data = self._receive(deadline)
            if not data:
                raise ConnectionError("the connection was closed within a message")
            pieces.append(data[:missing])
            self._rest = data[missing:]
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def line(self, deadline: float) -> bytes:
        """Return the next line without its end; lines are as short as those of a chunked body.

        Raises:
            RefusedError: The line is too long.
            ConnectionError: The connection was closed before.
        """
        while (end := self._rest.find(b"\r\n")) < 0:
            if len(self._rest) > MAX_HEAD_BYTES:
                raise RefusedError(400, "a line of the body is too long")
            data = self._receive(deadline)
            if not data:
                raise ConnectionError("the connection was closed within a message")
            self._rest += data
        line = self._rest[:end]
        self._rest = self._rest[end + 2 :]
        return line

    def body(self, head: RequestHead, deadline: float) -> bytes:
        """Return the body of a request.

        Raises:
            RefusedError: Its length is not clear, or too large.
        """
        length = head.value("content-length")
        coding = head.value("transfer-encoding").lower()
        if coding and (coding != "chunked" or length):
            raise RefusedError(400, "the length of the body is not clear")
        if coding:
            return self._chunked_body(deadline)
        if not length:
            return b""
        if not (length.isascii() and length.isdigit()):
            raise RefusedError(400, "the length of the body is no number")
        # The digits first: a number of 10,000 digits takes long to read.
        if len(length) > 12 or int(length) > MAX_BODY_BYTES:
            raise RefusedError(413, "the body is too long")
        return self.exactly(int(length), deadline)

    def _chunked_body(self, deadline: float) -> bytes:
        pieces = []
        n_bytes = 0
        while size := chunk_size(self.line(deadline)):
            n_bytes += size
            if n_bytes > MAX_BODY_BYTES:
                raise RefusedError(413, "the body is too long")
            pieces.append(self.exactly(size, deadline))
            if self.line(deadline):
                raise RefusedError(400, "a chunk of the body does not end after its length")
        for _ in range(100):
            if not self.line(deadline):
                return b"".join(pieces)
        raise RefusedError(400, "the body has too many trailers")

    def _receive(self, deadline: float) -> bytes:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the message did not come in time")
        self.connection.settimeout(left)
        return self.connection.recv(READ_BYTES)


def chunk_size(line: bytes) -> int:
    """Return the size that begins a chunk.

    Raises:
        RefusedError: It is no hexadecimal number of at most 8 digits.

    >>> chunk_size(b"1f;name=value")
    31
    """
    digits = line.partition(b";")[0].strip(b" \t")
    if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", digits):
        raise RefusedError(400, "a chunk has no size")
    return int(digits, 16)


def parse_request(head: bytes) -> RequestHead:
    """Return the head of a request.

    Raises:
        RefusedError: It is no head of HTTP/1.1 for a path, or could be read in two ways.

    >>> parse_request(b"GET /v1/models HTTP/1.1\\r\\nHost: a").target
    '/v1/models'
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not _METHOD.match(parts[0]):
        raise RefusedError(400, "this is no HTTP request")
    method, target, version = parts
    if version != "HTTP/1.1":
        raise RefusedError(505, "only HTTP/1.1 is spoken here")
    if not _TARGET.match(target):
        raise RefusedError(400, "only paths are served here")
    return RequestHead(method, target, _parse_headers(lines, is_strict=True))


def parse_response(head: bytes) -> ResponseHead:
    """Return the head of a response.

    Raises:
        ConnectionError: It is none.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    found = re.match(r"(HTTP/1\.[01]) (\d{3})(?: (.*))?\Z", first)
    if found is None:
        raise ConnectionError("the server did not answer in HTTP/1.1")
    headers = _parse_headers(lines, is_strict=False)
    return ResponseHead(found[1], int(found[2]), found[3] or "", headers)


def _parse_headers(lines: list[str], *, is_strict: bool) -> Headers:
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        is_good = colon and _NAME.match(name) and not _FORBIDDEN.search(value)
        if is_good:
            headers.append((name, value.strip(" \t")))
        elif is_strict:
            raise RefusedError(400, "a header is malformed")
    return headers


def passed_headers(headers: Headers, dropped: frozenset[str] = frozenset()) -> Headers:
    """Return the headers that are passed on: all but those that concern one connection.

    Args:
        headers: The headers.
        dropped: Further names to leave out, in lower case.
    """
    named = ",".join(value for name, value in headers if name.lower() == "connection")
    of_connection = {name.strip().lower() for name in named.split(",")}
    # Never a name that the framing depends on, whatever the header says.
    of_connection -= {"content-length", "transfer-encoding"}
    left_out = _OF_CONNECTION | of_connection | dropped
    return [(name, value) for name, value in headers if name.lower() not in left_out]


def written(first: str, headers: Headers) -> bytes:
    """Return a head as bytes, with the empty line at its end."""
    lines = [first, *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
