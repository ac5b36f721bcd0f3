"""What the tests share: environments that misbehave on purpose, and a witness of what an environment really returned."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from tiers import SEED

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.recording.event_log import close_logs


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tiers that neither `-m` nor the id of a test asks for.

    Without `-m` only the unmarked tests run. Deep tests run only if `-m` names them: an expression
    such as "not slow" must not take an hour.
    """
    if any("::" in argument for argument in config.args):
        return
    expression = config.option.markexpr

    def is_asked_for(item: pytest.Item) -> bool:
        is_slow = item.get_closest_marker("slow") is not None
        if not expression:
            return not is_slow and item.get_closest_marker("deep") is None
        return "deep" in expression or is_slow or item.get_closest_marker("deep") is None

    left_out = [item for item in items if not is_asked_for(item)]
    items[:] = [item for item in items if is_asked_for(item)]
    config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the seed of the drawn shares."""
    terminalreporter.write_line(f"Shares drawn by TRAJREC_SEED={SEED}")


@pytest.fixture(autouse=True)
def sealed() -> Iterator[None]:
    """Leave no agents' log open from one test to the next."""
    yield
    close_logs()


def only(folder: Path) -> Episode:
    """Return the only episode of a corpus."""
    (episode,) = trajrec.open(folder).episodes()
    return episode


class Witness(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps a deep copy of everything that went in and came out, episode by episode."""

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
        kept = copy.deepcopy(action)
        result = self.env.step(action)
        episode = self.episodes[-1]
        episode["actions"].append(kept)
        episode["observations"].append(copy.deepcopy(result[0]))
        episode["rewards"].append(copy.deepcopy(result[1]))
        episode["infos"].append(copy.deepcopy(result[4]))
        return result


class Scripted(gym.Env[Any, Any]):
    """Returns what a function of the step says: (observation, reward, terminated, truncated, info)."""

    action_space: gym.Space[Any] = gym.spaces.Discrete(1000)
    observation_space: gym.Space[Any] = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, at: Callable[[int], tuple[Any, Any, bool, bool, dict[str, Any]]]) -> None:
        self.at = at
        self.k = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.k = 0
        return self.at(-1)[0], {}

    def step(self, action: Any) -> Any:
        self.k += 1
        return self.at(self.k - 1)


def run(
    env: gym.Env[Any, Any],
    n_episodes: int = 1,
    *,
    seed: int | None = 0,
    policy: Callable[[Any], Any] | None = None,
) -> int:
    """Run episodes, seeded once; return how many steps they took."""
    if seed is not None:
        env.action_space.seed(seed)
    n_steps = 0
    for k in range(n_episodes):
        observation, _ = env.reset(seed=seed if k == 0 else None)
        done = False
        while not done:
            action = env.action_space.sample() if policy is None else policy(observation)
            observation, _, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
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
    """Record episodes; return the log."""
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
