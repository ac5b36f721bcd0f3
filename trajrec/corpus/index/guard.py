"""Keeps the user's own connections from changing the views and tables in memory.

A query of the user runs in a read-only transaction, which `relation.query("v", "rollback")` ends:
from then on, that connection can change everything. So another transaction holds each view and
table by an uncommitted comment: DuckDB refuses all changes of others to them, as conflicts.
"""

from __future__ import annotations

import duckdb

from trajrec.errors import CorpusError

_ALL = """
SELECT 'VIEW', schema_name, view_name FROM duckdb_views()
WHERE NOT internal AND database_name = current_database()
UNION ALL SELECT 'TABLE', schema_name, table_name FROM duckdb_tables()
WHERE database_name = current_database()
"""


class Guard:
    """Holds the views and tables of a connection's database, until `release`.

    Args:
        con: The connection that changes them.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self._con = con
        self._holder: duckdb.DuckDBPyConnection | None = None
        self._holds = False

    def hold(self) -> None:
        """Let no other connection change them, nor this one."""
        if self._holds:
            return
        if self._holder is None:
            self._holder = self._con.cursor()
        names = self._con.execute(_ALL).fetchall()
        comments = [f"COMMENT ON {kind} {schema}.{name} IS ''" for kind, schema, name in names]
        self._holder.execute("; ".join(["BEGIN", *comments]))
        self._holds = True

    def release(self) -> None:
        """Let them be changed."""
        if self._holds and self._holder is not None:
            self._holds = False
            self._holder.execute("ROLLBACK")

    def check(self, database: str) -> None:
        """Refuse to go on if a user's connection has detached a database.

        Raises:
            CorpusError: It is gone.
        """
        if self._holder is None:
            return
        query = "SELECT 1 FROM duckdb_databases() WHERE database_name = $1"
        if self._con.execute(query, [database]).fetchone() is None:
            raise CorpusError(
                "a statement of `relation.query` has detached the index; open the corpus again"
            )

    def close(self) -> None:
        """Close the connection that holds them."""
        if self._holder is not None:
            self._holder.close()
