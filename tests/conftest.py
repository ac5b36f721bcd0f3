"""Helpers of all tests: a scripted environment, a witness of an environment's results, loops."""

from __future__ import annotations

import copy
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from tiers import SEED, comes_up, deep, drawn_cases

import trajrec
from trajrec.agents.context import current_episode
from trajrec.corpus.episode import Episode
from trajrec.log import flusher
from trajrec.recording.event_log import close_logs


def pytest_configure() -> None:
    """Run the tests as on a desk: in CI `trajrec replay` keeps no verdicts."""
    os.environ.pop("CI", None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tiers that neither `-m` nor the id of a test asks for.

    Without `-m` only the unmarked tests run. Deep tests run only if `-m` names them: an expression
    such as "not slow" must not take an hour.
    """
    mark_most_cases_slow(items)
    not_drawn = mark_slow_cases_deep(items)
    if any("::" in argument for argument in config.args):
        return
    expression = config.option.markexpr

    def is_asked_for(item: pytest.Item) -> bool:
        is_slow = item.get_closest_marker("slow") is not None
        is_deep = item.get_closest_marker("deep") is not None
        if not expression:
            return not is_slow and not is_deep
        return "deep" in expression or (is_slow and item not in not_drawn) or not is_deep

    left_out = [item for item in items if not is_asked_for(item)]
    items[:] = [item for item in items if is_asked_for(item)]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def no_leftovers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect what a client has left open while its test still lets it warn.

    The warning would fail another test, the one that runs when Python collects.
    """
    yield
    if any(mark.args == ("default",) for mark in request.node.iter_markers("filterwarnings")):
        gc.collect()


def mark_most_cases_slow(items: list[pytest.Item]) -> None:
    """Make the cases of each test marked `mostly_slow(n)` slow, but n that are spread over them."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("mostly_slow") is not None:
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for group in cases.values():
        marker = group[0].get_closest_marker("mostly_slow")
        assert marker is not None
        (n,) = marker.args
        kept = {k * len(group) // n for k in range(n)}
        for k, item in enumerate(group):
            if k not in kept:
                item.add_marker("slow")


def mark_slow_cases_deep(items: list[pytest.Item]) -> set[pytest.Item]:
    """Mark the slow cases deep whose test is `mostly_deep` or `third_slow`; return those that were not drawn."""
    cases: dict[str, list[pytest.Item]] = {}
    not_drawn: set[pytest.Item] = set()
    for item in items:
        if item.get_closest_marker("slow") is None:
            continue
        if (marker := item.get_closest_marker("third_slow")) is not None:
            item.add_marker(deep(*marker.args))
            if not comes_up(item):
                not_drawn.add(item)
        elif (marker := item.get_closest_marker("mostly_deep")) is not None:
            part, _drawn = marker.args
            item.add_marker(deep(part))
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for name, group in cases.items():
        not_drawn |= set(group) - set(drawn_cases(name, group))
    return not_drawn


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the seed of the drawn shares."""
    terminalreporter.write_line(f"Shares drawn by TRAJREC_SEED={SEED}")


@pytest.fixture(autouse=True)
def sealed() -> Iterator[None]:
    """Close the logs of agents after each test, so that the next one opens its own."""
    yield
    close_logs()
    if current_episode() is not None:
        # The traceback of an exception may have kept an episode that was broken off.
        gc.collect()
        assert current_episode() is None, "the episodes of the next tests would be nested"


@pytest.fixture
def no_flusher(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have nothing written in the background: the journal keeps all as long as it has room."""
    # One of its own: the thread of the other one may still wait for its next turn.
    own = flusher.Flusher()
    monkeypatch.setattr(flusher, "FLUSH_S", 1e6)
    monkeypatch.setattr(flusher, "_the_flusher", own)
    yield
    # The thread ends as soon as it has no writers.
    own.wake_up()


@pytest.fixture(autouse=True)
def forgotten(tmp_path: Path) -> Iterator[None]:
    """Forget the modules that a test wrote, so that the next one may use their names."""
    before = set(sys.modules)
    yield
    # Only the new ones: there are thousands, and to ask each takes as long as a short test.
    for name in sys.modules.keys() - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(f"{tmp_path}{os.sep}"):
            del sys.modules[name]


def only(folder: Path) -> Episode:
    """Return the only episode of a corpus."""
    (episode,) = trajrec.open(folder).episodes()
    return episode


def rows(folder: Path, query: str) -> list[Any]:
    """Return the rows of a query of a corpus."""
    with trajrec.open(folder) as corpus:
        return corpus.sql(query).fetchall()


class Witness(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps a deep copy of all actions and of all results, episode by episode."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.episodes: list[dict[str, list[Any]]] = []

    def reset(self, **kwargs: Any) -> Any:
        observation, info = self.env.reset(**kwargs)
        self.episodes.append(
            {
                "observations": [copy.deepcopy(observation)],
                "actions": [],
                "rewards": [],
                "infos": [],
                "reset_info": [info],
            }
        )
        return observation, info

    def step(self, action: Any) -> Any:
        # Before the step: an environment may change the action.
        action_before = copy.deepcopy(action)
        result = self.env.step(action)
        episode = self.episodes[-1]
        episode["actions"].append(action_before)
        episode["observations"].append(copy.deepcopy(result[0]))
        episode["rewards"].append(copy.deepcopy(result[1]))
        episode["infos"].append(copy.deepcopy(result[4]))
        return result


class Scripted(gym.Env[Any, Any]):
    """Returns the result that a function has for each step; step -1 is the reset.

    The result is (observation, reward, terminated, truncated, info).
    """

    action_space: gym.Space[Any] = gym.spaces.Discrete(1000)
    observation_space: gym.Space[Any] = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(
        self, result_of: Callable[[int], tuple[Any, Any, bool, bool, dict[str, Any]]]
    ) -> None:
        self.result_of = result_of
        self.k = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.k = 0
        return self.result_of(-1)[0], {}

    def step(self, action: Any) -> Any:
        self.k += 1
        return self.result_of(self.k - 1)


def run(
    env: gym.Env[Any, Any],
    n_episodes: int = 1,
    *,
    seed: int | None = 0,
    policy: Callable[[Any], Any] | None = None,
) -> int:
    """Run episodes, seeded once; return the number of steps."""
    if seed is not None:
        env.action_space.seed(seed)
    n_steps = 0
    for k in range(n_episodes):
        observation, _ = env.reset(seed=seed if k == 0 else None)
        is_over = False
        while not is_over:
            action = env.action_space.sample() if policy is None else policy(observation)
            observation, _, terminated, truncated, _ = env.step(action)
            is_over = terminated or truncated
            n_steps += 1
    return n_steps


def record(
    env: gym.Env[Any, Any],
    folder: Path,
    n_episodes: int = 1,
    *,
    seed: int | None = 0,
    **options: Any,
) -> Path:
    """Record episodes; return the path of the log."""
    recorder = trajrec.record(env, folder, **options)
    try:
        run(recorder, n_episodes, seed=seed)
    finally:
        recorder.close()
    return recorder.path


@pytest.fixture
def cartpole(tmp_path: Path) -> Iterator[trajrec.Corpus]:
    """A corpus of five random CartPole episodes."""
    record(gym.make("CartPole-v1"), tmp_path / "runs", 5)
    with trajrec.open(tmp_path / "runs") as corpus:
        yield corpus
