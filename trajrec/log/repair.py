"""Seals a log whose writer was killed, without changing its records."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trajrec.errors import LogCorruptError, LogError
from trajrec.log import frames
from trajrec.log.frames import Frame
from trajrec.log.locks import is_being_written
from trajrec.log.reader import LogReader
from trajrec.log.sealing import SealedFrame, episodes_of, replace_log, write_sealed
from trajrec.types import JsonObject


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """The result of `recover`.

    Attributes:
        path: The log.
        was_sealed: Whether the log was sealed and whole, so that it was left alone.
        frames_kept: Intact frames, which are all in the sealed log.
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
        n_lost = sum(damage.size for damage in reader.damage)
        if reader.is_sealed and not reader.damage:
            # The footer lists frames without looking at their payloads.
            broken = [frame for frame in reader.frames if not _is_intact(reader, frame)]
            if not broken:
                return Recovery(
                    path=path, was_sealed=True, frames_kept=len(reader.frames), bytes_lost=0
                )
            n_lost += sum(frame.end - frame.offset for frame in broken)
        if reader.is_being_written() or is_being_written(path):
            raise LogError("a living process is writing this log; stop it first", path=path)
        is_torn_only = not reader.is_sealed and all(damage.is_tail for damage in reader.damage)
        intact = [
            SealedFrame(
                frame.kind, [reader.slice(frame.offset, frame.end)], _episodes(reader, index)
            )
            for index, frame in enumerate(reader.frames)
            if _is_intact(reader, frame)
        ]
        new = write_sealed(reader, intact)
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


def _is_intact(reader: LogReader, frame: Frame) -> bool:
    return frames.is_intact(reader.slice_all(), frame)


def _episodes(reader: LogReader, index: int) -> list[int]:
    """Return the episodes of a frame; none if it is no chunk, or contradicts itself."""
    if reader.frames[index].kind != frames.CHUNK:
        return []
    try:
        return episodes_of(reader.chunk(index).record)
    except LogCorruptError:
        return []
