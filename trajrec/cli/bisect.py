"""The command `trajrec bisect`."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

from trajrec.cli.arguments import Commands, add_episode, add_folder, add_rollouts
from trajrec.cli.credit import print_estimates, read_policy, rollout_options
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import reads_folder
from trajrec.cli.output import Progress, print_table, say
from trajrec.cli.safe_stream import one_line

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus

# Characters in a line of a plot's title: as wide as the plot itself.
TITLE_WIDTH = 110


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "bisect",
        run,
        "find the step after which an episode could not succeed",
        "trajrec bisect runs 3f2a --policy my_agents:greedy --success terminated --plot lost.png",
        finding="no step: the policy never succeeds",
    )
    add_folder(parser)
    add_episode(parser)
    add_rollouts(parser, needs_policy=True)


@reads_folder
def run(arguments: argparse.Namespace, corpus: Corpus) -> ExitStatus:
    """Print the evidence and the step. An episode that could never succeed is a finding."""
    from trajrec.replay.credit import plot, point_of_no_return
    from trajrec.replay.credit.results.plot import check_file

    if arguments.plot is not None:
        check_file(arguments.plot)
    policy = read_policy(arguments.policy)
    with Progress("rolling out", " rollouts") as progress:
        options = rollout_options(arguments, progress)
        episode = corpus.episode(arguments.episode)
        point = point_of_no_return(episode, policy, n_rollouts=arguments.n, **options)
    if arguments.json:
        print_estimates(point.table)
    else:
        rows = [
            (row.step, round(row.value, 2), round(row.ci_low, 2), round(row.ci_high, 2), row.n)
            for row in point.table.of("value")
        ]
        print_table(("from step", "success rate", "ci_low", "ci_high", "rollouts"), rows)
        if point.table.controls.n:
            print(point.table.controls)
        print(one_line(point))
    if arguments.plot is not None:
        title = textwrap.fill(str(point), TITLE_WIDTH)
        marked = None if point.step is None else point.step - 1
        say(f"plotted: {plot(point.table, arguments.plot, marked=marked, title=title)}")
    return ExitStatus.FINDING if point.step is None else ExitStatus.OK
