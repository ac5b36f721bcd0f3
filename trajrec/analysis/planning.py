"""How many tasks and rollouts would show a difference."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from trajrec.analysis.cells import make_cells
from trajrec.analysis.conditions import SELECT_BY_FIXED, outcome_columns
from trajrec.analysis.estimate import Estimate, as_estimate
from trajrec.analysis.rollouts import Reading, find_check, read_runs
from trajrec.analysis.source import Source
from trajrec.statistics.paired_rates import hull_difference, rate_over_tasks
from trajrec.statistics.quantiles import CONFIDENCE, t_quantile
from trajrec.types import FloatArray

POWER = 0.80
"""The chance with which a difference should be shown: the convention of the field."""

MAX_TASKS = 1_000_000


def visible_difference(
    standard_error: float, n_tasks: int, confidence: float = CONFIDENCE
) -> float:
    """Return the difference that an interval excludes 0 for, with a chance of 80 %.

    Args:
        standard_error: Of the mean difference over the tasks.
        n_tasks: Tasks, >= 2.
        confidence: That of the interval.

    >>> round(visible_difference(0.1057, 8), 2)
    0.34
    """
    # The chance of a single end of the interval: P(T < t) = 0.80 is P(|T| < t) = 0.60.
    return standard_error * (
        t_quantile(confidence, n_tasks - 1) + t_quantile(2 * POWER - 1, n_tasks - 1)
    )


def tasks_needed(spread: float, difference: float, confidence: float = CONFIDENCE) -> int:
    """Return the fewest tasks that show a difference with a chance of 80 %.

    Args:
        spread: Standard deviation of the differences over tasks, >= 0.
        difference: The difference, > 0.
        confidence: That of the interval.

    Returns:
        At least 3, and at most a million.

    >>> tasks_needed(0.3, 0.05)
    285
    """
    low = 3
    high = MAX_TASKS
    while low < high:
        middle = (low + high) // 2
        if visible_difference(spread / math.sqrt(middle), middle, confidence) <= difference:
            high = middle
        else:
            low = middle + 1
    return low


def tasks_needed_from_nothing(spread: float, difference: float, n_rollouts: int) -> int:
    """Return the fewest tasks that show a gain over a run whose rollouts all failed.

    The interval of equal rates rests on the number of tasks, however many rollouts they have: the
    spread alone asks for too few. By symmetry, this is so for a loss after a run without failures.

    Args:
        spread: Standard deviation of the differences over tasks, >= 0.
        difference: The gain, in (0, 1].
        n_rollouts: Rollouts of each task in each run.

    >>> tasks_needed(0.07, 0.05), tasks_needed_from_nothing(0.07, 0.05, 16)
    (18, 91)
    """
    low = tasks_needed(spread, difference)
    high = low
    while high < MAX_TASKS and not _is_gain_shown(high, spread, difference, n_rollouts):
        low = high + 1
        high = min(2 * high, MAX_TASKS)
    while low < high:
        middle = (low + high) // 2
        if _is_gain_shown(middle, spread, difference, n_rollouts):
            high = middle
        else:
            low = middle + 1
    return low


def _is_gain_shown(n_tasks: int, spread: float, difference: float, n_rollouts: int) -> bool:
    """Return whether a gain over nothing is shown, if it is as small as 80 % of samples have it."""
    error = spread / math.sqrt(n_tasks)
    mean = difference - t_quantile(2 * POWER - 1, n_tasks - 1) * error
    if mean <= 0:
        return False
    # Some tasks gain alike and the others nothing: rates cannot fall below 0.
    gain = min(1.0, mean + spread**2 / mean)
    n_gaining = max(1, round(n_tasks * mean / gain))
    rates = np.zeros(n_tasks)
    rates[:n_gaining] = min(1.0, mean * n_tasks / n_gaining)
    most = float(n_rollouts * n_tasks)
    return bool(hull_difference(np.zeros(n_tasks), rates, most, most).ci_low > 0)


ROLLOUTS = (1, 2, 4, 8, 16)
"""Rollouts of each task in each run that a plan lists."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanRow:
    """The tasks that a comparison needs.

    Attributes:
        n_rollouts: Rollouts of each task in each run.
        n_tasks: Tasks that show the effect with a chance of 80 %.
        n_tasks_high: Tasks, if rollouts of a task vary as much as the interval of their spread
            allows.
    """

    n_rollouts: int
    n_tasks: int
    n_tasks_high: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How many tasks and rollouts would show an effect.

    Attributes:
        effect: The difference of rates.
        effect_spread: Standard deviation of the effect over tasks, which is assumed.
        rate: Mean rate over the tasks of the pilot.
        within: Variance of one rollout around the rate of its task, mean over tasks.
        n_tasks: Tasks of the pilot.
        rows: A row for each number of rollouts.
        note: How `within` was estimated, and whether the pilot has several interfaces.
    """

    effect: float
    effect_spread: float
    rate: Estimate
    within: Estimate
    n_tasks: int
    rows: tuple[PlanRow, ...]
    note: str

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data, which JSON can hold."""
        return dataclasses.asdict(self)

    def __repr__(self) -> str:
        shown = ", ".join(f"{row.n_tasks} x {row.n_rollouts}" for row in self.rows)
        return f"<Plan for an effect of {self.effect:g}: tasks x rollouts {shown}>"


