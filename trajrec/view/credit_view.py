"""The page of an episode's credit: the runs that estimated it, and what one of them says."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from trajrec.corpus.corpus import Corpus
from trajrec.corpus.gaps import find_gaps
from trajrec.types import Value
from trajrec.view.credit_chart import LEVELS, Chart, Estimate, draw_chart
from trajrec.view.text import cell

MAX_ROWS = 1_000
"""Estimates that the table lists; the rest is counted."""

MAX_ESTIMATES = 20_000
"""Estimates that are read of a run."""

SORTS = ("step", "estimator", "value", "n")
"""Columns that an address may sort by."""

MEANINGS = {
    "value": "how good the state before the step is, whatever the policy does next",
    "action": "how good the recorded action is, if the policy continues after it",
    "kept": "how good the recorded action is, in the rollouts that confirm the found step",
    "redrawn": "how good it is to let the policy act in its place, in the same rollouts",
    "advantage": "the recorded action compared with the policy's own: what it earned or lost",
    "luck": "what the environment's chance added after the action",
    "delta": "the change of the value over the step, action and chance together",
    "decisive": "the recorded action compared with the policy's own, at the step that was found",
    "shapley": "the step's share of the outcome, over all orders of the steps",
    "pooled": "the advantage, over all visits of the same state",
    "effect": "another action or result compared with the recorded one",
    "flip": "how often another action or result turns the outcome",
}
"""Estimator -> what it measures, in words."""

# Those that judge the recorded action, the best first.
_JUDGES = ("decisive", "advantage", "effect", "pooled", "shapley", "delta")

_RUNS = """
SELECT run_id, any_value(policy_id), any_value(noise), any_value(restore),
    any_value(notes)::VARCHAR, max(created_at), count(DISTINCT step), max(n),
    sum(n_invalid)::BIGINT
FROM credit WHERE episode_id = ? GROUP BY run_id ORDER BY max(created_at) DESC NULLS LAST, run_id
"""

# Rows and no list: a value that grows with the table would be asked for in a process of its own.
_ESTIMATORS = "SELECT DISTINCT run_id, estimator FROM credit WHERE episode_id = ? ORDER BY ALL"

_COSTS = """
SELECT count(*), coalesce(sum(env_steps), 0)::BIGINT FROM rollouts
WHERE episode_id = ? AND run_id = ?
"""

_COLUMNS = """
SELECT step, estimator, estimand, value, ci_low, ci_high, ci_method, n, n_invalid,
    action::VARCHAR,
    estimator = 'decisive' AND coalesce(notes::VARCHAR LIKE '%"undecided among %', false)
