"""The rows of a chunk as columns of the table `steps`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trajrec.corpus.index.rewards import agent_rewards
from trajrec.corpus.index.row_batch import StepGroup
from trajrec.log.chunk import LogChunk
from trajrec.log.fields import Layout, field_values, sparse_values
from trajrec.types import Array
from trajrec.values import codec
from trajrec.values.digest import array_keys, encoded_keys, state_key, unpack_digests
from trajrec.values.float_lists import unpack_float_lists
from trajrec.values.json import MAX_ELEMENTS, to_json
from trajrec.values.real_numbers import real_number


class StepColumns(NamedTuple):
    """The decoded rows of a chunk of an environment's log.

    Attributes:
        rewards: The reward of each step; None if rewards are no numbers.
        reset_keys: The key of the state of each observation, or of resets alone.
        columns: The columns of the table `steps`.
        group: SQL that makes the action and the info of them.
        agent_rewards: The columns of the table `agent_rewards`, None if there are none.
    """

    rewards: Array | None
    reset_keys: Sequence[int | None] | Array | None
    columns: dict[str, Array]
    group: StepGroup
    agent_rewards: dict[str, Array] | None


def decode_steps(chunk: LogChunk, n_episodes: int) -> StepColumns:
    """Decode the columns of a chunk as the tables have them.

    Args:
        chunk: The chunk.
        n_episodes: The number that stands for its first episode.

    Raises:
        LogCorruptError: A column contradicts itself.
    """
    n = chunk.n_steps
    columns = {"episode": np.empty(n, np.uint32), "step": np.empty(n, np.int32)}
    for number, span in enumerate(chunk.spans, n_episodes):
        first = span.segment.first_step
        stop = span.start + span.segment.n_steps
        columns["episode"][span.start : stop] = number
        columns["step"][span.start : stop] = np.arange(first, first + span.segment.n_steps)
    rewards = _numbers(chunk, "reward", n)
    keys = _keys(chunk)
    checks = _checks(chunk) if keys is None else None
    by_agent = None
    group = StepGroup("NULL", "NULL")
    if n:
        if rewards is not None:
            columns["reward"] = rewards
        else:
            by_agent = agent_rewards(chunk, columns["episode"], columns["step"])
        if keys is not None:
            columns["state_key"] = keys[rows_after(chunk)]
        elif checks is not None:
            columns["state_check"] = checks[rows_after(chunk)]
        action = _expression(chunk, "action", n, columns)
        group = StepGroup(action, _infos(chunk, n, columns))
    return StepColumns(
        rewards=rewards,
        reset_keys=_reset_keys(chunk) if keys is None else keys,
        columns=columns,
        group=group,
        agent_rewards=by_agent,
    )


def _numbers(chunk: LogChunk, name: str, n: int) -> Array | None:
    """Return a field of numbers as float64, NaN for a row that is none; None if no row is one."""
    layout = chunk.layout(name)
    array = (
        chunk.rows(layout[1]).array(0, n) if layout is not None and layout[0] == "leaf" else None
    )
    if array is not None and array.dtype.kind in "biuf" and array.size == n:
        with np.errstate(over="ignore"):
            return array.reshape(n).astype(np.float64)
    if layout is None or n == 0:
        return np.zeros(0)
    numbers = [real_number(value) for value in field_values(chunk, layout, 0, n)]
    if not any(number is not None for number in numbers):
        return None
    # None becomes NaN, and NaN is NULL in SQL.
    return np.array(numbers, np.float64)


def _keys(chunk: LogChunk) -> Array | None:
    """Return the key of the state of each observation, uint64; None if one is unknown."""
    digests = _digests(chunk)
    if digests is not None:
        return digests if digests.dtype == np.uint64 else None
    layout = chunk.layout("state")
    if layout is None or not chunk.n_obs:
        return None
    return _whole_keys(chunk, layout)


def _whole_keys(chunk: LogChunk, layout: Layout) -> Array:
    """Return the keys of states that are stored whole."""
    n = chunk.n_obs
    rows = chunk.rows(layout[1]) if layout[0] == "leaf" else None
    if rows is not None and rows.kind == "array" and rows.row_numbers is None:
        array = rows.array(0, n)
        if array is not None and array.dtype.kind in "biuf" and array.ndim > 1:
            return array_keys(array)
    if rows is not None and rows.kind == "value" and rows.row_numbers is None:
        encoded = rows.encoded(0, n)
        # Lists of floats have one encoding.
        if unpack_float_lists(encoded) is not None:
            return encoded_keys(encoded)
    states = field_values(chunk, layout, 0, n)
    if all(type(state) is int for state in states):
        # Of integers, there are few.
        key_of = {state: state_key(state) for state in set(states)}
        return np.array([key_of[state] for state in states], np.uint64)
    return np.array([state_key(state) for state in states], np.uint64)


def _checks(chunk: LogChunk) -> Array | None:
    """Return the check of the state of each observation, uint32; None if the log has none."""
    digests = _digests(chunk)
    return digests if digests is not None and digests.dtype == np.uint32 else None


def _reset_keys(chunk: LogChunk) -> list[int | None] | None:
    """Return the key of the state of each observation that is a reset's; None for the others.

    A log with checks stores the states of resets whole.
    """
    resets = {span.obs_start for span in chunk.spans if span.segment.has_reset}
    if not resets or chunk.layout("state") is None:
        return None
    keys: list[int | None] = [None] * chunk.n_obs
    for row, state in zip(*sparse_values(chunk, "state", 0, chunk.n_obs), strict=True):
        if row in resets:
            keys[row] = state_key(state)
    return keys


def _digests(chunk: LogChunk) -> Array | None:
    packed = chunk.column("state_digest")
    array = None if packed is None else packed.array()
    return None if array is None else unpack_digests(array)


def rows_after(chunk: LogChunk) -> Array:
    """Return which observations come after steps."""
    firsts = [
        (span.obs_start + span.segment.has_reset, span.segment.n_steps) for span in chunk.spans
    ]
    return np.concatenate([np.arange(first, first + n) for first, n in firsts])


def _expression(chunk: LogChunk, field_name: str, n: int, columns: dict[str, Array]) -> str:
    """Add a field's leaves to the columns; return the SQL that makes JSON of them."""
    layout = chunk.layout(field_name)
    if layout is None:
        return "NULL"
    sql = _sql(chunk, layout, n, columns)
    if sql is not None:
        return f"to_json({sql})"
    columns[field_name] = np.array(
        [to_json(value) for value in field_values(chunk, layout, 0, n)], object
    )
    return f'"{field_name}"'


