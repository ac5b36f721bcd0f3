"""The event streams of Amazon's services: binary frames with headers and checksums.

A frame is: its length and the length of its headers (4 bytes each, big-endian), the CRC-32 of these
8 bytes, the headers, the payload, the CRC-32 of all bytes before.

Source:
    https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html (Event stream encoding)
"""

from __future__ import annotations

import base64
import struct
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
    frames = []
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
            break
        payload_start = start + _PRELUDE.size + headers_size
        headers = _headers(body[start + _PRELUDE.size : payload_start])
        frames.append(_frame(headers, body[payload_start : end - 4]))
        start = end
    return frames


def _frame(headers: dict[str, str], payload: bytes) -> Frame:
    kind = headers.get(":message-type", "event")
    if kind != "event":
        name = headers.get(":exception-type") or headers.get(":error-code", "")
        return Frame(name, payload, True)
    name = headers.get(":event-type", "")
    if name == "chunk":
        encoded = as_text(as_dict(read_json(payload)).get("bytes"))
        try:
            payload = base64.b64decode(encoded or "", validate=True)
        except ValueError:
            payload = b""
    return Frame(name, payload, False)


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