"""

_ESTIMATES = f"""{_COLUMNS} FROM credit WHERE episode_id = ? AND run_id = ?
ORDER BY step, estimator, estimand LIMIT {MAX_ESTIMATES}
"""

_TOLD = "SELECT step, count(*) FROM credit WHERE episode_id = ? AND run_id = ? GROUP BY 1"

_LATEST = f"""{_COLUMNS} FROM latest_credit WHERE episode_id = ?
ORDER BY step, estimator, estimand, policy_id, noise LIMIT {MAX_ESTIMATES}
"""


@dataclass(frozen=True, kw_only=True)
class CreditRunView:
    """A run that estimated credit of the episode.

    Attributes:
        n_steps: Steps that it has estimates of.
        n: Most rollouts, or pairs of them, that one estimate rests on.
        n_invalid: Rollouts without a result.
        address: The page of this run.
    """

    id: str
    policy: str
    noise: str
    restore: str
    notes: Sequence[str]
    created_at: datetime.datetime | None
    estimators: Sequence[str]
    n_steps: int
    n: int
    n_invalid: int
    address: str


@dataclass(frozen=True, kw_only=True)
class CreditView:
    """What the page shows.

    Attributes:
        runs: All runs on this episode, the latest first.
        run: The one that is shown; None without any.
        charts: A chart for each of its estimators.
        rows: Its estimates in the order that the address asks for.
        n_estimates: All its estimates, of which `rows` has the first.
        n_read: Those that were read; all else that the page says is about them.
        decision: Which step decided the outcome by this run, in words.
        decided: The step; None if it is undecided, or was not asked.
        unknown: The steps without any estimate of this run, in words; "" if there are none.
        n_rollouts: Rollouts of the run.
        env_steps: Steps of the environment that they took.
    """

    runs: Sequence[CreditRunView]
    run: CreditRunView | None
    charts: Sequence[Chart] = ()
    rows: Sequence[Estimate] = ()
    n_estimates: int = 0
    n_read: int = 0
    sort: str = "step"
    decision: str = ""
    decided: int | None = None
    unknown: str = ""
    n_rollouts: int = 0
    env_steps: int = 0

    @property
    def meanings(self) -> list[tuple[str, str]]:
        """The estimators of the run, with what they measure."""
        names = [] if self.run is None else self.run.estimators
        return [(name, MEANINGS[name]) for name in names if name in MEANINGS]

    def sorted_by(self, column: str) -> str:
        """Return the address of the table in the order of a column."""
        assert self.run is not None
        return f"{self.run.address}&sort={column}#estimates"


def read_credit(
    corpus: Corpus, episode_id: str, steps: Sequence[int], *, run_id: str, sort: str
) -> CreditView:
    """Return the page of an episode's credit.

    Args:
        corpus: The corpus.
        episode_id: The episode.
        steps: The numbers of its steps, ascending.
        run_id: The run; if it is none on this episode, the latest one that compares actions, or
            else the latest one.
        sort: A column of `SORTS`; by step if it is none.
    """
    estimators: dict[str, list[str]] = {}
    for name, estimator in corpus.sql(_ESTIMATORS, params=[episode_id]).fetchall():
        estimators.setdefault(name, []).append(estimator)
    found = corpus.sql(_RUNS, params=[episode_id]).fetchall()
    runs = [_run(row, episode_id, estimators[row[0]]) for row in found]
    if not runs:
        return CreditView(runs=[], run=None)
    comparing = [item for item in runs if set(_JUDGES) & set(item.estimators)]
    run = next((item for item in runs if item.id == run_id), [*comparing, *runs][0])
    params = [episode_id, run.id]
    estimates = [_estimate(row) for row in corpus.sql(_ESTIMATES, params=params).fetchall()]
    ((n_rollouts, env_steps),) = corpus.sql(_COSTS, params=params).fetchall()
    sort = sort if sort in SORTS else "step"
    decision, decided = decide(estimates)
    n_of_step = dict(corpus.sql(_TOLD, params=params).fetchall())
    return CreditView(
        runs=runs,
        run=run,
        charts=_charts(estimates, steps),
        rows=_sorted(estimates, sort)[:MAX_ROWS],
        n_estimates=sum(n_of_step.values()),
        n_read=len(estimates),
        sort=sort,
        decision=decision,
        decided=decided,
        unknown=_untold(steps, n_of_step),
        n_rollouts=n_rollouts,
        env_steps=env_steps,
    )


def read_latest_credit(corpus: Corpus, episode_id: str) -> list[Estimate]:
    """Return the latest estimates of an episode's steps, of each policy and noise."""
    return [_estimate(row) for row in corpus.sql(_LATEST, params=[episode_id]).fetchall()]


