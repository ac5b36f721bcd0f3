"""The command `trajrec diff`."""

from __future__ import annotations

import argparse

from trajrec.cli.arguments import Commands, add_folder, add_json
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import open_corpus
from trajrec.cli.output import print_json


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "diff",
        run,
        "find the first difference between two episodes",
        "trajrec diff runs 3f2a 91c0",
        finding="the episodes differ",
    )
    add_folder(parser)
    parser.add_argument("a", metavar="EPISODE_A", help="id of an episode, or a unique prefix")
    parser.add_argument("b", metavar="EPISODE_B", help="id of an episode, or a unique prefix")
    add_json(parser)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the first difference of each field; a difference is a finding."""
    from trajrec.replay import first_difference

    with open_corpus(arguments.dir) as corpus:
        a = corpus.episode(arguments.a)
        b = corpus.episode(arguments.b)
        differences = list(first_difference(a, b))
        n_steps = a.end_step
    if arguments.json:
        for difference in differences:
            print_json(difference.as_dict())
    elif differences:
        for difference in differences:
            print(difference)
    else:
        print(f"{a.id} and {b.id} are the same, {n_steps} steps")
    return ExitStatus.FINDING if differences else ExitStatus.OK
