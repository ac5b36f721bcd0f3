"""A chunk of a log, as it is read: its steps by column, and its events."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard

from trajrec.log.rows import ColumnRows, Origin
from trajrec.log.schema import Chunk, Column, Event, Segment
from trajrec.log.validation import DIGEST_SHAPES, DIGESTS, OBSERVATION_FIELDS


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
        report: Called with the reason if a column contradicts itself.

    Attributes:
        spans: The rows of each segment.
        n_steps: Rows of the columns of steps.
        n_obs: Rows of the columns of observations and states.

    Raises:
        ValueError: The record contradicts itself.
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
        report: Callable[[str], None],
    ) -> None:
        self.record = record
        self.path = path
        self.index = index
        self.offset = offset
        self.record_size = record_size
        self._data = data
        self._decompressor = decompressor
        self._origin = Origin(path, offset, report)
        self._rows: dict[int, ColumnRows] = {}
        self._by_name: dict[str, int] | None = None
        self._raw_bytes: int | None = None
        self._spans_of: dict[int, list[Span]] | None = None
        self._events_of: dict[int, list[Event]] | None = None
        self.spans, self.n_steps, self.n_obs = _place(record.segments)

    def spans_of(self, episode: int) -> list[Span]:
        """Return the spans of one episode."""
        if self._spans_of is None:
            self._spans_of = {}
            for span in self.spans:
                self._spans_of.setdefault(span.segment.episode, []).append(span)
        return self._spans_of.get(episode, [])

    def events_of(self, episode: int) -> list[Event]:
        """Return the events of one episode."""
        return self.events_by_episode.get(episode, [])

    @property
    def events_by_episode(self) -> dict[int, list[Event]]:
        """The events of each episode that has any."""
        if self._events_of is None:
            self._events_of = {}
            # Agents' episodes mostly follow each other: runs of events of one of them.
            number = None
            events: list[Event] = []
            for event in self.record.events:
                if event.episode != number:
                    number = event.episode
                    events = self._events_of.setdefault(number, [])
                events.append(event)
        return self._events_of

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
        try:
            if column.checksum is not None and zlib.crc32(data) != column.checksum:
                raise ValueError("does not match its checksum")
            rows = ColumnRows(column, data, self._decompressor, origin=self._origin)
            if column.kind == "const" and column.name == DIGESTS:
                _check_digests(rows)
        except (ValueError, TypeError, OverflowError) as exc:
            raise self._origin.corrupt(column.name, str(exc)) from exc
        numbers = rows.row_numbers
        if numbers is not None and len(numbers) and numbers[-1] >= self._n_rows(column):
            reason = f"names row {numbers[-1]} of {self._n_rows(column)}"
            raise self._origin.corrupt(column.name, reason)
        return rows

    def _n_rows(self, column: Column) -> int:
        """Return the number of rows among which a column counts its rows."""
        is_of_observations = column.name.partition("/")[0] in (*OBSERVATION_FIELDS, DIGESTS)
        return self.n_obs if is_of_observations else self.n_steps

    def column_bytes(self, column: Column) -> bytes:
        """Return the bytes of a column as they are stored.

        They lie in the frame: `trajrec.log.validation` has checked it.
        """
        if column.const_data is not None:
            return column.const_data
        return self._data[column.offset : column.offset + column.size]

    def decode(self) -> None:
        """Decode all columns.

        Raises:
            LogCorruptError: A column contradicts itself.
        """
        if len(self._rows) < len(self.record.columns):
            for index in range(len(self.record.columns)):
                self.rows(index)

    def column(self, name: str) -> ColumnRows | None:
        """Return the rows of a column by its name, or None."""
        index = self._index_of(name)
        return None if index is None else self.rows(index)

    def has_column(self, name: str) -> bool:
        """Return whether there is a column of a name."""
        return self._index_of(name) is not None

    def _index_of(self, name: str) -> int | None:
        if self._by_name is None:
            columns = list(enumerate(self.record.columns))
            # The first one of a name counts.
            self._by_name = {column.name: index for index, column in reversed(columns)}
        return self._by_name.get(name)

    # A layout is a nested list of unlike items: `trajrec.log.schema.Chunk` describes it.
    def layout(self, field: str) -> Any:
        """Return the layout of a field, or None if the chunk has no such field."""
        return self.record.layouts.get(field)

    @property
    def raw_bytes(self) -> int:
        """The bytes of its columns, decompressed."""
        if self._raw_bytes is None:
            self._raw_bytes = sum(column.raw_bytes for column in self.record.columns)
        return self._raw_bytes

    def columns(self) -> list[Column]:
        """Return the records of the columns."""
        return self.record.columns


def _check_digests(rows: ColumnRows) -> None:
    """Check that a constant is a digest of a state; `check_chunk` has checked other columns.

    Raises:
        ValueError: They are not.
    """
    first = rows.array(0, 1)
    if first is None or first.dtype != np.uint8 or first.shape[1:] not in DIGEST_SHAPES:
        raise ValueError("its rows are no digests of 3 or 8 bytes")


def _place(segments: Sequence[Segment]) -> tuple[list[Span], int, int]:
    """Return the rows of each segment of a chunk, and the numbers of all rows.

    Raises:
        ValueError: The segments are not in the order of episodes and steps.
    """
    # With short episodes a chunk has a segment for each twenty rows.
    spans: list[Span] = []
    last_episode = -1
    n_steps = 0
    n_obs = 0
    for segment in segments:
        episode = segment.episode
        if episode <= last_episode:
            _check_follows(segment, spans[-1].segment)
        last_episode = episode
        spans.append(Span(segment, n_steps, n_obs))
        n = segment.n_steps
        n_steps += n
        n_obs += n + segment.has_reset
    return spans, n_steps, n_obs


def _check_follows(segment: Segment, before: Segment) -> None:
    """Check that a segment follows one of the same episode.

    Raises:
        ValueError: It does not, or is of an earlier episode.
    """
    end = before.first_step + before.n_steps
    if segment.episode < before.episode or segment.has_reset or segment.first_step < end:
        raise ValueError(f"episode {segment.episode} step {segment.first_step} is not in order")
