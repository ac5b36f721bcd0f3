"""Pictures inside of values: agents that look at screens send their screenshots as base64."""

from __future__ import annotations

import base64
import re
from typing import NamedTuple

from trajrec.types import Value
from trajrec.values.codec import Plain
from trajrec.values.foreign_arrays import ARRAY

# Without `data:`, a few letters may be chance. Gemini's base64 is that of addresses, with - and _.
_ENCODED = re.compile(
    r"data:(image/(?:png|jpeg|gif|webp));base64,([A-Za-z0-9+/_-]+=*)"
    r"|(?<![A-Za-z0-9+/_-])((?:iVBORw0KGgo|[/_]9j[/_]|R0lGOD[dl]h|UklGR)[A-Za-z0-9+/_-]{200,}=*)"
)

_STANDARD = str.maketrans("-_", "+/")

# No shorter text has a picture.
_SHORTEST = len("data:image/png;base64,")


class EncodedPicture(NamedTuple):
    """A picture as base64.

    Attributes:
        media_type: Its type, such as "image/png".
        data: Its bytes as base64, in the usual alphabet.
    """

    media_type: str
    data: str

    @property
    def address(self) -> str:
        """The address that holds the whole picture."""
        return f"data:{self.media_type};base64,{self.data}"

    @property
    def words(self) -> str:
        """Its type and size in words."""
        n_bytes = len(self.data.rstrip("=")) * 3 // 4
        size = f"{n_bytes / 1000:.0f} kB" if n_bytes >= 1000 else f"{n_bytes} B"
        return ", ".join(filter(None, (self.media_type, self._pixels(), size)))

    def _pixels(self) -> str:
        """Return the width and height of a PNG, which its first bytes tell; "" of other types."""
        if self.media_type != "image/png" or len(self.data) < 32:
            return ""
        head = base64.b64decode(self.data[:32])
        width = int.from_bytes(head[16:20], "big")
        height = int.from_bytes(head[20:24], "big")
        return f"{width} x {height}"


def with_named_pictures(value: Value, pictures: list[EncodedPicture] | None = None) -> Value:
    """Return a value in which each picture, in base64 or as bytes, is named by its type and size.

    Args:
        value: The value.
        pictures: A list to which the pictures are added, in their order.

    >>> with_named_pictures({"shot": "data:image/gif;base64,R0lGODlhAQABAAAAACw="})
    {'shot': '(image/gif, 14 B)'}
    """
    found: list[EncodedPicture] = [] if pictures is None else pictures
    if isinstance(value, str):
        if len(value) < _SHORTEST:
            return value
        return _ENCODED.sub(lambda match: _name(match, found), value)
    if isinstance(value, (bytes, bytearray)):
        media_type = _type_of(bytes(value[:12]))
        if media_type is None:
            return value
        found.append(EncodedPicture(media_type, base64.b64encode(value).decode()))
        return f"({found[-1].words})"
    if isinstance(value, dict):
        return {key: with_named_pictures(item, found) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [with_named_pictures(item, found) for item in value]
    if isinstance(value, Plain) and value.kind != ARRAY:
        n_before = len(found)
        fields = {key: with_named_pictures(item, found) for key, item in value.fields.items()}
        return {"type": value.type_name, **fields} if len(found) > n_before else value
    return value


def _name(match: re.Match[str], found: list[EncodedPicture]) -> str:
    """Return the name of a picture in a text, and add it to a list."""
    media_type, in_address, bare = match.groups()
    data = (in_address or bare).translate(_STANDARD)
    # 16 letters are 12 bytes.
    media_type = media_type or _type_of(base64.b64decode(data[:16]))
    if media_type is None:
        return match.group()
    found.append(EncodedPicture(media_type, data))
    return f"({found[-1].words})"


def _type_of(head: bytes) -> str | None:
    """Return the type of a picture by its first 12 bytes; None if it is none."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    # The same beginning is also that of sounds and films.
    return "image/webp" if head.startswith(b"RIFF") and head[8:] == b"WEBP" else None
