"""The command `trajrec rm`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from trajrec.cli.arguments import Commands, add_folder, add_json
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import open_corpus, report_problems
from trajrec.cli.output import print_json

if TYPE_CHECKING:
    from trajrec.corpus.removal import RemovalPlan


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "rm",
        run,
        "remove episodes: their bytes go from every file, and a tombstone stays",
        "trajrec rm runs --where \"task = 'private'\" --reason 'asked by the user'",
    )
    add_folder(parser, is_local=True)
    parser.add_argument(
        "--where",
        required=True,
        metavar="SQL",
        help="condition on the columns of all_episodes",
    )
    parser.add_argument("--reason", default="", help="reason, for the table removals")
    parser.add_argument("--forks", action="store_true", help="remove forks alone")
    parser.add_argument(
        "--with-dependents",
        action="store_true",
        help="also remove forks, nested episodes, credit, labels and checks that depend on them",
    )
    parser.add_argument("--dry-run", action="store_true", help="remove nothing, list all of it")
    add_json(parser)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Remove episodes, and print what went."""
    from trajrec.corpus.removal import remove

    plan = remove(
        arguments.dir,
        arguments.where,
        reason=arguments.reason,
        only_forks=arguments.forks,
        with_dependents=arguments.with_dependents,
        dry_run=arguments.dry_run,
    )
    _print(arguments, plan)
    with open_corpus(arguments.dir) as corpus:
        # A log that cannot be read may hold more of them.
        return report_problems(corpus)


def _print(arguments: argparse.Namespace, plan: RemovalPlan) -> None:
    """Print the episodes and annotations that went, or would go."""
    if arguments.json:
        print_json(
            {
                "episodes": plan.episodes,
                "dependents": plan.dependents,
                "annotations": plan.annotations,
                "logs": sorted(plan.logs),
                "removed": not arguments.dry_run,
                "refusals": plan.refusals,
            }
        )
        return
    done = "would be removed" if arguments.dry_run else "removed"
    for episode_id in [*plan.episodes, *plan.dependents]:
        print(f"{episode_id} {done}")
    for words, n in plan.annotations.items():
        print(f"{n} {words} {done}")
    print(f"{len(plan.logs)} logs {'would be ' if arguments.dry_run else ''}rewritten")
    for refusal in plan.refusals:
        print(f"it would be refused: {refusal}")
