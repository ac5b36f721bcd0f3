"""An index that is never stale: the tables of the index file, and in memory the logs it lacks."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping
from pathlib import Path

import duckdb

from trajrec.corpus.index.build import Builder, create_tables
from trajrec.corpus.index.credit_tables import ANNOTATIONS
from trajrec.corpus.index.file import (
    INDEX_NAME,
    LOCK_WAIT_S,
    Progress,
    attach_index,
    detach_index,
    update_index,
)
from trajrec.corpus.index.indexed_logs import IndexedLog, is_current, read_indexed_logs
from trajrec.corpus.index.table import Table
from trajrec.corpus.index.tables import ALL_EPISODES, CHECKS, LOGS, OF_EPISODES, TABLES
from trajrec.corpus.index.tails import Tails
from trajrec.corpus.index.views import VIEWS
from trajrec.corpus.sandbox import Params, Sandbox, close_off, run_closed, run_own
from trajrec.errors import CorpusError
from trajrec.log.folder import LogFile, find_logs
from trajrec.log.locks import is_being_written
from trajrec.log.reader import LogReader
from trajrec.types import Value


class LiveIndex:
    """The tables of a corpus in DuckDB, brought up to date by `refresh`.

    The index file is updated in one short transaction and then only read. If it cannot be (another
    process holds it, or the folder is read-only), the logs that it lacks are read into this
    process. So an answer never depends on winning a lock.

    In DuckDB, the database "stored" has the tables of the file, the schema "delta" those in memory,
    "tail" those of journals, and "main" the views over all three. "delta" also has the logs and
    episodes whose stored rows hold no more ("deleted" and "superseded"), and the logs that are
    being written ("running").

    Args:
        folder: The corpus.
        stats: Its logs, by path relative to it.
        progress: Called with (bytes read, bytes to read) while logs are read.
        sandbox: Closes the instance of DuckDB off, with these limits.

    Attributes:
        con: The connection that brings the tables up to date. Each query has one of its own.
        running: Unsealed logs, and whether a process writes them.
    """

    def __init__(
        self,
        folder: Path,
        stats: Mapping[str, LogFile],
        *,
        progress: Progress | None,
        sandbox: Sandbox | None = None,
    ) -> None:
        self._folder = folder
        self._progress = progress
        self.con = duckdb.connect(":memory:")
        self._cursors: weakref.WeakSet[duckdb.DuckDBPyConnection] = weakref.WeakSet()
        # Global settings hold for the connections of queries too. A query finds the data frames of
        # its caller, who is some frames above.
        self.con.execute(
            "SET GLOBAL TimeZone = 'UTC'; SET GLOBAL python_scan_all_frames = true; "
            "CREATE SCHEMA delta"
        )
        for name, column in (("running", "log"), ("deleted", "log"), ("superseded", "episode_id")):
            self.con.execute(f"CREATE TABLE delta.{name} ({column} VARCHAR)")
        self.running: dict[str, bool] = {}
        self._logs: dict[str, IndexedLog] = {}
        self._tails = Tails(self.con, folder)
        self._delta_logs: set[str] = set()
        self._deleted: set[str] = set()
        self._superseded: set[str] = set()
        self._has_file = self._attach(stats)
        if sandbox is not None:
            # The index file is attached by now, and no other file is needed.
            close_off(self.con, sandbox)
        # Without a file the views have nothing else to show; with one, most corpora need no delta.
        self._has_delta = not self._has_file
        if self._has_delta:
            create_tables(self.con, "delta")
        self._create_views()
        self.refresh()

    def close(self) -> None:
        """Close the connection, and with it the index file and the logs that are written."""
        self._tails.close()
        for cursor in list(self._cursors):
            cursor.close()
        self.con.close()

    @property
    def logs(self) -> Collection[str]:
        """The logs that the tables have, by path relative to the corpus."""
        return self._logs.keys()

    def rows(self, query: str, params: Params = None) -> list[tuple[Value, ...]]:
        """Return the rows of a query of ours."""
        return self._new_cursor().execute(query, params).fetchall()

    def sql(self, query: str, params: Params) -> duckdb.DuckDBPyRelation:
        """Return the user's own query; see `run_own`."""
        return run_own(self._new_cursor(), query, params)

    def sql_closed(self, query: str, params: Params, sandbox: Sandbox) -> duckdb.DuckDBPyRelation:
        """Return the rows of somebody else's query; see `run_closed`."""
        return run_closed(self._new_cursor(), query, params, sandbox)

    def _new_cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a connection for one query: open results do not disturb each other."""
        cursor = self.con.cursor()
        # An open relation would hold the index file beyond `close`.
        self._cursors.add(cursor)
        return cursor

    def refresh(self) -> set[str]:
        """Read new logs and new frames; return the logs whose earlier rows hold no more."""
        stats = find_corpus_logs(self._folder)
        stale: set[str] = set()
        if not is_current(self._folder, stats, self._logs):
            if not self._has_delta:
                create_tables(self.con, "delta")
                self._has_delta = True
            # Rows of episodes that go on are continued: without the rows that come from frames now.
            self._tails.clear()
            builder = Builder(
                self.con, "delta", self._folder, source="main", progress=self._progress
            )
            update = builder.update(stats, self._logs)
            if update is not None:
                stale = update.logs
                self._apply(stale, update.episodes)
        self._note_running()
        if self._tails.refresh(self._logs):
            self._create_views()
        return stale

    def reader(self, log: str) -> LogReader | None:
        """Return the reader of a log of which a part is in its journal alone, else None.

        The tables have the rows that this reader has.
        """
        return self._tails.readers.get(log)

    def _apply(self, stale: set[str], superseded: set[str]) -> None:
        """Show the rows of an update."""
        for log in stale:
            self._logs.pop(log, None)
        delta = read_indexed_logs(self.con, "delta")
        self._logs.update(delta)
        self._delta_logs = set(delta)
        self._deleted |= stale
        self._superseded |= superseded
        self._fill("deleted", self._deleted)
        self._fill("superseded", self._superseded)
        self._create_views()

    def _attach(self, stats: Mapping[str, LogFile]) -> bool:
        """Attach the index file, brought up to date; return whether that was possible."""
        file = self._folder / INDEX_NAME
        # The file is opened for writing only if something is new: a connection that can write takes
        # longer than all the rest of opening a corpus.
        if attach_index(self.con, file, wait_s=0.0):
            self._logs = read_indexed_logs(self.con, "stored")
            if is_current(self._folder, stats, self._logs):
                return True
            detach_index(self.con)
            self._logs = {}
        update_index(self._folder, progress=self._progress)
        if not attach_index(self.con, file, wait_s=LOCK_WAIT_S):
            return False
        self._logs = read_indexed_logs(self.con, "stored")
        return True

    def _note_running(self) -> None:
        """Note which unsealed logs are being written: it decides the ending of open episodes."""
        running = {
            log: bool(is_being_written(self._folder / log))
            for log, indexed in self._logs.items()
            if not indexed.is_sealed and indexed.log_id is not None
        }
        if running != self.running:
            self.running = running
            self._fill("running", {log for log, is_running in running.items() if is_running})

    def _fill(self, table: str, values: set[str]) -> None:
        """Make a table of one column hold some values."""
        self.con.execute(f"DELETE FROM delta.{table}")
        if values:
            rows = [(value,) for value in sorted(values)]
            self.con.executemany(f"INSERT INTO delta.{table} VALUES (?)", rows)

    def _create_views(self) -> None:
        """Create the views over the stored tables and those in memory."""
        for table in TABLES:
            select = f"SELECT * FROM delta.{table.name}"
            if self._has_file:
                stored = f"SELECT * FROM stored.{table.name} WHERE {self._condition(table)}"
                if table in (ALL_EPISODES, LOGS) and self._delta_logs:
                    key = ", ".join(table.key)
                    stored = (
                        f"SELECT s.* FROM ({stored}) s ANTI JOIN delta.{table.name} USING ({key})"
                    )
                select = f"{stored} UNION ALL {select}" if self._delta_logs else stored
            if not self._tails.is_empty:
                select = _with_tail(table, select)
            if table is ALL_EPISODES:
                select = _with_ending(select)
            elif table in (CHECKS, *ANNOTATIONS) and self._lacks_kinds(select):
                select = _with_kind(select)
            self.con.execute(f"CREATE OR REPLACE VIEW main.{table.name} AS {select}")
        for view in VIEWS:
            self.con.execute(f"CREATE OR REPLACE VIEW main.{view.name} AS {view.query}")

    def _lacks_kinds(self, rows: str) -> bool:
        """Return whether any row is in another log than its episode, and does not know its kind."""
        # A query costs 1 ms once; the join that it may save costs several in each query of checks.
        row = self.con.execute(f"SELECT 1 FROM ({rows}) WHERE kind IS NULL LIMIT 1").fetchone()
        return row is not None

    def _condition(self, table: Table) -> str:
        """Return the condition that a stored row still holds."""
        has_log = table is CHECKS or table in ANNOTATIONS or table not in OF_EPISODES
        conditions = []
        if self._deleted and has_log:
            conditions.append("log NOT IN (FROM delta.deleted)")
        elif self._deleted:
            conditions.append(
                "episode_id NOT IN (SELECT episode_id FROM stored.all_episodes "
                "WHERE kind <> 'copy' AND log IN (FROM delta.deleted))"
            )
        if self._superseded and table in OF_EPISODES and table not in ANNOTATIONS:
            is_latest = "episode_id NOT IN (FROM delta.superseded)"
            conditions.append(
                f"({is_latest} OR phase = 'post-hoc')" if table is CHECKS else is_latest
            )
        return " AND ".join(conditions) or "true"


def find_corpus_logs(folder: Path) -> dict[str, LogFile]:
    """Return the logs of a corpus, by path relative to it.

    Raises:
        CorpusError: The folder cannot be read.
    """
    try:
        return find_logs(folder)
    except OSError as exc:
        name = exc.filename or folder
        raise CorpusError(f"{name}: cannot be read ({exc.strerror}); check permissions") from exc


def _with_tail(table: Table, rows: str) -> str:
    """Return a query of rows that adds those of journals, and leaves out those they replace."""
    tail = f"SELECT * FROM tail.{table.name}"
    if table is ALL_EPISODES:
        key = ", ".join(table.key)
        rows = f"SELECT s.* FROM ({rows}) s ANTI JOIN tail.{table.name} USING ({key})"
    elif table in OF_EPISODES and table not in ANNOTATIONS:
        is_latest = "episode_id NOT IN (FROM tail.superseded)"
        if table is CHECKS:
            is_latest = f"({is_latest} OR phase = 'post-hoc')"
        rows = f"SELECT * FROM ({rows}) WHERE {is_latest}"
    return f"{rows} UNION ALL {tail}"


def _with_ending(episodes: str) -> str:
    """Return a query of episodes that gives those without an end an ending."""
    ending = "CASE WHEN log IN (FROM delta.running) THEN 'running' ELSE 'interrupted' END"
    return f"SELECT * REPLACE (coalesce(ending, {ending}) AS ending) FROM ({episodes})"


def _with_kind(rows: str) -> str:
    """Return a query of rows that gives those from other logs the kind of their episode."""
    return (
        f"SELECT r.* REPLACE (coalesce(r.kind, e.kind) AS kind) FROM ({rows}) r "
        "LEFT JOIN (SELECT episode_id, kind FROM main.all_episodes WHERE kind <> 'copy') e "
        "USING (episode_id)"
    )
