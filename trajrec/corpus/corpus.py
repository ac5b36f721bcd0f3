"""A corpus: a folder of logs, asked in SQL, never stale.

The index file is brought up to date in one short transaction and then only read. Where that cannot be (another process holds
it, the folder is read-only), what the index lacks is read from the logs into this process's memory and the views show both: an
answer never depends on winning a lock.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from trajrec.corpus.episode import Episode
from trajrec.corpus.index.build import (
    Builder,
    IndexedLog,
    create_tables,
    find_logs,
    is_current,
    is_replaced,
    read_known,
)
from trajrec.corpus.index.tables import (
    APPENDED,
    CHECKS,
    EPISODES,
    INDEX_VERSION,
    OF_EPISODES,
    TABLES,
    VIEWS,
    Table,
)
from trajrec.errors import CorpusError, QueryError
from trajrec.log.locks import is_being_written
from trajrec.log.reader import LogReader

INDEX_NAME = "index.duckdb"
LOCK_WAIT_S = 1.0
"""How long to wait for another process to finish its update of the index before doing without."""

Progress = Callable[[int, int], None]


def open(path: str | Path, *, progress: Progress | None = None) -> Corpus:
    """Open a folder of logs.

    Args:
        path: The folder; logs lie in it at any depth.
        progress: Called with (bytes read, bytes to read) while the index is brought up to date.

    Raises:
        CorpusError: There is no such folder, or there are no logs in it.

    >>> corpus = trajrec.open("runs/")
    >>> corpus.sql("SELECT count(*) FROM episodes").fetchone()
    (3,)
    """
    return Corpus(path, progress=progress)


class Problem(NamedTuple):
    """Something of a log that cannot be read; `is_tail` where only its writer's last write is incomplete."""

    log: str
    what: str
    is_tail: bool


