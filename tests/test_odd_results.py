"""Results that Gymnasium does not allow are refused by name, and steps without a result are not proved."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import trajrec
from trajrec.errors import EncodeError, EnvContractError
from trajrec.replay import credit, replay_episode

OBS = np.zeros(2, np.float32)


class Odd(gym.Env[Any, int]):
    """Returns the results of two functions."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, result_of: Callable[[int], Any], reset_result: Any = (OBS, {})) -> None:
        self.result_of = result_of
        self.reset_result = reset_result
        self.k = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.k = 0
        return self.reset_result

    def step(self, action: int) -> Any:
        self.k += 1
        return self.result_of(self.k)


def right(k: int) -> Any:
    return OBS, 1.0, k == 3, False, {}


def recorded(folder: Path) -> Any:
    (episode,) = trajrec.open(folder).episodes()
    return episode


@pytest.mark.parametrize(
    "result", [OBS, [0.5, 0.25], "ab", {"x": 1, "y": 2}, (1, 2), np.zeros(3), OBS[0], (OBS, {}, {})]
)
def test_reset_without_observation_and_info_is_refused(result: Any, tmp_path: Path) -> None:
    env = trajrec.record(Odd(right, result), tmp_path)
    with pytest.raises(EnvContractError, match=r"reset must return \(observation, info\), got"):
        env.reset(seed=1)
    env.close()
    episode = recorded(tmp_path)
    assert (episode.n_steps, episode.ending, episode.fault) == (0, "error", None)
    assert replay_episode(episode, env=lambda: Odd(right, result)).grade == "refused"


@pytest.mark.parametrize("info", [{}, None, [{}]])
def test_reset_with_any_kind_of_info_is_recorded(info: Any, tmp_path: Path) -> None:
    env = trajrec.record(Odd(right, (OBS, info)), tmp_path)
    assert env.reset(seed=1)[1] is info
    env.step(0)
    env.close()
    assert recorded(tmp_path).n_steps == 1


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ((OBS, 1.0, False, {}), "got a tuple of 4.*GymV21CompatibilityV0"),
        ((OBS, 1.0, 0.5, False, False, {}), "got a tuple of 6.*a cost, into the info"),
        (None, "got None"),
        ((OBS, 1.0, np.array([False, True]), False, {}), "terminated must be true or false, got"),
        ((OBS, 1.0, False, np.array([False, True]), {}), "truncated must be true or false, got"),
        ((OBS, 1.0, False, False, np.array([1, 2])), "info must be a dict, got"),
    ],
)
def test_step_without_five_parts_is_refused(result: Any, message: str, tmp_path: Path) -> None:
    env = trajrec.record(Odd(lambda k: right(k) if k < 2 else result), tmp_path)
    env.reset(seed=1)
    env.step(0)
    with pytest.raises(EnvContractError, match=message):
        env.step(0)
    env.close()
    episode = recorded(tmp_path)
    assert [(failure.step, failure.origin) for failure in episode.failures] == [(1, "scaffold")]
    assert (episode.n_steps, episode.ending) == (2, "error")


@pytest.mark.parametrize("flag", [0.37, 2, "False", math.nan, [False], (False,), [True]])
@pytest.mark.parametrize("name", ["terminated", "truncated"])
def test_value_that_is_no_flag_ends_no_episode(name: str, flag: Any, tmp_path: Path) -> None:
    flags = (flag, False) if name == "terminated" else (False, flag)
    env = trajrec.record(Odd(lambda k: (OBS, 1.0, *flags, {})), tmp_path)
    env.reset(seed=1)
    with pytest.raises(EnvContractError, match=f"{name} must be true or false, got"):
        env.step(0)
    env.close()
    sql = "SELECT terminated, truncated, ending, total_reward FROM episodes"
    assert trajrec.open(tmp_path).sql(sql).fetchall() == [(False, False, "error", None)]


@pytest.mark.parametrize("flag", [1, 1.0, np.True_, np.float32(1), np.array([True]), np.array(1)])
def test_numbers_that_are_flags_end_an_episode(flag: Any, tmp_path: Path) -> None:
    env = trajrec.record(Odd(lambda k: (OBS, 1.0, flag, None, {})), tmp_path)
    env.reset(seed=1)
    assert env.step(0)[2] is flag
    env.close()
    episode = recorded(tmp_path)
    assert (episode.ending, episode.terminations.tolist()) == ("terminated", [True])


def test_step_whose_result_was_not_recorded_is_not_proved(tmp_path: Path) -> None:
    def unrecordable(k: int) -> Any:
        return OBS, Fraction(k, 3) if k == 2 else 1.0, k == 3, False, {}

    env = trajrec.record(Odd(unrecordable), tmp_path)
    env.reset(seed=1)
    env.step(0)
    with pytest.raises(EncodeError, match=r"episode [0-9a-f]{16} step 1: reward: fractions"):
        env.step(0)
    env.step(0)
    env.close()
    episode = recorded(tmp_path)
    report = replay_episode(episode, env=lambda: Odd(right))
    assert report.grade == "partial"
    assert "not compared: step 1, whose result could not be recorded" in report.notes
    assert math.isnan(episode.total_reward)
    sql = "SELECT total_reward FROM episodes"
    assert trajrec.open(tmp_path).sql(sql).fetchall() == [(None,)]


