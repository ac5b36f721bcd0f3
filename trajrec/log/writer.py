"""Writes a log: one file, one writer, append only.

A `LogWriter` takes the pending items of its source as chunks, and hands them to the operating
system in large frames: the flusher's thread calls it whenever a block is full and every 30 s
(`trajrec.log.flusher`). Until then the journal has the items (`trajrec.log.journal`).

An exception may come at any point. A chunk that was not written then is yielded again by the
source.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

from trajrec.errors import LogError, LogWriteError
from trajrec.log.columns import Packer
from trajrec.log.flusher import process_flusher
from trajrec.log.frame_writer import DeletedError, FrameWriter, SizeLimitError
from trajrec.log.frames import ID_BYTES
from trajrec.log.journal import HALF_BYTES, open_journal
from trajrec.log.packing import Drained
from trajrec.log.schema import EpisodeEnd, Header
from trajrec.paths import fixed_path

# A block has 1 MiB: more waiting blocks would let memory grow while the disk is slow.
MAX_WAITING = 2
"""Full blocks that may wait for the flusher. Beyond it the recording thread writes them itself."""

ALL_ITEMS = 2**62
"""A number of items that no chunk reaches."""

# A log at its limit takes a full block (1,536 items) in halves, quarters and so on.
_FIRST_PART = 2048

# The longest time for which the flusher waits for a thread that writes a log itself.
_LOCK_WAIT_S = 0.5

OnFull = Literal["stop-recording", "raise"]
Durability = Literal["process", "machine"]


class Source(Protocol):
    """The recorder's side of a writer."""

    def drain(
        self, packer: Packer, last_written: int, *, only_full: bool, max_items: int
    ) -> Iterator[Drained]:
        """Yield the items after `last_written` as chunks of at most `max_items`, oldest first.

        With `only_full`, the items of a block that is not full may be left for later.

        Called in any thread, never in two at once. A chunk that the caller did not write, because
        of an exception, is yielded again by the next call.
        """
        ...

    def discard(self) -> None:
        """Drop the pending data: the log cannot be written any more."""
        ...

    def journal_paused(self) -> None:
        """Note that the journal must begin anew with the next item."""
        ...


