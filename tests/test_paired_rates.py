"""Intervals of rates over tasks: against formulas by hand, and by how often they cover."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
from tiers import Share, deep, suite

from trajrec.statistics.paired_rates import (
    difference_on_these,
    hull_difference,
    mover_difference,
    rate_over_tasks,
    t_difference,
)
from trajrec.statistics.quantiles import t_quantile

Limits = tuple[float, float]


def arm_by_hand(rates: list[float], most: int) -> Limits:
    n_tasks = len(rates)
    p = statistics.fmean(rates)
    variance = statistics.variance(rates)
    effective = n_tasks if variance == 0 else p * (1 - p) / (variance / n_tasks)
    n = min(max(effective, n_tasks / 2), most)
    t = t_quantile(0.95, n_tasks - 1)
    root = t * math.sqrt(p * (1 - p) / n + t * t / (4 * n * n))
    scale = 1 + t * t / n
    return (p + t * t / (2 * n) - root) / scale, (p + t * t / (2 * n) + root) / scale


def mover_by_hand(of_a: list[float], of_b: list[float], most: int) -> Limits:
    a = statistics.fmean(of_a)
    b = statistics.fmean(of_b)
    low_a, high_a = arm_by_hand(of_a, most)
    low_b, high_b = arm_by_hand(of_b, most)
    r = statistics.correlation(of_a, of_b)
    low = (b - low_b) ** 2 - 2 * r * (b - low_b) * (high_a - a) + (high_a - a) ** 2
    high = (high_b - b) ** 2 - 2 * r * (high_b - b) * (a - low_a) + (a - low_a) ** 2
    return b - a - math.sqrt(low), b - a + math.sqrt(high)


def test_mover_is_the_formula_by_hand() -> None:
    of_a = [0.0, 0.25, 0.5, 1.0, 0.75, 0.25]
    of_b = [0.25, 0.25, 1.0, 1.0, 0.5, 0.75]
    limits = mover_difference(np.array(of_a), np.array(of_b), 24, 24)
    assert (limits.ci_low, limits.ci_high) == pytest.approx(mover_by_hand(of_a, of_b, 24))
    hull = hull_difference(np.array(of_a), np.array(of_b), 24, 24)
    student = t_difference(np.array(of_b) - np.array(of_a))
    assert hull.ci_low == min(limits.ci_low, student.ci_low)
    assert hull.ci_high == max(limits.ci_high, student.ci_high)


def test_many_corpora_at_once_are_each_alone() -> None:
    rng = np.random.default_rng(0)
    of_a = rng.integers(0, 5, (50, 7)) / 4
    of_b = rng.integers(0, 5, (50, 7)) / 4
    together = hull_difference(of_a, of_b, 28, 28)
    for k in range(50):
        alone = hull_difference(of_a[k], of_b[k], 28, 28)
        assert [float(end) for end in alone] == [float(end[k]) for end in together]


def test_no_interval_has_zero_width_or_leaves_its_range() -> None:
    for n_tasks in (2, 3, 5, 20):
        for n_rollouts in (1, 2, 4):
            rng = np.random.default_rng(n_tasks)
            of_a = rng.integers(0, n_rollouts + 1, (300, n_tasks)) / n_rollouts
            # Equal rates have a correlation of 1, and Newcombe's interval no width.
            for of_b in (of_a, rng.permuted(of_a, axis=0), np.ones_like(of_a), 1 - of_a):
                most = n_tasks * n_rollouts
                hull = hull_difference(of_a, of_b, most, most)
                assert (hull.ci_high - hull.ci_low).min() > 0
                assert np.all((hull.ci_low >= -1) & (hull.ci_high <= 1))
                assert np.all((hull.ci_low <= hull.value) & (hull.value <= hull.ci_high))
                arm = rate_over_tasks(of_b, most)
                assert np.all((arm.ci_low >= 0) & (arm.ci_high <= 1))


def test_more_rollouts_of_the_same_tasks_say_more_of_them() -> None:
    few = difference_on_these(*map(np.array, ([1.0, 2.0], [2.0, 2.0], [0.0, 2.0], [2.0, 2.0])))
    many = difference_on_these(*map(np.array, ([8.0, 16.0], [16.0, 16.0], [0.0, 16.0], [16.0] * 2)))
    assert float(few.value) == float(many.value) == -0.25
    assert many.ci_high - many.ci_low < few.ci_high - few.ci_low


@pytest.mark.sources
@suite("attribution", fixed=0, drawn=150, whole=None)
def test_the_hull_covers_in_each_condition(share: Share) -> None:
    from benchmarks import attribution

    if share.is_whole:
        lines = list(attribution.coverage())
        assert [line for line, holds in lines if not holds] == []
        return
    # With few corpora the share of a condition varies by 1.3 points, so the mean is compared.
    for n_tasks in attribution.TASKS[:4]:
        for n_rollouts in attribution.ROLLOUTS:
            found = [
                attribution.simulate(n_tasks, n_rollouts, world, share.size or 0, share.seed)
                for world in attribution.WORLDS
            ]
            assert np.mean([condition.covered for condition in found]) >= 0.945


@pytest.mark.sources
@deep("attribution")
def test_pass_k_covers_in_each_condition() -> None:
    from benchmarks import attribution

    assert [line for line, holds in attribution.pass_k() if not holds] == []


@pytest.mark.sources
@deep("attribution")
def test_a_million_episodes_take_little_memory() -> None:
    from benchmarks import attribution

    lines: list[tuple[str, Any]] = list(attribution.sizes())
    assert len(lines) >= 4
    sizes = [float(line.split(", ")[1].split()[0]) for line, _ in lines]
    assert max(sizes) <= 600
