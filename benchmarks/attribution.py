"""Comparisons of runs measured: `python -m benchmarks.attribution [coverage | pass_k | size | traps]`.

`coverage` draws corpora with a known difference and counts how often each interval holds it, in 384
conditions: six numbers of tasks, four numbers of rollouts, and 16 worlds. `pass_k` does the same
for pass@k and pass^k. `size` measures the analyses on a million episodes with two million checks.
Each line has its criterion; the status is 1 if one is missed.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from math import comb
from typing import NamedTuple

import numpy as np

from benchmarks.attribution_size import sizes
from benchmarks.attribution_traps import traps
from trajrec.statistics.paired_rates import hull_difference, t_difference
from trajrec.statistics.pass_k import mean_over_tasks
from trajrec.types import FloatArray

TASKS = (3, 5, 10, 20, 50, 100)
# 0 stands for one to four rollouts at random, in each arm.
ROLLOUTS = (1, 4, 16, 0)

LEAST_COVERAGE = 0.935
MOST_WIDTH = 1.2
# From so many tasks on, Student's interval is a fair measure of width.
FAIR_TASKS = 20
LEAST_PASS_K = 0.91
MEAN_PASS_K = 0.95

# Rates that are drawn to compute the true mean of a world.
N_TRUTH = 400_000


class World(NamedTuple):
    """A distribution of tasks, and an effect.

    Attributes:
        shape: Parameters of the beta distribution of the rates of the first run.
        effect: Mean effect, in logits.
        spread: Standard deviation of the effect over tasks, in logits.
    """

    shape: tuple[float, float]
    effect: float
    spread: float


WORLDS = [
    World(*values)
    for values in itertools.product(
        ((0.5, 0.5), (5.0, 5.0), (0.3, 2.2), (6.0, 0.3)), (0.0, 0.8), (0.0, 1.0)
    )
]


class Condition(NamedTuple):
    """The result of one condition.

    Attributes:
        n_tasks: Tasks.
        n_rollouts: Rollouts of each task; 0 for one to four.
        world: The world.
        covered: Share of intervals that hold the true difference.
        width: Mean width of the hull.
        width_t: Mean width of Student's interval.
        least_width: Width of the narrowest hull.
    """

    n_tasks: int
    n_rollouts: int
    world: World
    covered: float
    width: float
    width_t: float
    least_width: float


def draw_rates(
    rng: np.random.Generator, world: World, shape: tuple[int, ...]
) -> tuple[FloatArray, FloatArray]:
    """Return the rates of tasks in both runs, of the given shape."""
    of_a = np.clip(rng.beta(*world.shape, size=shape), 1e-12, 1 - 1e-12)
    logits = np.log(of_a / (1 - of_a))
    logits += world.effect + world.spread * rng.standard_normal(shape)
    return of_a, 1 / (1 + np.exp(-logits))


def true_difference(world: World) -> float:
    """Return the mean difference over all tasks of a world."""
    if world.effect == world.spread == 0.0:
        return 0.0
    of_a, of_b = draw_rates(np.random.default_rng(1), world, (N_TRUTH,))
    return float((of_b - of_a).mean())


def simulate(n_tasks: int, n_rollouts: int, world: World, n_corpora: int, seed: int) -> Condition:
    """Return the coverage and the width of the hull in one condition."""
    number = WORLDS.index(world)
    rng = np.random.default_rng([seed, n_tasks, n_rollouts, number])
    shape = (n_corpora, n_tasks)
    of_a, of_b = draw_rates(rng, world, shape)
    n_a = np.full(shape, n_rollouts) if n_rollouts else rng.integers(1, 5, shape)
    n_b = np.full(shape, n_rollouts) if n_rollouts else rng.integers(1, 5, shape)
    rates_a = rng.binomial(n_a, of_a) / n_a
    rates_b = rng.binomial(n_b, of_b) / n_b
    hull = hull_difference(rates_a, rates_b, n_a.sum(axis=-1), n_b.sum(axis=-1))
    student = t_difference(rates_b - rates_a)
    truth = true_difference(world)
    widths = hull.ci_high - hull.ci_low
    return Condition(
        n_tasks=n_tasks,
        n_rollouts=n_rollouts,
        world=world,
        covered=float(((hull.ci_low <= truth) & (truth <= hull.ci_high)).mean()),
        width=float(widths.mean()),
        width_t=float((student.ci_high - student.ci_low).mean()),
        least_width=float(widths.min()),
    )


def coverage(n_corpora: int = 3000, seed: int = 0) -> Iterator[tuple[str, bool]]:
    """Yield a line for each number of tasks and rollouts, and whether its criteria hold."""
    for n_tasks, n_rollouts in itertools.product(TASKS, ROLLOUTS):
        conditions = [simulate(n_tasks, n_rollouts, world, n_corpora, seed) for world in WORLDS]
        worst = min(conditions, key=lambda condition: condition.covered)
        mean = sum(condition.covered for condition in conditions) / len(conditions)
        wider = sum(c.width for c in conditions) / sum(c.width_t for c in conditions)
        least = min(condition.least_width for condition in conditions)
        holds = worst.covered >= LEAST_COVERAGE and least > 0
        holds = holds and (wider <= MOST_WIDTH or n_tasks < FAIR_TASKS)
        rollouts = n_rollouts or "1-4"
        yield (
            f"{n_tasks:>4} tasks x {rollouts:<3} covered {mean:.3f}, worst {worst.covered:.4f} "
            f"(beta{worst.world.shape}, effect {worst.world.effect}, spread {worst.world.spread}); "
            f"{wider:.3f} times as wide as t, narrowest {least:.3f}",
            holds,
        )


def pass_k(n_corpora: int = 3000, seed: int = 0) -> Iterator[tuple[str, bool]]:
    """Yield a line for each number of tasks, rollouts and k, and whether its criteria hold."""
    covered = []
    for n_tasks, n_rollouts, k in itertools.product((5, 10, 20, 50, 100), (4, 8, 16), (1, 2, 4)):
        shares = []
        for number, shape in enumerate(((0.5, 0.5), (5.0, 5.0), (0.3, 2.2), (6.0, 0.3))):
            rng = np.random.default_rng([seed, n_tasks, n_rollouts, k, number])
            rates = rng.beta(*shape, size=(n_corpora, n_tasks))
            passed = rng.binomial(n_rollouts, rates)
            table = np.array([comb(s, k) / comb(n_rollouts, k) for s in range(n_rollouts + 1)])
            limits = mean_over_tasks(table[passed])
            truth = float(np.prod([(shape[0] + j) / (sum(shape) + j) for j in range(k)]))
            shares.append(float(((limits.ci_low <= truth) & (truth <= limits.ci_high)).mean()))
        covered += shares
        yield (
            f"{n_tasks:>4} tasks x {n_rollouts:<2} k={k} covered {np.mean(shares):.3f}, "
            f"worst {min(shares):.4f}",
            min(shares) >= LEAST_PASS_K,
        )
    mean = float(np.mean(covered))
    yield f"pass^k covered {mean:.4f} on average", mean >= MEAN_PASS_K


PARTS: dict[str, Callable[[], Iterator[tuple[str, bool]]]] = {
    "coverage": coverage,
    "pass_k": pass_k,
    "size": sizes,
    "traps": traps,
}


def main(names: list[str]) -> int:
    """Run parts; return the number of missed criteria."""
    n_missed = 0
    for name in names or PARTS:
        for line, holds in PARTS[name]():
            print(line if holds else f"{line} MISSED", flush=True)
            n_missed += not holds
    return n_missed


if __name__ == "__main__":
    raise SystemExit(1 if main(sys.argv[1:]) else 0)
