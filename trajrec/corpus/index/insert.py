"""Writes rows into the tables of one schema of DuckDB, column by column."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter

import duckdb
import numpy as np

from trajrec.corpus.index.catalog_tables import CONTENTS, FILES
from trajrec.corpus.index.credit_tables import ANNOTATIONS, CREDIT, ROLLOUTS
from trajrec.corpus.index.rewards import COLUMNS as AGENT_COLUMNS
from trajrec.corpus.index.row_batch import Rows
from trajrec.corpus.index.rows import Row
from trajrec.corpus.index.table import Table
from trajrec.corpus.index.tables import (
    ALL_EPISODES,
    ATTEMPTS,
    CHECKS,
    EPISODE_TABLES,
    FAILURES,
    MODEL_CALLS,
    OF_EPISODES,
    SIDE_EFFECTS,
    STATE_CHANGES,
    STEPS,
)
from trajrec.types import Array, Value

_LISTS = {
    FAILURES: "failures",
    CHECKS: "checks",
    STATE_CHANGES: "changes",
    ATTEMPTS: "attempts",
    MODEL_CALLS: "model_calls",
    SIDE_EFFECTS: "side_effects",
    CREDIT: "credit",
    ROLLOUTS: "rollouts",
    STEPS: "decisions",
}
"""Table -> the list of its rows in `Rows`."""

_N_KEYS = 3
"""The columns of `numeric_changes` besides its numbers: the episode, the step, and the changes."""


class TableWriter:
    """Writes into the tables of one schema.

    Args:
        con: The connection.
        schema: The schema's name, e.g. "main".
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, schema: str) -> None:
        self._con = con
        self._schema = schema

    def insert(self, rows: Rows) -> None:
        """Insert rows; those of episodes that are there already are replaced."""
        keys = rows.log_keys("episodes")
        self._delete_contents(rows.replaced, keys)
        if rows.episodes:
            self._delete(ALL_EPISODES, rows.episodes, keys, "kind <> 'copy'")
            self._append(ALL_EPISODES, list(rows.episodes.values()), keys)
        self._append(ALL_EPISODES, rows.copies, rows.log_keys("copies"))
        self._append_steps(rows)
        for table, name in _LISTS.items():
            self._append(table, getattr(rows, name), rows.log_keys(name))

    def add_contents(self, rows: Sequence[Mapping[str, Value]]) -> None:
        """Insert rows of contents after deleting those with the same keys."""
        values = ", ".join(_cast(name, sql_type) for name, sql_type in CONTENTS.items())
        self._replace("contents", "log_key", CONTENTS, rows, values=values)

    def set_files(self, rows: Sequence[Mapping[str, Value]], contents: str) -> None:
        """Insert rows of files after deleting those with the same paths.

        Args:
            rows: The rows, without `is_watched`.
            contents: The table or view of all contents.
        """
        # A file of another size than its contents was sealed while it was read.
        is_watched = (
            "f.is_link OR f.problem IS NOT NULL OR NOT c.is_sealed OR f.size_bytes <> c.size_bytes"
        )
        values = {name: f"f.{name}" for name in FILES} | {"is_watched": is_watched}
        stored = {name: sql_type for name, sql_type in FILES.items() if name != "is_watched"}
        casts = ", ".join(f"{_cast(name, t)} AS {name}" for name, t in stored.items())
        self._replace(
            "files",
            "log",
            stored,
            rows,
            values=", ".join(values.values()),
            source=f"(SELECT {casts} FROM trajrec_columns) f LEFT JOIN {contents} c USING (log_key)",
        )

    def delete_files(self, logs: Iterable[str]) -> None:
        """Delete the rows of files."""
        self._delete_where("files", "log", np.array(list(logs), object))

    def drop(self, keys: Iterable[int]) -> None:
        """Delete all rows of some contents."""
        values = np.array(sorted(keys), np.int32)
        if not len(values):
            return
        for name in ("contents", *(table.name for table in EPISODE_TABLES)):
            self._delete_where(name, "log_key", values)

    def _replace(
        self,
        name: str,
        key: str,
        columns: Mapping[str, str],
        rows: Sequence[Mapping[str, Value]],
        *,
        values: str,
        source: str = "trajrec_columns",
    ) -> None:
        if not rows:
            return
        arrays = {
            column: _column(sql_type, [row[column] for row in rows])
            for column, sql_type in columns.items()
        }
        self._delete_where(name, key, arrays[key])
        self._insert_columns(name, arrays, values, source)

    def _append(self, table: Table, rows: Sequence[Row], keys: Array) -> None:
        """Insert rows of the logs with some keys."""
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
                columns[name] = _column(sql_type, values)
                expressions.append(_cast(name, sql_type))
        self._insert_columns(table.name, columns, ", ".join(expressions), "trajrec_columns")

    def _append_steps(self, rows: Rows) -> None:
        """Insert the steps of environments, and the rewards of several agents among them."""
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
        joined = "trajrec_columns JOIN trajrec_ids USING (episode)"
        with self._registered("trajrec_ids", ids):
            for group in rows.steps.values():
                columns = _concatenated(group.columns)
                reward = "reward" if "reward" in columns else "NULL"
                key = "state_key" if "state_key" in columns else "NULL"
                check = "state_check" if "state_check" in columns else "NULL"
                values = f"{group.action}, {reward}, {group.info}, {key}, {check}"
                self._insert_columns(
                    "steps", columns, f"log_key, id, {kind}, step, {values}", joined
                )
            for form, chunks in rows.numeric_changes.items():
                columns = _concatenated(chunks)
                n = (len(columns) - _N_KEYS) // 2
                before, after = ([f"{side}{k}" for k in range(n)] for side in "ba")
                text = form.replace("'", "''")
                values = f"'{text}', changed, [{', '.join(before)}], [{', '.join(after)}]"
                values = f"log_key, id, {kind}, step, {values}"
                self._insert_columns("numeric_changes", columns, values, joined)
            if rows.agent_rewards:
                columns = _concatenated(rows.agent_rewards)
                values = f"log_key, id, {kind}, step, {AGENT_COLUMNS}"
                self._insert_columns("agent_rewards", columns, values, joined)

    def _insert_columns(
        self, name: str, columns: dict[str, Array], values: str, source: str
    ) -> None:
        """Insert what SQL makes of columns, which it finds as `trajrec_columns`."""
        with self._registered("trajrec_columns", columns):
            self._con.execute(f"INSERT INTO {self._schema}.{name} SELECT {values} FROM {source}")

    def _delete_contents(self, episodes: Iterable[str], keys: Array) -> None:
        """Delete the rows of some episodes that their own logs gave, but not those of episodes."""
        ids = list(episodes)
        if not ids:
            return
        for table in OF_EPISODES:
            if table not in ANNOTATIONS:
                self._delete(table, ids, keys, "phase <> 'post-hoc'" if table is CHECKS else "true")

    def _delete(
        self, table: Table, episodes: Iterable[str], keys: Array, condition: str = "true"
    ) -> None:
        """Delete the rows of episodes of some logs."""
        # The rows of a log stand together, so its key finds them without reading all others.
        near = f"log_key BETWEEN {keys.min()} AND {keys.max()}"
        ids = np.array(list(episodes), object)
        self._delete_where(table.name, "episode_id", ids, f"{near} AND {condition}")

    def _delete_where(self, name: str, key: str, values: Array, condition: str = "true") -> None:
        """Delete the rows with some values of a column, if a condition holds."""
        with self._registered("trajrec_keys", {key: values}):
            self._con.execute(
                f"DELETE FROM {self._schema}.{name} "
                f"WHERE {condition} AND {key} IN (SELECT {key} FROM trajrec_keys)"
            )

    @contextlib.contextmanager
    def _registered(self, name: str, columns: dict[str, Array]) -> Iterator[None]:
        """Let SQL find columns as a table. The dict is emptied afterwards."""
        self._con.register(name, columns)
        try:
            yield
            # Not after an error, which ends the transaction: this would raise another one.
            self._con.unregister(name)
        finally:
            # DuckDB keeps the dict until the transaction ends, and with it the rows of a whole
            # index.
            columns.clear()


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


