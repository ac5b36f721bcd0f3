"""The command `trajrec push`."""

from __future__ import annotations

import argparse
from pathlib import Path

from trajrec.cli.arguments import Commands, add_json
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.interrupts import interrupted_by_signals
from trajrec.cli.output import Progress, print_json, say


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "push",
        run,
        "upload the logs of a folder to an object storage, which other commands read by ranges",
        "trajrec push runs s3://bucket/runs",
        finding="logs were left out, since they are not sealed or cannot be read",
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder of logs")
    parser.add_argument("url", metavar="URL", help="where it goes, e.g. s3://bucket/runs")
    parser.add_argument(
        "--delete", action="store_true", help="delete the logs there that DIR does not have"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Upload the logs, and print how many."""
    from trajrec.corpus.push import push

    with interrupted_by_signals(), Progress("uploading", " bytes") as progress:
        result = push(arguments.dir, arguments.url, delete=arguments.delete, progress=progress)
    if arguments.json:
        print_json(
            {
                "uploaded": result.uploaded,
                "known": result.n_known,
                "left": result.left,
                "deleted": result.deleted,
            }
        )
    else:
        deleted = f", {len(result.deleted)} deleted" if arguments.delete or result.deleted else ""
        print(f"{len(result.uploaded)} logs uploaded, {result.n_known} were there{deleted}")
    for name, reason in result.left.items():
        say(f"left out: {arguments.dir / name}: {reason}")
    return ExitStatus.FINDING if result.left else ExitStatus.OK
