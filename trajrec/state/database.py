"""Watches a SQLite database: its schema and every row, by table and key."""

from __future__ import annotations

import sqlite3
import weakref
from pathlib import Path
from typing import Any

from trajrec.state.diff import Change
from trajrec.state.tree import Tree

SCHEMA = "sqlite_schema"


class Database:
    """Watches a database, by its path (what is committed) or by a connection (what that sees).

    A row's key is its primary key, or its rowid where it has none; a change is found at `table/key/column`.
    """

    name, version = "sqlite", 1

    def __init__(self, source: sqlite3.Connection | Path) -> None:
        if isinstance(source, Path):
            uri = f"{source.absolute().as_uri()}?mode=ro"
            self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            weakref.finalize(self, self._connection.close)
        else:
            self._connection = source
        self._tree = Tree(self._read)
        self._seen: tuple[int, int] = (-1, -1)
        self._digest = ""

    def begin(self) -> tuple[Any, str]:
        """Return all rows, and their digest."""
        self._seen = self._version()
        whole, self._digest = self._tree.begin()
        return whole, self._digest

    def update(self) -> tuple[list[Change], str]:
        """Return the rows and columns that changed, and the digest of all."""
        now = self._version()
        if now == self._seen:
            return [], self._digest
        self._seen = now
        changes, self._digest = self._tree.update()
        return changes, self._digest

    def _version(self) -> tuple[int, int]:
        """Return what changes with every change: of this connection, and of others'."""
        (version,) = self._run("PRAGMA data_version")[0]
        (schema,) = self._run("PRAGMA schema_version")[0]
        return self._connection.total_changes, version + (schema << 32)

    def _read(self) -> dict[str, Any]:
        tables = self._run(f"SELECT name, type, sql FROM {SCHEMA} WHERE name NOT LIKE 'sqlite_%' ORDER BY name")
        found: dict[str, Any] = {SCHEMA: {name: sql for name, _, sql in tables}}
        for name, kind, _ in tables:
            if kind == "table":
                found[name] = self._rows(name)
        return found

    def _rows(self, table: str) -> dict[str, Any]:
        quoted = '"' + table.replace('"', '""') + '"'
        columns = self._run(f"PRAGMA table_info({quoted})")
        names = [column[1] for column in columns]
        keys = [column[1] for column in sorted(columns, key=lambda column: column[5]) if column[5]]
        key = ", ".join('"' + name.replace('"', '""') + '"' for name in keys) or "rowid"
        n_keys = max(1, len(keys))
        rows = self._run(f"SELECT {key}, * FROM {quoted} ORDER BY {key}")
        return {" ".join(map(str, row[:n_keys])): dict(zip(names, row[n_keys:], strict=True)) for row in rows}

    def _run(self, query: str) -> list[Any]:
        # A cursor without the connection's row factory: rows must be tuples.
        cursor = self._connection.cursor()
        cursor.row_factory = None
        try:
            return cursor.execute(query).fetchall()
        finally:
            cursor.close()
