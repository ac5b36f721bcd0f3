"""Keeps the user's own connections from changing the views and tables in memory.

A query of the user runs in a read-only transaction, which `relation.query("v", "rollback")` ends:
from then on, that connection can change everything. So another transaction holds each view and
table by an uncommitted comment: DuckDB refuses all changes of others to them, as conflicts.
"""

from __future__ import annotations

from collections.abc import Iterable

import duckdb

from trajrec.errors import CorpusError


class Guard:
    """Holds the views and tables of a connection's database, until `release`.

    Args:
        con: The connection that changes them.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self._con = con
        self._holder: duckdb.DuckDBPyConnection | None = None
        self._holds = False

    def hold(self, *, views: Iterable[str] = (), tables: Iterable[str]) -> None:
        """Let no other connection change some views and tables, nor this one."""
        if self._holds:
            return
        if self._holder is None:
            self._holder = self._con.cursor()
        comments = [f"COMMENT ON VIEW {name} IS ''" for name in views]
        comments += [f"COMMENT ON TABLE {name} IS ''" for name in tables]
        self._holder.execute("; ".join(["BEGIN", *comments]))
        self._holds = True

    def release(self) -> None:
        """Let them be changed."""
        if self._holds and self._holder is not None:
            self._holds = False
            self._holder.execute("ROLLBACK")

    def check(self, database: str | None) -> None:
        """Refuse to go on if a user's connection has detached a database.

        Args:
            database: Its name; None if there is none.

        Raises:
            CorpusError: The database is gone.
        """
        if self._holder is None or database is None:
            return
        try:
            # Takes a third of the time of a look into `duckdb_databases()`.
            self._con.execute(f"FROM {database}.index_state LIMIT 0")
        except duckdb.Error as exc:
            raise CorpusError(
                "a statement of `relation.query` has detached the index; open the corpus again"
            ) from exc

    def close(self) -> None:
        """Close the connection that holds them: the corpus is closed."""
        if self._holder is not None:
            self._holder.close()
