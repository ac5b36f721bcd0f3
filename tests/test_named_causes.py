"""A cause is named only if experiments show it; chance, or a thing that is merely there, is none."""

from __future__ import annotations

import gc
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import broken
import gymnasium as gym
import numpy as np
import pytest
from tiers import spread, third_slow

import trajrec
from trajrec.replay import replay_episode, replay_episodes
from trajrec.replay.diagnose.cause import TrialResult, find_cause
from trajrec.replay.diagnose.trials import REPEATS, Trials
from trajrec.replay.execute.report import Divergence

NAMED = ("clock", "global random", "unseeded generator", "network", "addresses", "hash order")


def cause_of(read: Callable[[], float]) -> str:
    """Return the cause that is found for a value that replaces a recorded one."""

    def run() -> TrialResult:
        actual = read()
        return TrialResult(Divergence(step=1, field="observation", expected=-1.0, actual=actual))

    divergence = run().divergence
    assert divergence is not None
    # No episode is read without other processes, unless the value repeats itself.
    return find_cause(None, divergence, run)  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", spread("replay", [[1, 1], [9, 1], [1, 1, 18]], drawn=1))
def test_chance_is_hardly_ever_named_as_a_cause(
    weights: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its own entropy: no condition holds it still.
    draw = random.Random(5)
    values = [float(k) for k in range(len(weights))]
    monkeypatch.setattr(
        "trajrec.replay.diagnose.cause._cause_by_change", lambda *arguments: "the environment"
    )
    causes = [cause_of(lambda: draw.choices(values, weights)[0]) for _ in range(30)]
    n_named = sum(cause.startswith(NAMED) for cause in causes)
    assert n_named <= 2, (n_named, set(causes))


def test_a_condition_that_decides_nothing_costs_one_trial() -> None:
    n_trials = 0

    def read() -> float:
        nonlocal n_trials
        n_trials += 1
        return 3.0

    trials: Trials[float] = Trials(read, lambda a, b: a == b)
    assert n_trials == REPEATS
    assert not trials.shows([nullcontext, nullcontext])
    assert n_trials == REPEATS + 2


def test_a_variant_that_repeats_nothing_shows_nothing() -> None:
    held: list[str] = []

    @contextmanager
    def hold(name: str) -> Iterator[None]:
        held.append(name)
        yield
        held.clear()

    seen: list[float] = []

    def read() -> float:
        # Under the first variant as unchanged at the first trial alone; under the second another.
        seen.append(0.0)
        if held == ["first"]:
            return float(seen.count(0.0) % 2)
        return 5.0 if held else 1.0

    trials: Trials[float] = Trials(read, lambda a, b: a == b)
    seen[:] = []
    assert not trials.shows([lambda: hold("first"), lambda: hold("second")])
    assert trials.shows([nullcontext, lambda: hold("second")])


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("read", "cause"),
    [
        (lambda: time.time(), "clock"),
        (lambda: -time.perf_counter() + time.perf_counter(), "clock"),
        (lambda: float(time.time() > 0 and random.random() < 0.3), "global random"),
        (lambda: float(np.random.default_rng().random() < 0.5), "unseeded generator"),
        (lambda: float(random.Random().random() < 0.5), "unseeded generator"),
    ],
)
def test_each_cause_is_named_also_with_two_outcomes(read: Callable[[], float], cause: str) -> None:
    assert cause_of(read).startswith(cause)


