"""Seals a log whose writer was killed, or that is damaged, without changing its records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from trajrec.errors import LogCorruptError, LogError
from trajrec.log import frames
from trajrec.log.columns import Packer
from trajrec.log.directory import segment_returns
from trajrec.log.frame_reader import NewFrame
from trajrec.log.journal import delete_journal
from trajrec.log.locks import is_being_written
from trajrec.log.lost_changes import LostChanges
from trajrec.log.lost_frames import lost_frames
from trajrec.log.reader import LogReader
from trajrec.log.records import drop_rows
from trajrec.log.rewriting import rewriting
from trajrec.log.schema import FORMAT_VERSION
from trajrec.log.sealing import (
    chunk_returns,
    new_chunk_frame,
    new_header_frame,
    write_sealed,
)
from trajrec.types import JsonObject
from trajrec.values.shown import counted


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """The result of `recover`.

    Attributes:
        path: The log.
        was_sealed: Whether the log was sealed and whole, so that it was left alone.
        frames_kept: Intact frames, whose contents are all in the sealed log.
        bytes_lost: Bytes that could not be read.
        damaged_copy: A copy of the damaged file, if the damage was more than a torn tail.
    """

    path: Path
    was_sealed: bool
    frames_kept: int
    bytes_lost: int
    damaged_copy: Path | None = None

    def __str__(self) -> str:
        text = f"{self.path}: sealed, {counted(self.frames_kept, 'frame')} kept"
        if self.was_sealed:
            text = f"{self.path}: sealed, nothing to do"
        if self.bytes_lost:
            text += f", {self.bytes_lost} bytes lost"
            if self.damaged_copy is not None:
                text += f", the damaged file is kept as {self.damaged_copy.name}"
        return text

    def as_dict(self) -> JsonObject:
        """Return the result as plain data."""
        return {
            "was_sealed": self.was_sealed,
            "frames_kept": self.frames_kept,
            "bytes_lost": self.bytes_lost,
            "damaged_copy": None if self.damaged_copy is None else str(self.damaged_copy),
        }


def recover(path: Path) -> Recovery:
    """Seal a log whose writer was killed: keep all intact frames and the items of the journal.

    A frame that is damaged, or contradicts itself, is left out, and the damaged file is kept beside
    the log. A second call does nothing. A call that was killed, and one that runs at the same time,
    lose nothing: the log is replaced by one rename.

    Raises:
        LogError: A living process writes the log, the file is not a log, or it cannot be written.
    """
    with LogReader(path) as reader:
        # Without the lock, which needs a folder that can be written.
        if reader.is_sealed and (state := _State(reader)).is_whole:
            delete_journal(path)
            return state.recovery(path)
    with rewriting(path) as rewrite, LogReader(rewrite.path) as reader:
        state = _State(reader)
        if state.is_whole:
            # Another process has sealed it meanwhile.
            delete_journal(path)
            return state.recovery(path)
        if reader.is_being_written() or is_being_written(path):
            raise LogError("a living process is writing this log; stop it first", path=path)
        write_sealed(rewrite.file, reader, _kept_frames(reader))
        damaged_copy = None if state.is_only_torn else rewrite.keep_old()
        rewrite.commit()
    # Not before the sealed log, which has its items, is in its place.
    delete_journal(path)
    return state.recovery(path, damaged_copy)


class _State:
    """The damage of a log, found by reading all of it.

    Attributes:
        is_whole: Whether it is sealed and undamaged.
        is_only_torn: Whether it only stops before its end: nothing but the last write is lost.
    """

    def __init__(self, reader: LogReader) -> None:
        self._n_kept = sum(reader.check(index) for index in range(len(reader.frames)))
        self._n_lost = sum(damage.size for damage in reader.damage)
        self.is_whole = reader.is_sealed and not reader.damage
        self.is_only_torn = not reader.is_sealed and all(d.is_tail for d in reader.damage)

    def recovery(self, path: Path, damaged_copy: Path | None = None) -> Recovery:
        """Return the result."""
        return Recovery(
            path=path,
            was_sealed=self.is_whole,
            frames_kept=self._n_kept,
            bytes_lost=self._n_lost,
            damaged_copy=damaged_copy,
        )


def _kept_frames(reader: LogReader) -> Iterator[NewFrame]:
    """Yield the frames of the sealed log.

    A chunk stands as it was, byte for byte, unless its format is old or its columns are damaged: in
    these cases its record is written anew, without the rows of damaged columns. Where frames are
    lost, the states of agents are marked as unknown.
    """
    packer = Packer()
    lost = LostChanges(reader) if reader.has_losses else None
    sequence = -1
    decompress = zstandard.ZstdDecompressor().decompress
    yield new_header_frame(reader)
    for index, entry in enumerate(reader.frames):
        if lost is not None and entry.sequence > sequence + 1:
            lost.lose(index)
        sequence = entry.sequence
        if entry.kind in (frames.HEADER, frames.HEADER_COPY):
            continue
        try:
            if entry.kind != frames.CHUNK:
                yield reader.raw_frame(index)
                continue
            chunk = reader.chunk(index)
        except LogCorruptError:
            if lost is not None:
                lost.lose(index)
            continue
        if lost is not None:
            yield from _marks(lost, packer)
            lost.take(chunk)
        if reader.format_version != FORMAT_VERSION:
            data = [chunk.column_bytes(column) for column in chunk.columns()]
            yield new_chunk_frame(chunk.record, data, chunk_returns(chunk), packer)
            continue
        frame = reader.raw_frame(index)._replace(chunk=chunk.record, returns=chunk_returns(chunk))
        if reader.has_lost_rows(index):
            record = drop_rows(decompress(frame.meta))
            frame = frame._replace(meta=packer.compress(record), meta_raw=len(record), data=())
        yield frame
    if lost is not None:
        if len(reader.frames) in lost_frames(reader, 0):
            lost.lose(len(reader.frames))
        yield from _marks(lost, packer)
    for chunk in reader.journal:
        data = [chunk.column_bytes(column) for column in chunk.columns()]
        yield new_chunk_frame(chunk.record, data, chunk_returns(chunk), packer)


def _marks(lost: LostChanges, packer: Packer) -> Iterator[NewFrame]:
    """Yield a frame of marks, if anything was lost."""
    marks = lost.marks()
    if marks is not None:
        yield new_chunk_frame(marks, [], segment_returns([], None), packer)
