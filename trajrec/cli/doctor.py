"""The command `trajrec doctor`."""

from __future__ import annotations

import argparse

from trajrec.cli.arguments import Commands, add_folder, add_json
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.output import Progress, print_json
from trajrec.cli.safe_stream import one_line
from trajrec.values.shown import counted


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "doctor",
        doctor,
        "list what is wrong with the files of a folder, and what to do",
        "trajrec doctor runs",
        finding="something is wrong with a file",
    )
    add_folder(parser, is_local=True)
    add_json(parser)


def doctor(arguments: argparse.Namespace) -> ExitStatus:
    """Print what is wrong with each file, and the command that mends it."""
    from trajrec.corpus.doctor import examine
    from trajrec.corpus.location import refuse_address

    refuse_address(arguments.dir)
    with Progress("reading", " logs") as progress:
        n_logs, findings = examine(arguments.dir, progress)
    for finding in findings:
        if arguments.json:
            print_json(finding._asdict())
            continue
        place = "" if finding.offset is None else f"byte {finding.offset}, {finding.size} bytes: "
        print(one_line(f"{arguments.dir / finding.file}: {finding.kind}: {place}{finding.problem}"))
        print(f"    {finding.advice}{':' if finding.command else ''}")
        if finding.command:
            print(one_line(f"    {finding.command}"))
    if not arguments.json:
        n_files = len({finding.file for finding in findings})
        result = f"something is wrong with {counted(n_files, 'file')}" if n_files else "all is well"
        print(f"{counted(n_logs, 'log')}, {result}")
    return ExitStatus.FINDING if findings else ExitStatus.OK
