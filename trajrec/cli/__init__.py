"""The command line: parse, call, print. Results on stdout, talk on stderr."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from trajrec.cli import commands, credit, demo, forks, replaying
from trajrec.errors import CorpusError, LogError, QueryError, TrajrecError
from trajrec.version import __version__

OK, DIVERGED, USAGE, UNREADABLE = 0, 1, 2, 3
_POLICY = "random, or module:name: a function of observation (and generator), or with act"
_STATUS = "Exit status: 0 done, 2 wrong usage, 3 unreadable log."


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if getattr(arguments, "allow", None):
        sys.path.insert(0, "")  # as for whatever else the user names
    try:
        return int(arguments.run(arguments))
    except (CorpusError, QueryError, ValueError, IndexError) as exc:
        return _fail(exc, USAGE)
    except LogError as exc:
        return _fail(exc, UNREADABLE)
    except TrajrecError as exc:
        return _fail(exc, USAGE)
    except BrokenPipeError:
        # The reader has enough (`| head`): nothing is wrong, and nothing can be said on a closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as exc:  # a file that a result goes to: those of logs have errors of their own
        return _fail(f"{exc.filename or ''}: {exc.strerror or exc}".lstrip(": "), USAGE)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _fail(what: object, status: int) -> int:
    where = "".join(f"; {note}" for note in getattr(what, "__notes__", ()))
    print(f"trajrec: {what}{where}", file=sys.stderr)
    return status


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="trajrec",
        description="Record, replay and question what agents did.",
        epilog="`trajrec demo` shows all of it in a minute.",
    )
    parser.add_argument("--version", action="version", version=f"trajrec {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        name: str, run: object, what: str, example: str, status: str = _STATUS
    ) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
            name,
            help=what,
            description=f"{what[0].upper()}{what[1:]}.\n\nExample:\n\n    {example}",
            epilog=status,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    sub = add(
        "demo",
        demo.run,
        "record real environments, replay a failed episode, ask SQL",
        "trajrec demo",
    )
    sub.add_argument(
        "dir",
        nargs="?",
        type=Path,
        default=Path("trajrec-demo"),
        metavar="DIR",
        help="where to record",
    )

    sub = add(
        "record",
        commands.record,
        "record episodes of an environment",
        "trajrec record Taxi-v4 -o runs -n 10 --seed 1",
        "Exit status: 0 done, 1 the environment raised (that is recorded too), 2 wrong usage, 3 unreadable log.",
    )
    sub.add_argument("env_id", metavar="ENV_ID", help="Gymnasium id, or module:id")
    sub.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder to record into"
    )
    sub.add_argument(
        "-n", "--episodes", type=_count, default=1, metavar="EPISODES", help="how many (default: 1)"
    )
    sub.add_argument(
        "--seed", type=int, metavar="S", help="seed of the first reset and of the random policy"
    )
    sub.add_argument("--policy", default="random", metavar="POLICY", help=_POLICY)
    sub.add_argument(
        "--env-kwargs",
        type=_json_object,
        default={},
        metavar="JSON",
        help="arguments of the environment",
    )
    sub.add_argument(
        "--keep-states",
        choices=("auto", "all", "digests"),
        default="auto",
        help="which states are stored",
    )

    sub = add("ls", commands.ls, "list the episodes of a folder", "trajrec ls runs")
    _folder(sub)
    sub.add_argument("--where", default="true", metavar="SQL", help="only episodes it holds for")
    sub.add_argument("--forks", action="store_true", help="forks and nested episodes too")
    _json(sub)

    sub = add(
        "show",
        commands.show,
        "show an episode, or one step of it",
        "trajrec show runs 3f2a --step 12",
    )
    _folder(sub)
    sub.add_argument("episode", metavar="EPISODE", help="its id, or any unique prefix")
    sub.add_argument("--step", type=int, metavar="K", help="show step K with its state")
    _json(sub)

    sub = add(
        "sql",
        commands.sql,
        "ask SQL of a folder",
        "trajrec sql runs 'SELECT ending, count(*) FROM episodes GROUP BY 1'",
    )
    _folder(sub)
    sub.add_argument(
        "query", metavar="QUERY", help="a DuckDB query; `trajrec schema` lists the tables"
    )
    sub.add_argument(
        "--format",
        choices=("table", "json", "csv", "parquet"),
        default="table",
        help="(default: table)",
    )

    sub = add("schema", commands.schema, "describe the tables that can be asked", "trajrec schema")
    sub.add_argument(
        "dir", nargs="?", type=Path, metavar="DIR", help="a folder, to count the rows in"
    )
    _json(sub)

    sub = add(
        "replay",
        replaying.replay,
        "re-execute recorded episodes and compare every step",
        "trajrec replay runs 3f2a",
        "Exit status: 0 all the same, 1 diverged, 2 wrong usage or refused, 3 unreadable log.",
    )
    _folder(sub)
    sub.add_argument(
        "episodes",
        nargs="*",
        metavar="EPISODE",
        help="ids or unique prefixes (default: all that ended)",
    )
    sub.add_argument("--where", metavar="SQL", help="only episodes that this condition holds for")
    sub.add_argument("--forks", action="store_true", help="forks and nested episodes too")
    sub.add_argument(
        "--against",
        metavar="ENV",
        help="replay on this: a Gymnasium id, or module:factory of one or of a world",
    )
    sub.add_argument(
        "--tolerance",
        type=replaying.tolerance,
        default=0,
        metavar="ulp=N",
        help="how far floats may be apart",
    )
    sub.add_argument(
        "--from",
        dest="first",
        type=int,
        default=0,
        metavar="STEP",
        help="compare from this step on",
    )
    sub.add_argument(
        "--resync",
        action="store_true",
        help="put the recorded state back after each step that differs",
    )
    sub.add_argument(
        "--junit", type=Path, metavar="FILE", help="write the reports as JUnit XML too"
    )
    sub.add_argument("--html", type=Path, metavar="FILE", help="write them as a page too")
    _execution(sub)
    _json(sub)

    sub = add(
        "check",
        commands.check,
        "run a verifier on the states that episodes ended in, and append its verdicts",
        "trajrec check runs --verifier my_checks:stock_adds_up",
        "Exit status: 0 it ran, 1 it raised, 2 wrong usage, 3 unreadable log. What was recorded is not changed.",
    )
    _folder(sub)
    sub.add_argument(
        "--verifier",
        required=True,
        metavar="MODULE:FUNCTION",
        help="called with the state as plain data",
    )
    sub.add_argument("--dry-run", action="store_true", help="append nothing: to try a verifier")
    sub.add_argument(
        "--where",
        default="ending <> 'running'",
        metavar="SQL",
        help="only episodes that this holds for",
    )
    _json(sub)

    sub = add(
        "fork",
        forks.fork,
        "go on otherwise from a step of a recorded episode",
        "trajrec fork runs 3f2a --at 12 --action 1 --policy random -n 8",
        "Exit status: 0 it ran, 1 a branch failed, 2 wrong usage, refused or not the recorded state, 3 unreadable log.",
    )
    _folder(sub)
    sub.add_argument("episode", metavar="EPISODE", help="its id, or any unique prefix")
    sub.add_argument("--at", type=int, required=True, metavar="K", help="the step, from 0")
    sub.add_argument(
        "--action",
        action="append",
        type=_json_value,
        default=[],
        metavar="JSON",
        help="taken first; repeatable",
    )
    sub.add_argument("--policy", metavar="POLICY", help=f"takes what follows: {_POLICY}")
    sub.add_argument(
        "-n",
        type=_count,
        default=1,
        metavar="N",
        help="branches, each with randomness of its own (default: 1)",
    )
    sub.add_argument(
        "--until",
        default="done",
        metavar="done|STEPS",
        help="cut branches off after so many steps (default: done)",
    )
    sub.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="what the randomness is derived from (default: 0)",
    )
    sub.add_argument("--timeout", type=float, metavar="S", help="end a branch that takes longer")
    _execution(sub)
    _env(sub)
    _restore(sub)
    _json(sub)

    sub = add(
        "diff",
        forks.diff,
        "find the first difference between two episodes",
        "trajrec diff runs 3f2a 91c0",
        "Exit status: 0 they are the same, 1 they differ, 2 wrong usage, 3 unreadable log.",
    )
    _folder(sub)
    sub.add_argument("a", metavar="EPISODE_A", help="its id, or any unique prefix")
    sub.add_argument("b", metavar="EPISODE_B", help="its id, or any unique prefix")
    _json(sub)

    sub = add(
        "check-env",
        forks.check_env,
        "probe whether an environment can be replayed and forked, how steps can be restored, at which costs",
        "trajrec check-env ALE/Breakout-v5",
        "Exit status: 0 exact, 1 not deterministic, 2 wrong usage.",
    )
    sub.add_argument("env", metavar="ENV", help="Gymnasium id, or module:factory")
    sub.add_argument(
        "--steps", type=_count, default=300, metavar="N", help="steps of each probe (default: 300)"
    )
    _json(sub)

    sub = add(
        "credit",
        credit.credit,
        "estimate which steps of an episode earned or lost its outcome",
        "trajrec credit runs 3f2a --policy my_agents:greedy --plot credit.png",
        "Exit status: 0 done, 2 wrong usage, refused or not the recorded state, 3 unreadable log.",
    )
    _folder(sub)
    sub.add_argument("episode", nargs="?", metavar="EPISODE", help="its id, or any unique prefix")
    sub.add_argument(
        "--estimator", choices=credit.ESTIMATORS, default="advantage", help="(default: advantage)"
    )
    sub.add_argument(
        "--steps",
        type=credit.span,
        metavar="FIRST:LAST[:EVERY]",
        help="only these steps (of scans)",
    )
    sub.add_argument(
        "--budget",
        type=_count,
        metavar="STEPS",
        help="stop when so many steps of the environment were taken",
    )
    methods = ("grpo", "rloo", "gigpo", "rtmc")
    sub.add_argument(
        "--group",
        nargs="?",
        choices=methods,
        const="rtmc",
        help="of all episodes, by comparison, without rollouts",
    )
    sub.add_argument(
        "--where",
        default="true",
        metavar="SQL",
        help="with --group: only episodes that this holds for",
    )
    _rollouts(sub, 32, is_needed=False)

    sub = add(
        "bisect",
        credit.bisect,
        "find the step after which a failed episode could no longer be won",
        "trajrec bisect runs 3f2a --policy my_agents:greedy --success terminated --plot lost.png",
        "Exit status: 0 found, 1 it never could be won, 2 wrong usage or not the recorded state, 3 unreadable log.",
    )
    _folder(sub)
    sub.add_argument("episode", metavar="EPISODE", help="its id, or any unique prefix")
    _rollouts(sub, 32, is_needed=True)

    sub = add(
        "export",
        credit.export,
        "write training data: step labels, preference pairs, or advantages",
        "trajrec export runs prm -o labels.parquet",
    )
    _folder(sub)
    sub.add_argument(
        "kind",
        choices=("prm", "dpo", "grpo"),
        help="labels of steps, pairs from forks, advantages in groups",
    )
    sub.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="ends in .parquet or .jsonl",
    )
    sub.add_argument(
        "--where", default="true", metavar="SQL", help="only episodes that this condition holds for"
    )
    sub.add_argument(
        "--method", choices=methods, default="grpo", help="of advantages (default: grpo)"
    )

    sub = add(
        "index",
        commands.index,
        "bring the index of a folder up to date",
        "trajrec index runs --rebuild",
    )
    _folder(sub)
    sub.add_argument("--rebuild", action="store_true", help="from nothing")

    sub = add(
        "recover",
        commands.recover,
        "seal logs whose writer was killed, and say what is lost",
        "trajrec recover runs",
    )
    sub.add_argument("path", type=Path, metavar="PATH", help="a log or a folder of logs")
    _json(sub)

    sub = add(
        "compact",
        commands.compact,
        "merge the small chunks of sealed logs into large ones",
        "trajrec compact runs",
    )
    sub.add_argument("path", type=Path, metavar="PATH", help="a log or a folder of logs")
    _json(sub)
    return parser


def _folder(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("dir", type=Path, metavar="DIR", help="folder of logs")


def _rollouts(sub: argparse.ArgumentParser, n: int, *, is_needed: bool) -> None:
    """Add what commands take that run rollouts."""
    sub.add_argument(
        "--policy",
        required=is_needed,
        metavar="POLICY",
        help=_POLICY,
    )
    sub.add_argument(
        "-n", type=_count, default=n, metavar="N", help=f"rollouts of each arm (default: {n})"
    )
    sub.add_argument(
        "--noise",
        choices=("shared", "fresh", "recorded"),
        help="(default: shared; pooled takes fresh)",
    )
    sub.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="what the randomness is derived from (default: 0)",
    )
    sub.add_argument(
        "--success",
        metavar="CHECK",
        help="what won means: terminated, truncated, or module:function of the end",
    )
    sub.add_argument(
        "--max-steps", type=_count, metavar="STEPS", help="cut rollouts at this step of the episode"
    )
    hidden = "module:function of environment and generator: draws anew what was not seen"
    sub.add_argument("--resample-hidden", metavar="FUNCTION", help=hidden)
    sub.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw it: .png, .svg or .html (trajrec[plot])"
    )
    _execution(sub)
    _env(sub)
    _restore(sub)
    _json(sub)


def _execution(sub: argparse.ArgumentParser) -> None:
    """Add what commands take that execute what was recorded."""
    sub.add_argument(
        "--jobs", type=_count, default=1, metavar="N", help="processes at once (default: 1)"
    )
    sub.add_argument(
        "--backend",
        choices=("local", "ray"),
        default="local",
        help="where they run (default: local)",
    )
    sub.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="MODULE",
        help="import this module if a log names it",
    )


def _env(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--env",
        metavar="ENV",
        help="run in this: a Gymnasium id, or module:factory of one or of a world",
    )


def _restore(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--restore",
        choices=forks.RESTORE_CHOICES,
        default="auto",
        help="how steps are reached (default: auto)",
    )


def _json(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="print one JSON object a line")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _json_value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"must be JSON: {exc}") from exc


def _json_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"must be JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text!r}")
    return value
