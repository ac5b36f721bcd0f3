"""The journal: a small file beside a log that holds each item as soon as it is recorded.

Items reach the log itself in large frames, up to 30 s later. Until then the journal has them.
It is mapped into memory, so that an item needs no system call: the bytes belong to the kernel as
soon as they are copied. The end of the process by any signal leaves them there, also while other
code holds the interpreter's lock.

The file has two halves, which are filled in turn. A half begins with the number of its first item,
and its first row brings its layout and is no change of an earlier row, so a half can be read alone.
It is used again when its items are in the log.

A record is the size and kind of its content, a checksum, and the content. The checksum is made from
the item's number too, so that a record of an earlier round is never taken for a new one.
docs/reference/log-format.md specifies the file; `trajrec.log.journal_reader` reads it.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import struct
from pathlib import Path
from zlib import crc32

from trajrec.log.mounts import has_coherent_maps

SUFFIX = ".journal"

MAGIC = b"\x89TRJJNL\n"
HALF_MAGIC = b"trjHALF\n"
VERSION = 1

# magic, version, bytes of a half, id of the log, checksum
FILE_HEADER = struct.Struct("<8sII16sI")
# magic, id of the log, number of the first item, checksum
HALF_HEADER = struct.Struct("<8s16sQI")
# kind and size of the content, checksum
RECORD_HEADER = struct.Struct("<II")

ROW = 0
EVENT = 1 << 28
LAYOUT = 2 << 28
"""Kinds of records, in the upper bits of the first word of a record.

A layout is no item: it has the number of the item after it."""

MAX_CONTENT = EVENT - 1

HALF_BYTES = 1 << 17
"""The size of a half. A block of CartPole, 1,536 rows, takes half of it."""

EVENT_HALF_BYTES = 1 << 18
"""The size of a half for the events of agents. A frame of so many events compresses well."""

MAX_HALF_BYTES = 1 << 21
"""The largest size of a half, for large rows: a chunk has many of them, so that it compresses."""

MAX_PIXEL_HALF_BYTES = 1 << 24
"""The same for pixels: a half has a whole picture and changes of it, which are far smaller."""

FIRST_HALF = 64
"""The offset of the first half."""

SMALL = 1024
"""Records whose content has fewer bytes are written by a `Struct` that is made once."""

PACK_INTO = [struct.Struct(f"<II{n}s").pack_into for n in range(SMALL)]
"""Size of the content -> the function that writes a record into a map: (map, offset, word,
checksum, content)."""


def journal_path(log: Path) -> Path:
    """Return the path of a log's journal. A symbolic link to a log has none beside it."""
    if log.is_symlink():
        log = Path(os.path.realpath(log))
    return log.with_name(log.name + SUFFIX)


def delete_journal(log: Path) -> None:
    """Delete the journal of a sealed log, if a killed process has left one."""
    with contextlib.suppress(OSError):
        os.unlink(journal_path(log))


def record_checksum(content: bytes | memoryview, kind: int, number: int) -> int:
    """Return the checksum of a record, which depends on its kind and number too."""
    return crc32(content, kind ^ number)