def test_reset_that_was_not_recorded_has_no_step_number(tmp_path: Path) -> None:
    env = trajrec.record(Odd(right, (object(), {})), tmp_path)
    with pytest.raises(EncodeError, match=r"episode [0-9a-f]{16} reset: obs: builtins.object"):
        env.reset(seed=1)
    env.close()


def test_audit_does_not_judge_a_step_that_was_not_recorded(tmp_path: Path) -> None:
    env: Any = trajrec.record(gym.make("CartPole-v1"), tmp_path, audit=1.0)
    env.reset(seed=1)
    env.step(0)
    env.env.step = lambda action: (object(), *gym.Wrapper.step(env.env, action)[1:])
    with pytest.raises(EncodeError):
        env.step(0)
    del env.env.step
    while not env.step(1)[2]:
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.close()
    corpus = trajrec.open(tmp_path)
    rows = corpus.sql("SELECT status, verdict, evidence->>'grade' FROM checks").fetchall()
    assert rows == [("not_evaluated", None, "partial")]


@pytest.mark.parametrize("of_number", [lambda x: np.array([x]), lambda x: np.array([[x]], "f4")])
def test_rewards_in_arrays_of_one_number_are_columns_of_numbers(
    of_number: Callable[[float], Any], tmp_path: Path
) -> None:
    def mixed(k: int) -> Any:
        return OBS, of_number(0.5) if k < 3 else 1.0, k == 4, False, {}

    for run in (lambda k: (OBS, of_number(k / 2), k == 2, False, {}), mixed):
        env = trajrec.record(Odd(run), tmp_path)
        env.reset(seed=1)
        while not env.step(0)[2]:
            pass
        env.close()
    corpus = trajrec.open(tmp_path)
    (batch,) = corpus.transitions()
    assert batch["reward"].shape == (6,)
    ((total,),) = corpus.sql("SELECT sum(total_reward) FROM episodes").fetchall()
    assert batch["reward"].sum() == total == 4.5
    (windows,) = corpus.sequences(length=2)
    assert windows["reward"].shape == (4, 2)


@pytest.mark.parametrize("seed", [2**70, -(2**63) - 1, 5.0, "5", [1, 2]])
def test_seed_that_no_log_holds_is_refused_before_the_reset(seed: Any, tmp_path: Path) -> None:
    inner = Odd(right)
    inner.k = 7
    env = trajrec.record(inner, tmp_path)
    with pytest.raises((TypeError, ValueError), match=r"seed must be an int .* got"):
        env.reset(seed=seed)
    assert inner.k == 7
    env.reset(seed=3)
    env.step(0)
    env.close()
    rows = trajrec.open(tmp_path).sql("SELECT seed, ending FROM episodes").fetchall()
    assert rows == [(3, "abandoned")]


@pytest.mark.parametrize("seed", [True, 2**64 - 1, 2**40])
def test_other_whole_numbers_are_seeds(seed: int, tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    env.reset(seed=seed)
    env.step(0)
    env.close()
    episode = recorded(tmp_path)
    assert episode.start.seed == seed
    assert replay_episode(episode).grade == "exact"


def credit_of(reward_of: Callable[[int], Any], folder: Path, **options: Any) -> Any:
    def run(k: int) -> Any:
        return np.full(2, k, np.float32), reward_of(k), k == 3, False, {}

    env = trajrec.record(Odd(run), folder)
    env.reset(seed=1)
    for _ in range(3):
        env.step(0)
    env.close()
    make = lambda: Odd(run)  # noqa: E731
    table = credit.estimate(recorded(folder), "random", n_rollouts=4, env=make, **options)
    query = "SELECT DISTINCT fork_step, episode_return FROM rollouts WHERE arm = 'value' ORDER BY 1"
    return table, trajrec.open(folder).sql(query).fetchall()


@pytest.mark.parametrize("dtype", ["f8", "f2", "i4"])
def test_credit_takes_an_array_of_one_number_for_a_reward(dtype: str, tmp_path: Path) -> None:
    table, returns = credit_of(lambda k: np.array([k], dtype), tmp_path)
    assert returns == [(0, 6.0), (1, 5.0), (2, 3.0)]
    assert [row.value for row in table.estimates if row.estimator == "value"] == [6.0, 5.0, 3.0]


def test_rollouts_with_several_rewards_have_no_return(tmp_path: Path) -> None:
    table, returns = credit_of(lambda k: np.array([k, -1.0]), tmp_path, success=lambda env: True)
    assert len(returns) == 3
    assert all(math.isnan(value) for _, value in returns)
    assert all(math.isnan(r.episode_return) for arm in table.arms for r in arm.rollouts)
    assert {row.value for row in table.estimates if row.estimator == "value"} == {1.0}
    assert not any("no sum" in note for note in table.notes)
