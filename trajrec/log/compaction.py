"""Merges the small chunks of a sealed log into large ones, which compress better.

No record changes: the merged chunks are compared with the old ones before the new file takes the
old one's place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from trajrec.errors import LogError
from trajrec.log import frames
from trajrec.log.chunk import LogChunk
from trajrec.log.columns import PackedColumn, Packer
from trajrec.log.directory import add_returns
from trajrec.log.frame_reader import NewFrame
from trajrec.log.reader import LogReader
from trajrec.log.record_encoder import encode_record
from trajrec.log.rewriting import rewriting
from trajrec.log.rows import ColumnRows, row_bytes
from trajrec.log.schema import Chunk, Column, Segment
from trajrec.log.sealing import (
    chunk_returns,
    new_chunk_frame,
    new_header_frame,
    write_sealed,
)
from trajrec.types import Array, JsonObject
from trajrec.values import codec

# Large enough to compress well, small enough to read one step without much around it.
MERGED_BYTES = 4 << 20
MERGED_ROWS = 1 << 16

# A log is replaced if it shrinks by more than this part of its size.
_LEAST_GAIN = 256


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """The result of `compact`: sizes in bytes, and numbers of chunks."""

    path: Path
    size_before: int
    size_after: int
    chunks_before: int
    chunks_after: int

    def __str__(self) -> str:
        if self.size_after == self.size_before:
            return f"{self.path}: {self.size_before} bytes, nothing to gain"
        return (
            f"{self.path}: {self.size_before} -> {self.size_after} bytes, "
            f"{self.chunks_before} -> {self.chunks_after} chunks"
        )

    def as_dict(self) -> JsonObject:
        """Return the result as plain data."""
        return {
            "size_before": self.size_before,
            "size_after": self.size_after,
            "chunks_before": self.chunks_before,
            "chunks_after": self.chunks_after,
        }


def compact(path: Path) -> Compaction:
    """Merge the small chunks of a sealed log.

    If the merged log is not smaller, the old one stays. A second call does nothing. A call that was
    killed, and one that runs at the same time, lose nothing.

    Raises:
        LogError: The log is not sealed, is damaged (recover it first), or cannot be written.
    """
    with rewriting(path) as rewrite, LogReader(rewrite.path) as reader:
        before = _read_chunks(reader) if reader.is_sealed else []
        # Asked after all of it was read: a chunk with damaged columns comes without its rows.
        if reader.is_being_written():
            raise LogError(
                "a living process is writing this log; compact it when its recorder is closed",
                path=path,
            )
        if not reader.is_sealed or reader.damage:
            raise LogError(
                "only an undamaged sealed log is compacted; run `trajrec recover` first", path=path
            )
        if reader.unknown_tags:
            raise LogError(
                f"it has events of kinds that this trajrec does not know "
                f"({', '.join(sorted(reader.unknown_tags))}); upgrade trajrec to compact it",
                path=path,
            )
        write_sealed(rewrite.file, reader, _merged_frames(reader, before))
        with LogReader(rewrite.temporary) as written:
            after = _read_chunks(written)
            _verify(before, after, path)
            size_after = written.size
        size_before = reader.size
        # A few bytes are not worth a new generation, which others take for new contents.
        if size_before - size_after > size_before // _LEAST_GAIN:
            rewrite.commit()
        else:
            after = before
            size_after = size_before
    return Compaction(
        path=path,
        size_before=size_before,
        size_after=size_after,
        chunks_before=len(before),
        chunks_after=len(after),
    )


def _merged_frames(reader: LogReader, chunks: list[LogChunk]) -> Iterator[NewFrame]:
    """Yield the frames of the compacted log."""
    yield new_header_frame(reader)
    for index, entry in enumerate(reader.frames):
        if entry.kind not in (frames.HEADER, frames.HEADER_COPY, frames.CHUNK):
            yield reader.raw_frame(index)
    # The highest of zstd's usual levels: compaction need not keep up with a loop.
    packer = Packer(level=19, search=True)
    for group in _groups(chunks):
        merged, data = _merge(group, packer)
        returns = add_returns(chunk_returns(chunk) for chunk in group)
        yield new_chunk_frame(merged, data, returns, packer, by_kind=True)


def _read_chunks(reader: LogReader) -> list[LogChunk]:
    return [
        reader.chunk(index)
        for index, frame in enumerate(reader.frames)
        if frame.kind == frames.CHUNK
    ]


def _groups(chunks: list[LogChunk]) -> Iterator[list[LogChunk]]:
    """Yield groups of consecutive chunks of equal form, each at most as large as a merged one."""
    group: list[LogChunk] = []
    n_bytes = 0
    n_rows = 0
    for chunk in chunks:
        # Rows that are stored as changes take less memory before or after they are decoded.
        size = chunk.record_size + sum(
            max(column.raw_bytes, column.n * row_bytes(column)) for column in chunk.columns()
        )
        fits = n_bytes + size <= MERGED_BYTES and n_rows + chunk.n_obs <= MERGED_ROWS
        if group and not (fits and _form(group[0]) == _form(chunk)):
            yield group
            group = []
            n_bytes = 0
            n_rows = 0
        group.append(chunk)
        n_bytes += size
        n_rows += chunk.n_obs
    if group:
        yield group


def _form(chunk: LogChunk) -> object:
    """Return the part of chunks that must be equal for a merge: columns and layouts."""
    columns = []
    for column in chunk.columns():
        kind: str = column.kind
        if kind == "const":
            # Constant rows merge with rows of the kind that they were before.
            kind = "array" if column.type_name == "array" else "scalar"
        columns.append((column.name, kind))
    return columns, chunk.record.layouts


def _merge(group: list[LogChunk], packer: Packer) -> tuple[Chunk, list[bytes]]:
    """Return chunks of equal form as one, and the bytes of its columns."""
    columns: list[Column] = []
    data: list[bytes] = []
    for index, record in enumerate(group[0].columns()):
        rows = [chunk.rows(index) for chunk in group]
        column, raw = _merge_column(record.name, rows, packer)
        rows_data = _merge_row_numbers(group, index)
        columns.append(msgspec.structs.replace(column, rows_data=rows_data))
        data.append(raw)
    merged = Chunk(
        time_ns=group[0].record.time_ns,
        segments=_join([segment for chunk in group for segment in chunk.record.segments]),
        columns=columns,
        layouts=group[0].record.layouts,
        events=[event for chunk in group for event in chunk.record.events],
        irregular=[item for chunk in group for item in chunk.record.irregular],
        journal=max(chunk.record.journal for chunk in group),
    )
    return merged, data


def _join(segments: list[Segment]) -> list[Segment]:
    """Return segments, with those that continue each other joined."""
    joined: list[Segment] = []
    for segment in segments:
        last = joined[-1] if joined else None
        if last is None or segment.has_reset or not _continues(last, segment):
            joined.append(segment)
            continue
        n_steps = last.n_steps + segment.n_steps
        joined[-1] = Segment(last.episode, last.first_step, n_steps, last.has_reset)
    return joined


def _continues(last: Segment, segment: Segment) -> bool:
    next_step = last.first_step + last.n_steps
    return (last.episode, next_step) == (segment.episode, segment.first_step)


def _merge_row_numbers(group: list[LogChunk], index: int) -> bytes | None:
    """Return the encoded row numbers of a merged column, or None if every row has a value."""
    if all(chunk.rows(index).row_numbers is None for chunk in group):
        return None
    row_numbers: list[int] = []
    base = 0
    for chunk in group:
        row_numbers += (_row_numbers(chunk, index) + base).tolist()
        base += _n_rows(chunk, index)
    differences = np.diff(np.array(row_numbers, np.uint32), prepend=np.uint32(0))
    return codec.encode(differences)


def _row_numbers(chunk: LogChunk, index: int) -> Array:
    """Return the numbers of the rows of a chunk that have a value in a column."""
    row_numbers = chunk.rows(index).row_numbers
    return np.arange(_n_rows(chunk, index)) if row_numbers is None else row_numbers


def _n_rows(chunk: LogChunk, index: int) -> int:
    """Return the number of rows of a chunk among which a column counts its rows."""
    return chunk.n_obs if _is_of_observations(chunk.columns()[index]) else chunk.n_steps


def _is_of_observations(column: Column) -> bool:
    """Return whether a column has a row for each observation, resets included."""
    return column.name.partition("/")[0] in ("obs", "state", "state_digest")


def _merge_column(name: str, rows: list[ColumnRows], packer: Packer) -> PackedColumn:
    merged = _merge_arrays(name, rows, packer)
    if merged is not None:
        return merged
    if all(part.kind in ("scalar", "const") for part in rows):
        return packer.pack_scalars(name, [value for part in rows for value in part.values()])
    return packer.pack_values(name, [value for part in rows for value in part.encoded()])


def _merge_arrays(name: str, rows: list[ColumnRows], packer: Packer) -> PackedColumn | None:
    """Return a merged column of arrays, or None if the rows are not arrays of one form."""
    raws = []
    forms = set()
    for part in rows:
        array = part.array()
        raw = part.row_bytes()
        if array is None or raw is None:
            return None
        raws.append(raw)
        forms.add((array.dtype, array.shape[1:]))
    if len(forms) > 1:
        return None
    dtype, shape = forms.pop()
    width = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    joined = b"".join(raws)
    if name == "state_digest":
        return packer.pack_unfiltered(name, np.frombuffer(joined, np.uint8).reshape(-1, width))
    if width:
        pieces = [joined[start : start + width] for start in range(0, len(joined), width)]
    else:
        pieces = [b""] * sum(part.n for part in rows)
    return packer.pack_arrays(name, pieces, dtype=dtype, shape=shape)


def _verify(before: list[LogChunk], after: list[LogChunk], path: Path) -> None:
    """Check that two lists of chunks hold the same rows and events, bit by bit.

    Raises:
        LogError: They do not hold the same.
    """
    old = _contents(before)
    for name, content in _contents(after).items():
        if content != old[name]:
            raise LogError(f"compaction would have changed its {name}; it is unchanged", path=path)


def _contents(chunks: list[LogChunk]) -> dict[str, object]:
    # Events as bytes: a score that is NaN would not be equal to itself.
    records = [chunk.record for chunk in chunks]
    return {
        "events": [encode_record(event) for record in records for event in record.events],
        "irregular infos": [item for record in records for item in record.irregular],
        "segments": _join([segment for record in records for segment in record.segments]),
        "rows": _digests(chunks),
    }


def _digests(chunks: list[LogChunk]) -> dict[str, str]:
    """Return a digest of the values and row numbers of each column, over all chunks."""
    hashers: dict[str, hashlib.blake2b] = {}
    n_steps = 0
    n_obs = 0
    for chunk in chunks:
        for index, column in enumerate(chunk.columns()):
            base = n_obs if _is_of_observations(column) else n_steps
            hasher = hashers.setdefault(column.name, codec.hasher())
            row_numbers = (_row_numbers(chunk, index) + base).tolist()
            values = chunk.rows(index).encoded()
            for row_number, value in zip(row_numbers, values, strict=True):
                hasher.update(b"%d:%d:" % (row_number, len(value)) + value)
        n_steps += chunk.n_steps
        n_obs += chunk.n_obs
    return {name: hasher.hexdigest() for name, hasher in hashers.items()}
