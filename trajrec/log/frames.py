"""Frames: the parts of a log file, with their checksums; the file's first and its last bytes.

docs/reference/log-format.md specifies every byte. `trajrec.log.format1` has the frames of format 1,
and `trajrec.log.scan` looks for frames in a file.
"""

from __future__ import annotations

import functools
import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from trajrec.log.schema import FORMAT_VERSION

# Like PNG's: a byte with the high bit set and both line ends show at once that a transfer has
# changed the text.
MAGIC = b"\x89TRJ\r\n\x1a\n"
# In every format: magic, format version, checksum of these 12 bytes.
SIGNATURE = struct.Struct("<8sII")
# In format 2 behind it: the log's id, and its checksum.
SIGNATURE_ID = struct.Struct("<16sI")
FRAME_MAGIC = b"\xf5tr2"
# magic, kind, flags, 0, sequence number, size of meta, of meta decompressed, and of data, checksum
# of meta, checksum of data, the log's id, checksum of the header
FRAME = struct.Struct("<4sBBHIIIIII16sI")
# offset of the footer, the log's id, seal, generation, 0, checksum of these, magic
TRAILER = struct.Struct("<Q16s16sIII8s")
TRAILER_MAGIC = b"trjSEAL2"

HEADER = 1
CHUNK = 2
FOOTER = 3
HEADER_COPY = 4

# Far above the 1 MiB of a block. A size beyond it is damage even if its checksum fits. A reader
# needs up to three times as much to decode a part, so a frame never claims 1 GB of memory.
MAX_PART = 1 << 28

ID_BYTES = 16
"""The size of a log's id, and of its seal."""


class Frame(NamedTuple):
    """The header of a frame. Its own checksum was checked, those of the payload were not.

    Attributes:
        header_size: The size of the header.
        meta_checksum: The checksum of the meta part; None in format 1, which has one checksum for
            the whole payload, in `data_checksum`.
        log_id: The id of the log that the frame was written for; empty in format 1.
        header: The bytes of the header.
    """

    offset: int
    kind: int
    flags: int
    sequence: int
    header_size: int
    meta_size: int
    meta_raw: int
    data_size: int
    meta_checksum: int | None
    data_checksum: int
    log_id: bytes
    header: bytes

    @property
    def meta_offset(self) -> int:
        """The offset of the payload."""
        return self.offset + self.header_size

    @property
    def data_offset(self) -> int:
        """The offset of the data part."""
        return self.meta_offset + self.meta_size

    @property
    def end(self) -> int:
        """The offset behind the frame."""
        return self.data_offset + self.data_size


class Damage(NamedTuple):
    """Bytes of a log that cannot be read.

    Attributes:
        is_tail: Whether the file just stops there: a writer was killed, nothing was corrupted.
    """

    offset: int
    size: int
    reason: str
    is_tail: bool = False


class Trailer(NamedTuple):
    """The last bytes of a sealed log: they find the footer, and name the contents.

    Attributes:
        log_id: The id of the log.
        content: The seal: a digest over the headers of all frames, which hold the checksums of
            everything else. Two files of one log id and one seal have the same contents.
        generation: The number of times that the log was rewritten.
    """

    footer_offset: int
    log_id: bytes = b""
    content: bytes = b""
    generation: int = 0


class FileFormat(Protocol):
    """The bytes around the records, in one version of the format.

    Attributes:
        version: The version.
        first_frame: The offset of the first frame.
        frame_magic: The first bytes of each frame.
        frame_size: The size of a frame's header.
        trailer_size: The size of the trailer.
    """

    version: int
    first_frame: int
    frame_magic: bytes
    frame_size: int
    trailer_size: int

    def frame(self, head: bytes, offset: int) -> Frame | None:
        """Return the frame that begins with these bytes, or None if they are no intact header."""
        ...

    def trailer(self, tail: bytes) -> Trailer | None:
        """Return the trailer that these last bytes of a file are, or None."""
        ...


class Format2:
    """The present format."""

    version = 2
    first_frame = SIGNATURE.size + SIGNATURE_ID.size
    frame_magic = FRAME_MAGIC
    frame_size = FRAME.size
    trailer_size = TRAILER.size

    def frame(self, head: bytes, offset: int) -> Frame | None:
        """Return the frame that begins with these bytes, or None if they are no intact header."""
        if len(head) < FRAME.size or head[:4] != FRAME_MAGIC:
            return None
        if zlib.crc32(head[:-4]) != int.from_bytes(head[-4:], "little"):
            return None
        (
            _,
            kind,
            flags,
            _,
            sequence,
            meta_size,
            meta_raw,
            data_size,
            meta_checksum,
            data_checksum,
            log_id,
            _,
        ) = FRAME.unpack(head)
        if max(meta_size, meta_raw, data_size) > MAX_PART:
            return None
        return Frame(
            offset=offset,
            kind=kind,
            flags=flags,
            sequence=sequence,
            header_size=FRAME.size,
            meta_size=meta_size,
            meta_raw=meta_raw,
            data_size=data_size,
            meta_checksum=meta_checksum,
            data_checksum=data_checksum,
            log_id=log_id,
            header=head,
        )

    def trailer(self, tail: bytes) -> Trailer | None:
        """Return the trailer that these last bytes of a file are, or None."""
        if len(tail) != TRAILER.size:
            return None
        offset, log_id, content, generation, zeros, checksum, magic = TRAILER.unpack(tail)
        if magic != TRAILER_MAGIC or zeros or zlib.crc32(tail[:-12]) != checksum:
            return None
        return Trailer(offset, log_id, content, generation)


