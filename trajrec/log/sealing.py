"""Writes a sealed log beside an old one, and puts it into the old one's place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from trajrec.errors import LogCorruptError, LogError
from trajrec.log import frames
from trajrec.log.columns import Packer
from trajrec.log.reader import LogReader
from trajrec.log.schema import Chunk, Footer, FrameEntry

encode = msgspec.msgpack.Encoder().encode


class SealedFrame(NamedTuple):
    """A frame of a new log.

    Attributes:
        kind: The kind of the frame.
        parts: Its bytes in the file.
        episodes: The episodes that have steps or events in it.
    """

    kind: int
    parts: Sequence[bytes]
    episodes: list[int]


def write_sealed(reader: LogReader, new_frames: Sequence[SealedFrame]) -> Path:
    """Write frames and a footer to a temporary file beside a log, and return its path.

    Args:
        reader: The old log, whose header goes into the footer.
        new_frames: The frames of the new log, the header's first.

    Raises:
        LogError: The file cannot be written.
    """
    # The process id: two processes that repair one log must not write to one file.
    path = reader.path.with_name(f".{reader.path.name}.{os.getpid()}.tmp")
    entries: list[FrameEntry] = []
    episodes: set[int] = set()
    try:
        with open(path, "xb") as file:
            file.write(frames.signature())
            for frame in new_frames:
                offset = file.tell()
                file.writelines(frame.parts)
                size = file.tell() - offset
                entries.append(FrameEntry(offset, size, frame.kind, frame.episodes))
                episodes.update(frame.episodes)
            offset = file.tell()
            footer = encode(Footer(reader.header, entries, len(episodes), _count_steps(reader)))
            meta = Packer().compress(footer)
            file.writelines(
                frames.pack_frame(frames.FOOTER, len(entries), meta=meta, meta_raw=len(footer))
            )
            file.write(frames.pack_trailer(offset))
            # On the disk before the rename: a power cut must not leave an empty file.
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        path.unlink(missing_ok=True)
        raise LogError(
            f"cannot be rewritten: {exc.strerror or exc}; it is unchanged", path=reader.path
        ) from exc
    return path


def replace_log(path: Path, new: Path) -> None:
    """Put a new file into the place of a log, durably."""
    os.replace(new, path)
    # The rename is on the disk once the folder is; Windows cannot open folders.
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def episodes_of(chunk: Chunk) -> list[int]:
    """Return the episodes that have steps or events in a chunk."""
    episodes = {segment.episode for segment in chunk.segments}
    return sorted(episodes | {event.episode for event in chunk.events})


def _count_steps(reader: LogReader) -> int:
    n_steps = 0
    for index, frame in enumerate(reader.frames):
        if frame.kind == frames.CHUNK:
            try:
                segments = reader.chunk(index).record.segments
            except LogCorruptError:
                continue
            n_steps += sum(segment.n_steps for segment in segments)
    return n_steps