class Journal:
    """The journal of one log, written by system calls. One thread at a time may write.

    The offset of the next record is kept by the caller.

    Args:
        log: The path of the log.
        log_id: The id of the log, 32 hex digits.
        half_bytes: The size of a half.

    Attributes:
        half_bytes: The size of a half.
        start: The offset of the first record of the half that is being filled.
        end: The end of this half. 0 means that nothing can be written until `restart` is called.
        target: The map of the file, None if it is written by system calls.

    Raises:
        OSError: The file cannot be created, for instance because the disk is full.
    """

    target: mmap.mmap | None = None

    def __init__(self, log: Path, log_id: str, half_bytes: int = HALF_BYTES) -> None:
        self.path = journal_path(log)
        self.half_bytes = half_bytes
        self.start = 0
        self.end = 0
        self._log_id = bytes.fromhex(log_id)
        self._half = 0
        # The last item of the other half.
        self._last_of_other = -1
        self._is_closed = False
        self._is_left = False
        self._descriptor = -1
        self.restart(0, half_bytes)

    def put(self, position: int, number: int, kind: int, content: bytes) -> int:
        """Write a record, and return the offset of the next one.

        A call that an exception has interrupted may be repeated with the same arguments.

        Args:
            position: The offset of the record.
            number: The number of the item, or of the item after a record that is none.
            kind: ROW, EVENT or LAYOUT.
            content: The bytes.

        Returns:
            The offset after the record, 0 if the half has no room for it.
        """
        end = position + RECORD_HEADER.size + len(content)
        if end > self.end:
            return 0
        head = RECORD_HEADER.pack(kind | len(content), crc32(content, kind ^ number))
        self._write(position, head + content)
        return end

    def can_switch(self, last_written: int) -> bool:
        """Return whether the log, which ends with item `last_written`, has the other half's items."""
        return self.end > 0 and self._last_of_other <= last_written

    def switch(self, number: int) -> int:
        """Begin the other half with an item; return its offset. `can_switch` must be true."""
        # Nothing can be written until the new half has begun: after an exception in between
        # `restart` is called.
        self.end = 0
        self._last_of_other = number - 1
        self._half = 1 - self._half
        return self._begin_half(number)

    def restart(self, number: int, half_bytes: int) -> int:
        """Begin anew with an item; return its offset. All items before it must be in the log.

        Raises:
            OSError: As for the constructor.
        """
        self.end = 0
        if self._is_closed:
            return 0
        if half_bytes != self.half_bytes:
            self._close_file()
            self.half_bytes = half_bytes
        if self._descriptor < 0:
            self._open_file()
        self._last_of_other = -1
        self._half = 0
        return self._begin_half(number)

    def pause(self) -> None:
        """Delete the file until `restart`, because all items are in the log."""
        self.end = 0
        self._close_file()
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def delete(self) -> None:
        """Close the file and delete it, because all items are in the log. Twice is harmless."""
        self.close()
        if not self._is_left:
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def close(self) -> None:
        """Close the file and leave it, because some items are not in the log."""
        self._is_closed = True
        self.end = 0
        self._close_file()

    def leave_to_parent(self) -> None:
        """Close the file for good: the parent of this forked process writes it."""
        self._is_left = True
        self.close()

    def _begin_half(self, number: int) -> int:
        offset = FIRST_HALF + self._half * self.half_bytes
        head = HALF_HEADER.pack(HALF_MAGIC, self._log_id, number, 0)[:-4]
        self._write(offset, head + struct.pack("<I", crc32(head)))
        self.start = offset + HALF_HEADER.size
        self.end = offset + self.half_bytes
        return self.start

    def _open_file(self) -> None:
        """Create the file, or empty it, and write its header."""
        size = FIRST_HALF + 2 * self.half_bytes
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
        descriptor = os.open(self.path, flags, 0o666)
        try:
            _allocate(descriptor, size)
            self._map_file(descriptor, size)
        except BaseException:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            raise
        self._keep_file(descriptor)
        head = FILE_HEADER.pack(MAGIC, VERSION, self.half_bytes, self._log_id, 0)[:-4]
        self._write(0, head + struct.pack("<I", crc32(head)))

    def _map_file(self, descriptor: int, size: int) -> None:
        """Map the file into memory, if it is written so."""

    def _keep_file(self, descriptor: int) -> None:
        """Keep the descriptor of the file, if it is needed."""
        self._descriptor = descriptor

    def _write(self, offset: int, data: bytes) -> None:
        """Write bytes at an offset."""
        while data:
            if hasattr(os, "pwrite"):
                n_written = os.pwrite(self._descriptor, data, offset)
            else:
                # Windows.
                os.lseek(self._descriptor, offset, os.SEEK_SET)
                n_written = os.write(self._descriptor, data)
            data = data[n_written:]
            offset += n_written

    def _close_file(self) -> None:
        if self._descriptor >= 0:
            descriptor = self._descriptor
            self._descriptor = -1
            with contextlib.suppress(OSError):
                os.close(descriptor)


class MappedJournal(Journal):
    """The journal of one log, mapped into memory: an item takes 0.2 us instead of 1.5 us.

    Attributes:
        target: The map.
    """

    target: mmap.mmap

    def put(self, position: int, number: int, kind: int, content: bytes) -> int:
        """Write a record, and return the offset of the next one, 0 without room for it."""
        size = len(content)
        end = position + size + 8
        if end > self.end:
            return 0
        check = crc32(content, kind ^ number)
        if size < SMALL:
            PACK_INTO[size](self.target, position, kind | size, check, content)
        else:
            self.target[position + 8 : end] = content
            RECORD_HEADER.pack_into(self.target, position, kind | size, check)
        return end

    def _map_file(self, descriptor: int, size: int) -> None:
        self.target = mmap.mmap(descriptor, size)

    def _keep_file(self, descriptor: int) -> None:
        self._descriptor = 0
        # The map has a descriptor of its own.
        os.close(descriptor)

    def _write(self, offset: int, data: bytes) -> None:
        self.target[offset : offset + len(data)] = data

    def _close_file(self) -> None:
        if self._descriptor >= 0:
            self._descriptor = -1
            # A signal handler may close the log in the middle of a write.
            with contextlib.suppress(BufferError):
                self.target.close()


def open_journal(log: Path, log_id: str, half_bytes: int = HALF_BYTES) -> Journal:
    """Create the journal of a log, mapped if the file system can be trusted with a map.

    Raises:
        OSError: The file cannot be created, for instance because the disk is full.
    """
    if has_coherent_maps(log.parent):
        try:
            return MappedJournal(log, log_id, half_bytes)
        except OSError as exc:
            # Some file systems have no maps that are shared.
            if exc.errno not in (errno.ENODEV, errno.EINVAL, errno.EACCES, errno.EOPNOTSUPP):
                raise
    return Journal(log, log_id, half_bytes)


def _allocate(descriptor: int, size: int) -> None:
    """Give a file its space on the disk, so that a full disk shows now and not at a later write."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    zeros = bytes(1 << 16)
    while size > 0:
        size -= os.write(descriptor, zeros[:size])
