"""Reads the contents of a log: its chunks, around damage, and the values that it stores once."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

import msgspec

from trajrec.errors import LogCorruptError, LogError
from trajrec.log import frames, records
from trajrec.log.blobs import StoredBlobs
from trajrec.log.chunk import LogChunk
from trajrec.log.directory import EpisodeSummary
from trajrec.log.directory_tables import read_blobs, read_episodes, read_ranges
from trajrec.log.frame_reader import FrameReader
from trajrec.log.frames import Damage
from trajrec.log.journal_reader import Half, journal_chunks, lost_items, read_journal
from trajrec.log.schema import Chunk
from trajrec.log.source import ByteSource
from trajrec.log.validation import check_chunk

# Neighbouring episodes share chunks; more than a few decoded chunks would fill the memory.
_CACHED_CHUNKS = 8


class LogReader(FrameReader):
    """A log file, open for reading: see `FrameReader` for its errors.

    The chunks of a log that is not sealed are those of its frames, and behind them those of its
    journal, which the writer has not written as frames yet.

    Args:
        path: The file.
        source: Its bytes; by default those of the file.
        with_journal: Whether to read the journal too.

    Attributes:
        unknown_tags: The kinds of events that were left out, since this program does not know them.
        journal: The chunks of the journal. Their numbers follow those of the frames.
    """

    def __init__(
        self, path: Path, source: ByteSource | None = None, *, with_journal: bool = True
    ) -> None:
        self._has_journal = with_journal and source is None
        self._journal_problem = ""
        # What was read of the journal last: a writer appends to it.
        self._halves: list[Half] = []
        super().__init__(path, source)

    def _open_source(self) -> ByteSource:
        # Before the log and its size: the log then has all that is older.
        self._read_journal()
        return super()._open_source()

    def _open(self) -> None:
        super()._open()
        self.unknown_tags: set[str] = set()
        self._blobs = StoredBlobs()
        self._blobs_read = 0
        self._has_blob_index = False
        self._cache: dict[int, LogChunk] = {}
        self._last_items: dict[int, int] = {}
        self._lost_rows: set[int] = set()
        self._refused: dict[int, LogCorruptError] = {}
        self._chunks_of: dict[int, list[int]] | None = None
        self.journal: list[LogChunk] = []
        self._take_journal(self._halves)

    def refresh(self) -> bool:
        """Read the data that were appended, and return whether there are any."""
        halves = [] if self.is_sealed else self._read_journal()
        before = self.last_item
        has_more = super().refresh()
        self._take_journal(halves)
        has_more |= self.last_item != before
        if has_more:
            self._chunks_of = None
        return has_more

    @property
    def n_chunks(self) -> int:
        """The end of the numbers of chunks: those of the frames, and those of the journal."""
        return len(self.frames) + len(self.journal)

    def _read_journal(self) -> list[Half]:
        if not self._has_journal:
            return []
        try:
            self._halves = read_journal(self.path, self._halves)
        except LogError as exc:
            # Without its journal, the log itself is read all the same.
            self._journal_problem = f"the journal is not read: {exc.what}"
            self._halves = []
        return self._halves

    @property
    def last_item(self) -> int:
        """The number of the last item of the journal that was read, -1 if there is none."""
        return self.journal[-1].record.journal if self.journal else -1

    def _take_journal(self, halves: list[Half]) -> None:
        """Take the items of the journal that the frames do not have."""
        self.journal = []
        if self._journal_problem and not self.is_sealed:
            self._add_damage(Damage(self.size, 0, self._journal_problem))
        if not halves or self.is_sealed:
            return
        last_written = self.last_written()
        if lost := lost_items(halves, last_written, log_id=self.header.log_id):
            self._add_damage(Damage(self.size, 0, lost))
        try:
            parts = journal_chunks(halves, last_written, log_id=self.header.log_id, log=self.path)
            for index, (record, data) in enumerate(parts, self.n_chunks):
                self.journal.append(self._journal_chunk(index, record, data))
        except LogCorruptError as exc:
            self._add_damage(Damage(self.size, 0, exc.what))

    def _journal_chunk(self, index: int, record: Chunk, data: bytes) -> LogChunk:
        """Return a chunk of the journal, checked like one of a frame."""
        try:
            record = records.checked_rows(record)
        except (ValueError, msgspec.MsgspecError) as exc:
            raise self._corrupt(self.size, f"the journal contradicts itself: {exc}") from exc
        return self._new_chunk(index, self.size, record, record_size=0, data=data)

    def last_written(self) -> int:
        """Return the number of the last item that the frames have; -1 if they number none."""
        for index in range(len(self.frames) - 1, 0, -1):
            if self.frames[index].kind == frames.CHUNK:
                with contextlib.suppress(LogCorruptError):
                    if index not in self._last_items:
                        self.chunk(index)
                    return self._last_items[index]
        return -1

    def episodes(self) -> list[EpisodeSummary]:
        """Return the episodes as the footer states them, without reading any frame.

        Raises:
            LogError: The log has no footer that states them: it is not sealed, or of format 1.
            LogCorruptError: The footer contradicts itself.
        """
        if self.footer is None:
            raise LogError(
                "only the footer of a sealed log of format 2 lists its episodes; "
                "`trajrec recover` seals a log",
                path=self.path,
            )
        try:
            return read_episodes(self.footer.episodes, len(self.frames))
        except ValueError as exc:
            raise self._drop_footer(exc) from exc

    def chunks(self, start: int = 0) -> Iterator[LogChunk]:
        """Yield the chunks of frames[start:], and those of the journal.

        A chunk whose frame is intact but whose record contradicts itself is added to `damage` and
        left out.
        """
        for index in range(start, len(self.frames)):
            if self.frames[index].kind == frames.CHUNK:
                with contextlib.suppress(LogCorruptError):
                    yield self.chunk(index)
        yield from self.journal[max(0, start - len(self.frames)) :]

    def chunks_of(self, episode: int) -> list[int]:
        """Return the numbers of the frames that have steps or events of an episode.

        If the log has a footer, no frame is read for it.
        """
        if self._chunks_of is None:
            self._chunks_of = {}
            for index, number in self._episodes_of_frames():
                numbers = self._chunks_of.setdefault(number, [])
                if not numbers or numbers[-1] != index:
                    numbers.append(index)
        return self._chunks_of.get(episode, [])

    def _episodes_of_frames(self) -> Iterator[tuple[int, int]]:
        """Yield frame and episode of each part of an episode, in the order of the frames."""
        if self.footer is not None:
            try:
                ranges = read_ranges(self.footer.steps, self.frames)
            except ValueError as exc:
                self._drop_footer(exc)
            else:
                yield from ((part.frame, part.episode) for part in ranges)
                return
        for index, episodes in enumerate(self._listed_episodes):
            yield from ((index, number) for number in episodes)
        for index in range(len(self._listed_episodes), len(self.frames)):
            if self.frames[index].kind == frames.CHUNK:
                with contextlib.suppress(LogCorruptError):
                    record = self.chunk(index).record
                    numbers = {s.episode for s in record.segments}
                    numbers |= {e.episode for e in record.events}
                    yield from ((index, number) for number in sorted(numbers))
        for chunk in self.journal:
            numbers = {s.episode for s in chunk.record.segments}
            numbers |= {e.episode for e in chunk.record.events}
            yield from ((chunk.index, number) for number in sorted(numbers))

    def chunk(self, index: int) -> LogChunk:
        """Return the chunk of frames[index], or of the journal.

        If its record is intact and its columns are not, the chunk has its events and no rows.

        Raises:
            LogCorruptError: It does not match its checksum, or is not a chunk.
        """
        if index >= len(self.frames):
            return self.journal[index - len(self.frames)]
        if index in self._refused:
            # Not read again: a frame may hold 200 MB of nothing.
            raise self._refused[index]
        entry = self.frames[index]
        try:
            frame, payload = self._read_frame(entry)
            record = self._decode(frame, payload, self._decode_chunk)
            if not frames.is_data_intact(frame, payload):
                self._add_damage(frames.damaged_columns(frame))
                self._lost_rows.add(index)
            chunk = self._new_chunk(
                index,
                frame.offset,
                record,
                record_size=frame.meta_raw,
                data=payload[frame.meta_size :],
            )
        except LogCorruptError as exc:
            self._add_damage(Damage(entry.offset, entry.size, exc.what))
            self._refused[index] = exc.with_traceback(None)
            raise
        self._last_items[index] = record.journal
        self._blobs.note(record.events, index)
        return chunk

    def _new_chunk(
        self, index: int, offset: int, record: Chunk, *, record_size: int, data: bytes
    ) -> LogChunk:
        """Return a chunk, without its rows if they are lost.

        Raises:
            LogCorruptError: The record contradicts itself.
        """
        if index in self._lost_rows:
            record = msgspec.structs.replace(
                record, segments=[], columns=[], layouts={}, irregular=[]
            )
        try:
            chunk = LogChunk(
                record,
                path=self.path,
                index=index,
                offset=offset,
                record_size=record_size,
                data=data,
                decompressor=self._decompressor,
                report=partial(_lose_rows, weakref.ref(self), index),
            )
            if record.columns or record.segments:
                check_chunk(record, len(data), chunk.n_steps, chunk.n_obs)
        except ValueError as exc:
            raise self._corrupt(offset, f"the chunk contradicts itself: {exc}") from exc
        return chunk

    def check(self, index: int) -> bool:
        """Read all of frames[index]; return whether it is whole, and add its damage if it is not."""
        entry = self.frames[index]
        if entry.kind != frames.CHUNK:
            if not self.is_intact(index):
                reason = "a frame does not match its checksum"
                self._add_damage(Damage(entry.offset, entry.size, reason))
                return False
            return True
        try:
            chunk = self.chunk(index)
        except LogCorruptError:
            return False
        try:
            chunk.decode()
        except LogCorruptError as exc:
            self.add_damage(chunk, exc.what)
        return not self.has_lost_rows(index)

    def has_lost_rows(self, index: int) -> bool:
        """Return whether the columns of frames[index] are damaged, as far as it was read."""
        return index in self._lost_rows

    @property
    def refused(self) -> Collection[int]:
        """The numbers of the frames that were read and cannot be decoded."""
        return self._refused.keys()

    def cached_chunk(self, index: int) -> LogChunk:
        """Return the chunk of frames[index] from a small cache, or read it."""
        if index >= len(self.frames):
            return self.journal[index - len(self.frames)]
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
        data = self._blobs.get(digest)
        if data is None:
            self._read_blob(digest)
            data = self._blobs.get(digest)
        if data is None:
            raise LogCorruptError(
                f"the value {digest.hex()} that an event refers to is lost", path=self.path
            )
        if not self._blobs.is_verified(digest, data):
            raise LogCorruptError(f"the value {digest.hex()} is another one", path=self.path)
        return data

    def _read_blob(self, digest: bytes) -> None:
        """Read the frame that has a value, or all frames that were not yet looked through."""
        if self.footer is not None and not self._has_blob_index:
            self._has_blob_index = True
            try:
                self._blobs.frames |= read_blobs(self.footer.blobs, len(self.frames))
            except ValueError as exc:
                self._drop_footer(exc)
        index = self._blobs.frames.get(digest)
        if index is not None and self.frames[index].kind == frames.CHUNK:
            with contextlib.suppress(LogCorruptError):
                # Reading it keeps its values.
                self.chunk(index)
            if self._blobs.get(digest) is not None:
                return
        for chunk in self.journal:
            self._blobs.keep(chunk.record.events)
        # One pass, which goes on when another value is missing.
        while self._blobs.get(digest) is None and self._blobs_read < len(self.frames):
            if self.frames[self._blobs_read].kind == frames.CHUNK:
                with contextlib.suppress(LogCorruptError):
                    self.chunk(self._blobs_read)
            self._blobs_read += 1

    def add_damage(self, chunk: LogChunk, reason: str) -> None:
        """Add a chunk that contradicts others, or itself, to the damage.

        From now on it is read without its rows.
        """
        self._lose_rows(chunk.index, reason)

    def note_damage(self, index: int, reason: str) -> None:
        """Add to the damage that the events of a chunk contradict others."""
        offset, size = self._span(index)
        self._add_damage(Damage(offset, size, reason))

    def _span(self, index: int) -> tuple[int, int]:
        """Return offset and size of a frame; chunks of the journal come behind the log."""
        if index >= len(self.frames):
            return self.size, 0
        entry = self.frames[index]
        return entry.offset, entry.size

    def _drop_footer(self, exc: ValueError) -> LogCorruptError:
        """Note that the footer contradicts itself, and do without it; return the error."""
        self.footer = None
        offset = self.frames[-1].end if self.frames else self._format.first_frame
        size = self.size - self._format.trailer_size - offset
        error = self._corrupt(offset, f"the footer contradicts itself: {exc}")
        self._add_damage(Damage(offset, size, error.what))
        return error

    def _lose_rows(self, index: int, reason: str) -> None:
        """Read a chunk without its rows from now on, since they are damaged."""
        self._lost_rows.add(index)
        self._cache.pop(index, None)
        if index >= len(self.frames):
            number = index - len(self.frames)
            self.journal[number] = self._journal_chunk(index, self.journal[number].record, b"")
        offset, size = self._span(index)
        self._add_damage(Damage(offset, size, reason))

    def _decode_chunk(self, data: bytes) -> Chunk:
        return records.decode_chunk(data, self._format.version, self.unknown_tags)


def _lose_rows(reader: weakref.ref[LogReader], index: int, reason: str) -> None:
    """Have a reader, if it is still there, read a chunk without its rows from now on."""
    # A weak reference: readers keep chunks, and a cycle would keep both.
    if (alive := reader()) is not None:
        alive._lose_rows(index, reason)
