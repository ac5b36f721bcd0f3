"""Several processes build the index that one builds."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import gymnasium as gym
import numpy as np
import pytest
from conftest import record
from random_agents import record_agents
from random_logs import record_env
from tiers import Share, suite, third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.index import parts
from trajrec.corpus.index.catalog_tables import CATALOG
from trajrec.corpus.index.file import INDEX_NAME, update_index
from trajrec.corpus.index.parts import Part, Task
from trajrec.corpus.index.tables import EPISODE_TABLES, TABLES
from trajrec.log.reader import LogReader
from trajrec.replay.processes.workers import map_ordered


def record_all_kinds(folder: Path) -> None:
    """Record a corpus of logs of all kinds, one of them damaged, one no log, one a copy."""
    rng = np.random.default_rng(5)
    for k in range(8):
        (record_agents if k % 2 else record_env)(folder / str(k), rng)
    trajrec.close_logs()
    record(gym.make("CartPole-v1"), folder, 30)
    logs = sorted(folder.rglob("*.trj"))
    (folder / "copy.trj").write_bytes(logs[0].read_bytes())
    damaged = bytearray(logs[1].read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    logs[1].write_bytes(damaged)
    (folder / "none.trj").write_text("no log")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    record_all_kinds(folder)
    return folder


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have many tasks, though the logs are small."""
    monkeypatch.setattr(parts, "_TASK_BYTES", 1 << 12)
    monkeypatch.setattr(parts, "_MIN_BYTES", 0)


def stored(folder: Path) -> dict[str, list[Any]]:
    with duckdb.connect(str(folder / INDEX_NAME), read_only=True) as con:
        return {
            name: con.execute(f"SELECT * FROM {name} ORDER BY ALL").fetchall()
            for name in (*(table.name for table in EPISODE_TABLES), *CATALOG)
        }


def here(function: Callable[[Task], Part], tasks: Iterable[Task]) -> Iterator[object]:
    return map(function, tasks)


def build(folder: Path, run: parts.RunTasks | None) -> dict[str, list[Any]]:
    assert update_index(folder, rebuild=True, run=run)
    tables = stored(folder)
    # Whether a folder has settled depends on the time.
    tables["folders"] = [row[:-1] for row in tables["folders"]]
    return tables


@pytest.mark.slow
@pytest.mark.usefixtures("small_tasks")
def test_parts_give_the_index_of_one_process(recorded: Path) -> None:
    assert build(recorded, here) == build(recorded, None)


@pytest.mark.slow
@pytest.mark.usefixtures("small_tasks")
def test_two_processes_give_the_index_of_one(recorded: Path) -> None:
    run = functools.partial(map_ordered, jobs=2)
    assert build(recorded, run) == build(recorded, None)


def die(function: Callable[[Task], Part], task: Task) -> Part:
    if any("2/" in reading.logs[0] for reading in task.readings):
        os.kill(os.getpid(), signal.SIGKILL)
    return function(task)


@pytest.mark.slow
@third_slow("index")
@pytest.mark.usefixtures("small_tasks")
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_logs_of_a_process_that_dies_are_indexed(recorded: Path) -> None:
    def run(function: Callable[[Task], Part], tasks: Iterable[Task]) -> Iterator[object]:
        return map_ordered(functools.partial(die, function), tasks, 2)

    assert build(recorded, run) == build(recorded, None)


@pytest.mark.slow
@pytest.mark.usefixtures("small_tasks")
def test_error_of_reading_in_a_part_is_tried_again(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = build(recorded, None)
    chunks = LogReader.chunks
    n_left = [3]

    def fail(reader: LogReader, start: int = 0) -> Any:
        for chunk in chunks(reader, start):
            yield chunk
            if n_left[0]:
                n_left[0] -= 1
                raise trajrec.errors.LogError("cannot be read: a fault", path=reader.path)

    monkeypatch.setattr(LogReader, "chunks", fail)
    update_index(recorded, rebuild=True, run=here)
    n_left[0] = 0
    assert update_index(recorded)
    found = stored(recorded)
    for name in ("episodes", "steps", "attempts"):
        if name in expected:
            assert sorted(map(repr, found[name])) == sorted(map(repr, expected[name])), name


def index_command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "trajrec", "index", str(folder), *options]


