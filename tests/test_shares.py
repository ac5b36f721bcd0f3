"""The intervals of differences of shares, of means and of contrasts cover, whatever is true."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from trajrec.analysis.contrasts import contrast
from trajrec.statistics.intervals import newcombe, welch
from trajrec.statistics.quantiles import t_quantile
from trajrec.statistics.shares import difference_of_shares


def coverage(n: int, shares: np.ndarray) -> np.ndarray:
    """Return the exact coverage for each pair of true shares, by the sum over all outcomes."""
    counts = np.arange(n + 1)
    ways = np.array([comb(n, k) for k in counts], float)
    chances = ways * shares[:, None] ** counts * (1 - shares[:, None]) ** (n - counts)
    intervals = [[difference_of_shares(a, n, b, n) for b in counts] for a in counts]
    low = np.array([[i.ci_low for i in row] for row in intervals])
    high = np.array([[i.ci_high for i in row] for row in intervals])
    covered = np.empty((len(shares), len(shares)))
    for i, first in enumerate(shares):
        for j, second in enumerate(shares):
            holds = (low - 1e-9 <= first - second) & (first - second <= high + 1e-9)
            covered[i, j] = chances[i] @ holds @ chances[j]
    return covered


SIZES = [2, 5, 6, 8, 10, 15, 16]
OTHER_SIZES = [3, 4, 7, 9, 11, 12, 13, 14, 17, 18, 19, 20, 24, 32]


@pytest.mark.parametrize(
    "n", [*SIZES, *(pytest.param(n, marks=pytest.mark.slow) for n in OTHER_SIZES)]
)
def test_difference_of_shares_covers_for_all_shares(n: int) -> None:
    covered = coverage(n, np.linspace(0.005, 0.995, 100))
    assert covered.min() >= (0.923 if n < 6 else 0.934)


def test_interval_of_newcombe_alone_would_not_hold() -> None:
    ones = [np.repeat([1.0, 0.0], [k, 8 - k]) for k in range(9)]
    share = 0.5
    chances = np.array([comb(8, k) * share**8 for k in range(9)])
    holds = np.array(
        [[i.ci_low <= 0 <= i.ci_high for i in (newcombe(a, b) for b in ones)] for a in ones]
    )
    assert chances @ holds @ chances < 0.93


def test_interval_reaches_no_further_than_shares_can() -> None:
    for n in (1, 3, 16):
        for a in range(n + 1):
            for b in range(n + 1):
                interval = difference_of_shares(a, n, b, n)
                assert -1 <= interval.ci_low <= interval.value <= interval.ci_high <= 1
                assert interval.ci_low < interval.ci_high


@pytest.mark.parametrize(
    ("confidence", "df", "expected"),
    [
        (0.95, 1.5, 6.016663104427929),
        (0.95, 2.5, 3.5746548420036817),
        (0.6, 1.01, 1.3689324112804067),
        (0.999, 1.2, 226.537567245918),
        (0.95, 3, 3.1824463052837078),
        (0.6, 3, 0.9784723123633042),
    ],
)
def test_quantile_of_students_t_holds_between_whole_numbers(
    confidence: float, df: float, expected: float
) -> None:
    assert t_quantile(confidence, df) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-150, 1e-90, 1.0, 1e90, 1e150])
def test_interval_of_welch_scales_with_its_values(scale: float) -> None:
    a = np.array([1.0, 2.0, 4.0])
    b = np.array([0.0, 0.5])
    whole = welch(a, b)
    scaled = welch(a * scale, b * scale)
    assert scaled[:3] == pytest.approx([end * scale for end in whole[:3]], rel=1e-9, abs=0.0)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_welch_of_two_lone_arms_covers_at_few_values(n: int) -> None:
    rng = np.random.default_rng(7)
    n_covered = sum(
        interval.ci_low <= 0 <= interval.ci_high
        for interval in (welch(rng.normal(size=n), rng.normal(size=n)) for _ in range(1_500))
    )
    # Three standard errors below 95 %.
    assert n_covered / 1_500 > 0.933


@pytest.mark.parametrize("n_tasks", [3, 5, 8])
def test_contrast_covers_if_tasks_differ_by_more_than_chance(n_tasks: int) -> None:
    rng = np.random.default_rng(7)
    n = np.full(n_tasks, 200.0)
    n_covered = 0
    for _ in range(1_500):
        effects = np.clip(rng.normal(0.0, 0.15, n_tasks), -0.45, 0.45)
        arms = [rng.binomial(200, 0.5, n_tasks), rng.binomial(200, 0.5 + effects)]
        found = contrast([arm.astype(float) for arm in arms], [n, n], [-1.0, 1.0])
        n_covered += found.ci_low <= 0 <= found.ci_high
    assert n_covered / 1_500 > 0.933
