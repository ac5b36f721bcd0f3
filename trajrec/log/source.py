"""The bytes of a log: a range reader.

A reader asks for ranges, never for a map of the whole file: a map of a file that another program
truncates ends its process, and ranges are the requests that an object storage answers.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from trajrec.errors import LogCorruptError, LogError
from trajrec.log.open_files import OpenFiles

UNREADABLE = "cannot be read"
"""The beginning of the message if the system refuses to open or to read a file."""


_open_files = OpenFiles()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_files.go_on_in_child)


class ByteSource(Protocol):
    """Bytes that are read by ranges.

    Attributes:
        path: The name in messages.
        size: The number of bytes, as it was when the source was opened or refreshed.
    """

    path: Path
    size: int

    def range(self, start: int, end: int) -> bytes:
        """Return bytes [start, end), fewer if the source has no more.

        Raises:
            LogError: The bytes cannot be read.
        """
        ...

    def ranges(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return several ranges; an object storage answers them with few requests."""
        ...

    def next_data(self, start: int) -> int:
        """Return the first offset from `start` on at which there may be bytes other than 0."""
        ...

    def refresh(self) -> bool:
        """Look at the size again, and return whether the source is still the one it was."""
        ...

    def close(self) -> None:
        """Close the source. Twice is harmless."""
        ...


class FileSource:
    """A regular file, read by `pread`.

    A process may have few files open, and a corpus many logs: of the sources that are not closed,
    only the last that were read have their file open.

    Raises:
        LogError: The file cannot be opened, or it is no regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_closed = False
        self._n_forks = _open_files.n_forks
        # While a thread reads, no other one closes the file. Windows has no pread: there the
        # position of the file is shared, too.
        self._lock = threading.RLock()
        self._descriptor = -1
        status = self._open()
        self._identity = (status.st_dev, status.st_ino)
        self.size = status.st_size
        _open_files.use(self)

    def range(self, start: int, end: int) -> bytes:
        """Return bytes [start, end), fewer if the file has no more."""
        try:
            with self._own_lock():
                return self._read(self._opened(), start, max(0, end - start))
        except OSError as exc:
            raise _unreadable(self.path, exc) from exc

    def ranges(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return several ranges."""
        return [self.range(start, end) for start, end in spans]

    def next_data(self, start: int) -> int:
        """Return the first offset from `start` on that does not lie in a hole of the file.

        A file of a few bytes may state a size of many terabytes: to read them would take days.
        """
        if not hasattr(os, "SEEK_DATA"):
            return start
        with self._own_lock():
            try:
                return os.lseek(self._opened(), start, os.SEEK_DATA)
            except OSError as exc:
                # ENXIO: there is a hole up to the end. Others: the file system knows no holes.
                return self.size if exc.errno == errno.ENXIO else start

    def refresh(self) -> bool:
        """Look at the size again, and return whether the path still names this file."""
        try:
            status = os.stat(self.path)
        except OSError as exc:
            raise _unreadable(self.path, exc) from exc
        is_same = (status.st_dev, status.st_ino) == self._identity
        if is_same:
            own_size = status.st_size
        else:
            with self._own_lock():
                own_size = os.fstat(self._descriptor).st_size if self._descriptor >= 0 else 0
        is_longer = own_size >= self.size
        self.size = own_size
        return is_same and is_longer

    def close(self) -> None:
        """Close the file. Twice is harmless."""
        self._is_closed = True
        with self._own_lock():
            self.let_go()
        _open_files.forget(self)

    def __del__(self) -> None:
        # `_lock` is missing if the constructor was interrupted. When the interpreter ends, the
        # names of this module may be gone before the object; the system closes the file then.
        are_gone = os is None or _open_files is None
        if not are_gone and getattr(self, "_lock", None) is not None:
            self.close()

    def try_let_go(self) -> bool:
        """Close the file until it is read again, unless a thread reads it; return whether it did."""
        lock = self._own_lock()
        if not lock.acquire(blocking=False):
            return False
        try:
            self.let_go()
            return True
        finally:
            lock.release()

    def let_go(self) -> None:
        """Close the file until it is read again. The caller has the lock."""
        if self._descriptor >= 0:
            descriptor = self._descriptor
            self._descriptor = -1
            os.close(descriptor)

    def _own_lock(self) -> threading.RLock:
        """Return the lock of this process: a thread that is not in a forked child may hold the old."""
        if self._n_forks != _open_files.n_forks:
            self._lock = threading.RLock()
            self._n_forks = _open_files.n_forks
        return self._lock

    def _opened(self) -> int:
        """Return the descriptor of the open file. The caller has the lock.

        Raises:
            LogError: The source was closed, or the path names another file now.
        """
        if self._is_closed:
            raise LogError(
                "the reader was closed; read episodes before you close their corpus", path=self.path
            )
        if self._descriptor < 0:
            status = self._open()
            if (status.st_dev, status.st_ino) != self._identity:
                self.let_go()
                raise LogError("was replaced since it was opened; open it again", path=self.path)
        _open_files.use(self)
        return self._descriptor

    def _open(self) -> os.stat_result:
        """Open the file, and return its status."""
        # Without O_NONBLOCK, to open a FIFO waits for a writer. Windows has neither flag.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        flags |= getattr(os, "O_CLOEXEC", 0)
        try:
            # Before it is opened too: to open a device may change it, and a socket says less.
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise LogError("not a regular file", path=self.path)
            try:
                self._descriptor = os.open(self.path, flags)
            except OSError as exc:
                if exc.errno not in (errno.EMFILE, errno.ENFILE) or not _open_files.let_go():
                    raise
                self._descriptor = os.open(self.path, flags)
        except OSError as exc:
            raise _unreadable(self.path, exc) from exc
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.let_go()
            raise LogError("not a regular file", path=self.path)
        return status

    def _read(self, descriptor: int, start: int, size: int) -> bytes:
        """Return up to `size` bytes; the system may return fewer at once than it has."""
        data = _read_once(descriptor, start, size)
        if len(data) in (0, size):
            return data
        parts = [data]
        n_read = len(data)
        while n_read < size:
            data = _read_once(descriptor, start + n_read, size - n_read)
            if not data:
                break
            parts.append(data)
            n_read += len(data)
        return b"".join(parts)


