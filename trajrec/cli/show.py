"""The command `trajrec show`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from trajrec.cli.arguments import Commands, add_episode, add_folder, add_json
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import reads_folder

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "show", run, "show an episode, or one of its steps", "trajrec show runs 3f2a --step 12"
    )
    add_folder(parser)
    add_episode(parser)
    parser.add_argument("--step", type=int, metavar="K", help="show step K with its states")
    parser.add_argument(
        "--state",
        metavar="PATH",
        help="show each change of one place of the state, as /stock/lamp, and its value after step K",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="print each step of an episode that is being recorded, until it ends",
    )
    add_json(parser)


@reads_folder
def run(arguments: argparse.Namespace, corpus: Corpus) -> ExitStatus:
    """Show an episode or a step, of an environment or of an agent."""
    from trajrec.cli import show_agent, show_environment

    episode = corpus.episode(arguments.episode)
    if arguments.follow:
        if arguments.step is not None or arguments.state is not None:
            raise ValueError(
                "give --follow alone: it shows all new steps, --step and --state what is recorded"
            )
        from trajrec.cli.follow import follow

        follow(corpus, episode.id, as_json=arguments.json)
        return ExitStatus.OK
    if arguments.state is not None:
        from trajrec.cli.show_place import print_place

        print_place(episode, arguments.state, step=arguments.step, as_json=arguments.json)
        return ExitStatus.OK
    page = show_agent if episode.is_agent_episode else show_environment
    if arguments.step is None:
        page.print_episode(episode, as_json=arguments.json)
    else:
        page.print_step(episode, arguments.step, as_json=arguments.json)
    return ExitStatus.OK
