"""Credit may ignore differences from the recording that a replay may ignore, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from tiers import mostly_deep

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.errors import DivergenceError, ReplayError
from trajrec.protocols import Tool
from trajrec.recording.event_log import close_logs
from trajrec.replay import credit
from trajrec.values.projection import Projection

DRIFT = 6e-17


class Walk(gym.Env[Any, Any]):
    """Adds a tenth for each action 1; on another machine its sums are rounded otherwise."""

    observation_space = gym.spaces.Box(-1e9, 1e9, (2,), np.float64)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, drift: float = 0.0, name: float = 1.0) -> None:
        self.drift = drift
        self.name = name
        self.place = 0.0
        self.n = 0

    def see(self) -> Any:
        return np.array([self.place, self.name])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = 0.1 + self.drift
        self.n = 0
        return self.see(), {}

    def step(self, action: Any) -> Any:
        self.place = 0.1 * (1 + self.n) * int(action) + 0.1 + self.drift
        self.n += 1
        return self.see(), float(action), self.n == 4, False, {}

    def get_state(self) -> Any:
        return {"place": self.place, "n": self.n, "name": self.name}

    def set_state(self, state: Any) -> None:
        self.place = state["place"]
        self.n = state["n"]


def drifting() -> Walk:
    return Walk(DRIFT)


def renamed() -> Walk:
    return Walk(name=2.0)


def record(folder: Path, **options: Any) -> Episode:
    recorder = trajrec.record(Walk(), folder, **options)
    recorder.reset(seed=1)
    for action in (1, 0, 1, 1):
        recorder.step(action)
    recorder.close()
    (episode,) = trajrec.open(folder).episodes()
    return episode


def one(observation: Any) -> int:
    return 1


@mostly_deep("credit", drawn=3)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("keep", ["all", "digests"])
@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("restore", ["auto", "reexecute"])
def test_floats_of_another_machine_may_be_ignored(
    tmp_path: Path, keep: Any, jobs: int, restore: Any
) -> None:
    episode = record(tmp_path, keep_states=keep)

    def values(**options: Any) -> Any:
        table = credit.estimate(
            episode,
            one,
            env=drifting,
            n_rollouts=4,
            folder=None,
            jobs=jobs,
            restore=restore,
            **options,
        )
        return [row.value for row in table.of("value")], table.notes

    with pytest.raises(ReplayError):
        values()
    numbers, notes = values(ulps=8)
    assert numbers == [4.0, 3.0, 2.0, 1.0]
    assert any("floats within 8 ulp" in note for note in notes)


def test_paths_and_projections_may_be_ignored(tmp_path: Path) -> None:
    episode = record(tmp_path, keep_states="all")

    def values(**options: Any) -> Any:
        table = credit.estimate(
            episode, one, env=renamed, n_rollouts=4, folder=None, steps=[1, 2], **options
        )
        return [row.value for row in table.of("value")], table.notes

    with pytest.raises(DivergenceError):
        values()
    with pytest.raises(DivergenceError):
        values(ignore=["observation/1"])
    numbers, notes = values(ignore=["observation/1", "state/name"])
    assert numbers == [3.0, 2.0]
    assert any("observation/1, state/name" in note for note in notes)
    rule = Projection("place", "1", leave_out=("observation/1", "state/name"))
    assert values(projection=rule)[0] == [3.0, 2.0]
    with pytest.raises(TypeError, match="list"):
        values(ignore="observation/1")
    with pytest.raises(ValueError, match="ulps"):
        values(ulps=-1)


class Scale:
    """A world whose weights are rounded otherwise on another machine."""

    def __init__(self, drift: float = 0.0) -> None:
        self.drift = drift
        self.n = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> str:
        self.n = 0
        return "Weigh."

    def tools(self) -> list[Tool]:
        return [Tool.with_args("weigh", "write")]

    def call(self, name: str, arguments: dict[str, Any], /) -> float:
        self.n += 1
        return 0.1 * self.n + self.drift

    def get_state(self) -> dict[str, float]:
        return {"n": self.n, "weight": 0.1 * (self.n + 1) + self.drift}

    def set_state(self, state: dict[str, float]) -> None:
        self.n = int(state["n"])

    def task_solved(self) -> bool:
        return self.n > 2


def test_floats_of_a_world_may_be_ignored(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, task="t", world=Scale()) as ep:
        for _ in range(3):
            ep.call("weigh")
    close_logs()
    episode = trajrec.open(tmp_path).episode(ep.id)

    def values(**options: Any) -> Any:
        table = credit.estimate(
            episode,
            lambda context: None,
            env=lambda: Scale(DRIFT),
            n_rollouts=4,
            folder=None,
            **options,
        )
        return [row.value for row in table.of("value")]

    with pytest.raises(DivergenceError):
        values()
    assert values(ulps=8) == [0.0, 0.0, 0.0]
