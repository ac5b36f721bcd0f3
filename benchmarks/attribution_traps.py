"""How common ways of comparing runs mislead, with no true difference between the runs.

Each line has the number that docs/explanation/attribution.md gives.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trajrec.statistics.paired_rates import hull_difference, t_difference
from trajrec.statistics.quantiles import normal_quantile
from trajrec.types import FloatArray

N_CORPORA = 2000
N_DRAWS = 1000


def traps(seed: int = 0) -> Iterator[tuple[str, bool]]:
    """Yield a line for each trap; none has a criterion."""
    rng = np.random.default_rng(seed)
    for line in (
        *pooled(rng),
        *selected(rng),
        *stopped(rng),
        *bootstrapped(rng),
        *trained(rng),
        *best_of_ten(rng),
    ):
        yield line, True


def rates(rng: np.random.Generator, n_tasks: int) -> FloatArray:
    """Return rates of tasks, most of them near 0 or 1."""
    return rng.beta(0.5, 0.5, size=(N_CORPORA, n_tasks))


def pooled(rng: np.random.Generator) -> Iterator[str]:
    """Yield the effect of eight times as many rollouts on hard tasks."""
    p = rates(rng, 50)
    n_b = np.where(p < 0.5, 32, 4)
    passed_a = rng.binomial(4, p)
    passed_b = rng.binomial(n_b, p)
    by_rollout = passed_b.sum() / n_b.sum() - passed_a.sum() / (4 * p.size)
    by_task = (passed_b / n_b - passed_a / 4).mean()
    yield f"8 times the rollouts on hard tasks of B: pooled {by_rollout:+.3f}, by task {by_task:+.3f}"


def selected(rng: np.random.Generator) -> Iterator[str]:
    """Yield the gain of the tasks that a run always failed, and of those it always passed."""
    p = rates(rng, 50)
    passed_a = rng.binomial(4, p)
    passed_b = rng.binomial(4, p)
    for name, passed in (("failed", 0), ("passed", 4)):
        chosen = passed_a == passed
        gain = 100 * (passed_b - passed_a)[chosen].mean() / 4
        yield f"tasks that A always {name} (4 rollouts): {gain:+.1f} points in B"


def stopped(rng: np.random.Generator) -> Iterator[str]:
    """Yield the effect of stopping at the first success, after at most eight rollouts."""
    p = rates(rng, 50)
    results = rng.random((8, *p.shape)) < p
    has_passed = results.any(axis=0)
    n = np.where(has_passed, results.argmax(axis=0) + 1, 8)
    pooled_rate = has_passed.sum() / n.sum() - p.mean()
    by_task = (has_passed / n).mean() - p.mean()
    yield (
        f"stopping at the first success: pooled {pooled_rate:+.2f}, by task {by_task:+.2f}, "
        f"best of the rollouts {has_passed.mean() - p.mean():+.2f}, "
        f"first rollout {results[0].mean() - p.mean():+.2f}"
    )


def bootstrapped(rng: np.random.Generator) -> Iterator[str]:
    """Yield the coverage of usual intervals with few tasks, and of the hull."""
    for n_tasks, n_rollouts in ((5, 1), (5, 4), (20, 4)):
        p = rng.beta(6.0, 0.3, size=(N_CORPORA, n_tasks))
        of_a = rng.binomial(n_rollouts, p) / n_rollouts
        of_b = rng.binomial(n_rollouts, p) / n_rollouts
        differences = of_b - of_a
        picks = rng.integers(0, n_tasks, (N_DRAWS, n_tasks))
        means = differences[:, picks].mean(axis=-1)
        low, high = np.quantile(means, (0.025, 0.975), axis=-1)
        error = differences.std(axis=-1, ddof=1) / np.sqrt(n_tasks)
        normal = normal_quantile(0.95) * error
        centre = differences.mean(axis=-1)
        student = t_difference(differences)
        n = n_tasks * n_rollouts
        hull = hull_difference(of_a, of_b, n, n)
        # A point without a width holds 0 by luck: it is the whole interval.
        shares = {
            "bootstrap": (low <= 0) & (high >= 0) & (high > low),
            "normal": (np.abs(centre) <= normal) & (normal > 0),
            "t": (student.ci_low <= 0)
            & (student.ci_high >= 0)
            & (student.ci_high > student.ci_low),
            "hull": (hull.ci_low <= 0) & (hull.ci_high >= 0),
        }
        text = ", ".join(f"{name} {100 * share.mean():.0f} %" for name, share in shares.items())
        yield f"{n_tasks} tasks x {n_rollouts}, easy tasks, intervals with a width that hold 0: {text}"


def trained(rng: np.random.Generator) -> Iterator[str]:
    """Yield how often an interval over tasks tells two training runs of one recipe apart."""
    for n_tasks in (100, 500):
        p = rng.beta(5.0, 5.0, size=(N_CORPORA, n_tasks))
        of_runs = 0.016 * rng.standard_normal((2, N_CORPORA, 1))
        arms = [rng.binomial(4, np.clip(p + shift, 0, 1)) / 4 for shift in of_runs]
        hull = hull_difference(arms[0], arms[1], 4.0 * n_tasks, 4.0 * n_tasks)
        told = ((hull.ci_low > 0) | (hull.ci_high < 0)).mean()
        yield f"two training runs of one recipe, {n_tasks} tasks x 4: a difference in {told:.0%}"


def best_of_ten(rng: np.random.Generator) -> Iterator[str]:
    """Yield how often the best of ten equal variants seems to gain."""
    p = rates(rng, 50)
    of_a = rng.binomial(4, p) / 4
    gains = []
    shown = []
    for _ in range(10):
        of_b = rng.binomial(4, p) / 4
        hull = hull_difference(of_a, of_b, 200, 200)
        gains.append(hull.value)
        shown.append(hull.ci_low > 0)
    best = np.argmax(gains, axis=0)
    is_shown = np.take_along_axis(np.array(shown), best[None], axis=0).mean()
    gain = 100 * np.max(gains, axis=0).mean()
    yield f"the best of 10 equal variants, 50 tasks x 4: {gain:+.1f} points, 'shown' in {is_shown:.0%}"
