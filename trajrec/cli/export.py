"""The command `trajrec export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trajrec.cli.arguments import Commands, add_folder, add_json, add_where
from trajrec.cli.credit import METHODS
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import open_corpus, reads_folder, require_selection
from trajrec.cli.output import print_json, print_table, say
from trajrec.cli.safe_stream import one_line
from trajrec.values.shown import counted

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus
    from trajrec.exchange.export_reports import ExportReport

TRAINING = ("prm", "dpo", "grpo")
"""Kinds of training data."""

FILES = ("transitions", "messages")
"""Kinds of recorded data that are written as they are."""

TRAJECTORIES = ("atif", "otlp", "minari", "parquet")
"""Formats of other tools, and the tables; each is written with an account."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "export",
        run,
        "write training data, or trajectories in the formats of other tools",
        "trajrec export runs prm -o labels.parquet",
    )
    add_folder(parser)
    parser.add_argument(
        "kind",
        choices=(*TRAINING, *FILES, *TRAJECTORIES),
        help="prm: step labels; dpo: preference pairs; grpo: advantages in groups; transitions: "
        "steps of environments; messages: conversations of agents; atif: agents' episodes in ATIF "
        "1.7, as Harbor reads them; otlp: their traces in OTLP/JSON; minari: episodes of one "
        "environment as a dataset of Minari; parquet: all tables as Parquet",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="file to write; ends in .parquet or .jsonl, for transitions in .parquet or .arrow. "
        "For atif and otlp, a file that ends in .jsonl; for atif also a new folder, which takes a "
        "file for each episode. For minari a new folder with the name of a dataset, NAME-v0, and for parquet a new folder",
    )
    add_where(parser)
    parser.add_argument(
        "--method", choices=METHODS, default="grpo", help="method of advantages (default: grpo)"
    )
    parser.add_argument(
        "--measure",
        choices=("return", "outcome"),
        default="return",
        help="grpo: what the episodes of a group are compared by (default: return)",
    )
    parser.add_argument(
        "--messages",
        action="store_true",
        help="prm, dpo and grpo: prompts and steps as chat messages with tool calls and results, "
        "of agents' episodes alone (default: texts)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace any file, or any folder that an export has written, and not only what the "
        "same command wrote",
    )
    add_json(parser)


@reads_folder
def run(arguments: argparse.Namespace, corpus: Corpus) -> ExitStatus:
    """Write training data and print the number of rows."""
    if arguments.messages and arguments.kind not in TRAINING:
        raise ValueError(f"--messages is for {', '.join(TRAINING)}, and not for {arguments.kind}")
    require_selection(corpus, arguments.where)
    if arguments.kind in TRAJECTORIES:
        _write_trajectories(arguments, corpus)
        return ExitStatus.OK
    remarks: list[str] = []
    n_rows = _write(arguments, corpus, remarks)
    if arguments.json:
        print_json({"file": str(arguments.output), "rows": n_rows, "remarks": remarks})
    else:
        say(f"{arguments.output}: {counted(n_rows, 'row')}")
        for remark in remarks:
            say(remark)
    return ExitStatus.OK


def _write_trajectories(arguments: argparse.Namespace, corpus: Corpus) -> None:
    """Write episodes in another tool's format, and print what became of their facts."""
    from trajrec.exchange.exporting import export_atif, export_otlp
    from trajrec.exchange.to_minari import export_minari

    if arguments.kind == "parquet":
        report = _write_tables(arguments)
    else:
        exports = {"atif": export_atif, "otlp": export_otlp, "minari": export_minari}
        report = exports[arguments.kind](
            corpus, arguments.output, arguments.where, overwrite=arguments.overwrite
        )
    if arguments.json:
        print_json(
            {
                "file": str(arguments.output),
                "episodes": report.n_episodes,
                **report.account.as_dict(),
            }
        )
        return
    account = report.account
    say(f"{arguments.output}: {counted(report.n_episodes, 'episode')}")
    names = ("found", "placed", "unknown", "extra", "dropped")
    counts = (
        account.found,
        account.placed,
        account.unknown,
        account.n_extra,
        account.n_dropped,
    )
    print_table(list(names), [list(counts)])
    for reason, n in account.dropped.items():
        print(one_line(f"dropped {n}: {reason}"))
    for note in account.notes:
        print(one_line(note))


def _write_tables(arguments: argparse.Namespace) -> ExportReport:
    """Write all tables."""
    from trajrec.exchange.to_parquet import export_parquet

    # The sandbox of the command's corpus writes no files; the condition gets one of its own.
    with open_corpus(arguments.dir, allow_files=True) as corpus:
        return export_parquet(
            corpus, arguments.output, arguments.where, overwrite=arguments.overwrite
        )


def _write(arguments: argparse.Namespace, corpus: Corpus, remarks: list[str]) -> int:
    """Write the file, and return the number of its rows; remarks are added to the list."""
    if arguments.kind in FILES:
        from trajrec.corpus.export_files import export_messages, export_transitions

        output = arguments.output
        where = arguments.where
        overwrite = arguments.overwrite
        if arguments.kind == "messages":
            return export_messages(corpus, output, where, overwrite=overwrite, tell=remarks.append)
        return export_transitions(corpus, output, where, overwrite=overwrite, tell=remarks.append)
    from trajrec.replay.credit import export

    return export(
        corpus,
        arguments.kind,
        arguments.output,
        where=arguments.where,
        method=arguments.method,
        messages=arguments.messages,
        overwrite=arguments.overwrite,
        measure=arguments.measure,
        tell=remarks.append,
    )
