"""Gathers the directory of a log from the frames in its file."""

from __future__ import annotations

from pathlib import Path

from trajrec.log import frames
from trajrec.log.directory import Directory
from trajrec.log.frames import FORMAT2
from trajrec.log.reader import LogReader
from trajrec.log.sealing import chunk_returns


def read_directory(path: Path) -> Directory:
    """Return the directory of a log of the present format that is not sealed.

    Raises:
        LogError: The log cannot be read.
    """
    directory = Directory()
    with LogReader(path) as reader:
        for index, entry in enumerate(reader.frames):
            header = reader.slice(entry.offset, entry.offset + FORMAT2.frame_size)
            if entry.kind == frames.CHUNK:
                chunk = reader.chunk(index)
                directory.add_chunk(header, entry, chunk.record, chunk_returns(chunk))
            else:
                directory.add_frame(header, entry)
    return directory
