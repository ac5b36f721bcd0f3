"""Cheap comparisons that prove many values equal at once.

A false result proves nothing: the caller then compares value by value.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.log.fields import dense_columns
from trajrec.log.rows import ColumnRows
from trajrec.replay.execute.execution import Execution
from trajrec.types import Array, Value
from trajrec.values.plain import PLAIN_TYPES

# Nothing else that a log gives back is packed as values of these types are. Bytes are missing: a
# bytearray is packed as they are.
_PACKED_TYPES = PLAIN_TYPES - {bytes}

# Observations of this size and larger are compared when they arrive: copying a frame takes longer
# than comparing it.
LARGE_BYTES = 4096


def has_same_rewards(episode: Episode, execution: Execution, n_rows: int) -> bool:
    """Return whether all rewards are certainly the recorded ones."""
    row = 0
    for chunk, span in episode.rows.parts:
        live = execution.rewards[row : row + span.segment.n_steps]
        row += len(live)
        column = (dense_columns(chunk, "reward") or {}).get(None)
        if live and (column is None or not _is_same_column(column, span.start, live)):
            return False
    return row == n_rows


def has_same_infos(episode: Episode, execution: Execution, n_rows: int) -> bool:
    """Return whether all infos are certainly the recorded ones.

    They can be if each step has the same keys, and values that were kept as they are.
    """
    if episode.rows.irregular or len(execution.infos) != n_rows:
        return False
    rows = iter(execution.infos.values())
    for chunk, span in episode.rows.parts:
        live: list[Value] = list(itertools.islice(rows, span.segment.n_steps))
        columns = dense_columns(chunk, "info") or {}
        names = list(columns)
        if names in ([], [None]):
            return False
        if any(type(info) is not dict or list(info) != names for info in live):
            return False
        for name, column in columns.items():
            if live and not _is_same_column(column, span.start, [info[name] for info in live]):
                return False
    return True


def _is_same_column(rows: ColumnRows, start: int, live: list[Value]) -> bool:
    """Return whether values are certainly those of a column, by type and bits, from a row on."""
    stop = start + len(live)
    types = set(map(type, live))
    if types <= _PACKED_TYPES:
        # msgspec refuses a scalar of NumPy, which the column may have.
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return msgspec.msgpack.encode(live) == msgspec.msgpack.encode(rows.values(start, stop))
        return False
    cls: type = types.pop()
    # The type of a timedelta does not say its unit.
    if types or cls is np.timedelta64 or not issubclass(cls, np.number | np.bool_):
        return False
    recorded = rows.numpy_bytes(start, stop)
    if recorded is None or recorded[0] is not cls:
        return False
    return np.fromiter(live, cls, len(live)).tobytes() == recorded[1]


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
