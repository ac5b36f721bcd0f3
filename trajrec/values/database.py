"""Opens DuckDB so that it prints nothing."""

from __future__ import annotations

from pathlib import Path

import duckdb


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
    con = duckdb.connect(str(database), config=dict(config))
    con.execute("SET enable_progress_bar = false")
    return con
