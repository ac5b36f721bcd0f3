"""A corpus: a folder of logs that SQL can query, and that is never stale."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import duckdb

from trajrec.analysis.analyses import Analyses
from trajrec.conditions import bracketed, ordered
from trajrec.corpus.episode import Episode
from trajrec.corpus.goals import GoalReads
from trajrec.corpus.index.content_reader import Progress
from trajrec.corpus.index.live import EpisodeRow, LiveIndex, Place, Revision
from trajrec.corpus.index.scan import ScanMode
from trajrec.corpus.labels import Labelling
from trajrec.corpus.location import locate
from trajrec.corpus.log_copies import LogCopies
from trajrec.corpus.notebook import CorpusCard
from trajrec.corpus.prices import Prices, cost_sql
from trajrec.corpus.problems import Problem, list_problems
from trajrec.corpus.refs import pickle_by_reference
from trajrec.corpus.sandbox import Sandbox
from trajrec.corpus.training import AnyKind, TrainingReads, kind_condition
from trajrec.errors import CorpusError, LogError, QueryError
from trajrec.log.identity import identity_of
from trajrec.log.reader import LogReader
from trajrec.log.schema import episode_id as make_episode_id
from trajrec.paths import fixed_path
from trajrec.types import Value
from trajrec.values.per_process import PerProcess

# Here, since every program that has an episode has imported this module.
pickle_by_reference()

# Logs that stay open at once: a reader holds a file descriptor, and processes have few of those.
MAX_READERS = 64


def open(
    path: str | Path,
    *,
    scan: ScanMode = "changed",
    progress: Progress | None = None,
    sandbox: Sandbox | None = None,
    prices: Prices | None = None,
) -> Corpus:
    """Open a folder of logs.

    Args:
        path: The folder; logs may be in it at any depth. Or the address of one in an object
            storage that `trajrec push` uploaded, such as "s3://bucket/runs": it is read as it is
            when it is opened, by ranges, and what is recorded into it stays on this machine.
        scan: The folders that are listed at each query: with "changed" those whose time has
            changed, with "full" all of them. A sealed log that another program has overwritten in
            place is noticed with "full", and else only when it is read. The variable TRAJREC_SCAN
            gives another default, e.g. for a network file system that keeps no times.
        progress: Called with (bytes read, bytes to read) while the index is brought up to date.
        sandbox: Run all queries in a sandbox with these limits, because they are not your own:
            they read the tables and nothing else.
        prices: Prices of a million tokens, by patterns of model names, the first that fits:
            `{"gpt-5*": {"input": 1.25, "cached": 0.125, "output": 10}}`, also "cache_write". The
            column `cost` has the cost by them if the answer gives none and all counts are known.

    Returns:
        The corpus, a context manager.

    Raises:
        CorpusError: The folder does not exist, has no logs, or its storage cannot be read.
        MissingPackageError: A package for such addresses is not installed.
        TypeError, ValueError: The prices are no such dict.

    >>> corpus = trajrec.open("runs/")
    >>> corpus.sql("SELECT count(*) FROM episodes").fetchall()
    [(3,)]
    """
    return Corpus(locate(path), scan=scan, progress=progress, sandbox=sandbox, prices=prices)


class Corpus(GoalReads, LogCopies, Analyses, TrainingReads, Labelling, CorpusCard):
    """A folder of logs. A context manager; an open corpus holds the index file for reading.

    Several threads may use it, and so may forked processes: each of them opens the index anew.

    Attributes:
        path: The folder.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        scan: ScanMode = "changed",
        progress: Progress | None = None,
        sandbox: Sandbox | None = None,
        prices: Prices | None = None,
    ) -> None:
        self.path = fixed_path(path)
        if scan not in ("changed", "full"):
            raise ValueError(f"scan must be 'changed' or 'full', got {scan!r}")
        self._readers: dict[str, LogReader] = {}
        self._sandbox = sandbox
        # The same folder in a sandbox, for the conditions of `episodes`.
        self._closed_off: Corpus | None = None
        self._scan = scan = "full" if os.environ.get("TRAJREC_SCAN") == "full" else scan
        self._prices = prices
        cost = cost_sql({} if prices is None else prices)
        self._is_closed = False
        self._indexes = PerProcess(
            functools.partial(
                LiveIndex, self.path, scan=scan, progress=progress, sandbox=sandbox, cost=cost
            )
        )

    def __enter__(self) -> Corpus:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        # By reference: another process opens the folder itself.
        again = functools.partial(open, scan=self._scan, sandbox=self._sandbox, prices=self._prices)
        return again, (self.path.absolute(),)

    def __repr__(self) -> str:
        return f"<Corpus {self.path}>"

    def close(self) -> None:
        """Close the index and the logs. Twice is harmless."""
        if self._closed_off is not None:
            self._closed_off.close()
        if self._indexes.is_here:
            self._indexes.get().close()
        self._is_closed = True
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    @property
    def _index(self) -> LiveIndex:
        """The index of this process, which a forked one makes anew."""
        if self._is_closed:
            raise CorpusError("the corpus is closed; open it again with trajrec.open()")
        return self._indexes.get()

    @property
    def _lock(self) -> threading.RLock:
        # Threads share the index; each query has a connection of its own.
        return self._index.lock

    def sql(
        self,
        query: str,
        *,
        params: Sequence[Value] | Mapping[str, Value] | None = None,
        sandbox: bool = False,
    ) -> duckdb.DuckDBPyRelation:
        """Query the tables `episodes`, `steps`, `failures`, ... (`trajrec schema` describes them).

        Your own query may read data frames and files too. It changes no table.

        Args:
            query: A DuckDB query.
            params: Values for its `?` or `$name` placeholders.
            sandbox: Whether the query is somebody else's. It is run at once, reads the tables and
                nothing else, and ends after 60 s or with half of the memory (see `Sandbox`).

        Returns:
            A DuckDB relation: iterate it, or `.fetchall()`, `.df()`, `.arrow()`, `.pl()`.

        Raises:
            QueryError: DuckDB rejects the query, it is not one SELECT, or it reaches a limit.

        >>> corpus.sql("SELECT count(*) FROM episodes WHERE env_id = ?", params=["Shop"]).fetchall()
        [(0,)]
        """
        if sandbox and self._sandbox is None:
            return self._in_sandbox().sql(query, params=params)
        with self._lock:
            # Before each query, so that an answer has all episodes that were recorded before it.
            self.refresh()
            self._index.prepare(None if self._sandbox is None else query)
        if self._sandbox is None:
            return self._index.sql(query, params)
        return self._index.sql_closed(query, params, self._sandbox)

    def episode(self, episode_id: str) -> Episode:
        """Return an episode of any kind by its id, or by the first digits of its id.

        Raises:
            CorpusError: No episode, or more than one, has an id that begins so.
        """
        with self._lock:
            found = self._index.find(episode_id)
            reader = None if found is None else self._reader(found.row, found.place)
            if found is not None and reader is not None:
                return self._episode(found.row, reader)
        self.refresh()
        # A copy has the same episodes as its original. Six rows show that an id is ambiguous, and
        # name five candidates.
        rows = self._index.rows(
            f"SELECT {_PLACE} FROM all_episodes "
            "WHERE kind <> 'copy' AND starts_with(episode_id, ?) LIMIT 6",
            [episode_id],
        )
        if not rows:
            # It may be in a copy alone, which goes on for longer than a whole original.
            rows = self._index.rows(
                f"SELECT DISTINCT ON (episode_id) {_PLACE} FROM all_episodes "
                "WHERE starts_with(episode_id, ?) LIMIT 6",
                [episode_id],
            )
        if not rows or not episode_id:
            raise CorpusError(
                f"{self.path}: no episode {episode_id!r}; `trajrec ls {self.path}` lists them"
            )
        if len(rows) > 1:
            names = ", ".join(row[0] for row in rows[:5])
            raise CorpusError(
                f"{self.path}: several episodes begin with {episode_id!r}: {names}; "
                "give more digits"
            )
        row = EpisodeRow(*rows[0])
        return self._load(row, self._index.places([row.log]))

    def episodes(
        self, where: str = "true", *, kind: AnyKind = "rollout", order_by: str = "log, number"
    ) -> Iterator[Episode]:
        """Yield episodes, log by log.

        Args:
            where: A SQL condition on the columns of `all_episodes`.
            kind: "rollout" (the table `episodes`), "fork", "nested", "copy", or "all".
            order_by: SQL for their order.

        Raises:
            QueryError: DuckDB rejects the condition.
            ValueError: The kind is unknown.
        """
        query = (
            f"SELECT {_PLACE} FROM all_episodes "
            f"WHERE {kind_condition(kind)} AND {bracketed(where)} ORDER BY {ordered(order_by)}"
        )
        is_ours = (where, order_by) == ("true", "log, number")
        rows = [EpisodeRow(*row) for row in self._query(query, is_ours=is_ours)]
        places = self._places({row.log for row in rows})
        for row in rows:
            if row.log not in places:
                raise QueryError(f"the condition selects {row.log!r}, no log of this corpus")
            yield self._load(row, places)

    def _query(self, query: str, *, is_ours: bool) -> list[tuple[Value, ...]]:
        # A condition may come from somebody else, with an experiment or a page. The sandbox has an
        # index of its own, which may have seen later logs than this one: refresh after it.
        rows = [] if is_ours else self.sql(query, sandbox=True).fetchall()
        self.refresh()
        if is_ours:
            # It may name views that no query has asked for before.
            self._index.prepare(query)
        return self._index.rows(query) if is_ours else rows

    def _places(self, logs: set[str]) -> Mapping[str, Place]:
        return self._index.places(logs)

    def refresh(self) -> None:
        """Read new logs and frames; `sql`, `episode` and `episodes` do so by themselves."""
        with self._lock:
            self._index.refresh()

    def revision(self) -> Revision:
        """Return a number that grows with the tables, and the logs that are being written.

        It costs a listing of the folder and no query: ask it before asking expensive queries again.
        """
        with self._lock:
            self._index.refresh()
            return Revision(self._index.revision, sum(self._index.running.values()))

    def problems(self) -> list[Problem]:
        """Return the parts of logs that cannot be read.

        Returns:
            Damaged bytes, unreadable files, and the incomplete ends that killed writers left.
        """
        self.refresh()
        return list_problems(self.path, self._index, self._readers)

    def _load(self, row: EpisodeRow, places: Mapping[str, Place]) -> Episode:
        """Return the episode of a row."""
        with self._lock:
            reader = self._reader(row, places[row.log])
            if reader is None:
                row, reader = self._find_again(row)
        return self._episode(row, reader)

    def _episode(self, row: EpisodeRow, reader: LogReader) -> Episode:
        frames = range(row.first_frame, row.last_frame + 1)
        episode = Episode(reader, row.number, frames)
        # `_fits` has compared it with the reader's.
        episode.id = row.episode_id
        episode.find_parent = self.episode
        return episode

    def _find_again(self, row: EpisodeRow) -> tuple[EpisodeRow, LogReader]:
        """Find an episode whose file has other contents than the tables say."""
        self._index.refresh(again=True)
        rows = self._index.rows(
            f"SELECT {_PLACE} FROM all_episodes WHERE episode_id = ? "
            "ORDER BY log <> ?, kind = 'copy'",
            [row.episode_id, row.log],
        )
        if rows:
            row = EpisodeRow(*rows[0])
            reader = self._reader(row, self._index.places([row.log])[row.log])
            if reader is not None:
                return row, reader
        # If the file is gone, this says so.
        with LogReader(self.path / row.log):
            raise CorpusError(
                f"{self.path / row.log}: another log is in this place now, and episode "
                f"{row.episode_id} is in no other one; query again"
            )

    def _in_sandbox(self) -> Corpus:
        """Return the same folder in a sandbox."""
        with self._lock:
            if self._closed_off is None:
                self._closed_off = Corpus(
                    self.path, scan=self._scan, sandbox=Sandbox(), prices=self._prices
                )
            return self._closed_off

    def _reader(self, row: EpisodeRow, place: Place) -> LogReader | None:
        """Return a reader of a log, None if the file has other contents than the tables say."""
        live = self._index.reader(row.log)
        if live is not None:
            return live
        reader = self._readers.get(row.log)
        # A log that is not sealed may have grown. It may also grow from here on, so a reader that
        # was just opened is not compared with the size.
        is_new = reader is not None and (
            place.seal is not None or reader.size == _size(self.path / row.log)
        )
        if reader is not None and is_new and _fits(reader, row, place):
            return reader
        path = self.path / row.log
        try:
            reader = self._readers[row.log] = LogReader(path)
        except LogError:
            if path.exists():
                raise
            return None
        if len(self._readers) > MAX_READERS:
            self._readers.pop(next(iter(self._readers)))
        return reader if _fits(reader, row, place) else None


_PLACE = ", ".join(EpisodeRow._fields)


def _fits(reader: LogReader, row: EpisodeRow, place: Place) -> bool:
    """Return whether a reader has the contents that the tables have."""
    if make_episode_id(reader.header.log_id, row.number) != row.episode_id:
        return False
    identity = identity_of(reader)
    if place.seal is not None:
        return identity.seal.startswith(place.seal)
    return not identity.generation and len(reader.frames) > row.last_frame


def _size(path: Path) -> int | None:
    """Return the size of a file, None if it is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return None
