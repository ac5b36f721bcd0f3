"""Frames: how bytes lie in a log file, how they are checked, and how reading goes on after damage."""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trajrec.errors import LogFormatError
from trajrec.log.schema import FORMAT_VERSION

# Like PNG's: a byte with the high bit set and both line ends, so that transfers which mangle text are noticed at once.
MAGIC = b"\x89TRJ\r\n\x1a\n"
SIGNATURE = struct.Struct("<8sII")  # magic, format version, checksum
FRAME_MAGIC = b"\xf5trj"
FRAME = struct.Struct(
    "<4sBBHIIIIII"
)  # magic, kind, flags, 0, sequence, meta size, meta raw size, data size, 2 checksums
TRAILER = struct.Struct("<QI4s8s")  # footer offset, checksum, zeros, magic
TRAILER_MAGIC = b"trjSEAL\n"

HEADER, CHUNK, FOOTER, NOTE = 1, 2, 3, 4
MAX_PART = 1 << 30
"""No part of a frame is larger: a length beyond this is damage, whatever its checksum says."""


class Frame(NamedTuple):
    """A frame's place and sizes, its header checked, its payload not yet."""

    offset: int
    kind: int
    sequence: int
    meta_size: int
    meta_raw: int
    data_size: int
    checksum: int

    @property
    def end(self) -> int:
        return self.offset + FRAME.size + self.meta_size + self.data_size


class Damage(NamedTuple):
    """Bytes of a log that could not be read. `is_tail` where the file just stops: a killed writer, not corruption."""

    offset: int
    size: int
    what: str
    is_tail: bool = False


def signature() -> bytes:
    """Return the first bytes of every log."""
    head = struct.pack("<8sI", MAGIC, FORMAT_VERSION)
    return head + struct.pack("<I", zlib.crc32(head))


def check_signature(data: bytes | mmap.mmap, path: Path) -> None:
    """Check that a file is a log of a format that this program reads.

    Raises:
        LogFormatError: It is not, or its format is newer.
    """
    head = bytes(data[: SIGNATURE.size])
    if len(head) < SIGNATURE.size or head[:8] != MAGIC:
        raise LogFormatError(
            "not a trajrec log (its first bytes are not the signature of one)", path=path, offset=0
        )
    _, version, checksum = SIGNATURE.unpack(head)
    if zlib.crc32(head[:12]) != checksum:
        raise LogFormatError(
            "the signature is damaged; `trajrec recover` reads what is left", path=path, offset=8
        )
    if version > FORMAT_VERSION:
        raise LogFormatError(
            f"format version {version} is newer than {FORMAT_VERSION}, which this trajrec reads; upgrade trajrec",
            path=path,
            offset=8,
        )


def pack_frame(
    kind: int, sequence: int, meta: bytes, meta_raw: int, data: list[bytes]
) -> list[bytes]:
    """Return a frame as the parts of one gathered write.

    Raises:
        ValueError: A part is larger than readers accept.
    """
    checksum = zlib.crc32(meta)
    data_size = 0
    for part in data:
        checksum = zlib.crc32(part, checksum)
        data_size += len(part)
    # Readers take such a frame for damage: refusing it here shows the loss when it happens.
    largest = max(len(meta), meta_raw, data_size)
    if largest > MAX_PART:
        raise ValueError(f"{largest} bytes in one frame; at most {MAX_PART} are read back")
    head = FRAME.pack(
        FRAME_MAGIC, kind, 0, 0, sequence, len(meta), meta_raw, data_size, checksum, 0
    )[:-4]
    return [head + struct.pack("<I", zlib.crc32(head)), meta, *data]


def frame_at(data: bytes | mmap.mmap, offset: int) -> Frame | None:
    """Return the frame at an offset, or None where there is no intact frame header."""
    head = bytes(data[offset : offset + FRAME.size])
    if (
        len(head) < FRAME.size
        or head[:4] != FRAME_MAGIC
        or zlib.crc32(head[:-4]) != int.from_bytes(head[-4:], "little")
    ):
        return None
    _, kind, _, _, sequence, meta_size, meta_raw, data_size, checksum, _ = FRAME.unpack(head)
    if max(meta_size, meta_raw, data_size) > MAX_PART:
        return None
    return Frame(offset, kind, sequence, meta_size, meta_raw, data_size, checksum)


def is_intact(data: bytes | mmap.mmap, frame: Frame) -> bool:
    """Check a frame's payload against its checksum."""
    payload = memoryview(data)[frame.offset + FRAME.size : frame.end]
    try:
        return (
            len(payload) == frame.end - frame.offset - FRAME.size
            and zlib.crc32(payload) == frame.checksum
        )
    finally:
        payload.release()


def scan(data: bytes | mmap.mmap, start: int = SIGNATURE.size) -> Iterator[Frame | Damage]:
    """Walk a file frame by frame, each payload checked; after damage, go on at the next intact frame.

    A frame whose header holds but whose payload does not is damage of exactly that frame, unless intact frames lie within
    it (its sizes then belong to bytes that were overwritten).
    """
    size, offset = len(data), start
    while offset < size:
        frame = frame_at(data, offset)
        if frame is not None and frame.end <= size and is_intact(data, frame):
            yield frame
            offset = frame.end
            continue
        if _is_trailer(data, offset):
            return
        following = _resync(data, offset + 1)
        if following is None:
            what = (
                "the file stops in the middle of a frame"
                if frame is not None or size - offset < FRAME.size
                else "no frame"
            )
            yield Damage(
                offset,
                size - offset,
                what,
                is_tail=(frame is None and size - offset < FRAME.size) or _runs_out(frame, size),
            )
            return
        what = (
            "a frame's payload does not match its checksum"
            if frame is not None
            else "no intact frame header"
        )
        yield Damage(offset, following - offset, what)
        offset = following


def _runs_out(frame: Frame | None, size: int) -> bool:
    return frame is not None and frame.end > size


def _is_trailer(data: bytes | mmap.mmap, offset: int) -> bool:
    return read_trailer(data) is not None and offset == len(data) - TRAILER.size


def _resync(data: bytes | mmap.mmap, offset: int) -> int | None:
    """Return where the next intact frame begins."""
    while (offset := data.find(FRAME_MAGIC, offset)) >= 0:
        frame = frame_at(data, offset)
        if frame is not None and frame.end <= len(data) and is_intact(data, frame):
            return offset
        offset += 1
    return None


def pack_trailer(footer_offset: int) -> bytes:
    """Return the last bytes of a sealed log."""
    head = struct.pack("<Q", footer_offset)
    return head + struct.pack("<I4s8s", zlib.crc32(head), b"\0" * 4, TRAILER_MAGIC)


def read_trailer(data: bytes | mmap.mmap) -> int | None:
    """Return the footer's offset, or None where the log is not sealed."""
    if len(data) < SIGNATURE.size + TRAILER.size:
        return None
    tail = bytes(data[len(data) - TRAILER.size :])
    offset, checksum, zeros, magic = TRAILER.unpack(tail)
    if magic != TRAILER_MAGIC or zeros != b"\0" * 4 or zlib.crc32(tail[:8]) != checksum:
        return None
    return int(offset)
