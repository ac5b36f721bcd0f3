"""The comparison of two runs: its numbers, its claim, and its forms as text and plain data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from trajrec.analysis.arms import Arm, Over, TaskDifference
from trajrec.analysis.cross_grading import CrossGrading
from trajrec.analysis.estimate import Estimate
from trajrec.analysis.forest_plot import draw_differences, shown_tasks
from trajrec.analysis.interface_difference import Factor, as_plain
from trajrec.analysis.planning import tasks_needed
from trajrec.statistics.quantiles import CONFIDENCE
from trajrec.statistics.spelling import spell
from trajrec.types import Value
from trajrec.values.html_cards import MAX_ROWS, card, card_method, lines, plot_limit, table

Claim = Literal[
    "noise floor",
    "attributable",
    "attributable (artefacts)",
    "verifier",
    "confounded",
    "unlicensed",
]
Requirement = Literal["gain", "no-loss", "no-shown-loss"]

JSON_VERSION = 1
"""Version of the plain form of a comparison."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of two runs, b against a.

    Attributes:
        check: The check that grades, e.g. "reached@1".
        a: The first run.
        b: The second run.
        difference: Mean difference over the tasks, b - a; None if it is refused.
        method: How the interval was computed.
        over: "population" (tasks like these) or "these" (these tasks alone).
        unit: "task", or the key of the metadata that names families of tasks.
        n_units: Tasks or families that both arms have.
        claim: What may be said of the difference.
        reasons: Why the claim is no stronger.
        problems: Reasons why the difference itself cannot be trusted, so that no gate may pass.
        notes: Remarks that qualify the numbers.
        factors: The nine factors of the two interfaces, compared.
        bounds: The difference if all excluded rollouts of b had failed and all of a had passed,
            and the reverse; None if results have no range.
        smallest_visible: Difference that these tasks and rollouts show with a chance of 80 %;
            infinite if even the largest possible one is shown less often.
        dropped: Tasks that one of the arms has no graded rollouts of.
        tasks: The shared tasks, the largest loss first.
        spread: Standard deviation of the differences over tasks; None if it is not known.
        confidence: The share of intervals of the difference that cover: 0.95 for one variant.
        changed_measure: Why the results of the two runs are not of one measure; "" if they are. A
            check that became easier would pass for a gain, and hide a loss.
        grade_both: Reads the split of `cross_grade`; None if it cannot be made.
    """

    check: str
    a: Arm
    b: Arm
    difference: Estimate | None
    method: str
    over: Over
    unit: str
    n_units: int
    claim: Claim
    reasons: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    factors: Mapping[str, Factor]
    bounds: tuple[float, float] | None
    smallest_visible: float | None
    dropped: tuple[str, ...]
    tasks: tuple[TaskDifference, ...]
    spread: float | None = None
    confidence: float = CONFIDENCE
    changed_measure: str = ""
    grade_both: Callable[[], CrossGrading] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )

    def cross_grade(self) -> CrossGrading:
        """Split the difference into behaviour and verifier, by verdicts of both versions.

        Both versions must have graded the states of both runs: `trajrec recheck` appends their
        verdicts.

        Raises:
            ValueError: The runs were not graded by one version of one check each.
        """
        if self.grade_both is None:
            raise ValueError(
                "each run must be graded by one version of one check: give check= without a version"
            )
        return self.grade_both()

    @property
    def differing_paths(self) -> tuple[str, ...]:
        """Parts of the interface that differ, as "path before -> after"."""
        return tuple(str(d) for factor in self.factors.values() for d in factor.differences)

    @property
    def bounds_text(self) -> str:
        """The bounds as text, "" if no excluded rollout can change the difference."""
        if self.bounds is None or self.bounds[0] == self.bounds[1]:
            return ""
        return f"[{', '.join(spell(*self.bounds, sign='+'))}]"

    @property
    def is_gain_shown(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.difference is not None and self.difference.ci_low > 0

    @property
    def is_loss_shown(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.difference is not None and self.difference.ci_high < 0

    def holds(self, requirement: Requirement, *, margin: float = 0.0) -> bool:
        """Return whether a gate may pass.

        Args:
            requirement: "gain": the interval lies above `margin`. "no-loss": it lies above
                `-margin`. "no-shown-loss": it does not lie below `-margin`. The first two fail if
                the difference itself cannot be trusted: see `problems`, and
                `changed_measure`.
            margin: A difference that does not matter, >= 0 and finite.

        Raises:
            ValueError: There is no difference to judge, or the requirement is unknown.
        """
        if requirement not in ("gain", "no-loss", "no-shown-loss"):
            raise ValueError(
                f"requirement must be gain, no-loss or no-shown-loss, got {requirement!r}"
            )
        if not 0 <= margin < math.inf:
            raise ValueError(f"margin must be at least 0 and finite, got {margin!r}")
        if self.difference is None:
            raise ValueError(f"nothing was compared: {'; '.join(self.reasons)}")
        if requirement == "no-shown-loss":
            return not self.difference.ci_high < -margin
        if self.problems or self.changed_measure:
            return False
        limit = margin if requirement == "gain" else -margin
        return self.difference.ci_low > limit

    def plot(self, file: str | Path) -> Path:
        """Draw the intervals of the tasks, and of their mean (`trajrec[plot]`).

        Args:
            file: Ends in .png, .svg or .pdf.

        Returns:
            The path of the file.

        Raises:
            MissingPackageError: matplotlib is not installed.
            ValueError: The file has another ending, or the comparison was refused.
        """
        if self.difference is None:
            raise ValueError(f"there is nothing to plot: {'; '.join(self.reasons)}")
        return draw_differences(
            self.tasks, self.difference, file, title=self.statement(), check=self.check
        )

    def tasks_for(self, difference: float) -> int | None:
        """Return how many tasks with as many rollouts each would show a difference in 80 %.

        None if the spread over tasks is not known.
        """
        if self.spread is None or not difference > 0:
            return None
        return tasks_needed(self.spread, difference, self.confidence)

    def statement(self) -> str:
        """Return the claim and the effect in a sentence."""
        changed = [name for name, factor in self.factors.items() if factor.status == "differs"]
        text = {
            "noise floor": "noise floor: nothing differs, so this is the spread of repeated runs",
            "attributable": f"attributable to {', '.join(changed)}",
            "attributable (artefacts)": f"attributable (artefacts): these two checkpoints differ in"
            f" {', '.join(changed)}, which says nothing about the recipe",
            "verifier": "verifier: the measurement changed, so nothing is said of the behaviour;"
            " cross-grade both runs",
            "confounded": f"confounded: {', '.join(changed)} changed together, so only their sum"
            " is known",
            "unlicensed": f"unlicensed: {'; '.join(self.reasons)}",
        }[self.claim]
        if self.difference is None:
            return text
        return f"{text}; {self._effect()}"

    def _effect(self) -> str:
        if self.is_gain_shown:
            return "a gain is shown"
        if self.is_loss_shown:
            return "a loss is shown"
        text = "the interval holds 0: neither a gain nor a loss is shown"
        if self.smallest_visible is None:
            return text
        amount = f"a difference of {spell(self.smallest_visible)[0]}"
        if self.smallest_visible == math.inf:
            amount = "not even the largest difference"
        return (
            f"{text}. With these tasks and rollouts, {amount} would be shown with a chance of 80 %"
        )

    def __repr__(self) -> str:
        if self.difference is None:
            return f"<Comparison of {self.check}: refused; {self.statement()}>"
        units = "tasks" if self.unit == "task" else f"groups by {self.unit}"
        return (
            f"<Comparison of {self.check}: {self.difference.signed} over {self.n_units} {units}; "
            f"{self.statement()}>"
        )

    @card_method
    def _repr_html_(self) -> str:
        tasks = shown_tasks(self.tasks, MAX_ROWS)
        limit = self.plot_limit(tasks)
        rows: list[tuple[Value, ...]] = [
            (
                task.task,
                f"{task.rate_a:.3g} (n {task.n_a})",
                f"{task.rate_b:.3g} (n {task.n_b})",
                task.difference.text,
                task.difference.picture(limit),
            )
            for task in tasks
        ]
        if self.difference is not None and rows:
            mean = (self.difference.text, self.difference.picture(limit))
            rows.insert(0, (f"mean of {self.n_units}", self.a.rate, self.b.rate, *mean))
        return card(
            f"Comparison of {self.check}: {self.claim}",
            [
                ("A", self.a.where),
                ("B", self.b.where),
                ("B - A", None if self.difference is None else self.difference.text),
                ("method", self.method),
            ],
            lines([self.statement(), *self.reasons[:MAX_ROWS], *self.notes[:MAX_ROWS]]),
            table((self.unit, "A", "B", "B - A", ""), rows, n_rows=len(self.tasks) + 1),
        )

    def plot_limit(self, tasks: Sequence[TaskDifference]) -> float:
        """Return the greatest distance from 0 that a plot of some tasks shows."""
        estimates = [task.difference for task in tasks]
        estimates += [] if self.difference is None else [self.difference]
        return plot_limit(end for e in estimates for end in (e.value, e.ci_low, e.ci_high))

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as plain data, which JSON can hold; infinite ends are None."""
        record = {
            "version": JSON_VERSION,
            "check": self.check,
            "claim": self.claim,
            "statement": self.statement(),
            "reasons": list(self.reasons),
            "problems": list(self.problems),
            "notes": list(self.notes),
            "changed_measure": self.changed_measure,
            "difference": _plain(self.difference),
            "method": self.method,
            "over": self.over,
            "unit": self.unit,
            "n_units": self.n_units,
            "bounds": None if self.bounds is None else list(self.bounds),
            "smallest_visible": _finite(self.smallest_visible),
            "a": _plain_arm(self.a),
            "b": _plain_arm(self.b),
            "factors": {name: as_plain(factor) for name, factor in self.factors.items()},
            "dropped": list(self.dropped),
            "tasks": [
                {**dataclasses.asdict(task), "difference": _plain(task.difference)}
                for task in self.tasks
            ],
        }
        return record


def _plain(estimate: Estimate | None) -> dict[str, float | None] | None:
    if estimate is None:
        return None
    return {name: _finite(value) for name, value in dataclasses.asdict(estimate).items()}


def _finite(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else number


def _plain_arm(arm: Arm) -> dict[str, Any]:
    record = dataclasses.asdict(dataclasses.replace(arm, rate=None))
    return {
        **record,
        "interface_ids": list(arm.interface_ids),
        "excluded": dict(arm.excluded),
        "rate": _plain(arm.rate),
    }