def _sql(chunk: LogChunk, layout: Layout, n: int, columns: dict[str, Array]) -> str | None:
    """Return SQL for a value made of finite numbers; None for any other value."""
    if layout[0] == "dict":
        # DuckDB's structs take names that differ in case for one, and no empty name. SQL ends at a
        # zero byte.
        names = {key.lower() for key in layout[1]}
        if len(names) < len(layout[1]) or "" in names or any("\0" in name for name in names):
            return None
        parts = [
            (key, _sql(chunk, item, n, columns))
            for key, item in zip(layout[1], layout[2], strict=True)
        ]
        if not parts or any(part is None for _, part in parts):
            return None
        return (
            "{"
            + ", ".join("'{}': {}".format(key.replace("'", "''"), part) for key, part in parts)
            + "}"
        )
    if layout[0] == "tuple":
        items = [_sql(chunk, item, n, columns) for item in layout[1]]
        return (
            None
            if not items or any(item is None for item in items)
            # A list of DuckDB has items of one type: it would make 1.0 of 1 beside a float.
            else f"json_array({', '.join(map(str, items))})"
        )
    rows = chunk.rows(layout[1])
    array = None if rows.row_numbers is not None else rows.array(0, n)
    if array is None or array.dtype.kind not in "biuf" or array[0].size > MAX_ELEMENTS:
        return None
    if array.dtype.kind == "f" and (array.itemsize not in (4, 8) or not np.isfinite(array).all()):
        return None
    if rows.type_name in ("bool", "|b1"):
        array = array.astype(np.bool_)
    return _nested(np.ascontiguousarray(array), f"c{len(columns)}", columns)


def _nested(array: Array, name: str, columns: dict[str, Array]) -> str:
    if array.ndim == 1:
        columns[name] = array.astype(array.dtype.newbyteorder("="))
        return f'"{name}"'
    return (
        "["
        + ", ".join(
            _nested(np.ascontiguousarray(array[:, k]), f"{name}_{k}", columns)
            for k in range(array.shape[1])
        )
        + "]"
    )


def _infos(chunk: LogChunk, n: int, columns: dict[str, Array]) -> str:
    """Add the infos. Python makes the JSON of infos that differ in form or are missing in steps."""
    layout = chunk.layout("info")
    if layout is None and not chunk.record.irregular:
        return "NULL"
    is_dense = layout is not None and not chunk.record.irregular
    if is_dense and (sql := _sql(chunk, layout, n, columns)) is not None:
        return f"to_json({sql})"
    # Text by text in Python, which is slower: these infos have no common columns.
    texts = np.full(n, None, object)
    if layout is not None:
        indices, values = sparse_values(chunk, "info", 0, n)
        for row, value in zip(indices, values, strict=True):
            texts[row] = to_json(value)
    row_of_step = {
        (span.segment.episode, span.segment.first_step + k): span.start + k
        for span in chunk.spans
        for k in range(span.segment.n_steps)
    }
    for number, step, data in chunk.record.irregular:
        if (number, step) in row_of_step:
            texts[row_of_step[number, step]] = to_json(codec.decode(data))
    columns["info"] = texts
    return '"info"'
