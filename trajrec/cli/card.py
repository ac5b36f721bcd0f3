"""The command `trajrec card`."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

from trajrec.cli.arguments import Commands, add_folder
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import open_corpus, report_problems
from trajrec.cli.output import say
from trajrec.cli.safe_stream import one_line
from trajrec.values.shown import counted


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "card",
        run,
        "write a release with its card: tables, logs, README.md, croissant.json",
        "trajrec card runs -o release --license apache-2.0",
    )
    add_folder(parser)
    parser.add_argument(
        "-o", dest="out", type=Path, required=True, metavar="OUT", help="a new folder"
    )
    parser.add_argument("--name", metavar="NAME", help="name of the release (default: DIR's)")
    for option, text in (
        ("description", "a sentence or two"),
        ("license", "id of the licence, e.g. apache-2.0; it is never guessed"),
        ("url", "its address"),
        ("creator", "person or organisation"),
    ):
        parser.add_argument(f"--{option}", metavar=option.upper(), help=text)
    parser.add_argument(
        "--published",
        type=datetime.date.fromisoformat,
        metavar="DATE",
        help="day of publication, e.g. 2026-12-01 (default: today)",
    )
    parser.add_argument(
        "--held-out",
        action="append",
        metavar="SPLIT",
        help="split that no other data may descend from; repeatable (default: test)",
    )
    parser.add_argument(
        "--tables", metavar="NAMES", help="names with commas (default: all that have rows)"
    )
    parser.add_argument(
        "--allow-private",
        action="store_true",
        help="publish episodes too that their metadata marks as private",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Write a release."""
    # No condition of somebody else is run, and the tables must be written.
    with open_corpus(arguments.dir, allow_files=True) as corpus:
        release = corpus.card(
            arguments.out,
            name=arguments.name,
            description=arguments.description,
            license=arguments.license,
            url=arguments.url,
            creator=arguments.creator,
            published=arguments.published,
            held_out=arguments.held_out or ("test",),
            tables=None if arguments.tables is None else arguments.tables.split(","),
            allows_private=arguments.allow_private,
        )
        status = report_problems(corpus)
    n_rows = sum(table.n_rows for table in release.tables)
    print(
        one_line(
            f"{arguments.out}: {counted(release.card['counts']['episodes'], 'episode')}, "
            f"{counted(len(release.tables), 'table')} with {counted(n_rows, 'row')}, "
            f"{counted(len(release.card['missing']), 'missing field')} (see README.md)"
        )
    )
    if release.lacking:
        say(
            "trajrec: croissant.json lacks properties that Croissant requires; release again with "
            + ", ".join(f"--{name}" for name in release.lacking)
        )
    return status
