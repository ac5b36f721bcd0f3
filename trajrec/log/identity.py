"""The identity of a log: its id and its seal, whatever its name, place and time are."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from trajrec.log import frames
from trajrec.log.frame_reader import FrameReader
from trajrec.log.frames import FORMAT2
from trajrec.log.remote import open_source
from trajrec.log.source import read_ends


class Identity(NamedTuple):
    """A log and its contents. Two sealed files with one identity have the same contents.

    Attributes:
        log: The log's id as it stands in frames, as hex digits.
        seal: The digest of its contents as hex digits, "" if it is not sealed.
        generation: The number of times that it was rewritten.
    """

    log: str
    seal: str
    generation: int


def read_identity(path: str | Path) -> Identity:
    """Return the identity of a file. Of a sealed log, only its first and last bytes are read.

    Args:
        path: The file; a text for one of very many, since to join a `Path` takes longer.

    Raises:
        LogError: It is no log, or cannot be read.
    """
    ends = read_ends(os.fspath(path), FORMAT2.first_frame, FORMAT2.trailer_size)
    identity = None if ends is None else _stated(*ends)
    return _read_identity(Path(path)) if identity is None else identity


def _read_identity(path: Path) -> Identity:
    """Return the identity of a file that does not state it where a sealed log does."""
    # What a file in a mirror stands for has its own first and last bytes.
    source = open_source(path)
    try:
        end = source.size
        spans = [(0, FORMAT2.first_frame), (max(0, end - FORMAT2.trailer_size), end)]
        identity = _stated(*source.ranges(spans))
    finally:
        source.close()
    if identity is not None:
        return identity
    with FrameReader(path) as reader:
        return identity_of(reader)


def _stated(head: bytes, tail: bytes) -> Identity | None:
    """Return the identity that a log states in its first and last bytes, None if in neither."""
    trailer = FORMAT2.trailer(tail)
    if trailer is None or frames.signature_log_id(head) != trailer.log_id:
        return None
    return Identity(trailer.log_id.hex(), trailer.content.hex(), trailer.generation)


def identity_of(reader: FrameReader) -> Identity:
    """Return the identity of an open log."""
    log = frames.log_id_bytes(reader.header.log_id).hex()
    generation = 0 if reader.trailer is None else reader.trailer.generation
    return Identity(log, _seal(reader) if reader.is_sealed else "", generation)


def frame_digest(reader: FrameReader, index: int) -> str:
    """Return a digest of frames[index], as hex digits: of its place and its header.

    The header has the checksums of all other bytes, and the number of the frame. So a file that has
    this frame at this place is the one that it was, grown.
    """
    start = reader.frames[index].offset
    header = reader.slice(start, start + FORMAT2.frame_size)
    return hashlib.blake2b(header + start.to_bytes(8, "little"), digest_size=16).hexdigest()


def _seal(reader: FrameReader) -> str:
    content = b"" if reader.trailer is None else reader.trailer.content
    if content or not reader.frames:
        return content.hex()
    # Format 1 has no seal. Nothing writes it any more, so the last frame tells two files apart.
    return frame_digest(reader, len(reader.frames) - 1)


def may_lack_records(reader: FrameReader) -> bool:
    """Return whether records that the others of a log presume may be gone.

    They may be if bytes are lost, and if a rewrite has left damaged frames out (`recover`).
    """
    return reader.has_losses or (reader.trailer is not None and reader.trailer.generation > 0)
