"""A forked process has copies of its parent's pipes to worker processes, and leaves those alone."""

from __future__ import annotations

import gc
import os
import time
import warnings
from pathlib import Path

import gymnasium as gym
import pytest
from forked import ends_well

import trajrec
from trajrec.replay.processes.workers import map_ordered

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork processes"),
    pytest.mark.filterwarnings("ignore:.*fork"),
]


def square(number: int) -> int:
    time.sleep(0.01)
    return number * number


def test_forked_process_leaves_workers_to_its_parent() -> None:
    def caller() -> None:
        results = [map_ordered(square, range(60), 2)]
        numbers = [next(results[0])]

        def drop() -> None:
            results.clear()
            gc.collect()

        for _ in range(3):
            assert ends_well(drop)
            numbers.append(next(results[0]))
        assert numbers + list(results[0]) == [number * number for number in range(60)]

    assert ends_well(caller)


def test_forked_process_cannot_read_from_its_parents_workers() -> None:
    def caller() -> None:
        results = map_ordered(square, range(60), 2)
        numbers = [next(results)]

        def go_on() -> None:
            with pytest.raises(RuntimeError, match="begin anew in this one"):
                list(results)

        assert ends_well(go_on)
        assert numbers + list(results) == [number * number for number in range(60)]

    assert ends_well(caller)


def test_forked_process_leaves_audits_to_its_parent(tmp_path: Path) -> None:
    recorder = trajrec.record(gym.make("CartPole-v1"), tmp_path, audit=1.0)

    def play(seed: int) -> None:
        recorder.reset(seed=seed)
        while not any(recorder.step(1)[2:4]):
            pass

    def go_on() -> None:
        warnings.simplefilter("ignore")
        play(100)
        recorder.close()

    for seed in range(4):
        play(seed)
        assert ends_well(go_on)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recorder.close()
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT count(*), count(DISTINCT episode_id), bool_and(verdict) FROM checks"
        assert corpus.sql(query).fetchall() == [(4, 4, True)]
