"""Changes the items of a journal, with their checksums."""

from __future__ import annotations

import contextlib
import random
import struct
import zlib

import msgspec
from fuzz_parts import decode, encode
from fuzz_values import change_bytes, change_value

from trajrec.log.journal import record_checksum

_HEAD = 64
_HALF = struct.Struct("<8s16sQI")
_WORD = struct.Struct("<II")


def items(half: bytes) -> list[tuple[int, bytes]]:
    """Return kind and content of each item of a half."""
    number = _HALF.unpack_from(half)[2]
    position = _HALF.size
    pairs = []
    while position + _WORD.size <= len(half):
        word, checksum = _WORD.unpack_from(half, position)
        kind, size = word >> 28, word & 0xFFFFFFF
        content = half[position + _WORD.size : position + _WORD.size + size]
        if len(content) < size or checksum != record_checksum(content, kind, number):
            break
        pairs.append((kind, content))
        number += 1
        position += _WORD.size + size
    return pairs


def change_half(journal: bytes, rng: random.Random, *, keeps_number: bool) -> bytes:
    """Return a journal of which an item, or the number of the first item, is another one."""
    (size,) = struct.unpack_from("<I", journal, 12)
    starts = [
        start
        for start in (_HEAD, _HEAD + size)
        if len(journal) >= start + _HALF.size and items(journal[start : start + size])
    ]
    if not starts:
        return journal
    start = rng.choice(starts)
    half = journal[start : start + size]
    magic, log_id, number, checksum = _HALF.unpack_from(half)
    parts = items(half)
    if keeps_number:
        _change_items(parts, rng)
    else:
        number = rng.choice([0, number + 1, max(0, number - 1), 2**40, 2**63])
        head = _HALF.pack(magic, log_id, number, 0)[:-4]
        checksum = zlib.crc32(head)
    data = _HALF.pack(magic, log_id, number, checksum)
    for k, (kind, content) in enumerate(parts):
        item = number + k
        data += (
            _WORD.pack(kind << 28 | len(content), record_checksum(content, kind, item)) + content
        )
    data = data[:size].ljust(size, b"\0")
    return journal[:start] + data + journal[start + size :]


def _change_items(parts: list[tuple[int, bytes]], rng: random.Random) -> None:
    k = rng.randrange(len(parts))
    kind, content = parts[k]
    match rng.randrange(5):
        case 0:
            parts[k] = (kind, change_bytes(content, rng))
        case 1:
            parts[k] = (rng.randrange(16), content)
        case 2:
            del parts[k]
        case 3:
            parts.insert(rng.randrange(len(parts) + 1), parts[k])
        case _:
            record = None
            # An earlier change may have left no record.
            with contextlib.suppress(msgspec.DecodeError):
                record = decode(content)
            if isinstance(record, list) and record:
                n = rng.randrange(len(record))
                record[n] = change_value(record[n], rng, [])
                parts[k] = (kind, encode(record))
