"""A file that one process has at a time, even if the one before was killed."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from trajrec.errors import LogError
from trajrec.log import locks

WAIT_S = 10.0
"""Longest wait for another process. Most rewrites take less than a second."""

_POLL_S = 0.02

_EMPTY_S = 5.0
"""Longest time in which a process writes its name into its lock file."""


class _BusyError(Exception):
    """Another process has the file."""


@contextlib.contextmanager
def exclusive_file(path: Path, *, log: Path) -> Iterator[int]:
    """Open a file, empty, that no other process opens so until the end of the block.

    A file that a killed process left is taken over. At the end the file is deleted, unless the
    block has renamed it.

    Args:
        path: The file.
        log: The log that it belongs to, for messages.

    Yields:
        Its descriptor.

    Raises:
        LogError: Another process has the file for long, or it cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        try:
            descriptor = _open(path, time.monotonic() + WAIT_S, stack)
        except _BusyError as exc:
            raise LogError(
                f"{exc} is rewriting this log; try again when it is done", path=log
            ) from exc
        except OSError as exc:
            name = "" if exc.filename is None else f" ({exc.filename})"
            raise LogError(
                f"cannot be rewritten: {exc.strerror or exc}{name}; it is unchanged", path=log
            ) from exc
        stack.callback(_close, path, descriptor)
        os.ftruncate(descriptor, 0)
        yield descriptor


def _open(path: Path, deadline: float, stack: contextlib.ExitStack) -> int:
    """Return the descriptor of the file; `stack` gets the lock if it is a file of its own."""
    while True:
        descriptor = _open_once(path)
        is_held = locks.try_hold(descriptor)
        if is_held is None:
            os.close(descriptor)
            stack.enter_context(_lock_file(path.with_name(path.name + ".lock"), deadline))
            return _open_once(path)
        # The process before may have renamed or deleted the file while this one waited.
        if is_held and _is_named(path, descriptor):
            return descriptor
        os.close(descriptor)
        if not is_held:
            _wait(deadline, "another process")


def _open_once(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    # Not through a link that somebody put there, and not into a FIFO.
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return os.open(path, flags, 0o600)
    except PermissionError:
        # The file of a killed run has the mode of its log, which may be one to be read only. Without
        # such a file it is the folder that is only to be read.
        with contextlib.suppress(FileNotFoundError):
            os.chmod(path, 0o600)
        return os.open(path, flags, 0o600)


def _close(path: Path, descriptor: int) -> None:
    """Delete the file, unless it was renamed, and release it."""
    is_named = _is_named(path, descriptor)
    if os.name == "nt":
        os.close(descriptor)
    # Deleted before it is released: a process that waits for it then opens a new one.
    if is_named:
        with contextlib.suppress(OSError):
            path.unlink()
    if os.name != "nt":
        os.close(descriptor)


def _is_named(path: Path, descriptor: int) -> bool:
    """Return whether a path still names an open file."""
    own = os.fstat(descriptor)
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (own.st_dev, own.st_ino)


def _wait(deadline: float, holder: str) -> None:
    if time.monotonic() > deadline:
        raise _BusyError(holder)
    time.sleep(_POLL_S)


@contextlib.contextmanager
def _lock_file(path: Path, deadline: float) -> Iterator[None]:
    """Hold a file that says which process has the lock; take over that of a dead process."""
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            break
        except FileExistsError:
            holder = _holder(path)
            if holder is not None:
                _wait(deadline, holder)
    try:
        os.write(descriptor, f"{os.getpid()} {socket.gethostname()}".encode())
        yield
    finally:
        # Open until now: Windows deletes no open file, so others see that its process lives.
        os.close(descriptor)
        with contextlib.suppress(OSError):
            path.unlink()


def _holder(path: Path) -> str | None:
    """Return the name of the process that has a lock file; None if it has none any more.

    The file of a dead process is deleted.
    """
    try:
        text = path.read_text(errors="replace")
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None
    except OSError:
        return f"another process (lock file {path})"
    number, _, host = text.partition(" ")
    if _is_dead(number, host, age):
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return f"another process (lock file {path})"
        return None
    return f"process {number or '?'} of {host or 'this machine'} (lock file {path})"


def _is_dead(number: str, host: str, age: float) -> bool:
    """Return whether the process that made a lock file is gone."""
    if os.name == "nt":
        # If it lives, the file cannot be deleted; os.kill would end the process.
        return True
    if not number.isdecimal() or not host:
        # Without contents it is being made, or its maker was killed.
        return age > _EMPTY_S
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
