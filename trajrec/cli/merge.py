"""The command `trajrec merge`."""

from __future__ import annotations

import argparse
from pathlib import Path

from trajrec.cli.arguments import Commands, add_json
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.output import print_json


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "merge",
        run,
        "copy into one folder the logs of others that it lacks",
        "trajrec merge monday tuesday -o week",
    )
    parser.add_argument("sources", nargs="+", type=Path, metavar="DIR", help="folders of logs")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder that takes them"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Copy logs, and print how many."""
    from trajrec.corpus.merging import merge

    merged = merge(arguments.sources, arguments.output)
    if arguments.json:
        print_json({"copied": merged.copied, "known": merged.n_known})
    else:
        print(f"{len(merged.copied)} logs copied, {merged.n_known} were there")
    return ExitStatus.OK
