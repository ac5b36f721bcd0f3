"""A chunk of a log, as it is read: its steps by column, and its events."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from trajrec.errors import LogCorruptError
from trajrec.log.rows import ColumnRows
from trajrec.log.schema import Chunk, Column, Event, Segment


class Span(NamedTuple):
    """The rows of a segment in its chunk.

    Attributes:
        segment: The segment.
        start: The first row in the columns of steps; the segment has n_steps of them.
        obs_start: The first row in the columns of observations and states; the segment has
            n_steps of them, and one more if it has a reset.
    """

    segment: Segment
    start: int
    obs_start: int


class LogChunk:
    """A chunk of a log. Columns are decoded when they are first asked for, and then kept.

    Args:
        record: The chunk's record.
        path: The log.
        index: The number of the frame in the log.
        offset: The position of the frame in the file.
        record_size: The bytes of the record, decompressed.
        data: The frame's data: the bytes of the columns.
        decompressor: The reader's own.

    Attributes:
        spans: The rows of each segment.
        n_steps: Rows of the columns of steps.
        n_obs: Rows of the columns of observations and states.
    """

    def __init__(
        self,
        record: Chunk,
        *,
        path: Path,
        index: int,
        offset: int,
        record_size: int,
        data: bytes,
        decompressor: zstandard.ZstdDecompressor,
    ) -> None:
        self.record = record
        self.path = path
        self.index = index
        self.offset = offset
        self.record_size = record_size
        self._data = data
        self._decompressor = decompressor
        self._rows: dict[int, ColumnRows] = {}
        self._spans_of: dict[int, list[Span]] | None = None
        self._events_of: dict[int, list[Event]] | None = None
        self.spans: list[Span] = []
        self.n_steps = 0
        self.n_obs = 0
        for segment in record.segments:
            self.spans.append(Span(segment, self.n_steps, self.n_obs))
            self.n_steps += segment.n_steps
            self.n_obs += segment.n_steps + segment.has_reset

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
        """Return the rows of a column by its number in the chunk.

        Raises:
            LogCorruptError: The column contradicts itself.
        """
        rows = self._rows.get(index)
        if rows is None:
            rows = self._rows[index] = self._decode(self.record.columns[index])
        return rows

    def _decode(self, column: Column) -> ColumnRows:
        data = self.column_bytes(column)
        if column.checksum is not None and zlib.crc32(data) != column.checksum:
            raise self._corrupt(column, "does not match its checksum")
        try:
            return ColumnRows(column, data, self._decompressor)
        except (ValueError, TypeError, OverflowError) as exc:
            raise self._corrupt(column, str(exc)) from exc

    def column_bytes(self, column: Column) -> bytes:
        """Return the bytes of a column as they are stored.

        Raises:
            LogCorruptError: They lie outside the frame.
        """
        if column.const_data is not None:
            return column.const_data
        end = column.offset + column.size
        if column.offset < 0 or column.size < 0 or end > len(self._data):
            raise self._corrupt(column, "lies outside its frame")
        return self._data[column.offset : end]

    def _corrupt(self, column: Column, reason: str) -> LogCorruptError:
        return LogCorruptError(
            f"column {column.name!r}: {reason}", path=self.path, offset=self.offset
        )

    def decode(self) -> None:
        """Decode all columns.

        Raises:
            LogCorruptError: A column contradicts itself.
        """
        for index in range(len(self.record.columns)):
            self.rows(index)

    def column(self, name: str) -> ColumnRows | None:
        """Return the rows of a column by its name, or None."""
        for index, column in enumerate(self.record.columns):
            if column.name == name:
                return self.rows(index)
        return None

    # A layout is a nested list of unlike items: `trajrec.log.schema.Chunk` describes it.
    def layout(self, field: str) -> Any:
        """Return the layout of a field, or None if the chunk has no such field."""
        return self.record.layouts.get(field)

    def columns(self) -> list[Column]:
        """Return the records of the columns."""
        return self.record.columns
