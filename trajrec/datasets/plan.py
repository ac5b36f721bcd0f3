"""The rows of selected episodes in the chunks of their logs, before any column is decoded.

A segment is a run of steps of one episode in one chunk. The observation before its first step is its
own first row if it has the reset's, and else the last one of the segment before it, which may lie in
an earlier chunk. If the log has lost that one, the step makes no transition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from trajrec.datasets.leaves import FIELDS, LeafTable, leaf_columns
from trajrec.datasets.named_values import NamedColumn, NamedValues
from trajrec.datasets.selection import LogSelection, Selection
from trajrec.errors import CorpusError, LogCorruptError
from trajrec.log.chunk import LogChunk
from trajrec.log.frames import CHUNK
from trajrec.log.row_reader import RowReader
from trajrec.log.schema import Chunk, Segment
from trajrec.types import Array, IntArray

NONE = -1
"""In place of the segment before one: there is none."""


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Segments of one log, in the order of its chunks; an array (S,) for each attribute.

    Attributes:
        chunk: The number of the chunk among those of the plan.
        code: The number of the episode in the selection.
        first_step: The first step.
        n: The steps.
        has_reset: Whether the observations have one more row in front: the reset's.
        start: The first row in the columns of steps.
        obs_start: The first row in the columns of observations.
        before: The segment that has the observation before the first step, `NONE` if it is lost or
            the segment's own.
        is_lost: Whether the observation before the first step is lost.
        follows_failure: Whether the steps between `before` and the first step raised.
        is_last: Whether no row of the episode follows directly.
        terminated: The flag of the last step.
        truncated: The flag of the last step.
    """

    chunk: IntArray
    code: IntArray
    first_step: IntArray
    n: IntArray
    has_reset: Array
    start: IntArray
    obs_start: IntArray
    before: IntArray
    is_lost: Array
    follows_failure: Array
    is_last: Array
    terminated: Array
    truncated: Array


