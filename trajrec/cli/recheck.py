"""The command `trajrec recheck`."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from trajrec.cli.arguments import Commands, add_folder, add_json, add_where
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import reads_folder
from trajrec.cli.load import load_function
from trajrec.cli.output import print_json, say
from trajrec.cli.safe_stream import one_line

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus
    from trajrec.corpus.recheck import Recheck


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "recheck",
        run,
        "run a verifier on final states and append its verdicts",
        "trajrec recheck runs --verifier my_checks:stock_adds_up",
        finding="the verifier raised",
    )
    add_folder(parser)
    parser.add_argument(
        "--verifier",
        required=True,
        metavar="MODULE:FUNCTION",
        help="a function of the state as plain data",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="append nothing, to try a verifier out"
    )
    add_where(parser, default="ending <> 'running'")
    add_json(parser)


@reads_folder
def run(arguments: argparse.Namespace, corpus: Corpus) -> ExitStatus:
    """Run a verifier and count its verdicts; a verifier that raises is a finding."""
    from trajrec.corpus.recheck import recheck

    verifier = load_function(arguments.verifier, "--verifier")
    counts: Counter[str] = Counter()
    for result in recheck(corpus, verifier, where=arguments.where, append=not arguments.dry_run):
        counts[_verdict(result)] += 1
        if arguments.json:
            print_json(
                {
                    "episode_id": result.episode_id,
                    "status": result.status,
                    "verdict": result.verdict.passed,
                    "score": result.verdict.score,
                    "message": result.message or None,
                }
            )
        elif result.message:
            print(f"{result.episode_id} {_verdict(result)}: {one_line(result.message)}")
    if not arguments.json:
        listed = ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
        is_appended = counts and not arguments.dry_run
        appended = "appended to the table checks as post-hoc"
        print(
            f"{counts.total()} episodes: {listed or '--where selects no episode'}; "
            f"{appended if is_appended else 'nothing was appended'}"
        )
    if not counts:
        # A verifier that judged nothing must not pass for one that found nothing.
        return ExitStatus.USAGE
    if counts["error"]:
        say(
            "trajrec: recheck calls a verifier with the recorded state as plain data, "
            "not with the environment or world"
        )
        return ExitStatus.FINDING
    return ExitStatus.OK


def _verdict(result: Recheck) -> str:
    if result.status != "ok" or result.verdict.passed is None:
        return result.status
    return "passed" if result.verdict.passed else "failed"
