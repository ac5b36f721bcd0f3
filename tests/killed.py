"""Programs that record and are killed. They report each call before and after it, in another way.

As a program it forks a child for each line of its standard input, so that no child imports anything:
a JSON list of a kind, the folder to record into, and the file of reports. It prints the child's pid.
A kind is one of `KINDS`, or a command line of trajrec.

A report is a line: "<" and a call before it, ">", the call and its result after it.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb  # noqa: F401 - imported before the forks
import gymnasium as gym
import h5py  # noqa: F401 - the same
import numpy as np

import trajrec
from trajrec.cli import main as cli
from trajrec.corpus import export_files, merging  # noqa: F401 - imported before the forks
from trajrec.exchange import exporting, importing, to_minari, to_parquet  # noqa: F401 - the same
from trajrec.recording.event_log import open_event_log
from trajrec.replay.credit import exporting as credit_exporting  # noqa: F401 - the same

Report = Callable[[str, Any], None]


class Room(gym.Env[Any, Any]):
    """An environment whose results follow from seed and step, of a kind of observations."""

    action_space: gym.Space[Any] = gym.spaces.Discrete(1 << 30)
    observation_space: gym.Space[Any] = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, kind: str = "numbers") -> None:
        self.kind = kind

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.seed = seed or 0
        self.k = 0
        return self.observation(), {}

    def step(self, action: Any) -> Any:
        self.k += 1
        info = {"k": self.k} if self.kind == "dicts" else {}
        return self.observation(), float(self.k), self.k == 300, False, info

    def observation(self) -> Any:
        if self.kind == "pixels":
            frame = np.zeros((40, 40), np.uint8)
            frame[self.k % 40, : 1 + self.seed % 40] = 7
            return frame
        if self.kind == "dicts":
            return {"k": self.k, "at": (np.array([self.k, self.seed]), f"step {self.k}")}
        return np.array([self.k, self.seed], np.float32)


def record_steps(kind: str, folder: str, report: Report) -> None:
    env = trajrec.record(Room(kind), folder, state=lambda env: {"k": env.unwrapped.k})
    for seed in itertools.count():
        env.reset(seed=seed)
        for k in range(300):
            report("<", [seed, k])
            reward = env.step(k)[1]
            report(">", [seed, k, reward])


def record_vectors(folder: str, report: Report) -> None:
    envs = gym.vector.SyncVectorEnv([Room] * 4)
    trajrec.record(envs, folder)
    envs.reset(seed=[0, 1000, 2000, 3000])
    for k in range(300):
        report("<", [k])
        envs.step(np.array([k] * 4))
        report(">", [k])
    os.kill(os.getpid(), signal.SIGSTOP)


def record_games(folder: str, report: Report) -> None:
    # Late: it may be missing.
    from pettingzoo.classic import tictactoe_v3

    env = trajrec.record(tictactoe_v3.env(), folder)
    for seed in itertools.count():
        rng = np.random.default_rng(seed)
        env.reset(seed=seed)
        for player in env.agent_iter():
            observation, _, is_over, _, _ = env.last()
            move = None if is_over else int(rng.choice(np.flatnonzero(observation["action_mask"])))
            report("<", [seed, player, move])
            env.step(move)
            report(">", [seed, player, move])


class Shelf:
    """A world with one shelf, whose tools report that they run."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.items: dict[str, int] = {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> str:
        self.items.clear()
        return "fill the shelf"

    def tools(self) -> list[trajrec.Tool]:
        return [trajrec.Tool("put", None, "write")]

    def call(self, name: str, arguments: dict[str, Any], /) -> Any:
        self.report("!", [arguments["episode"], arguments["n"]])
        self.items[str(arguments["n"] % 20)] = arguments["n"]
        return {"n": arguments["n"], "text": "x" * (arguments["n"] % 400)}

    def watch(self) -> dict[str, int]:
        return self.items


def call_tools(folder: str, report: Report, *, name: str = "0") -> None:
    for number in itertools.count():
        with trajrec.episode(folder, world=Shelf(report), task=f"{name}-{number}") as ep:
            for n in range(40):
                report("<", [ep.path.stem, f"{name}-{number}", n])
                ep.call("put", n=n, episode=f"{name}-{number}")
                report(">", [ep.path.stem, f"{name}-{number}", n])


def call_tools_in_threads(folder: str, report: Report) -> None:
    open_event_log(folder, "stop-recording", "process")
    for k in range(3):
        threading.Thread(
            target=call_tools, args=(folder, report), kwargs={"name": str(k)}, daemon=True
        ).start()
    signal.pause()


def pieces(n: int) -> Iterator[str]:
    """Answer in pieces; a few of them are more than the redactor holds back."""
    for k in range(n):
        yield f"{n}:{k} " + "word " * 20


def call_models(folder: str, report: Report) -> None:
    for number in itertools.count():
        with trajrec.episode(folder, task=str(number)) as ep:
            for n in range(30):
                report("<", [str(number), n])
                for piece in ep.model(pieces, n):
                    report("+", [str(number), n, piece])
                report(">", [str(number), n])


def always(state: Any) -> bool:
    return True


def run_command(command: str, report: Report) -> None:
    """Run a command line of trajrec, and wait to be killed."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - it is never closed
    report("<", command)
    status = cli.main(json.loads(command))
    report(">", status)
    signal.pause()


def hold_the_lock(folder: str, report: Report) -> None:
    """Make 3,000 steps, and then keep the interpreter's lock in C code."""
    env = trajrec.record(Room(), folder)
    for seed in range(10):
        env.reset(seed=seed)
        for k in range(300):
            env.step(k)
    report(">", [10, 300, 0.0])
    # A PyDLL keeps the lock while its functions run.
    ctypes.PyDLL(None).usleep(5_000_000)


KINDS: dict[str, Callable[[str, Report], None]] = {
    "numbers": lambda folder, report: record_steps("numbers", folder, report),
    "pixels": lambda folder, report: record_steps("pixels", folder, report),
    "dicts": lambda folder, report: record_steps("dicts", folder, report),
    "vectors": record_vectors,
    "games": record_games,
    "tools": call_tools,
    "threads": call_tools_in_threads,
    "models": call_models,
    "lock": hold_the_lock,
}


def run_child(kind: str, folder: str, reports: str) -> None:
    descriptor = os.open(reports, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def report(mark: str, call: Any) -> None:
        os.write(descriptor, f"{mark}{json.dumps(call)}\n".encode())

    try:
        if kind in KINDS:
            KINDS[kind](folder, report)
        else:
            run_command(kind, report)
    finally:
        os._exit(1)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        kind, folder, reports = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run_child(kind, folder, reports)
        print(pid, flush=True)


def read_reports(path: Path) -> dict[str, list[Any]]:
    """Return the reports by their mark. The last line may be torn."""
    reports: dict[str, list[Any]] = {mark: [] for mark in "<>!+"}
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            reports[chr(line[0])].append(json.loads(line[1:]))
    return reports


if __name__ == "__main__":
    main()
