"""Brings tables up to date with the logs of a folder: new, grown, moved, copied and deleted ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import duckdb

from trajrec.corpus.index.agents import AgentRows, collector_off, frame_spans
from trajrec.corpus.index.catalog import Catalog
from trajrec.corpus.index.catalog_tables import CATALOG
from trajrec.corpus.index.environments import LogRows
from trajrec.corpus.index.insert import TableWriter
from trajrec.corpus.index.plan import FileEntry, Reading, make_plan
from trajrec.corpus.index.row_batch import Rows
from trajrec.corpus.index.rows import EpisodeRow
from trajrec.corpus.index.scan import Scan
from trajrec.corpus.index.tables import EPISODE_TABLES, INDEX_VERSION
from trajrec.errors import LogError
from trajrec.log.identity import frame_digest, identity_of
from trajrec.log.reader import LogReader
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.json import to_json

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (bytes read, bytes to read)."""

# Logs read before their rows are inserted, which bounds the memory of rows that are no steps.
BATCH_LOGS = 2_000

_OPEN_EPISODE_FIELDS = [name for name in EpisodeRow.__struct_fields__ if name != "is_copy"]


def create_tables(con: duckdb.DuckDBPyConnection, schema: str) -> None:
    """Create the tables that a schema lacks."""
    for table in EPISODE_TABLES:
        con.execute(f"CREATE TABLE IF NOT EXISTS {schema}.{table.name} ({table.ddl})")
    for name, columns in CATALOG.items():
        ddl = ", ".join(f"{column} {sql_type}" for column, sql_type in columns.items())
        con.execute(f"CREATE TABLE IF NOT EXISTS {schema}.{name} ({ddl})")
    con.execute(
        f"INSERT INTO {schema}.index_state SELECT {INDEX_VERSION}, 0 "
        f"WHERE NOT EXISTS (FROM {schema}.index_state)"
    )


