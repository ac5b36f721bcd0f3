"""Cheap comparisons that prove many values equal at once.

A false result proves nothing: the caller then compares value by value.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.log.chunk import LogChunk
from trajrec.log.fields import Layout, sparse_span
from trajrec.log.rows import ColumnRows
from trajrec.replay.execute.execution import Execution
from trajrec.replay.execute.kept_values import Encoded, encoded
from trajrec.types import Array, Value
from trajrec.values.digest import Digests, unpack_digests
from trajrec.values.plain import PLAIN_NUMBERS, PLAIN_TYPES

# Nothing else that a log gives back is packed as values of these types are. Bytes are missing: a
# bytearray is packed as they are.
_PACKED_TYPES = PLAIN_TYPES - {bytes}

# Observations of this size and larger are compared when they arrive: copying a frame takes longer
# than comparing it.
LARGE_BYTES = 4096


class RowSpan(NamedTuple):
    """Neighbouring rows of a chunk, of one episode or of several that follow each other.

    Attributes:
        chunk: The chunk.
        start: The first row of rewards and infos.
        stop: The row behind the last one.
        obs_start: The first row of observations and states.
        obs_stop: The row behind the last one.
    """

    chunk: LogChunk
    start: int
    stop: int
    obs_start: int
    obs_stop: int


def row_spans(episodes: Iterable[Episode]) -> list[RowSpan]:
    """Return the rows of episodes, in order, in as few spans as possible."""
    spans: list[RowSpan] = []
    for episode in episodes:
        for part in episode.rows.parts:
            start, stop = part.step_rows
            obs_start, obs_stop = part.observation_rows
            last = spans[-1] if spans else None
            if (
                last is not None
                and last.chunk is part.chunk
                and (last.stop, last.obs_stop) == (start, obs_start)
            ):
                spans.pop()
                start = last.start
                obs_start = last.obs_start
            spans.append(RowSpan(part.chunk, start, stop, obs_start, obs_stop))
    return spans


def has_same_rewards(spans: Sequence[RowSpan], rewards: Sequence[Value]) -> bool:
    """Return whether rewards are certainly those of the first rows of the spans."""
    row = 0
    for span in spans:
        live = list(rewards[row : row + span.stop - span.start])
        row += len(live)
        if live and not _is_same_field(span.chunk, "reward", span.start, live):
            return False
    return row == len(rewards)


def has_same_observations(
    spans: Sequence[RowSpan], observations: Sequence[Value], template: Array | None
) -> bool:
    """Return whether observations are certainly those of the first rows of the spans.

    Args:
        spans: The rows.
        observations: The observations as an `Execution` keeps them.
        template: The array that they are like; None if they are no arrays of one form.
    """
    row = 0
    for span in spans:
        start = span.obs_start
        live = list(observations[row : row + span.obs_stop - start])
        row += len(live)
        if not live:
            continue
        if template is None:
            is_same = _is_same_field(span.chunk, "obs", start, live)
        else:
            is_same = _are_same_rows(span.chunk, start, live, template)
        if not is_same:
            return False
    return row == len(observations)


def has_same_infos(spans: Sequence[RowSpan], infos: Mapping[int, Value], n_rows: int) -> bool:
    """Return whether infos are certainly those of the spans, and of all their rows.

    Args:
        spans: The rows.
        infos: The infos that are not empty, by row.
        n_rows: The number of rows that have an info, which may be empty.
    """
    live = list(infos.values())
    is_dense = len(live) == n_rows
    n_seen = 0
    row = 0
    for span in spans:
        rows, first = sparse_span(span.chunk, "info", span.start, span.stop)
        of_span = live[n_seen : n_seen + len(rows)]
        if len(of_span) != len(rows):
            return False
        # If every row has an info, their numbers tell nothing.
        if not is_dense and any(row + number - span.start not in infos for number in rows):
            return False
        if of_span and not _is_same_field(span.chunk, "info", first, of_span):
            return False
        n_seen += len(rows)
        row += span.stop - span.start
    return row == n_rows and n_seen == len(live)


def has_same_states(spans: Sequence[RowSpan], states: Mapping[int, Value], n_rows: int) -> bool:
    """Return whether the states that the log has whole are certainly those of the spans.

    Args:
        spans: The rows.
        states: The states, by row.
        n_rows: The number of rows of which states were captured.
    """
    row = 0
    for span in spans:
        start = span.obs_start
        stop = min(span.obs_stop, start + n_rows - row)
        rows, first = sparse_span(span.chunk, "state", start, stop)
        numbers = [row + number - start for number in rows]
        if not all(number in states for number in numbers):
            return False
        live = [states[number] for number in numbers]
        if live and not _is_same_field(span.chunk, "state", first, live):
            return False
        row += stop - start
    return row == n_rows


def has_same_digests(spans: Sequence[RowSpan], digests: Digests) -> bool:
    """Return whether digests of states are certainly those of the first rows of the spans."""
    row = 0
    for span in spans:
        start = span.obs_start
        live = digests[row : row + span.obs_stop - start]
        row += len(live)
        column = span.chunk.column("state_digest")
        packed = None if column is None else column.array(start, start + len(live))
        if packed is None or not np.array_equal(unpack_digests(packed), live):
            return False
    return row == len(digests)


def _are_same_rows(chunk: LogChunk, start: int, live: list[Value], template: Array) -> bool:
    layout = chunk.layout("obs")
    if layout is None or layout[0] != "leaf":
        return False
    recorded = chunk.rows(layout[1]).array(start, start + len(live))
    if recorded is None:
        return False
    if (recorded.dtype, recorded.shape[1:]) != (template.dtype, template.shape):
        return False
    # Joining raises TypeError for an observation that is not like the reset's.
    with contextlib.suppress(TypeError):
        return b"".join(live) == recorded.tobytes()
    return False


def _is_same_field(chunk: LogChunk, field: str, start: int, live: list[Value]) -> bool:
    layout = chunk.layout(field)
    return layout is not None and _is_same(chunk, layout, start, live)


def _is_same(chunk: LogChunk, layout: Layout, start: int, live: list[Value]) -> bool:
    """Return whether values are certainly those of a layout, by type and bits, from a row on."""
    kind = layout[0]
    if kind == "leaf":
        return _is_same_column(chunk.rows(layout[1]), start, live)
    keys = layout[1]
    if kind == "tuple":
        if any(type(value) is not tuple or len(value) != len(keys) for value in live):
            return False
        columns = zip(*live, strict=True)
        items = zip(keys, columns, strict=True)
        return bool(keys) and all(_is_same(chunk, item, start, list(rows)) for item, rows in items)
    if not keys or any(type(value) is not dict or list(value) != keys for value in live):
        return False
    return all(
        _is_same(chunk, item, start, [value[key] for value in live])
        for key, item in zip(keys, layout[2], strict=True)
    )


def _is_same_column(rows: ColumnRows, start: int, live: list[Value]) -> bool:
    """Return whether values are certainly those of a column, by type and bits, from a row on."""
    stop = start + len(live)
    types = set(map(type, live))
    if len(types) == 1:
        (kind,) = types
        if kind in PLAIN_NUMBERS:
            is_same = rows.holds(live, kind, start)
            if is_same is not None:
                return is_same
    if types <= _PACKED_TYPES:
        # msgspec refuses a scalar of NumPy, which the column may have.
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return msgspec.msgpack.encode(live) == msgspec.msgpack.encode(rows.values(start, stop))
        return False
    cls: type = types.pop()
    if types or cls is Encoded:
        return rows.encoded(start, stop) == list(map(encoded, live))
    if cls is np.ndarray:
        return _are_same_arrays(rows, start, live)
    # The type of a timedelta does not say its unit.
    if cls is np.timedelta64 or not issubclass(cls, np.number | np.bool_):
        return False
    recorded = rows.numpy_bytes(start, stop)
    if recorded is None or recorded[0] is not cls:
        return False
    return np.fromiter(live, cls, len(live)).tobytes() == recorded[1]


def _are_same_arrays(rows: ColumnRows, start: int, live: list[Array]) -> bool:
    if not rows.holds_arrays:
        return False
    recorded = rows.array(start, start + len(live))
    if recorded is None:
        return False
    dtype = recorded.dtype
    shape = recorded.shape[1:]
    if any(value.dtype != dtype or value.shape != shape for value in live):
        return False
    return b"".join([value.tobytes() for value in live]) == recorded.tobytes()


def obs_collector(episode: Episode, execution: Execution) -> Callable[[Array], bytes | None]:
    """Return the function that collects observations like the reset's.

    Large observations are compared with the recorded ones as they arrive, and only those that
    differ are copied. An episode of frames is then never held in memory whole.
    """
    template = execution.template
    if template is None or template.nbytes < LARGE_BYTES or template.nbytes % 8:
        return np.ndarray.tobytes
    expected = _recorded_words(episode, template)
    for _ in range(len(execution.observations) - (0 if episode.has_reset else 1)):
        next(expected, None)
    execution.skip = lambda: next(expected, None)

    def collect(obs: Array) -> bytes | None:
        words = next(expected, None)
        if words is not None and (obs.reshape(-1).view(np.uint64) == words).all():
            return None
        data: bytes = obs.tobytes()
        return data

    return collect


def _recorded_words(episode: Episode, template: Array) -> Iterator[Array]:
    """Yield recorded observations as words of 8 bytes, up to the first that is not like the reset's.

    Comparing words is faster than comparing bytes.
    """
    for recorded in episode.rows.observation_views():
        is_alike = (recorded.dtype, recorded.shape) == (template.dtype, template.shape)
        if not is_alike or not recorded.flags.c_contiguous:
            return
        yield recorded.reshape(-1).view(np.uint64)