def seen(folder: Path) -> dict[str, list[Any]]:
    """Return the rows of the tables, as users see them."""
    with trajrec.open(folder) as corpus:
        return {
            table.name: corpus.sql(f"SELECT * FROM {table.name} ORDER BY ALL").fetchall()
            for table in TABLES
        }


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@suite("index", fixed=0, drawn=5, whole=150)
def test_builder_that_is_killed_loses_nothing(share: Share, recorded: Path) -> None:
    rng = share.rng()
    begin = time.monotonic()
    subprocess.run(index_command(recorded, "--rebuild"), check=False, capture_output=True)
    longest_s = time.monotonic() - begin
    expected = seen(recorded)
    for number in range(share.size or 0):
        options = ["--rebuild"] + ["--jobs", "2"] * (number % 2)
        process = subprocess.Popen(
            index_command(recorded, *options),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(rng.uniform(0, longest_s))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert seen(recorded) == expected


@suite("index", fixed=0, drawn=2, whole=40)
def test_two_builders_at_once_lose_nothing(share: Share, recorded: Path) -> None:
    expected = seen(recorded)
    for number in range(share.size or 0):
        rebuild = ["--rebuild"] * (number % 2)
        builders = [
            subprocess.Popen(
                index_command(recorded, *options),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for options in (["--rebuild"], rebuild)
        ]
        assert seen(recorded) == expected
        for builder in builders:
            # There is a damaged log.
            assert builder.wait() == 3
        assert seen(recorded) == expected


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows deletes no file that is open")
def test_rebuild_leaves_the_file_of_another_builder(recorded: Path) -> None:
    update_index(recorded)
    file = recorded / INDEX_NAME
    before = file.stat().st_ino
    other = (
        "import os, sys; from trajrec.log.locks import try_hold; "
        "assert try_hold(os.open(sys.argv[1], os.O_RDONLY)); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", other, str(file.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as builder:
        assert builder.stdout is not None
        builder.stdout.readline()
        assert not update_index(recorded, rebuild=True)
        assert file.stat().st_ino == before
        builder.communicate()
    assert update_index(recorded, rebuild=True)


@pytest.mark.slow
def test_index_that_cannot_be_committed_is_not_needed(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = seen(recorded)

    def fail(*_: object) -> None:
        raise duckdb.TransactionException("Failed to commit: Could not write file")

    monkeypatch.setattr("trajrec.corpus.index.file._update", fail)
    assert not update_index(recorded, rebuild=True)
    assert seen(recorded) == expected


@pytest.mark.slow
def test_sets_have_one_order_in_every_process() -> None:
    code = (
        "from trajrec.values.json import to_json, to_canonical_json\n"
        "value = {'tools': {'b', 'a', 'c', 7, (1, 'x')}, 'more': [frozenset('abcdef')]}\n"
        "print(to_json(value), to_canonical_json(value))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(4)
    }
    assert len(texts) == 1


@pytest.mark.slow
def test_command_builds_with_several_processes(
    recorded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_MIN_BYTES", 0)
    assert main(["index", str(recorded), "--rebuild"]) == 3  # there is a damaged log
    expected = capsys.readouterr().out
    assert main(["index", str(recorded), "--rebuild", "--jobs", "2"]) == 3
    assert capsys.readouterr().out == expected


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads by /proc")
def test_no_thread_outlives_its_corpus(recorded: Path) -> None:
    # One that did could end the process by a signal while the interpreter ends.
    code = (
        "import os, sys, trajrec, trajrec.corpus.sandbox as sandbox\n"
        "for sealed in (None, sandbox.Sandbox()):\n"
        "    with trajrec.open(sys.argv[1], sandbox=sealed) as corpus:\n"
        "        corpus.sql('SELECT count(*) FROM steps').fetchall()\n"
        "        list(corpus.episodes(\"env_id = 'CartPole-v1'\"))\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(recorded)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["1"]
