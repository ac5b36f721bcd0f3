"""Worker processes that a thread has started go on when that thread ends."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import pytest

import trajrec
from trajrec.replay.processes.pickles import by_value
from trajrec.replay.processes.workers import Worker
from trajrec.types import Value


def in_thread(function: Callable[[], Value]) -> Value:
    """Return the result of a function from a thread that has ended."""
    results: list[Value] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def square(number: int) -> int:
    return number * number


def test_a_worker_outlives_the_thread_that_started_it() -> None:
    def begin() -> Worker:
        worker = Worker(by_value(square))
        worker.give(0, 3)
        # Once it answers, it is tied to its parent.
        assert worker.results() == ([(0, 9)], True)
        return worker

    for _ in range(2):
        worker = in_thread(begin)
        worker.give(1, 4)
        assert worker.results() == ([(1, 16)], True)
        worker.close()


def test_a_thread_learns_why_no_worker_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/no/such/program")

    def begin() -> Value:
        with pytest.raises(FileNotFoundError, match="/no/such/program"):
            Worker(by_value(square))
        return True

    assert in_thread(begin)


def test_episodes_of_threads_that_have_ended_are_audited(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path, audit=1.0)

    def play() -> bool:
        env.reset(seed=1)
        while not any(env.step(1)[2:4]):
            pass
        env.reset(seed=2)
        # The first report: the other process is at work.
        while not env.audits:
            env._collect(1.0)
        return True

    assert in_thread(play)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.step(1)
        env.close()
    assert [report.grade for report in env.audits] == ["exact"] * 2
