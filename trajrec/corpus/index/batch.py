"""Rows as columns, with the SQL that makes a table's rows of them.

A process that reads logs makes the columns, and the one that writes the index only inserts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from trajrec.corpus.index.agent_tables import ATTEMPTS, MESSAGES, MODEL_CALLS, SIDE_EFFECTS
from trajrec.corpus.index.cells import plain_text
from trajrec.corpus.index.credit_tables import CREDIT, ROLLOUTS
from trajrec.corpus.index.import_tables import IMPORTS
from trajrec.corpus.index.label_tables import LABELS, REMOVALS
from trajrec.corpus.index.replay_tables import REPLAYS
from trajrec.corpus.index.rewards import COLUMNS as AGENT_COLUMNS
from trajrec.corpus.index.row_batch import Rows
from trajrec.corpus.index.rows import Row
from trajrec.corpus.index.table import Table
from trajrec.corpus.index.tables import ALL_EPISODES, CHECKS, FAILURES, STATE_CHANGES, STEPS
from trajrec.types import Array, Value

_LISTS = {
    FAILURES: "failures",
    CHECKS: "checks",
    STATE_CHANGES: "changes",
    ATTEMPTS: "attempts",
    MODEL_CALLS: "model_calls",
    MESSAGES: "messages",
    SIDE_EFFECTS: "side_effects",
    CREDIT: "credit",
    ROLLOUTS: "rollouts",
    REPLAYS: "replays",
    IMPORTS: "imports",
    LABELS: "labels",
    REMOVALS: "removals",
    STEPS: "decisions",
}
"""Table -> the list of its rows in `Rows`."""

_N_KEYS = 3
"""The columns of `numeric_changes` besides its numbers: the episode, the step, and the changes."""


class Insert(NamedTuple):
    """Rows of one table.

    Attributes:
        table: The table.
        values: SQL for its columns.
        columns: What SQL finds as the table `batch`.
        ids: What it finds as `ids`, and joins to the columns by "episode"; empty for nothing.
    """

    table: str
    values: str
    columns: dict[str, Array]
    ids: dict[str, Array]


class Batch(NamedTuple):
    """Rows of some logs.

    Attributes:
        episodes: The ids of the episodes whose rows of `all_episodes` are here.
        replaced: The ids of those whose earlier rows in other tables hold no more.
        log_keys: The keys of the logs of `episodes`.
        inserts: The rows.
    """

    episodes: list[str]
    replaced: list[str]
    log_keys: Array
    inserts: list[Insert]


def to_batch(rows: Rows) -> Batch:
    """Return rows as columns."""
    keys = rows.log_keys("episodes")
    inserts = [
        *_of_list(ALL_EPISODES, list(rows.episodes.values()), keys),
        *_of_list(ALL_EPISODES, rows.copies, rows.log_keys("copies")),
        *_of_steps(rows),
    ]
    for table, name in _LISTS.items():
        inserts += _of_list(table, getattr(rows, name), rows.log_keys(name))
    return Batch(list(rows.episodes), list(rows.replaced), keys, inserts)


def _of_list(table: Table, rows: Sequence[Row], keys: Array) -> Iterator[Insert]:
    """Yield rows of the logs with some keys."""
    if not rows:
        return
    columns: dict[str, Array] = {"log_key": keys}
    expressions = []
    for name, sql_type in table.stored.items():
        if name == "log_key":
            expressions.append(name)
            continue
        values = list(map(attrgetter(name), rows))
        first = values[0]
        if (first is None or name == "kind") and values.count(first) == len(values):
            # Nearly always one kind, and often nothing: DuckDB need not read it from each row.
            expressions.append("NULL" if first is None else f"'{first}'")
        else:
            columns[name] = to_column(sql_type, values)
            expressions.append(cast(name, sql_type))
    yield Insert(table.name, ", ".join(expressions), columns, {})


def _of_steps(rows: Rows) -> Iterator[Insert]:
    """Yield the steps of environments, and the rewards of several agents among them."""
    if not rows.steps:
        return
    ids = {
        "episode": np.arange(len(rows.episode_ids), dtype=np.uint32),
        "id": np.array(rows.episode_ids, object),
        "log_key": rows.log_keys("episode_ids"),
    }
    kinds = [rows.episodes[episode_id].kind for episode_id in rows.episode_ids]
    kind = f"'{kinds[0]}'"
    if len(set(kinds)) > 1:
        # Only if kinds differ: a second column of texts makes the join a quarter slower.
        ids["kind"] = np.array(kinds, object)
        kind = "kind"
    place = f"log_key, id, {kind}, step"
    for group in rows.steps.values():
        columns = _concatenated(group.columns)
        reward = "reward" if "reward" in columns else "NULL"
        key = "state_key" if "state_key" in columns else "NULL"
        check = "state_check" if "state_check" in columns else "NULL"
        values = f"{place}, {group.action}, {reward}, {group.info}, {key}, {check}, NULL"
        yield Insert("steps", values, columns, ids)
    for form, chunks in rows.numeric_changes.items():
        columns = _concatenated(chunks)
        n = (len(columns) - _N_KEYS) // 2
        before, after = ([f"{side}{k}" for k in range(n)] for side in "ba")
        text = form.replace("'", "''")
        values = f"'{text}', changed, [{', '.join(before)}], [{', '.join(after)}]"
        yield Insert("numeric_changes", f"{place}, {values}", columns, ids)
    if rows.agent_rewards:
        columns = _concatenated(rows.agent_rewards)
        yield Insert("agent_rewards", f"{place}, {AGENT_COLUMNS}", columns, ids)


def _concatenated(chunks: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """Return columns of several chunks as one."""
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


_NUMPY_TYPES: dict[str, type[np.generic]] = {
    "BIGINT": np.int64,
    "INTEGER": np.int64,
    "UINTEGER": np.int64,
    "UBIGINT": np.uint64,
    "DOUBLE": np.float64,
    "BOOLEAN": np.bool_,
}

# The types of the values that fit into a column of numbers as they are; None stands for NULL.
_PYTHON_TYPES: dict[type[np.generic], set[type]] = {
    np.int64: {int, type(None)},
    np.uint64: {int, type(None)},
    np.float64: {float, int, type(None)},
    np.bool_: {bool, type(None)},
}


def to_column(sql_type: str, values: list[Value]) -> Array:
    """Return a column as DuckDB reads it: None stands for NULL, and numbers beside it are texts."""
    if sql_type == "TIMESTAMP":
        return np.array(values, "datetime64[us]")
    dtype = _NUMPY_TYPES.get(sql_type)
    if dtype is None:
        # All at once: most columns pass this test, and one text costs more than it.
        text = "".join(filter(None, values))
        if not text.isascii() or "\0" in text:
            values = [value if value is None else plain_text(value) for value in values]
        return np.array(values, object)
    try:
        has_none = None in values
        if not has_none or set(map(type, values)) <= _PYTHON_TYPES[dtype]:
            numbers = np.array([value or 0 for value in values] if has_none else values, dtype)
            # DuckDB takes a NaN in an array for NULL.
            if not np.isnan(numbers).any():
                if not has_none:
                    return numbers
                return np.ma.masked_array(numbers, [value is None for value in values])
    except (OverflowError, ValueError, TypeError):
        pass
    # A seed beyond 64 bits, or what a hostile log has in place of a number: as text, which DuckDB
    # turns into NULL.
    return np.array([None if value is None else repr(value) for value in values], object)


def cast(name: str, sql_type: str) -> str:
    function = "try_cast" if sql_type in _NUMPY_TYPES else "CAST"
    return f'{function}("{name}" AS {sql_type})'
