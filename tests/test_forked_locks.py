"""A forked process goes on although a thread that only its parent has held a lock."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from forked import ends_well

import trajrec
from trajrec.agents import capturing, freeze
from trajrec.corpus.state_history import StateHistory
from trajrec.datasets.spares import Spares
from trajrec.recording import event_log

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork processes"),
    pytest.mark.filterwarnings("ignore:.*fork"),
]


@contextmanager
def held(lock: AbstractContextManager[Any]) -> Iterator[None]:
    """Have another thread hold a lock."""
    is_held = threading.Event()
    is_over = threading.Event()

    def hold() -> None:
        with lock:
            is_held.set()
            is_over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.mark.parametrize("cache", [None, True])
def test_forked_process_reads_transitions_that_a_thread_reads(
    tmp_path: Path, cache: bool | None
) -> None:
    recorder = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    recorder.reset(seed=1)
    for _ in range(5):
        recorder.step(1)
    recorder.close()
    with trajrec.open(tmp_path) as corpus:
        data = corpus.transitions(batch_size=2, cache=cache)
        data.batch(0)

        def read() -> None:
            assert sum(len(batch["reward"]) for batch in data) == 5

        with held(data._lock):
            assert ends_well(read)
        assert sum(len(batch["reward"]) for batch in data) == 5


def test_forked_process_has_spare_arrays_of_its_own() -> None:
    spares = Spares()
    with held(spares._lock):
        assert ends_well(lambda: spares._lock.acquire())


@pytest.mark.parametrize("module", [event_log, capturing])
def test_forked_process_records_agents_while_threads_close_logs(
    tmp_path: Path, module: Any
) -> None:
    lock = module._open_logs_lock if module is event_log else module._lock

    def record() -> None:
        with trajrec.capture(tmp_path), trajrec.episode(tmp_path, task="inner") as episode:
            episode.tool(lambda x: x, name="same")(1)
        trajrec.close_logs()

    with held(lock):
        assert ends_well(record)
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT task, ending FROM episodes"
        assert corpus.sql(query).fetchall() == [("inner", "terminated")]


def test_forked_process_rebuilds_states_that_a_thread_rebuilds(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, world=trajrec.envs.Shop(seed=7), options={"task": 0}) as episode:
        order = episode.call("get_order", order="O1001")
        episode.call("refund_order", order="O1001", cents=order["cents"])
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        recorded = corpus.episode(episode.id)
        state = recorded.state(2)
        history = recorded.transcript.history
        assert isinstance(history, StateHistory)

        def look() -> None:
            assert recorded.state(1) != state
            assert recorded.state(2) == state

        with held(history._lock):
            assert ends_well(look)


def test_forked_process_calls_tools_while_a_thread_does(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, task="t") as ep:
        double = ep.tool(lambda x: 2 * x, name="double")

        def call() -> None:
            with pytest.warns(RuntimeWarning, match="cannot write its parent's log"):
                assert double(x=2) == 4

        with held(ep._steps.lock):
            assert ends_well(call)


def test_forked_process_seeds_generators_while_a_thread_does() -> None:
    def seed() -> None:
        with freeze.seeded_globals(3):
            first = random.random()
        with freeze.seeded_globals(3):
            assert random.random() == first

    with held(freeze._states._lock):
        assert ends_well(seed)
