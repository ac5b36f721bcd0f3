"""Server-sent events: the format in which most models stream their answers.

Source:
    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from typing import NamedTuple

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ServerSentEvent(NamedTuple):
    """One event of a stream.

    Attributes:
        name: The kind of event; "" if it has none.
        data: Its data lines, joined by newlines. UTF-8, as it came.
    """

    name: str
    data: bytes


class EventSplitter:
    """Splits a stream into events while its pieces come; a piece may begin and end anywhere.

    Lines end with LF, CR or CRLF. Comments and the fields `id` and `retry` are left out. An event
    without data is none.

    >>> splitter = EventSplitter()
    >>> splitter.feed(b"event: ping\\ndata: {}\\r\\n\\r\\nda"), splitter.feed(b"ta: [DO")
    ([ServerSentEvent(name='ping', data=b'{}')], [])
    >>> splitter.feed(b"NE]"), splitter.finish()
    ([], [ServerSentEvent(name='', data=b'[DONE]')])
    """

    def __init__(self) -> None:
        # Pieces of the last line, which has not ended.
        self._pieces: list[bytes] = []
        self._is_begun = False

    def feed(self, piece: bytes) -> list[ServerSentEvent]:
        """Return the events that end with this piece of the stream."""
        # With the next byte, a CR that was held back is known to have ended a line.
        had_end = bool(self._pieces) and self._pieces[-1].endswith(b"\r") and bool(piece)
        self._pieces.append(piece)
        # A long line comes in many pieces; to join them each time takes quadratic time.
        if self._is_begun and not had_end and b"\n" not in piece and b"\r" not in piece:
            return []
        data = b"".join(self._pieces)
        if not self._is_begun:
            if len(data) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(data):
                return []
            self._is_begun = True
            data = data.removeprefix(_BYTE_ORDER_MARK)
        held_back = b""
        if b"\r" in data:
            # A CR at the end may be the first half of a CRLF.
            if data.endswith(b"\r"):
                held_back = b"\r"
                data = data[:-1]
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *blocks, rest = data.split(b"\n\n")
        self._pieces = [rest + held_back]
        return _events(blocks)

    def finish(self) -> list[ServerSentEvent]:
        """Return the last event if no blank line ended it; the stream is over.

        Of a stream that broke off, its data may be cut off.
        """
        rest = b"".join(self._pieces).replace(b"\r", b"\n")
        self._pieces = []
        # A CR that was held back may have been the second half of a blank line.
        return _events(rest.split(b"\n\n"))


def split_events(body: bytes) -> list[ServerSentEvent]:
    """Return all events of a whole stream, the last one too if no blank line ended it.

    >>> split_events(b": hello\\n\\ndata: a\\ndata: b\\n\\n")
    [ServerSentEvent(name='', data=b'a\\nb')]
    """
    splitter = EventSplitter()
    return splitter.feed(body) + splitter.finish()


def _events(blocks: list[bytes]) -> list[ServerSentEvent]:
    events = []
    for block in blocks:
        # Most events are one line of data: a third of the time of the general way.
        if block.startswith(b"data: ") and b"\n" not in block:
            events.append(ServerSentEvent("", block[6:]))
        elif block:
            event = _event(block)
            if event is not None:
                events.append(event)
    return events


def _event(block: bytes) -> ServerSentEvent | None:
    """Return the event of some lines, None if they have no data."""
    name = b""
    lines = []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            lines.append(value)
        elif field == b"event":
            name = value
    if not lines:
        return None
    return ServerSentEvent(name.decode("utf-8", "replace"), b"\n".join(lines))
