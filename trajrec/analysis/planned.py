"""Whether the numbers of rollouts were planned, or may depend on how the rollouts went.

Stopping at the first success, or retrying until a pass, makes the rates of tasks too low or too
high, and by task as well as pooled. The first rollout of each task is not affected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from trajrec.analysis.cells import Cell
from trajrec.types import Value


def planned_trials(interfaces: Mapping[str | None, Value]) -> Value:
    """Return `eval_protocol.trials`, if all interfaces of a run agree in it, else None."""
    values = []
    for interface in interfaces.values():
        protocol = interface.get("eval_protocol") if isinstance(interface, Mapping) else None
        values.append(protocol.get("trials") if isinstance(protocol, Mapping) else None)
    if not values or any(value != values[0] for value in values):
        return None
    return values[0]


def apply_plan(cells: dict[str, Cell], trials: Value) -> tuple[dict[str, Cell], str | None]:
    """Return the cells, and why only their first rollouts may count, if they were not planned.

    Args:
        cells: The cells of a run.
        trials: Declared rollouts of each task: a number, or a dict by task; None if undeclared.

    Returns:
        The cells, and None if their counts were declared, or are the same for all tasks, with or
        without the excluded rollouts.
    """
    planned = {unit: _of_task(trials, unit) for unit in cells}
    if all(n is not None for n in planned.values()):
        extra = [unit for unit, cell in cells.items() if cell.n > (planned[unit] or 0)]
        if not extra:
            return {
                unit: _completed(cell, planned[unit] or 0) for unit, cell in cells.items()
            }, None
        note = f"{len(extra)} tasks have more rollouts than eval_protocol.trials says"
    elif is_balanced((cell.n, cell.n_excluded) for cell in cells.values()):
        return cells, None
    else:
        note = "tasks have different numbers of rollouts, and eval_protocol.trials is not declared"
    return cells, note


def is_balanced(counts: Iterable[tuple[int, int]]) -> bool:
    """Return whether all tasks have equal numbers of rollouts, or of graded ones.

    Args:
        counts: The graded and the excluded rollouts of each task.
    """
    of_tasks = list(counts)
    graded = {n for n, _ in of_tasks}
    begun = {n + n_excluded for n, n_excluded in of_tasks}
    return len(graded) <= 1 or len(begun) <= 1


def _completed(cell: Cell, n_planned: int) -> Cell:
    """Return a cell in which rollouts that were planned and are not there count as excluded."""
    return dataclasses.replace(cell, n_excluded=max(cell.n_excluded, n_planned - cell.n))


def _of_task(trials: Value, unit: str) -> int | None:
    value = trials.get(unit) if isinstance(trials, Mapping) else trials
    return value if isinstance(value, int) and not isinstance(value, bool) else None
