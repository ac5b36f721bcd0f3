"""The event streams of Amazon's services: binary frames with headers and checksums.

A frame is: its length and the length of its headers (4 bytes each, big-endian), the CRC-32 of these
8 bytes, the headers, the payload, the CRC-32 of all bytes before.

Source:
    https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html (Event stream encoding)
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple
from zlib import crc32

from trajrec.wire.json_bodies import as_dict, as_text, read_json

CONTENT_TYPE = "application/vnd.amazon.eventstream"

_PRELUDE = struct.Struct(">III")
_CHECKSUM = struct.Struct(">I")
_MIN_FRAME = _PRELUDE.size + _CHECKSUM.size

# The number of bytes of a header's value by its type; true and false (0 and 1) have none.
_FIXED = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
_TEXT = 7
_WITH_LENGTH = (6, _TEXT)


class Frame(NamedTuple):
    """One event of such a stream.

    Attributes:
        name: The kind of event, or of exception.
        payload: Its bytes, JSON mostly.
        is_exception: Whether the service reports an exception.
    """

    name: str
    payload: bytes
    is_exception: bool


def split_frames(body: bytes) -> list[Frame]:
    """Return the frames of a stream, up to the first one that is cut off or damaged.

    The events of `invoke-with-response-stream` hold the bytes of the model's own event; these stand
    in `payload`.

    >>> split_frames(b"")
    []
    """
    return [_frame(*_parts(body, place)) for place in _places(body)]


def with_payloads(body: bytes, change: Callable[[list[bytes]], list[bytes]]) -> tuple[bytes, bytes]:
    """Return the frames of a stream with other payloads, and what follows the last sound one.

    Args:
        body: The stream.
        change: Returns the payloads in place of those of all frames, as `split_frames` gives them.
    """
    places = list(_places(body))
    before = [_frame(*_parts(body, place)).payload for place in places]
    frames = [
        body[place.start : place.end] if new == old else _with_payload(body, place, new)
        for place, old, new in zip(places, before, change(before), strict=True)
    ]
    return b"".join(frames), body[places[-1].end if places else 0 :]


class _Place(NamedTuple):
    """The place of a frame in a stream: its first byte, that of its payload, and its end."""

    start: int
    payload_start: int
    end: int


def _places(body: bytes) -> Iterator[_Place]:
    """Yield the places of the frames, up to the first one that is cut off or damaged."""
    start = 0
    while len(body) - start >= _MIN_FRAME:
        size, headers_size, checksum = _PRELUDE.unpack_from(body, start)
        end = start + size
        is_sound = (
            size >= _MIN_FRAME + headers_size
            and end <= len(body)
            and checksum == crc32(body[start : start + 8])
            and _CHECKSUM.unpack_from(body, end - 4)[0] == crc32(body[start : end - 4])
        )
        if not is_sound:
            return
        yield _Place(start, start + _PRELUDE.size + headers_size, end)
        start = end


def _parts(body: bytes, place: _Place) -> tuple[dict[str, str], bytes]:
    """Return the headers of a frame, and its payload as it stands."""
    headers = _headers(body[place.start + _PRELUDE.size : place.payload_start])
    return headers, body[place.payload_start : place.end - _CHECKSUM.size]


def _with_payload(body: bytes, place: _Place, payload: bytes) -> bytes:
    """Return a frame with another payload."""
    headers, before = _parts(body, place)
    if _is_chunk(headers):
        fields = as_dict(read_json(before)) | {"bytes": base64.b64encode(payload).decode()}
        payload = json.dumps(fields, separators=(",", ":")).encode()
    coded = body[place.start + _PRELUDE.size : place.payload_start]
    size = _MIN_FRAME + len(coded) + len(payload)
    prelude = _PRELUDE.pack(size, len(coded), 0)[:8]
    frame = prelude + _CHECKSUM.pack(crc32(prelude)) + coded + payload
    return frame + _CHECKSUM.pack(crc32(frame))


def _is_chunk(headers: dict[str, str]) -> bool:
    is_event = headers.get(":message-type", "event") == "event"
    return is_event and headers.get(":event-type") == "chunk"


def _frame(headers: dict[str, str], payload: bytes) -> Frame:
    kind = headers.get(":message-type", "event")
    if kind != "event":
        name = headers.get(":exception-type") or headers.get(":error-code", "")
        return Frame(name, payload, True)
    if _is_chunk(headers):
        encoded = as_text(as_dict(read_json(payload)).get("bytes"))
        try:
            payload = base64.b64decode(encoded or "", validate=True)
        except ValueError:
            payload = b""
    return Frame(headers.get(":event-type", ""), payload, False)


def _headers(data: bytes) -> dict[str, str]:
    """Return the headers whose values are texts, up to the first one that is malformed."""
    headers = {}
    position = 0
    while position < len(data):
        name_end = position + 1 + data[position]
        if name_end >= len(data):
            break
        name = data[position + 1 : name_end].decode("utf-8", "replace")
        kind = data[name_end]
        position = name_end + 1
        if kind in _WITH_LENGTH:
            value_start = position + 2
            position = value_start + int.from_bytes(data[position:value_start], "big")
            if kind == _TEXT:
                headers[name] = data[value_start:position].decode("utf-8", "replace")
        elif kind in _FIXED:
            position += _FIXED[kind]
        else:
            break
    return headers
