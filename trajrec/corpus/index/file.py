"""The index file: updates it in one short transaction, and attaches it for reading."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import duckdb

from trajrec.corpus.index.build import Builder, create_tables
from trajrec.corpus.index.indexed_logs import read_indexed_logs
from trajrec.corpus.index.tables import FORMER_TABLES, INDEX_VERSION, TABLES
from trajrec.log.folder import find_logs

Progress: TypeAlias = Callable[[int, int], None]

INDEX_NAME = "index.duckdb"

# Longest wait for another process that updates the file. After it, the logs are read instead.
LOCK_WAIT_S = 1.0

# Pause between two tries to attach the file: 50 tries in the longest wait.
ATTACH_RETRY_S = 0.02

# Parts of DuckDB's messages for a file that another connection holds; it has no error class for
# it.
_BUSY_MESSAGES = ("Could not set lock", "handle conflict", "different configuration")

# Parts of DuckDB's messages for a file of another DuckDB, a damaged one, or no database at all.
_UNUSABLE_MESSAGES = (
    "not a valid DuckDB",
    "version",
    "serializ",
    "Serializ",
    "checksum",
    "Corrupt",
    "corrupt",
    "WAL",
)


def update_index(
    path: str | Path, *, rebuild: bool = False, progress: Progress | None = None
) -> bool:
    """Bring the index file of a folder up to date.

    Args:
        path: The corpus.
        rebuild: Whether to delete the file first and index all logs again.
        progress: Called with (bytes read, bytes to read) after each log.

    Returns:
        Whether the file is up to date; False if it is in use or cannot be written.
    """
    folder = Path(path)
    if rebuild:
        _delete_file(folder)
    is_new = not (folder / INDEX_NAME).exists()
    con = _open_for_writing(folder)
    if con is None:
        return False
    try:
        # DuckDB takes 10 ms to say that a table is missing, so a new file is not asked.
        _update(
            con,
            folder,
            is_current=is_new or _version(con, "main") == INDEX_VERSION,
            progress=progress,
        )
    except (duckdb.IOException, duckdb.FatalException, duckdb.OutOfMemoryException):
        return False  # e.g. a full disk: without the file, queries read the logs
    finally:
        con.close()
    return True


def attach_index(con: duckdb.DuckDBPyConnection, file: Path, *, wait_s: float) -> bool:
    """Attach an index file for reading, as the database "stored".

    Args:
        con: The connection to attach it to.
        file: The file.
        wait_s: Longest wait for another process that writes the file, in seconds.

    Returns:
        Whether it was attached; False if there is none of this version.
    """
    deadline = time.monotonic() + wait_s
    name = str(file).replace("'", "''")
    while file.exists():
        try:
            con.execute(f"ATTACH '{name}' AS stored (READ_ONLY)")
        except duckdb.Error as exc:
            if not _has_message(exc, _BUSY_MESSAGES) or time.monotonic() > deadline:
                return False
            time.sleep(ATTACH_RETRY_S)
            continue
        if _version(con, "stored") == INDEX_VERSION:
            return True
        detach_index(con)
        return False
    return False


def detach_index(con: duckdb.DuckDBPyConnection) -> None:
    """Detach the index file."""
    con.execute("DETACH stored")


def _open_for_writing(folder: Path) -> duckdb.DuckDBPyConnection | None:
    """Open the index file; None if it is in use or cannot be written."""
    file = folder / INDEX_NAME
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            con = duckdb.connect(str(file))
        except duckdb.Error as exc:
            is_unusable = file.exists() and _has_message(exc, _UNUSABLE_MESSAGES)
            if _has_message(exc, _BUSY_MESSAGES) or not is_unusable or time.monotonic() > deadline:
                return None
            # Everything in the file comes from the logs, so an unusable one is made again.
            _delete_file(folder)
        else:
            return con


def _update(
    con: duckdb.DuckDBPyConnection, folder: Path, *, is_current: bool, progress: Progress | None
) -> None:
    """Bring the tables up to date in one transaction; make them anew unless they are current."""
    con.execute("SET TimeZone = 'UTC'; BEGIN")
    if not is_current:
        for name in (*(table.name for table in TABLES), *FORMER_TABLES, "index_version"):
            con.execute(f"DROP TABLE IF EXISTS {name}")
    create_tables(con, "main")
    indexed = read_indexed_logs(con, "main")
    update = Builder(con, "main", folder, progress=progress).update(find_logs(folder), indexed)
    # Nothing is committed if nothing is new: a commit writes to the file.
    con.execute("ROLLBACK" if update is None and indexed else "COMMIT")


def _version(con: duckdb.DuckDBPyConnection, database: str) -> int | None:
    """Return the version of a database's tables; None if there are none."""
    try:
        row = con.execute(f"SELECT version FROM {database}.index_version").fetchone()
    except duckdb.CatalogException:
        return None
    return None if row is None else int(row[0])


def _delete_file(folder: Path) -> None:
    for name in (INDEX_NAME, INDEX_NAME + ".wal"):
        with contextlib.suppress(OSError):
            (folder / name).unlink()


def _has_message(exc: duckdb.Error, parts: tuple[str, ...]) -> bool:
    text = str(exc)
    return any(part in text for part in parts)
