"""The index file: updates it in one short transaction, and attaches it for reading."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import duckdb

from trajrec.corpus.index.build import Builder, create_tables
from trajrec.corpus.index.catalog import Catalog
from trajrec.corpus.index.catalog_tables import CATALOG
from trajrec.corpus.index.content_reader import Progress
from trajrec.corpus.index.ids import IDS_NAME, write_ids
from trajrec.corpus.index.links import has_links
from trajrec.corpus.index.parts import RunTasks
from trajrec.corpus.index.scan import FolderState, ScanMode, scan_folder
from trajrec.corpus.index.tables import EPISODE_TABLES, INDEX_VERSION
from trajrec.log.folder import INDEX_FOLDER
from trajrec.log.locks import try_hold
from trajrec.values.database import connect

INDEX_NAME = f"{INDEX_FOLDER}/index.duckdb"
"""The index of a folder of logs."""

MEMORY_LIMIT = "192MB"
"""Memory of DuckDB while logs are indexed. Without a limit it keeps all pages that it wrote."""

OLD_INDEX_NAME = "index.duckdb"
"""An index of an earlier version, beside the logs. It is ignored."""

# Longest wait for another process that updates the file. After it, the logs are read instead.
LOCK_WAIT_S = 1.0

# Pause between two tries to lock or attach the file: 50 tries in the longest wait.
RETRY_S = 0.02

# Parts of DuckDB's messages for a file that another connection holds; it has no error class for
# it.
_BUSY_MESSAGES = ("Could not set lock", "handle conflict", "different configuration")

# E.g. a full disk, also at the commit: without the file, queries read the logs.
_NOT_WRITTEN = (
    duckdb.IOException,
    duckdb.FatalException,
    duckdb.OutOfMemoryException,
    duckdb.TransactionException,
)

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
    path: str | Path,
    *,
    rebuild: bool = False,
    scan: ScanMode = "changed",
    progress: Progress | None = None,
    run: RunTasks | None = None,
) -> bool:
    """Bring the index file of a folder up to date.

    Args:
        path: The corpus.
        rebuild: Whether to delete the file first and index all logs again.
        scan: The folders that are listed; with "full" a log whose file has changed in any way is
            read again.
        progress: Called with (bytes read, bytes to read) after each log.
        run: Runs tasks in other processes, which read the logs.

    Returns:
        Whether the file is up to date; False if it is in use or cannot be written.
    """
    folder = Path(path)
    if has_links(folder):
        return False
    with _only_writer(folder) as is_only:
        return is_only and _write_index(folder, rebuild, scan, progress, run)


def copy_index(folder: Path, target: Path) -> bool:
    """Copy the index file of a folder as it is between two updates; return whether there is one."""
    file = folder / INDEX_NAME
    if has_links(folder):
        return False
    with _only_writer(folder) as is_only:
        # A transaction that is not in the file yet would be missing.
        if not is_only or not file.exists() or file.with_name(f"{file.name}.wal").exists():
            return False
        shutil.copyfile(file, target)
        return True


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[bool]:
    """Wait until no other process writes the index; False if one still does, or none can.

    DuckDB's own lock is not enough: it is a lock of the file, and a rebuild deletes the file. The
    log of a transaction (.wal) is opened by its path, and would be beside the next file.
    """
    index_folder = folder / INDEX_FOLDER
    try:
        index_folder.mkdir(exist_ok=True)
        descriptor = None if os.name == "nt" else os.open(index_folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    if descriptor is None:
        # Windows deletes no file that is open.
        yield True
        return
    try:
        deadline = time.monotonic() + LOCK_WAIT_S
        while (is_held := try_hold(descriptor)) is False and time.monotonic() < deadline:
            time.sleep(RETRY_S)
        # None: a file system without locks.
        yield is_held is not False
    finally:
        os.close(descriptor)


def _write_index(
    folder: Path,
    rebuild: bool,
    scan: ScanMode,
    progress: Progress | None,
    run: RunTasks | None,
) -> bool:
    if rebuild:
        _delete_file(folder)
    con = _open_for_writing(folder)
    if con is None:
        return False
    try:
        # Not RESET afterwards: it sets DuckDB's own default, beyond the limit of this process.
        ((usual_limit,),) = con.execute("SELECT current_setting('memory_limit')").fetchall()
        con.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        try:
            _update(con, folder, scan, progress, run)
        except duckdb.OutOfMemoryException:
            # E.g. a single value of that size.
            with contextlib.suppress(duckdb.TransactionException):
                con.execute("ROLLBACK")
            con.execute(f"SET memory_limit = '{usual_limit}'")
            _update(con, folder, scan, progress, run)
        write_ids(con, folder / INDEX_FOLDER / IDS_NAME)
    except _NOT_WRITTEN:
        return False
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
    if has_links(file.parent.parent):
        return False
    deadline = time.monotonic() + wait_s
    name = str(file).replace("'", "''")
    while file.exists():
        try:
            con.execute(f"ATTACH '{name}' AS stored (READ_ONLY)")
        except duckdb.Error as exc:
            if not _has_message(exc, _BUSY_MESSAGES) or time.monotonic() > deadline:
                return False
            time.sleep(RETRY_S)
            continue
        if _is_index(con, "stored", "stored"):
            return True
        detach_index(con)
        return False
    return False


# The tables and views of a database. A view in an index that somebody else gave would run SQL of
# theirs whenever we read it. Macros and types are not asked for, which takes 40 ms: none of our
# queries reaches those of an attached file.
_CONTENTS = """
SELECT schema_name, table_name, column_count, replace(sql, '"', '') FROM duckdb_tables()
WHERE database_name = $name
UNION ALL SELECT schema_name, view_name, -1, sql FROM duckdb_views()
WHERE database_name = $name AND NOT internal
"""


def _is_index(con: duckdb.DuckDBPyConnection, schema: str, database: str) -> bool:
    """Return whether a database is an index of this version, and nothing else."""
    return holds_our_tables(con, database) and _version(con, schema) == INDEX_VERSION


def holds_our_tables(con: duckdb.DuckDBPyConnection, database: str) -> bool:
    """Return whether a database has exactly the tables of an index."""
    tables = {table.name: table.stored for table in EPISODE_TABLES} | CATALOG
    expected = set()
    for name, columns in tables.items():
        ddl = ", ".join(f"{column} {sql_type}" for column, sql_type in columns.items())
        expected.add(("main", name, len(columns), f"CREATE TABLE {name}({ddl});"))
    return set(con.execute(_CONTENTS, {"name": database}).fetchall()) == expected


def detach_index(con: duckdb.DuckDBPyConnection) -> None:
    """Detach the index file."""
    con.execute("DETACH stored")


def _open_for_writing(folder: Path) -> duckdb.DuckDBPyConnection | None:
    """Open the index file; None if it is in use or cannot be written.

    Everything in the file comes from the logs, so a file that is unusable, or that holds anything
    else than our tables, is made again.
    """
    file = folder / INDEX_NAME
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        is_new = not file.exists()
        try:
            file.parent.mkdir(exist_ok=True)
            con = connect(file)
        except OSError:
            return None
        except duckdb.Error as exc:
            is_unusable = file.exists() and _has_message(exc, _UNUSABLE_MESSAGES)
            if _has_message(exc, _BUSY_MESSAGES) or not is_unusable or time.monotonic() > deadline:
                return None
            _delete_file(folder)
        else:
            if is_new or _is_index(con, "main", file.stem):
                return con
            con.close()
            if time.monotonic() > deadline:
                return None
            _delete_file(folder)


def _update(
    con: duckdb.DuckDBPyConnection,
    folder: Path,
    mode: ScanMode,
    progress: Progress | None,
    run: RunTasks | None,
) -> None:
    """Bring the tables up to date in one transaction."""
    con.execute("SET TimeZone = 'UTC'; BEGIN")
    if con.execute("SELECT 1 FROM duckdb_tables() LIMIT 1").fetchone() is None:
        create_tables(con, "main")
    catalog = Catalog(con, "main", "main.contents")
    folders = catalog.folders()
    scan = scan_folder(folder, folders, catalog, mode=mode)
    if scan.has_news:
        builder = Builder(con, "main", folder, progress=progress, run=run)
        builder.update(scan, catalog, is_full=mode == "full")
    if scan.folders != folders:
        save_folders(con, scan.folders)
    # Nothing is committed if nothing is new: a commit writes to the file.
    is_new = scan.has_news or scan.folders != folders
    con.execute("COMMIT" if is_new else "ROLLBACK")


def save_folders(con: duckdb.DuckDBPyConnection, folders: Mapping[str, FolderState]) -> None:
    """Store the folders as they were listed."""
    con.execute("DELETE FROM main.folders")
    columns = [list(column) for column in zip(*((n, *s) for n, s in folders.items()), strict=True)]
    con.execute(
        "INSERT INTO main.folders SELECT unnest(?), unnest(?), unnest(?), unnest(?), unnest(?)",
        columns,
    )


def _version(con: duckdb.DuckDBPyConnection, schema: str) -> int | None:
    """Return the version of an index, None if it says none."""
    row = con.execute(f"SELECT version FROM {schema}.index_state").fetchone()
    return None if row is None else int(row[0])


def _delete_file(folder: Path) -> None:
    for name in (INDEX_NAME, INDEX_NAME + ".wal"):
        with contextlib.suppress(OSError):
            (folder / name).unlink()


def _has_message(exc: duckdb.Error, parts: tuple[str, ...]) -> bool:
    text = str(exc)
    return any(part in text for part in parts)
