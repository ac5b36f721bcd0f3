"""P5 and P7: a key under noise, and switches whose shares are known by enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

import trajrec
import trajrec.envs
from benchmarks import scratch_folder
from benchmarks.credit.truths import Criterion, at_least, at_most
from trajrec.corpus.episode import Episode
from trajrec.replay.credit import TabularPolicy, counterfactual, estimate, shapley_values

assert trajrec.envs
ON = 0.3
"""Probability with which the policy turns a switch on."""


def one_episode(env_id: str, actions: list[int], **kwargs: Any) -> Episode:
    """Record an episode of given actions."""
    env = trajrec.record(gym.make(env_id, **kwargs), scratch_folder())
    env.reset(seed=0)
    for action in actions:
        env.step(action)
    env.close()
    return next(trajrec.open(env.path.parent).episodes())


def p5(n: int = 20_000) -> list[Criterion]:
    """The key: what it is worth, and what common noise saves."""
    episode = one_episode("trajrec/NoisyKey-v0", [1] + [0] * 20)
    policy = TabularPolicy([[0.5, 0.5]], state=lambda observation: 0)
    found = []
    variances = {}
    for noise in ("fresh", "shared"):
        table = counterfactual(episode, policy, 0, action=0, n_rollouts=n, noise=noise)  # type: ignore[arg-type]
        kept, other = (
            np.array([r.episode_return for r in rollouts]) for _, _, rollouts in table.arms
        )
        difference = kept - other
        variances[noise] = float(difference.var(ddof=1))
        se = float(difference.std(ddof=1)) / math.sqrt(n)
        found.append(
            at_most(
                f"P5 {noise}: |A(pick) - A(not) - 2.5| in SE",
                abs(float(difference.mean()) - 2.5) / se,
                3.0,
            )
        )
    found.append(
        at_most(
            "P5 variance of a fresh pair, relative to 49", abs(variances["fresh"] / 49.0 - 1), 0.15
        )
    )
    found.append(
        at_most(
            "P5 variance of a shared pair, relative to 6.25",
            abs(variances["shared"] / 6.25 - 1),
            0.15,
        )
    )
    found.append(
        at_most(
            "P5 ratio, relative to 7.84",
            abs(variances["fresh"] / variances["shared"] / 7.84 - 1),
            0.15,
        )
    )
    return found


def true_shapley(rule: str, actions: list[int]) -> list[float]:
    """Return the Shapley values of the switches, by enumerating what is held."""
    env = trajrec.envs.solved.Switches(rule=rule)  # type: ignore[attr-defined]
    i, j = env.PIVOTS

    def value(held: frozenset[int]) -> float:
        on_i, on_j = ((float(actions[k]),) if k in held else (ON,) for k in (i, j))
        p, q = on_i[0], on_j[0]
        return p if rule == "pivot" else p * q if rule == "and" else p + q - p * q

    n = len(actions)
    shares = [0.0] * n
    for size in range(n):
        weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
        for step in range(n):
            others = [k for k in range(n) if k != step]
            for held in itertools.combinations(others, size):
                shares[step] += weight * (value(frozenset((*held, step))) - value(frozenset(held)))
    return shares


def p7(
    repeats: int = 150, m: int = 256, *, rules: Sequence[str] = ("pivot", "and", "or")
) -> list[Criterion]:
    """Shapley values of switches; leaving one out and differences of values for contrast."""

    policy = TabularPolicy([[1 - ON, ON]], state=lambda observation: 0)
    found = []
    for rule in rules:
        actions = [0, 0, 1, 0, 0, 1, 0, 0]
        episode = one_episode("trajrec/Switches-v0", actions, rule=rule)
        truth = true_shapley(rule, actions)
        covered = np.zeros(len(actions))
        for repeat in range(repeats):
            rows = shapley_values(episode, policy, n_permutations=32, seed=repeat)
            covered += [
                row.ci_low - 1e-9 <= t <= row.ci_high + 1e-9
                for row, t in zip(rows, truth, strict=True)
            ]
        large = shapley_values(episode, policy, n_permutations=m, seed=10_000)
        none = {"pivot": ON, "and": ON * ON, "or": 1 - (1 - ON) ** 2}[rule]
        at = [k for k, share in enumerate(truth) if share > 0.01]
        worst = max(abs(large[k].value - truth[k]) for k in range(len(truth)))
        left_out = [
            -counterfactual(episode, policy, k, rest="recorded", n_rollouts=256)[2].value
            for k in at
        ]
        deltas = [
            row.value
            for row in estimate(episode, policy, estimator="delta", n_rollouts=512, steps=at).of(
                "delta"
            )
        ]
        found += [
            at_least(
                f"P7 {rule}: intervals cover, least step of {repeats} repeats",
                float(covered.min()) / repeats,
                0.90,
            ),
            at_most(
                f"P7 {rule}: |sum - (v(all) - v(none))| at m={m}",
                abs(sum(r.value for r in large) - (1 - none)),
                0.06,
            ),
            at_most(f"P7 {rule}: largest error at m={m}", worst, 0.06),
        ]
        expected = {
            "pivot": ([0.7], [0.7]),
            "and": ([0.7, 0.7], [0.21, 0.7]),
            "or": ([0.0, 0.0], [0.49, 0.0]),
        }[rule]
        for name, values, wanted in (
            ("leave-one-out", left_out, expected[0]),
            ("V-difference", deltas, expected[1]),
        ):
            error = max(abs(a - b) for a, b in zip(values, wanted, strict=True))
            found.append(
                at_most(
                    f"P7 {rule}: {name} gives {[round(v, 2) for v in values]}, off by", error, 0.1
                )
            )
    return found
