"""The rows of journals: what the logs that are not sealed have not written as frames yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb

from trajrec.corpus.index.build import Builder, create_tables
from trajrec.corpus.index.catalog import OpenLog
from trajrec.corpus.index.guard import Guard
from trajrec.corpus.index.tables import EPISODE_TABLES
from trajrec.errors import LogError
from trajrec.log.journal import journal_path
from trajrec.log.reader import LogReader

SCHEMA = "tail"


class Tails:
    """The tables of the schema "tail", which are filled anew whenever a journal has grown.

    Frames that a log has got since its rows were stored are read with its journal: both are of one
    moment then. The table "superseded" has the episodes of which all rows are here.

    Args:
        con: The connection.
        folder: The corpus.
        guard: Is released before the tables change.

    Attributes:
        is_empty: Whether no journal has any rows.
        n_reads: Times that the tables were filled.
        readers: The readers of the logs that have rows here, by path relative to the corpus.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, folder: Path, guard: Guard) -> None:
        self.is_empty = True
        self.n_reads = 0
        self.readers: dict[str, LogReader] = {}
        self._con = con
        self._folder = folder
        self._guard = guard
        self._has_tables = False
        # The state of the journals that the tables have; None if they were emptied.
        self._read: dict[str, tuple[int, int, int]] | None = {}
        # Episodes may still refer to the readers of logs that were sealed.
        self._retired: list[LogReader] = []

    def close(self) -> None:
        """Close the readers."""
        for reader in (*self.readers.values(), *self._retired):
            reader.close()
        self.readers.clear()
        self._retired.clear()

    def refresh(self, logs: Mapping[str, OpenLog], source: str) -> bool:
        """Read the journals, and return whether `is_empty` has changed.

        Args:
            logs: The logs that are not sealed, by path relative to the corpus.
            source: The schema that holds the rows of frames.
        """
        self._open_readers(logs)
        state = {
            log: (logs[log].n_frames, len(reader.frames), reader.last_item)
            for log, reader in self.readers.items()
            if reader.n_chunks > logs[log].n_frames
        }
        if state == self._read:
            return False
        was_empty = self.is_empty
        self.n_reads += 1
        self._prepare()
        builder = Builder(self._con, SCHEMA, self._folder, source=source)
        for log in state:
            builder.read_tail(logs[log].log_key, self.readers[log], logs[log].n_frames)
        rows = [(episode,) for episode in sorted(builder.stale_episodes)]
        if rows:
            self._con.executemany(f"INSERT INTO {SCHEMA}.superseded VALUES (?)", rows)
        self._read = state
        self.is_empty = not state
        return self.is_empty != was_empty

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
            self._read = None
            for name in [*(table.name for table in EPISODE_TABLES), "superseded"]:
                self._con.execute(f"DELETE FROM {SCHEMA}.{name}")

    def _prepare(self) -> None:
        """Have empty tables."""
        self._guard.release()
        self.clear()
        if not self._has_tables:
            self._con.execute(f"CREATE SCHEMA {SCHEMA}")
            create_tables(self._con, SCHEMA)
            self._con.execute(f"CREATE TABLE {SCHEMA}.superseded (episode_id VARCHAR)")
            self._has_tables = True
