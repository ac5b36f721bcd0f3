"""Seals logs whose writer was killed, and merges small chunks of sealed ones. Neither changes what was recorded: a new file is
written beside the old one, verified, and takes its place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from trajrec.errors import LogCorruptError, LogError
from trajrec.log import frames
from trajrec.log.chunk import LogChunk
from trajrec.log.columns import Packer
from trajrec.log.locks import is_being_written
from trajrec.log.reader import LogReader
from trajrec.log.rows import ColumnRows, row_bytes
from trajrec.log.schema import Chunk, Column, Footer, FrameEntry, Segment
from trajrec.values import codec

MERGED_BYTES = 4 << 20
MERGED_ROWS = 1 << 16
"""Merged chunks stay below these: large enough to compress well, small enough to read one step without much around it."""

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True)
class Recovery:
    """What `recover` found and did.

    Attributes:
        path: The log.
        was_sealed: Whether there was nothing to do.
        frames_kept: Intact frames, all of which are in the sealed log.
        bytes_lost: Bytes that could not be read.
        damaged_copy: Where the file is kept as it was, if it had damage beyond a torn tail.
    """

    path: Path
    was_sealed: bool
    frames_kept: int
    bytes_lost: int
    damaged_copy: Path | None = None

    def __str__(self) -> str:
        if self.was_sealed:
            return f"{self.path}: sealed, nothing to do" + self._lost()
        return f"{self.path}: sealed, {self.frames_kept} frames kept" + self._lost()

    def _lost(self) -> str:
        kept = (
            ""
            if self.damaged_copy is None
            else f", the damaged file is kept as {self.damaged_copy.name}"
        )
        return f", {self.bytes_lost} bytes lost{kept}" if self.bytes_lost else ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "was_sealed": self.was_sealed,
            "frames_kept": self.frames_kept,
            "bytes_lost": self.bytes_lost,
            "damaged_copy": None if self.damaged_copy is None else str(self.damaged_copy),
        }


@dataclass(frozen=True)
class Compaction:
    """What `compact` did: sizes in bytes and chunks, before and after."""

    path: Path
    size_before: int
    size_after: int
    chunks_before: int
    chunks_after: int

    def __str__(self) -> str:
        if self.size_after == self.size_before:
            return f"{self.path}: {self.size_before} bytes, nothing to gain"
        return f"{self.path}: {self.size_before} -> {self.size_after} bytes, {self.chunks_before} -> {self.chunks_after} chunks"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "size_before": self.size_before,
            "size_after": self.size_after,
            "chunks_before": self.chunks_before,
            "chunks_after": self.chunks_after,
        }


def recover(path: Path) -> Recovery:
    """Seal a log whose writer was killed: keep every intact frame, add the footer. Twice is harmless.

    Damage is never laundered: a frame whose checksum does not hold is left out, and the file it was in is kept beside.

    Raises:
        LogError: A living writer holds the log, it is not a log, or it cannot be written.
    """
    with LogReader(path) as reader:
        lost = sum(damage.size for damage in reader.damage)
        if reader.is_sealed and not reader.damage:
            broken = _broken_frames(reader)
            if not broken:
                return Recovery(path, True, len(reader.frames), 0)
            lost += sum(frame.end - frame.offset for frame in broken)
        if reader.is_being_written() or is_being_written(path):
            raise LogError("a living process is writing this log; stop it first", path=path)
        is_torn_only = all(damage.is_tail for damage in reader.damage) and not reader.is_sealed
        kept = [
            (frame.kind, reader.slice(frame.offset, frame.end), _episodes(reader, index))
            for index, frame in enumerate(reader.frames)
            if frames.is_intact(reader.slice_all(), frame)
        ]
        new = _write_sealed(reader, kept)
    copy = None
    if not is_torn_only:
        copy = path.with_name(path.name + ".damaged")
        os.replace(path, copy)
    os.replace(new, path)
    _sync_folder(path.parent)
    return Recovery(path, False, len(kept), lost, copy)


def compact(path: Path) -> Compaction:
    """Merge the small chunks of a sealed log into large ones, which compress better. Twice is harmless.

    Every row and event is compared with the old file's before the new one takes its place.

    Raises:
        LogError: The log is not sealed or is damaged (recover it first), or it cannot be written.
    """
    with LogReader(path) as reader:
        if not reader.is_sealed or reader.damage:
            raise LogError(
                "only an undamaged sealed log is compacted; run `trajrec recover` first", path=path
            )
        packer = Packer(level=19, search=True)
        before = [
            reader.chunk(i) for i, frame in enumerate(reader.frames) if frame.kind == frames.CHUNK
        ]
        parts: list[tuple[int, Any, list[int]]] = [
            (f.kind, reader.slice(f.offset, f.end), [])
            for f in reader.frames
            if f.kind == frames.HEADER
        ]
        merged = 0
        for group in _groups(before):
            chunk, data = _merge(group, packer)
            raw = _encode(chunk)
            parts.append(
                (frames.CHUNK, (packer.compress(raw), len(raw), data), _chunk_episodes(chunk))
            )
            merged += 1
        new = _write_sealed(reader, parts)
        try:
            with LogReader(new) as written:
                _verify(
                    before,
                    [
                        written.chunk(i)
                        for i, f in enumerate(written.frames)
                        if f.kind == frames.CHUNK
                    ],
                    path,
                )
            sizes = path.stat().st_size, new.stat().st_size
            if sizes[1] >= sizes[0]:
                new.unlink()
                return Compaction(path, sizes[0], sizes[0], len(before), len(before))
        except BaseException:
            new.unlink(missing_ok=True)
            raise
    os.replace(new, path)
    _sync_folder(path.parent)
    return Compaction(path, *sizes, len(before), merged)


def _broken_frames(reader: LogReader) -> list[frames.Frame]:
    """Return the frames of a sealed log whose payload does not hold: its footer does not say so."""
    return [frame for frame in reader.frames if not frames.is_intact(reader.slice_all(), frame)]


def _episodes(reader: LogReader, index: int) -> list[int]:
    if reader.frames[index].kind != frames.CHUNK:
        return []
    try:
        return _chunk_episodes(reader.chunk(index).record)
    except LogCorruptError:
        return []


def _chunk_episodes(chunk: Chunk) -> list[int]:
    return sorted({s.episode for s in chunk.segments} | {e.episode for e in chunk.events})


def _write_sealed(reader: LogReader, parts: list[tuple[int, Any, list[int]]]) -> Path:
    """Write frames and a footer to a file beside the log; frames are given as bytes, or as what they are made of."""
    new = reader.path.with_name(f".{reader.path.name}.{os.getpid()}.tmp")
    entries: list[FrameEntry] = []
    n_steps = 0
    episodes: set[int] = set()
    try:
        with open(new, "xb") as file:
            file.write(frames.signature())
            for sequence, (kind, content, of) in enumerate(parts):
                offset = file.tell()
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    meta, raw_size, data = content
                    file.writelines(
                        frames.pack_frame(kind, sequence, meta=meta, meta_raw=raw_size, data=data)
                    )
                entries.append(FrameEntry(offset, file.tell() - offset, kind, of))
                episodes.update(of)
            for index, frame in enumerate(reader.frames):
                if frame.kind == frames.CHUNK:
                    n_steps += _steps(reader, index)
            offset = file.tell()
            raw = _encode(Footer(reader.header, entries, len(episodes), n_steps))
            file.writelines(
                frames.pack_frame(
                    frames.FOOTER,
                    len(parts),
                    meta=Packer().compress(raw),
                    meta_raw=len(raw),
                )
            )
            file.write(frames.pack_trailer(offset))
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        new.unlink(missing_ok=True)
        raise LogError(
            f"cannot be rewritten: {exc.strerror or exc}; it is unchanged", path=reader.path
        ) from exc
    return new


def _steps(reader: LogReader, index: int) -> int:
    try:
        return sum(segment.n_steps for segment in reader.chunk(index).record.segments)
    except LogCorruptError:
        return 0


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where folders can be synced."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _groups(chunks: list[LogChunk]) -> Iterator[list[LogChunk]]:
    """Group consecutive chunks of equal shape up to the size of a merged one."""
    group: list[LogChunk] = []
    size = rows = 0
    for chunk in chunks:
        raw = sum(max(column.raw_bytes, column.n * row_bytes(column)) for column in chunk.columns())
        fits = size + raw <= MERGED_BYTES and rows + chunk.n_obs <= MERGED_ROWS
        if group and not (fits and _shape(group[0]) == _shape(chunk)):
            yield group
            group, size, rows = [], 0, 0
        group.append(chunk)
        size, rows = size + raw, rows + chunk.n_obs
    if group:
        yield group


def _shape(chunk: LogChunk) -> Any:
    """Return what chunks must have in common to be merged: the same columns, of the same meaning, in the same order."""
    columns = []
    for column in chunk.columns():
        kind = column.kind if column.kind != "const" else "scalar"
        if column.kind == "const" and column.type_name == "array":
            kind = "array"
        columns.append((column.name, kind))
    return columns, chunk.record.layouts


def _merge(group: list[LogChunk], packer: Packer) -> tuple[Chunk, list[bytes]]:
    """Merge chunks of equal shape into one."""
    segments = [segment for chunk in group for segment in chunk.record.segments]
    columns: list[Column] = []
    data: list[bytes] = []
    for index in range(len(group[0].columns())):
        column, raw = _merge_column(
            [chunk.rows(index) for chunk in group], group[0].columns()[index].name, packer
        )
        bases = np.cumsum([0, *(_row_base(chunk, index) for chunk in group[:-1])])
        place = _merge_places([chunk.rows(index) for chunk in group], bases.tolist(), group, index)
        columns.append(
            msgspec.structs.replace(
                column, rows_data=place, offset=sum(map(len, data)), size=len(raw)
            )
        )
        data.append(raw)
    record = group[0].record
    merged = Chunk(
        time_ns=record.time_ns,
        segments=_join(segments),
        columns=columns,
        layouts=record.layouts,
        events=[event for chunk in group for event in chunk.record.events],
        irregular=[item for chunk in group for item in chunk.record.irregular],
    )
    return merged, data


def _join(segments: list[Segment]) -> list[Segment]:
    """Join segments that follow each other in one episode."""
    joined: list[Segment] = []
    for segment in segments:
        last = joined[-1] if joined else None
        if (
            last
            and not segment.has_reset
            and (last.episode, last.first_step + last.n_steps)
            == (
                segment.episode,
                segment.first_step,
            )
        ):
            joined[-1] = Segment(
                last.episode, last.first_step, last.n_steps + segment.n_steps, last.has_reset
            )
        else:
            joined.append(segment)
    return joined


def _row_base(chunk: LogChunk, index: int) -> int:
    """Return how many rows a chunk adds to what sparse places of a column count."""
    return chunk.n_obs if _is_of_observations(chunk.columns()[index].name) else chunk.n_steps


def _is_of_observations(name: str) -> bool:
    """Say whether a column has rows for observations, resets included, rather than for steps."""
    return name.partition("/")[0] in ("obs", "state", "state_digest")


def _merge_places(
    rows: list[ColumnRows], bases: list[int], group: list[LogChunk], index: int
) -> bytes | None:
    if all(part.row_numbers is None for part in rows):
        return None
    place: list[int] = []
    for part, base, chunk in zip(rows, bases, group, strict=True):
        own = (
            range(_row_base(chunk, index))
            if part.row_numbers is None
            else part.row_numbers.tolist()
        )
        place += [base + row for row in own]
    return codec.encode(np.diff(np.array(place, np.uint32), prepend=np.uint32(0)))


def _merge_column(rows: list[ColumnRows], name: str, packer: Packer) -> tuple[Column, bytes]:
    arrays = [part.array() for part in rows]
    raws = [part.row_bytes() for part in rows]
    first = arrays[0]
    if first is not None and all(raw is not None for raw in raws):
        same = all(
            a is not None and (a.dtype, a.shape[1:]) == (first.dtype, first.shape[1:])
            for a in arrays
        )
        if same:
            width = first.dtype.itemsize * int(np.prod(first.shape[1:], dtype=np.int64))
            joined = b"".join(raw for raw in raws if raw is not None)
            pieces = (
                [joined[i : i + width] for i in range(0, len(joined), width)]
                if width
                else [b""] * sum(r.n for r in rows)
            )
            if name == "state_digest":
                return packer.pack_unfiltered(
                    name, np.frombuffer(joined, np.uint8).reshape(-1, width)
                )
            return packer.pack_arrays(name, pieces, dtype=first.dtype, shape=first.shape[1:])
    if all(part.kind in ("scalar", "const") for part in rows):
        return packer.pack_scalars(name, [value for part in rows for value in part.values()])
    return packer.pack_values(name, [value for part in rows for value in part.encoded()])


def _verify(before: list[LogChunk], after: list[LogChunk], path: Path) -> None:
    """Check that two lists of chunks hold the same rows and events, bit by bit.

    Raises:
        LogError: They do not: the old file stays.
    """
    for name in ("events", "irregular"):
        if [x for c in before for x in getattr(c.record, name)] != [
            x for c in after for x in getattr(c.record, name)
        ]:
            raise LogError(f"compaction would have changed its {name}; it is unchanged", path=path)
    if _join([s for c in before for s in c.record.segments]) != _join(
        [s for c in after for s in c.record.segments]
    ):
        raise LogError("compaction would have changed its segments; it is unchanged", path=path)
    if _digests(before) != _digests(after):
        raise LogError("compaction would have changed its rows; it is unchanged", path=path)


def _digests(chunks: list[LogChunk]) -> dict[str, str]:
    """Return a digest of each column's values and places over all chunks."""
    found: dict[str, Any] = {}
    steps = observations = 0
    for chunk in chunks:
        for index, column in enumerate(chunk.columns()):
            rows, n = chunk.rows(index), _row_base(chunk, index)
            base = observations if _is_of_observations(column.name) else steps
            place = np.arange(n) if rows.row_numbers is None else rows.row_numbers
            hasher = found.setdefault(column.name, codec.hasher())
            for row, value in zip((place + base).tolist(), rows.encoded(), strict=True):
                hasher.update(b"%d:" % row + value)
        steps, observations = steps + chunk.n_steps, observations + chunk.n_obs
    return {name: hasher.hexdigest() for name, hasher in found.items()}
