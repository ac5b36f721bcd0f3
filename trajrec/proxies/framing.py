"""Bodies of responses: their content is found while their bytes are passed on as they came."""

from __future__ import annotations

from typing import Protocol

from trajrec.proxies.messages import MAX_HEAD_BYTES, RefusedError, ResponseHead, chunk_size
from trajrec.wire.exchange import header


class Body(Protocol):
    """The rest of a response.

    Attributes:
        is_complete: Whether its end has come.
        ends_with_connection: Whether only the end of the connection is its end.
    """

    is_complete: bool
    ends_with_connection: bool

    def add(self, data: bytes) -> list[bytes]:
        """Return the content in the next bytes.

        Raises:
            ConnectionError: They are no such body.
        """


class SizedBody:
    """A body of a known length.

    Args:
        size: The length.

    >>> body = SizedBody(3)
    >>> body.add(b"abc"), body.is_complete
    ([b'abc'], True)
    """

    ends_with_connection = False

    def __init__(self, size: int) -> None:
        self._left = size
        self.is_complete = not size

    def add(self, data: bytes) -> list[bytes]:
        """Return the data."""
        self._left -= len(data)
        if self._left < 0:
            raise ConnectionError("the server sent more than it announced")
        self.is_complete = not self._left
        return [data] if data else []


class OpenBody:
    """A body that ends with the connection."""

    is_complete = False
    ends_with_connection = True

    def add(self, data: bytes) -> list[bytes]:
        """Return the data."""
        return [data] if data else []


class ChunkedBody:
    """A body in the chunked coding.

    >>> body = ChunkedBody()
    >>> body.add(b"3\\r\\nabc\\r\\n0\\r\\n"), body.is_complete
    ([b'abc'], False)
    >>> body.add(b"\\r\\n"), body.is_complete
    ([], True)
    """

    ends_with_connection = False

    def __init__(self) -> None:
        self.is_complete = False
        self._rest = b""
        # Bytes of a chunk that have not come.
        self._left = 0
        self._expects_end_of_chunk = False
        self._is_in_trailers = False

    def add(self, data: bytes) -> list[bytes]:
        """Return the content of the next bytes, one piece for each chunk or part of one."""
        data = self._rest + data if self._rest else data
        pieces = []
        at = 0
        while at < len(data) and not self.is_complete:
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._expects_end_of_chunk = not self._left
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            self._take_line(data[at:end])
            at = end + 2
        self._rest = data[at:]
        if self._rest and self.is_complete:
            raise ConnectionError("the server sent more than one response")
        if len(self._rest) > MAX_HEAD_BYTES:
            raise ConnectionError("the server sent a chunk without a size")
        return pieces

    def _take_line(self, line: bytes) -> None:
        if self._is_in_trailers:
            self.is_complete = not line
        elif self._expects_end_of_chunk:
            if line:
                raise ConnectionError("a chunk of the server is longer than it says")
            self._expects_end_of_chunk = False
        else:
            try:
                self._left = chunk_size(line)
            except RefusedError as exc:
                raise ConnectionError("the server sent a chunk without a size") from exc
            self._is_in_trailers = not self._left


def body_of(head: ResponseHead, method: str) -> Body:
    """Return the body that follows a head.

    Raises:
        ConnectionError: Its length is not clear.
    """
    headers = head.lower_headers
    if method == "HEAD" or head.status in (204, 304):
        return SizedBody(0)
    coding = header(headers, "transfer-encoding").lower()
    if coding == "chunked":
        return ChunkedBody()
    if coding:
        raise ConnectionError(f"the server answered in the coding {coding!r}")
    length = header(headers, "content-length")
    if not length:
        return OpenBody()
    if not (length.isascii() and length.isdigit() and len(length) < 16):
        raise ConnectionError("the server announced a length that is no number")
    return SizedBody(int(length))
