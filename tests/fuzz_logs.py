"""Changes logs where checksums cannot notice it: in their records, frames, footers and trailers.

A log is taken apart into frames with decoded records, one of them is changed, and the log is put
together again with every checksum, size, position and seal made right, unless the change is to one
of these. So only the reader's own checks are left.
"""

from __future__ import annotations

import dataclasses
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
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
    """A log, taken apart."""

    version: int
    log_id: bytes
    parts: list[Part]
    is_sealed: bool
    trailer: dict[str, Any] = dataclasses.field(default_factory=dict)
    keeps_tables: bool = False
    tail: bytes = b""

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


# Sites: the places in a record that may be changed, each with the name of its field.


@dataclasses.dataclass
class Site:
    name: str
    holder: Any
    key: Any

    @property
    def value(self) -> Any:
        return self.holder[self.key]


def sites(part: Part) -> list[Site]:
    """Return the places in a frame's record."""
    if part.kind == frames.CHUNK:
        return list(_chunk_sites(part.record))
    name = "Footer" if part.kind == frames.FOOTER else "Header"
    return list(_tree_sites(name, [part.record], 0))


def _chunk_sites(record: list[Any]) -> Iterator[Site]:
    for number, field in enumerate(schema.Chunk.__struct_fields__[: len(record)]):
        yield Site(f"Chunk.{field}", record, number)
    for segment in record[1]:
        yield from _struct_sites(schema.Segment, segment)
    for column in record[2]:
        yield from _struct_sites(schema.Column, column)
    yield from _tree_sites("layout", record, 3)
    for event in record[4]:
        cls = EVENTS[event[0]]
        for number, field in enumerate(cls.__struct_fields__[: len(event) - 1], 1):
            yield Site(f"{cls.__name__}.{field}", event, number)
            if isinstance(event[number], list):
                for k in range(len(event[number])):
                    yield Site(f"{cls.__name__}.{field}", event[number], k)
    if len(record) > 5:
        yield from _tree_sites("irregular", record, 5)
    if len(record) > 7:
        yield from _tree_sites("tables", record, 7)
        yield Site("order", record, 8)


def _struct_sites(cls: Any, values: list[Any]) -> Iterator[Site]:
    for number, field in enumerate(cls.__struct_fields__[: len(values)]):
        yield Site(f"{cls.__name__}.{field}", values, number)


def _tree_sites(name: str, holder: Any, key: Any) -> Iterator[Site]:
    yield Site(name, holder, key)
    value = holder[key]
    if isinstance(value, list):
        for number in range(len(value)):
            yield from _tree_sites(name, value, number)
    elif isinstance(value, dict):
        for inner in value:
            yield from _tree_sites(name, value, inner)


NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    7,
    100,
    2**16,
    2**20 + 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -(2**31),
    -(2**63),
]
TEXTS = ["", "a", "leaf", "dict", "tuple", "const", "array", "scalar", "value", "int", "float"]
TEXTS += ["<f4", "<f8", "|u1", "|O", "S0", "U3", "<i8", "(1000000,)f8", "M8[ns]", "é", "\0", "../x"]
TEXTS += [
    "start",
    "end",
    "obs",
    "obs/x",
    "state_digest",
    "digest",
    "every",
    "\ud7ff" * 3,
    "x" * 5000,
]


def deep(rng: random.Random) -> Any:
    """Return a value that is nested deeply."""
    value: Any = None
    for _ in range(rng.choice([20, 99, 101, 150, 500, 900])):
        value = [value] if rng.random() < 0.7 else {"a": value}
    return value


def deep_bytes(rng: random.Random) -> bytes:
    """Return an encoded value that is nested deeply, or refers to nothing."""
    n = rng.choice([50, 101, 200, 800, 3000])
    return rng.choice(
        [
            b"\x91" * n + b"\xc0",
            b"\x81\xa1a" * n + b"\xc0",
            b"\xd8\x0e" + rng.randbytes(16),
            b"\xdd\xff\xff\xff\xff",
            b"\xdc\xff\xff" + b"\x90" * 0xFFFF,
            b"\xc7\x09\x02" + encode(["<f8", [2**40], b""]),
            b"\xc7\x0c\x02" + encode(["S0", [2**31], b""]),
            b"\xd4\x07\x90",
            encode({"kwargs": 3}),
            encode([["replace", 5]]),
            encode([["add", ["a"], 1], ["add", ["a"], 2]]),
            b"",
        ]
    )


def change_value(value: Any, rng: random.Random, others: list[Any]) -> Any:
    """Return another value for a place."""
    choice = rng.random()
    if choice < 0.1:
        return rng.choice([None, [], {}, b"", "", 0, True, 1.5, float("nan"), deep(rng)])
    same = [other for other in others if type(other) is type(value) and other != value]
    if choice < 0.35 and same:
        return rng.choice(same)
    if type(value) is bool:
        return not value
    if type(value) is int:
        return rng.choice([*NUMBERS, value + 1, value - 1, value * 2, -value])
    if type(value) is float:
        return rng.choice([0.0, float("nan"), float("inf"), -value, 1e300])
    if type(value) is str:
        return rng.choice([*TEXTS, value[:-1], value + "x", value.upper()])
    if type(value) is bytes:
        return change_bytes(value, rng)
    if type(value) is list:
        return change_list(value, rng)
    if type(value) is dict:
        changed = dict(value)
        if changed and rng.random() < 0.5:
            changed.pop(rng.choice(list(changed)))
        changed[rng.choice(TEXTS)] = rng.choice([*changed.values(), 0])
        return changed
    return rng.choice([0, "", b"x", [], 2**40, deep_bytes(rng)])


