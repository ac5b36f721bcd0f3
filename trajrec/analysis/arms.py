"""The two runs of a comparison, and each task in both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from trajrec.analysis.estimate import Estimate

Over = Literal["population", "these"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One of the two runs.

    Attributes:
        where: The condition that selects it, or its folder.
        interface_ids: Digests of its declared interfaces; None for an unknown one.
        n_episodes: Fresh rollouts, graded or not.
        n_tasks: Tasks that it has rollouts of.
        n_graded: Rollouts that the difference rests on.
        n_truncated: Rollouts that were cut off, e.g. by a spent budget. They count as they were
            graded: a budget is part of the interface.
        excluded: Rollouts without a result, by reason; "not recorded" are those that
            `eval_protocol.trials` declares and that are not there.
        first: Day of the first rollout, as text; None if unknown.
        last: Day of the last rollout.
        rate: Mean result over the shared tasks; None without one.
    """

    where: str
    interface_ids: tuple[str | None, ...]
    n_episodes: int
    n_tasks: int
    n_graded: int
    n_truncated: int
    excluded: Mapping[str, int]
    first: str | None
    last: str | None
    rate: Estimate | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskDifference:
    """One task, or one family of tasks, in both arms.

    Attributes:
        task: Its name.
        n_a: Graded rollouts of the first arm.
        n_b: The same of the second arm.
        rate_a: Mean result of the first arm.
        rate_b: Mean result of the second arm.
        difference: `rate_b - rate_a`, with an interval for this task alone; infinite if its
            rollouts do not give one.
    """

    task: str
    n_a: int
    n_b: int
    rate_a: float
    rate_b: float
    difference: Estimate
