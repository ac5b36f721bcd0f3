"""The experiments of `trajrec whatif`: those on an episode, and the cost of one to come."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.output import print_json, print_table
from trajrec.values.shown import counted

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus
    from trajrec.corpus.episode import Episode

_COST = """
SELECT count(*),
    CASE WHEN count(input_tokens + output_tokens) = count(*)
        THEN coalesce(sum(input_tokens + output_tokens), 0) END,
    CASE WHEN count(cost) = count(*) THEN coalesce(sum(cost), 0) END
FROM model_calls WHERE episode_id = ? AND step >= ? AND outcome = 'ok'
"""


def say_cost(arguments: argparse.Namespace, corpus: Corpus, episode: Episode) -> ExitStatus:
    """Say what the experiment would cost if each run did what the recording did from the step on."""
    rows = corpus.sql(_COST, params=[episode.id, arguments.at]).fetchall()
    n_calls, tokens, cost = rows[0]
    n_runs = 2 * arguments.n
    told = {
        "runs": n_runs,
        "model_calls": n_runs * n_calls,
        "tokens": None if tokens is None else n_runs * int(tokens),
        "cost": None if cost is None else n_runs * float(cost),
    }
    if arguments.json:
        print_json(told)
        return ExitStatus.OK
    amount = "tokens unknown" if told["tokens"] is None else f"{told['tokens']} tokens"
    price = "price unknown (--prices)" if told["cost"] is None else f"${told['cost']:.2f}"
    print(
        f"{counted(n_runs, 'run')} and 2 controls; if each does as the recording did from step "
        f"{arguments.at} on: {counted(int(told['model_calls'] or 0), 'model call')}, {amount}, {price}"
    )
    return ExitStatus.OK


_UNPRICED = """
SELECT DISTINCT model FROM model_calls
WHERE episode_id = ? AND outcome = 'ok' AND cost IS NULL ORDER BY model
"""


def require_prices(corpus: Corpus, episode: Episode) -> None:
    """Refuse a budget in dollars that would end the experiment after its first model call.

    Raises:
        ValueError: The price of a recorded model call is not known.
    """
    models = [str(row[0]) for row in corpus.sql(_UNPRICED, params=[episode.id]).fetchall()]
    if models:
        raise ValueError(
            f"--max-usd needs the price of {', '.join(models)}, and its number of tokens: give "
            "--prices FILE"
        )


LISTED = """
WITH runs AS (
    SELECT episode_id, parent_id, started_at, outcome, metadata->>'$.what_if.id' AS experiment,
        (metadata->>'$.what_if.at')::INT AS "at", metadata->>'$.what_if.change.name' AS change,
        metadata->>'$.what_if.arm' AS arm, coalesce(metadata->>'$.what_if.success', '') AS success,
        episode_id NOT IN (SELECT episode_id FROM labels WHERE name = 'what_if_reason') AS is_whole
    FROM forks WHERE experiment IS NOT NULL AND ($episode = '' OR parent_id = $episode)
),
verdicts AS (
    SELECT episode_id, verdict, row_number() OVER (
        PARTITION BY episode_id ORDER BY checked_at DESC NULLS FIRST
    ) AS nth
    FROM runs JOIN checks USING (episode_id)
    WHERE success IN (check_id, check_id || '@' || version)
)
SELECT experiment, parent_id AS episode_id, min(started_at) AS began, "at", change,
    nullif(success, '') AS success,
    count(*) FILTER (arm = 'unchanged' AND won) AS unchanged_won,
    count(*) FILTER (arm = 'unchanged') AS unchanged_runs,
    count(*) FILTER (arm = 'changed' AND won) AS changed_won,
    count(*) FILTER (arm = 'changed') AS changed_runs,
    count(*) FILTER (arm = 'control' AND is_whole) AS equal_controls,
    count(*) FILTER (arm = 'control') AS controls
FROM (
    SELECT *,
        is_whole AND CASE WHEN success = '' THEN outcome = 'success' ELSE verdict END AS won
    FROM runs LEFT JOIN (FROM verdicts WHERE nth = 1) USING (episode_id)
)
GROUP BY ALL ORDER BY began, experiment
"""


def list_experiments(
    arguments: argparse.Namespace, corpus: Corpus, episode: Episode | None
) -> ExitStatus:
    """List the experiments whose runs are forks of an episode, or all of a corpus."""
    found = corpus.sql(LISTED, params={"episode": "" if episode is None else episode.id})
    names = found.columns
    rows = found.fetchall()
    if arguments.json:
        for row in rows:
            print_json(dict(zip(names, row, strict=True)))
    else:
        print_table(names, rows)
    return ExitStatus.OK
