"""Writes a log: one file, one writer, append only.

A `LogWriter` takes the pending data of its source and hands them to the operating system in one
write. The flusher's thread calls it every 40 ms and whenever a block is full
(`trajrec.log.flusher`). A failure, a check or `close` flushes at once in the caller's thread.
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

from trajrec.errors import LogWriteError
from trajrec.log import frames, locks
from trajrec.log.columns import Packer, place_columns
from trajrec.log.directory import Directory, FrameEntry, Returns
from trajrec.log.flusher import process_flusher
from trajrec.log.record_encoder import encode_record
from trajrec.log.schema import Chunk, EpisodeEnd, Footer, Header

# A block has 1 MiB: more waiting blocks would let memory grow while the disk is slow.
MAX_WAITING = 2
"""Full blocks that may wait for the flusher. Beyond it the recording thread writes them itself."""

OnError = Literal["raise", "warn"]
Durability = Literal["process", "machine"]


# The header is needed to read an episode, and the first block of a file may be damaged: copies lie
# where the log has grown to 64 KiB, 256 KiB, 1 MiB, ... They take less than 1 % of it.
_FIRST_COPY_BYTES = 1 << 16
_COPY_GROWTH = 4


class Drained(NamedTuple):
    """Pending data: a chunk, the bytes of each of its columns, and the returns of its rows."""

    chunk: Chunk
    data: list[bytes]
    returns: Returns


class Source(Protocol):
    """The recorder's side of a writer."""

    def drain(self, packer: Packer) -> Iterator[Drained]:
        """Yield the pending data, oldest first. Called in any thread, never in two at once."""
        ...

    def discard(self) -> None:
        """Drop the pending data: the log cannot be written any more."""
        ...


