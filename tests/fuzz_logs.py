"""Changes logs where checksums cannot notice it: in their records, frames, footers and trailers."""

from __future__ import annotations

import dataclasses
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from fuzz_journals import change_half
from fuzz_parts import COLUMN, OFFSET, SIZE, Log, Part, encode, put_together, take_apart
from fuzz_values import change_bytes, change_list, change_value, sites

from trajrec.log import frames

# Mutations. Each changes a log and returns the name of its change.


CHECKED = frozenset(
    (
        "Footer",
        "layout",
        *("Segment.episode", "Segment.first_step", "Segment.n_steps", "Segment.has_reset"),
        *("Column.n", "Column.offset", "Column.size", "Column.raw_bytes", "Column.checksum"),
    )
)
"""Fields that contradict others if they alone are changed, so that no wrong value is unnoticed."""


def change_field(log: Log, rng: random.Random, other: Log) -> str:
    """Change one field of one record."""
    part = rng.choice(log.parts)
    all_sites = sites(part)
    names = sorted({site.name for site in all_sites})
    # By name first: a record has many more events' fields than others.
    name = rng.choice(names)
    site = rng.choice([site for site in all_sites if site.name == name])
    others = [site.value for site in all_sites if site.name == name]
    # No column names the keys around a value without items.
    has_empty = any(site.value in (["dict", [], []], ["tuple", []]) for site in all_sites)
    site.holder[site.key] = change_value(site.value, rng, others)
    log.is_forged |= name not in CHECKED or (name == "layout" and has_empty)
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
    log.is_forged |= name in ("events", "irregular")
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
    log.is_forged = True
    target.insert(rng.randrange(len(target) + 1), event)
    return "event copied" if is_copy else "event moved"


def change_frames(log: Log, rng: random.Random, other: Log) -> str:
    """Drop, repeat, swap or renumber frames."""
    if not log.parts:
        # Earlier changes have dropped them all.
        return "no frame left"
    k = rng.randrange(len(log.parts))
    part = log.parts[k]
    match rng.randrange(6):
        case 0:
            del log.parts[k]
            # An agent's step may be empty, so nothing but the numbers of the frames, which are
            # given anew, tells that an agent's events are missing.
            log.is_forged |= _has_agent_events(part)
            return "frame dropped"
        case 1:
            log.parts.insert(rng.randrange(len(log.parts) + 1), dataclasses.replace(part))
            return "frame repeated"
        case 2:
            j = rng.randrange(len(log.parts))
            log.parts[k], log.parts[j] = log.parts[j], log.parts[k]
            # For the same reason, nothing tells that an agent's events are in another order.
            log.is_forged |= any(map(_has_agent_events, (log.parts[k], log.parts[j])))
            return "frames swapped"
        case 3:
            part.sequence = rng.choice([0, 1, 5, 2**32 - 1])
        case 4:
            part.kind = rng.choice([0, 1, 2, 3, 4, 5, 200])
        case _:
            part.flags = rng.choice([1, 128])
    return "frame header"


def _has_agent_events(part: Part) -> bool:
    return part.kind == frames.CHUNK and not part.record[1] and bool(part.record[4])


def splice(log: Log, rng: random.Random, other: Log) -> str:
    """Put a frame of another log into this one, under this log's id or its own."""
    part = dataclasses.replace(rng.choice(other.parts))
    if other.version == 2 and log.version == 2 and rng.random() < 0.3:
        part.log_id = other.log_id
    else:
        log.is_forged = True
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
    log.is_forged = True
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
        log.is_forged = True
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


def flip_bytes(log: Log, rng: random.Random, other: Log) -> str:
    """Change bytes of the file, or cut it, without a care for checksums."""
    log.n_flips = rng.choice([1, 1, 3, 20])
    return "flip"


def change_journal(log: Log, rng: random.Random, other: Log) -> str:
    """Change the journal: an item with its checksum, its bytes, or the log that it belongs to."""
    if log.journal is None:
        return "nothing"
    match rng.randrange(4):
        case 0:
            log.journal = other.journal or log.journal[: rng.randrange(len(log.journal))]
            return "journal of another log"
        case 1:
            data = bytearray(log.journal)
            used = len(log.journal.rstrip(b"\0"))
            for _ in range(rng.choice([1, 1, 5])):
                data[rng.randrange(used)] = rng.randrange(256)
            log.journal = bytes(data)
            # As if the writer had been killed there: the change of a call may be lost with the
            # rest, and the state after it is then that before it.
            log.is_forged = True
            return "journal flipped"
        case 2:
            log.journal = change_half(log.journal, rng, keeps_number=False)
        case _:
            log.journal = change_half(log.journal, rng, keeps_number=True)
    log.is_forged = True
    return "journal"


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
    flip_bytes: 4,
    change_journal: 4,
}


@dataclasses.dataclass
class Mutant:
    """A changed log.

    Attributes:
        seed: Makes it again.
        original: The log that was changed.
        names: The changes.
        data: The bytes.
        journal: The bytes of the file beside it, None if there is none.
        is_forged: Whether its values may differ from the original's unnoticed.
    """

    seed: int
    original: Path
    names: list[str]
    data: bytes
    journal: bytes | None = None
    is_forged: bool = False


def journal_of(path: Path) -> bytes | None:
    journal = path.with_name(path.name + ".journal")
    return journal.read_bytes() if journal.exists() else None


def open_log(path: Path) -> Log:
    """Return a log and its journal, taken apart."""
    log = take_apart(path.read_bytes())
    log.journal = journal_of(path)
    return log


def make_mutant(seed: int, paths: list[Path]) -> Mutant:
    """Change one of some logs."""
    rng = random.Random(seed)
    original = rng.choice(paths)
    log = open_log(original)
    names = []
    for _ in range(1 if rng.random() < 0.8 else rng.randrange(2, 4)):
        other = open_log(rng.choice(paths))
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
        return Mutant(seed, original, ["nothing"], original.read_bytes(), journal_of(original))
    data = flipped(data, log.n_flips, rng)
    return Mutant(seed, original, names, data, log.journal, log.is_forged)


def flipped(data: bytes, n: int, rng: random.Random) -> bytes:
    """Return bytes with n of them changed, and sometimes cut."""
    changed = bytearray(data)
    for _ in range(n):
        changed[rng.randrange(len(changed))] ^= rng.randrange(1, 256)
    return bytes(changed[: rng.randrange(len(data))] if n and rng.random() < 0.3 else changed)
