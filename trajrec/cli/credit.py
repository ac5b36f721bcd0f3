"""The command `trajrec credit`."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from typing import TYPE_CHECKING

from trajrec.cli.arguments import (
    ALL,
    Commands,
    add_folder,
    add_rollouts,
    add_where,
    read_count,
    read_limit,
    read_slice,
)
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import reads_folder, require_selection
from trajrec.cli.load import load_acting, load_env, load_object
from trajrec.cli.output import Progress, print_json, print_table, say
from trajrec.conditions import bracketed
from trajrec.types import Action, Value
from trajrec.values.shown import counted

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus
    from trajrec.replay.credit import CreditTable, RolloutOptions
    from trajrec.replay.credit.estimators.groups import Method

GroupRow = tuple[str, int, float, int, Action]
"""A step with its advantage, in the order of `GROUP_COLUMNS`."""

ESTIMATORS = ("value", "delta", "advantage", "shapley", "pooled")
METHODS = ("grpo", "rloo", "gigpo", "rtmc")
SHOWN = (
    "step",
    "estimator",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "n_discordant",
    "ci_method",
    "noise",
    "estimand",
    "action",
)
GROUP_COLUMNS = ("episode_id", "step", "value", "n", "action")
DEFAULT_LIMIT = 20
"""Steps of --group that are printed."""

_OF_ROLLOUTS = ("policy", "plot", "steps", "budget")
"""Options that --group would otherwise seem to take: it compares what was recorded."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "credit",
        run,
        "estimate which steps earned or lost the outcome",
        "trajrec credit runs 3f2a --policy my_agents:greedy --plot credit.png",
    )
    add_folder(parser)
    parser.add_argument(
        "episode", nargs="?", metavar="EPISODE", help="id of an episode, or a unique prefix"
    )
    parser.add_argument(
        "--estimator",
        choices=ESTIMATORS,
        default="advantage",
        help="the estimator (default: advantage)",
    )
    parser.add_argument(
        "--steps",
        type=read_slice,
        metavar="FIRST:STOP[:EVERY]",
        help="only these steps, without STOP (value, delta and advantage)",
    )
    parser.add_argument(
        "--budget",
        type=read_count,
        metavar="STEPS",
        help="stop after so many steps of the environment",
    )
    parser.add_argument(
        "--group",
        nargs="?",
        choices=METHODS,
        const="rtmc",
        help="compare all episodes of the folder with each other, without rollouts",
    )
    add_where(parser, note="with --group: ", default=None)
    parser.add_argument(
        "--limit",
        type=read_limit,
        metavar="N",
        help="with --group: steps to print, those whose advantage is furthest from 0; or 'all', in "
        f"the order of the episodes (default: {DEFAULT_LIMIT}, with --json all)",
    )
    add_rollouts(parser, needs_policy=False)


@reads_folder
def run(arguments: argparse.Namespace, corpus: Corpus) -> ExitStatus:
    """Estimate the credit of an episode's steps, or of all episodes by their groups."""
    from trajrec.replay.credit import plot
    from trajrec.replay.credit.results.plot import check_file

    if arguments.group is not None:
        if arguments.episode is not None:
            raise ValueError(
                "--group compares all episodes of the folder: give no EPISODE, or no --group"
            )
        for name in _OF_ROLLOUTS:
            if getattr(arguments, name) is not None:
                raise ValueError(f"--group runs no rollouts and draws nothing: leave out --{name}")
        return _run_groups(corpus, arguments)
    if arguments.where is not None:
        raise ValueError("--where chooses the episodes of --group; an EPISODE is chosen by its id")
    if arguments.limit is not None:
        raise ValueError("--limit is for --group; an EPISODE is printed with all of its steps")
    if arguments.episode is None or arguments.policy is None:
        raise ValueError("give an episode and --policy, or --group, which needs neither")
    if arguments.plot is not None:
        # A plot that cannot be written is an error before hours of rollouts, not after them.
        check_file(arguments.plot)
    with Progress("rolling out", " rollouts") as progress:
        table = _estimate(corpus, arguments, progress)
    if arguments.json:
        print_estimates(table)
    else:
        print(table)
    if arguments.plot is not None:
        say(f"plotted: {plot(table, arguments.plot)}")
    return ExitStatus.OK