def judgements(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Return the estimates that judge the recorded actions, by the best estimator among them."""
    names = {item.estimator for item in estimates}
    judge = next((name for name in _JUDGES if name in names), None)
    return [item for item in estimates if item.estimator == judge]


def decide(estimates: Sequence[Estimate]) -> tuple[str, int | None]:
    """Return which steps lost and earned most: some sentences, and the step of the larger effect."""
    rows = judgements(estimates)
    if not rows:
        return "This run compares no actions, so it cannot tell which step decided it.", None
    judge = rows[0].estimator
    certain = [item for item in rows if item.is_certain]
    if not certain:
        has_interval = all(item.low is not None and item.high is not None for item in rows)
        if has_interval and judge == "decisive":
            return "Undecided: the interval of the likeliest step holds 0.", None
        if has_interval:
            return f"Undecided: the interval of each {judge} holds 0.", None
        return f"Undecided: no {judge} has an interval without 0; some have no interval.", None
    most = extremes(rows)
    if judge == "decisive":
        (item, *_) = most
        if item.is_undecided:
            return f"Undecided: the search found step {item.step} and could not be sure.", None
        return f"Step {item.step} decided it: an effect of {item.words}.", item.step
    named = [f"Step {item.step} {_verb(item)} most: {judge} {item.words}." for item in most]
    n_more = len({item.step for item in certain} - {item.step for item in most})
    return " ".join([*named, _others(n_more)]), most[0].step


def extremes(rows: Sequence[Estimate]) -> list[Estimate]:
    """Return the largest loss and the largest gain whose intervals exclude 0, the larger first."""
    certain = [item for item in rows if item.is_certain]
    sides = [
        [item for item in certain if (item.value or 0.0) < 0],
        [item for item in certain if (item.value or 0.0) > 0],
    ]
    most = [max(side, key=lambda item: abs(item.value or 0.0)) for side in sides if side]
    return sorted(most, key=lambda item: -abs(item.value or 0.0))


def decision_words(estimates: Sequence[Estimate]) -> str:
    """Return the same in a few words, for the head of an episode."""
    rows = judgements(estimates)
    if not rows:
        return "values alone"
    # `decisive_step` names the earliest large effect, which need not be the largest.
    is_search = rows[0].estimator == "decisive"
    most = extremes([item for item in rows if not item.is_undecided])
    named = [
        f"step {item.step} {'decided it' if is_search else f'{_verb(item)} most'}: {item.text}"
        for item in most
    ]
    return "; ".join(named) or "undecided"


def _verb(item: Estimate) -> str:
    return "lost" if (item.value or 0.0) < 0 else "earned"


def _others(n: int) -> str:
    if not n:
        return "At no other step does the interval exclude 0."
    steps = "one other step" if n == 1 else f"{n:,} other steps"
    return f"The interval excludes 0 at {steps} too."


def _untold(steps: Sequence[int], told: Iterable[int]) -> str:
    """Return the steps without an estimate in words."""
    if not steps:
        return ""
    known = [(step, step + 1) for step in told]
    if not isinstance(steps, range):
        # The steps of an agent may have gaps, which are no steps.
        known += find_gaps(((step, step + 1) for step in steps), steps[0], None)
    return in_words(find_gaps(known, steps[0], steps[-1] + 1))


def in_words(ranges: Sequence[tuple[int, int]], most: int = 20) -> str:
    """Return half-open ranges of steps in words; of many, the first are written out.

    >>> in_words([(0, 1), (2, 5), (9, 10)])
    '0, 2 to 4, 9'
    """
    texts = [str(a) if a == b - 1 else f"{a} to {b - 1}" for a, b in ranges[:most]]
    if len(ranges) > most:
        n_more = sum(b - a for a, b in ranges[most:])
        texts.append(f"and {n_more:,} more")
    return ", ".join(texts)


def _charts(estimates: Sequence[Estimate], steps: Sequence[int]) -> list[Chart]:
    names = {item.estimator for item in estimates}
    first = steps[0] if steps else 0
    width = steps[-1] + 1 - first if steps else 1
    # What judges the actions stands above what it rests on.
    order = [*(name for name in _JUDGES if name in names), *LEVELS]
    ordered = sorted(names, key=lambda name: (order.index(name) if name in order else 99, name))
    return [
        draw_chart(
            name,
            [item for item in estimates if item.estimator == name],
            first=first,
            width=width,
        )
        for name in ordered
    ]


def _sorted(estimates: Sequence[Estimate], sort: str) -> list[Estimate]:
    if sort == "value":
        # The largest effects first; what is unknown is the last.
        return sorted(estimates, key=lambda item: (item.value is None, -abs(item.value or 0.0)))
    if sort == "n":
        return sorted(estimates, key=lambda item: -item.n)
    if sort == "estimator":
        return sorted(estimates, key=lambda item: (item.estimator, item.step))
    return list(estimates)


def _run(row: Sequence[Value], episode_id: str, estimators: Sequence[str]) -> CreditRunView:
    run_id = str(row[0])
    return CreditRunView(
        id=run_id,
        policy=row[1] or "",
        noise=row[2] or "",
        restore=row[3] or "",
        notes=_notes(row[4]),
        created_at=row[5],
        estimators=estimators,
        n_steps=row[6],
        n=row[7] or 0,
        n_invalid=row[8] or 0,
        address=f"/e/{quote(episode_id, safe='')}/credit?run={quote(run_id, safe='')}",
    )


def _notes(text: str | None) -> list[str]:
    notes = json.loads(text) if text else []
    return [str(note) for note in notes] if isinstance(notes, list) else [str(notes)]


def _estimate(row: Sequence[Value]) -> Estimate:
    return Estimate(
        step=row[0],
        estimator=row[1],
        estimand=row[2] or "",
        value=_finite(row[3]),
        low=_finite(row[4]),
        high=_finite(row[5]),
        ci_method=row[6] or "",
        n=row[7] or 0,
        n_invalid=row[8] or 0,
        action="" if row[9] is None else cell(row[9], 90),
        is_undecided=row[10],
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
