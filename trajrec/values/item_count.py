"""Counts the items of msgpack bytes before they become objects.

A byte of msgpack may stand for an empty list, which takes 64 bytes of memory: a few megabytes that
compress to nothing could claim all of it. Small values cannot, so only large ones are counted.
"""

from __future__ import annotations

import re

from trajrec.values import extensions as ext

COUNTED_BYTES = 1 << 22
"""Only more bytes than this are counted: fewer take at most 300 MB as objects."""

MAX_ITEMS = 1 << 22
"""The most items of a value, or of a record: as empty lists they take 300 MB."""

# Extensions whose content is no msgpack.
_OF_BYTES = frozenset(bytes((code,)) for code in (ext.BIGINT, ext.TEXT, ext.BYTEARRAY, ext.REF))

# The sizes of an item's header and of its content, by its first byte. The size of the content is
# -n if it stands in the n bytes behind the first one.
_SIZES: dict[int, tuple[int, int]] = {
    0xC4: (2, -1),
    0xC5: (3, -2),
    0xC6: (5, -4),
    0xC7: (3, -1),
    0xC8: (4, -2),
    0xC9: (6, -4),
    0xCA: (5, 0),
    0xCB: (9, 0),
    0xCC: (2, 0),
    0xCD: (3, 0),
    0xCE: (5, 0),
    0xCF: (9, 0),
    0xD0: (2, 0),
    0xD1: (3, 0),
    0xD2: (5, 0),
    0xD3: (9, 0),
    0xD4: (2, 1),
    0xD5: (2, 2),
    0xD6: (2, 4),
    0xD7: (2, 8),
    0xD8: (2, 16),
    0xD9: (2, -1),
    0xDA: (3, -2),
    0xDB: (5, -4),
    0xDC: (3, 0),
    0xDD: (5, 0),
    0xDE: (3, 0),
    0xDF: (5, 0),
}

# Numbers, nil, truth values, and short arrays and maps, whose items follow. Millions of them are
# counted at once.
_ONE_BYTE_ITEMS = re.compile(rb"[\x00-\x9f\xc0\xc2\xc3\xe0-\xff]+")

_EXTENSIONS = frozenset((0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8))


def check_items(data: bytes | memoryview) -> None:
    """Check that msgpack bytes do not have more items than are read.

    Raises:
        ValueError: They have.
    """
    if len(data) > COUNTED_BYTES and count_items(data) > MAX_ITEMS:
        raise ValueError(f"it has more than {MAX_ITEMS} items")


def count_items(data: bytes | memoryview) -> int:
    """Return the number of items in msgpack bytes, or `MAX_ITEMS` + 1 if there are more.

    An array and its items, and an extension and the msgpack in it, are items of their own.
    """
    n_bytes = len(data)
    sizes = _SIZES
    position = 0
    n_items = 0
    while position < n_bytes and n_items <= MAX_ITEMS:
        run = _ONE_BYTE_ITEMS.match(data, position)
        if run is not None:
            n_items += run.end() - position
            position = run.end()
            continue
        n_items += 1
        first = data[position]
        if first not in sizes:
            # A short text, or a byte that no item begins with.
            position += 1 + (first - 0xA0 if first <= 0xBF else 0)
            continue
        header, content = sizes[first]
        if content < 0:
            content = int.from_bytes(data[position + 1 : position + 1 - content], "big")
        position += header
        if first not in _EXTENSIONS or data[position - 1 : position] in _OF_BYTES:
            position += content
    return n_items
