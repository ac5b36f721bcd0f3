"""The rows of journals: what the logs that are not sealed have not written as frames yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import duckdb

from trajrec.corpus.index.build import Builder, OpenRows, create_tables, in_transaction
from trajrec.corpus.index.catalog import OpenLog
from trajrec.corpus.index.credit_tables import ANNOTATIONS
from trajrec.corpus.index.guard import Guard
from trajrec.corpus.index.tables import ALL_EPISODES, CHECKS, EPISODE_TABLES, OF_EPISODES
from trajrec.errors import LogError
from trajrec.log.chunk import LogChunk
from trajrec.log.journal import journal_path
from trajrec.log.reader import LogReader
from trajrec.log.schema import episode_id

SCHEMA = "tail"

_TABLES = [f"{SCHEMA}.{name}" for name in (*(table.name for table in EPISODE_TABLES), "superseded")]


class _State(NamedTuple):
    """How far a log and its journal have been read.

    Attributes:
        n_stored: Frames that have rows elsewhere.
        n_frames: Frames of the log.
        last_item: The last item of its journal.
    """

    n_stored: int
    n_frames: int
    last_item: int


class Tails:
    """The tables of the schema "tail", which follow the journals.

    When the journal of an agent has grown, the episodes that have new events are read again; when
    another one has, or a frame was written, all are.

    Frames that a log has got since its rows were stored are read with its journal: both are of one
    moment then. The table "superseded" has the episodes of which all rows are here.

    Args:
        con: The connection.
        folder: The corpus.

    Attributes:
        is_empty: Whether no journal has any rows.
        n_reads: Times that the tables were filled.
        readers: The readers of the logs that have rows here, by path relative to the corpus.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, folder: Path) -> None:
        self.is_empty = True
        self.n_reads = 0
        self.readers: dict[str, LogReader] = {}
        self._con = con
        self._folder = folder
        self._guard = Guard(con)
        self._has_tables = False
        # The state of the journals that the tables have; None if they were emptied.
        self._read: dict[str, _State] | None = {}
        # The events of each episode in them, by path of the log and number.
        self._counts: dict[str, Counter[int]] = {}
        # Episodes without an end among the rows of frames, by key of the log.
        self._open_rows: OpenRows = {}
        # Episodes may still refer to the readers of logs that were sealed.
        self._retired: list[LogReader] = []

    def close(self) -> None:
        """Close the readers."""
        self._guard.close()
        for reader in (*self.readers.values(), *self._retired):
            reader.close()
        self.readers.clear()
        self._retired.clear()

    def refresh(self, logs: Mapping[str, OpenLog], source: str) -> None:
        """Read the journals.

        Args:
            logs: The logs that are not sealed, by path relative to the corpus.
            source: The schema that holds the rows of frames.
        """
        self._open_readers(logs)
        state = {
            log: _State(logs[log].n_frames, len(reader.frames), reader.last_item)
            for log, reader in self.readers.items()
            if reader.n_chunks > logs[log].n_frames
        }
        if state == self._read:
            return
        self.n_reads += 1
        self._guard.release()
        chunks = {log: list(self.readers[log].chunks(state[log].n_stored)) for log in state}
        counts = {log: _count(chunks[log]) for log in state}
        changed = self._changed(state, counts)
        if changed is None:
            self._prepare()
            self._open_rows = {}
        else:
            self._delete(changed)
        builder = Builder(self._con, SCHEMA, self._folder, source=source, open_rows=self._open_rows)
        for log in state if changed is None else changed:
            only = None if changed is None else changed[log]
            builder.read_tail(
                logs[log].log_key, self.readers[log], state[log].n_stored, chunks[log], only
            )
        rows = [(episode,) for episode in sorted(builder.stale_episodes)]
        if rows:
            self._con.executemany(f"INSERT INTO {SCHEMA}.superseded VALUES (?)", rows)
        self._read = state
        self._counts = counts
        self.is_empty = not state

    def _changed(
        self, state: Mapping[str, _State], counts: Mapping[str, Counter[int]]
    ) -> dict[str, set[int]] | None:
        """Return the episodes of agents that have new events, None if all are to be read anew."""
        if self._read is None or self._read.keys() != state.keys():
            return None
        changed = {}
        for log, new in state.items():
            old = self._read[log]
            if new == old:
                continue
            numbers = {n for n, size in counts[log].items() if size != self._counts[log][n]}
            is_agents = not self.readers[log].header.env.class_name
            # Annotations and steps are of no episode whose rows could be replaced.
            if not is_agents or new[:2] != old[:2] or any(n < 0 for n in numbers):
                return None
            changed[log] = numbers
        return changed

    def _delete(self, changed: Mapping[str, set[int]]) -> None:
        """Delete the rows of episodes that get other ones."""
        ids = [
            episode_id(self.readers[log].header.log_id, number)
            for log, numbers in changed.items()
            for number in numbers & self._counts[log].keys()
        ]
        if not ids:
            return
        for table in (ALL_EPISODES, *OF_EPISODES):
            # Annotations are of no episode of their log.
            if table not in ANNOTATIONS:
                condition = "phase <> 'post-hoc'" if table is CHECKS else "true"
                self._con.execute(
                    f"DELETE FROM {SCHEMA}.{table.name} "
                    f"WHERE {condition} AND episode_id IN (SELECT unnest($1))",
                    [ids],
                )

    def lacks_kinds(self, names: Iterable[str]) -> bool:
        """Return whether a row of some tables is in another log than its episode."""
        parts = [f"SELECT 1 FROM {SCHEMA}.{name} WHERE kind IS NULL" for name in names]
        if not parts or self.is_empty:
            return False
        query = f"{' UNION ALL '.join(parts)} LIMIT 1"
        return self._con.execute(query).fetchone() is not None

    def protect(self) -> None:
        """Keep other connections from changing the tables until `refresh` does."""
        if self._has_tables:
            self._guard.hold(tables=_TABLES)

    def _open_readers(self, logs: Mapping[str, OpenLog]) -> None:
        """Have a reader of each log that has a journal, as it is now."""
        wanted = set()
        for log, known in logs.items():
            # Both have a journal if a whole folder was copied.
            if known.is_copy or not journal_path(self._folder / log).exists():
                continue
            if self._refresh_reader(log):
                wanted.add(log)
        for log in self.readers.keys() - wanted:
            self._retired.append(self.readers.pop(log))

    def _refresh_reader(self, log: str) -> bool:
        """Bring the reader of a log up to date, and return whether the log can be read."""
        try:
            reader = self.readers.get(log)
            if reader is None:
                self.readers[log] = LogReader(self._folder / log)
            else:
                reader.refresh()
        except LogError:
            # The table `logs` names the problem.
            return False
        return True

    def clear(self) -> None:
        """Empty the tables, so that other rows are read without them."""
        if self._has_tables:
            self._guard.release()
            self._read = None
            for name in _TABLES:
                self._con.execute(f"DELETE FROM {name}")

    def _prepare(self) -> None:
        """Have empty tables."""
        self.clear()
        if not self._has_tables:
            with in_transaction(self._con):
                self._con.execute(f"CREATE SCHEMA {SCHEMA}")
                create_tables(self._con, SCHEMA)
                self._con.execute(f"CREATE TABLE {SCHEMA}.superseded (episode_id VARCHAR)")
            self._has_tables = True


def _count(chunks: Iterable[LogChunk]) -> Counter[int]:
    """Return how many events each episode has in some chunks; -1 counts all that is of none."""
    counts: Counter[int] = Counter()
    for chunk in chunks:
        counts[-1] += len(chunk.spans)
        for number, events in chunk.events_by_episode.items():
            counts[number] += len(events)
    return counts
