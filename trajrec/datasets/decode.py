"""Decodes chunks into the rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zstandard

from trajrec.datasets.leaves import Leaf, LeafTable, column_value, has_whole_numbers
from trajrec.datasets.plan import NONE, Plan, Segments, StoredChunk
from trajrec.datasets.stores import Store, StoreWriter, WriterFactory
from trajrec.datasets.table import AFTER_FAILURE, CUT, LOST, TERMINATED, TRUNCATED, Table
from trajrec.errors import CorpusError
from trajrec.log.chunk import LogChunk
from trajrec.log.row_reader import RowReader
from trajrec.log.rows import ColumnRows
from trajrec.types import Array, IntArray

# The chunk of the observation before a chunk's first step is mostly the one that was just read.
_CACHED_CHUNKS = 2


class ChunkPlace(NamedTuple):
    """A chunk of the plan: the number of its log, and its place among the log's chunks."""

    log: int
    chunk: int


class ChunkSource:
    """Reads the columns of the chunks of a plan. It keeps the log that was read last open.

    Args:
        plan: The rows to read.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._log = NONE
        self._reader: RowReader | None = None
        self._decompressor = zstandard.ZstdDecompressor()
        self._chunks: dict[int, LogChunk] = {}

    def read(self, place: ChunkPlace) -> LogChunk:
        """Return a chunk whose columns are those that its plan lists.

        Raises:
            LogError: It cannot be read any more.
        """
        if place.log != self._log or self._reader is None:
            self.close()
            self._reader = self._plan.logs[place.log].selection.open()
            self._log = place.log
        chunk = self._chunks.pop(place.chunk, None) or self._read(place, self._reader)
        self._chunks[place.chunk] = chunk
        if len(self._chunks) > _CACHED_CHUNKS:
            self._chunks.pop(next(iter(self._chunks)))
        return chunk

    def _read(self, place: ChunkPlace, reader: RowReader) -> LogChunk:
        stored = self._plan.logs[place.log].chunks[place.chunk]
        if stored.record is None:
            chunk = reader.chunk(stored.index) if stored.index < reader.n_chunks else None
            if chunk is None or tuple(chunk.record.segments) != stored.segments:
                raise CorpusError(
                    f"{reader.path}: the log has grown since its episodes were selected; close its "
                    "recorder and select them again, or select those of closed logs: "
                    "log IN (SELECT log FROM logs WHERE is_sealed)"
                )
            return chunk
        return LogChunk(
            stored.record,
            path=reader.path,
            index=stored.index,
            offset=reader.frames[stored.index].offset,
            record_size=0,
            data=reader.slice(stored.start, stored.stop),
            decompressor=self._decompressor,
            report=_ignore,
        )

    def close(self) -> None:
        """Close the log."""
        self._chunks.clear()
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _ignore(reason: str) -> None:
    """The error that follows says the same."""


class TableBuilder:
    """Decodes chunks, one behind the other, into the columns of a table.

    Args:
        plan: The rows to read.
        source: Reads the chunks.
        new_writer: Makes the writer of each column.
    """

    def __init__(self, plan: Plan, source: ChunkSource, new_writer: WriterFactory) -> None:
        self._plan = plan
        self._source = source
        self._new_writer = new_writer
        leaves = plan.leaves.leaves
        self._observations = {
            name: StoreWriter(leaf, new_writer)
            for name, leaf in leaves.items()
            if name.partition("/")[0] == "obs"
        }
        self._named = {name: new_writer(name) for name in plan.named}
        self._steps = {
            name: new_writer(name)
            for name in leaves
            if name not in self._observations and name not in self._named
        }
        self._segment = new_writer(".segment")
        self._step = new_writer(".step")
        self._flags = new_writer(".flags")
        self._codes = new_writer(".codes")
        self._shifts = new_writer(".shifts")
        self._n_rows = 0
        self._n_obs = 0
        self._n_segments = 0
        # The log and segment whose last observation was added last.
        self._last = (NONE, NONE)

    def add(self, places: Sequence[ChunkPlace]) -> None:
        """Decode chunks and add their rows.

        Args:
            places: The chunks, in the order of logs and chunks.

        Raises:
            LogError: One cannot be read any more.
        """
        for number, group in groupby(places, key=itemgetter(0)):
            self._add_log(number, np.array([place.chunk for place in group], np.int64))

    def _add_log(self, number: int, chunks: IntArray) -> None:
        """Add the rows of chunks of one log."""
        log = self._plan.logs[number]
        segments = log.segments
        firsts = log.bounds[chunks]
        counts = log.bounds[chunks + 1] - firsts
        # The segments of the chunks, in order.
        taken = np.arange(counts.sum()) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)
        n = segments.n[taken]
        n_obs = n + segments.has_reset[taken]
        before = segments.before[taken]
        previous = np.empty_like(taken)
        previous[1:] = taken[:-1]
        previous[0] = self._last[1] if self._last[0] == number else NONE
        # The observation before the first step was not added right before the segment's own.
        is_far = (before != NONE) & (before != previous)
        own_rows = self._n_obs + np.cumsum(n_obs) - n_obs + np.cumsum(is_far)
        first_rows = self._n_rows + np.cumsum(n) - n
        self._shifts.append(own_rows - 1 + segments.has_reset[taken] - first_rows)
        self._add_numbers(segments, taken)
        ends = np.cumsum(counts)
        for chunk, start, stop in zip(
            chunks.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True
        ):
            self._add_chunk(ChunkPlace(number, chunk), taken[start:stop], is_far[start:stop])
        self._n_rows += int(n.sum())
        self._n_obs += int(n_obs.sum()) + int(is_far.sum())
        self._n_segments += len(taken)
        self._last = (number, int(taken[-1]))

    def _add_chunk(self, place: ChunkPlace, taken: IntArray, is_far: Array) -> None:
        """Add the columns of a chunk, and the observations of other chunks between them."""
        log = self._plan.logs[place.log]
        segments = log.segments
        stored = log.chunks[place.chunk]
        chunk = self._source.read(place)
        n = segments.n[taken]
        steps = _Rows(None, 0, stored.n_steps)
        if n.sum() != stored.n_steps:
            steps = _Rows.of(segments.start[taken], n)
        for name, writer in self._steps.items():
            writer.append(self._array(chunk, stored, name, steps))
        if not self._observations:
            return
        n_obs = n + segments.has_reset[taken]
        if not is_far[1:].any() and n_obs.sum() == stored.n_obs:
            if is_far[0]:
                self._carry(place.log, int(segments.before[taken[0]]))
            self._append_observations(chunk, stored, _Rows(None, 0, stored.n_obs))
            return
        start = 0
        for cut in [*np.flatnonzero(is_far).tolist(), len(taken)]:
            if cut > start:
                rows = _Rows.of(segments.obs_start[taken[start:cut]], n_obs[start:cut])
                self._append_observations(chunk, stored, rows)
            if cut < len(taken):
                self._carry(place.log, int(segments.before[taken[cut]]))
            start = cut

    def finish(self) -> Table:
        """Return the table of all rows that were added."""
        leaves = self._plan.leaves.leaves
        stores: dict[str, Store] = {
            name: writer.finish() for name, writer in self._observations.items()
        }
        return Table(
            observations=stores,
            steps={
                name: writer.finish(leaves[name].dtype, leaves[name].shape)
                for name, writer in (self._steps | self._named).items()
            },
            segment=self._segment.finish(np.dtype(np.int32), ()),
            step=self._step.finish(np.dtype(np.int32), ()),
            flags=self._flags.finish(np.dtype(np.uint8), ()),
            codes=self._codes.finish(np.dtype(np.int32), ()),
            shifts=self._shifts.finish(np.dtype(np.int64), ()),
        )

    def _add_numbers(self, segments: Segments, taken: IntArray) -> None:
        """Add the columns that the plan states."""
        n = segments.n[taken]
        total = int(n.sum())
        firsts = np.cumsum(n) - n
        numbers = np.arange(self._n_segments, self._n_segments + len(taken), dtype=np.int32)
        self._segment.append(np.repeat(numbers, n))
        starts = (segments.first_step[taken] - firsts).astype(np.int32)
        steps = np.arange(total, dtype=np.int32) + np.repeat(starts, n)
        self._step.append(steps)
        for name, writer in self._named.items():
            codes = np.repeat(segments.code[taken], n)
            writer.append(self._plan.named[name].of_rows(codes, steps.astype(np.int64)))
        self._codes.append(segments.code[taken].astype(np.int32))
        flags = np.zeros(total, np.uint8)
        has_rows = n > 0
        at_start = firsts[has_rows]
        at_end = at_start + n[has_rows] - 1
        begins = segments.is_lost[taken] * LOST + segments.follows_failure[taken] * AFTER_FAILURE
        terminated = segments.terminated[taken]
        truncated = segments.truncated[taken]
        is_cut = segments.is_last[taken] & ~(terminated | truncated)
        ends = terminated * TERMINATED + truncated * TRUNCATED + is_cut * CUT
        flags[at_start] |= begins[has_rows].astype(np.uint8)
        flags[at_end] |= ends[has_rows].astype(np.uint8)
        self._flags.append(flags)

    def _carry(self, log_number: int, segment: int) -> None:
        """Add the last observation of a segment of an earlier chunk."""
        log = self._plan.logs[log_number]
        segments = log.segments
        place = ChunkPlace(log_number, int(segments.chunk[segment]))
        row = int(
            segments.obs_start[segment] + segments.n[segment] + segments.has_reset[segment] - 1
        )
        stored = log.chunks[place.chunk]
        self._append_observations(self._source.read(place), stored, _Rows(None, row, row + 1))

    def _append_observations(self, chunk: LogChunk, stored: StoredChunk, rows: _Rows) -> None:
        for name, writer in self._observations.items():
            column = chunk.rows(stored.columns[name])
            if writer.takes_stacks and column.stacks is not None and rows.is_all(stored.n_obs):
                writer.append_stacks(column.stacks)
            else:
                writer.append(self._array(chunk, stored, name, rows))

    def _array(self, chunk: LogChunk, stored: StoredChunk, name: str, rows: _Rows) -> Array:
        """Return some rows of a column in the leaf's dtype."""
        leaf = self._plan.leaves.leaves[name]
        if rows.stop <= rows.start:
            return np.zeros((0, *leaf.shape), leaf.dtype)
        column = chunk.rows(stored.columns[name])
        array = column_array(
            column, leaf, self._plan.leaves, bounds=(rows.start, rows.stop), path=chunk.path
        )
        return array if rows.numbers is None else array[rows.numbers - rows.start]


