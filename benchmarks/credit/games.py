"""P5 and P7: a key under noise, and switches whose Shapley values are known by enumeration.

Shapley values are compared with leaving one step out and with differences of values: both blame two
steps that were each necessary twice, and two steps that were each sufficient not at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from benchmarks.credit.truths import Criterion, at_least, at_most, is_covered, record_actions
from trajrec.corpus.episode import Episode
from trajrec.envs.solved import Switches
from trajrec.replay.credit import TabularPolicy, counterfactual, estimate, shapley_values

Rule = Literal["pivot", "and", "or"]

# Probability with which the policy turns a switch on.
ON = 0.3
# Switches 2 and 5, which count, are on; the others are off.
ACTIONS = [0, 0, 1, 0, 0, 1, 0, 0]


class Contrast(NamedTuple):
    """The values that other estimators give the steps that count, and the chance without them.

    Attributes:
        none: v(none): the chance of winning if the policy redraws every action.
        left_out: The effect of leaving each step out.
        deltas: The difference of values at each step.
    """

    none: float
    left_out: list[float]
    deltas: list[float]


CONTRASTS: dict[Rule, Contrast] = {
    "pivot": Contrast(ON, [0.7], [0.7]),
    "and": Contrast(ON * ON, [0.7, 0.7], [0.21, 0.7]),
    "or": Contrast(1 - (1 - ON) ** 2, [0.0, 0.0], [0.49, 0.0]),
}


def p5(n: int = 20_000) -> list[Criterion]:
    """Compare taking the key with leaving it: the exact difference is 2.5.

    The exact variance of a pair of rollouts is 49 with fresh noise and 6.25 in shared scenarios.
    """
    episode = record_actions("trajrec/NoisyKey-v0", [1] + [0] * 20)
    policy = TabularPolicy([[0.5, 0.5]], state=lambda observation: 0)
    criteria = []
    variances: dict[str, float] = {}
    noises: tuple[Literal["fresh", "shared"], ...] = ("fresh", "shared")
    for noise in noises:
        table = counterfactual(episode, policy, 0, action=0, n_rollouts=n, noise=noise)
        kept, other = (
            np.array([rollout.episode_return for rollout in arm.rollouts]) for arm in table.arms
        )
        difference = kept - other
        variances[noise] = float(difference.var(ddof=1))
        error = float(difference.std(ddof=1)) / math.sqrt(n)
        distance = abs(float(difference.mean()) - 2.5) / error
        criteria.append(
            at_most(f"P5 {noise}: |A(pick) - A(not) - 2.5| in standard errors", distance, 3.0)
        )
    ratio = variances["fresh"] / variances["shared"]
    for name, measured, exact in (
        ("variance of a fresh pair", variances["fresh"], 49.0),
        ("variance of a shared pair", variances["shared"], 6.25),
        ("ratio of the variances", ratio, 7.84),
    ):
        criteria.append(
            at_most(
                f"P5 {name} {measured:.3g}, error beside {exact:g}", abs(measured / exact - 1), 0.15
            )
        )
    return criteria


def true_shapley(rule: Rule, actions: list[int]) -> list[float]:
    """Return the exact Shapley values of the switches, by enumerating all sets of kept actions."""
    first, second = Switches.PIVOTS

    def value(kept: frozenset[int]) -> float:
        p = float(actions[first]) if first in kept else ON
        q = float(actions[second]) if second in kept else ON
        return {"pivot": p, "and": p * q, "or": p + q - p * q}[rule]

    n = len(actions)
    shares = [0.0] * n
    for size in range(n):
        weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
        for step in range(n):
            others = [k for k in range(n) if k != step]
            for kept in itertools.combinations(others, size):
                gain = value(frozenset((*kept, step))) - value(frozenset(kept))
                shares[step] += weight * gain
    return shares


def p7(
    n_repeats: int = 150,
    n_permutations: int = 256,
    *,
    rules: Sequence[Rule] = ("pivot", "and", "or"),
) -> list[Criterion]:
    """Compare Shapley values of switches with the exact ones, and with two other estimators."""
    policy = TabularPolicy([[1 - ON, ON]], state=lambda observation: 0)
    criteria = []
    for rule in rules:
        episode = record_actions("trajrec/Switches-v0", ACTIONS, rule=rule)
        criteria += _shapley_criteria(rule, episode, policy, n_repeats, n_permutations)
        criteria += _contrast_criteria(rule, episode, policy)
    return criteria


def _shapley_criteria(
    rule: Rule, episode: Episode, policy: TabularPolicy, n_repeats: int, n_permutations: int
) -> list[Criterion]:
    truth = true_shapley(rule, ACTIONS)
    n_covered = np.zeros(len(ACTIONS))
    for seed in range(n_repeats):
        rows = shapley_values(episode, policy, n_permutations=32, seed=seed)
        n_covered += [is_covered(row, exact) for row, exact in zip(rows, truth, strict=True)]
    # A seed that no repeat has.
    rows = shapley_values(episode, policy, n_permutations=n_permutations, seed=10_000)
    largest_error = max(abs(row.value - exact) for row, exact in zip(rows, truth, strict=True))
    # v(all) is 1: the recorded actions win.
    sum_error = abs(sum(row.value for row in rows) - (1 - CONTRASTS[rule].none))
    least_covered = float(n_covered.min()) / n_repeats
    size = f"with {n_permutations} permutations"
    return [
        at_least(f"P7 {rule}: coverage of {n_repeats} repeats, least step", least_covered, 0.90),
        at_most(f"P7 {rule}: |sum - (v(all) - v(none))| {size}", sum_error, 0.06),
        at_most(f"P7 {rule}: largest error {size}", largest_error, 0.06),
    ]


def _contrast_criteria(rule: Rule, episode: Episode, policy: TabularPolicy) -> list[Criterion]:
    """Return whether the other estimators give the values that make them unfit."""
    steps = [k for k, share in enumerate(true_shapley(rule, ACTIONS)) if share > 0.01]
    left_out = [
        -counterfactual(episode, policy, step, rest="recorded", n_rollouts=256)
        .of("effect")[0]
        .value
        for step in steps
    ]
    table = estimate(episode, policy, estimator="delta", n_rollouts=512, steps=steps)
    deltas = [row.value for row in table.of("delta")]
    criteria = []
    for name, values, expected in (
        ("leave-one-out", left_out, CONTRASTS[rule].left_out),
        ("V-difference", deltas, CONTRASTS[rule].deltas),
    ):
        error = max(abs(a - b) for a, b in zip(values, expected, strict=True))
        shown = [round(value, 2) for value in values]
        criteria.append(
            at_most(f"P7 {rule}: {name} gives {shown}, error beside {expected}", error, 0.1)
        )
    return criteria
