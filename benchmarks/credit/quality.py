"""How good each estimator is over a corpus: correlation with the true advantage, and whether the worst step is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

import trajrec
import trajrec.envs
from benchmarks.credit.truths import Criterion, at_least, record, states, toy
from trajrec.corpus.episode import Episode
from trajrec.envs.solved import NoisyKey
from trajrec.replay.credit import (
    CreditTable,
    TabularPolicy,
    estimate,
    group_advantages,
    pooled_advantages,
)
from trajrec.replay.credit.estimators import hindsight

assert trajrec.envs

BARS = {
    "slippery": {"E2 shared, n=32": (0.288, 0.37), "E7 pooled": (0.995, 0.97)},
    "deterministic": {"E2 shared, n=32": (0.868, 0.77), "E7 pooled": (0.998, 0.94)},
    "key": {"E2 shared, n=32": (0.774, 0.75), "E7 pooled": (0.996, 1.0)},
}
"""Correlation and hits that were reached before, by another implementation on other episodes of the same kind."""

AS_BAD = 0.01
"""A step whose true advantage is this near to the worst is as good an answer: in one state steps differ by the time left."""


def problems(n: int, seed: int) -> dict[str, tuple[list[Episode], Any, list[list[float]]]]:
    """Return episodes of three problems with the policy and the true advantages of their steps."""
    found: dict[str, tuple[list[Episode], Any, list[list[float]]]] = {}
    for name, kwargs in (("slippery", {}), ("deterministic", {"is_slippery": False})):
        make, truth = toy("FrozenLake-v1", 0.3, **kwargs)
        episodes = record(make, truth.policy, n, seed=seed)
        true = [
            [
                truth.advantage(k, s, int(a))
                for k, (s, a) in enumerate(zip(states(e), e.actions, strict=False))
            ]
            for e in episodes
        ]
        found[name] = episodes, truth.policy, true
    policy = TabularPolicy(np.full((1, 2), 0.5), state=lambda observation: 0)
    env = NoisyKey()
    episodes = record(lambda: gym.make("trajrec/NoisyKey-v0"), policy, n, seed=seed)
    true = [
        [
            env.advantage(k, bool(o[1]), int(a))
            for k, (o, a) in enumerate(zip(e.observation_values, e.actions, strict=False))
        ]
        for e in episodes
    ]
    found["key"] = episodes, policy, true
    return found


def score(
    tables: Sequence[Sequence[float]], true: Sequence[Sequence[float]]
) -> tuple[float, float]:
    """Return Pearson's correlation with the true advantages, and the share of episodes whose worst step is named."""
    pairs = [
        (v, t)
        for row, truth in zip(tables, true, strict=True)
        for v, t in zip(row, truth, strict=True)
        if np.isfinite(v)
    ]
    values, truths = np.array(pairs).T
    hits = [
        truth[int(np.nanargmin(row))] <= min(truth) + AS_BAD
        for row, truth in zip(tables, true, strict=True)
        if len(row)
    ]
    r = float(np.corrcoef(values, truths)[0, 1]) if values.std() > 0 else 0.0
    return r, float(np.mean(hits))


def estimators(
    episodes: list[Episode], policy: Any
) -> dict[str, Callable[[], tuple[list[list[float]], int]]]:
    """Return what computes each estimator: values by episode, and the environment's steps that it took."""

    def of_corpus(method: Any) -> Callable[[], tuple[list[list[float]], int]]:
        def run() -> tuple[list[list[float]], int]:
            with trajrec.open(episodes[0].path.parent) as corpus:
                by_id = {table.episode_id: table for table in group_advantages(corpus, method)}
            return [[row.value for row in by_id[e.id]] for e in episodes], 0

        return run

    def by_hindsight(method: Any) -> Callable[[], tuple[list[list[float]], int]]:
        return lambda: (
            [[row.value for row in table] for table in hindsight(episodes, policy, method)],
            0,
        )

    def by_scan(estimator: Any, n: int, **how: Any) -> Callable[[], tuple[list[list[float]], int]]:
        def run() -> tuple[list[list[float]], int]:
            tables = [
                estimate(e, policy, estimator=estimator, n_rollouts=n, seed=k, folder=None, **how)
                for k, e in enumerate(episodes)
            ]
            return _values(tables, estimator), sum(table.env_steps for table in tables)

        return run

    def by_pool() -> tuple[list[list[float]], int]:
        tables = pooled_advantages(episodes, policy, n_rollouts=16, folder=None)
        return _values(tables, "pooled"), sum(table.env_steps for table in tables)

    return {
        "GRPO": of_corpus("grpo"),
        "GiGPO": of_corpus("gigpo"),
        "RTMC": of_corpus("rtmc"),
        "HCA": by_hindsight("hca"),
        "COCOA": by_hindsight("cocoa"),
        "RUDDER": by_hindsight("rudder"),
        "VinePPO delta": by_scan("delta", 16, noise="fresh"),
        "E2 fresh, n=8": by_scan("advantage", 8, noise="fresh"),
        "E2 shared, n=8": by_scan("advantage", 8),
        "E2 shared, n=32": by_scan("advantage", 32),
        "E7 pooled": by_pool,
    }


def _values(tables: Sequence[CreditTable], estimator: str) -> list[list[float]]:
    return [[row.value for row in table.of(estimator)] for table in tables]


def quality(n: int = 64, seed: int = 0) -> list[Criterion]:
    """Print the table; return whether E2 and E7 reach their figures."""
    found = []
    for problem, (episodes, policy, true) in problems(n, seed).items():
        print(
            f"{problem}: {len(episodes)} episodes, {sum(map(len, true))} steps; correlation, worst-step hit, env steps"
        )
        for name, run in estimators(episodes, policy).items():
            values, steps = run()
            r, hit = score(values, true)
            print(f"  {name:16} {r:6.3f} {hit:5.2f} {steps:9,}")
            bars = BARS[problem].get(name)
            if bars is not None:
                found += [
                    at_least(f"{problem}: {name}, correlation", r, bars[0]),
                    at_least(f"{problem}: {name}, hit", hit, bars[1]),
                ]
    return found
