"""Failures of calls, their recoveries, and runs from which failures seem to be removed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trajrec.analysis.estimate import Estimate, as_estimate, share
from trajrec.analysis.rollouts import Reading, read_check
from trajrec.analysis.source import Source, fetch
from trajrec.conditions import bracketed
from trajrec.statistics.pass_k import mean_over_tasks
from trajrec.task_options import IS_OF_AGENT

LEAST_CHANCE = 0.01
"""A run without a failure is suspect if the other runs give it a smaller chance of that."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FailureKind:
    """Failures of one tool, origin and kind.

    Attributes:
        tool: The tool; None for failures outside of calls.
        origin: Whose failure it is: agent, env, tool, scaffold, infra or verifier.
        failure_kind: invalid, error, timeout or cancelled.
        n: Failures.
        n_episodes: Episodes that have one.
        n_recovered: Failures that a later attempt overcame.
        recovered: Their share.
        steps: Median number of steps to the recovery; None without one.
        retried_by: Who retried, with the number of recoveries.
    """

    tool: str | None
    origin: str
    failure_kind: str
    n: int
    n_episodes: int
    n_recovered: int
    recovered: Estimate
    steps: float | None
    retried_by: dict[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuccessGroup:
    """Graded rollouts that met failures alike. The groups are not comparable as causes.

    Attributes:
        failures: "none", "all overcome" or "not all overcome".
        n: Graded rollouts.
        n_tasks: Their tasks.
        success: Mean rate over these tasks.
    """

    failures: str
    n: int
    n_tasks: int
    success: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFailures:
    """Whether failures seem to have been removed from a run ("branch loss").

    Attributes:
        run: The run, from the metadata; None for episodes without one.
        n_attempts: Attempts at calls.
        n_failed: Those that failed.
        n_graded: Graded rollouts.
        n_passed: Those that passed.
        reference: Share of failed attempts in the other runs; None if they have no attempts.
        looks_cleaned: Whether the run has neither failures nor losses, or no failures, although
            the other runs would give it a chance of less than 1 % of that.
        reason: Why, or "".
    """

    run: str | None
    n_attempts: int
    n_failed: int
    n_graded: int
    n_passed: int
    reference: Estimate | None
    looks_cleaned: bool
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recovery:
    """Failures and recoveries of a corpus.

    Attributes:
        kinds: Each kind of failure, the most frequent first.
        success: Success of rollouts without and with failures.
        runs: Each run.
    """

    kinds: tuple[FailureKind, ...]
    success: tuple[SuccessGroup, ...]
    runs: tuple[RunFailures, ...]

    def __repr__(self) -> str:
        n = sum(kind.n for kind in self.kinds)
        recovered = sum(kind.n_recovered for kind in self.kinds)
        cleaned = [str(run.run) for run in self.runs if run.looks_cleaned]
        suspect = f"; looks cleaned: {', '.join(cleaned)}" if cleaned else ""
        return f"<Recovery: {recovered} of {n} failures overcome{suspect}>"


def read_recovery(source: Source, where: str) -> Recovery:
    """Return the failures and recoveries of fresh rollouts.

    Raises:
        QueryError: DuckDB rejects the condition.
    """
    is_ours = where == "true"
    selected = f"(SELECT * FROM episodes WHERE {bracketed(where)} AND {IS_OF_AGENT})"
    kinds = fetch(
        source,
        f"""
        SELECT f.action->>'tool' AS tool, f.origin, f.failure_kind, count(*) AS n,
            count(DISTINCT f.episode_id) AS n_episodes, count(f.recovered_at) AS n_recovered,
            median(f.recovered_at - f.step) AS steps,
            list(f.recovered_by) FILTER (f.recovered_by IS NOT NULL) AS retried_by
        FROM failures f JOIN {selected} e USING (episode_id) WHERE f.phase = 'call'
        GROUP BY ALL ORDER BY n DESC, tool, origin, failure_kind""",
        is_ours=is_ours,
    )
    reading = Reading(check=read_check(None))
    rows = reading.rows(where, has_doubles=True)
    groups = fetch(
        source,
        f"""
        SELECT CASE WHEN f.n IS NULL THEN 'none' WHEN f.n = f.n_recovered THEN 'all overcome'
                ELSE 'not all overcome' END AS failures,
            unit, count(y) AS n, sum(y) AS passed
        FROM ({rows}) r LEFT JOIN (
            SELECT episode_id, count(*) AS n, count(recovered_at) AS n_recovered FROM failures
            WHERE kind = 'rollout' AND phase = 'call' GROUP BY 1
        ) f USING (episode_id)
        WHERE y IS NOT NULL GROUP BY ALL ORDER BY ALL""",
        is_ours=is_ours,
    )
    runs = fetch(
        source,
        f"""
        SELECT json_extract_string(metadata, '$.run') AS run,
            coalesce(sum(a.n), 0)::BIGINT AS n_attempts,
            coalesce(sum(a.n_failed), 0)::BIGINT AS n_failed,
            count(outcome) FILTER (fault IS NULL) AS n_graded,
            count(*) FILTER (fault IS NULL AND outcome = 'success') AS n_passed
        FROM {selected} e LEFT JOIN (
            SELECT episode_id, count(*) AS n,
                count(*) FILTER (outcome IN ('error', 'timeout') OR invalid IS NOT NULL) AS n_failed
            FROM attempts WHERE kind = 'rollout' GROUP BY 1
        ) a USING (episode_id) GROUP BY 1 ORDER BY 1""",
        is_ours=is_ours,
    )
    return Recovery(
        kinds=tuple(_kind(row) for row in kinds),
        success=tuple(_success(groups)),
        runs=tuple(_run(row, [other for other in runs if other is not row]) for row in runs),
    )


def _kind(row: dict[str, Any]) -> FailureKind:
    names = row.pop("retried_by") or []
    return FailureKind(
        recovered=share(row["n_recovered"], row["n"]),
        retried_by={name: names.count(name) for name in sorted(set(names))},
        **row,
    )


def _success(rows: Sequence[dict[str, Any]]) -> list[SuccessGroup]:
    groups = []
    for failures in ("none", "all overcome", "not all overcome"):
        own = [row for row in rows if row["failures"] == failures]
        if own:
            rates = np.array([row["passed"] / row["n"] for row in own])
            groups.append(
                SuccessGroup(
                    failures=failures,
                    n=sum(row["n"] for row in own),
                    n_tasks=len(own),
                    success=as_estimate(mean_over_tasks(rates)),
                )
            )
    return groups


def _run(row: dict[str, Any], others: Sequence[dict[str, Any]]) -> RunFailures:
    n_attempts = sum(other["n_attempts"] for other in others)
    n_failed = sum(other["n_failed"] for other in others)
    reference = share(n_failed, n_attempts) if n_attempts else None
    reasons = []
    if reference is not None and row["n_attempts"] and not row["n_failed"]:
        # The lower end: a reference from few attempts must not accuse a run.
        chance = math.exp(row["n_attempts"] * math.log1p(-min(reference.ci_low, 1 - 1e-12)))
        if chance < LEAST_CHANCE:
            reasons.append(
                f"no failure in {row['n_attempts']} attempts, which the other runs give a chance of"
                f" {chance:.2g} at most"
            )
    n_graded = sum(other["n_graded"] for other in others)
    n_passed = sum(other["n_passed"] for other in others)
    if n_graded and row["n_graded"] and row["n_passed"] == row["n_graded"]:
        chance = share(n_passed, n_graded).ci_high ** row["n_graded"]
        if chance < LEAST_CHANCE:
            reasons.append(
                f"all {row['n_graded']} graded rollouts passed, which the other runs give a chance"
                f" of {chance:.2g} at most"
            )
    return RunFailures(
        run=row["run"],
        n_attempts=row["n_attempts"],
        n_failed=row["n_failed"],
        n_graded=row["n_graded"],
        n_passed=row["n_passed"],
        reference=reference,
        looks_cleaned=bool(reasons),
        reason="; ".join(reasons),
    )
