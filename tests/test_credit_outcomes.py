"""Outcomes of rollouts: shares, partial scores, missing verdicts, and states that are not alike."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.errors import CorpusError
from trajrec.protocols import Verdict
from trajrec.replay import credit
from trajrec.statistics import intervals


class Paying(gym.Env[Any, Any]):
    """Two steps: action 1 pays in the first; the second pays with a chance of one half."""

    observation_space = gym.spaces.Discrete(3)
    action_space = gym.spaces.Discrete(2)
    luck = 1.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        self.taken = 0
        return 0, {}

    def step(self, action: Any) -> Any:
        self.t += 1
        self.taken += int(action)
        reward = float(action)
        if self.t == 2:
            reward = self.luck * float(self.np_random.random() < 0.5)
        return self.t, reward, self.t == 2, False, {}


class Unlucky(Paying):
    luck = math.nan


def recorded(folder: Path, env: Any, total: float = 1.0) -> Episode:
    """Return a recorded episode of action 1 that paid a sum in all."""
    with trajrec.record(env, folder) as recorder:
        for seed in range(20):
            recorder.reset(seed=seed)
            recorder.step(1)
            recorder.step(1)
    return next(e for e in trajrec.open(folder).episodes() if e.total_reward == total)


def never(observation: Any) -> int:
    return 0


def options_of(env: Any, **more: Any) -> Any:
    return {"env": env, "n_rollouts": 8, "folder": None, **more}


@pytest.mark.parametrize("noise", [pytest.param("shared", marks=pytest.mark.slow), "fresh"])
def test_a_reward_before_a_return_of_one_makes_no_share(noise: str, tmp_path: Path) -> None:
    episode = recorded(tmp_path, Paying())
    options = options_of(Paying, noise=noise, estimator="delta")
    delta = credit.estimate(episode, never, **options).of("delta")[0]
    assert delta.ci_method in ("augmented-t", "welch")
    assert delta.ci_low < 1.0 < delta.ci_high


def test_fresh_noise_has_no_pairs_that_differ(tmp_path: Path) -> None:
    episode = recorded(tmp_path, Paying())
    for noise, n_pairs in (("fresh", None), ("shared", 8)):
        table = credit.estimate(episode, never, **options_of(Paying, noise=noise, steps=[0]))
        assert table.of("advantage")[0].n_discordant == n_pairs


def test_a_missing_verdict_is_no_failure(tmp_path: Path) -> None:
    def verdict(env: Any) -> bool | None:
        state = env.unwrapped
        return None if state.np_random.random() < 0.5 else state.taken < 5

    episode = recorded(tmp_path, Paying())
    options = options_of(Paying, success=verdict, on_error="lost", steps=[0])
    table = credit.estimate(episode, never, **options)
    value = table.of("value")[0]
    assert 0 < value.n_invalid < 8
    assert value.n + value.n_invalid == 8
    assert "the others have none and may be 0 or 1" in value.estimand
    assert not any("count as failures" in note for note in table.notes)
    assert any("no result: the check gave no verdict" in note for note in table.notes)


def test_rewards_without_a_sum_are_named_and_keep_their_noise(tmp_path: Path) -> None:
    episode = recorded(tmp_path, Paying())
    table = credit.estimate(
        episode, never, **options_of(Unlucky, control=False, steps=[0], estimator="value")
    )
    assert table.noise == "shared"
    assert any("their rewards have no sum (NaN)" in note for note in table.notes)
    assert table[0].ci_method != "wilson"


def test_partial_scores_are_no_shares(tmp_path: Path) -> None:
    def part(env: Any) -> float:
        return 0.25 + 0.25 * env.unwrapped.taken

    episode = recorded(tmp_path, Paying())
    table = credit.counterfactual(episode, never, step=1, **options_of(Paying, success=part))
    (effect,) = table.of("effect")
    assert effect.value == -0.25
    # The policy and the environment draw nothing that counts, and the table says so.
    assert effect.ci_method == intervals.NO_SPREAD
    assert table.of("flip") == []
    decision = credit.decisive_step(episode, never, success=part, **options_of(Paying))
    assert decision.effect.ci_method == intervals.NO_SPREAD


def test_a_flip_is_against_the_rewards_from_the_step_on(tmp_path: Path) -> None:
    # The second step paid nothing: the episode's 1 came before it.
    episode = recorded(tmp_path, Paying())
    assert episode.reward_values == [1.0, 0.0]
    table = credit.counterfactual(episode, never, step=1, **options_of(Paying, n_rollouts=9))
    (flip,) = table.of("flip")
    (other,) = table.of("substituted")
    assert flip.value == other.value


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan])
def test_a_discount_out_of_bounds_is_refused(gamma: float, tmp_path: Path) -> None:
    episode = recorded(tmp_path, Paying())
    with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\]"):
        credit.estimate(episode, never, **options_of(Paying, gamma=gamma))


@pytest.mark.slow
def test_arguments_of_estimators_are_checked(tmp_path: Path) -> None:
    episode = recorded(tmp_path, Paying())
    wrong: Any = {"rest": "record"}
    with pytest.raises(ValueError, match="rest must be 'policy' or 'recorded'"):
        credit.counterfactual(episode, never, step=1, **wrong)
    with pytest.raises(ValueError, match="n_rollouts must be at least 2"):
        credit.counterfactual(episode, never, step=1, n_rollouts=1)
    with pytest.raises(ValueError, match="max_steps must be above 0"):
        credit.estimate(episode, never, max_steps=0)
    with pytest.raises(ValueError, match="needs a segment of steps"):
        credit.shapley_values(episode, never, segments=[])


class Warm(FrozenLakeEnv):
    """A lake without holes, of which the goal pays only those who went up once."""

    def __init__(self) -> None:
        super().__init__(desc=["SFF", "FFF", "FFG"], is_slippery=False)
        self.has_been_up = False

    def reset(self, **options: Any) -> Any:
        self.has_been_up = False
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        self.has_been_up |= int(action) == 3
        return observation, float(reward) * self.has_been_up, *rest


def warm() -> Any:
    return gym.wrappers.TimeLimit(Warm(), 20)


def wander(observation: Any, rng: np.random.Generator) -> int:
    return int(rng.choice([1, 2, 1, 2, 1, 2, 3]))


@pytest.mark.slow
def test_what_a_subclass_adds_is_a_part_of_its_state(tmp_path: Path) -> None:
    with trajrec.record(warm(), tmp_path) as env:
        env.reset(seed=0)
        for action in (1, 3, 1, 2, 2):
            env.step(action)
    episode = next(trajrec.open(tmp_path).episodes())
    # Without controls, which see it in some runs.
    options = options_of(warm, n_rollouts=32, control=False, steps=[0, 1])
    merged = credit.estimate(episode, wander, **options)
    alone = credit.estimate(episode, wander, merge_rollouts=False, **options)
    assert [row.value for row in merged] == [row.value for row in alone]
    assert merged.env_steps < alone.env_steps
    (table,) = credit.pooled_advantages(
        [episode], wander, n_rollouts=64, env=warm, control=False, folder=None
    )
    # Before step 1 the agent has not been up, before step 2 it has: few walks take too long then.
    values = {row.step: row.value for row in table.of("value")}
    assert values[2] > 0.9 > values[1]


class Refusing(Paying):
    """Refuses action 2, which takes no time, and goes on."""

    action_space = gym.spaces.Discrete(3)

    def step(self, action: Any) -> Any:
        if action == 2:
            raise ValueError("refused")
        return super().step(action)


def labels(folder: Path) -> dict[str, Any]:
    """Return the labels of the only episode of a folder that has some."""
    with trajrec.open(folder) as corpus:
        credit.export(corpus, "prm", folder / "labels.jsonl", overwrite=True)
    row: dict[str, Any] = json.loads((folder / "labels.jsonl").read_text())
    return row


@pytest.mark.slow
def test_a_step_that_raised_has_neither_text_nor_label(tmp_path: Path) -> None:
    with trajrec.record(Refusing(), tmp_path) as env:
        env.reset(seed=0)
        env.step(1)
        with pytest.raises(ValueError, match="refused"):
            env.step(2)
        env.step(0)
    (episode,) = trajrec.open(tmp_path).episodes()
    credit.estimate(episode, never, env=Refusing, n_rollouts=4)
    row = labels(tmp_path)
    assert (row["completions"], len(row["labels"]), row["n"]) == (["1", "0"], 2, [4, 4])


def unsure(env: Any) -> Any:
    return Verdict(None) if env.unwrapped.taken else True


def unable(env: Any) -> Any:
    return Verdict(None)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("check", [unsure, unable])
def test_rollouts_without_a_verdict_give_no_labels(check: Any, tmp_path: Path) -> None:
    with trajrec.record(Paying(), tmp_path, checks=[lambda env: True]) as env:
        env.reset(seed=0)
        env.step(1)
        env.step(0)
    (episode,) = trajrec.open(tmp_path).episodes()
    credit.estimate(episode, never, env=Paying, n_rollouts=4, success=check)
    # From before the first step all pass if the check can tell; from after it, it never can.
    with pytest.raises(CorpusError, match="no rollout with a result after it"):
        labels(tmp_path)


@pytest.mark.slow
def test_a_rollout_without_a_return_is_not_won(tmp_path: Path) -> None:
    with trajrec.record(Unlucky(), tmp_path) as env:
        env.reset(seed=0)
        env.step(1)
        env.step(0)
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        credit.estimate(episode, never, env=Unlucky, n_rollouts=4)
        assert corpus.sql("SELECT bool_and(isnan(episode_return)) FROM rollouts").fetchall() == [
            (True,)
        ]
    with pytest.raises(CorpusError, match="no rollout with a result after it"):
        labels(tmp_path)


@pytest.mark.slow
def test_the_end_is_labelled_as_the_rollouts_are(tmp_path: Path) -> None:
    def was_patient(env: Any) -> bool:
        return env.unwrapped.taken == 0

    with trajrec.record(Paying(), tmp_path) as env:
        env.reset(seed=0)
        env.step(1)
        env.step(1)
    (episode,) = trajrec.open(tmp_path).episodes()
    assert episode.total_reward > 0
    options: Any = {"env": Paying, "n_rollouts": 4, "success": was_patient}
    credit.estimate(episode, never, estimator="value", **options)
    # Its return is above 0, which is no verdict of the check.
    with pytest.raises(CorpusError, match="the episode itself has no outcome"):
        labels(tmp_path)
    credit.estimate(episode, never, **options)
    assert labels(tmp_path)["labels"] == [False, False]