def read_ends(path: str, n_first: int, n_last: int) -> tuple[bytes, bytes] | None:
    """Return the first and last bytes of a small look at a file, None if it takes a `FileSource`.

    A source takes three times as long to make, which counts for 100,000 files.
    """
    if not hasattr(os, "pread"):
        return None
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return None
            last = max(0, status.st_size - n_last)
            return os.pread(descriptor, n_first, 0), os.pread(descriptor, n_last, last)
        finally:
            os.close(descriptor)
    except OSError:
        return None


def _read_once(descriptor: int, start: int, size: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, start)
    os.lseek(descriptor, start, os.SEEK_SET)
    return os.read(descriptor, size)


class Head:
    """The first bytes of a source, as a source."""

    def __init__(self, source: ByteSource, size: int) -> None:
        self.path = source.path
        self.size = min(size, source.size)
        self._source = source

    def range(self, start: int, end: int) -> bytes:
        """Return bytes [start, end), fewer if the source has no more."""
        return self._source.range(start, min(end, self.size))

    def ranges(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return several ranges."""
        return [self.range(start, end) for start, end in spans]

    def next_data(self, start: int) -> int:
        """Return the first offset from `start` on at which there may be bytes other than 0."""
        return self._source.next_data(start)

    def refresh(self) -> bool:
        """Return whether the source is still the one it was."""
        return self._source.refresh()

    def close(self) -> None:
        """Leave the source open."""


def read_whole(source: ByteSource, start: int, end: int) -> bytes:
    """Return bytes [start, end).

    Raises:
        LogCorruptError: The source has fewer bytes now than when it was opened.
        LogError: They cannot be read.
    """
    data = source.range(start, end)
    if len(data) != end - start:
        raise LogCorruptError(
            f"the file became shorter while it was read: {len(data)} of {end - start} bytes are left",
            path=source.path,
            offset=start,
        )
    return data


class Window:
    """A source that is read from front to back: small ranges come from one large read.

    Args:
        source: The source.
        size: The bytes of a read.
    """

    def __init__(self, source: ByteSource, size: int = 1 << 20) -> None:
        self._source = source
        self._size = size
        self._start = 0
        self._data = b""

    def range(self, start: int, end: int) -> bytes:
        """Return bytes [start, end), fewer if the source has no more."""
        end = min(end, self._source.size)
        if start < self._start or end > self._start + len(self._data):
            if end - start > self._size:
                return self._source.range(start, end)
            self._start = start
            self._data = self._source.range(start, min(start + self._size, self._source.size))
        return self._data[start - self._start : end - self._start]

    def find(self, pattern: bytes, start: int) -> int:
        """Return the offset of the next occurrence of a pattern, -1 if there is none."""
        while (start := self._source.next_data(start)) < self._source.size:
            data = self.range(start, start + self._size)
            at = data.find(pattern)
            if at >= 0:
                return start + at
            if len(data) < self._size:
                return -1
            # The pattern may lie across the border of two reads.
            start += len(data) - len(pattern) + 1
        return -1


def _unreadable(path: Path, exc: OSError) -> LogError:
    return LogError(f"{UNREADABLE}: {exc.strerror or exc}", path=path)
