"""Brings tables up to date with the logs of a folder: new logs, appended frames, changed and deleted files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np

from trajrec.corpus.index.agents import AgentRows
from trajrec.corpus.index.rewards import COLUMNS as AGENT_COLUMNS
from trajrec.corpus.index.rows import EpisodeRow, LogRows, Rows
from trajrec.corpus.index.tables import (
    APPENDED,
    ATTEMPTS,
    CHECKS,
    CREDIT,
    EPISODES,
    FAILURES,
    INDEX_VERSION,
    LOGS,
    MODEL_CALLS,
    OF_EPISODES,
    ROLLOUTS,
    SIDE_EFFECTS,
    STATE_CHANGES,
    STEPS,
    TABLES,
    Table,
)
from trajrec.errors import LogError
from trajrec.log.reader import LogReader
from trajrec.values import codec
from trajrec.values.json import to_json

BATCH_STEPS = 400_000
"""Rows gathered before they are inserted: enough to amortise the insert, few enough to bound memory."""

SUFFIX = ".trj"
_EPISODE_FIELDS = [f.name for f in fields(EpisodeRow)]


class IndexedLog(NamedTuple):
    """What the index knows of a log."""

    size: int
    mtime_ns: int
    n_frames: int
    is_sealed: bool


def find_logs(folder: Path) -> dict[str, os.stat_result]:
    """Return the logs of a folder at any depth, by their relative path with forward slashes."""
    found: dict[str, os.stat_result] = {}
    pending = [""]
    while pending:
        relative = pending.pop()
        with os.scandir(folder / relative) as entries:
            for entry in entries:
                name = f"{relative}/{entry.name}" if relative else entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                elif entry.name.endswith(SUFFIX):
                    try:
                        found[name] = os.stat(folder / name)
                    except FileNotFoundError:
                        continue
    return dict(sorted(found.items()))


def create_tables(con: duckdb.DuckDBPyConnection, schema: str) -> None:
    """Create the tables in a schema, where they are missing."""
    for table in TABLES:
        con.execute(f"CREATE TABLE IF NOT EXISTS {schema}.{table.name} ({table.ddl})")
    con.execute(
        f"CREATE TABLE IF NOT EXISTS {schema}.index_version AS SELECT {INDEX_VERSION} AS version"
    )


def read_known(con: duckdb.DuckDBPyConnection, schema: str) -> dict[str, IndexedLog]:
    """Return what a schema's tables know of each log."""
    rows = con.execute(
        f"SELECT log, size_bytes, mtime_ns, n_frames, is_sealed FROM {schema}.logs"
    ).fetchall()
    return {row[0]: IndexedLog(*row[1:]) for row in rows}


def is_current(found: dict[str, os.stat_result], known: dict[str, IndexedLog]) -> bool:
    """Say whether what is known is known of just these files as they are."""
    return found.keys() == known.keys() and not any(
        _is_changed(stat, known[log]) for log, stat in found.items()
    )


def is_replaced(stat: os.stat_result, known: IndexedLog) -> bool:
    """Say whether a file is not the one known, grown: a sealed log that changed, or one that shrank."""
    if known.is_sealed:
        return bool((stat.st_size, stat.st_mtime_ns) != (known.size, known.mtime_ns))
    return bool(stat.st_size < known.size)


