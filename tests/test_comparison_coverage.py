"""The whole way from tables to an interval: how often it holds the true difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from counter_runs import interface
from tiers import Share, suite

from trajrec.analysis.analyses import Analyses
from trajrec.corpus.index.tables import TABLES
from trajrec.corpus.index.views import VIEWS
from trajrec.values.json import to_json

# The differing parts of run b -> the claim.
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "noise floor"),
    "one field": ({"scaffold": {"prompt": "B", "tools": 1}}, "attributable"),
    "two fields": ({"scaffold": {"prompt": "B"}, "budget": {"steps": 9}}, "confounded"),
    "verifier": ({"verifier": {"id": "reached", "version": "2"}}, "verifier"),
    "unknown": ({"budget": {"missing": "unknown"}}, "unlicensed"),
}

# Tasks, and rollouts of each in each run.
N_TASKS = 12
N_ROLLOUTS = 4

LEAST_COVERAGE = 0.935


class Tables(Analyses):
    """Tables of a corpus in memory, whose rows are replaced."""

    path = Path("memory")

    def __init__(self) -> None:
        self.con = duckdb.connect()
        for table in TABLES:
            columns = ", ".join(f"{name} {kind}" for name, kind, _ in table.columns)
            self.con.execute(f"CREATE TABLE {table.name} ({columns})")
        for view in VIEWS:
            self.con.execute(f"CREATE VIEW {view.name} AS {view.query}")

    def sql(self, query: str, *, params: Any = None, sandbox: bool = False) -> Any:
        return self.con.cursor().sql(query, params=params)

    def fill(self, passed: dict[str, np.ndarray[Any, Any]], interfaces: dict[str, str]) -> None:
        """Replace the rollouts: successes of each task, for each run."""
        self.con.execute("DELETE FROM all_episodes; DELETE FROM checks")
        for run, counts in passed.items():
            self.con.execute(
                f"""
                CREATE OR REPLACE TEMP TABLE rolls AS
                SELECT '{run}-' || t || '-' || r AS episode_id, 'rollout' AS kind, 'task ' || t AS task,
                    '{{"run": "{run}"}}'::JSON AS metadata, 'terminated' AS ending,
                    ?::JSON AS interface, '{run}' AS interface_id, r < n AS verdict,
                    'one' AS log, t * 100 + r AS number, TIMESTAMP '2026-01-01' AS started_at
                FROM (SELECT unnest(range({N_TASKS})) AS t, unnest(?::INT[]) AS n),
                    range({N_ROLLOUTS}) rolls(r);
                """,
                [interfaces[run], counts.tolist()],
            )
            self.con.execute(
                """
                INSERT INTO all_episodes BY NAME SELECT * EXCLUDE (verdict) FROM rolls;
                INSERT INTO checks BY NAME SELECT episode_id, kind, verdict, log, 1 AS step,
                    'reached' AS check_id, '1' AS version, 'terminal' AS phase, 'ok' AS status,
                    'c' AS code_digest, true AS is_primary, started_at AS checked_at FROM rolls;
                """
            )


@pytest.mark.parametrize("change", CHANGES)
@suite("attribution", fixed=0, drawn=3, whole=1000)
def test_the_true_effect_lies_in_the_interval(share: Share, change: str) -> None:
    fields, claim = CHANGES[change]
    interfaces = {"a": to_json(interface()), "b": to_json(interface(**fields))}
    effect = 0.8 if fields else 0.0
    rng = np.random.default_rng([share.seed, list(CHANGES).index(change)])
    many = rng.beta(2.0, 2.0, 400_000)
    truth = float((_shifted(many, effect) - many).mean())
    tables = Tables()
    covered = []
    for _ in range(share.size or 0):
        rates = rng.beta(2.0, 2.0, N_TASKS)
        passed = {
            "a": rng.binomial(N_ROLLOUTS, rates),
            "b": rng.binomial(N_ROLLOUTS, _shifted(rates, effect)),
        }
        tables.fill(passed, interfaces)
        comparison = tables.compare(
            a="metadata->>'$.run' = 'a'", b="metadata->>'$.run' = 'b'", check="reached@1"
        )
        assert comparison.claim == claim
        difference = comparison.difference
        assert difference is not None
        expected = (passed["b"] - passed["a"]).mean() / N_ROLLOUTS
        assert difference.value == pytest.approx(expected, abs=1e-12)
        covered.append(difference.ci_low <= truth <= difference.ci_high)
    if share.is_whole:
        assert np.mean(covered) >= LEAST_COVERAGE


def _shifted(rates: np.ndarray[Any, Any], effect: float) -> np.ndarray[Any, Any]:
    logits = np.log(rates / (1 - rates)) + effect
    shifted: np.ndarray[Any, Any] = 1 / (1 + np.exp(-logits))
    return shifted