class LogWriter:
    """Writes one log file.

    Args:
        path: The file, which must not exist.
        header: The log's first record.
        source: Yields the pending data.
        on_error: The reaction if the file cannot be written, for instance because the disk is
            full: "raise" a LogWriteError in the recording loop, or "warn" once and stop recording.
            Everything written before stays readable.
        durability: "process" survives the end of the process. "machine" also survives a power cut:
            the file is synced (fdatasync) at the end of each episode.
        background: Whether the flusher's thread writes; if not, only `flush` and `close` do.

    Attributes:
        error: The failure after which nothing is written, or None.

    Raises:
        LogWriteError: The file cannot be created.
    """

    def __init__(
        self,
        path: Path,
        header: Header,
        source: Source,
        *,
        on_error: OnError = "raise",
        durability: Durability = "process",
        background: bool = True,
    ) -> None:
        self.path = path
        self.header = header
        self.on_error = on_error
        self.durability = durability
        self.error: LogWriteError | None = None
        self._source = source
        self._packer = Packer()
        # Re-entrant: a signal handler that closes the log must not wait for its own thread.
        self._lock = threading.RLock()
        self._log_id = frames.log_id_bytes(header.log_id)
        self._directory = Directory()
        self._size = 0
        self._next_copy = _FIRST_COPY_BYTES
        self._background = background
        self._descriptor = self._create()
        locks.hold(self._descriptor)
        try:
            self._write_header(frames.HEADER, prefix=frames.signature(self._log_id))
        except OSError as exc:
            os.close(self._descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
            raise LogWriteError(f"cannot write the log: {_reason(exc)}", path=path) from exc
        self._closed = False
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

    def flush(self, *, sync: bool = False) -> None:
        """Hand all pending data to the operating system, in this thread.

        Args:
            sync: Whether to sync the file even if no episode ends, with durability "machine".

        Raises:
            LogWriteError: The data could not be written, now or in the background before, and
                `on_error` is "raise".
        """
        with self._lock:
            if self._closed:
                return
            self._flush(sync)
        self.raise_error()

    def flush_pending(self) -> None:
        """Flush in the background: a failure is raised later, in the thread that records."""
        with self._lock:
            if not self._closed:
                self._flush(sync=False)

    def hand_over(self, n_waiting: int) -> None:
        """Let the flusher write full blocks, or write them here if the flusher cannot keep up.

        Writing here slows the recording loop down, but no data are dropped.

        Raises:
            LogWriteError: As for `flush`.
        """
        if n_waiting > MAX_WAITING or self.error is not None:
            self.flush()
        elif self._background:
            process_flusher().wake.set()

    def raise_error(self) -> None:
        """Raise the failure, if there was one and `on_error` is "raise"."""
        if self.error is not None and self.on_error == "raise":
            raise self.error

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called, or the process is a forked child of the one that writes."""
        return self._closed

    def close(self) -> None:
        """Flush, write the footer and close the file. Twice is harmless.

        Raises:
            LogWriteError: As for `flush`.
        """
        with self._lock:
            if self._closed:
                return
            self._flush(sync=False)
            if self.error is None:
                self._seal()
            self._closed = True
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
        if self._background:
            process_flusher().discard(self)
        self.raise_error()

    def leave_to_parent(self) -> None:
        """Close without writing, since the parent of this forked process writes the log."""
        # A new lock: another thread of the parent may have held the old one during the fork.
        self._lock = threading.RLock()
        self._closed = True

    def _flush(self, sync: bool) -> None:
        if self.error is not None:
            self._source.discard()
            return
        try:
            has_end = False
            for drained in self._source.drain(self._packer):
                has_end = self._write_chunk(drained) or has_end
            if self.durability == "machine" and (has_end or sync):
                # macOS has no fdatasync.
                getattr(os, "fdatasync", os.fsync)(self._descriptor)
        except Exception as exc:
            # All exceptions: nobody sees one of the flusher's thread. The loop raises it.
            self._fail(exc)

    def _write_chunk(self, drained: Drained) -> bool:
        """Write one chunk, and return whether an episode ends in it."""
        columns, data = place_columns(drained.chunk.columns, drained.data)
        chunk = msgspec.structs.replace(drained.chunk, columns=columns)
        parts = self._pack_frame(frames.CHUNK, chunk, data)
        entry = self._append_frame(frames.CHUNK, parts)
        self._directory.add_chunk(parts[0], entry, chunk, drained.returns)
        if self._size >= self._next_copy:
            self._write_header(frames.HEADER_COPY)
            self._next_copy *= _COPY_GROWTH
        return any(isinstance(event, EpisodeEnd) for event in chunk.events)

    def _write_header(self, kind: int, prefix: bytes = b"") -> None:
        parts = self._pack_frame(kind, self.header)
        self._directory.add_frame(parts[0], self._append_frame(kind, parts, prefix))

    def _pack_frame(
        self, kind: int, record: Header | Chunk | Footer, data: Sequence[bytes] = ()
    ) -> list[bytes]:
        raw = encode_record(record)
        return frames.pack_frame(
            kind,
            len(self._directory.entries),
            log_id=self._log_id,
            meta=self._packer.compress(raw),
            meta_raw=len(raw),
            data=data,
        )

    def _append_frame(self, kind: int, parts: Sequence[bytes], prefix: bytes = b"") -> FrameEntry:
        offset = self._size + len(prefix)
        self._append([prefix, *parts])
        sequence = len(self._directory.entries)
        return FrameEntry(offset, self._size - offset, kind, sequence)

    def _append(self, parts: Sequence[bytes]) -> None:
        """Append some parts in one write, or leave the file as it was.

        The system may write a part of the bytes only; the rest is written then, and if that fails,
        the file is cut back to its last whole frame.
        """
        data = b"".join(parts)
        n_written = 0
        try:
            while n_written < len(data):
                rest = memoryview(data)[n_written:] if n_written else data
                n_written += os.write(self._descriptor, rest)
        except OSError:
            if n_written:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)

    def _seal(self) -> None:
        try:
            footer = self._directory.footer(self.header, generation=0)
            trailer = frames.Trailer(self._size, self._log_id, footer.content, footer.generation)
            self._append([*self._pack_frame(frames.FOOTER, footer), frames.pack_trailer(trailer)])
            if self.durability == "machine":
                os.fsync(self._descriptor)
        except (OSError, ValueError) as exc:
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        self.error = LogWriteError(
            f"cannot be written: {_reason(exc)}; everything recorded before is readable, "
            "nothing later is recorded",
            path=self.path,
            offset=self._size,
        )
        self.error.__cause__ = exc
        self._source.discard()
        if self.on_error == "warn":
            warnings.warn(str(self.error), RuntimeWarning, stacklevel=2)


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
