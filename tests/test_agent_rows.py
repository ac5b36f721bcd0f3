"""The rows of agents' logs, made in one pass, are those of episodes that are read whole."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from random_agents import record_agents
from tiers import mostly_deep

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.corpus.index import agents, file
from trajrec.corpus.index.agent_episode import episode_rows
from trajrec.corpus.index.batch import to_batch
from trajrec.corpus.index.build import create_tables
from trajrec.corpus.index.file import INDEX_NAME, update_index
from trajrec.corpus.index.insert import TableWriter
from trajrec.corpus.index.row_batch import Rows
from trajrec.corpus.index.table import Table
from trajrec.corpus.index.tables import ALL_EPISODES, OF_EPISODES
from trajrec.errors import LogError
from trajrec.log.events import AnswerPart, Blob
from trajrec.log.reader import LogReader
from trajrec.log.schema import EpisodeEnd
from trajrec.recording.event_log import EventLog

TABLES = (ALL_EPISODES, *OF_EPISODES)


def stored_tables(folder: Path) -> dict[str, list[Any]]:
    """Return the rows of all tables in the index file."""
    with duckdb.connect(str(folder / INDEX_NAME), read_only=True) as con:
        return {table.name: rows_of(con, table) for table in TABLES}


def rows_of(con: duckdb.DuckDBPyConnection, table: Table) -> list[Any]:
    return con.execute(f"SELECT * EXCLUDE (log_key) FROM {table.name} ORDER BY ALL").fetchall()


def whole_tables(folder: Path) -> dict[str, list[Any]]:
    """Return the same, with each episode read whole from its log."""
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        create_tables(con, "main")
        writer = TableWriter(con, "main")
        for path in sorted(folder.glob("*.trj")):
            with LogReader(path, with_journal=False) as reader:
                numbers = {e.episode for chunk in reader.chunks() for e in chunk.record.events}
                for number in sorted(numbers):
                    insert(writer, whole_episode(reader, number))
        return {table.name: rows_of(con, table) for table in TABLES}


def whole_episode(reader: LogReader, number: int) -> Rows:
    chunks = reader.chunks_of(number)
    episode = Episode(reader, number, chunks)

    def rows(*, is_tolerant: bool) -> Rows:
        transcript = episode.transcribe(is_tolerant=is_tolerant)
        return episode_rows(episode, transcript, chunks, contextlib.nullcontext)

    try:
        return rows(is_tolerant=False)
    except LogError:
        return rows(is_tolerant=True)


def insert(writer: TableWriter, rows: Rows) -> None:
    batch = Rows()
    batch.begin_log(0)
    batch.extend(rows)
    writer.insert(to_batch(batch))


def recorded_events(folder: Path, rng: np.random.Generator) -> list[Any]:
    """Return the events of a random log of agents."""
    record_agents(folder, rng)
    (path,) = folder.glob("*.trj")
    with LogReader(path) as reader:
        events = [event for chunk in reader.chunks() for event in chunk.record.events]
    path.unlink()
    return events


def with_late_events(events: list[Any], rng: np.random.Generator) -> list[Any]:
    """Return events of which some come after the end of their episode, and some are missing."""
    late = [
        event
        for event in events
        if rng.random() < 0.05 and not isinstance(event, (EpisodeEnd, Blob, AnswerPart))
    ]
    lost = [event for event in events if rng.random() < 0.02]
    skipped = {id(event) for event in (*late, *lost)}
    return [event for event in events if id(event) not in skipped] + late


def write(folder: Path, events: list[Any], rng: np.random.Generator) -> Path:
    """Write events into a log, in frames of random sizes."""
    log = EventLog(folder, "raise", "process")
    for event in events:
        log.add(event)
        if rng.random() < 0.2:
            log.flush()
    log.writer.close()
    return log.path


@mostly_deep("index", drawn=5)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("held", [0, 50, agents.HELD_EVENTS])
@pytest.mark.parametrize("seed", range(6))
def test_one_pass_gives_the_tables_of_whole_episodes(
    tmp_path: Path, seed: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "HELD_EVENTS", held)
    rng = np.random.default_rng(seed)
    events = recorded_events(tmp_path, rng)
    write(tmp_path, with_late_events(events, rng) if seed % 2 else events, rng)
    update_index(tmp_path)
    assert stored_tables(tmp_path) == whole_tables(tmp_path)


@mostly_deep("index", drawn=3)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("seed", range(8))
def test_a_log_that_grows_is_indexed_like_a_whole_one(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "HELD_EVENTS", 20)
    rng = np.random.default_rng(seed)
    events = recorded_events(tmp_path, rng)
    path = write(tmp_path, with_late_events(events, rng) if seed % 2 else events, rng)
    data = path.read_bytes()
    with LogReader(path) as reader:
        ends = [frame.end for frame in reader.frames[1:]]
    for end in sorted(rng.choice(ends, min(3, len(ends)), replace=False).tolist()):
        path.write_bytes(data[:end])
        update_index(tmp_path)
    path.write_bytes(data)
    update_index(tmp_path)
    assert stored_tables(tmp_path) == whole_tables(tmp_path)


@pytest.mark.slow
def test_making_rows_leaves_no_garbage_in_cycles(tmp_path: Path) -> None:
    state = {"n": [0]}

    def act() -> int:
        state["n"][0] += 1
        return state["n"][0]

    def n_unreachable(n_episodes: int) -> int:
        for _ in range(n_episodes):
            with trajrec.episode(tmp_path, watch=state) as ep:
                ep.tool(act)
                ep.call("act")
                ep.model(lambda **_: {"ok": True}, model="m", messages=[])
        trajrec.close_logs()
        gc.collect()
        gc.disable()
        try:
            update_index(tmp_path, rebuild=True)
            return gc.collect()
        finally:
            gc.enable()

    # The first index of a process imports modules, which leave garbage of their own.
    n_unreachable(1)
    # The collector is off meanwhile, so cycles of each episode would fill the memory.
    assert abs(n_unreachable(5) - n_unreachable(50)) < 50


@pytest.mark.slow
def test_an_index_that_needs_more_memory_than_its_limit_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trajrec.episode(tmp_path) as ep:
        ep.tool(lambda: "x" * 5_000_000, name="large")
        for _ in range(4):
            ep.call("large")
    trajrec.close_logs()
    # Of a value of such a size; a limit of a few MB is passed by far smaller logs.
    monkeypatch.setattr(file, "MEMORY_LIMIT", "4MB")
    assert update_index(tmp_path)
    assert len(stored_tables(tmp_path)["attempts"]) == 4