def _column(sql_type: str, values: list[Value]) -> Array:
    """Return a column as DuckDB reads it: None stands for NULL, and numbers beside it are texts."""
    if sql_type == "TIMESTAMP":
        return np.array(values, "datetime64[us]")
    dtype = _NUMPY_TYPES.get(sql_type)
    if dtype is None:
        # All at once: most columns pass this test, and one text costs more than it.
        text = "".join(filter(None, values))
        if not text.isascii() or "\0" in text:
            values = [value if value is None else _clean(value) for value in values]
        return np.array(values, object)
    try:
        if None not in values:
            return np.array(values, dtype)
        if set(map(type, values)) <= _PYTHON_TYPES[dtype]:
            numbers = np.array([value or 0 for value in values], dtype)
            # DuckDB takes a NaN in a masked array for NULL.
            if not np.isnan(numbers).any():
                return np.ma.masked_array(numbers, [value is None for value in values])
    except (OverflowError, ValueError, TypeError):
        pass
    # A seed beyond 64 bits, or what a hostile log has in place of a number: as text, which DuckDB
    # turns into NULL.
    return np.array([None if value is None else repr(value) for value in values], object)


def _cast(name: str, sql_type: str) -> str:
    function = "try_cast" if sql_type in _NUMPY_TYPES else "CAST"
    return f'{function}("{name}" AS {sql_type})'


def _clean(value: str) -> str:
    """Return a text that DuckDB can store: without lone surrogates and NUL characters."""
    return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
