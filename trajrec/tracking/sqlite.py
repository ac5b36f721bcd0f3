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
from trajrec.tracking.sqlite_files import read_only
from trajrec.tracking.tree import Tree
from trajrec.values.diff import Change

SCHEMA = "sqlite_schema"
"""SQLite's table of its tables. Its name is also the key of the schema in a database's value."""

SEQUENCE = "sqlite_sequence"
"""SQLite's table of the last keys of tables with AUTOINCREMENT; its rows have the tables' names as
keys."""

_ROWIDS = ("rowid", "_rowid_", "oid")
"""SQLite's names of the number of a row, in a table that has no column of that name."""

_KINDS = ("table", "index", "view", "trigger")
"""The kinds of objects in a database. One of them needs none of the kinds behind it."""

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
        # Whether the rows of that version were read: a read that raises is made again.
        self._is_read = False
        self._has_warned = False

    def _connect(self, path: Path) -> sqlite3.Connection:
        connection = read_only(path)
        self._close = weakref.finalize(self, connection.close)
        return connection

    def begin(self) -> tuple[Any, str]:
        """Return all rows, and their digest."""
        # The version first: a change during the read then counts as new in the next `update`.
        self._version = self._read_version()
        self._is_open = self._connection.in_transaction
        self._is_read = False
        value, self._digest = self._tree.begin()
        self._is_read = True
        return value, self._digest

    def update(self) -> tuple[list[Change], str]:
        """Return the changes of rows since the last call, and the digest of all rows."""
        version = self._read_version()
        was_open = self._is_open
        self._is_open = self._connection.in_transaction
        # Nothing counts a rollback, as of a savepoint: what an open transaction has changed may be
        # gone with the same counts.
        is_same = version == self._version and not (was_open or self._is_open)
        if is_same and self._is_read:
            return [], self._digest
        self._version = version
        self._is_read = False
        changes, self._digest = self._tree.update()
        self._is_read = True
        if not changes:
            self._warn_of_attached()
        return changes, self._digest

    def _warn_of_attached(self) -> None:
        """Warn of databases of the connection that are not watched, as something was changed."""
        databases = [name for _, name, _ in _run(self._connection, "PRAGMA database_list")]
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
                # After some errors, as of the disk, SQLite has rolled back all by itself.
                if connection.in_transaction:
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
        # Virtual tables first: with each the tables go that SQLite made for it.
        for name in sorted(
            live.keys() - wanted.keys(), key=lambda name: not _is_virtual(live[name])
        ):
            connection.execute(f"DROP {_kind(live[name])} IF EXISTS main.{_quoted(name)}")
        created = wanted.keys() - live.keys()
        for name in sorted(created, key=lambda name: (_KINDS.index(_kind(wanted[name])), name)):
            connection.execute(wanted[name])
        # Triggers would act again on each row, so they are dropped and created after the rows.
        triggers = {name: sql for name, sql in wanted.items() if _kind(sql) == "trigger"}
        for name in triggers:
            connection.execute(f"DROP TRIGGER main.{_quoted(name)}")
        tables = [name for name in value if name not in (SCHEMA, SEQUENCE)]
        # All rows, before any is written: with the rows of one table SQLite may delete rows of
        # another that refer to them.
        _delete_rows(connection, tables)
        for name in tables:
            _insert_rows(connection, name, value[name])
        for sql in triggers.values():
            connection.execute(sql)
        # Last, since each row that is written may advance them.
        if _has_sequence(connection):
            connection.execute(f"DELETE FROM main.{SEQUENCE}")
            for table, row in value.get(SEQUENCE, {}).items():
                connection.execute(
                    f"INSERT INTO main.{SEQUENCE} VALUES (?, ?)", (table, row["seq"])
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
        (data_version,) = _run(self._connection, "PRAGMA data_version")[0]
        (schema_version,) = _run(self._connection, "PRAGMA schema_version")[0]
        changes = data_version + (schema_version << 32)
        return self._connection.total_changes, changes, self._n_opened

    def _read(self) -> dict[str, Any]:
        if self._path is None:
            return _read(self._connection)
        # In one transaction: another process may write between the looks at two tables.
        self._connection.execute("BEGIN")
        try:
            return _read(self._connection)
        finally:
            self._connection.rollback()


def _read(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return the value of a database: its schema, and the rows of each table."""
    items = _run(
        connection,
        f"SELECT +name, +type, +sql FROM main.{SCHEMA} "
        # Not LIKE, whose underscore is any letter: `sqlite3_jobs` is a table of the program.
        "WHERE lower(substr(name, 1, 7)) <> 'sqlite_' ORDER BY name",
    )
    value: dict[str, Any] = {SCHEMA: {name: sql for name, _, sql in items}}
    for name, kind, _ in items:
        if kind == "table":
            value[name] = _rows(connection, name)
    if _has_sequence(connection):
        # A key that was given once is not given again, so the last ones are a part of the state.
        last = _run(connection, f"SELECT +name, +seq FROM main.{SEQUENCE} ORDER BY name")
        value[SEQUENCE] = {name: {"seq": seq} for name, seq in last}
    return value


def _has_sequence(connection: sqlite3.Connection) -> bool:
    return bool(_run(connection, f"SELECT 1 FROM main.{SCHEMA} WHERE name = '{SEQUENCE}'"))


def _columns(connection: sqlite3.Connection, table: str) -> tuple[list[str], list[str]]:
    """Return the names of a table's columns, and those of its primary key, in the key's order."""
    # cid, name, type, notnull, default, number in the primary key or 0.
    columns = _run(connection, f"PRAGMA main.table_info({_quoted(table)})")
    in_key = sorted((column for column in columns if column[5]), key=lambda column: column[5])
    return [column[1] for column in columns], [column[1] for column in in_key]


def _rows(connection: sqlite3.Connection, table: str) -> TableRows:
    names, keys = _columns(connection, table)
    # The name of the row numbers is no column's, so it stands as it is.
    own_keys = list(map(_quoted, keys)) or [_rowid(connection, table)]
    rows = _select(connection, table, own_keys, names)
    by_key = _by_key(rows, names)
    if len(by_key) < len(rows):
        # A primary key may be NULL in several rows, unless the table says otherwise.
        by_key = _by_key(_select(connection, table, [_rowid(connection, table)], names), names)
    return by_key


def _select(
    connection: sqlite3.Connection, table: str, terms: list[str], names: list[str]
) -> list[Any]:
    """Return the rows of a table, ordered by terms of SQL: these of each row, then its columns."""
    # Not `*`, which gives generated columns as well. The plus keeps a value as it is, where the
    # connection's converters would make another one of a column's.
    shown = ", ".join(f"+{term}" for term in (*terms, *map(_quoted, names)))
    order = ", ".join(terms)
    return _run(connection, f"SELECT {shown} FROM main.{_quoted(table)} ORDER BY {order}")


def _by_key(rows: list[Any], names: list[str]) -> TableRows:
    if not rows:
        return {}
    n_keys = len(rows[0]) - len(names)
    return {
        row[0] if n_keys == 1 else row[:n_keys]: dict(zip(names, row[n_keys:], strict=True))
        for row in rows
    }


def _delete_rows(connection: sqlite3.Connection, tables: list[str]) -> None:
    """Delete all rows of some tables, those that others refer to last.

    Raises:
        sqlite3.IntegrityError: Rows of each table that is left are referred to by another one, and
            may not be deleted for that.
    """
    waiting = list(tables)
    while waiting:
        refused: list[str] = []
        for table in waiting:
            try:
                connection.execute(f"DELETE FROM main.{_quoted(table)}")
            except sqlite3.IntegrityError:
                refused.append(table)
                if len(refused) == len(waiting):
                    raise
        waiting = refused


def _insert_rows(connection: sqlite3.Connection, table: str, rows: TableRows) -> None:
    _, keys = _columns(connection, table)
    # The keys are the numbers of the rows if primary keys are NULL.
    rowid = ""
    if any(key != _own_key(row, keys) for key, row in rows.items()):
        rowid = _rowid(connection, table)
    for key, row in rows.items():
        columns = {rowid: key, **row} if rowid else row
        names = ", ".join(map(_quoted, columns))
        marks = ", ".join("?" * len(columns))
        connection.execute(
            f"INSERT INTO main.{_quoted(table)} ({names}) VALUES ({marks})", list(columns.values())
        )


def _own_key(row: dict[str, Any], keys: list[str]) -> Any:
    """Return the key that a row has by its primary key; () if its table has none."""
    return row[keys[0]] if len(keys) == 1 else tuple(row[name] for name in keys)


def _rowid(connection: sqlite3.Connection, table: str) -> str:
    """Return the name of a table's own row numbers: a column may have the usual one.

    Raises:
        ValueError: Columns have all three names, so that the numbers cannot be read.
    """
    rows = _run(connection, f"PRAGMA main.table_xinfo({_quoted(table)})")
    columns = {row[1].lower() for row in rows}
    for name in _ROWIDS:
        if name not in columns:
            return name
    raise ValueError(
        f"the table {table} has no primary key, and columns of the names {', '.join(_ROWIDS)}, "
        "so its rows cannot be told apart: give it a primary key"
    )


def _run(connection: sqlite3.Connection, query: str) -> list[Any]:
    # A cursor without the connection's row factory: rows must be tuples.
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
    """Return the kind of object that a CREATE statement makes, one of `_KINDS`."""
    word = sql.split(None, 2)[1].lower()
    return {"unique": "index", "virtual": "table"}.get(word, word)


def _is_virtual(sql: str) -> bool:
    return sql.split(None, 2)[1].lower() == "virtual"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
