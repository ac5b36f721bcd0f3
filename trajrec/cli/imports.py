"""The command `trajrec import`."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from trajrec.cli.arguments import Commands, add_json
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.output import print_json, print_table, say
from trajrec.cli.safe_stream import one_line
from trajrec.values.shown import counted

if TYPE_CHECKING:
    from trajrec.exchange.import_reports import FileReport

_FORMATS = """Formats, which are told by the contents of files: trials of Harbor; ATIF; logs of
Inspect; sessions of Claude Code, Codex and Gemini CLI; traces in OTLP (gen_ai and
OpenInference); tau-bench and tau2; OpenHands (events, and its SDK); SWE-agent and mini-swe-agent;
AgentDojo; verifiers; Who&When; datasets of Minari; tables of messages (Parquet, JSON, lines of
JSON) by a mapping."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "import",
        run,
        "import the trajectories of other tools",
        "trajrec import trials -o runs",
        finding="a file is damaged or refused, so that nothing of it was imported, or no file has a "
        "format that is imported",
    )
    parser.description = f"{parser.description}\n\n{_FORMATS}"
    parser.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="a file, or a folder, which is searched; with --format minari also the id of a "
        "dataset that Minari has on this machine",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="the corpus"
    )
    parser.add_argument(
        "--format", metavar="NAME", help="the format, if it is not to be looked for"
    )
    parser.add_argument(
        "--mapping",
        type=Path,
        metavar="FILE",
        help="a TOML file that says which columns of a table hold a conversation",
    )
    parser.add_argument(
        "--redact",
        choices=("sessions", "all", "none"),
        default="sessions",
        help="remove secrets from the sessions of coding agents (default), from all files, or from "
        "none",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Import files, and print what they held and what became of it."""
    from trajrec.exchange.importing import import_trajectories

    redact = {"sessions": None, "all": True, "none": False}[arguments.redact]

    def report(file: FileReport) -> None:
        if arguments.json:
            print_json(file.as_dict())
        elif file.status == "failed" and not arguments.path.is_file():
            # That of a single file is the error of the command.
            say(one_line(f"trajrec: {file.path}: {file.reason}"))

    result = import_trajectories(
        arguments.path,
        arguments.output,
        format=arguments.format,
        redact=redact,
        mapping=arguments.mapping,
        report=report,
    )
    if not arguments.json:
        _print_summary(result.files)
    if all(file.status == "skipped" for file in result.files):
        say(one_line(f"trajrec: {arguments.path}: nothing to import"))
        return ExitStatus.FINDING
    return ExitStatus.FINDING if result.of_status("failed") else ExitStatus.OK


def _print_summary(files: list[FileReport]) -> None:
    """Print a line for each format, then the reasons and notes."""
    names = ("format", "files", "episodes", "steps", "calls")
    counts = ("found", "kept", "unknown", "extra", "dropped")
    rows: dict[str, list[int]] = {}
    for file in files:
        if file.status == "imported":
            row = rows.setdefault(file.format, [0] * 9)
            account = file.account
            values = (
                1,
                len(file.episodes),
                file.n_steps,
                file.n_calls,
                account.found,
                account.placed,
                account.unknown,
                account.n_extra,
                account.n_dropped,
            )
            row[:] = [a + b for a, b in zip(row, values, strict=True)]
    if rows:
        print_table([*names, *counts], [[name, *row] for name, row in rows.items()])
    notes = Counter(note for file in files for note in file.account.notes)
    dropped: Counter[str] = Counter()
    for file in files:
        dropped.update(file.account.dropped)
    for reason, n in dropped.items():
        print(one_line(f"dropped {n}: {reason}"))
    for note, n in notes.items():
        print(one_line(f"{n} files: {note}" if n > 1 else note))
    n_redacted = sum(file.n_redacted for file in files)
    if n_redacted:
        print(f"secrets were removed from {counted(n_redacted, 'value')}")
    n_known = sum(file.status == "known" for file in files)
    if n_known:
        verb = "adds" if n_known == 1 else "add"
        print(f"{counted(n_known, 'file')} had been imported before, and {verb} nothing")
    skipped: dict[str, list[str]] = {}
    for file in files:
        if file.status == "skipped":
            skipped.setdefault(file.reason, []).append(file.path.name)
    for reason, paths in sorted(skipped.items(), key=lambda item: -len(item[1])):
        print(one_line(_skipped(reason, paths)))
    n_failed = sum(file.status == "failed" for file in files)
    if n_failed:
        pronoun = "it" if n_failed == 1 else "them"
        print(f"{counted(n_failed, 'file')} refused, nothing of {pronoun} was imported: see above")


# Names of skipped files that are printed; --json has all.
MAX_NAMES = 3


def _skipped(reason: str, files: list[str]) -> str:
    """Return the line about files that were skipped for the same reason."""
    if len(files) == 1:
        return f"skipped 1 file: {files[0]} {reason}"
    names = ", ".join(files[:MAX_NAMES])
    more = ", ..." if len(files) > MAX_NAMES else ""
    return f"skipped {len(files)} files ({names}{more}): each {reason}"
