"""The two sides of a comparison: the rollouts of each, and how they are compared."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import NamedTuple

from trajrec.analysis.arms import Over
from trajrec.analysis.intervals import UNIT_RANGE, Range
from trajrec.analysis.observed import ModelUse, read_model_use, read_packages
from trajrec.analysis.prompts import Prompts, read_prompts
from trajrec.analysis.rollouts import (
    Group,
    Reading,
    find_check,
    ids_of,
    read_check,
    read_interfaces,
    read_runs,
)
from trajrec.analysis.source import Source
from trajrec.conditions import bracketed
from trajrec.statistics.quantiles import CONFIDENCE
from trajrec.types import Value
from trajrec.values.shown import counted

LARGEST_SCORE = 1e100
"""Greatest size of a score: the squares of larger ones are no numbers."""


class Side(NamedTuple):
    """The rollouts of one run.

    Attributes:
        source: The corpus that holds them.
        where: A SQL condition on the columns of `episodes`.
    """

    source: Source
    where: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How two runs are compared.

    Attributes:
        check: The check that grades, e.g. "reached@1"; None for the primary check.
        cluster: Key of the metadata that names families of tasks, which are then the units.
        over: "population" for tasks like these, "these" for these tasks alone.
        score: Whether the results are scores and not verdicts.
        value_range: Least and greatest possible score; None if there is none.
        tasks: Only these tasks. They must not be chosen by the outcomes that are compared.
        variants: How many runs were compared with the first one, this one included.
    """

    check: str | None = None
    cluster: str | None = None
    over: Over = "population"
    score: bool = False
    value_range: Range | None = None
    tasks: tuple[str, ...] | None = None
    variants: int = 1

    def __post_init__(self) -> None:
        if self.over not in ("population", "these"):
            raise ValueError(f"over must be 'population' or 'these', got {self.over!r}")
        if self.value_range is not None and not (
            -LARGEST_SCORE <= self.value_range[0] < self.value_range[1] <= LARGEST_SCORE
        ):
            raise ValueError(f"range must be two growing finite numbers, got {self.value_range!r}")
        if self.value_range is not None and not self.score:
            raise ValueError("range is that of scores: give score=True too")
        if self.variants < 1:
            raise ValueError(f"variants must be at least 1, got {self.variants!r}")

    @property
    def reading(self) -> Reading:
        """How the rollouts are read."""
        return Reading(check=read_check(self.check), is_score=self.score, cluster=self.cluster)

    @property
    def confidence(self) -> float:
        """The share of intervals that cover: with several variants all cover together in 95 %."""
        return 1 - (1 - CONFIDENCE) / self.variants

    @property
    def result_range(self) -> Range | None:
        """Least and greatest possible result."""
        return self.value_range if self.score else UNIT_RANGE


class ReadSide(NamedTuple):
    """The tables' contents of one run.

    Attributes:
        groups: Its rollouts.
        interfaces: Its declared interfaces, by id.
        models: The models and settings of its requests.
        prompts: The first prompts, by task.
        packages: Versions of packages that its logs name.
    """

    groups: list[Group]
    interfaces: dict[str | None, Value]
    models: ModelUse
    prompts: dict[str, Prompts]
    packages: dict[str, frozenset[str]]


def read_sides(a: Side, b: Side, options: Options) -> tuple[ReadSide, ReadSide]:
    """Read both runs.

    Raises:
        QueryError: DuckDB rejects a condition.
        ValueError: A run has no episodes, or the runs share episodes: they would be compared with
            themselves; or neither has the check.
    """
    find_check(options.check, a.source, b.source)
    reading = options.reading
    if a.source is b.source:
        groups = read_runs(a.source, [a.where, b.where], reading)
    else:
        if n_shared := len(_log_ids(a) & _log_ids(b)):
            raise ValueError(
                f"both runs have the same {counted(n_shared, 'log')}: one folder has copies of the "
                "other's; remove them"
            )
        groups = [read_runs(side.source, [side.where], reading)[0] for side in (a, b)]
    sides = [
        complete_side(side, found, options) for side, found in zip((a, b), groups, strict=True)
    ]
    return sides[0], sides[1]


def complete_side(side: Side, groups: list[Group], options: Options) -> ReadSide:
    """Add the interfaces and the recorded parts of one run to its rollouts."""
    if options.tasks is not None:
        groups = [group for group in groups if group.unit in options.tasks]
    if not groups and options.tasks is not None:
        raise ValueError(f"{side.source.path}: no episode of these tasks is selected: {side.where}")
    if not groups and side.where == "true":
        raise ValueError(
            f"{side.source.path}: no episode is selected; `trajrec doctor {side.source.path}` says "
            "whether logs are damaged"
        )
    if not groups:
        raise ValueError(f"{side.source.path}: no episode is selected: {side.where}")
    if options.score:
        _require_range(groups, options.value_range or (-LARGEST_SCORE, LARGEST_SCORE))
    return ReadSide(
        groups=groups,
        interfaces=read_interfaces(side.source, ids_of(groups)),
        models=read_model_use(side.source, side.where),
        prompts=read_prompts(side.source, side.where),
        packages=read_packages(side.source, side.where),
    )


def _require_range(groups: list[Group], value_range: Range) -> None:
    """Refuse scores outside of the range that was given: it would not be theirs.

    Raises:
        ValueError: There is one.
    """
    low, high = value_range
    for group in groups:
        for score in (group.lowest, group.highest):
            if score is not None and not low <= score <= high:
                raise ValueError(
                    f"range is [{low:g}, {high:g}], and task {group.unit!r} has a score of {score:g}: "
                    "give the least and greatest possible score"
                )


def _log_ids(side: Side) -> set[str]:
    rows = side.source.sql(
        "SELECT DISTINCT log_id FROM logs WHERE log_id IS NOT NULL AND log IN "
        f"(SELECT log FROM episodes WHERE {bracketed(side.where)})",
        sandbox=side.where != "true",
    )
    return {row[0] for row in rows.fetchall()}


def period_of(
    groups: Sequence[Group],
) -> tuple[datetime.datetime | None, datetime.datetime | None]:
    """Return the start of the first and of the last rollout, UTC; None if unknown."""
    firsts = [group.first_at for group in groups if group.first_at is not None]
    lasts = [group.last_at for group in groups if group.last_at is not None]
    return min(firsts, default=None), max(lasts, default=None)
