"""Frames: the parts of a log file, their checksums, and the search for the next one after damage.

docs/reference/log-format.md specifies every byte.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from trajrec.errors import LogFormatError
from trajrec.log.schema import FORMAT_VERSION

FileBytes: TypeAlias = bytes | mmap.mmap

# Like PNG's: a byte with the high bit set and both line ends show at once that a transfer has
# changed the text.
MAGIC = b"\x89TRJ\r\n\x1a\n"
# magic, format version, checksum
SIGNATURE = struct.Struct("<8sII")
FRAME_MAGIC = b"\xf5trj"
# magic, kind, flags, 0, sequence number, size of meta, of meta decompressed, and of data, checksum
# of the payload, checksum of the header
FRAME = struct.Struct("<4sBBHIIIIII")
# offset of the footer, checksum, zeros, magic
TRAILER = struct.Struct("<QI4s8s")
TRAILER_MAGIC = b"trjSEAL\n"

HEADER = 1
CHUNK = 2
FOOTER = 3

# Far above the 1 MiB of a block. A size beyond it is damage even if its checksum fits, so a reader
# never claims more memory for a part.
MAX_PART = 1 << 30


class Frame(NamedTuple):
    """The position and sizes of a frame. Its header was checked, its payload was not."""

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
    """Bytes of a log that cannot be read.

    Attributes:
        is_tail: Whether the file just stops there: a writer was killed, nothing was corrupted.
    """

    offset: int
    size: int
    reason: str
    is_tail: bool = False


def signature() -> bytes:
    """Return the first bytes of every log."""
    head = struct.pack("<8sI", MAGIC, FORMAT_VERSION)
    return head + struct.pack("<I", zlib.crc32(head))


def check_signature(data: FileBytes, path: Path) -> None:
    """Check that a file is a log of a format that this program reads.

    Raises:
        LogFormatError: The file is not a log, or its format is newer.
    """
    head = bytes(data[: SIGNATURE.size])
    if len(head) < SIGNATURE.size or head[:8] != MAGIC:
        raise LogFormatError(
            "not a trajrec log (its first bytes are not the signature of one)", path=path, offset=0
        )
    _, version, checksum = SIGNATURE.unpack(head)
    if zlib.crc32(head[:12]) != checksum:
        raise LogFormatError(
            "the signature is damaged; `trajrec recover` reads the rest", path=path, offset=8
        )
    if version > FORMAT_VERSION:
        raise LogFormatError(
            f"format version {version} is newer than {FORMAT_VERSION}, the newest that this "
            "trajrec reads; upgrade trajrec",
            path=path,
            offset=8,
        )


def pack_frame(
    kind: int, sequence: int, *, meta: bytes, meta_raw: int, data: Sequence[bytes] = ()
) -> list[bytes]:
    """Return a frame as parts, to be written together.

    Args:
        kind: `HEADER`, `CHUNK` or `FOOTER`.
        sequence: The number of the frame in its log.
        meta: The frame's record, compressed.
        meta_raw: The size of the record before compression.
        data: The columns of a chunk.

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
    sizes = (len(meta), meta_raw, data_size)
    # Packed with a checksum of 0, which is then cut off: the checksum covers all bytes before it.
    head = FRAME.pack(FRAME_MAGIC, kind, 0, 0, sequence, *sizes, checksum, 0)[:-4]
    return [head + struct.pack("<I", zlib.crc32(head)), meta, *data]


def frame_at(data: FileBytes, offset: int) -> Frame | None:
    """Return the frame at an offset, or None if no intact frame header is there."""
    head = bytes(data[offset : offset + FRAME.size])
    if len(head) < FRAME.size or head[:4] != FRAME_MAGIC:
        return None
    if zlib.crc32(head[:-4]) != int.from_bytes(head[-4:], "little"):
        return None
    _, kind, _, _, sequence, meta_size, meta_raw, data_size, checksum, _ = FRAME.unpack(head)
    if max(meta_size, meta_raw, data_size) > MAX_PART:
        return None
    return Frame(
        offset=offset,
        kind=kind,
        sequence=sequence,
        meta_size=meta_size,
        meta_raw=meta_raw,
        data_size=data_size,
        checksum=checksum,
    )


def is_intact(data: FileBytes, frame: Frame) -> bool:
    """Return whether the payload of a frame is complete and has the stored checksum."""
    payload = memoryview(data)[frame.offset + FRAME.size : frame.end]
    # Released at once: an mmap with a memoryview on it cannot be closed.
    try:
        is_complete = len(payload) == frame.end - frame.offset - FRAME.size
        return is_complete and zlib.crc32(payload) == frame.checksum
    finally:
        payload.release()


def scan(data: FileBytes, start: int = SIGNATURE.size) -> Iterator[Frame | Damage]:
    """Yield the intact frames of a file from an offset on, and the damage between them.

    If a header is intact and its payload is not, the damage ends with that frame. If intact frames
    lie within it, the damage ends at the first of them: the sizes in the header then belong to
    bytes that were overwritten.
    """
    offset = start
    while offset < len(data):
        frame = frame_at(data, offset)
        if frame is not None and is_intact(data, frame):
            yield frame
            offset = frame.end
            continue
        if _is_trailer(data, offset):
            return
        following = _find_intact_frame(data, offset + 1)
        if following is None:
            yield _tail_damage(data, offset, frame)
            return
        reason = "no intact frame header" if frame is None else "a frame's payload is damaged"
        yield Damage(offset, following - offset, reason)
        offset = following


def _tail_damage(data: FileBytes, offset: int, frame: Frame | None) -> Damage:
    """Return the damage of a file that has no intact frame from an offset on.

    Args:
        data: The file.
        offset: The first damaged byte.
        frame: The frame whose header is intact there, or None.
    """
    size = len(data) - offset
    is_tail = size < FRAME.size if frame is None else frame.end > len(data)
    if is_tail:
        reason = "the file stops in the middle of a frame"
    else:
        reason = "no intact frame header" if frame is None else "a frame's payload is damaged"
    return Damage(offset, size, reason, is_tail=is_tail)


def _is_trailer(data: FileBytes, offset: int) -> bool:
    return offset == len(data) - TRAILER.size and read_trailer(data) is not None


def _find_intact_frame(data: FileBytes, offset: int) -> int | None:
    """Return the offset of the next intact frame, or None."""
    while (offset := data.find(FRAME_MAGIC, offset)) >= 0:
        frame = frame_at(data, offset)
        if frame is not None and is_intact(data, frame):
            return offset
        offset += 1
    return None


def pack_trailer(footer_offset: int) -> bytes:
    """Return the last bytes of a sealed log."""
    head = struct.pack("<Q", footer_offset)
    return head + struct.pack("<I4s8s", zlib.crc32(head), b"\0" * 4, TRAILER_MAGIC)


def read_trailer(data: FileBytes) -> int | None:
    """Return the offset of the footer, or None if the log is not sealed."""
    if len(data) < SIGNATURE.size + TRAILER.size:
        return None
    tail = bytes(data[len(data) - TRAILER.size :])
    offset, checksum, zeros, magic = TRAILER.unpack(tail)
    if magic != TRAILER_MAGIC or zeros != b"\0" * 4 or zlib.crc32(tail[:8]) != checksum:
        return None
    return int(offset)
