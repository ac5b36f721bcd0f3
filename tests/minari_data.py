"""Small environments of each kind of space, and their recordings, for tests of Minari."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

import trajrec
from trajrec.corpus.corpus import Corpus
from trajrec.corpus.episode import Episode
from trajrec.exchange.export_reports import ExportReport
from trajrec.exchange.importing import import_trajectories
from trajrec.exchange.to_minari import export_minari
from trajrec.values.diff import is_same

SPACES: dict[str, tuple[spaces.Space[Any], spaces.Space[Any]]] = {
    "discrete": (spaces.Discrete(7, start=-2), spaces.Discrete(3)),
    "box": (
        spaces.Box(np.array([-1.5, -np.inf], np.float32), np.array([2, np.inf], np.float32)),
        spaces.Box(-1.0, 1.0, (2,), np.float32),
    ),
    "dict": (
        spaces.Dict(
            position=spaces.Box(-1.0, 1.0, (2, 2), np.float64),
            inner=spaces.Dict(on=spaces.MultiBinary(3), name=spaces.Text(9)),
        ),
        spaces.Dict(go=spaces.Discrete(2), at=spaces.Box(0, 9, (), np.int16)),
    ),
    "tuple": (
        spaces.Tuple((spaces.Discrete(4), spaces.MultiDiscrete([3, 2]))),
        spaces.Tuple((spaces.Discrete(2), spaces.Box(0.0, 1.0, (1,), np.float32))),
    ),
    "image": (spaces.Box(0, 255, (40, 36, 3), np.uint8), spaces.MultiDiscrete([2, 5])),
}
"""Name -> the spaces of observations and actions."""


class SampleEnv(gym.Env[Any, Any]):
    """Returns samples of a space. An even seed terminates it at step 4, an odd one truncates it at step 6."""

    def __init__(self, kind: str = "box") -> None:
        self.observation_space, self.action_space = SPACES[kind]
        self._step = 0
        self._seed = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._step = 0
        self._seed = 0 if seed is None else seed
        self.observation_space.seed(self._seed % 1000)
        return self._obs(), {"k": 0, "vector": np.zeros(2, np.float32), "inner": {"on": False}}

    def _obs(self) -> Any:
        return self.observation_space.sample()

    def step(self, action: Any) -> Any:
        self._step += 1
        is_even = self._seed % 2 == 0
        info = {
            "k": self._step,
            "vector": np.full(2, self._step, np.float32),
            "inner": {"on": True},
        }
        reward = np.float64(self._step / 3)
        return self._obs(), reward, is_even and self._step == 4, self._step == 6, info


for kind in SPACES:
    if f"trajrec-test/Sample-{kind}-v0" not in gym.registry:
        gym.register(
            f"trajrec-test/Sample-{kind}-v0", "minari_data:SampleEnv", kwargs={"kind": kind}
        )


def sample_env(kind: str) -> gym.Env[Any, Any]:
    """Return an environment of a kind."""
    return gym.make(f"trajrec-test/Sample-{kind}-v0", disable_env_checker=True)


def record_samples(kind: str, folder: Path, seeds: tuple[int, ...] = (2, 3)) -> None:
    """Record an episode for each seed."""
    with trajrec.record(sample_env(kind), folder, redact=False) as env:
        for seed in seeds:
            run_episode(env, seed)


def run_episode(env: gym.Env[Any, Any], seed: int, **options: Any) -> None:
    """Run an episode with random actions."""
    env.reset(seed=seed, **options)
    env.action_space.seed(seed)
    is_over = False
    while not is_over:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        is_over = bool(terminated or truncated)


def exported(runs: Path, dataset: Path, where: str = "true") -> ExportReport:
    """Export a corpus as a dataset."""
    with trajrec.open(runs) as corpus:
        return export_minari(corpus, dataset, where)


def imported(dataset: Path, folder: Path) -> Corpus:
    """Import a dataset."""
    import_trajectories(dataset, folder).raise_if_failed()
    return trajrec.open(folder)


def assert_same_episode(episode: Episode, other: Episode) -> None:
    """Check that two episodes have the same values, by type and bits."""
    for name in (
        "observations",
        "observation_values",
        "actions",
        "rewards",
        "reward_values",
        "terminations",
        "truncations",
        "reset_info",
        "infos",
        "ending",
        "n_steps",
    ):
        assert is_same(getattr(episode, name), getattr(other, name)), name
    assert episode.start is not None
    assert other.start is not None
    assert episode.start.seed == other.start.seed
    assert episode.start.options_data == other.start.options_data
