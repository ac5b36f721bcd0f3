"""Programs that have NumPy raise for overflows and invalid values (`np.seterr`): it is for their own arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from tiers import third_slow

import trajrec
from trajrec.corpus.export_files import export_transitions
from trajrec.replay import credit, fork_many, replay_episodes

EXTREMES = [math.nan, math.inf, -math.inf, 5e-324, 1e308, -1e308, 1e-310, -0.0, 2.0**63, 0.1]


@pytest.fixture(autouse=True)
def raising() -> Iterator[None]:
    with np.errstate(all="raise"):
        yield


class Extreme(gym.Env[Any, Any]):
    """Numbers at the ends of the range, in each part of a step."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (6,), np.float64)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, kind: type = float) -> None:
        self.kind = kind

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.look(), {}

    def look(self) -> Any:
        return np.array([EXTREMES[(7 * self.t + k) % len(EXTREMES)] for k in range(6)])

    def step(self, action: Any) -> Any:
        self.t += 1
        with np.errstate(all="ignore"):
            reward = self.kind(EXTREMES[self.t % len(EXTREMES)])
        return self.look(), reward, self.t >= 25, False, {"bound": reward}

    def get_state(self) -> Any:
        return {"t": self.t, "seen": self.look()}

    def set_state(self, state: Any) -> None:
        self.t = state["t"]


class Half(Extreme):
    def __init__(self) -> None:
        super().__init__(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("make", [Extreme, Half])
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.filterwarnings("ignore:the environment:UserWarning")
def test_extreme_numbers_pass_through_each_part(tmp_path: Path, make: Any) -> None:
    env = trajrec.record(make(), tmp_path / "runs")
    for seed in range(3):
        env.reset(seed=seed)
        while not env.step(seed % 2)[2]:
            pass
    env.close()
    with trajrec.open(tmp_path / "runs") as corpus:
        assert corpus.sql("SELECT DISTINCT total_reward FROM episodes").fetchall() == [(None,)]
        assert corpus.sql("SELECT count(*) FROM steps WHERE reward IS NULL").fetchall() == [(6,)]
        (first, *_) = corpus.episodes()
        assert math.isnan(first.total_reward)
        assert {report.grade for report in replay_episodes(corpus.episodes(), env=make)} == {
            "exact"
        }
        assert len(fork_many(first, at=[3, 9], policy="random", n_branches=2, env=make)) == 4
        credit.estimate(first, lambda _: 0, steps=[3, 9], n_rollouts=2, env=make)
        search: Any = {"success": lambda env: env.t % 2 == 1, "n_rollouts": 4, "max_rollouts": 16}
        credit.decisive_step(first, lambda _: 0, env=make, **search)
        assert sum(len(batch["obs"]) for batch in corpus.transitions(batch_size=9)) == 75
        export_transitions(corpus, tmp_path / "steps.parquet")


@pytest.mark.slow
@third_slow("credit")
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_intervals_are_the_same_under_any_error_state(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("FrozenLake-v1"), tmp_path)
    env.reset(seed=3)
    done = False
    while not done:
        done = any(env.step(2)[2:4])
    env.close()
    (episode,) = trajrec.open(tmp_path).episodes()

    def results() -> list[Any]:
        table = credit.estimate(episode, lambda _: 2, n_rollouts=16, folder=None)
        decision = credit.decisive_step(episode, lambda _: 2, n_rollouts=16, folder=None)
        return [[(row.value, row.ci_low, row.ci_high) for row in table], decision.confidence]

    raising = results()
    with np.errstate(all="ignore"):
        assert raising == results()
