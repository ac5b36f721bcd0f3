"""Watches a SQLite database: its schema and every row, by table and key."""

from __future__ import annotations

import sqlite3
import weakref
from pathlib import Path
from typing import Any

from trajrec.errors import RestoreError
from trajrec.tracking.tree import Tree
from trajrec.values.diff import Change

SCHEMA = "sqlite_schema"


class Database:
    """Watches a database, by its path (what is committed) or by a connection (what that sees).

    A row's key is its primary key, or its rowid where it has none; a change is found at `table/key/column`.
    """

    name, version = "sqlite", 1

    def __init__(self, source: sqlite3.Connection | Path) -> None:
        self._path = source if isinstance(source, Path) else None
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

    def restore(self, value: dict[str, Any]) -> None:
        """Write all tables as they were, in one transaction; tables that were not there are dropped.

        Raises:
            RestoreError: A table is defined otherwise than then, or the database refuses.
        """
        wanted, live = value[SCHEMA], self._read()[SCHEMA]
        if different := sorted(
            name for name in wanted.keys() & live.keys() if wanted[name] != live[name]
        ):
            raise RestoreError(f"{', '.join(different)}: defined otherwise than then")
        connection, is_own = self._connection, False
        if self._path is not None:
            connection, is_own = sqlite3.connect(self._path), True
        # A savepoint, which also works within a transaction of the caller's.
        try:
            connection.execute("SAVEPOINT trajrec")
            try:
                connection.execute("PRAGMA defer_foreign_keys = ON")
                self._write(connection, value, wanted, live)
                connection.execute("RELEASE trajrec")
            except sqlite3.Error:
                connection.execute("ROLLBACK TO trajrec")
                connection.execute("RELEASE trajrec")
                raise
            if is_own:
                connection.commit()
        except sqlite3.Error as exc:
            raise RestoreError(f"the database cannot be put back: {exc}") from exc
        finally:
            if is_own:
                connection.close()

    def _write(
        self, connection: sqlite3.Connection, value: dict[str, Any], wanted: Any, live: Any
    ) -> None:
        for name in live.keys() - wanted.keys():
            kind = live[name].split(None, 2)[1].lower()
            connection.execute(f"DROP {kind} IF EXISTS {_quoted(name)}")
        tables = [name for name in value if name != SCHEMA]
        for name in sorted(
            wanted.keys() - live.keys(), key=lambda name: (name not in tables, name)
        ):
            connection.execute(wanted[name])
        # Triggers would act again on what they did: they are put back after the rows.
        triggers = [
            sql for sql in wanted.values() if sql and sql.split(None, 2)[1].lower() == "trigger"
        ]
        for name, sql in wanted.items():
            if sql in triggers:
                connection.execute(f"DROP TRIGGER {_quoted(name)}")
        for name in tables:
            connection.execute(f"DELETE FROM {_quoted(name)}")
            has_key = any(column[5] for column in self._run(f"PRAGMA table_info({_quoted(name)})"))
            for key, row in value[name].items():
                columns = dict(row) if has_key else {"rowid": int(key), **row}
                names = ", ".join(map(_quoted, columns))
                marks = ", ".join("?" * len(columns))
                connection.execute(
                    f"INSERT INTO {_quoted(name)} ({names}) VALUES ({marks})",
                    list(columns.values()),
                )
        for sql in triggers:
            connection.execute(sql)

    def _version(self) -> tuple[int, int]:
        """Return what changes with every change: of this connection, and of others'."""
        (version,) = self._run("PRAGMA data_version")[0]
        (schema,) = self._run("PRAGMA schema_version")[0]
        return self._connection.total_changes, version + (schema << 32)

    def _read(self) -> dict[str, Any]:
        tables = self._run(
            f"SELECT name, type, sql FROM {SCHEMA} WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
        )
        found: dict[str, Any] = {SCHEMA: {name: sql for name, _, sql in tables}}
        for name, kind, _ in tables:
            if kind == "table":
                found[name] = self._rows(name)
        return found

    def _rows(self, table: str) -> dict[str, Any]:
        quoted = _quoted(table)
        columns = self._run(f"PRAGMA table_info({quoted})")
        names = [column[1] for column in columns]
        keys = [column[1] for column in sorted(columns, key=lambda column: column[5]) if column[5]]
        key = ", ".join(map(_quoted, keys)) or "rowid"
        n_keys = max(1, len(keys))
        rows = self._run(f"SELECT {key}, * FROM {quoted} ORDER BY {key}")
        return {
            " ".join(map(str, row[:n_keys])): dict(zip(names, row[n_keys:], strict=True))
            for row in rows
        }

    def _run(self, query: str) -> list[Any]:
        # A cursor without the connection's row factory: rows must be tuples.
        cursor = self._connection.cursor()
        cursor.row_factory = None
        try:
            return cursor.execute(query).fetchall()
        finally:
            cursor.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
