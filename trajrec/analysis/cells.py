"""Cells: the rollouts of one task in one arm, added up from groups of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from trajrec.analysis.rollouts import Group


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """The rollouts of one task in one arm.

    Attributes:
        unit: The task.
        family: Its cluster; None without one.
        n: Graded rollouts.
        total: Sum of their results: the successes, if results are verdicts.
        deviations: Sum of the squared differences from their mean.
        is_binary: Whether each result is 0 or 1.
        n_excluded: Rollouts without a result.
    """

    unit: str
    family: str | None
    n: int
    total: float
    deviations: float
    is_binary: bool
    n_excluded: int

    @property
    def rate(self) -> float:
        """The mean result."""
        return self.total / self.n

    def with_result(self, result: float | None) -> Cell:
        """Return the cell with one rollout; with none if the result is None."""
        if result is None:
            return self
        is_binary = result in (0.0, 1.0)
        return dataclasses.replace(self, n=1, total=result, deviations=0.0, is_binary=is_binary)


def make_cells(groups: Iterable[Group]) -> dict[str, Cell]:
    """Return the cell of each task; rollouts without a task are left out."""
    by_unit: dict[str, list[Group]] = {}
    for group in groups:
        if group.unit is not None:
            by_unit.setdefault(group.unit, []).append(group)
    return {unit: _cell(unit, of_unit) for unit, of_unit in sorted(by_unit.items())}


def _cell(unit: str, groups: list[Group]) -> Cell:
    return Cell(
        unit=unit,
        family=next((group.family for group in groups if group.family is not None), None),
        n=sum(group.n_graded for group in groups),
        total=sum(group.total for group in groups),
        deviations=_deviations(groups),
        is_binary=all(group.is_binary for group in groups),
        n_excluded=sum(group.n - group.n_graded for group in groups),
    )


def _deviations(groups: list[Group]) -> float:
    """Return the sum of the squared differences from the mean of all groups together."""
    graded = [group for group in groups if group.n_graded]
    n = sum(group.n_graded for group in graded)
    mean = sum(group.total for group in graded) / max(1, n)
    return sum(
        group.deviations + group.n_graded * (group.total / group.n_graded - mean) ** 2
        for group in graded
    )
