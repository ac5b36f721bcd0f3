"""Writes rows into the tables of one schema of DuckDB, column by column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter

import duckdb
import numpy as np

from trajrec.corpus.index.credit_tables import ANNOTATIONS
from trajrec.corpus.index.rewards import COLUMNS as AGENT_COLUMNS
from trajrec.corpus.index.rows import EpisodeRow, Row, Rows
from trajrec.corpus.index.table import Table
from trajrec.corpus.index.tables import ALL_EPISODES, CHECKS, OF_EPISODES
from trajrec.types import Array, Value


class TableWriter:
    """Writes into the tables of one schema.

    Args:
        con: The connection.
        schema: The schema's name, e.g. "main".
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, schema: str) -> None:
        self._con = con
        self._schema = schema

    def append(self, table: Table, rows: Sequence[Row]) -> None:
        """Insert rows."""
        if not rows:
            return
        columns = {}
        expressions = []
        for name, sql_type, _ in table.columns:
            values = list(map(attrgetter(name), rows))
            first = values[0]
            if (first is None or name == "kind") and values.count(first) == len(values):
                # Nearly always one kind, and often nothing: DuckDB need not read it from each row.
                expressions.append("NULL" if first is None else f"'{first}'")
            else:
                columns[name] = _column(sql_type, values)
                expressions.append(_cast(name, sql_type))
        self._con.register("trajrec_rows", columns)
        self._con.execute(
            f"INSERT INTO {self._schema}.{table.name} "
            f"SELECT {', '.join(expressions)} FROM trajrec_rows"
        )
        self._con.unregister("trajrec_rows")

    def append_steps(self, rows: Rows) -> None:
        """Insert the steps of environments, and the rewards of several agents among them."""
        if not rows.steps:
            return
        ids = {
            "episode": np.arange(len(rows.episode_ids), dtype=np.uint32),
            "id": np.array(rows.episode_ids, object),
        }
        kinds = [rows.episodes[episode_id].kind for episode_id in rows.episode_ids]
        kind = f"'{kinds[0]}'"
        if len(set(kinds)) > 1:
            # Only if kinds differ: a second column of texts makes the join a quarter slower.
            ids["kind"] = np.array(kinds, object)
            kind = "kind"
        self._con.register("trajrec_ids", ids)
        for group in rows.steps.values():
            columns = _concatenated(group.columns)
            reward = "reward" if "reward" in columns else "NULL"
            key = "state_key" if "state_key" in columns else "NULL"
            check = "state_check" if "state_check" in columns else "NULL"
            values = f"{group.action}, {reward}, {group.info}, {key}, {check}"
            self._append_columns("steps", columns, f"id, {kind}, step, {values}")
        if rows.agent_rewards:
            columns = _concatenated(rows.agent_rewards)
            self._append_columns("agent_rewards", columns, f"id, {kind}, step, {AGENT_COLUMNS}")
        self._con.unregister("trajrec_ids")

    def _append_columns(self, table: str, columns: dict[str, Array], expressions: str) -> None:
        """Insert columns whose column "episode" numbers the episodes in `trajrec_ids`."""
        self._con.register("trajrec_columns", columns)
        self._con.execute(
            f"INSERT INTO {self._schema}.{table} SELECT {expressions} "
            "FROM trajrec_columns JOIN trajrec_ids USING (episode)"
        )
        self._con.unregister("trajrec_columns")

    def replace(self, table: Table, key: str, rows: Sequence[Row], also: str = "") -> None:
        """Insert rows after deleting those with the same keys that the condition `also` selects."""
        self.delete(table, key, map(attrgetter(key), rows), also)
        self.append(table, rows)

    def replace_episodes(self, rows: Iterable[EpisodeRow]) -> None:
        """Insert rows of episodes after deleting earlier ones, but not those of their copies."""
        self.replace(ALL_EPISODES, "episode_id", list(rows), "AND kind <> 'copy'")

    def delete(self, table: Table, key: str, values: Iterable[str], also: str = "") -> None:
        """Delete the rows with some keys, to which the condition `also` applies."""
        self._con.register("trajrec_keys", {key: np.array(list(values), object)})
        self._con.execute(
            f"DELETE FROM {self._schema}.{table.name} "
            f"WHERE {key} IN (SELECT {key} FROM trajrec_keys) {also}"
        )
        self._con.unregister("trajrec_keys")

    def delete_contents(self, episodes: Iterable[str]) -> None:
        """Delete the rows of some episodes that their own logs gave, but not those of episodes."""
        ids = list(episodes)
        if not ids:
            return
        for table in OF_EPISODES:
            if table not in ANNOTATIONS:
                also = "AND phase <> 'post-hoc'" if table is CHECKS else ""
                self.delete(table, "episode_id", ids, also)

    def drop_log(self, log: str) -> None:
        """Delete all rows of a log."""
        # The rows of a copy's episodes come from the original, which may still be here.
        of_log = (
            f"episode_id IN (SELECT episode_id FROM {self._schema}.all_episodes "
            "WHERE log = ? AND kind <> 'copy')"
        )
        for table in OF_EPISODES:
            # A check may be in another log than its episode; credit always is.
            where = "log = ?" if table in (CHECKS, *ANNOTATIONS) else of_log
            self._con.execute(f"DELETE FROM {self._schema}.{table.name} WHERE {where}", [log])
        for name in ("all_episodes", "logs"):
            self._con.execute(f"DELETE FROM {self._schema}.{name} WHERE log = ?", [log])


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
