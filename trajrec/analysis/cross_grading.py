"""Split a difference into behaviour and verifier: grade both runs with both versions of a check.

`trajrec recheck` appends the verdicts of another version on recorded states. Verdicts of two
versions are joined on the episode and the state, and only rollouts that both graded count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from trajrec.analysis.contrasts import contrast
from trajrec.analysis.estimate import Estimate
from trajrec.analysis.source import Source, fetch, quoted
from trajrec.conditions import bracketed
from trajrec.task_options import IS_OF_AGENT

FEWEST_TASKS = 3


class Verifier(NamedTuple):
    """One version of a check.

    Attributes:
        check_id: The check.
        version: Its version.
        code_digest: Digest of its source; None if unknown.
    """

    check_id: str
    version: str
    code_digest: str | None

    def __str__(self) -> str:
        code = "" if self.code_digest is None else f" ({self.code_digest[:8]})"
        return f"{self.check_id}@{self.version}{code}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossGrading:
    """A difference between two runs, split into behaviour and verifier.

    Attributes:
        first: The version that graded a.
        second: The version that graded b.
        headline: b by `second` minus a by `first`; None if it is refused, as all others.
        behaviour: Mean of the two below: b minus a, by one version.
        behaviour_first: b minus a, both by `first`.
        behaviour_second: b minus a, both by `second`.
        verifier: Mean of the two below: `second` minus `first`, on one run.
        verifier_a: `second` minus `first` on a.
        verifier_b: `second` minus `first` on b.
        n_tasks: Tasks with rollouts that both versions graded, in both runs.
        n_rollouts: Such rollouts.
        n_dropped: Rollouts that one of the versions has not graded on the same state.
        reason: Why the split is refused; "" if it is not.
    """

    first: Verifier
    second: Verifier
    headline: Estimate | None
    behaviour: Estimate | None
    behaviour_first: Estimate | None
    behaviour_second: Estimate | None
    verifier: Estimate | None
    verifier_a: Estimate | None
    verifier_b: Estimate | None
    n_tasks: int
    n_rollouts: int
    n_dropped: int
    reason: str = ""

    def __repr__(self) -> str:
        if self.headline is None:
            return f"<CrossGrading {self.first} -> {self.second}: refused; {self.reason}>"
        assert self.behaviour is not None
        assert self.verifier is not None
        return (
            f"<CrossGrading {self.first} -> {self.second}: {self.headline.signed} = behaviour "
            f"{self.behaviour.signed} + verifier {self.verifier.signed}; {self.n_tasks} tasks, "
            f"{self.n_dropped} rollouts dropped>"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the split as plain data, which JSON can hold."""
        record = dataclasses.asdict(self)
        for name in ("first", "second"):
            record[name] = getattr(self, name)._asdict()
        return record

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the text of each part, the sums first."""
        names = (
            ("behaviour", self.behaviour),
            (f"  by {self.first}", self.behaviour_first),
            (f"  by {self.second}", self.behaviour_second),
            ("verifier", self.verifier),
            ("  on A", self.verifier_a),
            ("  on B", self.verifier_b),
        )
        for name, estimate in names:
            if estimate is not None:
                yield name, estimate.signed


class Run(NamedTuple):
    """One run: its corpus and the condition that selects it."""

    source: Source
    where: str


# Weights of the cells (a by first, a by second, b by first, b by second).
_WEIGHTS = {
    "headline": (-1.0, 0.0, 0.0, 1.0),
    "behaviour": (-0.5, -0.5, 0.5, 0.5),
    "behaviour_first": (-1.0, 0.0, 1.0, 0.0),
    "behaviour_second": (0.0, -1.0, 0.0, 1.0),
    "verifier": (-0.5, 0.5, -0.5, 0.5),
    "verifier_a": (-1.0, 1.0, 0.0, 0.0),
    "verifier_b": (0.0, 0.0, -1.0, 1.0),
}


def cross_grade(
    a: Run,
    b: Run,
    first: Verifier,
    second: Verifier,
    *,
    tasks: Collection[str] | None = None,
    reason: str = "",
) -> CrossGrading:
    """Grade both runs with both versions of a check, from the verdicts of the corpus.

    Args:
        a: The first run.
        b: The second run.
        first: The version that graded a.
        second: The version that graded b.
        tasks: Only these tasks; None for all.
        reason: Why the split is refused, whatever the verdicts are; "" if it is not.

    Raises:
        QueryError: DuckDB rejects a condition.
    """
    cells = [_read_cells(run, first, second, tasks) for run in (a, b)]
    shared = sorted(unit for unit in cells[0].keys() & cells[1].keys() if unit is not None)
    shared = [unit for unit in shared if cells[0][unit]["n"] and cells[1][unit]["n"]]
    n_all = sum(cell["n_all"] for of_run in cells for cell in of_run.values())
    n_rollouts = sum(of_run[unit]["n"] for of_run in cells for unit in shared)
    if reason:
        pass
    elif first == second:
        reason = "one version graded both runs"
    elif not n_rollouts:
        reason = (
            f"no states: no task has rollouts of both runs, of {n_all} in all, that both versions"
            " graded on one state; `trajrec recheck` runs a version on recorded states"
        )
    elif len(shared) < FEWEST_TASKS:
        reason = f"{len(shared)} shared tasks that both versions graded, of at least {FEWEST_TASKS}"
    parts: dict[str, Estimate | None] = dict.fromkeys(_WEIGHTS)
    if not reason:
        passed = []
        counts = []
        for of_run in cells:
            n = np.array([float(of_run[unit]["n"]) for unit in shared])
            for column in ("first", "second"):
                passed.append(np.array([float(of_run[unit][column]) for unit in shared]))
                counts.append(n)
        for name, weights in _WEIGHTS.items():
            parts[name] = contrast(passed, counts, weights)
    return CrossGrading(
        first=first,
        second=second,
        n_tasks=len(shared),
        n_rollouts=n_rollouts,
        n_dropped=n_all - n_rollouts,
        reason=reason,
        **parts,
    )


def _read_cells(
    run: Run, first: Verifier, second: Verifier, tasks: Collection[str] | None
) -> dict[str, dict[str, Any]]:
    """Return for each task the rollouts that both versions graded, and their successes."""
    # A time and a verdict in one number: its least value is the first verdict, and takes half the
    # time of arg_min over a million episodes. Likewise a step and the verdicts of both versions: the
    # largest value is those of the last state that both graded.
    packed = "2 * epoch_us(coalesce(checked_at, make_timestamp(0))) + verdict::INT"
    query = f"""
        WITH chosen AS (
            SELECT episode_id, coalesce(task, coalesce(env_id, '?') || ' from state ' || reset_key)
                AS unit
            FROM (SELECT * FROM episodes WHERE {bracketed(run.where)}
                AND (fault IS NULL OR fault = 'verifier') AND {IS_OF_AGENT})
        ), verdicts AS (
            SELECT episode_id, state_digest, step, {_is_of(first)} AS is_first, {packed} AS packed
            FROM checks SEMI JOIN chosen USING (episode_id)
            WHERE kind = 'rollout' AND status = 'ok' AND verdict IS NOT NULL
                AND state_digest IS NOT NULL AND phase <> 'step'
                AND ({_is_of(first)} OR {_is_of(second)})
        ), states AS (
            SELECT episode_id, state_digest, max(coalesce(step, 0))::BIGINT AS last_step,
                min(packed) FILTER (is_first) & 1 AS first,
                min(packed) FILTER (NOT is_first) & 1 AS second
            FROM verdicts GROUP BY episode_id, state_digest
            HAVING first IS NOT NULL AND second IS NOT NULL
        ), pairs AS (
            SELECT episode_id, packed & 2 = 2 AS first, packed & 1 = 1 AS second
            FROM (
                SELECT episode_id, max(4 * last_step + 2 * first + second) AS packed
                FROM states GROUP BY episode_id
            )
        )
        SELECT unit, count(*) AS n_all, count(first) AS n,
            count(*) FILTER (first) AS first, count(*) FILTER (second) AS second
        FROM chosen LEFT JOIN pairs USING (episode_id)
        GROUP BY unit"""
    rows = fetch(run.source, query, is_ours=run.where == "true")
    return {row["unit"]: row for row in rows if tasks is None or row["unit"] in tasks}


def _is_of(verifier: Verifier) -> str:
    """Return SQL for the verdicts of a version."""
    code = "code_digest IS NULL"
    if verifier.code_digest is not None:
        code = f"code_digest = {quoted(verifier.code_digest)}"
    return (
        f"(check_id = {quoted(verifier.check_id)} AND version = {quoted(verifier.version)} "
        f"AND {code})"
    )
