"""Seals a log whose writer was killed, without changing its records."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trajrec.errors import LogCorruptError, LogError
from trajrec.log import frames
from trajrec.log.columns import Packer
from trajrec.log.frame_reader import NewFrame
from trajrec.log.locks import is_being_written
from trajrec.log.reader import LogReader
from trajrec.log.schema import FORMAT_VERSION
from trajrec.log.sealing import (
    chunk_returns,
    new_chunk_frame,
    new_header_frame,
    replace_log,
    write_sealed,
)
from trajrec.types import JsonObject


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
        text = f"{self.path}: sealed, {self.frames_kept} frames kept"
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
    """Seal a log whose writer was killed: keep all intact frames and add the footer.

    A frame with a wrong checksum is left out, and the damaged file is kept beside the log. A second
    call does nothing.

    Raises:
        LogError: A living process writes the log, the file is not a log, or it cannot be written.
    """
    with LogReader(path) as reader:
        intact = [index for index in range(len(reader.frames)) if reader.is_intact(index)]
        n_lost = sum(damage.size for damage in reader.damage)
        if reader.is_sealed and not reader.damage and len(intact) == len(reader.frames):
            return Recovery(
                path=path, was_sealed=True, frames_kept=len(reader.frames), bytes_lost=0
            )
        if reader.is_being_written() or is_being_written(path):
            raise LogError("a living process is writing this log; stop it first", path=path)
        is_torn_only = not reader.is_sealed and all(damage.is_tail for damage in reader.damage)
        new = write_sealed(reader, _kept_frames(reader))
    damaged_copy = None
    if not is_torn_only:
        damaged_copy = path.with_name(path.name + ".damaged")
        os.replace(path, damaged_copy)
    replace_log(path, new)
    return Recovery(
        path=path,
        was_sealed=False,
        frames_kept=len(intact),
        bytes_lost=n_lost,
        damaged_copy=damaged_copy,
    )


def _kept_frames(reader: LogReader) -> Iterator[NewFrame]:
    """Yield the frames of the sealed log.

    A chunk stands as it was, byte for byte, unless its format is old or its columns are damaged: in
    these cases its record is written anew, without the rows of damaged columns.
    """
    packer = Packer()
    yield new_header_frame(reader)
    for index, entry in enumerate(reader.frames):
        if entry.kind in (frames.HEADER, frames.HEADER_COPY):
            continue
        try:
            if entry.kind != frames.CHUNK:
                yield reader.raw_frame(index)
                continue
            chunk = reader.chunk(index)
        except LogCorruptError:
            continue
        returns = chunk_returns(chunk)
        if reader.format_version == FORMAT_VERSION and reader.is_intact(index):
            raw = reader.raw_frame(index)
            yield raw._replace(chunk=chunk.record, returns=returns)
        else:
            data = [chunk.column_bytes(column) for column in chunk.columns()]
            yield new_chunk_frame(chunk.record, data, returns, packer)