def _estimate(corpus: Corpus, arguments: argparse.Namespace, progress: Progress) -> CreditTable:
    from trajrec.replay.credit import Budget, estimate, pooled_advantages, shapley_values

    policy = read_policy(arguments.policy)
    options = rollout_options(arguments, progress)
    budget = None if arguments.budget is None else Budget(env_steps=arguments.budget)
    episode = corpus.episode(arguments.episode)
    if arguments.estimator == "shapley":
        return shapley_values(episode, policy, n_permutations=arguments.n, budget=budget, **options)
    if arguments.estimator == "pooled":
        (table,) = pooled_advantages(
            [episode], policy, n_rollouts=arguments.n, budget=budget, **options
        )
        return table
    steps = None if arguments.steps is None else range(episode.end_step)[arguments.steps]
    return estimate(
        episode,
        policy,
        estimator=arguments.estimator,
        n_rollouts=arguments.n,
        steps=steps,
        budget=budget,
        **options,
    )


def _run_groups(corpus: Corpus, arguments: argparse.Namespace) -> ExitStatus:
    from trajrec.replay.credit import group_advantages

    where = arguments.where or "true"
    require_selection(corpus, where)
    tables = group_advantages(corpus, arguments.group, where=where)
    rows = [
        (table.episode_id, row.step, row.value, row.n, row.action)
        for table in tables
        for row in table
    ]
    shown = _furthest(rows, arguments.limit or (ALL if arguments.json else DEFAULT_LIMIT))
    if arguments.json:
        for row in shown:
            print_json(dict(zip(GROUP_COLUMNS, row, strict=True)))
    else:
        print_table(GROUP_COLUMNS, shown)
        print(f"\n{_summary(arguments.group, len(tables), rows)}")
        if len(shown) < len(rows):
            print(f"{len(shown)} are listed, the furthest from 0 (--limit all lists all)")
    notes = Counter(note for table in tables for note in table.notes)
    for note, n in notes.items():
        say(f"{counted(n, 'episode')}: {note}")
    _say_without_return(corpus, where)
    return ExitStatus.OK


def _say_without_return(corpus: Corpus, where: str) -> None:
    """Say how many episodes are in no group because their return is unknown."""
    query = f"SELECT count(*) FROM episodes WHERE {bracketed(where)} AND total_reward IS NULL"
    ((n,),) = corpus.sql(query, sandbox=True).fetchall()
    if n:
        say(
            f"{counted(n, 'episode')} left out: their return is unknown, or each of several "
            "agents has its own; `trajrec export DIR grpo --measure outcome` compares outcomes"
        )


def _furthest(rows: list[GroupRow], limit: int) -> list[GroupRow]:
    """Return the rows whose advantages are furthest from 0, or all in their order if they fit."""
    if len(rows) <= limit:
        return rows
    # An unknown advantage stands behind all others.
    return sorted(rows, key=lambda row: math.inf if math.isnan(row[2]) else -abs(row[2]))[:limit]


def _summary(method: Method, n_episodes: int, rows: list[GroupRow]) -> str:
    """Return the line below the rows of groups."""
    values = [value for _, _, value, _, _ in rows if not math.isnan(value)]
    text = f"{method}: {counted(n_episodes, 'episode')}, {counted(len(rows), 'step')}"
    if values:
        text += f", advantages from {min(values):+.3g} to {max(values):+.3g}"
        text += f", {values.count(0.0)} of them 0"
    return text


def read_policy(name: str) -> Value:
    """Return the policy that --policy names."""
    return name if name == "random" else load_acting(name)


def rollout_options(arguments: argparse.Namespace, progress: Progress) -> RolloutOptions:
    """Return the options of rollouts that a command line gives."""
    success = arguments.success
    if success not in (None, "terminated", "truncated"):
        success = load_object(success, "--success", "terminated, truncated or ")
    hidden = arguments.resample_hidden
    options: RolloutOptions = {
        "seed": arguments.seed,
        "success": success,
        "max_steps": arguments.max_steps,
        "resample_hidden": None if hidden is None else load_object(hidden, "--resample-hidden"),
        "allow": arguments.allow,
        "ulps": arguments.ulps,
        "jobs": arguments.jobs,
        "backend": arguments.backend,
        "restore": arguments.restore,
        "control": not arguments.no_control,
        "progress": progress,
    }
    # These have defaults that depend on the estimator or the log.
    if arguments.noise is not None:
        options["noise"] = arguments.noise
    if arguments.on_error is not None:
        options["on_error"] = arguments.on_error
    if arguments.env is not None:
        options["env"] = load_env(arguments.env)
    return options


def print_estimates(table: CreditTable) -> None:
    """Print each estimate as a JSON object."""
    for row in table:
        estimate = {name: getattr(row, name) for name in SHOWN}
        print_json({"episode_id": table.episode_id, "run_id": table.run_id, **estimate})
