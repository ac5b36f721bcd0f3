"""Files of SQLite databases, opened by SQLite alone."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from pathlib import Path


def is_database(path: Path) -> bool:
    """Return whether a file is a SQLite database.

    SQLite itself reads the file: by `open` and `close` a process loses all locks that its other
    connections have on the file, and the next process that leaves the database then deletes the
    write-ahead log under them.

    Raises:
        OSError: The file cannot be read.
    """
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if not path.stat().st_size:
        return False
    with contextlib.closing(read_only(path)) as connection:
        try:
            connection.execute("PRAGMA schema_version").fetchone()
        except sqlite3.DatabaseError as exc:
            # One that is locked is a database all the same.
            return exc.sqlite_errorcode != sqlite3.SQLITE_NOTADB
    return True


def read_only(path: Path) -> sqlite3.Connection:
    """Return a connection that neither creates a database nor locks it."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, check_same_thread=False)
