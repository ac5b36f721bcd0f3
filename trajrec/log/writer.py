"""Writes a log: one file, one writer, append only.

A `LogWriter` takes the pending items of its source as chunks, and hands them to the operating
system in large frames: the flusher's thread calls it once a second and whenever a block is full
(`trajrec.log.flusher`). Until then the journal has the items (`trajrec.log.journal`).

An exception may come at any point, for instance by Ctrl-C. So the writer's state changes by one
`assignment, when a frame is written whole. Bytes of an unfinished frame are cut off before the next
one, and the source yields its items again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import msgspec

from trajrec.errors import LogError, LogWriteError
from trajrec.log import frames, locks
from trajrec.log.columns import Packer, place_columns
from trajrec.log.directory import Directory, FrameEntry
from trajrec.log.flusher import process_flusher
from trajrec.log.journal import HALF_BYTES, open_journal
from trajrec.log.packing import Drained
from trajrec.log.record_encoder import encode_record
from trajrec.log.relisting import read_directory
from trajrec.log.schema import Chunk, EpisodeEnd, Footer, Header

# A block has 1 MiB: more waiting blocks would let memory grow while the disk is slow.
MAX_WAITING = 2
"""Full blocks that may wait for the flusher. Beyond it the recording thread writes them itself."""

OnFull = Literal["stop-recording", "raise"]
Durability = Literal["process", "machine"]

# The header is needed to read an episode, and the first block of a file may be damaged: copies lie
# where the log has grown to 64 KiB, 256 KiB, 1 MiB, ... They take less than 1 % of it.
_FIRST_COPY_BYTES = 1 << 16
_COPY_GROWTH = 4


class Written(NamedTuple):
    """The whole frames in the file.

    Attributes:
        size: The end of the last one.
        n_frames: Their number.
        last_item: The number of the last item in them, -1 if there is none.
    """

    size: int = 0
    n_frames: int = 0
    last_item: int = -1


class Source(Protocol):
    """The recorder's side of a writer."""

    def drain(self, packer: Packer, last_written: int, *, only_full: bool) -> Iterator[Drained]:
        """Yield the items after `last_written` as chunks, oldest first.

        With `only_full`, the items of a block that is not full may be left for later.

        Called in any thread, never in two at once. A chunk that the caller did not write, because
        of an exception, is yielded again by the next call.
        """
        ...

    def discard(self) -> None:
        """Drop the pending data: the log cannot be written any more."""
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
        half_bytes: The size of a half of the journal.
        background: Whether the flusher's thread writes; if not, only `flush` and `close` do.

    Attributes:
        journal: The log's journal.
        error: The failure after which nothing is written, or None.

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
        half_bytes: int = HALF_BYTES,
        background: bool = True,
    ) -> None:
        self.path = path
        self.header = header
        self.on_full = on_full
        self.durability = durability
        self.error: LogWriteError | None = None
        self._source = source
        self._packer = Packer()
        # Re-entrant: a signal handler that closes the log must not wait for its own thread.
        self._lock = threading.RLock()
        self._log_id = frames.log_id_bytes(header.log_id)
        self._written = Written()
        self._next_copy = _FIRST_COPY_BYTES
        self._directory = Directory()
        # The number of frames in the directory. Its frames were added whole.
        self._n_listed = 0
        self._has_unsynced_end = False
        self._has_warned = False
        self._background = background
        self._closed = False
        self._descriptor = self._create()
        locks.hold(self._descriptor)
        try:
            self._write_header(frames.HEADER, prefix=frames.signature(self._log_id))
            self.journal = open_journal(path, header.log_id, half_bytes)
        except OSError as exc:
            os.close(self._descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
            raise LogWriteError(f"cannot write the log: {_reason(exc)}", path=path) from exc
        if background:
            process_flusher().add(self)

    def _create(self) -> int:
        """Create the file and return its descriptor."""
        # O_BINARY exists on Windows, where text files would get other line ends.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.path, flags, 0o666)
        except OSError as exc:
            raise LogWriteError(f"cannot create the log: {_reason(exc)}", path=self.path) from exc

    @property
    def last_written(self) -> int:
        """The number of the last item in the file, -1 if it has none."""
        return self._written.last_item

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called, or the process is a forked child of the one that writes."""
        return self._closed

    def flush(self) -> None:
        """Hand all pending items to the operating system, in this thread.

        Raises:
            LogWriteError: The items could not be written, now or in the background before, and
                `on_full` is "raise".
        """
        with self._lock:
            if self._closed:
                return
            self._flush()
        self.raise_error()

    def flush_pending(self, *, only_full: bool = False) -> None:
        """Flush in the background: a failure is raised later, in the thread that records."""
        with self._lock:
            if not self._closed:
                self._flush(only_full=only_full)

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
                if self.error is None:
                    self._seal()
                self._closed = True
            self._release()
        if self._background:
            process_flusher().discard(self)
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
        """Close the files, and delete the journal if the log has all items."""
        if self.error is None:
            self.journal.delete()
        else:
            self.journal.close()
        if self._descriptor >= 0:
            descriptor = self._descriptor
            self._descriptor = -1
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def leave_to_parent(self) -> None:
        """Close without writing, since the parent of this forked process writes the log."""
        # A new lock: another thread of the parent may have held the old one during the fork.
        self._lock = threading.RLock()
        self._closed = True
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
            # A signal handler's exception, for instance of a time limit, comes once; one of ours
            # comes again.
            try:
                self._write_pending(only_full)
            except Exception as again:
                self._fail(again)
                return
            raise

    def _write_pending(self, only_full: bool) -> None:
        pending = self._source.drain(self._packer, self.last_written, only_full=only_full)
        for drained in pending:
            self._write_chunk(drained)
        if self._has_unsynced_end:
            # macOS has no fdatasync.
            getattr(os, "fdatasync", os.fsync)(self._descriptor)
            self._has_unsynced_end = False

    def _write_chunk(self, drained: Drained) -> None:
        """Write one chunk."""
        if self.durability == "machine":
            has_end = any(isinstance(event, EpisodeEnd) for event in drained.chunk.events)
            self._has_unsynced_end = self._has_unsynced_end or has_end
        columns, data = place_columns(drained.chunk.columns, drained.data)
        # The record is only encoded, and encoded events stand for themselves.
        events = [msgspec.Raw(raw) for raw in drained.raw_events]
        chunk = msgspec.structs.replace(drained.chunk, columns=columns, events=events)
        header, entry = self._write_frame(frames.CHUNK, chunk, data, last_item=drained.last_item)
        if self._begin_listing():
            self._directory.add_chunk(header, entry, drained.chunk, drained.returns)
            self._n_listed = self._written.n_frames
        if self._written.size >= self._next_copy:
            self._next_copy *= _COPY_GROWTH
            self._write_header(frames.HEADER_COPY)

    def _write_header(self, kind: int, prefix: bytes = b"") -> None:
        header, entry = self._write_frame(
            kind, self.header, last_item=self.last_written, prefix=prefix
        )
        if self._begin_listing():
            self._directory.add_frame(header, entry)
            self._n_listed = self._written.n_frames

    def _begin_listing(self) -> bool:
        """Return whether the directory has all frames but the last.

        If an exception has broken off an addition, the directory is read from the file at the end.
        """
        is_whole = self._n_listed == self._written.n_frames - 1
        self._n_listed = -1
        return is_whole

    def _write_frame(
        self,
        kind: int,
        record: Header | Chunk,
        data: Sequence[bytes] = (),
        *,
        last_item: int,
        prefix: bytes = b"",
    ) -> tuple[bytes, FrameEntry]:
        """Write a frame; return its header's bytes and its entry."""
        size, n_frames, _ = self._written
        parts = self._pack_frame(kind, record, data)
        offset = size + len(prefix)
        end = self._append([prefix, *parts])
        # From here on the frame is in the log.
        self._written = Written(end, n_frames + 1, last_item)
        return parts[0], FrameEntry(offset, end - offset, kind, n_frames)

    def _pack_frame(
        self, kind: int, record: Header | Chunk | Footer, data: Sequence[bytes] = ()
    ) -> list[bytes]:
        raw = encode_record(record)
        return frames.pack_frame(
            kind,
            self._written.n_frames,
            log_id=self._log_id,
            meta=self._packer.compress(raw),
            meta_raw=len(raw),
            data=data,
        )

    def _append(self, parts: Sequence[bytes]) -> int:
        """Append some parts in one write, and return the end of the file.

        The system may write a part of the bytes only; the rest is written then.
        """
        data = b"".join(parts)
        self._cut_off_unfinished()
        n_written = 0
        try:
            while n_written < len(data):
                rest = memoryview(data)[n_written:] if n_written else data
                n_written += os.write(self._descriptor, rest)
        except OSError:
            with contextlib.suppress(OSError):
                self._cut_off_unfinished()
            raise
        return self._written.size + len(data)

    def _cut_off_unfinished(self) -> None:
        """Cut off the bytes of a frame that an exception or a full disk has interrupted."""
        if os.fstat(self._descriptor).st_size > self._written.size:
            os.ftruncate(self._descriptor, self._written.size)

    def _seal(self) -> None:
        try:
            if self._n_listed != self._written.n_frames:
                self._cut_off_unfinished()
                self._directory = read_directory(self.path)
                self._n_listed = self._written.n_frames
            footer = self._directory.footer(self.header, generation=0)
            trailer = frames.Trailer(
                self._written.size, self._log_id, footer.content, footer.generation
            )
            self._append([*self._pack_frame(frames.FOOTER, footer), frames.pack_trailer(trailer)])
            if self.durability == "machine":
                os.fsync(self._descriptor)
        except (OSError, ValueError, LogError) as exc:
            if isinstance(exc, OSError) and not _is_of_disk(exc):
                raise
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        self.error = LogWriteError(
            f"cannot be written: {_reason(exc)}; everything recorded before is readable, "
            "nothing later is recorded",
            path=self.path,
            offset=self._written.size,
        )
        self.error.__cause__ = exc
        self._source.discard()


def _is_of_disk(exc: Exception) -> bool:
    """Return whether the system refused to write. A user's TimeoutError has no number."""
    return isinstance(exc, OSError) and exc.errno is not None


def _reason(exc: Exception) -> str:
    """Return the system's text for an error of the system, else type and message."""
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return f"{type(exc).__name__}: {exc}"


def new_log_id(name: str | None = None) -> str:
    """Return a log's id, 32 hex digits: derived from a name, or else random."""
    if name is None:
        return secrets.token_hex(frames.ID_BYTES)
    return hashlib.blake2b(name.encode(), digest_size=frames.ID_BYTES).hexdigest()
