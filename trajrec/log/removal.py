"""Writes a sealed log anew without some of its episodes.

The episodes that stay are compared with the old ones before the new file takes the old one's place.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from trajrec.errors import LogError
from trajrec.log import frames
from trajrec.log.annotations import ImportRecord
from trajrec.log.chunk import LogChunk, Span
from trajrec.log.columns import PackedColumn, Packer
from trajrec.log.events import Blob
from trajrec.log.frame_reader import NewFrame
from trajrec.log.journal import delete_journal
from trajrec.log.reader import LogReader
from trajrec.log.record_encoder import encode_record
from trajrec.log.rewriting import rewriting
from trajrec.log.rows import ColumnRows
from trajrec.log.schema import Column, Event
from trajrec.log.sealing import chunk_returns, new_chunk_frame, new_header_frame, write_sealed
from trajrec.log.validation import DIGESTS, OBSERVATION_FIELDS, STEP_FIELDS
from trajrec.types import Array, IntArray
from trajrec.values import codec
from trajrec.values.extensions import REF

# The first bytes of a reference to a value that is stored once: an extension of 16 bytes.
_REFERENCE = bytes((0xD8, REF))
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Removal:
    """The result of `remove_episodes`.

    Attributes:
        digests: The digest of each removed episode's contents, by number: 32 hex digits.
        is_empty: Whether nothing is left, so that the log was deleted.
    """

    digests: dict[int, str]
    is_empty: bool


def digests_of(path: Path, numbers: Collection[int]) -> dict[int, str]:
    """Return the digests of some episodes of a log, by number, as a removal states them.

    Raises:
        LogError: The log is not sealed, is damaged, or has unknown records.
    """
    with LogReader(path) as reader:
        digests = episode_digests(LogChunks(reader, path))
    return {number: digests[number] for number in sorted(numbers) if number in digests}


def check_rewritable(path: Path) -> None:
    """Read a log whole, and refuse one that a removal would refuse.

    Raises:
        LogError: The log is not sealed, is damaged, or has unknown records.
    """
    with LogReader(path) as reader:
        LogChunks(reader, path)


def id_if_emptied(path: Path, numbers: Collection[int], targets: Collection[str]) -> str | None:
    """Return the id of a log of which `remove_episodes` would leave nothing, else None.

    Raises:
        LogError: The log is not sealed, is damaged, or has unknown records.
    """
    with LogReader(path) as reader:
        if reader.footer is not None:
            # Without it, what the footer does not state is read.
            left = {episode.number for episode in reader.episodes()}.difference(numbers)
            if left:
                return None
        chunks = LogChunks(reader, path)
        kept = _Kept(chunks, frozenset(numbers), frozenset(targets))
        first_two = list(itertools.islice(_new_frames(reader, chunks, kept), 2))
        return reader.header.log_id if len(first_two) == 1 else None


def remove_episodes(path: Path, numbers: Collection[int], targets: Collection[str]) -> Removal:
    """Write a log anew, without some episodes and without annotations of some.

    A call that was killed, and one that runs at the same time, lose nothing: the log is replaced by
    one rename. A second call changes nothing.

    Args:
        path: The log.
        numbers: The numbers of the episodes.
        targets: The ids of episodes, of any log, whose labels, credit, checks and replays go.

    Raises:
        LogError: The log is not sealed, is damaged, or cannot be written.
    """
    with rewriting(path) as rewrite, LogReader(rewrite.path) as reader:
        chunks = LogChunks(reader, path)
        # A writer that was killed after it had sealed the log leaves one, with the same episodes.
        delete_journal(rewrite.path)
        kept = _Kept(chunks, frozenset(numbers), frozenset(targets))
        before = episode_digests(chunks)
        removed = {number: before[number] for number in sorted(numbers) if number in before}
        if not removed and not kept.has_less_events:
            return Removal({}, is_empty=False)
        new_frames = list(_new_frames(reader, chunks, kept))
        if len(new_frames) == 1:
            # A log of nothing but its header.
            rewrite.path.unlink()
            return Removal(removed, is_empty=True)
        write_sealed(rewrite.file, reader, new_frames)
        with LogReader(rewrite.temporary) as written:
            after = episode_digests(LogChunks(written, path))
        expected = {number: digest for number, digest in before.items() if number not in removed}
        if after != expected:
            changed = sorted(set(expected.items()) ^ set(after.items()))
            raise LogError(
                f"the removal would have changed episode {changed[0][0]}; nothing was removed",
                path=path,
            )
        rewrite.commit()
    return Removal(removed, is_empty=False)


class LogChunks:
    """The chunks of a log that can be rewritten, read anew by each iteration: not all fit in memory.

    Args:
        reader: The log.
        path: The log, for errors.

    Raises:
        LogError: The log is not sealed, is damaged, or has unknown records.
    """

    def __init__(self, reader: LogReader, path: Path) -> None:
        self._reader = reader
        entries = enumerate(reader.frames) if reader.is_sealed else ()
        self._numbers = [number for number, entry in entries if entry.kind == frames.CHUNK]
        layouts: set[str] = set()
        for number in self._numbers:
            if reader.check(number):
                layouts |= reader.chunk(number).record.layouts.keys()
        if not reader.is_sealed or reader.damage:
            raise LogError(
                "only an undamaged sealed log is rewritten; run `trajrec recover` first", path=path
            )
        if reader.unknown_tags or layouts - {*OBSERVATION_FIELDS, *STEP_FIELDS}:
            raise LogError(
                "it has records that this trajrec does not know; upgrade trajrec to remove episodes",
                path=path,
            )

    def __iter__(self) -> Iterator[LogChunk]:
        return map(self._reader.chunk, self._numbers)


class _Kept:
    """The parts of a log that stay.

    Args:
        chunks: The chunks.
        numbers: The episodes that go.
        targets: The episodes whose annotations go.

    Attributes:
        has_less_events: Whether an annotation goes.
    """

    def __init__(self, chunks: LogChunks, numbers: frozenset[int], targets: frozenset[str]) -> None:
        self.numbers = numbers
        self._targets = targets
        self.has_less_events = False
        blobs: dict[bytes, Blob] = {}
        # The episode that first refers to each value that is stored once.
        self._owners: dict[bytes, int] = {}
        pending = []
        for chunk in chunks:
            for event in chunk.record.events:
                if isinstance(event, Blob):
                    blobs[event.digest] = event
                elif self._stays(event):
                    pending.append((event.episode, encode_record(event)))
            pending += [
                (number, data)
                for number, _, data in chunk.record.irregular
                if number not in numbers
            ]
        while pending:
            episode, data = pending.pop()
            for digest in _references(data):
                if digest in blobs and digest not in self._owners:
                    self._owners[digest] = episode
                    pending.append((episode, blobs[digest].data))

    def event(self, event: Event) -> Event | None:
        """Return an event as it stays; None if it goes."""
        if isinstance(event, Blob):
            if event.episode not in self.numbers:
                return event
            owner = self._owners.get(event.digest)
            # Another episode refers to the value: it is that one's own, too.
            return None if owner is None else msgspec.structs.replace(event, episode=owner)
        if isinstance(event, ImportRecord) and self._targets.intersection(event.targets):
            targets = [target for target in event.targets if target not in self._targets]
            self.has_less_events = True
            return msgspec.structs.replace(event, targets=targets) if targets else None
        return event if self._stays(event) else None

    def _stays(self, event: Event) -> bool:
        if event.episode >= 0:
            return event.episode not in self.numbers
        goes = getattr(event, "target", None) in self._targets
        self.has_less_events = self.has_less_events or goes
        return not goes

    def spans(self, chunk: LogChunk) -> list[Span]:
        """Return the rows that stay."""
        return [span for span in chunk.spans if span.segment.episode not in self.numbers]


def _references(data: bytes) -> Iterator[bytes]:
    """Yield the digests that some bytes may refer to: bytes that only look so do no harm."""
    start = data.find(_REFERENCE)
    while start >= 0:
        yield data[start + 2 : start + 2 + _DIGEST_BYTES]
        start = data.find(_REFERENCE, start + 1)


def _new_frames(reader: LogReader, chunks: LogChunks, kept: _Kept) -> Iterator[NewFrame]:
    packer = Packer()
    yield new_header_frame(reader)
    for chunk in chunks:
        record = chunk.record
        events = [event for event in map(kept.event, record.events) if event is not None]
        spans = kept.spans(chunk)
        irregular = [item for item in record.irregular if item[0] not in kept.numbers]
        if not (events or spans):
            continue
        columns, data, layouts = _take_rows(chunk, spans, packer)
        new = msgspec.structs.replace(
            record,
            segments=[span.segment for span in spans],
            columns=columns,
            layouts=layouts,
            events=events,
            irregular=irregular,
            tables=[],
            order=b"",
        )
        yield new_chunk_frame(new, data, _returns(chunk, kept), packer, by_kind=False)


def _returns(chunk: LogChunk, kept: _Kept) -> dict[int, float]:
    returns = chunk_returns(chunk)
    return {number: value for number, value in returns.items() if number not in kept.numbers}


def _take_rows(
    chunk: LogChunk, spans: list[Span], packer: Packer
) -> tuple[list[Column], list[bytes], dict[str, Any]]:
    """Return the columns with the rows of some spans, their bytes, and the layouts."""
    steps = _ranges((span.start, span.segment.n_steps) for span in spans)
    obs = _ranges((span.obs_start, span.segment.n_steps + span.segment.has_reset) for span in spans)
    columns: list[Column] = []
    data: list[bytes] = []
    numbers: dict[int, int] = {}
    for index, column in enumerate(chunk.columns()):
        is_of_obs = column.name.partition("/")[0] in (*OBSERVATION_FIELDS, DIGESTS)
        packed = _take_column(column.name, chunk.rows(index), obs if is_of_obs else steps, packer)
        if packed is not None:
            numbers[index] = len(columns)
            columns.append(packed[0])
            data.append(packed[1])
    layouts = {}
    for field, layout in chunk.record.layouts.items():
        moved = _move_layout(layout, numbers)
        if moved is not None:
            layouts[field] = moved
    return columns, data, layouts


def _ranges(ranges: Iterator[tuple[int, int]]) -> IntArray:
    parts = [np.arange(start, start + n) for start, n in ranges]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _take_column(
    name: str, rows: ColumnRows, taken: IntArray, packer: Packer
) -> PackedColumn | None:
    """Return some rows of a column; None if it has none of them."""
    rows_data = None
    places = taken
    if rows.row_numbers is not None:
        is_taken = np.isin(rows.row_numbers, taken)
        places = np.flatnonzero(is_taken)
        new_numbers = np.searchsorted(taken, rows.row_numbers[is_taken]).astype(np.uint32)
        rows_data = codec.encode(np.diff(new_numbers, prepend=np.uint32(0)))
    if not len(places):
        return None
    column, data = _pack(name, rows, places, packer)
    return msgspec.structs.replace(column, rows_data=rows_data), data


def _pack(name: str, rows: ColumnRows, places: IntArray, packer: Packer) -> PackedColumn:
    array = rows.array() if rows.holds_arrays else None
    if array is not None:
        part: Array = np.ascontiguousarray(array[places])
        if name == DIGESTS:
            return packer.pack_unfiltered(name, part)
        pieces = [row.tobytes() for row in part]
        return packer.pack_arrays(name, pieces, dtype=part.dtype, shape=part.shape[1:])
    if rows.kind in ("scalar", "const"):
        values = rows.values()
        return packer.pack_scalars(name, [values[place] for place in places.tolist()])
    encoded = rows.encoded()
    return packer.pack_values(name, [encoded[place] for place in places.tolist()])


# A layout is a nested list of unlike items: `trajrec.log.schema.Chunk` describes it.
def _move_layout(layout: Any, numbers: Mapping[int, int]) -> Any:
    """Return a layout with the new numbers of its columns; None if it has none of them."""
    if layout[0] == "leaf":
        return ["leaf", numbers[layout[1]]] if layout[1] in numbers else None
    moved = [_move_layout(item, numbers) for item in layout[-1]]
    if moved and any(item is None for item in moved):
        return None
    return [*layout[:-1], moved]


def episode_digests(chunks: LogChunks) -> dict[int, str]:
    """Return a digest of the rows and events of each episode, by number.

    Values that are stored once are left out: each event names their digests.
    """
    hashers: dict[int, hashlib.blake2b] = {}

    def hasher_of(number: int) -> hashlib.blake2b:
        if number not in hashers:
            hashers[number] = hashlib.blake2b(digest_size=16)
        return hashers[number]

    for chunk in chunks:
        for event in chunk.record.events:
            if event.episode >= 0 and not isinstance(event, Blob):
                hasher_of(event.episode).update(encode_record(event))
        for number, step, data in chunk.record.irregular:
            hasher_of(number).update(b"%d:" % step + data)
        columns = [(column, chunk.rows(k)) for k, column in enumerate(chunk.columns())]
        for span in chunk.spans:
            hasher = hasher_of(span.segment.episode)
            hasher.update(encode_record(span.segment))
            for column, rows in columns:
                _hash_rows(hasher, column.name, rows, span)
    return {number: hasher.hexdigest() for number, hasher in hashers.items()}


def _hash_rows(hasher: hashlib.blake2b, name: str, rows: ColumnRows, span: Span) -> None:
    """Add the rows of a span in a column."""
    start = span.start
    n = span.segment.n_steps
    if name.partition("/")[0] in (*OBSERVATION_FIELDS, DIGESTS):
        start = span.obs_start
        n += span.segment.has_reset
    first = start
    stop = start + n
    places = b""
    if rows.row_numbers is not None:
        first, stop = rows.row_numbers.searchsorted((start, start + n)).tolist()
        places = (rows.row_numbers[first:stop] - start).tobytes()
    if stop > first:
        hasher.update(name.encode() + places)
        for value in rows.encoded(first, stop):
            hasher.update(b"%d:" % len(value) + value)