@dataclass(frozen=True, kw_only=True)
class StoredChunk:
    """A chunk of a log, with what is needed to decode its columns without its record.

    Attributes:
        index: The number of the chunk.
        n_steps: The rows of its columns of steps.
        n_obs: The rows of its columns of observations.
        record: A record with the columns of the leaves alone; None if the chunk has to be read as a
            whole, since its columns have no checksums, or lie in a journal.
        start: The offset of the bytes of these columns in the file.
        stop: The offset behind them.
        columns: Leaf -> the number of its column in the record, or in the chunk.
        segments: The segments of a chunk that has to be read as a whole: a log that is written may
            have others under its number by then.
    """

    index: int
    n_steps: int
    n_obs: int
    record: Chunk | None
    start: int
    stop: int
    columns: Mapping[str, int]
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True)
class LogPlan:
    """The rows of the selected episodes of one log.

    Attributes:
        selection: The episodes.
        segments: Their segments.
        chunks: The chunks that have any of them, in order.
        bounds: The segments of chunks[k] are those from bounds[k] to bounds[k + 1], (C + 1,).
    """

    selection: LogSelection
    segments: Segments
    chunks: tuple[StoredChunk, ...]
    bounds: IntArray

    def n_rows(self, *, with_failed: bool) -> IntArray:
        """Return the number of transitions of each chunk."""
        lost = self.segments.is_lost & (self.segments.n > 0)
        if not with_failed:
            lost = lost | self.segments.follows_failure
        totals = np.concatenate([[0], np.cumsum(self.segments.n - lost)])
        return np.asarray(totals[self.bounds[1:]] - totals[self.bounds[:-1]])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The rows of all selected episodes.

    Attributes:
        selection: The episodes.
        logs: The rows of each log that has any.
        leaves: The columns.
        named: The columns of named values.
        n_dropped: The steps whose observation before is lost.
        n_after_failure: The steps that follow one that raised.
    """

    selection: Selection
    logs: tuple[LogPlan, ...]
    leaves: LeafTable
    named: Mapping[str, NamedColumn]
    n_dropped: int
    n_after_failure: int


def make_plan(selection: Selection, wanted: Sequence[str]) -> Plan:
    """Look through the logs of a selection: once over their records, none of their columns.

    Args:
        selection: The episodes.
        wanted: The fields, parts of fields and named values that become columns.

    Raises:
        LogError: A log cannot be read.
        CorpusError: Another log is in its place, or a value is no column.
    """
    leaves = LeafTable(tuple(wanted))
    named = NamedValues(wanted)
    logs = []
    for log in selection.logs:
        with log.open() as reader:
            plan = _plan_log(log, reader, leaves)
            if named.names:
                # Also of chunks without rows: values may come after the last one.
                named.add(reader.chunks(log.first_frame), log)
        if plan.chunks:
            logs.append(plan)
    if not logs:
        raise CorpusError(
            f"{selection.folder}: the selected episodes have no steps of an environment; "
            "corpus.messages reads those of agents"
        )
    if not any(plan.segments.n.any() for plan in logs):
        raise CorpusError(
            f"{selection.folder}: the selected episodes have no step that returned: each of them "
            "raised, or is lost"
        )
    segments = [plan.segments for plan in logs]
    columns = named.columns()
    leaves.leaves |= {name: column.leaf for name, column in columns.items()}
    return Plan(
        selection=selection,
        logs=tuple(logs),
        leaves=leaves,
        named=columns,
        n_dropped=sum(int((part.is_lost & (part.n > 0)).sum()) for part in segments),
        n_after_failure=sum(int(part.follows_failure.sum()) for part in segments),
    )


def _read_chunks(reader: RowReader, log: LogSelection, leaves: LeafTable) -> Iterable[LogChunk]:
    """Yield the chunks that have rows of selected episodes, and note their leaves."""
    wanted = set(log.numbers.tolist())
    # The frames of a log that is still written end where the tables were read.
    stop = reader.n_chunks if log.seal is None else min(log.last_frame + 1, reader.n_chunks)
    for index in range(log.first_frame, stop):
        if index < len(reader.frames) and reader.frames[index].kind != CHUNK:
            continue
        try:
            chunk = reader.chunk(index)
        except LogCorruptError:
            # Its steps are a gap.
            continue
        if any(segment.episode in wanted for segment in chunk.record.segments):
            leaves.add(chunk)
            yield chunk


def _plan_log(log: LogSelection, reader: RowReader, leaves: LeafTable) -> LogPlan:
    """Return the segments of the selected episodes of a log."""
    parts = [np.zeros((0, 7), np.int64)]
    chunks: list[StoredChunk] = []
    for chunk in _read_chunks(reader, log, leaves):
        chunks.append(_stored_chunk(chunk, reader, leaves))
        parts.append(
            np.array(
                [
                    (
                        len(chunks) - 1,
                        span.segment.episode,
                        span.segment.first_step,
                        span.segment.n_steps,
                        span.segment.has_reset,
                        span.start,
                        span.obs_start,
                    )
                    for span in chunk.spans
                ],
                np.int64,
            )
        )
    table = np.concatenate(parts)
    places = np.searchsorted(log.numbers, table[:, 1])
    places = np.minimum(places, len(log.numbers) - 1)
    # A segment without rows has no place in an episode.
    has_rows = table[:, 3] + table[:, 4] > 0
    is_wanted = (log.numbers[places] == table[:, 1]) & has_rows
    table = table[is_wanted]
    places = places[is_wanted]
    table, places, links = _link(log, table, places)
    is_used = np.zeros(len(chunks), np.bool_)
    is_used[table[:, 0]] = True
    table[:, 0] = (np.cumsum(is_used) - 1)[table[:, 0]]
    used = [chunk for chunk, is_needed in zip(chunks, is_used.tolist(), strict=True) if is_needed]
    return _make_plan(log, used, table, places, links)


def _stored_chunk(chunk: LogChunk, reader: RowReader, leaves: LeafTable) -> StoredChunk:
    """Return the columns of a chunk that leaves come from."""
    columns = {
        leaf: index
        for name in FIELDS
        if (layout := chunk.layout(name)) is not None
        for leaf, index in leaf_columns(layout, name)
        if leaves.is_wanted(leaf)
    }
    records = [chunk.record.columns[index] for index in columns.values()]
    with_data = [column for column in records if column.const_data is None]
    is_whole = chunk.index >= len(reader.frames) or any(c.checksum is None for c in with_data)
    start = stop = 0
    record = None
    if not is_whole:
        data_size = sum(column.size for column in chunk.record.columns)
        data_start = reader.frames[chunk.index].end - data_size
        first = min((column.offset for column in with_data), default=0)
        start = data_start + first
        stop = data_start + max((column.offset + column.size for column in with_data), default=0)
        moved = [
            column
            if column.const_data is not None
            else msgspec.structs.replace(column, offset=column.offset - first)
            for column in records
        ]
        record = Chunk(time_ns=0, segments=[], columns=moved, layouts={}, events=[])
        columns = {leaf: number for number, leaf in enumerate(columns)}
    return StoredChunk(
        index=chunk.index,
        n_steps=chunk.n_steps,
        n_obs=chunk.n_obs,
        record=record,
        start=start,
        stop=stop,
        columns=columns,
        segments=tuple(chunk.record.segments) if record is None else (),
    )


class _Links:
    """For each segment of a log, its relation to the others of its episode."""

    def __init__(self, n: int) -> None:
        self.before = np.full(n, NONE, np.int64)
        self.is_lost = np.zeros(n, np.bool_)
        self.follows_failure = np.zeros(n, np.bool_)
        self.is_last = np.ones(n, np.bool_)

    def take(self, rows: IntArray) -> _Links:
        """Return the links of some segments, which keep their order."""
        taken = _Links(len(rows))
        new_numbers = np.full(len(self.before) + 1, NONE, np.int64)
        new_numbers[rows] = np.arange(len(rows))
        taken.before = new_numbers[self.before[rows]]
        taken.is_lost = self.is_lost[rows]
        taken.follows_failure = self.follows_failure[rows]
        taken.is_last = self.is_last[rows]
        return taken


def _link(
    log: LogSelection, table: IntArray, places: IntArray
) -> tuple[IntArray, IntArray, _Links]:
    """Find the segment before each one; leave out those that cannot follow, as `Episode` does."""
    n = len(table)
    links = _Links(n)
    order = np.lexsort((np.arange(n), places))
    numbers = places[order]
    is_first = np.ones(n, np.bool_)
    is_first[1:] = numbers[1:] != numbers[:-1]
    is_single = is_first & np.concatenate([is_first[1:], [True]])[:n]
    rows = table[order]
    is_plain = is_single & (rows[:, 4] == 1) & (rows[:, 2] == log.first_steps[numbers])
    # Most episodes lie in one chunk; only the others are looked at one by one.
    keep = np.ones(n, np.bool_)
    starts = np.flatnonzero(is_first)
    ends = np.append(starts, n)[1:]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if not is_plain[start]:
            _link_episode(log, table, order[start:end], int(numbers[start]), links, keep)
    kept = np.flatnonzero(keep)
    return table[kept], places[kept], links.take(kept)


def _link_episode(
    log: LogSelection,
    table: IntArray,
    rows: IntArray,
    place: int,
    links: _Links,
    keep: Array,
) -> None:
    """Link the segments of one episode, in order."""
    first = int(log.first_steps[place])
    failed = log.failed.get(int(log.numbers[place]), frozenset())
    end = 0
    last = NONE
    for row in rows.tolist():
        _, _, step, n, has_reset, _, _ = table[row].tolist()
        # The same rules as `trajrec.corpus.episode_parts.why_misplaced`.
        if step < end or (has_reset and (last != NONE or step != first)):
            keep[row] = False
            continue
        if not has_reset:
            missing = range(end, step) if last != NONE else range(0)
            is_reached = last != NONE and all(step in failed for step in missing)
            links.is_lost[row] = not is_reached
            links.follows_failure[row] = is_reached and len(missing) > 0 and n > 0
            if is_reached:
                links.before[row] = last
                links.is_last[last] = len(missing) > 0
        last = row
        end = step + n


def _make_plan(
    log: LogSelection,
    chunks: list[StoredChunk],
    table: IntArray,
    places: IntArray,
    links: _Links,
) -> LogPlan:
    is_end = links.is_last & (table[:, 2] + table[:, 3] == log.end_steps[places])
    segments = Segments(
        chunk=table[:, 0],
        code=log.codes[places],
        first_step=table[:, 2],
        n=table[:, 3],
        has_reset=table[:, 4].astype(np.bool_),
        start=table[:, 5],
        obs_start=table[:, 6],
        before=links.before,
        is_lost=links.is_lost,
        follows_failure=links.follows_failure,
        is_last=links.is_last,
        terminated=is_end & log.terminated[places],
        truncated=is_end & log.truncated[places],
    )
    bounds = np.searchsorted(segments.chunk, np.arange(len(chunks) + 1))
    return LogPlan(log, segments, tuple(chunks), bounds)


def failures_by_number(rows: Iterable[tuple[int, int]]) -> Mapping[int, frozenset[int]]:
    """Return the steps that raised of each episode, from pairs of episode and step."""
    steps: dict[int, set[int]] = {}
    for number, step in rows:
        steps.setdefault(number, set()).add(step)
    return {number: frozenset(failed) for number, failed in steps.items()}