class Builder:
    """Reads logs into the tables of one schema.

    Args:
        con: The connection to write with.
        schema: Where the tables are, e.g. "main" or "memory.fresh".
        folder: The corpus.
        source: The schema, or views, that hold the rows of logs read before.
        progress: Called with (bytes read, bytes to read) after each log.
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
        self._con, self._schema, self._folder = con, schema, folder
        self._source, self._progress = source or schema, progress
        self._rows = Rows()
        self._logs: list[tuple[Any, ...]] = []
        self.replaced: set[str] = set()
        """Episodes whose rows of before do not hold any more, wherever they are."""

    def update(self, found: dict[str, os.stat_result], known: dict[str, IndexedLog]) -> bool:
        """Read what is new or changed; say whether anything was."""
        work = [
            (log, stat, known.get(log))
            for log, stat in found.items()
            if _is_changed(stat, known.get(log))
        ]
        if not work:
            return False
        total, done = sum(stat.st_size for _, stat, _ in work), 0
        for log, stat, before in work:
            self._read(log, stat, before)
            done += stat.st_size
            if self._progress is not None:
                self._progress(done, total)
            if self._rows.n_steps + len(self._rows.changes) > BATCH_STEPS or len(self._logs) > 2000:
                self._insert()
        self._insert()
        return True

    def drop(self, logs: Iterable[str]) -> None:
        """Delete all rows of some logs."""
        for log in logs:
            of_log = f"episode_id IN (SELECT episode_id FROM {self._schema}.episodes WHERE log = ?)"
            for table in OF_EPISODES:
                # A check may lie in another log than its episode, credit always does.
                where = "log = ?" if table in (CHECKS, *APPENDED) else of_log
                self._con.execute(f"DELETE FROM {self._schema}.{table.name} WHERE {where}", [log])
            self._con.execute(f"DELETE FROM {self._schema}.episodes WHERE log = ?", [log])
            self._con.execute(f"DELETE FROM {self._schema}.logs WHERE log = ?", [log])

    def _read(self, log: str, stat: os.stat_result, before: IndexedLog | None) -> None:
        try:
            reader = LogReader(self._folder / log)
        except LogError as exc:
            self._logs.append(
                (log, None, stat.st_size, stat.st_mtime_ns, 0, False, None, str(exc), None)
            )
            return
        with reader:
            start = 0
            if before is not None:
                if _is_appended(reader, stat, before):
                    start = before.n_frames
                else:
                    self._insert()
                    self.drop([log])
            log_rows: LogRows | AgentRows
            if reader.header.env.class_name:
                log_rows = LogRows(log, reader.header, self._open_rows(log) if start else {})
                if start:
                    log_rows.prime(reader, start)
            else:
                log_rows = AgentRows(log, reader, is_first=not start)
            for chunk in reader.chunks(start):
                try:
                    log_rows.add(chunk, self._rows)
                except LogError as exc:
                    reader.add_damage(chunk, str(exc))
                if self._rows.n_steps > BATCH_STEPS:
                    self._insert()
            if isinstance(log_rows, AgentRows):
                log_rows.finish(self._rows)
            self._logs.append(
                (
                    log,
                    reader.header.log_id,
                    reader.size,
                    stat.st_mtime_ns,
                    len(reader.frames),
                    reader.is_sealed,
                    json.dumps([[d.offset, d.size, d.reason, d.is_tail] for d in reader.damage])
                    if reader.damage
                    else None,
                    None,
                    _header_json(reader),
                )
            )

    def _open_rows(self, log: str) -> dict[int, EpisodeRow]:
        self._insert()
        found = self._con.execute(
            f"SELECT {', '.join(_EPISODE_FIELDS)} FROM {self._source}.episodes WHERE log = ? AND ended_at IS NULL",
            [log],
        ).fetchall()
        # Read with the schema's own values: `ending` of an open episode is NULL in the tables.
        rows = [EpisodeRow(**dict(zip(_EPISODE_FIELDS, row, strict=True))) for row in found]
        for row in rows:
            row.ending = None
        return {row.number: row for row in rows}

    def _insert(self) -> None:
        rows, self._rows = self._rows, Rows()
        logs, self._logs = self._logs, []
        self.replaced |= rows.replaced
        if rows.replaced:
            for table in OF_EPISODES:
                if table in APPENDED:
                    continue
                self._delete(
                    table,
                    "episode_id",
                    rows.replaced,
                    "AND phase <> 'post-hoc'" if table is CHECKS else "",
                )
        if rows.episodes:
            self._replace(
                EPISODES,
                [
                    tuple(getattr(row, name) for name in EPISODES.names)
                    for row in rows.episodes.values()
                ],
            )
        self._insert_steps(rows)
        appended = (
            (STEPS, rows.decisions),
            (FAILURES, rows.failures),
            (CHECKS, rows.checks),
            (STATE_CHANGES, rows.changes),
            (ATTEMPTS, rows.attempts),
            (MODEL_CALLS, rows.model_calls),
            (SIDE_EFFECTS, rows.side_effects),
            (CREDIT, rows.credit),
            (ROLLOUTS, rows.rollouts),
        )
        for table, found in appended:
            self._append(table, found)
        if logs:
            self._replace(LOGS, logs)

    def _replace(self, table: Table, rows: list[tuple[Any, ...]]) -> None:
        """Insert rows in the place of those with the same key."""
        key = table.key[0]
        position = table.names.index(key)
        self._delete(table, key, [row[position] for row in rows])
        self._append(table, rows)

    def _delete(self, table: Table, key: str, values: Iterable[str], also: str = "") -> None:
        self._con.register("trajrec_keys", {key: np.array(list(values), object)})
        self._con.execute(
            f"DELETE FROM {self._schema}.{table.name} WHERE {key} IN (SELECT {key} FROM trajrec_keys) {also}"
        )
        self._con.unregister("trajrec_keys")

    def _append(self, table: Table, rows: list[tuple[Any, ...]]) -> None:
        if not rows:
            return
        columns = {
            name: _column(kind, [row[i] for row in rows])
            for i, (name, kind, _) in enumerate(table.columns)
        }
        self._con.register("trajrec_rows", columns)
        casts = ", ".join(_cast(name, kind) for name, kind, _ in table.columns)
        self._con.execute(
            f"INSERT INTO {self._schema}.{table.name} SELECT {casts} FROM trajrec_rows"
        )
        self._con.unregister("trajrec_rows")

    def _insert_steps(self, rows: Rows) -> None:
        if not rows.steps:
            return
        ids = {
            "episode": np.arange(len(rows.episode_ids), dtype=np.uint32),
            "id": np.array(rows.episode_ids, object),
        }
        self._con.register("trajrec_ids", ids)
        for group in rows.steps.values():
            names = list(group.columns[0])
            columns = {
                name: np.concatenate([part[name] for part in group.columns]) for name in names
            }
            self._con.register("trajrec_steps", columns)
            reward = "reward" if "reward" in names else "NULL"
            digest = "state_digest" if "state_digest" in names else "NULL"
            self._con.execute(
                f"INSERT INTO {self._schema}.steps SELECT id, step, {group.action}, {reward}, {group.info}, {digest} "
                "FROM trajrec_steps JOIN trajrec_ids USING (episode)"
            )
            self._con.unregister("trajrec_steps")
        if rows.agent_rewards:
            names = list(rows.agent_rewards[0])
            self._con.register(
                "trajrec_rewards",
                {n: np.concatenate([part[n] for part in rows.agent_rewards]) for n in names},
            )
            self._con.execute(
                f"INSERT INTO {self._schema}.agent_rewards SELECT id, step, {AGENT_COLUMNS} "
                "FROM trajrec_rewards JOIN trajrec_ids USING (episode)"
            )
            self._con.unregister("trajrec_rewards")
        self._con.unregister("trajrec_ids")


def _is_changed(stat: os.stat_result, known: IndexedLog | None) -> bool:
    return known is None or (stat.st_size, stat.st_mtime_ns) != (known.size, known.mtime_ns)


def _is_appended(reader: LogReader, stat: os.stat_result, before: IndexedLog) -> bool:
    """Say whether a log only grew since: then its first frames are the ones read before."""
    if before.is_sealed or before.n_frames == 0 or len(reader.frames) < before.n_frames:
        return False
    return reader.frames[before.n_frames - 1].end <= before.size <= stat.st_size


_NUMPY = {
    "BIGINT": np.int64,
    "INTEGER": np.int64,
    "UINTEGER": np.int64,
    "UBIGINT": np.uint64,
    "DOUBLE": np.float64,
    "BOOLEAN": np.bool_,
}


def _column(kind: str, values: list[Any]) -> Any:
    """Return a column for DuckDB to read: masked where it is NULL."""
    if kind == "TIMESTAMP":
        return np.array(
            [
                np.datetime64("NaT", "us") if value is None else np.datetime64(value, "us")
                for value in values
            ]
        )
    dtype = _NUMPY.get(kind)
    if dtype is None:
        return np.array([None if value is None else _clean(value) for value in values], object)
    if not any(value is None for value in values):
        try:
            return np.array(values, dtype)
        except OverflowError:
            pass
    # As text, because a NULL, or a seed beyond 64 bit, has no place in a numpy array of numbers.
    return np.array([None if value is None else repr(value) for value in values], object)


def _cast(name: str, kind: str) -> str:
    return f'try_cast("{name}" AS {kind})' if kind in _NUMPY else f'CAST("{name}" AS {kind})'


def _clean(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _header_json(reader: LogReader) -> str:
    header = reader.header
    env = header.env
    return to_json(
        {
            "writer": header.writer,
            "host": header.host,
            "process_id": header.process_id,
            "record": header.record,
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
