"""An index that is never stale: the tables of the index file, and in memory the logs it lacks."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import duckdb

from trajrec.corpus.bounded_queries import has_bounded_values
from trajrec.corpus.index.build import Builder, create_tables, in_transaction
from trajrec.corpus.index.catalog import Catalog
from trajrec.corpus.index.catalog_tables import CATALOG
from trajrec.corpus.index.content_reader import Progress
from trajrec.corpus.index.credit_tables import ANNOTATIONS
from trajrec.corpus.index.file import (
    INDEX_NAME,
    LOCK_WAIT_S,
    attach_index,
    detach_index,
    update_index,
)
from trajrec.corpus.index.guard import Guard
from trajrec.corpus.index.ids import IDS_NAME, IdFile
from trajrec.corpus.index.layers import Layers
from trajrec.corpus.index.scan import FolderState, Scan, ScanMode, scan_folder
from trajrec.corpus.index.tables import ALL_EPISODES, CHECKS, EPISODE_TABLES, LOGS, TABLES
from trajrec.corpus.index.tails import Tails
from trajrec.corpus.index.view_maker import SUPERSEDING, ViewMaker
from trajrec.corpus.index.views import VIEWS
from trajrec.corpus.query_process import QueryProcess
from trajrec.corpus.sandbox import (
    Params,
    Sandbox,
    begin_reading,
    check_closed,
    close_off,
    run_closed,
    run_own,
)
from trajrec.errors import CorpusError
from trajrec.log.folder import INDEX_FOLDER, is_inside
from trajrec.log.locks import is_being_written
from trajrec.log.reader import LogReader
from trajrec.types import Value
from trajrec.values.database import connect

# If as many files had to be listed to see that nothing is new, the folders are stored again, so
# that the next opening need not list them.
_MANY_FILES = 500


class Place(NamedTuple):
    """The contents of a file, as the tables have them.

    Attributes:
        seal: Their seal or its first digits, None if the log is not sealed.
        n_frames: The frames that were read.
    """

    seal: str | None
    n_frames: int


class EpisodeRow(NamedTuple):
    """An episode, and the frames of its log that hold a part of it."""

    episode_id: str
    log: str
    number: int
    first_frame: int
    last_frame: int


class EpisodePlace(NamedTuple):
    """An episode, and the contents of its log."""

    row: EpisodeRow
    place: Place


class Revision(NamedTuple):
    """How far a corpus has been read.

    Attributes:
        number: Grows whenever the rows of a table change, and when rows are read again because they
            went from a journal to their log; it counts for one open corpus alone.
        n_recording: Logs that a living process writes.
    """

    number: int
    n_recording: int


class LiveIndex:
    """The tables of a corpus in DuckDB, brought up to date by `refresh`.

    The index file is updated in one short transaction and then only read. If it cannot be (another
    process holds it, or the folder is read-only), the logs that it lacks are read into this
    process. So an answer never depends on winning a lock. `Layers` has the views over both.

    The schema "delta" also has the contents and episodes whose stored rows hold no more ("dropped"
    and "superseded"), and the contents of logs that are being written ("running").

    Args:
        folder: The corpus.
        scan: The folders that are listed at each refresh.
        progress: Called with (bytes read, bytes to read) while logs are read.
        sandbox: Closes the instance of DuckDB off, with these limits.
        cost: SQL for the cost of a model call whose answer gives none.

    Attributes:
        con: The connection that brings the tables up to date. Each query has one of its own.
        lock: To be held by whoever refreshes the tables or prepares a query.
        running: Unsealed logs, and whether a process writes them.
        revision: Number that grows whenever the rows of any table change.

    Raises:
        CorpusError: The folder cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        scan: ScanMode = "changed",
        progress: Progress | None,
        sandbox: Sandbox | None = None,
        cost: str = "NULL",
    ) -> None:
        self._folder = folder
        self._mode = scan
        self._progress = progress
        self.con = connect()
        # For queries that DuckDB cannot stop; started by the first of them.
        self._process: QueryProcess | None = None
        self._cursors: weakref.WeakSet[duckdb.DuckDBPyConnection] = weakref.WeakSet()
        # Global settings hold for the connections of queries too. A query finds the data frames of
        # its caller, who is some frames above.
        self.con.execute(
            "SET GLOBAL TimeZone = 'UTC'; SET GLOBAL python_scan_all_frames = true; "
            "CREATE SCHEMA delta; CREATE SCHEMA rows; CREATE TABLE delta.running (log_key INTEGER);"
            "CREATE TABLE delta.dropped (log_key INTEGER);"
            "CREATE TABLE delta.superseded (episode_id VARCHAR)"
        )
        self.lock = threading.RLock()
        self.running: dict[str, bool] = {}
        self.revision = 0
        self._has_views = False
        # The tables whose views ask no other table for the kind of an episode: each row has it.
        self._with_kinds: list[str] = []
        self._folders: dict[str, FolderState] = {}
        self._guard = Guard(self.con)
        self._views = ViewMaker(self.con, self._guard)
        self._tails = Tails(self.con, folder)
        self._catalog = Catalog(self.con, "stored", "stored.contents")
        self._layers = Layers(has_file=self._attach(), has_delta=False, cost=cost)
        self._ids = IdFile(folder / INDEX_FOLDER / IDS_NAME)
        if sandbox is not None:
            # The index file is attached by now, and no other file is needed.
            close_off(self.con, sandbox)
        else:
            # A statement of a relation could change the order or the time zone of later queries.
            self.con.execute("SET lock_configuration = true")
        # Without a file the views have nothing else to show; with one, most corpora need no delta.
        if not self._layers.has_file:
            self._create_delta()
        self.refresh()

    def close(self) -> None:
        """Close the connection, and with it the index file and the logs that are written."""
        self._tails.close()
        if self._process is not None:
            self._process.close()
        self._guard.close()
        for cursor in list(self._cursors):
            cursor.close()
        self.con.close()

    def places(self, logs: Iterable[str]) -> dict[str, Place]:
        """Return the contents of some logs, by path relative to the corpus, as far as known."""
        rows = self.rows(
            f"SELECT f.log, c.seal, c.n_frames FROM {self._layers.files} f "
            f"JOIN {self._layers.source('contents')} c ON c.log_key = f.log_key "
            "WHERE f.log IN (SELECT unnest(?))",
            [[log for log in logs if is_inside(log)]],
        )
        return {row[0]: Place(*row[1:]) for row in rows}

    def find(self, episode_id: str) -> EpisodePlace | None:
        """Return the place of an episode, None if only a query of all episodes can find it.

        The place may be older than the tables: the reader of the log shows whether it holds.
        """
        found = self._ids.find(episode_id)
        if found is None:
            return None
        row = EpisodeRow(episode_id, found.log, found.number, found.first_frame, found.last_frame)
        return EpisodePlace(row, Place(found.seal, found.last_frame + 1))

    def rows(self, query: str, params: Params = None) -> list[tuple[Value, ...]]:
        """Return the rows of a query of ours."""
        with self.lock:
            self._views.make_named(query)
        return self._begin().execute(query, params).fetchall()

    def prepare(self, query: str | None) -> None:
        """Get ready for a query.

        Args:
            query: Somebody else's; None for one of the user. Its relation may run other statements,
                which can change nothing until the next `refresh` with news.
        """
        if query is not None:
            self._views.make_named(query)
            return
        self._views.make_all()
        tables = list(SUPERSEDING)
        if self._layers.has_delta:
            tables += [*(table.name for table in EPISODE_TABLES), *CATALOG]
        self._guard.hold(views=self._views.made, tables=[f"delta.{name}" for name in tables])
        self._tails.protect()

    def sql(self, query: str, params: Params) -> duckdb.DuckDBPyRelation:
        """Return the user's own query; see `run_own`."""
        return run_own(self._begin(), query, params)

    def sql_closed(self, query: str, params: Params, sandbox: Sandbox) -> duckdb.DuckDBPyRelation:
        """Return the rows of somebody else's query, which ends at its limits."""
        cursor = self._begin()
        check_closed(cursor, query)
        if has_bounded_values(cursor, query):
            return run_closed(cursor, query, params, sandbox)
        if self._process is None:
            self._process = QueryProcess(
                self._folder, scan=self._mode, sandbox=sandbox, cost=self._layers.cost
            )
        return self._process.sql(query, params)

    def sql_here(self, query: str, params: Params, sandbox: Sandbox) -> duckdb.DuckDBPyRelation:
        """Run somebody else's query in this process; see `run_closed`."""
        return run_closed(self._begin(), query, params, sandbox)

    def _begin(self) -> duckdb.DuckDBPyConnection:
        """Return a connection for one query, which sees the tables as they are now."""
        with self.lock:
            cursor = begin_reading(self.con, "delta.running")
        # An open relation would hold the index file beyond `close`.
        self._cursors.add(cursor)
        return cursor

    def refresh(self, *, again: bool = False) -> None:
        """Read new logs and new frames.

        Args:
            again: Whether to list all folders, since a file is not what the tables say.
        """
        self._guard.check("stored" if self._layers.has_file else None)
        mode: ScanMode = "full" if again else self._mode
        scan = self._scan(mode)
        if scan.has_news:
            # Until they are made anew, which Ctrl-C may leave to the next call.
            self._has_views = False
            self._update(scan, is_full=mode == "full")
        self._folders = scan.folders
        self._note_running()
        source = "rows" if self._layers.has_delta else "stored"
        n_reads = self._tails.n_reads
        self._tails.refresh(self._catalog.open_logs(), source)
        if self._tails.n_reads != n_reads and self._tails.lacks_kinds(self._with_kinds):
            self._has_views = False
        has_tail = not self._tails.is_empty
        # Once, since they take longer than all the rest: at the first time, and as rows are added.
        if has_tail != self._layers.has_tail or not self._has_views:
            self._has_views = False
            self._layers.has_tail = has_tail
            self._create_views()
        self.revision += self._tails.n_reads - n_reads

    def reader(self, log: str) -> LogReader | None:
        """Return the reader of a log of which a part is in its journal alone, else None.

        The tables have the rows that this reader has.
        """
        return self._tails.readers.get(log)

    @property
    def tail_readers(self) -> Mapping[str, LogReader]:
        """The readers of all such logs."""
        return self._tails.readers

    def _scan(self, mode: ScanMode) -> Scan:
        try:
            return scan_folder(self._folder, self._folders, self._catalog, mode=mode)
        except OSError as exc:
            name = exc.filename or self._folder
            raise CorpusError(
                f"{name}: cannot be read ({exc.strerror}); check permissions"
            ) from exc

    def _update(self, scan: Scan, *, is_full: bool) -> None:
        """Read what differs into memory."""
        self.revision += 1
        self._guard.release()
        if not self._layers.has_delta:
            self._create_delta()
        # Rows of episodes that go on are continued: without the rows that come from frames now.
        self._tails.clear()
        with in_transaction(self.con):
            builder = Builder(
                self.con, "delta", self._folder, source="rows", progress=self._progress
            )
            builder.update(scan, self._catalog, is_full=is_full)
            for table, values in (
                ("dropped", builder.stale_keys),
                ("superseded", builder.stale_episodes),
            ):
                self.con.execute(
                    f"INSERT INTO delta.{table} SELECT unnest(?) EXCEPT FROM delta.{table}",
                    [sorted(values)],
                )
        self._catalog.forget()

    def _create_delta(self) -> None:
        """Create the tables for what the file lacks; they begin with all files that it has."""
        with in_transaction(self.con):
            create_tables(self.con, "delta")
            if self._layers.has_file:
                self.con.execute(
                    "INSERT INTO delta.files FROM stored.files; UPDATE delta.index_state "
                    "SET next_key = (SELECT next_key FROM stored.index_state)"
                )
        self._layers.has_delta = True
        self._catalog = Catalog(self.con, "delta", "rows.contents")
        self._create_row_views()

    def _attach(self) -> bool:
        """Attach the index file, brought up to date; return whether that was possible."""
        file = self._folder / INDEX_NAME
        # The file is opened for writing only if something is new: a connection that can write takes
        # longer than all the rest of opening a corpus.
        if attach_index(self.con, file, wait_s=0.0):
            self._folders = self._catalog.folders()
            scan = self._scan(self._mode)
            if not scan.has_news and (scan.n_listed < _MANY_FILES or scan.folders == self._folders):
                return True
            detach_index(self.con)
            self._catalog.forget()
        update_index(self._folder, scan=self._mode, progress=self._progress)
        if not attach_index(self.con, file, wait_s=LOCK_WAIT_S):
            self._folders = {}
            return False
        self._folders = self._catalog.folders()
        return True

    def _note_running(self) -> None:
        """Note which unsealed logs are being written: it decides the ending of open episodes."""
        logs = self._catalog.open_logs()
        running = {log: bool(is_being_written(self._folder / log)) for log in logs}
        if running != self.running:
            self.revision += 1
            self._guard.release()
            self.con.execute("DELETE FROM delta.running")
            keys = [logs[log].log_key for log, is_running in running.items() if is_running]
            if keys:
                self.con.execute("INSERT INTO delta.running SELECT unnest(?)", [keys])
            self.running = running

    def _create_row_views(self) -> None:
        """Create the views of rows of several layers that hold."""
        self._views.make({"rows.contents": self._layers.contents()})
        self._views.make({f"rows.{t.name}": self._layers.rows(t) for t in EPISODE_TABLES})

    def _create_views(self) -> None:
        """Create the views over the stored tables and those in memory."""
        if not self._layers.has_one:
            self._create_row_views()
        queries = {}
        with_kinds: list[str] = []
        for table in TABLES:
            may_lack = table in (CHECKS, *ANNOTATIONS) and "kind" in table.names
            lacks_kinds = may_lack and self._lacks_kinds(table.name)
            if may_lack and not lacks_kinds:
                with_kinds.append(table.name)
            queries[table.name] = self._layers.public(table, lacks_kinds=lacks_kinds)
        queries |= {view.name: view.query for view in VIEWS}
        # Those that queries of ours read.
        self._views.set_public(queries, at_once={ALL_EPISODES.name, LOGS.name})
        self._with_kinds = with_kinds
        self._has_views = True

    def _lacks_kinds(self, table: str) -> bool:
        """Return whether any row is in another log than its episode, and does not know its kind."""
        # A query costs 1 ms once; the join that it may save costs several in each query of checks.
        query = f"SELECT 1 FROM {self._layers.source(table)} WHERE kind IS NULL LIMIT 1"
        return bool(self.con.execute(query).fetchall())
