"""Reads a log: by its footer where it is sealed, by scanning where it is not, around damage where there is some."""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import zstandard

from trajrec.errors import LogCorruptError, LogError, LogFormatError
from trajrec.log import frames
from trajrec.log.events import Blob
from trajrec.log.frames import Damage, Frame
from trajrec.log.rows import ColumnRows
from trajrec.log.schema import Chunk, Column, Event, Footer, FrameEntry, Header, Segment

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T", bound=msgspec.Struct)


@functools.cache
def _decoder(kind: type[T]) -> msgspec.msgpack.Decoder[T]:
    return msgspec.msgpack.Decoder(kind)


class LogReader:
    """A log file, open for reading. A context manager; a snapshot of the file's size at opening (`refresh` moves on).

    Attributes:
        path: The file.
        header: The log's first record.
        frames: Its intact frames, in order.
        damage: What could not be read, in order; at most the last is a torn tail.
        is_sealed: Whether the writer closed the log.

    Raises:
        LogFormatError: Not a log, or of a newer format.
        LogCorruptError: No intact header is left.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._decompressor = zstandard.ZstdDecompressor()
        self._data: mmap.mmap | bytes = _map(path)
        self.frames: list[Frame] = []
        self.damage: list[Damage] = []
        self._blobs: dict[bytes, bytes] = {}
        self._blobs_read = 0
        self._cache: dict[int, LogChunk] = {}
        self._entries: list[FrameEntry] = []
        self._chunks_of: dict[int, list[int]] | None = None
        self._position = frames.SIGNATURE.size
        try:
            self._read_signature()
            self.is_sealed = self._read_footer() or self._scan()
            self.header = self._read_header()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Twice is harmless."""
        self._is_closed = True
        if isinstance(self._data, mmap.mmap):
            with contextlib.suppress(BufferError):
                self._data.close()

    @property
    def size(self) -> int:
        """Size of the file when it was opened or refreshed, in bytes."""
        return len(self._data)

    @property
    def position(self) -> int:
        """Offset up to which every frame is known; reading goes on from here when the file has grown."""
        return self._position

    def chunks(self, start: int = 0) -> Iterator[LogChunk]:
        """Yield the chunks of frames[start:], each decoded when asked for.

        A chunk whose frame is intact but whose record contradicts itself is added to `damage` and passed over.
        """
        for index in range(start, len(self.frames)):
            if self.frames[index].kind == frames.CHUNK:
                with contextlib.suppress(LogCorruptError):
                    yield self.chunk(index)

    def chunks_of(self, episode: int) -> list[int]:
        """Return which frames have anything of an episode; from the footer where there is one, without reading them."""
        if self._chunks_of is None:
            self._chunks_of = {}
            for index, episodes in enumerate(self._episodes_of_frames()):
                for number in episodes:
                    self._chunks_of.setdefault(number, []).append(index)
        return self._chunks_of.get(episode, [])

    def _episodes_of_frames(self) -> Iterator[Iterable[int]]:
        for index, frame in enumerate(self.frames):
            if index < len(self._entries):
                yield self._entries[index].episodes
            elif frame.kind == frames.CHUNK:
                with contextlib.suppress(LogCorruptError):
                    record = self.chunk(index).record
                    yield {s.episode for s in record.segments} | {e.episode for e in record.events}
                    continue
                yield ()
            else:
                yield ()

    def chunk(self, index: int) -> LogChunk:
        """Return the chunk of frames[index].

        Raises:
            LogCorruptError: Its payload does not match its checksum, or is not a chunk.
        """
        frame = self.frames[index]
        try:
            record = self._record(frame, Chunk)
        except LogCorruptError as exc:
            found = Damage(frame.offset, frame.end - frame.offset, str(exc))
            if found not in self.damage:
                self.damage.append(found)
            raise
        start = frame.offset + frames.FRAME.size + frame.meta_size
        return LogChunk(record, self, index, start, frame.end)

    def cached_chunk(self, index: int) -> LogChunk:
        """Return a chunk as `chunk` does, kept for a while: neighbouring episodes share chunks."""
        found = self._cache.pop(index, None) or self.chunk(index)
        self._cache[index] = found
        if len(self._cache) > 8:
            self._cache.pop(next(iter(self._cache)))
        return found

    def blob(self, digest: bytes) -> bytes:
        """Return a value that is stored once in the log.

        Raises:
            LogCorruptError: The log has lost it.
        """
        if digest not in self._blobs:
            # One pass finds all; what was appended since is looked at when something is missing.
            for chunk in self.chunks(self._blobs_read):
                self._blobs.update(
                    (e.digest, e.data) for e in chunk.record.events if isinstance(e, Blob)
                )
            self._blobs_read = len(self.frames)
        found = self._blobs.get(digest)
        if found is None:
            raise LogCorruptError(
                f"the value {digest.hex()} that an event refers to is lost", path=self.path
            )
        return found

    def refresh(self) -> bool:
        """Read what was appended since; say whether there was anything. ColumnRows borrowed from before stay valid."""
        size = self.path.stat().st_size
        if self.is_sealed or size <= len(self._data):
            return False
        known = len(self.frames)
        self._data = _map(self.path)
        self._chunks_of = None
        self.damage = [damage for damage in self.damage if not damage.is_tail]
        self._scan()
        self.is_sealed = frames.read_trailer(self._data) is not None
        return len(self.frames) > known

    def note(self, chunk: LogChunk, what: str) -> None:
        """Add a chunk that turned out to contradict itself to the damage."""
        frame = self.frames[chunk.index]
        self.damage.append(Damage(frame.offset, frame.end - frame.offset, what))

    def slice_all(self) -> mmap.mmap | bytes:
        """Return the whole file, borrowed."""
        return self._data

    def slice(self, start: int, end: int) -> bytes:
        """Return bytes [start, end) of the file.

        Raises:
            LogError: The reader was closed.
        """
        self._check_open()
        return bytes(self._data[start:end])

    def _check_open(self) -> None:
        if self._is_closed:
            raise LogError("was closed; read episodes before closing their corpus", path=self.path)

    def is_being_written(self) -> bool | None:
        """Say whether a writer holds the file: None where that cannot be known."""
        return False if self.is_sealed else is_being_written(self.path)

    def _read_signature(self) -> None:
        try:
            frames.check_signature(self._data, self.path)
        except LogFormatError as exc:
            # A few flipped bytes at the front do not make the rest unreadable; a foreign file has no frames.
            newer = "newer" in str(exc)
            if (
                newer
                or next((f for f in frames.scan(self._data, 0) if isinstance(f, Frame)), None)
                is None
            ):
                raise
            self.damage.append(Damage(0, frames.SIGNATURE.size, "the signature is damaged"))

    def _read_footer(self) -> bool:
        """Take the directory from the footer; say whether there is an intact one."""
        offset = frames.read_trailer(self._data)
        frame = None if offset is None else frames.frame_at(self._data, offset)
        if frame is None or frame.kind != frames.FOOTER:
            return False
        try:
            footer = self._record(frame, Footer)
        except LogCorruptError:
            return False
        found = [frames.frame_at(self._data, entry.offset) for entry in footer.frames]
        complete = [
            f
            for f, e in zip(found, footer.frames, strict=True)
            if f is not None and f.end - f.offset == e.size
        ]
        if len(complete) != len(footer.frames):
            return False
        self.frames = complete
        self._position = frame.end
        self._footer_header = footer.header
        self._entries = footer.frames
        return True

    def _scan(self) -> bool:
        """Find the frames from `position` on; say whether the log is sealed."""
        for found in frames.scan(self._data, self._position):
            if isinstance(found, Damage):
                self.damage.append(found)
            elif found.kind == frames.FOOTER:
                with contextlib.suppress(LogCorruptError):
                    self._footer_header = self._record(found, Footer).header
            else:
                self._note_gap(found)
                self.frames.append(found)
            if isinstance(found, Frame):
                self._position = found.end
        return frames.read_trailer(self._data) is not None

    def _note_gap(self, found: Frame) -> None:
        last = self.frames[-1].sequence if self.frames else -1
        if found.sequence != last + 1 and not (
            self.damage and self.damage[-1].offset < found.offset
        ):
            self.damage.append(
                Damage(found.offset, 0, f"frames {last + 1} to {found.sequence - 1} are missing")
            )

    def _read_header(self) -> Header:
        if self.frames and self.frames[0].kind == frames.HEADER:
            with contextlib.suppress(LogCorruptError):
                return self._record(self.frames[0], Header)
        if self._footer_header is not None:
            return self._footer_header
        raise LogCorruptError(
            "no intact header is left: the environment cannot be known", path=self.path, offset=0
        )

    _footer_header: Header | None = None
    _is_closed = False

    def _record(self, frame: Frame, kind: type[T]) -> T:
        self._check_open()
        if not frames.is_intact(self._data, frame):
            raise self._corrupt(frame, "the payload does not match its checksum")
        start = frame.offset + frames.FRAME.size
        meta = self._data[start : start + frame.meta_size]
        try:
            if zstandard.frame_content_size(meta) != frame.meta_raw:
                raise ValueError("its size is not the stated one")
            record: T = _decoder(kind).decode(self._decompressor.decompress(meta))
            return record
        except (ValueError, msgspec.MsgspecError, zstandard.ZstdError) as exc:
            raise self._corrupt(frame, f"not a {kind.__name__}: {exc}") from exc

    def _corrupt(self, frame: Frame, what: str) -> LogCorruptError:
        return LogCorruptError(what, path=self.path, offset=frame.offset)