FORMAT2 = Format2()


# A reader of a corpus asks for each episode of a log.
@functools.lru_cache(maxsize=64)
def log_id_bytes(log_id: str) -> bytes:
    """Return the id of a log as it stands in frames, 16 bytes.

    That is the number that its 32 hex digits write. Format 1 allowed other ids, which no writer
    makes: they are digested.
    """
    if len(log_id) == 2 * ID_BYTES and set(log_id) <= set("0123456789abcdef"):
        return bytes.fromhex(log_id)
    return hashlib.blake2b(log_id.encode(), digest_size=ID_BYTES).digest()


def signature(log_id: bytes) -> bytes:
    """Return the first bytes of a log."""
    head = struct.pack("<8sI", MAGIC, FORMAT_VERSION)
    return (
        head + struct.pack("<I", zlib.crc32(head)) + SIGNATURE_ID.pack(log_id, zlib.crc32(log_id))
    )


def signature_log_id(head: bytes) -> bytes | None:
    """Return the log's id from the first bytes of a log of format 2, None if it is damaged."""
    rest = head[SIGNATURE.size : Format2.first_frame]
    if len(rest) < SIGNATURE_ID.size:
        return None
    log_id, checksum = SIGNATURE_ID.unpack(rest)
    return bytes(log_id) if zlib.crc32(log_id) == checksum else None


def pack_frame(
    kind: int,
    sequence: int,
    *,
    log_id: bytes,
    meta: bytes,
    meta_raw: int,
    data: Sequence[bytes] = (),
) -> list[bytes]:
    """Return a frame as parts, to be written together. The first part is its header.

    Args:
        kind: `HEADER`, `CHUNK`, `FOOTER` or `HEADER_COPY`.
        sequence: The number of the frame in its log.
        log_id: The log's id. A reader takes no frame of another log, so the bytes of a log that
            were recorded as a value are never taken for frames of the log that holds them.
        meta: The frame's record, compressed.
        meta_raw: The size of the record before compression.
        data: The columns of a chunk.

    Raises:
        ValueError: A part is larger than readers accept.
    """
    data_checksum = 0
    data_size = 0
    for part in data:
        data_checksum = zlib.crc32(part, data_checksum)
        data_size += len(part)
    # Readers take such a frame for damage: refusing it here shows the loss when it happens.
    largest = max(len(meta), meta_raw, data_size)
    if largest > MAX_PART:
        raise ValueError(f"{largest} bytes in one frame; at most {MAX_PART} are read back")
    sizes = (len(meta), meta_raw, data_size)
    checksums = (zlib.crc32(meta), data_checksum)
    # Packed with a checksum of 0, which is then cut off: the checksum covers all bytes before it.
    head = FRAME.pack(FRAME_MAGIC, kind, 0, 0, sequence, *sizes, *checksums, log_id, 0)[:-4]
    return [head + struct.pack("<I", zlib.crc32(head)), meta, *data]


def pack_trailer(trailer: Trailer) -> bytes:
    """Return the last bytes of a sealed log."""
    head = struct.pack(
        "<Q16s16sII",
        trailer.footer_offset,
        trailer.log_id,
        trailer.content,
        trailer.generation,
        0,
    )
    return head + struct.pack("<I8s", zlib.crc32(head), TRAILER_MAGIC)


def is_meta_intact(frame: Frame, payload: bytes) -> bool:
    """Return whether the record of a frame is complete and has the stored checksum.

    In format 1 the checksum is that of the whole payload.
    """
    if len(payload) != frame.meta_size + frame.data_size:
        return False
    if frame.meta_checksum is None:
        return zlib.crc32(payload) == frame.data_checksum
    return zlib.crc32(memoryview(payload)[: frame.meta_size]) == frame.meta_checksum


def is_intact(frame: Frame, payload: bytes) -> bool:
    """Return whether the whole payload of a frame is complete and has the stored checksums."""
    return is_meta_intact(frame, payload) and is_data_intact(frame, payload)


def is_data_intact(frame: Frame, payload: bytes) -> bool:
    """Return whether the columns of a frame with an intact record have the stored checksum."""
    if frame.meta_checksum is None:
        return True
    return zlib.crc32(memoryview(payload)[frame.meta_size :]) == frame.data_checksum


def damaged_columns(frame: Frame) -> Damage:
    """Return the damage of a frame whose record is intact and whose columns are not."""
    reason = "a frame's columns are damaged: its steps are lost, its events are not"
    return Damage(frame.data_offset, frame.data_size, reason)


class Seal:
    """The digest over the headers of a log's frames: it names the contents.

    Frames are added in the order of the file, all but the footer.
    """

    def __init__(self) -> None:
        self._hasher = hashlib.blake2b(digest_size=ID_BYTES)

    def add(self, header: bytes) -> None:
        """Add the header of the next frame."""
        self._hasher.update(header)

    def digest(self) -> bytes:
        """Return the seal of the frames so far, 16 bytes."""
        return self._hasher.digest()
