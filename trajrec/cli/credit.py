"""The command `trajrec credit`."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from typing import TYPE_CHECKING

from trajrec.cli.arguments import (
    Commands,
    add_folder,
    add_rollouts,
    add_where,
    read_count,
    read_slice,
)
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import reads_folder, require_selection
from trajrec.cli.load import load_acting, load_env, load_object
from trajrec.cli.output import Progress, print_json, print_table, say
from trajrec.types import Value

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus
    from trajrec.replay.credit import CreditTable, RolloutOptions

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
GROUP_COLUMNS = ("episode_id", "step", "value", "ci_low", "ci_high", "n", "action")


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
        return _run_groups(corpus, arguments)
    if arguments.where is not None:
        raise ValueError("--where chooses the episodes of --group; an EPISODE is chosen by its id")
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
    has_intervals = any(math.isfinite(row.ci_low) for table in tables for row in table)
    rows = [
        (table.episode_id, row.step, row.value, row.ci_low, row.ci_high, row.n, row.action)
        for table in tables
        for row in table
    ]
    if arguments.json:
        for row in rows:
            print_json(dict(zip(GROUP_COLUMNS, row, strict=True)))
    elif has_intervals:
        print_table(GROUP_COLUMNS, rows)
    else:
        print_table(
            (*GROUP_COLUMNS[:3], *GROUP_COLUMNS[5:]), [(*row[:3], *row[5:]) for row in rows]
        )
    notes = Counter(note for table in tables for note in table.notes)
    for note, n in notes.items():
        say(f"{n} episodes: {note}")
    return ExitStatus.OK


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