class Span(NamedTuple):
    """A segment's place in its chunk: steps are rows [start, start + n_steps) of step columns; observations and states rows
    [obs_start, obs_start + has_reset + n_steps) of theirs."""

    segment: Segment
    start: int
    obs_start: int


class LogChunk:
    """A chunk of a log, its columns decoded when asked for and then kept."""

    def __init__(
        self, record: Chunk, reader: LogReader, index: int, data_start: int, data_end: int
    ) -> None:
        self.record, self.index, self.path = record, index, reader.path
        self.offset = reader.frames[index].offset
        self._reader, self._start, self._end = reader, data_start, data_end
        self._rows: dict[int, ColumnRows] = {}
        self._spans_of: dict[int, list[Span]] | None = None
        self._events_of: dict[int, list[Event]] | None = None
        self.spans: list[Span] = []
        start = obs = 0
        for segment in record.segments:
            self.spans.append(Span(segment, start, obs))
            start += segment.n_steps
            obs += segment.n_steps + segment.has_reset
        self.n_steps, self.n_obs = start, obs

    def spans_of(self, episode: int) -> list[Span]:
        """Return the spans of one episode."""
        if self._spans_of is None:
            self._spans_of = {}
            for span in self.spans:
                self._spans_of.setdefault(span.segment.episode, []).append(span)
        return self._spans_of.get(episode, [])

    def events_of(self, episode: int) -> list[Event]:
        """Return the events of one episode."""
        if self._events_of is None:
            self._events_of = {}
            for event in self.record.events:
                self._events_of.setdefault(event.episode, []).append(event)
        return self._events_of.get(episode, [])

    def rows(self, index: int) -> ColumnRows:
        """Return a column's rows.

        Raises:
            LogCorruptError: The column contradicts itself.
        """
        found = self._rows.get(index)
        if found is None:
            column = self.record.columns[index]
            start = self._start + column.offset
            if column.offset < 0 or start + column.size > self._end:
                raise LogCorruptError(
                    f"column {column.name!r} lies outside its frame",
                    path=self.path,
                    offset=self.offset,
                )
            try:
                found = ColumnRows(
                    column,
                    self._reader.slice(start, start + column.size),
                    self._reader._decompressor,
                )
            except (ValueError, TypeError, OverflowError) as exc:
                raise LogCorruptError(
                    f"column {column.name!r}: {exc}", path=self.path, offset=self.offset
                ) from exc
            self._rows[index] = found
        return found

    def decode(self) -> None:
        """Decode all columns.

        Raises:
            LogCorruptError: A column contradicts itself.
        """
        for index in range(len(self.record.columns)):
            self.rows(index)

    def column(self, name: str) -> ColumnRows | None:
        """Return a column by its name, or None."""
        for index, column in enumerate(self.record.columns):
            if column.name == name:
                return self.rows(index)
        return None

    def layout(self, field: str) -> Any:
        """Return how a field's columns make up its value, or None where the chunk has none of it."""
        return self.record.layouts.get(field)

    def columns(self) -> list[Column]:
        """Return the columns' records."""
        return self.record.columns


def is_being_written(path: Path) -> bool | None:
    """Say whether a living writer holds a log: None where that cannot be known (no flock, no permission)."""
    if fcntl is None:
        return None
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        # Shared, so that two readers who ask at once do not take each other for a writer.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(fd)


def _map(path: Path) -> mmap.mmap | bytes:
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return b""
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as exc:
        raise LogError(f"cannot be read: {exc.strerror or exc}", path=path) from exc
