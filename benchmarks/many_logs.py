"""`python -m benchmarks.many_logs`: the cost of a folder of very many logs with nothing new.

The figures are compared with their goals, which are for 100,000 logs in 100 folders and a million episodes.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgspec

import trajrec
from benchmarks import scratch_folder
from trajrec.corpus.index.file import update_index
from trajrec.log.reader import LogReader
from trajrec.log.sealing import chunk_returns, new_header_frame, write_sealed
from trajrec.log.writer import new_log_id

N_FOLDERS = 100
N_EPISODES = 10
N_TIMES = 9


@dataclasses.dataclass
class Renamed:
    """A log under another id, as `write_sealed` reads it."""

    header: Any
    path: Path
    trailer: None = None


def record_one(folder: Path) -> Path:
    """Record a log of short episodes."""
    env = trajrec.record(gym.make("CartPole-v1"), folder)
    for seed in range(N_EPISODES):
        env.reset(seed=seed)
        for _ in range(3):
            env.step(0)
    env.close()
    return env.path


def multiply(source: Path, folder: Path, n_logs: int) -> None:
    """Write a log many times, each time under another id: recording them would take minutes."""
    with LogReader(source) as reader:
        frames = [
            reader.raw_frame(index)._replace(
                chunk=reader.chunk(index).record, returns=chunk_returns(reader.chunk(index))
            )
            for index in range(1, len(reader.frames))
        ]
        for number in range(n_logs):
            header = msgspec.structs.replace(reader.header, log_id=new_log_id())
            renamed: Any = Renamed(header, source)
            place = folder / f"{number % N_FOLDERS:03d}"
            place.mkdir(exist_ok=True)
            with (place / f"{header.log_id}.trj").open("wb") as file:
                write_sealed(file, renamed, [new_header_frame(renamed), *frames])


def report(name: str, act: Callable[[], object], goal_ms: float) -> None:
    """Print the median of the wall time of an action."""
    times = []
    for _ in range(N_TIMES):
        begin = time.perf_counter()
        act()
        times.append((time.perf_counter() - begin) * 1e3)
    print(f"{name}: {statistics.median(times):.1f} ms (goal: {goal_ms:g})")


def main() -> None:
    """Make the logs, index them, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_logs", description=__doc__)
    parser.add_argument("--logs", type=int, default=100_000)
    n_logs = parser.parse_args().logs
    folder = scratch_folder()
    multiply(record_one(scratch_folder()), folder, n_logs)
    begin = time.process_time()
    update_index(folder)
    index_us = (time.process_time() - begin) / n_logs * 1e6
    print(f"{n_logs} logs in {N_FOLDERS} folders: {index_us:.0f} us CPU a log to index them")
    # A folder is listed again if it was indexed soon after its last change.
    time.sleep(2.5)
    update_index(folder)
    report("open", lambda: trajrec.open(folder).close(), 150)
    with trajrec.open(folder) as corpus:
        report("SELECT 1", lambda: corpus.sql("SELECT 1").fetchall(), 5)
        query = "SELECT episode_id FROM episodes USING SAMPLE 100"
        ids = itertools.cycle([row[0] for row in corpus.sql(query).fetchall()])
        report("episode(id)", lambda: corpus.episode(next(ids)), 1)
    command = [sys.executable, "-m", "trajrec", "ls", str(folder)]
    report("trajrec ls", lambda: subprocess.run(command, check=True, capture_output=True), 500)
    touched = sorted((folder / "000").glob("*.trj"))
    with trajrec.open(folder) as corpus:
        for path in touched:
            os.utime(path)
        (folder / "000" / "note.txt").touch()
        begin = time.process_time()
        corpus.refresh()
        us = (time.process_time() - begin) / len(touched) * 1e6
        print(f"a file whose time has changed: {us:.0f} us CPU (goal: 50)")


if __name__ == "__main__":
    main()
