"""The background thread of a process that flushes its log writers."""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
import time
import weakref
from typing import Protocol

from trajrec.errors import LogWriteError

FLUSH_S = 30.0
"""Seconds between two flushes. The journal has all pending items, so a longer time loses no data
and gives larger frames. A CartPole step every 45 ms takes 281 bytes with 40 ms, 38 with 1 s and 20
with 30 s. The system itself leaves written bytes in memory for about 30 s."""


class Flushable(Protocol):
    """A writer, as the flusher sees it."""

    def flush_pending(self, *, only_full: bool = False) -> None:
        """Flush all, or only full blocks. A failure is kept for the thread that records."""
        ...

    def pause(self, *, is_shared: bool) -> None:
        """Flush at the end of the program; other threads may go on if `is_shared`.

        A failure is raised.
        """
        ...

    def leave_to_parent(self) -> None:
        """Close without writing, since the parent of this forked process writes the log."""
        ...


class Flusher:
    """Flushes its writers every `FLUSH_S` seconds, and their full blocks when it is woken.

    Compression and I/O in this thread do not delay the loop that records.
    """

    def __init__(self) -> None:
        # No `threading.Event`: if Ctrl-C comes while one is being set, its lock stays taken, and
        # the next call waits for ever. An item is put by one call of C.
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        # A writer that nobody refers to is not kept alive by the flusher.
        self.writers: weakref.WeakSet[Flushable] = weakref.WeakSet()
        self.thread: threading.Thread | None = None
        # Re-entrant: an exception inside of it, by Ctrl-C, must not lock its own thread out.
        self._lock = threading.RLock()

    def add(self, writer: Flushable) -> None:
        """Flush a writer from now on. The first writer starts the thread."""
        with self._lock:
            self.writers.add(writer)
            if self.thread is None or not self.thread.is_alive():
                # A daemon: it must not keep a program from ending.
                self.thread = threading.Thread(
                    target=self._run, name="trajrec-flusher", daemon=True
                )
                self.thread.start()

    def wake_up(self) -> None:
        """Have the full blocks of the writers flushed at once."""
        self._wakes.put(None)

    def discard(self, writer: Flushable) -> None:
        """Stop flushing a writer. The thread ends after the last one."""
        self.writers.discard(writer)

    def _run(self) -> None:
        next_flush = time.monotonic() + FLUSH_S
        while True:
            self._wait(next_flush - time.monotonic())
            # A block that has just begun waits: a chunk of its few rows would compress badly.
            only_full = time.monotonic() < next_flush
            if not only_full:
                next_flush = time.monotonic() + FLUSH_S
            with self._lock:
                writers = list(self.writers)
                if not writers:
                    self.thread = None
                    return
            for writer in writers:
                # A failure of the disk is kept by the writer. Another exception is raised again in
                # the recording thread, when that one flushes.
                with contextlib.suppress(Exception):
                    writer.flush_pending(only_full=only_full)
            # Or the list would keep the writers alive while the thread waits.
            del writers, writer

    def _wait(self, seconds: float) -> None:
        """Wait until the flusher is woken, but not longer; forget all calls up to now."""
        with contextlib.suppress(queue.Empty):
            self._wakes.get(timeout=max(0.0, seconds))
            while True:
                self._wakes.get_nowait()


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


def are_other_threads() -> bool:
    """Return whether threads of the program are running beside this one."""
    flusher = None if _the_flusher is None else _the_flusher.thread
    return any(
        thread not in (flusher, threading.current_thread()) for thread in threading.enumerate()
    )


@atexit.register
def _flush_all() -> None:
    """Flush the logs that a program left open at its end.

    They stay unsealed, since nobody closed them, and are readable. Daemon threads, and functions
    that were registered for the end earlier than this one, may still record.
    """
    if _the_flusher is not None:
        is_shared = are_other_threads()
        for writer in list(_the_flusher.writers):
            with contextlib.suppress(LogWriteError):
                writer.pause(is_shared=is_shared)
