"""Rows of tables: Parquet, lines of JSON, and lists of objects, one row after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb

from trajrec.errors import ImportFileError
from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate, records_of
from trajrec.types import JsonObject
from trajrec.values.database import connect

PARQUET = b"PAR1"

# A name or a text that is no UTF-8 is a RuntimeError of DuckDB's binding.
_DAMAGED = (duckdb.Error, RuntimeError, UnicodeError)

# A file of kilobytes may hold a value of gigabytes.
_MEMORY = "1GB"

# Rows that are in memory at a time.
_ROWS = 64


def columns_of(candidate: Candidate) -> frozenset[str]:
    """Return the columns of a table, none if the file is none."""
    if candidate.is_folder:
        return frozenset()
    if candidate.head[:4] == PARQUET:
        with _connection() as con:
            try:
                rows = con.execute("SELECT * FROM read_parquet(?) LIMIT 0", [_name(candidate.path)])
                return frozenset(column[0] for column in rows.description or ())
            except _DAMAGED:
                return frozenset()
    if not candidate.is_json:
        return frozenset()
    return frozenset(candidate.first_record)


def rows_of(candidate: Candidate, account: Account) -> Iterator[tuple[str, JsonObject]]:
    """Yield the position and the fields of each row.

    A row that is no object is dropped, and so are those behind the first damaged part of a Parquet
    file.

    Raises:
        ImportFileError: No row of the file can be read.
    """
    if candidate.head[:4] == PARQUET:
        yield from _parquet_rows(candidate.path, account)
    else:
        yield from records_of(candidate, account, "a row")


def _parquet_rows(path: Path, account: Account) -> Iterator[tuple[str, JsonObject]]:
    with _connection() as con:
        number = 0
        try:
            rows = con.execute("SELECT * FROM read_parquet(?)", [_name(path)])
            names = [column[0] for column in rows.description or ()]
            while batch := rows.fetchmany(_ROWS):
                for row in batch:
                    yield f"row {number}", dict(zip(names, row, strict=True))
                    number += 1
        except _DAMAGED as exc:
            first = (str(exc).splitlines() or [""])[0]
            if not number:
                raise ImportFileError(f"is a damaged table: {first}", path=path) from exc
            reason = f"row {number} and all behind it: the table is damaged: {first}"
            account.drop_part(reason, max(_stated_rows(con, path) - number, 1))


def _stated_rows(con: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Return the number of rows that a Parquet file states, 0 if that is damaged, too."""
    try:
        query = "SELECT num_rows FROM parquet_file_metadata(?)"
        row = con.execute(query, [_name(path)]).fetchone()
    except _DAMAGED:
        return 0
    return int(row[0]) if row else 0


def _connection() -> duckdb.DuckDBPyConnection:
    # One thread: several of them would hold more of the file at a time.
    con = connect(threads=1, autoinstall_known_extensions=False, memory_limit=_MEMORY)
    # Else rows before a damaged part wait in the buffer, and are lost with it.
    con.execute("SET streaming_buffer_size = '1kB'")
    return con


def _name(path: Path) -> str:
    """Return a path as DuckDB takes it, without patterns."""
    text = str(path.resolve())
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)
