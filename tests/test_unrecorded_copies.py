"""Copies of recorded environments: they go on alone, and leave the recording as it is."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import only

import trajrec
from trajrec.replay import credit, replay_episode


@pytest.fixture
def env(tmp_path: Path) -> Any:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    env.reset(seed=1)
    env.step(0)
    return env


def test_a_deep_copy_goes_on_unrecorded(env: Any, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="a copy of a recorded environment is not recorded"):
        planned = copy.deepcopy(env)
    for _ in range(3):
        planned.step(1)
    planned.reset(seed=5)
    after, *_ = env.step(1)
    env.close()
    episode = only(tmp_path)
    assert episode.n_steps == 2
    assert replay_episode(episode).grade == "exact"

    bare = gym.make("CartPole-v1")
    bare.reset(seed=1)
    bare.step(0)
    assert np.array_equal(after, bare.step(1)[0])


def test_a_wrapper_outside_is_copied_too(env: Any, tmp_path: Path) -> None:
    outer = gym.wrappers.TransformReward(env, lambda reward: 2.0 * float(reward))
    with pytest.warns(UserWarning, match="not recorded"):
        planned = copy.deepcopy(outer)
    assert planned.step(1)[1] == 2.0
    env.close()
    assert only(tmp_path).n_steps == 1


@pytest.mark.parametrize("take", [copy.copy, pickle.dumps], ids=["copy", "pickle"])
def test_a_recorder_itself_is_never_copied(env: Any, take: Any) -> None:
    with pytest.raises(TypeError, match="make and record it in the process that steps it"):
        take(env)
    env.close()


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("kind", ["aec", "parallel"])
def test_players_environments_are_copied_unrecorded(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("pettingzoo", reason="pip install 'trajrec[pettingzoo]'")
    rps: Any = pytest.importorskip("pettingzoo.classic.rps_v2", reason="pip install pygame-ce")
    env: Any = trajrec.record(rps.env() if kind == "aec" else rps.parallel_env(), tmp_path)
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="not recorded"):
        planned = copy.deepcopy(env)
    # PettingZoo's own copies of this one are fresh.
    planned.reset(seed=1)
    planned.step(0 if kind == "aec" else dict.fromkeys(planned.agents, 0))
    with pytest.raises(TypeError, match="make and record it"):
        pickle.dumps(env)
    env.close()
    assert list(trajrec.open(tmp_path).episodes()) == []


class Planner:
    """A policy that holds a recorded environment, and counts its decisions in it."""

    def __init__(self, env: Any) -> None:
        self.simulator = env

    def __call__(self, observation: Any) -> int:
        self.simulator.unwrapped.decisions = getattr(self.simulator.unwrapped, "decisions", 0) + 1
        return int(self.simulator.unwrapped.decisions) % 2


def test_a_recorder_that_a_policy_holds_is_never_replaced(env: Any, tmp_path: Path) -> None:
    for _ in range(3):
        env.step(0)
    env.close()
    planner = Planner(env)
    with pytest.raises(TypeError, match="options cannot be sent to another process"):
        credit.estimate(only(tmp_path), planner, n_rollouts=8)
    assert planner.simulator is env
