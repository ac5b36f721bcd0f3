"""The comparison of two runs, as its address asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from trajrec.analysis.comparison import Comparison
from trajrec.analysis.estimate import Estimate
from trajrec.analysis.forest_plot import shown_tasks
from trajrec.analysis.interface_difference import Factor
from trajrec.corpus.corpus import Corpus
from trajrec.errors import QueryError
from trajrec.task_options import IS_OF_AGENT
from trajrec.types import Value
from trajrec.view.corpus_query import quoted

if TYPE_CHECKING:
    from markupsafe import Markup

MAX_TASKS = 60
"""Tasks that the page shows; of more, those with the largest losses and gains."""

MAX_RUNS = 30
"""Runs that the page proposes."""

MAX_CONDITION = 2_000
"""Characters of a condition."""

# Runs by their name in the metadata, and by interface where nothing has a name.
_RUNS = f"""
SELECT run, interface_id, n, n_won, n_judged, n_runs FROM (
    SELECT *, count(coalesce(run, interface_id)) OVER () AS n_runs FROM (
        SELECT metadata->>'$.run' AS run,
            CASE WHEN metadata->>'$.run' IS NULL THEN interface_id END AS interface_id,
            count(*) AS n, count(*) FILTER (outcome = 'success') AS n_won,
            count(outcome) AS n_judged
        FROM episodes WHERE {IS_OF_AGENT} GROUP BY 1, 2
    )
) WHERE (run IS NOT NULL AND length(run) <= 100) OR interface_id IS NOT NULL
ORDER BY run NULLS LAST, interface_id LIMIT {MAX_RUNS}
"""

_CLAIMS = {
    "noise floor": "Nothing known differs between the two runs, so the difference shows how far "
    "repeated runs lie apart by chance.",
    "attributable": "One part of the interface differs, so a difference that is shown is put down "
    "to it.",
    "attributable (artefacts)": "Two trained artefacts differ. The difference is theirs, and says "
    "nothing about the recipes that made them.",
    "verifier": "The check itself changed, so the difference may be one of grading alone. "
    "`trajrec compare` grades both runs with both checks.",
    "confounded": "Several parts of the interface changed together: only their sum is known.",
    "unlicensed": "The data do not tell where the difference comes from.",
}


@dataclass(frozen=True, kw_only=True)
class RunChoice:
    """A run that the page proposes.

    Attributes:
        name: Its name.
        condition: The condition of SQL that selects its episodes.
        as_a: The page with it as A.
        as_b: The page with it as B.
    """

    name: str
    condition: str
    n: int
    n_won: int
    n_judged: int
    as_a: str
    as_b: str


PARTS = {
    "verifier": "what grades the episodes",
    "base": "the model, or the policy",
    "lineage": "the data that it was trained on, and where they came from",
    "optimizer": "how it was trained",
    "scaffold": "the agent's program: its prompts and tools",
    "budget": "the steps, tokens and time that an episode may take",
    "env": "the environment, or the agent's world",
    "sampling": "how the model's answers are drawn, e.g. the temperature",
    "eval_protocol": "how the run was made, e.g. rollouts of each task",
}
"""Part of an interface -> what it is, in words."""


@dataclass(frozen=True, kw_only=True)
class PlotRow:
    """A line of the forest plot.

    Attributes:
        name: The task, or the mean over all.
        a: The rate of A, in words.
        b: The rate of B, in words.
        difference: The difference with its interval.
        picture: The same as a picture.
        is_mean: Whether it is the mean over all tasks.
    """

    name: str
    a: str
    b: str
    difference: str
    picture: Markup
    is_mean: bool = False


@dataclass(frozen=True, kw_only=True)
class CompareView:
    """A comparison.

    Attributes:
        a: The condition that selects the first run; "" if none is given.
        b: That of the second run.
        check: The check that grades; "" for the primary one.
        error: Why nothing was compared; "" if something was, or if a run is missing.
        comparison: The comparison; None without one.
        meaning: The meaning of its claim.
        plot: The mean, then the tasks.
        limit: The greatest distance from 0 that the plot shows.
        runs: The runs that it proposes, the first of them.
        n_runs: All runs that have a name or an interface.
    """

    a: str
    b: str
    check: str
    error: str
    comparison: Comparison | None
    meaning: str
    plot: Sequence[PlotRow]
    limit: float
    runs: Sequence[RunChoice]
    n_runs: int

    @property
    def n_hidden(self) -> int:
        """How many tasks the plot leaves out."""
        n_tasks = 0 if self.comparison is None else len(self.comparison.tasks)
        return n_tasks - sum(not row.is_mean for row in self.plot)

    @property
    def factors(self) -> list[tuple[str, Factor]]:
        """The parts of the interfaces, those that matter most first."""
        factors = {} if self.comparison is None else self.comparison.factors
        order = ("differs", "mixed", "unknown", "same", "not_applicable")
        return sorted(factors.items(), key=lambda item: order.index(item[1].status))

    def meaning_of(self, part: str) -> str:
        """Return what a part of an interface is, in words; "" for one of the user's own."""
        return PARTS.get(part, "")


