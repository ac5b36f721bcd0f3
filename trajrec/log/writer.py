"""Writes a log: one file, one writer, append only.

A `LogWriter` takes what its source has pending and hands it to the operating system in one gathered write. Who calls it is the
process's one `_Flusher` thread, every `FLUSH_S` seconds and whenever a block is full, so that compression and I/O stay off the
loop that records; a failure, a check or `close` flushes at once in the caller's thread.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import msgspec

from trajrec.errors import LogWriteError
from trajrec.log import frames
from trajrec.log.columns import Packer
from trajrec.log.schema import Chunk, Footer, FrameEntry, Header

try:
    import fcntl
except (
    ImportError
):  # Windows has no flock: there a log whose writer is gone reads as running until it is recovered
    fcntl = None  # type: ignore[assignment]

FLUSH_S = 0.04
"""How often pending steps are handed over; with the write itself this stays below the 100 ms that a kill may lose."""

MAX_WAITING = 2
"""Full blocks that may wait for the flusher; beyond it the recording thread writes them itself."""

_encode = msgspec.msgpack.Encoder().encode
OnError = Literal["raise", "warn"]
Durability = Literal["process", "machine"]


class Drained(NamedTuple):
    """What a source has pending: a chunk whose columns lie in `data`, one part a column."""

    chunk: Chunk
    data: list[bytes]


class Source(Protocol):
    """Where a writer gets its chunks from."""

    def drain(self, packer: Packer) -> Iterator[Drained]:
        """Yield what is pending, oldest first. Called in any thread, never in two at once."""
        ...

    def discard(self) -> None:
        """Drop what is pending: the log cannot be written any more."""
        ...


class LogWriter:
    """Writes one log file.

    Args:
        path: The file, which must not exist yet.
        header: The log's first record.
        on_error: When the disk is full or the file cannot be written: "raise" a LogWriteError into the recording loop, or
            "warn" once and go on without recording. What was written before stays readable either way.
        durability: "process" survives the end of the process; "machine" also a power cut (fdatasync at each episode end).
        background: Let the flusher thread write; without it only `flush` and `close` do.

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
        self.path, self.header, self.error = path, header, None
        self.on_error, self.durability = on_error, durability
        self._source, self._packer, self._lock = source, Packer(), threading.RLock()
        self._entries: list[FrameEntry] = []
        self._episodes: set[int] = set()
        self._sequence = self._n_steps = 0
        self._background = background
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(
                path,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0),
                0o666,
            )
        except OSError as exc:
            raise LogWriteError(f"cannot create the log: {exc.strerror or exc}", path=path) from exc
        # Held for as long as the process lives, kill -9 or not: how a reader tells a running writer from a dead one.
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._size = 0
        try:
            self._frame(frames.HEADER, header, [], [], before=[frames.signature()])
        except OSError as exc:
            os.close(self._fd)
            with contextlib.suppress(OSError):
                path.unlink()
            raise LogWriteError(f"cannot write the log: {exc.strerror or exc}", path=path) from exc
        self._closed = False
        if background:
            _flusher().add(self)

    def flush(self, *, sync: bool = False) -> None:
        """Hand everything pending to the operating system, in this thread.

        Raises:
            LogWriteError: It could not be written, now or in the background before, and `on_error` is "raise".
        """
        with self._lock:
            if self._closed:
                return
            self._flush(sync)
        self.raise_error()

    def hand_over(self, waiting: int) -> None:
        """Let full blocks be written: by the flusher, or here where it cannot keep up. Slower then, but nothing is dropped.

        Raises:
            LogWriteError: As for `flush`.
        """
        if waiting > MAX_WAITING or self.error is not None:
            self.flush()
        elif self._background:
            _flusher().wake.set()

    def raise_error(self) -> None:
        """Raise what went wrong, now or in the background before, where `on_error` asks for it."""
        if self.error is not None and self.on_error == "raise":
            raise self.error

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called, or this is a forked child of the process that writes."""
        return self._closed

    def close(self) -> None:
        """Flush, write the footer and close the file. Twice is harmless."""
        with self._lock:
            if self._closed:
                return
            self._flush(sync=False)
            if self.error is None:
                self._seal()
            self._closed = True
            with contextlib.suppress(OSError):
                os.close(self._fd)
        if self._background:
            _flusher().discard(self)
        self.raise_error()

    error: LogWriteError | None

    def _flush(self, sync: bool) -> None:
        if self.error is not None:
            self._source.discard()
            return
        try:
            ended = False
            for drained in self._source.drain(self._packer):
                ended = self._chunk(drained) or ended
            if self.durability == "machine" and (ended or sync):
                getattr(os, "fdatasync", os.fsync)(self._fd)
        except Exception as exc:  # also of the flusher's thread, where nobody would see it: it is raised in the loop
            self._fail(exc)

    def _chunk(self, drained: Drained) -> bool:
        """Write one chunk; say whether an episode ends in it."""
        offset, columns = 0, []
        for column, data in zip(drained.chunk.columns, drained.data, strict=True):
            columns.append(msgspec.structs.replace(column, offset=offset, size=len(data)))
            offset += len(data)
        chunk = msgspec.structs.replace(drained.chunk, columns=columns)
        episodes = sorted({s.episode for s in chunk.segments} | {e.episode for e in chunk.events})
        self._frame(frames.CHUNK, chunk, drained.data, episodes)
        self._n_steps += sum(segment.n_steps for segment in chunk.segments)
        return any(type(event).__name__ == "EpisodeEnd" for event in chunk.events)

    def _frame(
        self,
        kind: int,
        record: msgspec.Struct,
        data: Sequence[bytes],
        episodes: list[int],
        before: Sequence[bytes] = (),
    ) -> None:
        raw = _encode(record)
        meta = self._packer.compress(raw)
        offset = self._size + sum(map(len, before))
        self._write(
            [
                *before,
                *frames.pack_frame(kind, self._sequence, meta=meta, meta_raw=len(raw), data=data),
            ]
        )
        self._sequence += 1
        self._episodes.update(episodes)
        self._entries.append(FrameEntry(offset, self._size - offset, kind, episodes))

    def _write(self, parts: list[bytes]) -> None:
        """Append the parts in one call; go on after a short write, and undo a part that cannot be completed."""
        data = b"".join(parts)
        done = 0
        try:
            while done < len(data):
                done += os.write(self._fd, memoryview(data)[done:] if done else data)
        except OSError:
            if done:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    def _seal(self) -> None:
        offset = self._size
        try:
            footer = Footer(self.header, self._entries, len(self._episodes), self._n_steps)
            raw = _encode(footer)
            meta = self._packer.compress(raw)
            self._write(
                [
                    *frames.pack_frame(frames.FOOTER, self._sequence, meta=meta, meta_raw=len(raw)),
                    frames.pack_trailer(offset),
                ]
            )
            if self.durability == "machine":
                os.fsync(self._fd)
        except OSError as exc:
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        reason = (
            exc.strerror
            if isinstance(exc, OSError) and exc.strerror
            else f"{type(exc).__name__}: {exc}"
        )
        self.error = LogWriteError(
            f"cannot be written: {reason}; what was recorded before is readable, nothing later is recorded",
            path=self.path,
            offset=self._size,
        )
        self.error.__cause__ = exc
        self._source.discard()
        if self.on_error == "warn":
            warnings.warn(str(self.error), RuntimeWarning, stacklevel=2)


class _Flusher:
    """The one thread of a process that flushes its writers."""

    def __init__(self) -> None:
        self.wake = threading.Event()
        self._writers: weakref.WeakSet[LogWriter] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def add(self, writer: LogWriter) -> None:
        with self._lock:
            self._writers.add(writer)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="trajrec-flusher", daemon=True
                )
                self._thread.start()

    def discard(self, writer: LogWriter) -> None:
        self._writers.discard(writer)

    def _run(self) -> None:
        while True:
            self.wake.wait(FLUSH_S)
            self.wake.clear()
            with self._lock:
                writers = list(self._writers)
                if not writers:
                    self._thread = None
                    return
            for writer in writers:
                with writer._lock:
                    if not writer._closed:
                        writer._flush(sync=False)
            del writers, writer


_THE_FLUSHER: _Flusher | None = None


def _flusher() -> _Flusher:
    """Return this process's flusher."""
    global _THE_FLUSHER
    if _THE_FLUSHER is None:
        _THE_FLUSHER = _Flusher()
    return _THE_FLUSHER


def _after_fork_in_child() -> None:
    """Leave the parent's logs to the parent: a child has no flusher thread, and its locks may be held by nobody."""
    global _THE_FLUSHER
    if _THE_FLUSHER is not None:
        for writer in list(_THE_FLUSHER._writers):
            writer._lock, writer._closed = threading.RLock(), True
    _THE_FLUSHER = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


@atexit.register
def _close_all() -> None:
    """Flush what a program left open at its end; the file stays unsealed, as nobody closed it, and stays readable."""
    if _THE_FLUSHER is not None:
        for writer in list(_THE_FLUSHER._writers):
            with contextlib.suppress(LogWriteError):
                writer.flush()


def new_log_id() -> str:
    """Return a fresh random log id, 32 hex digits."""
    return secrets.token_hex(16)
