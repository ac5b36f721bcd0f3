"""Reads a log: by its footer if it is sealed, else by scanning it, and around damage."""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import zstandard

from trajrec.errors import LogCorruptError, LogError, LogFormatError
from trajrec.log import frames
from trajrec.log.chunk import LogChunk
from trajrec.log.events import Blob
from trajrec.log.frames import Damage, FileBytes, Frame
from trajrec.log.locks import is_being_written
from trajrec.log.schema import Chunk, Footer, FrameEntry, Header

# Neighbouring episodes share chunks; more than a few decoded chunks would fill the memory.
_CACHED_CHUNKS = 8

T = TypeVar("T", bound=msgspec.Struct)


@functools.cache
def _decoder(kind: type[T]) -> msgspec.msgpack.Decoder[T]:
    return msgspec.msgpack.Decoder(kind)


class LogReader:
    """A log file, open for reading. A context manager.

    The reader sees the file as large as it was when it was opened; `refresh` reads the rest.

    Attributes:
        path: The file.
        header: The log's first record.
        frames: Its intact frames, in order.
        damage: Its unreadable bytes, in order. At most the last is a torn tail.
        is_sealed: Whether the writer closed the log.

    Raises:
        LogFormatError: The file is not a log, or its format is newer.
        LogCorruptError: No intact header is left.
    """

    _footer_header: Header | None = None
    _is_closed = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._decompressor = zstandard.ZstdDecompressor()
        self._data: FileBytes = _map(path)
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
            # A borrowed slice keeps the map open.
            with contextlib.suppress(BufferError):
                self._data.close()

    @property
    def size(self) -> int:
        """Size of the file when it was opened or refreshed, in bytes."""
        return len(self._data)

    @property
    def position(self) -> int:
        """Offset up to which all frames are known; `refresh` continues from here."""
        return self._position

    def chunks(self, start: int = 0) -> Iterator[LogChunk]:
        """Yield the chunks of frames[start:].

        A chunk whose frame is intact but whose record contradicts itself is added to `damage` and
        left out.
        """
        for index in range(start, len(self.frames)):
            if self.frames[index].kind == frames.CHUNK:
                with contextlib.suppress(LogCorruptError):
                    yield self.chunk(index)

    def chunks_of(self, episode: int) -> list[int]:
        """Return the numbers of the frames that have steps or events of an episode.

        If the log has a footer, no frame is read for it.
        """
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
            damage = Damage(frame.offset, frame.end - frame.offset, str(exc))
            if damage not in self.damage:
                self.damage.append(damage)
            raise
        return LogChunk(
            record,
            path=self.path,
            index=index,
            offset=frame.offset,
            data_start=frame.offset + frames.FRAME.size + frame.meta_size,
            data_end=frame.end,
            read=self.slice,
            decompressor=self._decompressor,
        )

    def cached_chunk(self, index: int) -> LogChunk:
        """Return the chunk of frames[index] from a small cache, or read it."""
        chunk = self._cache.pop(index, None) or self.chunk(index)
        # Added last: the first entry is the one that was not used for longest.
        self._cache[index] = chunk
        if len(self._cache) > _CACHED_CHUNKS:
            self._cache.pop(next(iter(self._cache)))
        return chunk

    def blob(self, digest: bytes) -> bytes:
        """Return a value that is stored once in the log.

        Raises:
            LogCorruptError: The log has lost it.
        """
        if digest not in self._blobs:
            # One pass reads all values; frames appended later are read when a value is missing.
            for chunk in self.chunks(self._blobs_read):
                self._blobs.update(
                    (e.digest, e.data) for e in chunk.record.events if isinstance(e, Blob)
                )
            self._blobs_read = len(self.frames)
        data = self._blobs.get(digest)
        if data is None:
            raise LogCorruptError(
                f"the value {digest.hex()} that an event refers to is lost", path=self.path
            )
        return data

    def refresh(self) -> bool:
        """Read the frames that were appended, and return whether there are any.

        Rows that were borrowed before stay valid.
        """
        size = self.path.stat().st_size
        if self.is_sealed or size <= len(self._data):
            return False
        n_before = len(self.frames)
        self._data = _map(self.path)
        self._chunks_of = None
        self.damage = [damage for damage in self.damage if not damage.is_tail]
        self._scan()
        self.is_sealed = frames.read_trailer(self._data) is not None
        return len(self.frames) > n_before

    def add_damage(self, chunk: LogChunk, reason: str) -> None:
        """Add a chunk that contradicts itself to the damage."""
        frame = self.frames[chunk.index]
        self.damage.append(Damage(frame.offset, frame.end - frame.offset, reason))

    def slice_all(self) -> FileBytes:
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
            raise LogError(
                "the reader was closed; read episodes before you close their corpus", path=self.path
            )

    def is_being_written(self) -> bool | None:
        """Return whether a living writer holds the file, or None if it cannot be known."""
        return False if self.is_sealed else is_being_written(self.path)

    def _read_signature(self) -> None:
        try:
            frames.check_signature(self._data, self.path)
        except LogFormatError as exc:
            # Flipped bytes at the front do not make the rest unreadable; foreign files have no frames.
            is_newer = "newer" in str(exc)
            has_frames = any(isinstance(item, Frame) for item in frames.scan(self._data, 0))
            if is_newer or not has_frames:
                raise
            self.damage.append(Damage(0, frames.SIGNATURE.size, "the signature is damaged"))

    def _read_footer(self) -> bool:
        """Take the directory from the footer, and return whether it is intact."""
        offset = frames.read_trailer(self._data)
        frame = None if offset is None else frames.frame_at(self._data, offset)
        if frame is None or frame.kind != frames.FOOTER:
            return False
        try:
            footer = self._record(frame, Footer)
        except LogCorruptError:
            return False
        listed = []
        for entry in footer.frames:
            header = frames.frame_at(self._data, entry.offset)
            if header is None or header.end - header.offset != entry.size:
                return False
            listed.append(header)
        self.frames = listed
        self._position = frame.end
        self._footer_header = footer.header
        self._entries = footer.frames
        return True

    def _scan(self) -> bool:
        """Scan for frames from `position` on, and return whether the log is sealed."""
        for item in frames.scan(self._data, self._position):
            if isinstance(item, Damage):
                self.damage.append(item)
                continue
            if item.kind == frames.FOOTER:
                with contextlib.suppress(LogCorruptError):
                    self._footer_header = self._record(item, Footer).header
            else:
                self._add_gap(item)
                self.frames.append(item)
            self._position = item.end
        return frames.read_trailer(self._data) is not None

    def _add_gap(self, frame: Frame) -> None:
        """Add missing frames before a frame to the damage, unless bytes before it are damaged."""
        last = self.frames[-1].sequence if self.frames else -1
        has_damage = bool(self.damage) and self.damage[-1].offset < frame.offset
        if frame.sequence != last + 1 and not has_damage:
            reason = f"frames {last + 1} to {frame.sequence - 1} are missing"
            self.damage.append(Damage(frame.offset, 0, reason))

    def _read_header(self) -> Header:
        if self.frames and self.frames[0].kind == frames.HEADER:
            with contextlib.suppress(LogCorruptError):
                return self._record(self.frames[0], Header)
        if self._footer_header is not None:
            return self._footer_header
        raise LogCorruptError(
            "no intact header is left, so the environment is unknown", path=self.path, offset=0
        )

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

    def _corrupt(self, frame: Frame, reason: str) -> LogCorruptError:
        return LogCorruptError(reason, path=self.path, offset=frame.offset)


def _map(path: Path) -> FileBytes:
    try:
        with open(path, "rb") as file:
            # An empty file cannot be mapped.
            if os.fstat(file.fileno()).st_size == 0:
                return b""
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as exc:
        raise LogError(f"cannot be read: {exc.strerror or exc}", path=path) from exc