def read_comparison(corpus: Corpus, *, a: str, b: str, check: str) -> CompareView:
    """Return the comparison of two runs. The conditions are somebody else's: they run in a sandbox.

    Args:
        corpus: The corpus.
        a: A SQL condition on the columns of `episodes`; "" for none yet.
        b: The same for the second run.
        check: The check that grades, e.g. "reached@1"; "" for the primary one.
    """
    comparison = None
    error = ""
    if len(a) > MAX_CONDITION or len(b) > MAX_CONDITION:
        error = f"a condition has at most {MAX_CONDITION} characters"
    elif a and b:
        try:
            comparison = corpus.compare(a=a, b=b, check=check or None)
        except (QueryError, ValueError) as exc:
            error = str(exc)
    tasks = () if comparison is None else shown_tasks(comparison.tasks, MAX_TASKS)
    limit = 1.0 if comparison is None else comparison.plot_limit(tasks)
    runs = corpus.sql(_RUNS).fetchall()
    return CompareView(
        a=a[:MAX_CONDITION],
        b=b[:MAX_CONDITION],
        check=check[:MAX_CONDITION],
        error=error,
        comparison=comparison,
        meaning="" if comparison is None else _CLAIMS[comparison.claim],
        plot=[] if comparison is None else _plot(comparison, limit),
        limit=limit,
        runs=_choices(runs, a[:MAX_CONDITION], b[:MAX_CONDITION], check[:MAX_CONDITION]),
        n_runs=runs[0][5] if runs else 0,
    )


def _plot(comparison: Comparison, limit: float) -> list[PlotRow]:
    rows = []
    if comparison.difference is not None and comparison.tasks:
        unit = "tasks" if comparison.unit == "task" else f"groups by {comparison.unit}"
        rows.append(
            PlotRow(
                name=f"mean over {comparison.n_units} {unit}",
                a=str(comparison.a.rate),
                b=str(comparison.b.rate),
                difference=comparison.difference.text,
                picture=_picture(comparison.difference, limit),
                is_mean=True,
            )
        )
    for task in shown_tasks(comparison.tasks, MAX_TASKS):
        rows.append(
            PlotRow(
                name=task.task,
                a=f"{task.rate_a:.3g} (n {task.n_a})",
                b=f"{task.rate_b:.3g} (n {task.n_b})",
                difference=task.difference.text,
                picture=_picture(task.difference, limit),
            )
        )
    return rows


def _picture(estimate: Estimate, limit: float) -> Markup:
    from markupsafe import Markup

    # Numbers and words of our own alone.
    return Markup(estimate.picture(limit))


def _choices(runs: Sequence[Sequence[Value]], a: str, b: str, check: str) -> list[RunChoice]:
    choices = []
    for run, interface_id, n, n_won, n_judged, _ in runs:
        name = "metadata->>'$.run'"
        if run is not None:
            condition = f"{name} = {quoted(run)}"
        else:
            # The episodes that are counted: not those of a named run under the same interface.
            condition = f"interface_id = {quoted(interface_id)} AND {name} IS NULL"
        choices.append(
            RunChoice(
                name=run if run is not None else f"interface {interface_id}",
                condition=condition,
                n=n,
                n_won=n_won,
                n_judged=n_judged,
                as_a=_address(condition, b, check),
                as_b=_address(a, condition, check),
            )
        )
    return choices


def _address(a: str, b: str, check: str) -> str:
    given = {"a": a, "b": b, "check": check}
    return "/compare?" + urlencode({k: v for k, v in given.items() if v}, errors="replace")
