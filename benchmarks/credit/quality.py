"""The quality of each estimator over a corpus, compared with exact advantages and with each other.

Prints for each estimator the correlation with the exact advantages, the share of episodes whose
worst step it names, and the environment's steps that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Unpack

import gymnasium as gym
import numpy as np

import trajrec
from benchmarks.credit.truths import Criterion, at_least, record, toy, true_advantages
from trajrec.corpus.episode import Episode
from trajrec.envs.solved import NoisyKey
from trajrec.replay.credit import (
    CreditTable,
    RolloutOptions,
    TabularPolicy,
    estimate,
    group_advantages,
    hindsight_credit,
    pooled_advantages,
)
from trajrec.replay.credit.estimators.advantage import Estimator
from trajrec.replay.credit.estimators.groups import Method as GroupMethod
from trajrec.replay.credit.estimators.hindsight import Method as HindsightMethod

# Correlation and hits that another implementation reached on other episodes of the same kind.
BARS = {
    "slippery": {"E2 shared, n=32": (0.288, 0.37), "E7 pooled": (0.995, 0.97)},
    "deterministic": {"E2 shared, n=32": (0.868, 0.77), "E7 pooled": (0.998, 0.94)},
    "key": {"E2 shared, n=32": (0.774, 0.75), "E7 pooled": (0.996, 1.0)},
}

# A step whose exact advantage is this near to the worst is an equally good answer: visits of one
# state differ only by the steps left.
AS_BAD = 0.01


class Problem(NamedTuple):
    """Episodes, their policy, and the exact advantage of each step."""

    episodes: list[Episode]
    policy: TabularPolicy
    advantages: list[list[float]]


class Estimated(NamedTuple):
    """The values of each episode's steps, and the environment's steps that they took."""

    values: list[list[float]]
    env_steps: int


class Score(NamedTuple):
    """Pearson's correlation with the exact advantages, and the share of worst steps named."""

    correlation: float
    hit: float


def make_problems(n: int, seed: int) -> dict[str, Problem]:
    """Return three problems with n episodes each."""
    problems = {}
    for name, kwargs in (("slippery", {}), ("deterministic", {"is_slippery": False})):
        make, truth = toy("FrozenLake-v1", 0.3, **kwargs)
        episodes = record(make, truth.policy, n, seed=seed)
        advantages = [true_advantages(truth, episode) for episode in episodes]
        problems[name] = Problem(episodes, truth.policy, advantages)
    policy = TabularPolicy(np.full((1, 2), 0.5), state=lambda observation: 0)
    episodes = record(lambda: gym.make("trajrec/NoisyKey-v0"), policy, n, seed=seed)
    advantages = [_key_advantages(episode) for episode in episodes]
    problems["key"] = Problem(episodes, policy, advantages)
    return problems


def _key_advantages(episode: Episode) -> list[float]:
    env = NoisyKey()
    pairs = zip(episode.observation_values, episode.actions, strict=False)
    return [
        env.advantage(step, bool(observation[1]), int(action))
        for step, (observation, action) in enumerate(pairs)
    ]


def score(values: Sequence[Sequence[float]], exact: Sequence[Sequence[float]]) -> Score:
    """Compare the values of each episode's steps with the exact advantages."""
    estimated = np.concatenate([np.array(row) for row in values])
    truths = np.concatenate([np.array(row) for row in exact])
    is_finite = np.isfinite(estimated)
    estimated = estimated[is_finite]
    # Equal values have no correlation, and so no use.
    correlation = 0.0
    if estimated.std() > 0:
        correlation = float(np.corrcoef(estimated, truths[is_finite])[0, 1])
    hits = [
        truth[int(np.nanargmin(row))] <= min(truth) + AS_BAD
        for row, truth in zip(values, exact, strict=True)
        if len(row)
    ]
    return Score(correlation, float(np.mean(hits)))


def _by_group(problem: Problem, method: GroupMethod) -> Estimated:
    with trajrec.open(problem.episodes[0].path.parent) as corpus:
        tables = {table.episode_id: table for table in group_advantages(corpus, method)}
    return Estimated([[row.value for row in tables[e.id]] for e in problem.episodes], 0)


def _by_hindsight(problem: Problem, method: HindsightMethod) -> Estimated:
    tables = hindsight_credit(problem.episodes, problem.policy, method)
    return Estimated([[row.value for row in table] for table in tables], 0)


def _by_rollouts(
    problem: Problem,
    estimator: Estimator,
    n_rollouts: int,
    **options: Unpack[RolloutOptions],
) -> Estimated:
    tables = []
    for k, episode in enumerate(problem.episodes):
        own: RolloutOptions = {**options, "seed": k, "folder": None}
        tables.append(
            estimate(episode, problem.policy, estimator=estimator, n_rollouts=n_rollouts, **own)
        )
    return _estimated(tables, estimator)


def _by_pooling(problem: Problem) -> Estimated:
    tables = pooled_advantages(
        problem.episodes, problem.policy, n_rollouts=16, by="state", folder=None
    )
    return _estimated(tables, "pooled")


def _estimated(tables: Sequence[CreditTable], estimator: str) -> Estimated:
    values = [[row.value for row in table.of(estimator)] for table in tables]
    return Estimated(values, sum(table.env_steps for table in tables))


ESTIMATORS: dict[str, Callable[[Problem], Estimated]] = {
    "GRPO": partial(_by_group, method="grpo"),
    "GiGPO": partial(_by_group, method="gigpo"),
    "RTMC": partial(_by_group, method="rtmc"),
    "HCA": partial(_by_hindsight, method="hca"),
    "COCOA": partial(_by_hindsight, method="cocoa"),
    "RUDDER": partial(_by_hindsight, method="rudder"),
    "VinePPO delta": partial(_by_rollouts, estimator="delta", n_rollouts=16, noise="fresh"),
    "E2 fresh, n=8": partial(_by_rollouts, estimator="advantage", n_rollouts=8, noise="fresh"),
    "E2 shared, n=8": partial(_by_rollouts, estimator="advantage", n_rollouts=8),
    "E2 shared, n=32": partial(_by_rollouts, estimator="advantage", n_rollouts=32),
    "E7 pooled": _by_pooling,
}


def quality(n: int = 64, seed: int = 0) -> list[Criterion]:
    """Print the table; return whether E2 and E7 reach their bars."""
    criteria = []
    for problem_name, problem in make_problems(n, seed).items():
        n_steps = sum(map(len, problem.advantages))
        print(
            f"{problem_name}: {len(problem.episodes)} episodes, {n_steps} steps; "
            "correlation, worst-step hit, env steps"
        )
        for name, run in ESTIMATORS.items():
            values, env_steps = run(problem)
            result = score(values, problem.advantages)
            print(f"  {name:16} {result.correlation:6.3f} {result.hit:5.2f} {env_steps:9,}")
            if name in BARS[problem_name]:
                least_correlation, least_hit = BARS[problem_name][name]
                criteria += [
                    at_least(
                        f"{problem_name}: {name}, correlation",
                        result.correlation,
                        least_correlation,
                    ),
                    at_least(f"{problem_name}: {name}, hit", result.hit, least_hit),
                ]
    return criteria
