"""Percent-encoded parts of a text, as in the parameters of a URL and in the body of a form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_PART_BYTES = 1 << 14
"""Of a longer part only the first bytes are decoded."""

_PART = re.compile(rb"%[0-9A-Fa-f]{2}[^\s\"'<>\\%]*+(?:%[0-9A-Fa-f]{2}[^\s\"'<>\\%]*+)*")
_MIN_ESCAPES = 3
_SIGN = re.compile(rb"%(?:3[ADad]|22|0[Aa])")
_BEFORE_BYTES = 128
_BEFORE = re.compile(rb"[^\s\"'<>\\%]*\Z")
_PIECE = re.compile(rb"%[0-9A-Fa-f]{2}|[^%]+|%")


class DecodedPart(NamedTuple):
    """A percent-encoded part of a text.

    Attributes:
        data: The bytes that it stands for.
        positions: The place in the text of each of these bytes, and of the end.
    """

    data: bytes
    positions: list[int]


def decoded_parts(data: bytes) -> Iterator[DecodedPart]:
    """Yield the percent-encoded parts of a text, decoded, each with the name before it."""
    for match in _PART.finditer(data):
        # With few of other signs, such as %20, the rest is as it is without them.
        if match[0].count(b"%") < _MIN_ESCAPES and _SIGN.search(match[0]) is None:
            continue
        before = _BEFORE.search(data, max(0, match.start() - _BEFORE_BYTES), match.start())
        start = match.start() if before is None else before.start()
        stop = min(match.end(), start + MAX_PART_BYTES)
        decoded = bytearray()
        positions: list[int] = []
        for piece in _PIECE.finditer(data, start, stop):
            if len(piece[0]) == 3 and piece[0][0] == 0x25:
                decoded.append(int(piece[0][1:], 16))
                positions.append(piece.start())
            else:
                # A form writes a space so. A plus sign that stands for itself is found undecoded.
                decoded += piece[0].replace(b"+", b" ")
                positions.extend(range(*piece.span()))
        yield DecodedPart(bytes(decoded), [*positions, stop])
