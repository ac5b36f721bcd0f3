"""Whether runs have won and what they cost, read from their logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trajrec.corpus.corpus import open as open_corpus
from trajrec.corpus.labels import LabelLine
from trajrec.corpus.prices import Prices
from trajrec.replay.whatif.result import RunResult

# NULL stands for what is not known: a call without a count makes the sum unknown.
_FACTS = """
WITH RECURSIVE members AS (
    -- A run, and the episodes that were begun within it, whose model calls it pays for.
    SELECT episode_id AS run, episode_id FROM all_episodes WHERE list_contains($ids, episode_id)
    UNION
    SELECT members.run, inner_.episode_id
    FROM members JOIN all_episodes inner_ ON inner_.caller_id = members.episode_id
),
costs AS (
    SELECT run AS episode_id, count(*) AS n,
        CASE WHEN count(input_tokens + output_tokens) = count(*)
            THEN sum(input_tokens + output_tokens) END AS tokens,
        CASE WHEN count(cost) = count(*) THEN sum(cost) END AS usd
    FROM members JOIN model_calls USING (episode_id) WHERE outcome = 'ok' GROUP BY ALL
),
answers AS (
    SELECT episode_id, count(*) FILTER (outcome = 'ok') AS n_ok,
        last(CASE WHEN outcome = 'error' THEN concat_ws(': ', error_type, message) END
            ORDER BY number, attempt) AS failure,
        last(outcome ORDER BY number, attempt) = 'error' AS has_failed
    FROM model_calls WHERE list_contains($ids, episode_id) GROUP BY ALL
),
verdicts AS (
    SELECT episode_id, last(verdict ORDER BY checked_at) AS verdict FROM checks
    WHERE check_id = $name AND ($version = '' OR version = $version)
        AND list_contains($ids, episode_id)
    GROUP BY ALL
)
SELECT episode_id,
    CASE WHEN $name <> '' THEN verdict
        WHEN outcome IN ('success', 'failure') THEN outcome = 'success' END,
    CASE WHEN n IS NULL THEN 0 ELSE tokens END, CASE WHEN n IS NULL THEN 0 ELSE usd END,
    n_ok, CASE WHEN has_failed THEN failure END
FROM all_episodes LEFT JOIN costs USING (episode_id) LEFT JOIN verdicts USING (episode_id)
    LEFT JOIN answers USING (episode_id)
WHERE list_contains($ids, episode_id)
"""


_FORKS = """
SELECT metadata->>'$.what_if.arm', (metadata->'$.what_if.number')::INT, episode_id
FROM all_episodes WHERE metadata->>'$.what_if.id' = ?
"""

REASON = "what_if_reason"
"""Name of the label that says why the fork of a run has no verdict."""


class Verdicts:
    """Reads the verdicts and costs of runs.

    Args:
        folder: The corpus that records them. It may be empty as long as no run was live.
        prices: Prices of models; see `trajrec.open`.
        success: Id of the check that decides, with or without "@" and its version; "" stands for
            the primary check.
        experiment: The id of the experiment.
    """

    def __init__(self, folder: Path, prices: Prices | None, success: str, experiment: str) -> None:
        self._folder = folder
        self._experiment = experiment
        self._prices = prices
        self._name, _, self._version = success.partition("@")

    def add_to(self, runs: Sequence[RunResult]) -> list[RunResult]:
        """Return runs with their verdicts and costs. One that did not end has no verdict."""
        runs = self._with_forks(runs)
        ids = [run.episode_id for run in runs if run.episode_id]
        facts = {}
        if ids:
            params = {"ids": ids, "name": self._name, "version": self._version}
            with open_corpus(self._folder, prices=self._prices) as corpus:
                facts = {row[0]: row[1:] for row in corpus.sql(_FACTS, params=params).fetchall()}
        known = []
        for run in runs:
            # Without a live part nothing was asked.
            nothing = (None, 0, 0.0, None, None)
            won, tokens, usd, n_ok, failure = facts.get(run.episode_id, nothing)
            # A server that does not answer is no fault of the agent's, nor of the change's.
            is_unanswered = bool(failure) and (n_ok == 0 or run.status == "raised")
            known.append(
                replace(
                    run,
                    won=None if is_unanswered or run.status in ("stopped", "timeout") else won,
                    reason=f"the model did not answer: {failure}" if is_unanswered else run.reason,
                    n_tokens=None if tokens is None else int(tokens),
                    cost_usd=None if usd is None else float(usd),
                )
            )
        return known

    def _with_forks(self, runs: Sequence[RunResult]) -> list[RunResult]:
        """Return runs with the forks of those that were killed, which could not name them."""
        if all(run.status != "timeout" or run.episode_id for run in runs):
            return list(runs)
        with open_corpus(self._folder) as corpus:
            rows = corpus.sql(_FORKS, params=[self._experiment]).fetchall()
        forks = {(arm, number): own for arm, number, own in rows}
        return [
            replace(run, episode_id=run.episode_id or forks.get((run.arm, run.number), ""))
            if run.status == "timeout"
            else run
            for run in runs
        ]

    def label(self, runs: Sequence[RunResult]) -> None:
        """Label the forks of runs without a verdict with the reason."""
        lines = [
            LabelLine(episode_id=run.episode_id, name=REASON, value=run.reason, by="program")
            for run in runs
            if run.episode_id and run.won is None and run.reason
        ]
        if lines:
            with open_corpus(self._folder) as corpus:
                corpus.add_labels(lines)
