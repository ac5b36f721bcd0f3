"""The interval of a difference over tasks: which method fits the results, and what it needs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trajrec.analysis.arms import Over, TaskDifference
from trajrec.analysis.cells import Cell
from trajrec.analysis.estimate import Estimate, as_estimate
from trajrec.statistics.intervals import augmented_t, newcombe, welch
from trajrec.statistics.paired_rates import (
    Limits,
    difference_on_these,
    hull_difference,
    rate_over_tasks,
    spread_over_tasks,
)
from trajrec.statistics.quantiles import CONFIDENCE, t_quantile
from trajrec.types import FloatArray

Range = tuple[float, float]

UNIT_RANGE: Range = (0.0, 1.0)


class Pair(NamedTuple):
    """A task, or a family of tasks, in both arms.

    Attributes:
        name: Its name.
        a: Its cells in the first arm; a task has one.
        b: Its cells in the second arm.
    """

    name: str
    a: tuple[Cell, ...]
    b: tuple[Cell, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """A difference with its interval.

    Attributes:
        difference: The mean over pairs, b - a; None if no method gives it an interval.
        rate_a: The mean of the first arm.
        rate_b: The mean of the second arm.
        method: How the interval was computed, or why there is none.
        standard_error: Of the mean difference, at least as the interval has it; None without one.
        n_independent: Independent units that the standard error rests on.
        spread: Standard deviation of the differences over pairs.
    """

    difference: Estimate | None
    rate_a: Estimate | None
    rate_b: Estimate | None
    method: str
    standard_error: float | None = None
    n_independent: int = 0
    spread: float | None = None


def pair_cells(
    cells_a: dict[str, Cell], cells_b: dict[str, Cell], *, by_family: bool
) -> list[Pair]:
    """Return the tasks, or families, that both arms have graded rollouts of."""
    groups: dict[str, tuple[list[Cell], list[Cell]]] = {}
    for unit in sorted(cells_a.keys() & cells_b.keys()):
        a = cells_a[unit]
        b = cells_b[unit]
        if a.n and b.n:
            # A task without a family is a family of its own; a name in brackets is no task's.
            name = (a.family or b.family or f"[{unit}]") if by_family else unit
            of_a, of_b = groups.setdefault(name, ([], []))
            of_a.append(a)
            of_b.append(b)
    return [Pair(name, tuple(of_a), tuple(of_b)) for name, (of_a, of_b) in groups.items()]


def mean_rate(cells: Sequence[Cell]) -> float:
    """Return the mean over tasks of their mean results."""
    return math.fsum(cell.rate for cell in cells) / len(cells)


def measure(
    pairs: Sequence[Pair],
    *,
    over: Over,
    value_range: Range | None,
    confidence: float = CONFIDENCE,
) -> Measured:
    """Return the mean difference over pairs with its interval.

    Args:
        pairs: Tasks or families, at least 1.
        over: "population" or "these".
        value_range: Least and greatest possible result; None for scores without a range.
        confidence: The share of intervals of the difference that cover; those of the arms are 95 %.
    """
    if len(pairs) < 2:
        return Measured(
            difference=None, rate_a=None, rate_b=None, method="none: one task shows no spread"
        )
    rates_a = np.array([mean_rate(pair.a) for pair in pairs])
    rates_b = np.array([mean_rate(pair.b) for pair in pairs])
    if value_range is None:
        return _measure_scores(rates_a, rates_b, confidence)
    low, high = value_range
    scale = high - low
    n_a = float(sum(cell.n for pair in pairs for cell in pair.a))
    n_b = float(sum(cell.n for pair in pairs for cell in pair.b))
    unit_a = (rates_a - low) / scale
    unit_b = (rates_b - low) / scale
    n_independent = len(pairs)
    if over == "these":
        limits = _on_these(pairs, value_range, confidence)
        method = "sum of the cells' binomial variances, t"
        n_independent = 1 + sum(cell.n - 1 for pair in pairs for cell in (*pair.a, *pair.b))
        if limits is None:
            return Measured(
                difference=None,
                rate_a=None,
                rate_b=None,
                method="none: these tasks alone need verdicts, and 2 rollouts of each in each run",
            )
    else:
        limits = hull_difference(unit_a, unit_b, n_a, n_b, confidence)
        method = "hull of paired MOVER and t"
    half = (float(limits.ci_high) - float(limits.ci_low)) / 2 * scale
    error = half / t_quantile(confidence, n_independent - 1)
    spread = float(np.sqrt(spread_over_tasks(rates_b - rates_a).variance))
    if over == "population":
        error = max(error, spread / math.sqrt(len(pairs)))
    return Measured(
        difference=as_estimate(limits, scale),
        rate_a=as_estimate(rate_over_tasks(unit_a, n_a), scale, low),
        rate_b=as_estimate(rate_over_tasks(unit_b, n_b), scale, low),
        method=method,
        standard_error=error,
        n_independent=n_independent,
        spread=max(spread, error * math.sqrt(len(pairs))),
    )


def _measure_scores(rates_a: FloatArray, rates_b: FloatArray, confidence: float) -> Measured:
    """Return the mean difference of scores that have no known range."""
    differences = rates_b - rates_a
    if np.count_nonzero(differences == 0.0) * 2 > len(differences):
        return Measured(
            difference=None,
            rate_a=None,
            rate_b=None,
            method="none: more than half of the tasks do not differ at all, and the scores have no"
            " range; give --range",
        )
    scale = float(np.concatenate([rates_a, rates_b]).std(ddof=1))
    interval = augmented_t(differences, scale, confidence)
    quantile = t_quantile(confidence, len(differences) - 1)
    error = (interval.ci_high - interval.ci_low) / 2 / quantile
    arms = [augmented_t(rates, scale) for rates in (rates_a, rates_b)]
    of_arms = [Estimate(value=i.value, ci_low=i.ci_low, ci_high=i.ci_high) for i in arms]
    return Measured(
        difference=Estimate(value=interval.value, ci_low=interval.ci_low, ci_high=interval.ci_high),
        rate_a=of_arms[0],
        rate_b=of_arms[1],
        method="augmented t over tasks",
        standard_error=error,
        n_independent=len(differences),
        spread=error * math.sqrt(len(differences)),
    )


def _on_these(pairs: Sequence[Pair], value_range: Range, confidence: float) -> Limits | None:
    cells = [(pair.a[0], pair.b[0]) for pair in pairs]
    is_one_cell = all(len(pair.a) == len(pair.b) == 1 for pair in pairs)
    is_enough = all(cell.n >= 2 for both in cells for cell in both)
    is_binary = value_range == UNIT_RANGE and all(cell.is_binary for both in cells for cell in both)
    if not (is_one_cell and is_enough and is_binary):
        return None
    return difference_on_these(
        np.array([a.total for a, _ in cells]),
        np.array([float(a.n) for a, _ in cells]),
        np.array([b.total for _, b in cells]),
        np.array([float(b.n) for _, b in cells]),
        confidence,
    )


def bounds_of(
    cells_a: dict[str, Cell], cells_b: dict[str, Cell], value_range: Range, *, by_family: bool
) -> tuple[float, float] | None:
    """Return the difference under the worst and the best results of the excluded rollouts.

    A task with excluded rollouts alone counts here, though it has no rate.
    """
    low, high = value_range
    worst = _filled_difference(cells_a, cells_b, (high, low), by_family=by_family)
    best = _filled_difference(cells_a, cells_b, (low, high), by_family=by_family)
    return None if worst is None or best is None else (worst, best)


def _filled_difference(
    cells_a: dict[str, Cell],
    cells_b: dict[str, Cell],
    results: tuple[float, float],
    *,
    by_family: bool,
) -> float | None:
    filled_a = {unit: _filled(cell, results[0]) for unit, cell in cells_a.items()}
    filled_b = {unit: _filled(cell, results[1]) for unit, cell in cells_b.items()}
    pairs = pair_cells(filled_a, filled_b, by_family=by_family)
    if not pairs:
        return None
    return math.fsum(mean_rate(pair.b) - mean_rate(pair.a) for pair in pairs) / len(pairs)


def _filled(cell: Cell, result: float) -> Cell:
    """Return a cell in which each excluded rollout has a result."""
    return dataclasses.replace(
        cell, n=cell.n + cell.n_excluded, total=cell.total + result * cell.n_excluded
    )


def task_difference(pair: Pair, value_range: Range | None) -> TaskDifference:
    """Return the difference of one task, with an interval from its own rollouts."""
    n_a = sum(cell.n for cell in pair.a)
    n_b = sum(cell.n for cell in pair.b)
    rate_a = mean_rate(pair.a)
    rate_b = mean_rate(pair.b)
    low = -math.inf
    high = math.inf
    if len(pair.a) == len(pair.b) == 1:
        samples = [_samples(cell) for cell in (pair.b[0], pair.a[0])]
        is_binary = value_range == UNIT_RANGE and all(
            cell.is_binary for cell in (pair.a[0], pair.b[0])
        )
        if is_binary:
            _, low, high, _ = newcombe(samples[0], samples[1])
        elif min(n_a, n_b) >= 2:
            _, low, high, _ = welch(samples[0], samples[1])
    if value_range is not None:
        width = value_range[1] - value_range[0]
        low = max(low, -width)
        high = min(high, width)
    difference = Estimate(value=rate_b - rate_a, ci_low=low, ci_high=high)
    return TaskDifference(
        task=pair.name, n_a=n_a, n_b=n_b, rate_a=rate_a, rate_b=rate_b, difference=difference
    )


def _samples(cell: Cell) -> FloatArray:
    """Return n numbers with the mean and the variance of a cell's results."""
    if cell.is_binary:
        return np.concatenate([np.ones(round(cell.total)), np.zeros(cell.n - round(cell.total))])
    signs = np.where(np.arange(cell.n) % 2 == 0, 1.0, -1.0)
    signs -= signs.mean()
    spread = float(np.sqrt((signs**2).mean())) or 1.0
    return np.asarray(cell.rate + signs / spread * math.sqrt(cell.deviations / cell.n))
