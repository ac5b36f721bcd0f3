"""Takes logs apart into frames with decoded records, and puts them together again.

A log is taken apart into frames with decoded records, one of them is changed, and the log is put
together again with every checksum, size, position and seal made right, unless the change is to one
of these. So only the reader's own checks are left.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from typing import Any, get_args

import msgspec
import zstandard

from trajrec.log import format1, frames, schema
from trajrec.log.format1 import FORMAT1
from trajrec.log.frames import FORMAT2

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder().decode

COLUMN = schema.Column.__struct_fields__
CHECKSUM, OFFSET, SIZE = (COLUMN.index(name) for name in ("checksum", "offset", "size"))
EVENTS = {cls.__struct_config__.tag: cls for cls in get_args(schema.Event)}
EVENTS |= {"effect": EVENTS["side_effect"], "regrade": EVENTS["post_hoc_check"]}


@dataclasses.dataclass
class Part:
    """A frame, taken apart. What is not None is written in place of the right value."""

    kind: int
    record: Any
    data: bytes = b""
    flags: int = 0
    sequence: int | None = None
    log_id: bytes | None = None
    meta: bytes | None = None
    meta_raw: int | None = None
    has_right_columns: bool = True


@dataclasses.dataclass
class Log:
    """A log, taken apart.

    Attributes:
        trailer: Values of the trailer in place of the right ones.
        keeps_tables: Whether the footer's tables stay as they are.
        tail: Bytes behind the last frame.
        n_flips: How many bytes of the whole change behind all checksums.
        journal: The file beside the log, None if there is none.
        is_forged: Whether its values may differ from the original's unnoticed: its records say
            something else, under right checksums, and nothing in them contradicts it.
    """

    version: int
    log_id: bytes
    parts: list[Part]
    is_sealed: bool
    trailer: dict[str, Any] = dataclasses.field(default_factory=dict)
    keeps_tables: bool = False
    tail: bytes = b""
    n_flips: int = 0
    journal: bytes | None = None
    is_forged: bool = False

    def chunks(self) -> list[Part]:
        return [part for part in self.parts if part.kind == frames.CHUNK]

    def footer(self) -> Part | None:
        return next((part for part in self.parts if part.kind == frames.FOOTER), None)


def take_apart(data: bytes) -> Log:
    """Return an intact log as its parts."""
    version = int.from_bytes(data[8:12], "little")
    form = FORMAT1 if version == 1 else FORMAT2
    is_sealed = form.trailer(data[-form.trailer_size :]) is not None
    end = len(data) - (form.trailer_size if is_sealed else 0)
    offset = form.first_frame
    parts = []
    while offset < end:
        frame = form.frame(data[offset : offset + form.frame_size], offset)
        if frame is None or frame.end > end:
            break
        meta = data[frame.meta_offset : frame.data_offset]
        record = decode(zstandard.ZstdDecompressor().decompress(meta))
        parts.append(Part(frame.kind, record, data[frame.data_offset : frame.end]))
        offset = frame.end
    log_id = data[16:32] if version == 2 else b""
    return Log(version, log_id, parts, is_sealed, tail=data[offset:end])


def put_together(log: Log) -> bytes:
    """Return a log with everything right that was not changed on purpose."""
    head = struct.pack("<8sI", frames.MAGIC, log.version)
    data = head + struct.pack("<I", zlib.crc32(head))
    if log.version == 2:
        data += frames.SIGNATURE_ID.pack(log.log_id, zlib.crc32(log.log_id))
    seal = frames.Seal()
    positions: list[list[int]] = []
    footer_offset = len(data)
    for index, part in enumerate(log.parts):
        if part.kind == frames.FOOTER:
            footer_offset = len(data)
            _set_right(log, part, positions, seal.digest())
        raw = _pack(log, part, index)
        positions.append([len(data), len(raw), part.kind])
        if part.kind != frames.FOOTER:
            seal.add(raw[: FORMAT2.frame_size])
        data += raw
    data += log.tail
    if log.is_sealed:
        data += _trailer(log, footer_offset, seal.digest())
    return data


def _set_right(log: Log, footer: Part, positions: list[list[int]], seal: bytes) -> None:
    """Have the footer list the frames as they are."""
    if log.keeps_tables or not isinstance(footer.record, list) or len(footer.record) < 4:
        return
    if log.version == 1:
        listed = footer.record[1]
        if isinstance(listed, list):
            episodes = [entry[3] for entry in listed if isinstance(entry, list) and len(entry) > 3]
            episodes += [[] for _ in range(len(positions) - len(episodes))]
            rows = zip(positions, episodes, strict=False)
            footer.record[1] = [[*position, numbers] for position, numbers in rows]
        return
    footer.record[2] = seal
    footer.record[5] = [[size for _, size, _ in positions], [kind for _, _, kind in positions]]


def _pack(log: Log, part: Part, index: int) -> bytes:
    if part.kind == frames.CHUNK and part.has_right_columns and log.version == 2:
        _set_checksums(part)
    raw = encode(part.record)
    meta = zstandard.ZstdCompressor().compress(raw) if part.meta is None else part.meta
    meta_raw = len(raw) if part.meta_raw is None else part.meta_raw
    sequence = index if part.sequence is None else part.sequence
    if log.version == 1:
        checksum = zlib.crc32(meta + part.data)
        sizes = (len(meta), meta_raw, len(part.data), checksum)
        head = format1._FRAME.pack(
            FORMAT1.frame_magic, part.kind, part.flags, 0, sequence, *sizes, 0
        )[:-4]
    else:
        sizes = (len(meta), meta_raw, len(part.data), zlib.crc32(meta))
        head = frames.FRAME.pack(
            frames.FRAME_MAGIC,
            part.kind,
            part.flags,
            0,
            sequence,
            *sizes,
            zlib.crc32(part.data),
            log.log_id if part.log_id is None else part.log_id,
            0,
        )[:-4]
    return head + struct.pack("<I", zlib.crc32(head)) + meta + part.data


def _set_checksums(part: Part) -> None:
    try:
        for column in part.record[2]:
            if len(column) > CHECKSUM and column[CHECKSUM] is not None:
                end = column[OFFSET] + column[SIZE]
                column[CHECKSUM] = zlib.crc32(part.data[column[OFFSET] : end])
    except (TypeError, IndexError):
        pass


def _trailer(log: Log, footer_offset: int, seal: bytes) -> bytes:
    offset = log.trailer.get("offset", footer_offset)
    if log.version == 1:
        head = struct.pack("<Q", offset)
        return head + struct.pack("<I4s8s", zlib.crc32(head), b"\0" * 4, format1._TRAILER_MAGIC)
    footer = log.footer()
    generation = footer.record[1] if footer is not None and isinstance(footer.record, list) else 0
    if type(generation) is not int or not 0 <= generation < 2**32:
        generation = 0
    return frames.pack_trailer(
        frames.Trailer(
            offset,
            log.trailer.get("log_id", log.log_id),
            log.trailer.get("content", seal),
            log.trailer.get("generation", generation),
        )
    )