def change_bytes(value: bytes, rng: random.Random) -> bytes:
    if not value or rng.random() < 0.3:
        return deep_bytes(rng)
    changed = bytearray(value)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.3 else changed)


def change_list(value: list[Any], rng: random.Random) -> list[Any]:
    changed = list(value)
    if not changed:
        return [rng.choice([0, None, "leaf", [], deep(rng)])]
    k = rng.randrange(len(changed))
    match rng.randrange(5):
        case 0:
            del changed[k]
        case 1:
            changed.insert(rng.randrange(len(changed) + 1), changed[k])
        case 2:
            j = rng.randrange(len(changed))
            changed[k], changed[j] = changed[j], changed[k]
        case 3:
            changed = changed[:k]
        case _:
            changed *= rng.choice([2, 3, 1000])
    return changed


# Mutations. Each changes a log and returns the name of its change.


def change_field(log: Log, rng: random.Random, other: Log) -> str:
    """Change one field of one record."""
    part = rng.choice(log.parts)
    all_sites = sites(part)
    names = sorted({site.name for site in all_sites})
    # By name first: a record has many more events' fields than others.
    name = rng.choice(names)
    site = rng.choice([site for site in all_sites if site.name == name])
    others = [site.value for site in all_sites if site.name == name]
    site.holder[site.key] = change_value(site.value, rng, others)
    if part.kind == frames.FOOTER and rng.random() < 0.7:
        log.keeps_tables = True
    return name


def change_structure(log: Log, rng: random.Random, other: Log) -> str:
    """Change the segments, columns or events of a chunk as lists."""
    part = rng.choice(log.chunks())
    number = rng.choice([1, 2, 4, 5])
    if len(part.record) <= number:
        return "nothing"
    before = part.record[number]
    part.record[number] = change_list(before, rng)
    name = ("", "segments", "columns", "", "events", "irregular")[number]
    return f"{name} lost" if len(part.record[number]) < len(before) else name


def move_event(log: Log, rng: random.Random, other: Log) -> str:
    """Move an event, or a copy of it, to another chunk."""
    chunks = log.chunks()
    source = rng.choice(chunks).record[4]
    target = rng.choice(chunks).record[4]
    if not source:
        return "nothing"
    k = rng.randrange(len(source))
    is_copy = rng.random() < 0.5
    event = source[k] if is_copy else source.pop(k)
    target.insert(rng.randrange(len(target) + 1), event)
    return "event copied" if is_copy else "event moved"


def change_frames(log: Log, rng: random.Random, other: Log) -> str:
    """Drop, repeat, swap or renumber frames."""
    k = rng.randrange(len(log.parts))
    part = log.parts[k]
    match rng.randrange(6):
        case 0:
            del log.parts[k]
            return "frame dropped"
        case 1:
            log.parts.insert(rng.randrange(len(log.parts) + 1), dataclasses.replace(part))
            return "frame repeated"
        case 2:
            j = rng.randrange(len(log.parts))
            log.parts[k], log.parts[j] = log.parts[j], log.parts[k]
            return "frames swapped"
        case 3:
            part.sequence = rng.choice([0, 1, 5, 2**32 - 1])
        case 4:
            part.kind = rng.choice([0, 1, 2, 3, 4, 5, 200])
        case _:
            part.flags = rng.choice([1, 128])
    return "frame header"


def splice(log: Log, rng: random.Random, other: Log) -> str:
    """Put a frame of another log into this one, under this log's id or its own."""
    part = dataclasses.replace(rng.choice(other.parts))
    if other.version == 2 and rng.random() < 0.3:
        part.log_id = other.log_id
    log.parts.insert(rng.randrange(len(log.parts) + 1), part)
    if rng.random() < 0.3:
        log.parts = [p for p in log.parts if p.kind != part.kind or p is part]
    return "splice"


def join(log: Log, rng: random.Random, other: Log) -> str:
    """Put another log behind this one, or the log behind itself."""
    second = put_together(other if rng.random() < 0.5 else dataclasses.replace(log))
    log.tail += second[: rng.choice([20, 100, len(second)])]
    return "joined"


