"""The command `trajrec export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trajrec.cli.arguments import Commands, add_folder, add_json, add_where
from trajrec.cli.credit import METHODS
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import reads_folder, require_selection
from trajrec.cli.output import print_json, say

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus

NEEDS = {
    "prm": "step labels need rollouts: run `trajrec credit` or `trajrec bisect` on episodes first",
    "dpo": "pairs need forks with another outcome or counterfactuals: run `trajrec fork`, "
    "or credit.counterfactual in Python",
    "grpo": "no episode that has ended is in a group",
}
"""Kind of training data -> the records it is made from, for a corpus without them."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "export",
        run,
        "write training data: step labels, preference pairs or advantages",
        "trajrec export runs prm -o labels.parquet",
    )
    add_folder(parser)
    parser.add_argument(
        "kind",
        choices=tuple(NEEDS),
        help="prm: step labels; dpo: preference pairs; grpo: advantages in groups",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="file to write; ends in .parquet or .jsonl",
    )
    add_where(parser)
    parser.add_argument(
        "--method", choices=METHODS, default="grpo", help="method of advantages (default: grpo)"
    )
    add_json(parser)


@reads_folder
def run(arguments: argparse.Namespace, corpus: Corpus) -> ExitStatus:
    """Write training data and print the number of rows."""
    from trajrec.replay.credit import export

    require_selection(corpus, arguments.where)
    remarks: list[str] = []
    n_rows = export(
        corpus,
        arguments.kind,
        arguments.output,
        where=arguments.where,
        method=arguments.method,
        tell=remarks.append,
    )
    if arguments.json:
        print_json({"file": str(arguments.output), "rows": n_rows, "remarks": remarks})
    elif n_rows:
        say(f"{arguments.output}: {n_rows} rows")
        for remark in remarks:
            say(remark)
    else:
        say(f"{arguments.output}: no rows: {'; '.join(remarks) or NEEDS[arguments.kind]}")
    return ExitStatus.OK
