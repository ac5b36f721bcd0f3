"""Writes rows into the tables of one schema of DuckDB, column by column."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import duckdb
import numpy as np

from trajrec.corpus.index.batch import Batch, cast, to_column
from trajrec.corpus.index.catalog_tables import CONTENTS, FILES
from trajrec.corpus.index.credit_tables import ANNOTATIONS
from trajrec.corpus.index.table import Table
from trajrec.corpus.index.tables import ALL_EPISODES, CHECKS, EPISODE_TABLES, OF_EPISODES
from trajrec.types import Array, Value

_FEW_ROWS = 64
"""So many rows are inserted in half of the time as parameters: DuckDB need not look at arrays."""


class TableWriter:
    """Writes into the tables of one schema.

    Args:
        con: The connection.
        schema: The schema's name, e.g. "main".

    Attributes:
        has_none: Whether the tables have no rows of episodes that are inserted, but of `replaced`.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, schema: str) -> None:
        self.has_none = False
        self._con = con
        self._schema = schema

    def insert(self, batch: Batch) -> None:
        """Insert rows; those of episodes that are there already are replaced."""
        self._delete_contents(batch.replaced, batch.log_keys)
        if batch.episodes and (batch.replaced or not self.has_none):
            self._delete(ALL_EPISODES, batch.episodes, batch.log_keys, "kind <> 'copy'")
        for insert in batch.inserts:
            if not insert.ids:
                self._insert_columns(insert.table, insert.columns, insert.values, "batch")
                continue
            # A copy: the next table has the same ids.
            with self._registered("ids", dict(insert.ids)):
                source = "batch JOIN ids USING (episode)"
                self._insert_columns(insert.table, insert.columns, insert.values, source)

    def add_contents(self, rows: Sequence[Mapping[str, Value]]) -> None:
        """Insert rows of contents after deleting those with the same keys."""
        values = ", ".join(cast(name, sql_type) for name, sql_type in CONTENTS.items())
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
        casts = ", ".join(f"{cast(name, t)} AS {name}" for name, t in stored.items())
        self._replace(
            "files",
            "log",
            stored,
            rows,
            values=", ".join(values.values()),
            source=f"(SELECT {casts} FROM batch) f LEFT JOIN {contents} c USING (log_key)",
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
        source: str = "batch",
    ) -> None:
        if not rows:
            return
        arrays = {
            column: to_column(sql_type, [row[column] for row in rows])
            for column, sql_type in columns.items()
        }
        self._delete_where(name, key, arrays[key])
        self._insert_columns(name, arrays, values, source)

    def _insert_columns(
        self, name: str, columns: dict[str, Array], values: str, source: str
    ) -> None:
        """Insert what SQL makes of columns, which it finds as `batch`."""
        if source == "batch" and len(next(iter(columns.values()))) <= _FEW_ROWS:
            self._insert_few(name, columns, values)
            return
        with self._registered("batch", columns):
            self._con.execute(f"INSERT INTO {self._schema}.{name} SELECT {values} FROM {source}")

    def _insert_few(self, name: str, columns: Mapping[str, Array], values: str) -> None:
        """Insert a few rows, as parameters: one for a column of one value, else a list.

        Half of the time of an insertion of one row went into lists, and a fifth of one of twenty.
        """
        parts = []
        params = []
        n_rows = len(next(iter(columns.values())))
        # Lists make the rows; without one, this does.
        source = f" FROM range({n_rows})" if n_rows > 1 else ""
        for column, array in columns.items():
            items = array.tolist()
            # Zeros of both signs are equal, and must stay two.
            is_one = n_rows == 1 or (items.count(items[0]) == n_rows and items[0] != 0)
            params.append(items[0] if is_one else items)
            value = f"${len(params)}" if is_one else f"unnest(${len(params)})"
            parts.append(f'{value} AS "{column}"')
            source = source if is_one else ""
        self._con.execute(
            f"INSERT INTO {self._schema}.{name} SELECT {values} "
            f"FROM (SELECT {', '.join(parts)}{source}) AS batch",
            params,
        )

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
