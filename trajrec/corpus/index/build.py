"""Brings tables up to date with the logs of a folder: new, grown, changed and deleted files."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import duckdb

from trajrec.corpus.index.agents import AgentRows, collector_off, frame_spans
from trajrec.corpus.index.credit_tables import CREDIT, ROLLOUTS
from trajrec.corpus.index.environments import LogRows
from trajrec.corpus.index.indexed_logs import (
    IndexedLog,
    copies_of,
    is_appended,
    is_changed,
    is_replaced,
)
from trajrec.corpus.index.insert import TableWriter
from trajrec.corpus.index.rows import EpisodeRow, LogRow, Rows
from trajrec.corpus.index.tables import (
    ALL_EPISODES,
    ATTEMPTS,
    CHECKS,
    FAILURES,
    INDEX_VERSION,
    LOGS,
    MODEL_CALLS,
    SIDE_EFFECTS,
    STATE_CHANGES,
    STEPS,
    TABLES,
)
from trajrec.errors import LogError
from trajrec.log.folder import LogFile
from trajrec.log.reader import LogReader
from trajrec.values import codec
from trajrec.values.json import to_json

# Logs read before their rows are inserted, which bounds the memory of rows that are no steps.
BATCH_LOGS = 2_000

_OPEN_EPISODE_FIELDS = [name for name in EpisodeRow.__struct_fields__ if name != "is_copy"]


class Update(NamedTuple):
    """Earlier rows that hold no more, in whichever schema they are.

    Attributes:
        logs: Logs whose earlier rows hold no more.
        episodes: Episodes whose earlier rows hold no more.
    """

    logs: set[str]
    episodes: set[str]


def create_tables(con: duckdb.DuckDBPyConnection, schema: str) -> None:
    """Create the tables that a schema lacks."""
    for table in TABLES:
        con.execute(f"CREATE TABLE IF NOT EXISTS {schema}.{table.name} ({table.ddl})")
    con.execute(
        f"CREATE TABLE IF NOT EXISTS {schema}.index_version AS SELECT {INDEX_VERSION} AS version"
    )


class Builder:
    """Reads logs into the tables of one schema.

    A log with the id of another log is a copy of it, e.g. a backup. One of them, the original,
    gives its rows to all tables; the copies are only listed in `all_episodes`. The original is the
    log without damage; of several the largest, because logs only grow; and of those the first by
    name.

    Args:
        con: The connection to write with.
        schema: The schema of the tables, e.g. "main".
        folder: The corpus.
        source: The schema, or views, that hold the rows of logs read before.
        progress: Called with (bytes read, bytes to read) after each log.

    Attributes:
        stale_episodes: Episodes whose earlier rows hold no more, in whichever schema they are.
    """

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        schema: str,
        folder: Path,
        *,
        source: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._con = con
        self._writer = TableWriter(con, schema)
        self._folder = folder
        self._source = source or schema
        self._progress = progress
        self._rows = Rows()
        self._logs: list[LogRow] = []
        self._stale_logs: set[str] = set()
        self.stale_episodes: set[str] = set()

    def update(
        self, stats: Mapping[str, LogFile], indexed: Mapping[str, IndexedLog]
    ) -> Update | None:
        """Read new and changed logs, and drop logs that are gone; return None if there are none."""
        changed = [
            log
            for log, stat in stats.items()
            if is_changed(self._folder / log, stat, indexed.get(log))
        ]
        # A log that is gone takes its rows with it. A replaced one is read again from its start.
        stale = {log for log in indexed if log not in stats}
        stale |= {
            log for log in changed if log in indexed and is_replaced(stats[log], indexed[log])
        }
        if not stale and not changed:
            return None
        for log in stale | copies_of({*stale, *changed}, indexed):
            self._drop(log)
        current = {log: before for log, before in indexed.items() if log not in self._stale_logs}
        self._read_logs(stats, current)
        return Update(self._stale_logs, self.stale_episodes)

    def _read_logs(self, stats: Mapping[str, LogFile], current: Mapping[str, IndexedLog]) -> None:
        """Read the logs that differ from `current`."""
        work = [
            log
            for log, stat in stats.items()
            if is_changed(self._folder / log, stat, current.get(log))
        ]
        # Logs with the id of another one wait until all others are read: only then all copies are
        # known, and which of them is the original.
        log_of = {before.log_id: log for log, before in current.items()}
        with_copies: dict[str, set[str]] = {}
        total = sum(stats[log].size for log in work)
        done = 0
        for log in work:
            reader = self._open(log, stats[log])
            if reader is not None:
                with reader:
                    log_id = reader.header.log_id
                    other = log_of.setdefault(log_id, log)
                    if other == log:
                        self._read(log, reader, stats[log], current.get(log))
                    else:
                        with_copies.setdefault(log_id, {other}).add(log)
            done += stats[log].size
            if self._progress is not None:
                self._progress(done, total)
            if self._rows.is_full or len(self._logs) > BATCH_LOGS:
                self._insert()
        self._insert()
        for log_id, logs in with_copies.items():
            logs |= {log for log, before in current.items() if before.log_id == log_id}
            self._read_copies(logs, stats)

    def _read_copies(self, logs: Collection[str], stats: Mapping[str, LogFile]) -> None:
        """Read several logs of one id: the original whole, of the others only their episodes."""
        for log in logs:
            self._drop(log)
        rank = {log: self._rank(log, stats[log]) for log in logs}
        original, *copies = sorted(logs, key=rank.__getitem__)
        reader = self._open(original, stats[original])
        if reader is not None:
            with reader:
                self._read(original, reader, stats[original], None)
        for log in copies:
            reader = self._open(log, stats[log])
            if reader is not None:
                with reader:
                    self._read_copy(log, reader, stats[log])
        self._insert()

    def _rank(self, log: str, stat: LogFile) -> tuple[bool, int, str]:
        """Return the order of a log among its copies, the original first."""
        try:
            with LogReader(self._folder / log, with_journal=False) as reader:
                for _ in reader.chunks(0):
                    pass  # a damaged chunk is noted in `reader.damage`
                is_damaged = any(not damage.is_tail for damage in reader.damage)
        except LogError:
            is_damaged = True
        return is_damaged, -stat.size, log

    def _drop(self, log: str) -> None:
        """Drop a log's rows here, and note that they hold no more in other schemas."""
        self._writer.drop_log(log)
        self._stale_logs.add(log)

    def _open(self, log: str, stat: LogFile) -> LogReader | None:
        """Open a log; note why it cannot be read."""
        problem = stat.problem
        if not problem:
            try:
                # The items of a journal are in frames later: their rows are not stored.
                return LogReader(self._folder / log, with_journal=False)
            except LogError as exc:
                problem = str(exc)
        self._logs.append(
            LogRow(log=log, size_bytes=stat.size, mtime_ns=stat.mtime_ns, problem=problem)
        )
        return None

    def _read(self, log: str, reader: LogReader, stat: LogFile, before: IndexedLog | None) -> None:
        """Read a log from its first new frame on."""
        start = 0
        if before is not None:
            if is_appended(reader, stat, before):
                start = before.n_frames
            else:
                self._insert()
                self._drop(log)
        self._add_chunks(log, reader, start)
        self._logs.append(_log_row(log, reader, stat))

    def read_tail(self, log: str, reader: LogReader, n_frames: int) -> None:
        """Read the frames of a log from `n_frames` on, and its journal.

        The rows replace those of an earlier call: the tables of this schema must be empty.
        """
        self._add_chunks(log, reader, n_frames)
        self._insert()

    def _add_chunks(self, log: str, reader: LogReader, start: int) -> None:
        """Gather the rows of the chunks from a frame on."""
        log_rows: LogRows | AgentRows
        open_rows = self._open_rows(log) if start else None
        if reader.header.env.class_name:
            log_rows = LogRows(log, reader, open_rows or {})
            if start:
                log_rows.prime(start)
        else:
            log_rows = AgentRows(log, reader, frame_spans(open_rows))
        with collector_off():
            for chunk in reader.chunks(start):
                log_rows.add(chunk, self._rows)
                if self._rows.is_full:
                    self._insert()
            for of_episode in log_rows.finish() if isinstance(log_rows, AgentRows) else ():
                is_again = not of_episode.replaced.isdisjoint(self._rows.episodes)
                if is_again or self._rows.is_full:
                    self._insert()
                self._rows.extend(of_episode)

    def _read_copy(self, log: str, reader: LogReader, stat: LogFile) -> None:
        """Read the episodes of a copy, and nothing else."""
        is_agents = not reader.header.env.class_name
        log_rows = AgentRows(log, reader) if is_agents else LogRows(log, reader, open_rows={})
        episodes: dict[str, EpisodeRow] = {}
        for chunk in reader.chunks(0):
            rows = Rows()
            log_rows.add(chunk, rows)
            episodes |= rows.episodes
        for rows in log_rows.finish() if isinstance(log_rows, AgentRows) else ():
            episodes |= rows.episodes
        for episode in episodes.values():
            episode.is_copy = True
        self._rows.copies += episodes.values()
        self._logs.append(_log_row(log, reader, stat))

    def _open_rows(self, log: str) -> dict[int, EpisodeRow]:
        """Return the rows of a log's episodes without an end, which new frames go on with."""
        self._insert()
        values = self._con.execute(
            f"SELECT {', '.join(_OPEN_EPISODE_FIELDS)} FROM {self._source}.all_episodes "
            "WHERE log = ? AND coalesce(ending, 'running') IN ('running', 'interrupted')",
            [log],
        ).fetchall()
        rows = [EpisodeRow(**dict(zip(_OPEN_EPISODE_FIELDS, row, strict=True))) for row in values]
        for row in rows:
            row.ending = None  # the view says "running" or "interrupted", the table NULL
        return {row.number: row for row in rows}

    def _insert(self) -> None:
        """Insert the rows gathered so far."""
        # New containers first: if an insert fails, no row can be inserted twice.
        rows = self._rows
        logs = self._logs
        self._rows = Rows()
        self._logs = []
        writer = self._writer
        self.stale_episodes |= rows.replaced
        writer.delete_contents(rows.replaced)
        if rows.episodes:
            writer.replace_episodes(rows.episodes.values())
        writer.append(ALL_EPISODES, rows.copies)
        writer.append_steps(rows)
        writer.append(STEPS, rows.decisions)
        writer.append(FAILURES, rows.failures)
        writer.append(CHECKS, rows.checks)
        writer.append(STATE_CHANGES, rows.changes)
        writer.append(ATTEMPTS, rows.attempts)
        writer.append(MODEL_CALLS, rows.model_calls)
        writer.append(SIDE_EFFECTS, rows.side_effects)
        writer.append(CREDIT, rows.credit)
        writer.append(ROLLOUTS, rows.rollouts)
        if logs:
            writer.replace(LOGS, "log", logs)


def _log_row(log: str, reader: LogReader, stat: LogFile) -> LogRow:
    damage = [[d.offset, d.size, d.reason, d.is_tail] for d in reader.damage]
    return LogRow(
        log=log,
        log_id=reader.header.log_id,
        size_bytes=reader.size,
        mtime_ns=stat.mtime_ns,
        n_frames=len(reader.frames),
        is_sealed=reader.is_sealed,
        damage=json.dumps(damage) if damage else None,
        header=_header_json(reader),
    )


def _header_json(reader: LogReader) -> str:
    header = reader.header
    env = header.env
    return to_json(
        {
            "writer": header.writer,
            "host": header.host,
            "process_id": header.process_id,
            "keep_states": header.keep_states,
            "runtime": header.runtime,
            "env_id": env.env_id,
            "entry_point": env.entry_point,
            "kwargs": codec.decode(env.kwargs_data) if env.kwargs_data else None,
            "wrappers": [
                [name, None if data is None else codec.decode(data)] for name, data in env.wrappers
            ],
            "recreatable": env.recreatable or "yes",
            "state": [header.state.adapter, header.state.version, header.state.keep],
        }
    )
