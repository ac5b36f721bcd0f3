"""A comparison of two runs as text, with a small plot of the difference of each task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trajrec.analysis.forest_plot import shown_tasks
from trajrec.cli.output import print_table, room_beside
from trajrec.cli.safe_stream import one_line
from trajrec.values.shown import counted

if TYPE_CHECKING:
    from trajrec.analysis.arms import Arm, TaskDifference
    from trajrec.analysis.comparison import Comparison
    from trajrec.analysis.cross_grading import CrossGrading

# Columns of the plot, fewer on a narrow terminal: an odd number, so that 0 has one of its own.
WIDTH = 33
MIN_WIDTH = 11


def print_comparison(comparison: Comparison, *, n_tasks: int) -> None:
    """Print a comparison: the runs, the interfaces, the effect, the claim and the tasks."""
    for name, arm in (("A", comparison.a), ("B", comparison.b)):
        print(one_line(f"{name}         {_describe(arm)}"))
    # Runs that are refused before they are read have no facts.
    if comparison.a.n_episodes or comparison.b.n_episodes:
        _print_factors(comparison)
        excluded = [_excluded(arm) for arm in (comparison.a, comparison.b)]
        print(f"excluded  A {excluded[0]}, B {excluded[1]}")
    if comparison.dropped:
        shown = ", ".join(comparison.dropped[:5]) + (", ..." if len(comparison.dropped) > 5 else "")
        print(one_line(f"dropped   {counted(len(comparison.dropped), 'task')}: {shown}"))
    print()
    if comparison.difference is not None:
        units = counted(comparison.n_units, "task" if comparison.unit == "task" else "group")
        print(
            one_line(
                f"{comparison.check}   A {comparison.a.rate}   B {comparison.b.rate}   "
                f"difference {comparison.difference.signed}   {units}   {comparison.method}"
            )
        )
        if comparison.bounds_text:
            print(f"bounds    {comparison.bounds_text}, however the excluded rollouts had ended")
    print(one_line(f"claim     {comparison.statement()}"))
    if comparison.claim == "verifier" and comparison.grade_both is not None:
        _print_split(comparison.cross_grade())
    for note in comparison.notes:
        print(one_line(f"note      {note}"))
    if comparison.tasks:
        print()
        _print_tasks(comparison, n_tasks)


def _print_split(split: CrossGrading) -> None:
    """Print the parts of a difference whose verifier changed."""
    if split.reason:
        print(one_line(f"split     refused: {split.reason}"))
        return
    print(
        f"split     by grading both runs with both versions, {counted(split.n_rollouts, 'rollout')}"
        f" of {counted(split.n_tasks, 'task')}, {split.n_dropped} dropped"
    )
    for name, text in split.lines():
        print(one_line(f"  {name:<40}{text}"))


def _describe(arm: Arm) -> str:
    if not arm.n_episodes:
        return f"{arm.where}   not read"
    ids = ", ".join("unknown" if key is None else key[:8] for key in arm.interface_ids)
    days = "" if arm.first is None else f", {arm.first}"
    if arm.last is not None and arm.last != arm.first:
        days += f" to {arm.last}"
    cut = f", {arm.n_truncated} cut off" if arm.n_truncated else ""
    counts = f"{counted(arm.n_episodes, 'episode')}, {counted(arm.n_tasks, 'task')}{days}{cut}"
    return f"{arm.where}   interface {ids}   {counts}"


def _print_factors(comparison: Comparison) -> None:
    by_status: dict[str, list[str]] = {}
    for name, factor in comparison.factors.items():
        by_status.setdefault(factor.status, []).append(name)
    for path in comparison.differing_paths:
        print(one_line(f"differs   {path}"))
    for name in by_status.get("mixed", ()):
        print(one_line(f"mixed     {', '.join(comparison.factors[name].mixed)}"))
    for name in by_status.get("unknown", ()):
        print(one_line(f"unknown   {', '.join(comparison.factors[name].unknown)}"))
    same = ", ".join(by_status.get("same", ())) or "none"
    absent = ", ".join(by_status.get("not_applicable", ()))
    print(f"same      {same}" + (f"; not applicable: {absent}" if absent else ""))


def _excluded(arm: Arm) -> str:
    total = sum(arm.excluded.values())
    reasons = ", ".join(f"{reason} {n}" for reason, n in arm.excluded.items())
    return f"{total} ({reasons})" if reasons else str(total)


def _print_tasks(comparison: Comparison, n_tasks: int) -> None:
    """Print the tasks with the largest losses and gains, each with a plot of its interval."""
    tasks = shown_tasks(comparison.tasks, n_tasks)
    limit = _limit(tasks)
    scale = f"{-limit:+.3g} to {limit:+.3g}"
    names = (comparison.unit, "A", "n", "B", "n", "difference")
    facts = [
        (
            task.task,
            f"{task.rate_a:.3g}",
            task.n_a,
            f"{task.rate_b:.3g}",
            task.n_b,
            task.difference.text,
        )
        for task in tasks
    ]
    width = max(MIN_WIDTH, min(WIDTH, room_beside(names, facts)))
    width -= 1 - width % 2
    plots = [bar(task, limit, width) for task in tasks]
    rows = [(*row, plot) for row, plot in zip(facts, plots, strict=True)]
    print_table((*names, scale), rows)
    if len(tasks) < len(comparison.tasks):
        print(f"\n{len(tasks)} of {len(comparison.tasks)} are listed (--tasks N lists more)")


def _limit(tasks: Sequence[TaskDifference]) -> float:
    """Return the greatest distance from 0 that a plot shows."""
    ends = [
        abs(end)
        for task in tasks
        for end in (task.difference.value, task.difference.ci_low, task.difference.ci_high)
        if math.isfinite(end)
    ]
    return max(ends, default=0.0) or 1.0


def bar(task: TaskDifference, limit: float, width: int) -> str:
    """Return a line with the interval of a task's difference: `...---o--|....`; `|` is 0."""
    difference = task.difference
    middle = width // 2

    def column(value: float) -> int:
        return middle + round(max(-1.0, min(1.0, value / limit)) * middle)

    cells = ["."] * width
    for k in range(column(difference.ci_low), column(difference.ci_high) + 1):
        cells[k] = "-"
    cells[middle] = "|"
    cells[column(difference.value)] = "o"
    return "".join(cells)