class LogWriter:
    """Writes one log file.

    Args:
        path: The file, which must not exist.
        header: The log's first record.
        source: Yields the pending items.
        on_full: The reaction if the file cannot be written, for instance because the disk is full:
            "stop-recording" warns once and records nothing more, "raise" raises a LogWriteError in
            the recording loop. Everything written before stays readable.
        durability: "process" survives the end of the process. "machine" also survives a power cut:
            the file is synced (fdatasync) at the end of each episode.
        max_bytes: The most bytes that the file may have; None for no limit. Before a frame would
            exceed it, the log is sealed, and `on_full` decides what follows.
        half_bytes: The size of a half of the journal.
        background: Whether the flusher's thread writes; if not, only `flush` and `close` do.

    Attributes:
        journal: The log's journal.
        error: The failure after which nothing is written, or None.
        is_paused: Whether the program has come to its end without closing the log.

    Raises:
        LogWriteError: The file or its journal cannot be created.
    """

    def __init__(
        self,
        path: Path,
        header: Header,
        source: Source,
        *,
        on_full: OnFull = "stop-recording",
        durability: Durability = "process",
        max_bytes: int | None = None,
        half_bytes: int = HALF_BYTES,
        background: bool = True,
    ) -> None:
        path = fixed_path(path)
        self.path = path
        self.header = header
        self.on_full = on_full
        self.durability = durability
        self.error: LogWriteError | None = None
        self._source = source
        self._packer = Packer()
        # Re-entrant: a signal handler that closes the log must not wait for its own thread.
        self._lock = threading.RLock()
        self._has_unsynced_end = False
        self._has_warned = False
        self._background = background
        self._closed = False
        self._is_left = False
        self.is_paused = False
        try:
            self._file = FrameWriter(path, header, self._packer, max_bytes=max_bytes)
        except OSError as exc:
            raise LogWriteError(f"cannot create the log: {_reason(exc)}", path=path) from exc
        try:
            self.journal = open_journal(path, header.log_id, half_bytes)
        except BaseException as exc:
            self._file.delete()
            if isinstance(exc, Exception) and _is_of_disk(exc):
                raise LogWriteError(f"cannot write the log: {_reason(exc)}", path=path) from exc
            raise
        if background:
            process_flusher().add(self)

    @property
    def last_written(self) -> int:
        """The number of the last item in the file, -1 if it has none."""
        return self._file.written.last_item

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called, or the process is a forked child of the one that writes."""
        return self._closed

    @property
    def has_stopped(self) -> bool:
        """Whether nothing more is written: it failed, or this process is a forked child."""
        return self.error is not None or self._is_left

    def flush(self) -> None:
        """Hand all pending items to the operating system, in this thread.

        Raises:
            LogWriteError: The items could not be written, now or in the background before, and
                `on_full` is "raise".
        """
        with self._lock:
            if not self._closed:
                self._flush()
        # Also of a log that the flusher has closed: it was at its limit.
        self.raise_error()

    def flush_pending(self, *, only_full: bool = False) -> None:
        """Flush in the background: a failure is raised later, in the thread that records."""
        # Another thread may write for long. The other logs must not wait for this one.
        if not self._lock.acquire(timeout=_LOCK_WAIT_S):
            return
        try:
            if not self._closed:
                self._flush(only_full=only_full)
        finally:
            self._lock.release()

    def hand_over(self, n_waiting: int) -> None:
        """Let the flusher write full blocks, or write them here if the flusher cannot keep up.

        Writing here slows the recording loop down, but no data are dropped.

        Raises:
            LogWriteError: As for `flush`.
        """
        if n_waiting > MAX_WAITING or self.error is not None:
            self.flush()
        elif self._background:
            process_flusher().wake_up()

    def raise_error(self) -> None:
        """Raise the failure, if there was one and `on_full` is "raise"; else warn of it once."""
        if self.error is None:
            return
        if self.on_full == "raise":
            raise self.error
        if not self._has_warned:
            # Here and not when it happens: the flusher's thread could not raise the warning if the
            # user has made it an error.
            self._has_warned = True
            warnings.warn(str(self.error), RuntimeWarning, stacklevel=4)

    def restart_journal(self, number: int, half_bytes: int) -> int:
        """Begin the journal anew with an item, and return its offset.

        All items before it must be in the file.

        Raises:
            LogWriteError: The journal cannot be written, and `on_full` is "raise".
        """
        try:
            try:
                return self.journal.restart(number, half_bytes)
            except OSError:
                # There is no space for a larger one.
                return self.journal.restart(number, HALF_BYTES)
        except OSError as exc:
            self._fail(exc)
            self.raise_error()
            return 0

    def close(self) -> None:
        """Flush, write the footer and close the file. Twice is harmless.

        Raises:
            LogWriteError: As for `flush`.
        """
        with self._lock:
            if not self._closed:
                self._flush()
                # A log at its limit is sealed at once, unless an exception has prevented that.
                is_whole = self.error is None or isinstance(self.error.__cause__, SizeLimitError)
                if is_whole and not self._file.is_sealed:
                    self._seal()
                self._closed = True
            self._release()
        if self._background:
            process_flusher().discard(self)
        self.raise_error()

    def pause(self, *, is_shared: bool) -> None:
        """Flush at the end of the program. What is recorded even later is in the journal.

        Args:
            is_shared: Whether other threads may be recording. If not, the journal is deleted until
                something is recorded.

        Raises:
            LogWriteError: As for `flush`.
        """
        with self._lock:
            if not self._closed:
                self._flush()
                self.is_paused = True
                if self.error is None and not is_shared:
                    self.journal.pause()
                    self._source.journal_paused()
        self.raise_error()

    def leave_unsealed(self) -> None:
        """Flush and close the file without a footer, because nobody closed the log.

        Raises:
            LogWriteError: As for `flush`.
        """
        with self._lock:
            if not self._closed:
                self._flush()
                self._closed = True
            self._release()
        if self._background:
            process_flusher().discard(self)
        self.raise_error()

    def _release(self) -> None:
        """Close the files, and delete the journal if the log has all items or is sealed."""
        if self.error is None or self._file.is_sealed:
            self.journal.delete()
        else:
            self.journal.close()
        self._file.close()

    def leave_to_parent(self) -> None:
        """Close without writing, since the parent of this forked process writes the log."""
        # A new lock: another thread of the parent may have held the old one during the fork.
        self._lock = threading.RLock()
        self._closed = True
        self._is_left = True
        self.journal.leave_to_parent()
        # The lock on the file belongs to all copies of its descriptor: a child that lives longer
        # than its parent would hold it.
        self._release()

    def _flush(self, *, only_full: bool = False) -> None:
        """Write all pending items, or only full blocks; note a failure of the disk."""
        if self.error is not None:
            self._source.discard()
            return
        try:
            self._write_pending(only_full)
        except Exception as exc:
            if _is_of_disk(exc):
                self._fail(exc)
                return
            if isinstance(exc, SizeLimitError):
                self._fail(exc)
                self._seal()
                self._closed = True
                self._release()
                return
            # A signal handler's exception, for instance of a time limit, comes once; one of ours
            # comes again.
            try:
                self._write_pending(only_full)
            except Exception as again:
                self._fail(again)
                return
            raise

    def _write_pending(self, only_full: bool) -> None:
        max_items = ALL_ITEMS
        while True:
            n_before = self.last_written
            try:
                self._write_chunks(only_full, max_items)
            except SizeLimitError:
                # Of items that do not fit together, the log takes the first that do.
                max_items = min(max_items, _FIRST_PART) // 2
                if not max_items:
                    raise
            else:
                if max_items == ALL_ITEMS or self.last_written == n_before:
                    return

    def _write_chunks(self, only_full: bool, max_items: int) -> None:
        pending = self._source.drain(
            self._packer, self.last_written, only_full=only_full, max_items=max_items
        )
        for drained in pending:
            if self.durability == "machine":
                has_end = any(isinstance(event, EpisodeEnd) for event in drained.chunk.events)
                self._has_unsynced_end = self._has_unsynced_end or has_end
            self._file.write_chunk(drained)
        if self._has_unsynced_end:
            self._file.sync()
            self._has_unsynced_end = False

    def _seal(self) -> None:
        try:
            self._file.seal()
            if self.durability == "machine":
                self._file.sync()
        except (OSError, ValueError, LogError) as exc:
            if isinstance(exc, OSError) and not _is_of_disk(exc):
                raise
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        earlier = (
            "what was recorded before is lost"
            if isinstance(exc, DeletedError)
            else "everything recorded before is readable"
        )
        error = LogWriteError(
            f"cannot be written: {_reason(exc)}; {earlier}, nothing later is recorded",
            path=self.path,
            offset=self._file.written.size,
        )
        error.__cause__ = exc
        # With its cause: `close` seals a log that is at its limit, and no other.
        self.error = error
        self._source.discard()


def _is_of_disk(exc: Exception) -> bool:
    """Return whether the system refused to write. A user's TimeoutError has no number."""
    return isinstance(exc, OSError) and exc.errno is not None


def _reason(exc: Exception) -> str:
    """Return the system's text for an error of the system, else type and message."""
    if isinstance(exc, SizeLimitError):
        return str(exc)
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return f"{type(exc).__name__}: {exc}"


def new_log_id(name: str | None = None) -> str:
    """Return a log's id, 32 hex digits: derived from a name, or else random."""
    if name is None:
        return secrets.token_hex(ID_BYTES)
    return hashlib.blake2b(name.encode(), digest_size=ID_BYTES).hexdigest()
