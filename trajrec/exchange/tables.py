"""Rows of tables: Parquet, lines of JSON, and lists of objects, one row after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb

from trajrec.errors import ImportFileError
from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate
from trajrec.exchange.reading import Place, dicts_of, json_lines
from trajrec.types import JsonObject
from trajrec.values.database import connect

PARQUET = b"PAR1"

# A name or a text that is no UTF-8 is a RuntimeError of DuckDB's binding.
_DAMAGED = (duckdb.Error, RuntimeError, UnicodeError)

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
    return frozenset(candidate.first_item or candidate.first_line or candidate.fields)


def rows_of(candidate: Candidate, account: Account) -> Iterator[tuple[str, JsonObject]]:
    """Yield the position and the fields of each row.

    Raises:
        ImportFileError: The file is damaged, or a row is no object.
    """
    place = Place(candidate.path)
    if candidate.head[:4] == PARQUET:
        yield from _parquet_rows(candidate.path)
    elif candidate.first_item:
        for number, row in enumerate(dicts_of(place, candidate.document, "the file")):
            yield f"item {number}", row
    elif candidate.fields:
        yield "document", candidate.fields
    else:
        for number, value in json_lines(candidate.path, account):
            position = f"line {number}"
            yield position, Place(candidate.path, position).expect(dict, value, "a row")


def _parquet_rows(path: Path) -> Iterator[tuple[str, JsonObject]]:
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
            raise ImportFileError(f"is a damaged table: {first}", path=path) from exc


def _connection() -> duckdb.DuckDBPyConnection:
    # One thread: several of them would hold more of the file at a time.
    return connect(threads=1, autoinstall_known_extensions=False)


def _name(path: Path) -> str:
    """Return a path as DuckDB takes it, without patterns."""
    text = str(path.resolve())
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)
