"""Runs queries: the user's own, and those of somebody else in a closed instance of DuckDB.

No query changes the tables: each runs in a read-only transaction. A query of somebody else (a page,
a `where` that came with an experiment) is one SELECT in an instance that reads no files, loads no
extensions, sees no Python objects, and ends at limits of memory and time.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import duckdb

from trajrec.errors import QueryError
from trajrec.types import Value

Params: TypeAlias = Sequence[Value] | Mapping[str, Value] | None

_READING = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}
# PIVOT is a statement of several parts.
_OWN = {*_READING, duckdb.StatementType.MULTI}

# In this order: DuckDB lets queries read its folder for temporary files, even if it is closed off, so
# there is none, and the file of the index, which is open by now, so no file is opened any more.
# The last setting forbids to change any.
_CLOSED = (
    "temp_directory = ''",
    "enable_external_access = false",
    "disabled_filesystems = 'LocalFileSystem'",
    "python_enable_replacements = false",
    "autoinstall_known_extensions = false",
    "autoload_known_extensions = false",
    "max_temp_directory_size = '0B'",
    "lock_configuration = true",
)


class Sandbox(NamedTuple):
    """The limits of queries that run in a closed instance of DuckDB.

    DuckDB looks at them between batches of rows. A query that may make a larger value runs in a
    process of its own, which is ended at these limits (`trajrec.corpus.query_process`).

    Attributes:
        seconds: Longest time that a query may take.
        memory: Most memory of all its queries, as DuckDB writes it: "4GB" or "50%".
    """

    seconds: float = 60.0
    memory: str = "50%"


def close_off(con: duckdb.DuckDBPyConnection, sandbox: Sandbox) -> None:
    """Close an instance of DuckDB off, for good: it keeps only the databases that it has."""
    con.execute(f"SET memory_limit = '{_memory(sandbox.memory)}'")
    # Rows go to another instance whole (`trajrec.corpus.query_child`).
    con.execute("SET GLOBAL arrow_lossless_conversion = true")
    for setting in _CLOSED:
        con.execute(f"SET {setting}")


def begin_reading(con: duckdb.DuckDBPyConnection, table: str) -> duckdb.DuckDBPyConnection:
    """Return another connection, in a transaction that sees the tables as they are now."""
    cursor = con.cursor()
    cursor.execute("BEGIN TRANSACTION READ ONLY")
    # DuckDB begins with the first table that is read.
    cursor.execute(f"FROM {table} LIMIT 0").fetchall()
    return cursor


def run_own(
    cursor: duckdb.DuckDBPyConnection, query: str, params: Params
) -> duckdb.DuckDBPyRelation:
    """Return the user's own query, which reads data frames and files too; it runs when it is used.

    The connection must be for this query alone, and in a transaction that only reads.

    Raises:
        QueryError: DuckDB rejects the query, or it is no SELECT.
    """
    _check(cursor, query, _OWN)
    try:
        return _relation(cursor, query, params)
    except duckdb.Error as exc:
        raise QueryError(first_lines(exc)) from exc


def run_closed(
    cursor: duckdb.DuckDBPyConnection, query: str, params: Params, sandbox: Sandbox
) -> duckdb.DuckDBPyRelation:
    """Return the rows of a query that somebody else wrote.

    The connection must be for this query alone, in a transaction that only reads, and its instance
    closed off.

    Raises:
        QueryError: DuckDB rejects the query, it is no SELECT, or it reaches a limit.
    """
    _check(cursor, query, _READING)
    timer = threading.Timer(sandbox.seconds, cursor.interrupt)
    timer.daemon = True
    try:
        timer.start()
        return _relation(cursor, query, params).materialize()
    except duckdb.InterruptException as exc:
        raise too_long(sandbox) from exc
    except duckdb.OutOfMemoryException as exc:
        # At its limit DuckDB says how much of it is used; else the process has no memory left.
        if "used)" not in str(exc):
            raise
        raise too_large(sandbox) from exc
    except duckdb.PermissionException as exc:
        raise QueryError(
            f"{first_lines(exc)}; queries of --where and `trajrec sql` read the tables alone "
            "(`trajrec sql --allow-files` reads files too)"
        ) from exc
    except duckdb.Error as exc:
        raise QueryError(first_lines(exc)) from exc
    finally:
        timer.cancel()
        if timer.ident is not None:
            timer.join()


def check_closed(cursor: duckdb.DuckDBPyConnection, query: str) -> None:
    """Refuse a query that is not one SELECT or EXPLAIN, or that DuckDB cannot parse.

    Raises:
        QueryError: It is refused.
    """
    _check(cursor, query, _READING)


def too_long(sandbox: Sandbox) -> QueryError:
    """Return the error of a query that was stopped at its limit of time."""
    return QueryError(
        f"the query took longer than {sandbox.seconds:g} s and was stopped; give it more time "
        "(`trajrec sql --timeout`, or Sandbox(seconds=...))"
    )


def too_large(sandbox: Sandbox) -> QueryError:
    """Return the error of a query that was stopped at its limit of memory."""
    return QueryError(
        f"the query needs more memory than {sandbox.memory}; give it more "
        "(`trajrec sql --memory`, or Sandbox(memory=...))"
    )


def _relation(
    cursor: duckdb.DuckDBPyConnection, query: str, params: Params
) -> duckdb.DuckDBPyRelation:
    relation = cursor.sql(query, params=params)
    if relation is None:
        raise QueryError("the query returns no rows: give a SELECT")
    return relation


def _check(cursor: duckdb.DuckDBPyConnection, query: str, types: set[duckdb.StatementType]) -> None:
    """Refuse a query that is not one statement that reads."""
    try:
        # Not DuckDB's own default connection: its threads would live until the interpreter's end,
        # where one of them can end the process by a signal.
        statements = cursor.extract_statements(query)
    except duckdb.Error as exc:
        raise QueryError(first_lines(exc)) from exc
    if len(statements) != 1 or _type(statements[0]) not in types:
        raise QueryError("a query is one SELECT, which returns rows and changes nothing")


def _type(statement: duckdb.Statement) -> duckdb.StatementType | None:
    """Return the type of a statement, None if DuckDB's own Python has no name for it."""
    try:
        return statement.type
    except ValueError:  # UPDATE EXTENSIONS
        return None


def _memory(text: str) -> str:
    """Return a limit of memory, so that it cannot end the text that it stands in."""
    if not re.fullmatch(r"[0-9.]+ ?[A-Za-z]{0,3}%?", text):
        raise ValueError(f"memory must be a size such as '4GB' or '50%', got {text!r}")
    return text


def first_lines(exc: duckdb.Error) -> str:
    """Return DuckDB's message without its picture of the query: the error and the nearest names."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    texts = [line for line in lines if not re.match(r"LINE \d+:|\^", line)]
    *firsts, last = texts[:3] or [str(exc)]
    return "; ".join([*(text.rstrip("!.;") for text in firsts), last])