def change_data(log: Log, rng: random.Random, other: Log) -> str:
    """Change the bytes of a column, compressed or decompressed, with its checksum."""
    part = rng.choice(log.chunks())
    columns = [c for c in part.record[2] if c[1] != "const" and c[SIZE : SIZE + 1] not in ([], [0])]
    if not columns:
        return "nothing"
    column = rng.choice(columns)
    start, size = column[OFFSET], column[SIZE]
    stored = part.data[start : start + size]
    if rng.random() < 0.3:
        stored = change_bytes(stored, rng)
    else:
        raw = zstandard.ZstdDecompressor().decompress(stored)
        raw = bytes(rng.choice([5 << 20, 400 << 20])) if rng.random() < 0.05 else raw
        raw = raw if len(raw) > 1 << 20 else change_bytes(raw, rng)
        stored = zstandard.ZstdCompressor().compress(raw)
        if rng.random() < 0.8:
            column[SIZE + 1] = len(raw)
    _replace_data(part, column, stored)
    return "data"


def _replace_data(part: Part, column: list[Any], stored: bytes) -> None:
    start, size = column[OFFSET], column[SIZE]
    part.data = part.data[:start] + stored + part.data[start + size :]
    for each in part.record[2]:
        if len(each) > OFFSET and each[OFFSET] > start:
            each[OFFSET] += len(stored) - size
    column[SIZE] = len(stored)


def swap_columns(log: Log, rng: random.Random, other: Log) -> str:
    """Swap what two columns say of themselves, with or without their bytes."""
    part = rng.choice(log.chunks())
    columns = part.record[2]
    if len(columns) < 2:
        return "nothing"
    a, b = rng.sample(range(len(columns)), 2)
    if rng.random() < 0.5:
        columns[a], columns[b] = columns[b], columns[a]
    else:
        fields = rng.sample(range(len(COLUMN)), rng.randrange(1, 5))
        for k in fields:
            if k < len(columns[a]) and k < len(columns[b]):
                columns[a][k], columns[b][k] = columns[b][k], columns[a][k]
        return "+".join(f"Column.{COLUMN[k]}" for k in fields)
    return "columns swapped"


def bomb(log: Log, rng: random.Random, other: Log) -> str:
    """State other sizes than the true ones, or compress much into little."""
    part = rng.choice(log.parts)
    match rng.randrange(4):
        case 0:
            part.meta_raw = rng.choice([0, 1, 2**28, 2**30, 2**32 - 1])
        case 1:
            raw = rng.choice([b"\x90", b"\xc0", b"\x00"]) * rng.choice([5 << 20, 100 << 20])
            part.meta = zstandard.ZstdCompressor().compress(raw)
            part.meta_raw = len(raw)
        case 2:
            n = rng.choice([2**16, 2**22])
            raw = encode(part.record[:4] if isinstance(part.record, list) else [])
            raw += b"\xdd" + n.to_bytes(4, "big") + b"\x90" * n
            part.meta = zstandard.ZstdCompressor().compress(raw)
            part.meta_raw = len(raw)
        case _:
            part.meta = zstandard.ZstdCompressor(write_content_size=False).compress(
                encode(part.record)
            )
    return "bomb"


def change_trailer(log: Log, rng: random.Random, other: Log) -> str:
    """Change the trailer, or leave it out."""
    if not log.is_sealed:
        log.is_sealed = True
        return "trailer"
    name = rng.choice(["offset", "log_id", "content", "generation", "gone"])
    if name == "gone":
        log.is_sealed = False
    log.trailer[name] = {
        "offset": rng.choice([0, 16, 36, 100, 2**40, 2**63]),
        "log_id": other.log_id.ljust(16, b"\0"),
        "content": bytes(16),
        "generation": rng.choice([1, 2**32 - 1]),
        "gone": None,
    }[name]
    return "trailer"


Mutation = Callable[[Log, random.Random, Log], str]

MUTATIONS: dict[Mutation, int] = {
    change_field: 60,
    change_structure: 10,
    move_event: 6,
    change_frames: 8,
    splice: 6,
    join: 2,
    change_data: 8,
    swap_columns: 6,
    bomb: 3,
    change_trailer: 3,
}


@dataclasses.dataclass
class Mutant:
    """A changed log.

    Attributes:
        seed: Makes it again.
        original: The log that was changed.
        names: The changes.
        data: The bytes.
    """

    seed: int
    original: Path
    names: list[str]
    data: bytes


def make_mutant(seed: int, paths: list[Path]) -> Mutant:
    """Change one of some logs."""
    rng = random.Random(seed)
    original = rng.choice(paths)
    log = take_apart(original.read_bytes())
    names = []
    for _ in range(1 if rng.random() < 0.8 else rng.randrange(2, 4)):
        other = take_apart(rng.choice(paths).read_bytes())
        (mutation,) = rng.choices(list(MUTATIONS), list(MUTATIONS.values()))
        try:
            names.append(mutation(log, rng, other))
        except (LookupError, TypeError, AttributeError, zstandard.ZstdError):
            # An earlier change took away what this one needs.
            names.append("nothing")
    try:
        data = put_together(log)
    except (
        TypeError,
        LookupError,
        OverflowError,
        struct.error,
        msgspec.MsgspecError,
        RecursionError,
    ):
        return Mutant(seed, original, ["nothing"], original.read_bytes())
    return Mutant(seed, original, names, data)