class Builder:
    """Reads logs into the tables of one schema.

    Args:
        con: The connection to write with.
        schema: The schema of the tables, e.g. "main".
        folder: The corpus.
        source: The schema, or views, that hold the rows of logs read before.
        progress: Called with (bytes read, bytes to read) after each log.

    Attributes:
        stale_episodes: Episodes whose earlier rows hold no more, in whichever schema they are.
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
    ) -> None:
        self._con = con
        self._schema = schema
        self._writer = TableWriter(con, schema)
        self._folder = folder
        self._source = source or schema
        self._progress = progress
        self._rows = Rows()
        self._contents: list[dict[str, Value]] = []
        self.stale_episodes: set[str] = set()
        self.stale_keys: set[int] = set()

    def update(self, scan: Scan, catalog: Catalog, *, is_full: bool) -> None:
        """Bring the tables up to date with what differs in the folder."""
        plan = make_plan(self._folder, scan, catalog, is_full=is_full)
        self._drop(plan.dropped)
        self._writer.delete_files(plan.gone)
        sizes = {
            reading.log_key: plan.files[reading.logs[0]].file.size for reading in plan.readings
        }
        total = sum(sizes.values())
        done = 0
        for reading in plan.readings:
            self._read(reading, plan.files)
            done += sizes[reading.log_key]
            if self._progress is not None:
                self._progress(done, total)
            if self._rows.is_full or len(self._contents) > BATCH_LOGS:
                self._insert()
        self._insert()
        rows = [_file_row(log, entry) for log, entry in plan.files.items()]
        self._writer.set_files(rows, f"{self._source}.contents")
        self._con.execute(f"UPDATE {self._schema}.index_state SET next_key = {plan.next_key}")

    def read_tail(self, log_key: int, reader: LogReader, n_frames: int) -> None:
        """Read the frames of a log from `n_frames` on, and its journal.

        The rows replace those of an earlier call: the tables of this schema must be empty.
        """
        self._add_chunks(log_key, reader, n_frames)
        self._insert()

    def _drop(self, keys: set[int]) -> None:
        """Drop the rows of contents here, and note that they hold no more in other schemas."""
        self._writer.drop(keys)
        self.stale_keys |= keys

    def _read(self, reading: Reading, files: dict[str, FileEntry]) -> None:
        """Read contents from the first of their files that can be read."""
        key = reading.log_key
        for log in reading.logs:
            try:
                # The items of a journal are in frames later: their rows are not stored.
                with LogReader(self._folder / log, with_journal=False) as reader:
                    self._read_log(reader, reading)
            except LogError as exc:
                # An error in the middle: nothing of it is taken for the contents.
                self._insert()
                self._drop({key})
                files[log] = FileEntry(files[log].file._replace(problem=str(exc)))
                continue
            for other in reading.logs:
                if files[other].log_key == key:
                    files[other] = files[other]._replace(is_original=other == log)
            return

    def _read_log(self, reader: LogReader, reading: Reading) -> None:
        """Read the frames of contents that are new."""
        before = reading.before
        if reading.is_copy:
            self._add_copy(reading.log_key, reader)
            problem = _contradiction(reader, self._folder / reading.original)
        else:
            self._add_chunks(reading.log_key, reader, 0 if before is None else before.n_frames)
            problem = ""
        identity = identity_of(reader)
        damage = [[d.offset, d.size, d.reason, d.is_tail] for d in reader.damage]
        if before is not None:
            damage = [cell for cell in before.losses if cell not in damage] + damage
        n_frames = len(reader.frames)
        self._contents.append(
            {
                "log_key": reading.log_key,
                "identity": identity.log,
                "log_id": reader.header.log_id,
                "seal": identity.seal or None,
                "generation": identity.generation,
                "size_bytes": reader.size,
                "n_frames": n_frames,
                "last_frame": frame_digest(reader, n_frames - 1) if n_frames else "",
                "last_item": reader.last_written(),
                "is_sealed": reader.is_sealed,
                "is_copy": reading.is_copy,
                "damage": json.dumps(damage) if damage else None,
                "problem": problem or None,
                "header": _header_json(reader),
            }
        )

    def _add_chunks(self, log_key: int, reader: LogReader, start: int) -> None:
        """Gather the rows of the chunks from a frame on."""
        log_rows: LogRows | AgentRows
        open_rows = self._open_rows(log_key) if start else None
        if reader.header.env.class_name:
            log_rows = LogRows(reader, open_rows or {})
            if start:
                log_rows.prime(start)
        else:
            log_rows = AgentRows(reader, frame_spans(open_rows))
        self._rows.begin_log(log_key)
        with collector_off():
            for chunk in reader.chunks(start):
                log_rows.add(chunk, self._rows)
                if self._rows.is_full:
                    self._insert(log_key)
            for of_episode in log_rows.finish() if isinstance(log_rows, AgentRows) else ():
                is_again = not of_episode.replaced.isdisjoint(self._rows.episodes)
                if is_again or self._rows.is_full:
                    self._insert(log_key)
                self._rows.extend(of_episode)

    def _add_copy(self, log_key: int, reader: LogReader) -> None:
        """Gather the episodes of a copy, and nothing else."""
        is_agents = not reader.header.env.class_name
        log_rows = AgentRows(reader) if is_agents else LogRows(reader, open_rows={})
        episodes: dict[str, EpisodeRow] = {}
        for chunk in reader.chunks(0):
            rows = Rows()
            log_rows.add(chunk, rows)
            episodes |= rows.episodes
        for rows in log_rows.finish() if isinstance(log_rows, AgentRows) else ():
            episodes |= rows.episodes
        for episode in episodes.values():
            episode.is_copy = True
        self._rows.begin_log(log_key)
        self._rows.copies += episodes.values()

    def _open_rows(self, log_key: int) -> dict[int, EpisodeRow]:
        """Return the rows of a log's episodes without an end, which new frames go on with."""
        self._insert()
        values = self._con.execute(
            f"SELECT {', '.join(_OPEN_EPISODE_FIELDS)} FROM {self._source}.all_episodes "
            "WHERE log_key = ? AND ending IS NULL",
            [log_key],
        ).fetchall()
        rows = [EpisodeRow(**dict(zip(_OPEN_EPISODE_FIELDS, row, strict=True))) for row in values]
        return {row.number: row for row in rows}

    def _insert(self, log_key: int | None = None) -> None:
        """Insert the rows gathered so far; the next ones may be of the same log."""
        # New containers first: if an insert fails, no row can be inserted twice.
        rows = self._rows
        contents = self._contents
        self._rows = Rows()
        self._contents = []
        if log_key is not None:
            self._rows.begin_log(log_key)
        self.stale_episodes |= rows.replaced
        self._writer.insert(rows)
        self._writer.add_contents(contents)


def _contradiction(reader: LogReader, original: Path) -> str:
    """Return how a copy contradicts the original, "" if it is only an earlier state of it."""
    with LogReader(original, with_journal=False) as other:
        last = min(len(reader.frames), len(other.frames)) - 1
        is_rewritten = identity_of(reader).generation != identity_of(other).generation
        if last < 0 or is_rewritten or reader.has_losses or other.has_losses:
            return ""
        if frame_digest(reader, last) == frame_digest(other, last):
            return ""
    return (
        f"it goes on otherwise than {original.name}, which has the same id: two programs wrote "
        "copies of one log; its episodes are not counted"
    )


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
