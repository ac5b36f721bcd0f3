"""A tracker of SQLite databases: the schema and every row, by table and key."""

from __future__ import annotations

import os
import sqlite3
import warnings
import weakref
from pathlib import Path
from typing import Any

from trajrec.errors import RestoreError
from trajrec.paths import fixed_path
from trajrec.tracking.tree import Tree
from trajrec.values.diff import Change

SCHEMA = "sqlite_schema"
"""SQLite's table of its tables. Its name is also the key of the schema in a database's value."""

SEQUENCE = "sqlite_sequence"
"""SQLite's table of the last keys of tables with AUTOINCREMENT; its rows have the tables' names as
keys."""

_ROWIDS = ("rowid", "_rowid_", "oid")
"""SQLite's names of the number of a row, in a table that has no column of that name."""

TableRows = dict[Any, dict[str, Any]]
"""Key of a row -> column -> value. SQLite's types stay apart: a column may hold 7 and "7"."""


class Database:
    """Watches a database.

    The key of a row is its primary key, or its rowid if its table has none; a key of several
    columns is a tuple. The path of a change is (table, key, column). Generated columns follow from
    the others, and are left out. Attached databases are not watched.

    Args:
        source: The path of the database, whose committed rows are watched; or a connection, whose
            own transaction is seen too. SQLite counts neither the writes of a connection by
            `blobopen` nor its `deserialize`: these are seen with the next change.
    """

    name = "sqlite"
    version = 3

    def __init__(self, source: sqlite3.Connection | Path) -> None:
        self._path: Path | None = None
        if isinstance(source, Path):
            self._path = fixed_path(source)
            self._status = _status(self._path)
            self._connection = self._connect(self._path)
        else:
            self._connection = source
        self._tree = Tree(self._read)
        self._version = (-1, -1, -1)
        # How often the file was opened again.
        self._n_opened = 0
        # Whether a transaction of the connection was open at the last look.
        self._is_open = False
        self._digest = ""
        self._has_warned = False

    def _connect(self, path: Path) -> sqlite3.Connection:
        # Read-only: to watch a database must not create or lock it.
        uri = f"{path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        self._close = weakref.finalize(self, connection.close)
        return connection

    def begin(self) -> tuple[Any, str]:
        """Return all rows, and their digest."""
        # The version first: a change during the read then counts as new in the next `update`.
        self._version = self._read_version()
        self._is_open = self._connection.in_transaction
        value, self._digest = self._tree.begin()
        return value, self._digest

    def update(self) -> tuple[list[Change], str]:
        """Return the changes of rows since the last call, and the digest of all rows."""
        version = self._read_version()
        was_open = self._is_open
        self._is_open = self._connection.in_transaction
        # Nothing counts a rollback, as of a savepoint: what an open transaction has changed may be
        # gone with the same counts.
        if version == self._version and not (was_open or self._is_open):
            return [], self._digest
        self._version = version
        changes, self._digest = self._tree.update()
        if not changes:
            self._warn_of_attached()
        return changes, self._digest

    def _warn_of_attached(self) -> None:
        """Warn of databases of the connection that are not watched, as something was changed."""
        databases = [name for _, name, _ in self._run("PRAGMA database_list")]
        attached = ", ".join(sorted({*databases} - {"main", "temp"}))
        if attached and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"changes of {attached} are not recorded: of a watched connection the attached "
                "databases are not watched; watch each by its own path",
                RuntimeWarning,
                stacklevel=2,
            )

    def restore(self, value: dict[str, Any]) -> None:
        """Write all tables as they were, in one transaction; drop the tables that were not there.

        Raises:
            RestoreError: A table is defined in another way now, or the database refuses.
        """
        wanted = value[SCHEMA]
        live = self._read()[SCHEMA]
        redefined = sorted(
            name for name in wanted.keys() & live.keys() if wanted[name] != live[name]
        )
        if redefined:
            raise RestoreError(
                f"{', '.join(redefined)}: the SQL that defines it is not the recorded one; make "
                "the world with the recorded schema"
            )
        # The own connection is read-only.
        is_own = self._path is not None
        connection = self._connection if self._path is None else sqlite3.connect(self._path)
        try:
            # A savepoint, because BEGIN would fail inside a transaction of the caller.
            connection.execute("SAVEPOINT trajrec")
            try:
                # Rows are written table by table, so references hold only at the end.
                connection.execute("PRAGMA defer_foreign_keys = ON")
                self._write(connection, value, live)
                connection.execute("RELEASE trajrec")
            except sqlite3.Error:
                connection.execute("ROLLBACK TO trajrec")
                connection.execute("RELEASE trajrec")
                raise
            if is_own:
                connection.commit()
        except sqlite3.Error as exc:
            raise RestoreError(f"the database cannot be restored: {exc}") from exc
        finally:
            if is_own:
                connection.close()

    def _write(
        self, connection: sqlite3.Connection, value: dict[str, Any], live: dict[str, str]
    ) -> None:
        wanted = value[SCHEMA]
        for name in live.keys() - wanted.keys():
            connection.execute(f"DROP {_kind(live[name])} IF EXISTS {_quoted(name)}")
        tables = [name for name in value if name not in (SCHEMA, SEQUENCE)]
        # Tables before the indexes, views and triggers that need them.
        created = sorted(wanted.keys() - live.keys(), key=lambda name: (name not in tables, name))
        for name in created:
            connection.execute(wanted[name])
        # Triggers would act again on each row, so they are dropped and created after the rows.
        triggers = {name: sql for name, sql in wanted.items() if sql and _kind(sql) == "trigger"}
        for name in triggers:
            connection.execute(f"DROP TRIGGER {_quoted(name)}")
        for name in tables:
            self._write_rows(connection, name, value[name])
        for sql in triggers.values():
            connection.execute(sql)
        # Last, since each row that is written may advance them.
        if self._has_sequence():
            connection.execute(f"DELETE FROM {SEQUENCE}")
            for table, row in value.get(SEQUENCE, {}).items():
                connection.execute(f"INSERT INTO {SEQUENCE} VALUES (?, ?)", (table, row["seq"]))

    def _write_rows(self, connection: sqlite3.Connection, table: str, rows: TableRows) -> None:
        connection.execute(f"DELETE FROM {_quoted(table)}")
        has_key = any(column[5] for column in self._run(f"PRAGMA table_info({_quoted(table)})"))
        rowid = "" if has_key else self._rowid(table)
        for key, row in rows.items():
            columns = dict(row) if has_key else {rowid: key, **row}
            names = ", ".join(map(_quoted, columns))
            marks = ", ".join("?" * len(columns))
            connection.execute(
                f"INSERT INTO {_quoted(table)} ({names}) VALUES ({marks})", list(columns.values())
            )

    def _read_version(self) -> tuple[int, int, int]:
        """Return numbers that grow with each change, of this connection and of others."""
        if self._path is None:
            return self._counts()
        # First: a commit between the two looks shows in the counts now, and in the file later.
        status = _status(self._path)
        counts = self._counts()
        if status != self._status:
            is_other_file = status[:2] != self._status[:2]
            # A commit changes file and counts. A file that was put in the place of this one, or
            # copied over it, may have the same counts: the connection would keep the old pages.
            if is_other_file or counts == self._version:
                self._close()
                self._connection = self._connect(self._path)
                self._n_opened += 1
                counts = self._counts()
            self._status = status
        return counts

    def _counts(self) -> tuple[int, int, int]:
        # `data_version` counts commits of other connections; `total_changes` the rows that this one
        # changed; neither counts a change of the schema.
        (data_version,) = self._run("PRAGMA data_version")[0]
        (schema_version,) = self._run("PRAGMA schema_version")[0]
        changes = data_version + (schema_version << 32)
        return self._connection.total_changes, changes, self._n_opened

    def _read(self) -> dict[str, Any]:
        items = self._run(
            f"SELECT name, type, sql FROM {SCHEMA} "
            # Not LIKE, whose underscore is any letter: `sqlite3_jobs` is a table of the program.
            "WHERE lower(substr(name, 1, 7)) <> 'sqlite_' ORDER BY name"
        )
        value: dict[str, Any] = {SCHEMA: {name: sql for name, _, sql in items}}
        for name, kind, _ in items:
            if kind == "table":
                value[name] = self._rows(name)
        if self._has_sequence():
            # A key that was given once is not given again, so the last ones are a part of the state.
            last = self._run(f"SELECT name, seq FROM {SEQUENCE} ORDER BY name")
            value[SEQUENCE] = {name: {"seq": seq} for name, seq in last}
        return value

    def _has_sequence(self) -> bool:
        return bool(self._run(f"SELECT 1 FROM {SCHEMA} WHERE name = '{SEQUENCE}'"))

    def _rows(self, table: str) -> TableRows:
        quoted = _quoted(table)
        # Columns of table_info: cid, name, type, notnull, default, number in the primary key or 0.
        columns = self._run(f"PRAGMA table_info({quoted})")
        names = [column[1] for column in columns]
        keys = [column[1] for column in sorted(columns, key=lambda column: column[5]) if column[5]]
        key = ", ".join(map(_quoted, keys)) or self._rowid(table)
        # Not `*`, which gives generated columns as well.
        shown = ", ".join(map(_quoted, names))
        rows = self._run(f"SELECT {key}, {shown} FROM {quoted} ORDER BY {key}")
        if len(keys) <= 1:
            by_key = {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}
        else:
            n_keys = len(keys)
            by_key = {row[:n_keys]: dict(zip(names, row[n_keys:], strict=True)) for row in rows}
        if len(by_key) < len(rows):
            # A primary key may be NULL in several rows, unless the table says otherwise.
            rowid = self._rowid(table)
            rows = self._run(f"SELECT {rowid}, {shown} FROM {quoted} ORDER BY {rowid}")
            by_key = {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}
        return by_key

    def _rowid(self, table: str) -> str:
        """Return the name of a table's own row numbers: a column may have the usual one.

        Raises:
            ValueError: Columns have all three names, so that the numbers cannot be read.
        """
        columns = {row[1].lower() for row in self._run(f"PRAGMA table_xinfo({_quoted(table)})")}
        for name in _ROWIDS:
            if name not in columns:
                return name
        raise ValueError(
            f"the table {table} has no primary key, and columns of the names {', '.join(_ROWIDS)}, "
            "so its rows cannot be told apart: give it a primary key"
        )

    def _run(self, query: str) -> list[Any]:
        # A cursor without the connection's row factory: rows must be tuples.
        connection = self._connection
        cursor = connection.cursor()
        cursor.row_factory = None
        # Texts must be texts, and a cursor has no factory of its own for them.
        factory = connection.text_factory
        connection.text_factory = str
        try:
            return cursor.execute(query).fetchall()
        finally:
            connection.text_factory = factory
            cursor.close()


def _status(path: Path) -> tuple[int, ...]:
    """Return numbers by which a file is told from another one in its place."""
    stats = os.stat(path)
    return stats.st_dev, stats.st_ino, stats.st_mtime_ns, stats.st_ctime_ns, stats.st_size


def _kind(sql: str) -> str:
    """Return the kind of object that a CREATE statement makes, e.g. "table"."""
    return sql.split(None, 2)[1].lower()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
