"""The command `trajrec fork`."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from trajrec.cli.arguments import (
    POLICY_HELP,
    Commands,
    add_episode,
    add_execution,
    add_folder,
    add_json,
    add_restore,
    add_seed,
    read_count,
    read_json,
    read_seconds,
)
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import reads_folder
from trajrec.cli.load import load_acting, load_env, load_function
from trajrec.cli.output import print_json, print_table, say
from trajrec.types import Action, Value

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus
    from trajrec.corpus.episode import Episode
    from trajrec.replay import Branch

SHOWN = (
    "episode_id",
    "index",
    "n_steps",
    "total_reward",
    "ending",
    "outcome",
    "rejoined_at",
    "restore",
    "error",
)


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "fork",
        run,
        "fork an episode at a step and take other actions",
        "trajrec fork runs 3f2a --at 12 --action 1 --policy random -n 8",
        finding="a branch failed",
    )
    add_folder(parser)
    add_episode(parser)
    parser.add_argument("--at", type=int, required=True, metavar="K", help="the step, from 0")
    parser.add_argument(
        "--action",
        action="append",
        type=read_json,
        default=[],
        metavar="JSON",
        help="an action to take first; repeatable",
    )
    parser.add_argument(
        "--policy", metavar="POLICY", help=f"takes the following actions: {POLICY_HELP}"
    )
    parser.add_argument(
        "-n",
        type=read_count,
        default=1,
        metavar="N",
        help="number of branches, each with its own randomness (default: 1)",
    )
    parser.add_argument(
        "--max-steps", type=read_count, metavar="STEPS", help="cut branches off after STEPS steps"
    )
    parser.add_argument(
        "--verifier",
        dest="checks",
        action="append",
        default=[],
        metavar="MODULE:FUNCTION",
        help="run this verifier at the end of each branch: its verdict is the outcome; repeatable",
    )
    add_seed(parser)
    parser.add_argument(
        "--timeout", type=read_seconds, metavar="SECONDS", help="end a branch that takes longer"
    )
    add_execution(parser)
    add_restore(parser)
    add_json(parser)


@reads_folder
def run(arguments: argparse.Namespace, corpus: Corpus) -> ExitStatus:
    """Run branches from a step and print a row for each."""
    from trajrec.replay import fork_many

    policy: Value = arguments.policy
    if policy not in (None, "random"):
        policy = load_acting(policy)
    checks = [load_function(name, "--verifier") for name in arguments.checks]
    episode = corpus.episode(arguments.episode)
    branches = fork_many(
        episode,
        at=[arguments.at],
        actions=[_to_action(action, episode) for action in arguments.action],
        policy=policy,
        n_branches=arguments.n,
        seed=arguments.seed,
        max_steps=arguments.max_steps,
        checks=checks,
        jobs=arguments.jobs,
        backend=arguments.backend,
        restore=arguments.restore,
        allow=arguments.allow,
        env=None if arguments.env is None else load_env(arguments.env),
        timeout_s=arguments.timeout,
        control=not arguments.no_control,
    )
    rows = [_row(branch) for branch in branches]
    if arguments.json:
        for row in rows:
            print_json(row)
    else:
        print_table(SHOWN, [tuple(row.values()) for row in rows])
        if not arguments.no_control:
            print(branches.controls)
    for note in branches.notes:
        say(note)
    has_failed = any(branch.error for branch in branches)
    return ExitStatus.FINDING if has_failed else ExitStatus.OK


def _row(branch: Branch) -> dict[str, Value]:
    values = {name: getattr(branch, name) for name in SHOWN if name != "ending"}
    values["ending"] = _ending(branch)
    values["error"] = branch.error or None
    if math.isnan(branch.total_reward):
        # Each of several agents has its own.
        values["total_reward"] = None
    return {name: values[name] for name in SHOWN}


def _ending(branch: Branch) -> str:
    if branch.error:
        return "failed"
    if branch.terminated:
        return "terminated"
    return "truncated" if branch.truncated else "cut off"


def _to_action(action: Value, episode: Episode) -> Action:
    """Convert an action from JSON to the type of the episode's own actions."""
    import numpy as np

    example = next(iter(episode.actions), None)
    if isinstance(example, np.ndarray):
        return np.array(action, example.dtype)
    if isinstance(example, np.generic):
        return type(example)(action)
    return action
