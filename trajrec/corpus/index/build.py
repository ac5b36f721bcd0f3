"""Brings tables up to date with the logs of a folder: new, grown, moved, copied and deleted ones."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import duckdb

from trajrec.corpus.index.batch import Batch
from trajrec.corpus.index.catalog import Catalog
from trajrec.corpus.index.catalog_tables import CATALOG
from trajrec.corpus.index.content_reader import ContentReader, Progress
from trajrec.corpus.index.insert import TableWriter
from trajrec.corpus.index.parts import RunTasks, read_in_parts
from trajrec.corpus.index.plan import FileEntry, make_plan
from trajrec.corpus.index.rows import EpisodeRow
from trajrec.corpus.index.scan import Scan
from trajrec.corpus.index.tables import EPISODE_TABLES, INDEX_VERSION
from trajrec.log.chunk import LogChunk
from trajrec.log.reader import LogReader
from trajrec.types import Value

_OPEN_EPISODE_FIELDS = [name for name in EpisodeRow.__struct_fields__ if name != "is_copy"]


@contextlib.contextmanager
def in_transaction(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Make all changes of a block or, if it raises, Ctrl-C too, none of them."""
    con.execute("BEGIN")
    try:
        yield
    except BaseException:
        con.execute("ROLLBACK")
        raise
    con.execute("COMMIT")


def create_tables(con: duckdb.DuckDBPyConnection, schema: str) -> None:
    """Create the tables in a schema that has none."""
    for table in EPISODE_TABLES:
        con.execute(f"CREATE TABLE {schema}.{table.name} ({table.ddl})")
    for name, columns in CATALOG.items():
        ddl = ", ".join(f"{column} {sql_type}" for column, sql_type in columns.items())
        con.execute(f"CREATE TABLE {schema}.{name} ({ddl})")
    con.execute(f"INSERT INTO {schema}.index_state SELECT {INDEX_VERSION}, 0")


OpenRows: TypeAlias = dict[int, dict[int, EpisodeRow]]
"""The rows of episodes without an end, by key of the log and number."""


class Builder:
    """Reads logs into the tables of one schema.

    Args:
        con: The connection to write with.
        schema: The schema of the tables, e.g. "main".
        folder: The corpus.
        source: The schema, or views, that hold the rows of logs read before.
        progress: Called with (bytes read, bytes to read) after each log.
        run: Runs tasks in other processes, which read the logs.
        open_rows: Known rows of episodes without an end; it gets those that are asked for.

    Attributes:
        stale_keys: Contents whose earlier rows hold no more.
    """

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        schema: str,
        folder: Path,
        *,
        source: str | None = None,
        progress: Progress | None = None,
        run: RunTasks | None = None,
        open_rows: OpenRows | None = None,
    ) -> None:
        self._con = con
        self._open_rows = open_rows
        self._schema = schema
        self._writer = TableWriter(con, schema)
        self._folder = folder
        self._source = source or schema
        self._progress = progress
        self._run = run
        self._reader = ContentReader(folder, self, progress)
        self.stale_keys: set[int] = set()

    @property
    def stale_episodes(self) -> set[str]:
        """Episodes whose earlier rows hold no more, in whichever schema they are."""
        return self._reader.stale_episodes

    def update(self, scan: Scan, catalog: Catalog, *, is_full: bool) -> None:
        """Bring the tables up to date with what differs in the folder."""
        plan = make_plan(self._folder, scan, catalog, is_full=is_full)
        self.drop(plan.dropped)
        self._writer.delete_files(plan.gone)
        readings = plan.readings
        if self._run is not None:
            readings = read_in_parts(plan, self._folder, self, self._run, self._progress)
        self._reader.read_all(readings, plan.files)
        rows = [_file_row(log, entry) for log, entry in plan.files.items()]
        self._writer.set_files(rows, f"{self._source}.contents")
        self._con.execute(f"UPDATE {self._schema}.index_state SET next_key = {plan.next_key}")

    def read_tail(
        self,
        log_key: int,
        reader: LogReader,
        n_frames: int,
        chunks: Sequence[LogChunk],
        only: Collection[int] | None,
    ) -> None:
        """Read the frames of a log from `n_frames` on, and its journal.

        The tables of this schema must have no rows of the episodes that are read.

        Args:
            log_key: The key of the log.
            reader: Its reader.
            n_frames: The frames that have rows elsewhere.
            chunks: The others, and the journal.
            only: The episodes of an agents' log to read; None for all.
        """
        # A log of an environment is handed on in parts, each with the rows of open episodes.
        self._writer.has_none = only is not None
        self._reader.read_chunks(log_key, reader, n_frames, chunks=chunks, only=only)
        self._reader.flush()

    def insert(self, batch: Batch) -> None:
        """Insert rows; those of episodes that are there already are replaced."""
        self._writer.insert(batch)

    def add_contents(self, rows: Sequence[Mapping[str, Value]]) -> None:
        """Insert rows of contents."""
        self._writer.add_contents(rows)

    def drop(self, keys: set[int]) -> None:
        """Drop the rows of contents here, and note that they hold no more in other schemas."""
        self._writer.drop(keys)
        self.stale_keys |= keys

    def open_rows(self, log_key: int) -> dict[int, EpisodeRow]:
        """Return the rows of a log's episodes without an end, which new frames go on with."""
        if self._open_rows is not None and log_key in self._open_rows:
            return self._open_rows[log_key]
        values = self._con.execute(
            f"SELECT {', '.join(_OPEN_EPISODE_FIELDS)} FROM {self._source}.all_episodes "
            "WHERE log_key = ? AND ending IS NULL",
            [log_key],
        ).fetchall()
        rows = [EpisodeRow(**dict(zip(_OPEN_EPISODE_FIELDS, row, strict=True))) for row in values]
        found = {row.number: row for row in rows}
        if self._open_rows is not None:
            self._open_rows[log_key] = found
        return found


def _file_row(log: str, entry: FileEntry) -> dict[str, Value]:
    return {
        "log": log,
        "folder": entry.file.folder,
        "size_bytes": entry.file.size,
        "mtime_ns": entry.file.mtime_ns,
        "log_key": entry.log_key,
        "is_original": entry.is_original,
        "is_link": entry.file.is_link,
        "problem": entry.file.problem or None,
    }