def make_plan(
    source: Source, where: str, *, check: str | None, effect: float, effect_spread: float | None
) -> Plan:
    """Return how many tasks and rollouts would show an effect on tasks like those of a pilot.

    Raises:
        QueryError: DuckDB rejects the condition.
        ValueError: The effect is not in (0, 1], the condition selects by outcomes, or the pilot
            has fewer than two tasks with graded rollouts.
    """
    if not 0 < effect <= 1:
        raise ValueError(f"effect must be a difference of rates in (0, 1], got {effect!r}")
    spread = effect if effect_spread is None else effect_spread
    if not spread >= 0:
        raise ValueError(f"effect_spread must be at least 0, got {effect_spread!r}")
    if names := outcome_columns(source, where):
        raise ValueError(
            f"the pilot is selected by outcomes ({', '.join(names)}): {SELECT_BY_FIXED}"
        )
    (groups,) = read_runs(source, [where], Reading(check=find_check(check, source)))
    cells = [cell for cell in make_cells(groups).values() if cell.n]
    if len(cells) < 2:
        raise ValueError(
            f"a pilot needs 2 tasks with graded rollouts, and has {len(cells)}: record more tasks "
            "with a check, or select more"
        )
    rates = np.array([cell.rate for cell in cells])
    of_mean = rate_over_tasks(rates, float(sum(cell.n for cell in cells)))
    rate = as_estimate(of_mean)
    repeated = [cell for cell in cells if cell.n >= 2]
    if len(repeated) >= 2:
        # The unbiased variance of a rollout, task by task.
        values = np.array([c.rate * (1 - c.rate) * c.n / (c.n - 1) for c in repeated])
        within = _variance(values)
        note = f"spread within tasks from {len(repeated)} tasks with 2 rollouts or more"
    else:
        most = rate.value * (1 - rate.value)
        within = Estimate(value=most, ci_low=0.0, ci_high=MOST_VARIANCE)
        note = "no two tasks have 2 rollouts: tasks are taken to be alike, which asks for the most"
    n_interfaces = len({group.interface_id for group in groups if group.n_graded})
    if n_interfaces > 1:
        note += (
            f"; the pilot has {n_interfaces} interfaces, whose rates count as one (select a run)"
        )
    of_both = variance_of_both(within.value, rate.value, effect)
    of_both_high = variance_of_both(within.ci_high, rate.value, effect)
    is_flat = rate.value in (0.0, 1.0)
    note += _limits_of(rate.value, effect)

    def needed(variance: float, n: int) -> int:
        of_task = math.sqrt(variance / n + spread**2)
        if is_flat:
            return tasks_needed_from_nothing(of_task, effect, n)
        return tasks_needed(of_task, effect)

    rows = [
        PlanRow(n_rollouts=n, n_tasks=needed(of_both, n), n_tasks_high=needed(of_both_high, n))
        for n in ROLLOUTS
    ]
    return Plan(
        effect=effect,
        effect_spread=spread,
        rate=rate,
        within=within,
        n_tasks=len(cells),
        rows=tuple(rows),
        note=note,
    )


def _limits_of(rate: float, effect: float) -> str:
    """Return what limits a plan from a pilot with a rate, as the rest of a sentence."""
    if rate in (0.0, 1.0):
        word = "passed" if rate else "failed"
        return f"; all rollouts of the pilot {word}, so that more rollouts of a task save few tasks"
    # Without any failure, or any success, the rates of the second run would be flat.
    return "".join(
        f"; the numbers hold for no {change}: the largest is {room:.2f}"
        for change, room in (("gain", 1 - rate), ("loss", rate))
        if effect >= room
    )


MOST_VARIANCE = 0.25
"""Variance of a rollout that succeeds in half of the cases: no other varies more."""


def variance_of_both(within: float, rate: float, effect: float) -> float:
    """Return the variance of a rollout of each run, summed, if the second has the effect.

    Rates that move towards 1/2 vary more: by as much as a gain or a loss of this size adds, which
    is more for rates near 0 or 1 than the pilot shows.

    Args:
        within: Variance of one rollout of the pilot around the rate of its task, mean over tasks.
        rate: Mean rate of the pilot.
        effect: The difference of rates.

    >>> round(variance_of_both(0.09, 0.1, 0.1), 3), variance_of_both(0.25, 0.5, 0.1)
    (0.25, 0.5)
    """
    # The mean over tasks of (p + e)(1 - p - e) is that of p(1 - p), and e(1 - 2 p) - e^2.
    moved = within + effect * abs(1 - 2 * rate) - effect**2
    return within + min(MOST_VARIANCE, max(within, moved))


def _variance(values: FloatArray) -> Estimate:
    """Return the mean variance of a rollout, with its interval, in [0, 1/4]."""
    # A variance of rollouts is at most twice 1/4 with two of them, so half of it lies in [0, 1/4].
    limits = rate_over_tasks(np.minimum(values * 2, 1.0), 4.0 * len(values))
    ends = [min(MOST_VARIANCE, float(end) / 2) for end in limits]
    return Estimate(value=ends[0], ci_low=ends[1], ci_high=ends[2])
