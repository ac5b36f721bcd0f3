"""`trajrec whatif --find`: the step that lost the episode of an agent that is a command."""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.output import print_json, say
from trajrec.values.shown import counted

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus
    from trajrec.corpus.episode import Episode
    from trajrec.replay.whatif.changes import Change
    from trajrec.replay.whatif.result import WhatIfResult

_STEPS = """
SELECT step, CASE WHEN count(input_tokens + output_tokens) = count(*)
    THEN sum(input_tokens + output_tokens) END
FROM model_calls WHERE episode_id = ? AND outcome = 'ok' GROUP BY step ORDER BY step
"""

# Options that say which step, and with which change: the search chooses the one, and makes none.
_OTHERS = (
    "at",
    "call",
    "arguments",
    "tool_result",
    "tool_error",
    "prompt",
    "message",
    "model",
    "parameters",
    "tool_definition",
)


def find_step(
    arguments: argparse.Namespace,
    corpus: Corpus,
    episode: Episode,
    run: Callable[[argparse.Namespace, Episode, Change], WhatIfResult],
) -> ExitStatus:
    """Find the step, and print it with its evidence.

    Args:
        arguments: Those of `trajrec whatif`.
        corpus: The corpus.
        episode: The recorded episode.
        run: Runs an experiment.
    """
    from trajrec.replay.whatif.changes import Change
    from trajrec.replay.whatif.lost_step import find_lost_step

    given = [name for name in _OTHERS if getattr(arguments, name) not in (None, {})]
    if given:
        raise ValueError(f"--find takes no --{given[0].replace('_', '-')}: it changes nothing")
    if arguments.n < 2:
        raise ValueError("--find compares shares: take at least 2 runs, -n 2")
    rows = corpus.sql("SELECT outcome FROM all_episodes WHERE episode_id = ?", params=[episode.id])
    if rows.fetchall() == [("success",)]:
        raise ValueError(f"episode {episode.id} was won: --find needs one that was lost")
    costs: dict[int, int | None] = dict(corpus.sql(_STEPS, params=[episode.id]).fetchall())
    say(_forecast(list(costs), costs, arguments.n))
    if arguments.dry_run:
        return ExitStatus.OK
    if not arguments.command:
        raise ValueError("give the command after --: trajrec whatif ... -- python my_agent.py")
    # Of all experiments together.
    tokens_left = arguments.max_tokens

    def run_from(step: int) -> WhatIfResult:
        nonlocal tokens_left
        own = copy.copy(arguments)
        own.at = step
        # Both arms do the same, and count together.
        own.n = math.ceil(arguments.n / 2)
        own.max_tokens = tokens_left
        result = run(own, episode, Change())
        if tokens_left is not None:
            tokens_left = max(0, tokens_left - (result.n_tokens or 0))
        return result

    found = find_lost_step(run_from, list(costs), arguments.find)
    if arguments.json:
        print_json(found.to_json())
    else:
        print(found)
    if any(result.was_stopped == "interrupted" for result in found.experiments):
        return ExitStatus.INTERRUPTED
    return ExitStatus.REFUSED if found.is_refused else ExitStatus.OK


def _forecast(steps: list[int], costs: dict[int, int | None], n: int) -> str:
    """Return, in words, the most that a search costs if each run does as the recording did."""
    n_runs = 2 * math.ceil(n / 2)
    # From the start, halves, and the two that confirm.
    n_halves = max(1, len(steps) - 1).bit_length() if len(steps) > 1 else 0
    n_experiments = 1 + n_halves + 2
    known = [tokens for tokens in costs.values() if tokens is not None]
    amount = "tokens unknown"
    if len(known) == len(costs):
        behind = sum(known[1:])
        amount = f"{n_runs * (2 * sum(known) + (n_halves + 1) * behind)} tokens"
    return (
        f"at most {counted(n_experiments, 'experiment')} of {counted(n_runs, 'run')} and 2 "
        f"controls; if each does as the recording did: at most {amount}"
    )