class _Rows(NamedTuple):
    """Rows of a column.

    Attributes:
        numbers: Their numbers; None if they are all from start to stop.
        start: The first one.
        stop: The number behind the last one.
    """

    numbers: IntArray | None
    start: int
    stop: int

    @staticmethod
    def of(starts: IntArray, n: IntArray) -> _Rows:
        """Return rows of several ascending ranges, given by their first rows and lengths."""
        total = int(n.sum())
        if not total:
            return _Rows(None, 0, 0)
        starts = starts[n > 0]
        n = n[n > 0]
        start = int(starts[0])
        stop = int(starts[-1] + n[-1])
        if stop - start == total:
            return _Rows(None, start, stop)
        return _Rows(np.arange(total) + np.repeat(starts - (np.cumsum(n) - n), n), start, stop)

    def is_all(self, n: int) -> bool:
        """Return whether they are all n rows of a column."""
        return self.numbers is None and (self.start, self.stop) == (0, n)


def column_array(
    column: ColumnRows, leaf: Leaf, leaves: LeafTable, *, bounds: tuple[int, int], path: Path
) -> Array:
    """Return rows of a column in the leaf's dtype, borrowed if the column has that dtype.

    Raises:
        CorpusError: The dtype cannot hold a value exactly.
    """
    start, stop = bounds
    if leaf.is_text:
        return leaves.code_texts(leaf.name, column.values(start, stop))
    array = column.array(start, stop)
    if array is None:
        values = list(map(column_value, column.values(start, stop)))
        array = np.array(values)
        is_exact = has_whole_numbers(values, array)
    else:
        is_exact = True
    # A reward may be an array of one number.
    array = array.reshape(len(array), *leaf.shape)
    if array.dtype == leaf.dtype and is_exact:
        return array
    if leaf.dtype.kind == "f" and array.dtype.kind in "iu" and array.size:
        # Larger integers lie between the numbers that a float can hold.
        limit = 1 << (np.finfo(leaf.dtype).nmant + 1)
        is_exact = -limit <= int(array.min()) and int(array.max()) <= limit
    elif leaf.dtype.kind == "i" and array.dtype.kind == "u" and array.size:
        # A log may have large integers of Python as unsigned ones.
        is_exact = int(array.max()) <= np.iinfo(leaf.dtype).max
    if not is_exact:
        raise CorpusError(
            f"{path}: {leaf.name!r} holds integers that {leaf.dtype} cannot hold exactly; "
            f"leave {leaf.name!r} out of columns="
        )
    return array.astype(leaf.dtype)
