"""The health of verifiers: their verdicts on probes, and on states that they judged repeatedly.

A probe is a rollout whose verdict is known beforehand, by its metadata: `{"probe": "gold"}` is right
and must pass; "no-op" does nothing and "attack" games the check, so both must fail. Probes are no
rollouts of an agent: no rate counts them.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from trajrec.analysis.estimate import Estimate, share
from trajrec.analysis.source import Source, fetch
from trajrec.task_options import PROBES

COLUMNS = (
    ("check_id", "the verifier"),
    ("version", "its version"),
    ("code_digest", "digest of its source; NULL if unknown"),
    ("n_gold", "gold probes that it judged"),
    ("n_gold_passed", "those that passed, as they must"),
    ("n_noop", "probes that do nothing"),
    ("n_noop_failed", "those that failed, as they must"),
    ("n_attack", "probes that game the check"),
    ("n_attack_failed", "those that failed, as they must"),
    ("n_states", "states of a task that it judged at least twice"),
    ("flake", "chance that two of its verdicts on one state differ; NULL if it judged none twice"),
    ("first_at", "time of its first verdict on a probe, UTC; NULL without one"),
    ("last_at", "time of its last one"),
)

OF_TASK = "task, goal_digest"
"""Columns of `episodes` that a verdict depends on, besides the state: tasks may share a state."""

_KEY = "check_id, version, code_digest"

# An error is no verdict: it neither passes a gold probe nor fails another one.
HEALTH_QUERY = f"""
    WITH probes AS (
        SELECT episode_id, json_extract_string(metadata, '$.probe') AS probe
        FROM episodes WHERE probe IS NOT NULL
    ), judged AS (
        SELECT {_KEY}, episode_id, probe, bool_and(coalesce(verdict, false)) AS passes,
            bool_and(NOT coalesce(verdict, true)) AS fails,
            min(checked_at) AS first_at, max(checked_at) AS last_at
        FROM checks JOIN probes USING (episode_id)
        WHERE kind = 'rollout' AND phase <> 'step' GROUP BY ALL
    ), probed AS (
        SELECT {_KEY}, count(*) FILTER (probe = 'gold') AS n_gold,
            count(*) FILTER (probe = 'gold' AND passes) AS n_gold_passed,
            count(*) FILTER (probe = 'no-op') AS n_noop,
            count(*) FILTER (probe = 'no-op' AND fails) AS n_noop_failed,
            count(*) FILTER (probe = 'attack') AS n_attack,
            count(*) FILTER (probe = 'attack' AND fails) AS n_attack_failed,
            min(first_at) AS first_at, max(last_at) AS last_at
        FROM judged GROUP BY ALL
    ), states AS (
        SELECT {_KEY}, state_digest, {OF_TASK}, count(*) AS m, count(*) FILTER (verdict) AS s
        FROM checks JOIN episodes USING (episode_id)
        WHERE status = 'ok' AND verdict IS NOT NULL AND state_digest IS NOT NULL
        GROUP BY ALL
    ), flakes AS (
        SELECT {_KEY}, count(*) AS n_states,
            avg(least(2.0 * s * (m - s) / (m * (m - 1)), 1.0)) AS flake
        FROM states WHERE m > 1 GROUP BY ALL
    ), versions AS (
        SELECT DISTINCT {_KEY} FROM checks WHERE kind = 'rollout'
    )
    SELECT v.check_id, v.version, v.code_digest, coalesce(n_gold, 0) AS n_gold,
        coalesce(n_gold_passed, 0) AS n_gold_passed, coalesce(n_noop, 0) AS n_noop,
        coalesce(n_noop_failed, 0) AS n_noop_failed, coalesce(n_attack, 0) AS n_attack,
        coalesce(n_attack_failed, 0) AS n_attack_failed, coalesce(n_states, 0) AS n_states, flake,
        first_at, last_at
    FROM versions v
    LEFT JOIN probed p ON p.check_id = v.check_id AND p.version = v.version
        AND p.code_digest IS NOT DISTINCT FROM v.code_digest
    LEFT JOIN flakes f ON f.check_id = v.check_id AND f.version = v.version
        AND f.code_digest IS NOT DISTINCT FROM v.code_digest"""
"""The query of the view `verifier_health`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifierHealth:
    """The health of one version of a check.

    Attributes:
        check_id: The verifier.
        version: Its version.
        code_digest: Digest of its source; None if unknown.
        gold: Share of the gold probes that it passes, as it must; None if it judged none.
        noop: Share of the probes that do nothing that it fails, as it must.
        attack: Share of the attacks that it fails, as it must.
        n_gold: Gold probes that it judged.
        n_noop: Probes that do nothing.
        n_attack: Attacks.
        n_states: States that it judged at least twice.
        flake: Chance that two of its verdicts on one state differ; None if it judged none twice.
            `corpus.disagreement()` gives its interval.
        first_at: Time of its first verdict on a probe, UTC; None without one.
        last_at: Time of its last one.
    """

    check_id: str
    version: str
    code_digest: str | None
    gold: Estimate | None
    noop: Estimate | None
    attack: Estimate | None
    n_gold: int
    n_noop: int
    n_attack: int
    n_states: int
    flake: float | None
    first_at: datetime.datetime | None
    last_at: datetime.datetime | None

    @property
    def untested(self) -> tuple[str, ...]:
        """The kinds of probes that it never judged."""
        counts = (self.n_gold, self.n_noop, self.n_attack)
        return tuple(probe for probe, n in zip(PROBES, counts, strict=True) if not n)


def read_health(source: Source) -> list[VerifierHealth]:
    """Return the health of each version of each check."""
    rows = fetch(source, "SELECT * FROM verifier_health ORDER BY check_id, version, code_digest")
    return [_health(row) for row in rows]


def _health(row: dict[str, Any]) -> VerifierHealth:
    return VerifierHealth(
        gold=_share(row.pop("n_gold_passed"), row["n_gold"]),
        noop=_share(row.pop("n_noop_failed"), row["n_noop"]),
        attack=_share(row.pop("n_attack_failed"), row["n_attack"]),
        **row,
    )


def _share(k: int, n: int) -> Estimate | None:
    return share(k, n) if n else None
