"""The events of a streamed answer, in whichever of four formats it came."""

from __future__ import annotations

import re
from typing import NamedTuple

from trajrec.types import Value
from trajrec.wire import aws_stream
from trajrec.wire.json_bodies import NOT_JSON, read_json
from trajrec.wire.json_stream import split_objects
from trajrec.wire.sse import split_events

DONE = "[DONE]"
"""The value of the event that ends a stream of OpenAI's kind."""

_DONE_DATA = b"[DONE]"

# The beginning of server-sent events, of a server that does not name its content type.
_LOOKS_LIKE_EVENTS = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:data|event|id|retry)?:")


class StreamEvent(NamedTuple):
    """One event of a streamed answer.

    Attributes:
        name: The kind of event, by the format itself; "" if the format has no kinds.
        value: The data as JSON values, `NOT_JSON`, or `DONE`.
        is_exception: Whether the format itself says that this is an error.
    """

    name: str
    value: Value
    is_exception: bool = False


def read_stream(content_type: str, body: bytes) -> list[StreamEvent] | None:
    """Return the events of a streamed answer; None if it is one JSON object, or nothing.

    >>> read_stream("text/event-stream", b'data: {"a":1}\\n\\ndata: [DONE]\\n\\n')[1].value
    '[DONE]'
    >>> [event.value for event in read_stream("", b'[{"a":1},{"b":')]
    [{'a': 1}, (not JSON)]
    """
    kind = content_type.lower()
    if aws_stream.CONTENT_TYPE in kind:
        return [
            StreamEvent(frame.name, read_json(frame.payload), frame.is_exception)
            for frame in aws_stream.split_frames(body)
        ]
    if "event-stream" in kind or ("json" not in kind and _LOOKS_LIKE_EVENTS.match(body)):
        events = [
            StreamEvent(event.name, DONE if event.data == _DONE_DATA else read_json(event.data))
            for event in split_events(body)
        ]
        # Some servers name this type for errors too, which are one JSON object; Google's write
        # such an object behind the events that came before.
        if not events and body.lstrip().startswith((b"{", b"[")):
            return None
        last = _last_block(body)
        return [*events, StreamEvent("", read_json(last))] if last.startswith(b"{") else events
    return _json_events(body, "ndjson" in kind or "jsonl" in kind)


def _json_events(body: bytes, is_lines: bool) -> list[StreamEvent] | None:
    """Return the events of a stream of JSON objects; None if the body is one object."""
    if not is_lines:
        value = read_json(body)
        if type(value) is list:
            return [StreamEvent("", item) for item in value]
        if value is not NOT_JSON:
            return None
    # Lines are read as they are: to look for the ends of objects takes five times as long.
    values = [read_json(line) for line in body.split(b"\n") if line.strip()]
    if any(type(value) is not dict for value in values[:-1]) or values[:1] == [NOT_JSON]:
        values = [read_json(data) for data in split_objects(body)]
    if len(values) < 2 and not is_lines and not body.lstrip().startswith(b"["):
        return None
    return [StreamEvent("", value) for value in values]


def _last_block(body: bytes) -> bytes:
    """Return the lines behind the last blank line, b"" if there is none."""
    text = body.rstrip()
    return text[max(text.rfind(blank) for blank in (b"\n\n", b"\n\r\n", b"\r\r")) :].lstrip()