class Corpus:
    """A folder of logs. A context manager; an open corpus holds the index file for reading.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: str | Path, *, progress: Progress | None = None) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise CorpusError(f"{self.path}: no such folder; record into it first")
        if not self.path.is_dir():
            raise CorpusError(f"{self.path}: not a folder; give the folder that the log lies in")
        found = self._find()
        if not found:
            raise CorpusError(f"{self.path}: no logs (*.trj) in this folder; record into it first")
        self._progress = progress
        self._readers: dict[str, LogReader] = {}
        self._con = duckdb.connect(":memory:")
        self._con.execute("SET TimeZone = 'UTC'; CREATE SCHEMA fresh")
        self._known: dict[str, IndexedLog] = {}
        self._has_file = self._attach_file(found)
        self._has_fresh = not self._has_file
        if self._has_fresh:
            create_tables(self._con, "fresh")
        self._dropped: set[str] = set()
        self._fresh_logs: set[str] = set()
        self._replaced: set[str] = set()
        self._views()
        self.refresh()

    def __enter__(self) -> Corpus:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Corpus {self.path}>"

    def close(self) -> None:
        """Let go of the index and of the logs. Twice is harmless."""
        self._con.close()
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def sql(self, query: str, *, params: Sequence[Any] | None = None) -> duckdb.DuckDBPyRelation:
        """Ask SQL of the tables: `episodes`, `steps`, `failures`, ... (`trajrec schema` describes them).

        Args:
            query: A DuckDB query.
            params: Values for its `?` or `$name` placeholders.

        Returns:
            A DuckDB relation: iterate it, or `.fetchall()`, `.df()`, `.arrow()`, `.pl()`.

        Raises:
            QueryError: The query is wrong.
        """
        self.refresh()
        try:
            relation = (
                self._con.sql(query, params=params) if params is not None else self._con.sql(query)
            )
        except duckdb.Error as exc:
            raise QueryError(_first_lines(exc)) from exc
        if relation is None:
            raise QueryError("the query returns no rows: give a SELECT")
        return relation

    def episode(self, episode_id: str) -> Episode:
        """Return an episode by its id or any unique prefix of it.

        Raises:
            CorpusError: No episode, or more than one, begins so.
        """
        self.refresh()
        found = self._con.execute(
            "SELECT episode_id, log, number, first_frame, last_frame FROM episodes WHERE starts_with(episode_id, ?) LIMIT 6",
            [episode_id],
        ).fetchall()
        if not found or not episode_id:
            raise CorpusError(
                f"{self.path}: no episode {episode_id!r}; `trajrec ls {self.path}` lists them"
            )
        if len(found) > 1:
            names = ", ".join(row[0] for row in found[:5])
            raise CorpusError(
                f"{self.path}: several episodes begin with {episode_id!r}: {names}; give more digits"
            )
        _, log, number, first_frame, last_frame = found[0]
        return self._load(self._reader(log, last_frame), number, first_frame, last_frame)

    def episodes(self, where: str = "true", *, order_by: str = "log, number") -> Iterator[Episode]:
        """Yield the episodes that a SQL condition on the table `episodes` holds for, log by log.

        Raises:
            QueryError: The condition is wrong.
        """
        query = f"SELECT log, number, first_frame, last_frame FROM episodes WHERE {where} ORDER BY {order_by}"
        for log, rows in itertools.groupby(self.sql(query).fetchall(), itemgetter(0)):
            places = [row[1:] for row in rows]
            reader = self._reader(log, max(last for _, _, last in places))
            for place in places:
                yield self._load(reader, *place)

    def refresh(self) -> None:
        """Read what was recorded since; `sql`, `episode` and `episodes` do so themselves."""
        found = self._find()
        if not self._has_fresh and not is_current(found, self._known):
            create_tables(self._con, "fresh")
            self._has_fresh = True
        gone = {log for log in self._known if log not in found}
        builder = Builder(self._con, "fresh", self.path, source="main", progress=self._progress)
        shrunk = {
            log
            for log, known in self._known.items()
            if log in found and is_replaced(found[log], known)
        }
        if gone or shrunk:
            builder.drop((gone | shrunk) & self._fresh_logs)
            self._dropped |= gone | shrunk
            for log in gone | shrunk:
                del self._known[log]
                self._readers.pop(log, None)
        if builder.update(found, self._known) or gone or shrunk:
            fresh = read_known(self._con, "fresh")
            self._fresh_logs = set(fresh)
            self._replaced |= builder.replaced
            self._known.update(fresh)
            self._views()
        self._note_running()

    def problems(self) -> list[Problem]:
        """Return what cannot be read: damaged places, unreadable files, and the torn ends that killed writers left."""
        self.refresh()
        rows = self._con.execute(
            "SELECT log, problem, damage FROM logs WHERE problem IS NOT NULL OR damage IS NOT NULL ORDER BY log"
        ).fetchall()
        found = []
        for log, problem, damage in rows:
            if problem is not None:
                found.append(
                    Problem(log, problem.removeprefix(str(self.path / log)).lstrip(" :"), False)
                )
                continue
            for offset, size, what, is_tail in json.loads(damage):
                if not (is_tail and self._running.get(log)):
                    found.append(Problem(log, f"byte {offset}, {size} bytes: {what}", is_tail))
        return found

    def _load(self, reader: LogReader, number: int, first_frame: int, last_frame: int) -> Episode:
        episode = Episode(reader, number, range(first_frame, last_frame + 1))
        episode.find_parent = self.episode
        return episode

    def _reader(self, log: str, last_frame: int) -> LogReader:
        """Return the reader of a log as the file is now."""
        reader, path = self._readers.get(log), self.path / log
        if reader is None or len(reader.frames) <= last_frame or reader.size != path.stat().st_size:
            reader = self._readers[log] = LogReader(path)
            if len(self._readers) > 64:
                self._readers.pop(next(iter(self._readers)))
        return reader

    def _attach_file(self, found: dict[str, Any]) -> bool:
        """Attach the index file, brought up to date where it is not; say whether it could be. To write it takes a connection
        of its own, which takes longer than all else where there is nothing new."""
        file = self.path / INDEX_NAME
        if _attach(self._con, file, wait_s=0.0):
            self._known = read_known(self._con, "stored")
            if is_current(found, self._known):
                return True
            self._con.execute("DROP SCHEMA stored CASCADE; DETACH stored_file")
            self._known = {}
        _update_file(self.path, self._progress)
        if not _attach(self._con, file, wait_s=LOCK_WAIT_S):
            return False
        self._known = read_known(self._con, "stored")
        return True

    def _find(self) -> dict[str, Any]:
        try:
            return find_logs(self.path)
        except OSError as exc:
            raise CorpusError(
                f"{exc.filename or self.path}: cannot be read: {exc.strerror}"
            ) from exc

    def _note_running(self) -> None:
        """Say which unsealed logs have a living writer: what an episode without an end is depends on it."""
        self._running = {
            log: bool(is_being_written(self.path / log))
            for log, known in self._known.items()
            if not known.is_sealed
        }
        self._con.execute("CREATE OR REPLACE TABLE fresh.running (log VARCHAR)")
        running = [(log,) for log, alive in self._running.items() if alive]
        if running:
            self._con.executemany("INSERT INTO fresh.running VALUES (?)", running)

    def _views(self) -> None:
        """Lay the views over what is stored and what is fresh."""
        self._con.execute("CREATE TABLE IF NOT EXISTS fresh.running (log VARCHAR)")
        self._con.execute("CREATE OR REPLACE TABLE fresh.dropped (log VARCHAR)")
        if self._dropped:
            self._con.executemany(
                "INSERT INTO fresh.dropped VALUES (?)", [(log,) for log in sorted(self._dropped)]
            )
        self._con.execute("CREATE OR REPLACE TABLE fresh.replaced (episode_id VARCHAR)")
        if self._replaced:
            self._con.executemany(
                "INSERT INTO fresh.replaced VALUES (?)",
                [(name,) for name in sorted(self._replaced)],
            )
        for table in TABLES:
            select = f"SELECT * FROM fresh.{table.name}"
            if self._has_file:
                stored = f"SELECT * FROM stored.{table.name} WHERE {self._is_kept(table)}"
                if table.name in ("episodes", "logs") and self._fresh_logs:
                    stored = f"SELECT s.* FROM ({stored}) s ANTI JOIN fresh.{table.name} f USING ({table.key[0]})"
                select = f"{stored} UNION ALL {select}" if self._fresh_logs else stored
            if table is EPISODES:
                open_ = (
                    "CASE WHEN log IN (FROM fresh.running) THEN 'running' ELSE 'interrupted' END"
                )
                select = f"SELECT * REPLACE (coalesce(ending, {open_}) AS ending) FROM ({select})"
            self._con.execute(f"CREATE OR REPLACE VIEW main.{table.name} AS {select}")
        for view in VIEWS:
            self._con.execute(f"CREATE OR REPLACE VIEW main.{view.name} AS {view.query}")

    def _is_kept(self, table: Table) -> str:
        """Return the condition that what is stored still holds: its log is there, its episode was not read again since."""
        kept = []
        if self._dropped and table in OF_EPISODES and table not in (CHECKS, *APPENDED):
            kept.append(
                "episode_id NOT IN (SELECT episode_id FROM stored.episodes WHERE log IN (FROM fresh.dropped))"
            )
        elif self._dropped:
            kept.append("log NOT IN (FROM fresh.dropped)")
        if self._replaced and table in OF_EPISODES and table not in APPENDED:
            again = "episode_id NOT IN (FROM fresh.replaced)"
            kept.append(f"({again} OR phase = 'post-hoc')" if table is CHECKS else again)
        return " AND ".join(kept) or "true"


def update_index(
    path: str | Path, *, rebuild: bool = False, progress: Progress | None = None
) -> bool:
    """Bring the index file of a folder up to date, from nothing with `rebuild`; say whether it could be written."""
    folder = Path(path)
    if rebuild:
        for name in (INDEX_NAME, INDEX_NAME + ".wal"):
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()
    return _update_file(folder, progress)


def _update_file(folder: Path, progress: Progress | None) -> bool:
    """Bring the index file up to date; say whether it is now, False where it cannot be written."""
    file = folder / INDEX_NAME
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        is_new = not file.exists()
        try:
            con = duckdb.connect(str(file))
        except duckdb.Error as exc:
            if _is_busy(exc):
                return False
            if not file.exists() or not _is_unusable(exc) or time.monotonic() > deadline:
                return False
            # An index of another version of DuckDB, or not a database at all: it only ever held what the logs hold.
            for name in (INDEX_NAME, INDEX_NAME + ".wal"):
                with contextlib.suppress(OSError):
                    (folder / name).unlink()
            continue
        break
    try:
        # DuckDB takes 10 ms to say that there is no such table.
        is_other_version = not is_new and _version(con) != INDEX_VERSION
        con.execute("SET TimeZone = 'UTC'; BEGIN")
        if is_other_version:
            for table in TABLES:
                con.execute(f"DROP TABLE IF EXISTS {table.name}")
            con.execute("DROP TABLE IF EXISTS index_version")
        create_tables(con, "main")
        known = read_known(con, "main")
        found = find_logs(folder)
        builder = Builder(con, "main", folder, progress=progress)
        other = [log for log, k in known.items() if log not in found or is_replaced(found[log], k)]
        builder.drop(other)
        changed = builder.update(found, {log: k for log, k in known.items() if log not in other})
        con.execute("COMMIT" if changed or other or not known else "ROLLBACK")
        return True
    except (duckdb.IOException, duckdb.FatalException, duckdb.OutOfMemoryException):
        return False  # a full disk, say: the index is a convenience, and the logs answer without it
    finally:
        con.close()


def _version(con: duckdb.DuckDBPyConnection) -> int | None:
    try:
        found = con.execute("SELECT version FROM index_version").fetchone()
    except duckdb.CatalogException:
        return None
    return None if found is None else int(found[0])


def _attach(con: duckdb.DuckDBPyConnection, file: Path, wait_s: float) -> bool:
    """Attach the index for reading; say whether it could be, waiting for a writer to finish."""
    deadline = time.monotonic() + wait_s
    while file.exists():
        try:
            con.execute(
                f"ATTACH '{str(file).replace(chr(39), chr(39) * 2)}' AS stored_file (READ_ONLY)"
            )
            if con.execute("SELECT version FROM stored_file.index_version").fetchone() != (
                INDEX_VERSION,
            ):
                con.execute("DETACH stored_file")
                return False
            con.execute("CREATE SCHEMA stored")
            for table in TABLES:
                con.execute(f"CREATE VIEW stored.{table.name} AS FROM stored_file.{table.name}")
            return True
        except duckdb.Error as exc:
            if not _is_busy(exc) or time.monotonic() > deadline:
                return False
            time.sleep(0.02)
    return False


def _is_busy(exc: duckdb.Error) -> bool:
    text = str(exc)
    return (
        "Could not set lock" in text
        or "handle conflict" in text
        or "different configuration" in text
    )


def _is_unusable(exc: duckdb.Error) -> bool:
    text = str(exc)
    return any(
        part in text
        for part in (
            "not a valid DuckDB",
            "version",
            "serializ",
            "Serializ",
            "checksum",
            "Corrupt",
            "corrupt",
            "WAL",
        )
    )


def _first_lines(exc: duckdb.Error) -> str:
    """Return DuckDB's message without the picture of the query: what is wrong, and the nearest names."""
    lines = [line for line in str(exc).splitlines() if line.strip()]
    kept = [line for line in lines if not re.match(r"\s*(LINE \d+:|\^)", line)]
    return "; ".join(line.strip() for line in kept[:3])
