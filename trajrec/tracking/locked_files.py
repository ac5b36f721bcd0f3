"""Reads of files on which SQLite may hold locks for this process."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import BinaryIO

_SQLITE_MAGIC = b"SQLite format 3\0"
"""The first 16 bytes of every SQLite database."""

MAX_HELD = 256
"""Files that stay open: a process may mostly have 1,024 of all kinds. Of more, the oldest closes."""

# (device, inode) -> the descriptor of an open file.
_held: dict[tuple[int, int], int] = {}
_lock = threading.RLock()


@contextlib.contextmanager
def open_to_read(path: str) -> Iterator[BinaryIO]:
    """Open a file, and close it at the end of the block unless it is a part of a database.

    By POSIX a process loses all its locks on a file as soon as it closes one of its descriptors.
    The next process that leaves the database would delete the write-ahead log under the connections
    of this one. So databases and their shared memory stay open until they are deleted, up to
    `MAX_HELD`.

    Raises:
        OSError: The file cannot be read.
    """
    if os.name != "posix":
        with open(path, "rb") as file:
            yield file
        return
    with _lock:
        descriptor = _find_held(path)
        is_held = descriptor is not None
        if descriptor is None:
            descriptor = os.open(path, os.O_RDONLY)
            is_held = _may_be_locked(descriptor, path)
            if is_held:
                _hold(descriptor)
        if is_held:
            with open(descriptor, "rb", closefd=False) as file:
                file.seek(0)
                yield file
            return
    with open(descriptor, "rb") as file:
        yield file


def _find_held(path: str) -> int | None:
    """Return the descriptor of a file that is held open, None if it is not."""
    if not _held:
        return None
    status = os.stat(path)
    return _held.get((status.st_dev, status.st_ino))


def _may_be_locked(descriptor: int, path: str) -> bool:
    """Return whether a file is a database or its shared memory."""
    return path.endswith("-shm") or os.pread(descriptor, len(_SQLITE_MAGIC), 0) == _SQLITE_MAGIC


def _hold(descriptor: int) -> None:
    """Keep a file open until it is deleted."""
    for key, other in list(_held.items()):
        # Nobody can open a deleted file any more, so its locks are of no use.
        if not os.fstat(other).st_nlink:
            os.close(_held.pop(key))
    while len(_held) >= MAX_HELD:
        os.close(_held.pop(next(iter(_held))))
    status = os.fstat(descriptor)
    _held[status.st_dev, status.st_ino] = descriptor


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    # Another thread may have held it.
    os.register_at_fork(after_in_child=_renew_lock)
