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


LISTED = """
SELECT metadata->>'$.what_if.id' AS experiment, min(started_at) AS began,
    any_value(metadata->'$.what_if.at')::INT AS at,
    any_value(metadata->>'$.what_if.change.name') AS change,
    count(*) FILTER (arm = 'unchanged' AND has_verdict AND outcome = 'success') AS unchanged_won,
    count(*) FILTER (arm = 'unchanged') AS unchanged_runs,
    count(*) FILTER (arm = 'changed' AND has_verdict AND outcome = 'success') AS changed_won,
    count(*) FILTER (arm = 'changed') AS changed_runs,
    count(*) FILTER (arm = 'control') AS controls
FROM (
    SELECT *, metadata->>'$.what_if.arm' AS arm,
        episode_id NOT IN (SELECT episode_id FROM labels WHERE name = 'what_if_reason') AS has_verdict
    FROM forks
)
WHERE parent_id = ? AND arm IS NOT NULL GROUP BY 1 ORDER BY began
"""


def list_experiments(arguments: argparse.Namespace, corpus: Corpus, episode: Episode) -> ExitStatus:
    """List the experiments whose runs are forks of the episode."""
    found = corpus.sql(LISTED, params=[episode.id])
    names = found.columns
    rows = found.fetchall()
    if arguments.json:
        for row in rows:
            print_json(dict(zip(names, row, strict=True)))
    else:
        print_table(names, rows)
    return ExitStatus.OK
