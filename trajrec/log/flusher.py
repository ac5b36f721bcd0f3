"""The background thread of a process that flushes its log writers."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from typing import Protocol

from trajrec.errors import LogWriteError

# A killed process loses the data that were not handed over: with the write itself this stays below
# the 100 ms that docs/reference/log-format.md promises.
FLUSH_S = 0.04
"""Seconds between two flushes."""


class Flushable(Protocol):
    """A writer, as the flusher sees it."""

    def flush_pending(self) -> None:
        """Flush. A failure is kept for the thread that records."""
        ...

    def flush(self) -> None:
        """Flush. A failure is raised."""
        ...

    def leave_to_parent(self) -> None:
        """Close without writing, since the parent of this forked process writes the log."""
        ...


class Flusher:
    """Flushes its writers every `FLUSH_S` seconds, and when it is woken.

    Compression and I/O in this thread do not delay the loop that records.

    Attributes:
        wake: Set it to have the writers flushed at once.
    """

    def __init__(self) -> None:
        self.wake = threading.Event()
        # A writer that nobody refers to is not kept alive by the flusher.
        self.writers: weakref.WeakSet[Flushable] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def add(self, writer: Flushable) -> None:
        """Flush a writer from now on. The first writer starts the thread."""
        with self._lock:
            self.writers.add(writer)
            if self._thread is None:
                # A daemon: it must not keep a program from ending.
                self._thread = threading.Thread(
                    target=self._run, name="trajrec-flusher", daemon=True
                )
                self._thread.start()

    def discard(self, writer: Flushable) -> None:
        """Stop flushing a writer. The thread ends after the last one."""
        self.writers.discard(writer)

    def _run(self) -> None:
        while True:
            self.wake.wait(FLUSH_S)
            self.wake.clear()
            with self._lock:
                writers = list(self.writers)
                if not writers:
                    self._thread = None
                    return
            for writer in writers:
                writer.flush_pending()
            # Or the list would keep the writers alive while the thread waits.
            del writers, writer


_the_flusher: Flusher | None = None


def process_flusher() -> Flusher:
    """Return the flusher of this process."""
    global _the_flusher
    if _the_flusher is None:
        _the_flusher = Flusher()
    return _the_flusher


def _after_fork_in_child() -> None:
    """Leave the parent's logs to the parent.

    The child has no flusher thread, and its locks may be held by threads that it does not have.
    """
    global _the_flusher
    if _the_flusher is not None:
        for writer in list(_the_flusher.writers):
            writer.leave_to_parent()
    _the_flusher = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


@atexit.register
def _flush_all() -> None:
    """Flush the logs that a program left open at its end.

    They stay unsealed, since nobody closed them, and are readable.
    """
    if _the_flusher is not None:
        for writer in list(_the_flusher.writers):
            with contextlib.suppress(LogWriteError):
                writer.flush()
