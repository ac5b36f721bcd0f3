"""Tells a running writer from a dead one: by the lock on its log, or by its number."""

from __future__ import annotations

import os
import time
from pathlib import Path

try:
    import fcntl
except ImportError:
    # Windows has no flock: a log whose writer is gone reads as running until it is recovered.
    fcntl = None  # type: ignore[assignment]


_HOLD_S = 5.0
"""Longest wait for the processes that ask for the writer of a log."""

_POLL_S = 0.001


def hold(descriptor: int) -> None:
    """Lock an open log for as long as the process lives; even kill -9 releases the lock."""
    deadline = time.monotonic() + _HOLD_S
    # A process that asks whether the new log is being written holds it for some microseconds.
    # Without its lock, a log would be recovered under its writer. None: there are no locks.
    while try_hold(descriptor) is False and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def try_hold(descriptor: int) -> bool | None:
    """Lock an open file if no other process holds it.

    Returns:
        Whether it is locked now; None if the system, or the file system, has no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_being_written(path: Path) -> bool | None:
    """Return whether a living writer holds a log, or None if it cannot be known.

    It cannot be known without flock, or without permission to open the file.
    """
    if fcntl is None:
        return None
    try:
        # Without O_NONBLOCK, to open a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # A shared lock: two readers that ask at once must not take each other for a writer.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(descriptor)


def is_running(number: str) -> bool:
    """Return whether a process with this number runs, or may run.

    Args:
        number: The number as a file's name has it; a text that is none is one of no process.
    """
    if os.name == "nt":
        # There os.kill would end the process.
        return True
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except OSError:
        return True
    return True
