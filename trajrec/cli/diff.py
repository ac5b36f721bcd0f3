"""The command `trajrec diff`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from trajrec.cli.arguments import Commands, add_folder, add_json
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import reads_folder
from trajrec.cli.output import print_json
from trajrec.cli.safe_stream import one_line

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus


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


@reads_folder
def run(arguments: argparse.Namespace, corpus: Corpus) -> ExitStatus:
    """Print the first difference of each field; a difference is a finding."""
    from trajrec.replay import first_difference

    a = corpus.episode(arguments.a)
    b = corpus.episode(arguments.b)
    differences = list(first_difference(a, b))
    n_steps = a.end_step
    if arguments.json:
        for difference in differences:
            print_json(difference.as_dict())
    elif differences:
        for difference in differences:
            print(one_line(difference))
    else:
        print(f"{a.id} and {b.id} are the same, {n_steps} steps")
    return ExitStatus.FINDING if differences else ExitStatus.OK
