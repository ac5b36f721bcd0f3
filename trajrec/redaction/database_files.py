"""The values in the bytes of a SQLite database.

Values lie beside each other in such a file: `apisk-proj-...` may be two columns, so a search of the
bytes finds neither the start of a key nor the border of a word.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from trajrec.types import Value

MAGIC = b"SQLite format 3\0"

# The versions of the format to write and to read: a database in memory has no WAL.
_VERSIONS = slice(18, 20)
_WITHOUT_WAL = b"\x01\x01"


def rows_of(data: bytes) -> list[Value]:
    """Return the rows of all tables, as far as they can be read.

    Args:
        data: The bytes of a database.
    """
    rows: list[Value] = []
    with (
        contextlib.closing(sqlite3.connect(":memory:")) as connection,
        # A damaged or encrypted database has no rows, and only its bytes are searched.
        contextlib.suppress(sqlite3.Error),
    ):
        readable = bytearray(data)
        readable[_VERSIONS] = _WITHOUT_WAL
        connection.deserialize(bytes(readable))
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        for (name,) in names.fetchall():
            rows.extend(_rows_of_table(connection, name))
    return rows


def _rows_of_table(connection: sqlite3.Connection, name: str) -> Iterator[Value]:
    quoted = name.replace('"', '""')
    with contextlib.suppress(sqlite3.Error):
        rows = connection.execute(f'SELECT * FROM "{quoted}"')
        columns = [column[0] for column in rows.description]
        for row in rows:
            yield dict(zip(columns, row, strict=True))