class ReadsTime:
    """Garbage that only a collection finds, and that reads the time as it goes."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        time.time()


@pytest.mark.slow
def test_finalizers_of_old_garbage_hide_no_cause() -> None:
    def read() -> float:
        # A collection comes at any moment, and finds what earlier trials have left.
        gc.collect()
        seconds = time.time()
        for _ in range(1 + os.urandom(1)[0] % 8):
            ReadsTime()
        return seconds

    gc.disable()
    try:
        assert cause_of(read).startswith("clock")
    finally:
        gc.enable()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no command `date`")
def test_the_time_of_another_process_is_unknown() -> None:
    cause = cause_of(lambda: float(subprocess.check_output(["date", "+%s%N"])))
    assert cause.startswith("unknown")


class Echo:
    """A server that answers each connection with the same bytes, or with a count."""

    def __init__(self, *, counts: bool) -> None:
        self.counts = counts
        self.n = 0
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = self.server.getsockname()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            self.n += self.counts
            with connection:
                connection.sendall(b"%d\n" % self.n)

    def ask(self) -> float:
        with socket.create_connection(self.address) as connection, connection.makefile() as file:
            return float(file.readline())


def test_a_socket_is_a_cause_only_if_its_answers_are() -> None:
    driver = Echo(counts=False)
    cause = cause_of(lambda: driver.ask() + float.fromhex(os.urandom(4).hex()))
    assert not cause.startswith("network")
    noise = iter(range(10**6))
    cause = cause_of(lambda: driver.ask() + next(noise))
    assert cause.startswith("unknown")
    assert f"connected to 127.0.0.1:{driver.address[1]}" in cause
    service = Echo(counts=True)
    assert cause_of(service.ask).startswith("network: the environment connected to 127.0.0.1:")
    for echo in (driver, service):
        echo.server.close()


def test_answers_are_a_cause_on_systems_without_msg_dontwait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Windows has none.
    monkeypatch.delattr(socket, "MSG_DONTWAIT")
    service = Echo(counts=True)
    assert cause_of(service.ask).startswith("network: the environment connected to 127.0.0.1:")
    service.server.close()


class Shown(broken.Sound):
    """Its info shows the object itself, as text and as an object that cannot be stored."""

    def __init__(self, as_text: bool, shift: float = 0.0) -> None:
        super().__init__()
        self.as_text = as_text
        self.shift = shift

    def step(self, action: Any) -> Any:
        observation, *rest, _ = super().step(action)
        return observation, *rest, {"who": object.__repr__(self) if self.as_text else self}


@pytest.mark.parametrize("as_text", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_an_address_in_a_text_is_named_as_one(tmp_path: Path, as_text: bool) -> None:
    recorder = trajrec.record(Shown(as_text), tmp_path)
    recorder.reset(seed=1)
    recorder.step(1)
    recorder.close()
    (episode,) = trajrec.open(tmp_path).episodes()
    report = replay_episode(episode, env=lambda: Shown(as_text))
    assert report.divergence is not None
    assert report.divergence.cause.startswith("addresses: a text shows the address of an object")
    ignored = replay_episode(episode, env=lambda: Shown(as_text), ignore=["info/who"])
    assert ignored.grade == "state"


class ThreeValues(gym.Env[Any, Any]):
    """Shows one of three values that nobody seeds."""

    observation_space = gym.spaces.Discrete(3)
    action_space = gym.spaces.Discrete(2)
    draw = random.Random(11)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: Any) -> Any:
        return self.draw.randrange(3), 0.0, True, False, {}


@pytest.mark.slow
def test_three_unseeded_values_are_no_state_carried_over(tmp_path: Path) -> None:
    recorder = trajrec.record(ThreeValues(), tmp_path)
    for seed in range(200):
        recorder.reset(seed=seed)
        recorder.step(1)
    recorder.close()
    reports = list(
        replay_episodes(trajrec.open(tmp_path).episodes(), env=ThreeValues, explain=False)
    )
    n_carried = sum("carries state" in str(report) for report in reports)
    n_exact = sum(report.grade == "exact" for report in reports)
    assert n_carried <= 2
    assert 40 < n_exact < 95


class NewSpaces(ThreeValues):
    """Makes its spaces anew in each reset, and draws from one that nobody seeded."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.action_space = gym.spaces.Discrete(3)
        return 0, {"action": int(self.action_space.sample())}

    def step(self, action: Any) -> Any:
        return 0, 0.0, True, False, {}


@pytest.mark.slow
@third_slow("replay")
def test_a_generator_of_few_values_is_named_as_unseeded(tmp_path: Path) -> None:
    recorder = trajrec.record(NewSpaces(), tmp_path)
    for seed in range(12):
        recorder.reset(seed=seed)
        recorder.step(0)
    recorder.close()
    reports = replay_episodes(trajrec.open(tmp_path).episodes(), env=NewSpaces)
    causes = [report.divergence.cause for report in reports if report.divergence is not None]
    assert len(causes) >= 3
    assert {cause.partition(":")[0] for cause in causes} == {"unseeded generator"}


class Leaking(ThreeValues):
    """Shows how often it was reset, which a fresh environment shows as 1."""

    n_resets = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.n_resets += 1
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        return min(self.n_resets, 2), 0.0, True, False, {}


def test_state_carried_over_is_still_known_as_such(tmp_path: Path) -> None:
    for _ in range(3):
        recorder = trajrec.record(Leaking(), tmp_path)
        recorder.reset(seed=1)
        recorder.step(1)
        recorder.close()
    reports = list(replay_episodes(trajrec.open(tmp_path).episodes(), env=Leaking))
    assert [report.grade for report in reports] == ["exact"] * 3
    assert ["carries state" in str(report) for report in reports] == [False, True, True]
