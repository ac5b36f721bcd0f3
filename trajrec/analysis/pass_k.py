"""pass@k and pass^k of a run, over its tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from trajrec.analysis.cells import make_cells
from trajrec.analysis.conditions import outcome_columns
from trajrec.analysis.estimate import Estimate, as_estimate
from trajrec.analysis.planned import apply_plan, planned_trials
from trajrec.analysis.rollouts import (
    Reading,
    count_excluded,
    find_check,
    ids_of,
    read_first_results,
    read_interfaces,
    read_runs,
)
from trajrec.analysis.source import Source
from trajrec.statistics.pass_k import mean_over_tasks, pass_at_k, pass_hat_k


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassK:
    """The chances that one, and that all, of k rollouts of a task succeed, over tasks.

    Attributes:
        k: Rollouts.
        pass_at_k: Chance that at least one succeeds, mean over tasks; None if it is refused.
        pass_hat_k: Chance that all succeed, pass^k; None if it is refused.
        n_tasks: Tasks with at least k graded rollouts.
        n_dropped: Tasks with fewer.
        n_rollouts: Graded rollouts of the counted tasks.
        excluded: Rollouts without a verdict, by reason.
        n_interfaces: Interfaces that the rollouts ran under; above 1, the numbers mix them.
        reason: Why the numbers are refused; "" if they are not.
        note: Why only the first rollout of each task counts; "" if all do.
    """

    k: int
    pass_at_k: Estimate | None
    pass_hat_k: Estimate | None
    n_tasks: int
    n_dropped: int
    n_rollouts: int
    excluded: Mapping[str, int]
    n_interfaces: int
    reason: str = ""
    note: str = ""

    def __repr__(self) -> str:
        if self.pass_at_k is None:
            return f"<PassK k={self.k}: refused; {self.reason}>"
        note = f"; {self.note}" if self.note else ""
        return (
            f"<PassK k={self.k}: pass^{self.k} {self.pass_hat_k}, pass@{self.k} {self.pass_at_k}, "
            f"{self.n_tasks} tasks, {self.n_dropped} dropped{note}>"
        )


def read_pass_k(source: Source, k: int, where: str, *, check: str | None) -> PassK:
    """Return pass@k and pass^k of the fresh rollouts that a condition selects.

    Raises:
        QueryError: DuckDB rejects the condition.
        ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    reading = Reading(check=find_check(check, source))
    (groups,) = read_runs(source, [where], reading)
    cells = make_cells(groups)
    _, unplanned = apply_plan(cells, planned_trials(read_interfaces(source, ids_of(groups))))
    note = ""
    if unplanned is not None and k == 1:
        firsts = read_first_results(source, where, reading)
        cells = {unit: cell.with_result(firsts.get(unit)) for unit, cell in cells.items()}
        note = f"{unplanned}, so only the first rollout of each task counts"
    used = [cell for cell in cells.values() if cell.n >= k]
    reason = ""
    if names := outcome_columns(source, where):
        reason = f"the rollouts are selected by outcomes ({', '.join(names)})"
    elif unplanned is not None and k > 1:
        # Rollouts until the first success are no k independent ones.
        reason = unplanned
    elif not used:
        reason = f"no task has {k} graded rollouts"
    values: list[Estimate | None] = [None, None]
    if not reason:
        for place, function in enumerate((pass_at_k, pass_hat_k)):
            of_tasks = [function(cell.n, round(cell.total), k) for cell in used]
            values[place] = as_estimate(mean_over_tasks(np.array(of_tasks)))
    return PassK(
        k=k,
        pass_at_k=values[0],
        pass_hat_k=values[1],
        n_tasks=len(used),
        n_dropped=len(cells) - len(used),
        n_rollouts=sum(cell.n for cell in used),
        excluded=dict(sorted(count_excluded(groups).items())),
        n_interfaces=len({group.interface_id for group in groups}),
        reason=reason,
        note=note,
    )
