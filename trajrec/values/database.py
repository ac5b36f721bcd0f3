"""Opens DuckDB so that it prints nothing."""

from __future__ import annotations

import contextlib
import os
import weakref
from pathlib import Path

import duckdb

from trajrec.values.per_process import keep_for_good

_open: weakref.WeakSet[duckdb.DuckDBPyConnection] = weakref.WeakSet()

_FOR_THREADS = 1 << 32
"""Bytes of addresses that several threads need: 70 MB each, beside a gigabyte of libraries."""


def connect(
    database: str | Path = ":memory:", **config: str | int | bool
) -> duckdb.DuckDBPyConnection:
    """Return a connection to DuckDB.

    In an interactive Python, and in one that runs `python -c`, DuckDB draws the progress of long
    queries on standard output, where it would stand among the rows that a program writes there.

    Args:
        database: The file.
        **config: Settings by name.

    Raises:
        duckdb.Error: The file cannot be opened.
    """
    con = duckdb.connect(str(database), config={**_within_limits(), **config})
    # In a notebook without ipywidgets DuckDB draws nothing, and refuses any such setting.
    with contextlib.suppress(duckdb.InvalidInputException):
        con.execute("SET enable_progress_bar = false")
    _open.add(con)
    return con


def _keep_in_child() -> None:
    """End no database that this process has inherited, even if it is garbage: see `PerProcess`."""
    for con in list(_open):
        keep_for_good(con)
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_in_child)


def _within_limits() -> dict[str, str | int | bool]:
    """Return the settings that a limit of the process's addresses asks for (`ulimit -v`).

    DuckDB takes four fifths of the machine's memory for its own, and starts a thread for each core:
    beyond the limit the system's loader ends the process, without an error that could be told.
    """
    try:
        import resource
    except ImportError:
        return {}
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return {}
    return {"memory_limit": f"{limit // 2}B"} | ({"threads": 1} if limit < _FOR_THREADS else {})
