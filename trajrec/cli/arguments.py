"""Arguments that several commands share, and the readers of their values."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trajrec.paths import fixed_path

if TYPE_CHECKING:
    SubParsers = argparse._SubParsersAction["CommandParser"]

POLICY_HELP = (
    "random; module:name of a function of the observation (and a generator), of an object with a "
    "method act, or of a model of Stable-Baselines3; or a file of a model, as PPO:model.zip"
)
RESTORE_CHOICES = ("auto", "reexecute", "snapshot", "pickle", "env_snapshot", "os_fork")
ALL = 2**62
"""A limit that no folder reaches."""


class CommandParser(argparse.ArgumentParser):
    """Takes all that follows `--` as COMMAND: argparse alone may take it for another argument."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the arguments before `--`, and return COMMAND with them."""
        given = list(args or ())
        if self.get_default("command") is None or "--" not in given:
            return super().parse_known_args(args, namespace)
        place = given.index("--")
        parsed, unknown = super().parse_known_args(given[:place], namespace)
        if parsed.command:
            words = " ".join(parsed.command)
            before = given[given.index(parsed.command[0]) - 1]
            hint = ""
            if before.startswith("--"):
                hint = "is no option" if before in unknown else "takes no value"
                hint = f"; {before} {hint}"
            self.error(f"{words!r} must come after --, with the COMMAND{hint}")
        parsed.command = given[place + 1 :]
        return parsed, unknown


class Commands:
    """The commands of one group: adds their parsers and writes their part of the help.

    Args:
        subparsers: Made by `ArgumentParser.add_subparsers`.
    """

    def __init__(self, subparsers: SubParsers) -> None:
        self._subparsers = subparsers
        self._lines: list[str] = []

    def add(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int],
        summary: str,
        example: str,
        *,
        finding: str = "",
        statuses: str = "",
    ) -> argparse.ArgumentParser:
        """Add a command.

        Args:
            name: The command.
            run: Executes the command and returns its exit status.
            summary: One sentence without its full stop, an imperative in lower case.
            example: A command line, for the command's help.
            finding: The meaning of exit status 1, if the command has findings.
            statuses: The exit statuses, of a command that has others than most.
        """
        # Without `help=` argparse does not list the command: the list stands in groups instead.
        parser = self._subparsers.add_parser(
            name,
            prog=f"trajrec {name}",
            description=f"{summary[0].upper()}{summary[1:]}.\n\nExample:\n\n    {example}",
            epilog=f"Exit status: {statuses}." if statuses else _epilog(finding),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(run=run)
        self._lines.append(f"  {name:<19}{summary}")
        return parser

    def help_text(self, title: str) -> str:
        """Return the group's part of the help."""
        return "\n".join([f"{title}:", *self._lines])


def _epilog(finding: str) -> str:
    """Return the last line of a command's help: its exit statuses."""
    statuses = [
        "0 done",
        *([f"1 {finding}"] if finding else []),
        "2 wrong usage",
        "3 damaged log",
        "4 environment refused or missing",
        "5 exception in your code or in trajrec",
    ]
    return f"Exit status: {', '.join(statuses)}."


def add_folder(parser: argparse.ArgumentParser, *, is_local: bool = False) -> None:
    """Add DIR, which comes first in every command that reads a corpus.

    Args:
        parser: The command's parser.
        is_local: Whether the command needs the files themselves, and takes no address.
    """
    address = "" if is_local else ", or its address, e.g. s3://bucket/runs"
    parser.add_argument("dir", type=Path, metavar="DIR", help=f"folder of logs{address}")


def add_episode(
    parser: argparse.ArgumentParser, *, is_required: bool = True, note: str = ""
) -> None:
    """Add EPISODE.

    Args:
        parser: The command's parser.
        is_required: Whether argparse refuses a command line without it; None stands for it then.
        note: Stands behind the help text.
    """
    action = parser.add_argument(
        "episode", metavar="EPISODE", help=f"id of an episode, or a unique prefix{note}"
    )
    # With nargs="?", argparse would take it for the COMMAND that may follow.
    action.required = is_required


def add_command(parser: argparse.ArgumentParser) -> None:
    """Add COMMAND, which comes last, after `--`; [] if it is missing."""
    action = parser.add_argument(
        "command",
        nargs="+",
        default=[],
        metavar="COMMAND",
        help="after --: the command and its arguments",
    )
    # With nargs="*", argparse would take the empty one before the options that follow DIR.
    action.required = False


def add_where(
    parser: argparse.ArgumentParser, *, note: str = "", default: str | None = "true"
) -> None:
    """Add --where.

    Args:
        parser: The command's parser.
        note: Stands before the help text.
        default: The condition if none is given.
    """
    parser.add_argument(
        "--where",
        default=default,
        metavar="SQL",
        help=f"{note}only episodes that satisfy this condition",
    )


def add_forks(parser: argparse.ArgumentParser) -> None:
    """Add --forks."""
    parser.add_argument("--forks", action="store_true", help="include forks and nested episodes")


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add --jobs and --backend."""
    parser.add_argument(
        "--jobs", type=read_count, default=1, metavar="N", help="number of processes (default: 1)"
    )
    parser.add_argument(
        "--backend",
        choices=("local", "ray"),
        default="local",
        help="run on this machine or on a Ray cluster (default: local)",
    )


def add_execution(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that execute environments or worlds, in several processes."""
    add_jobs(parser)
    add_environment(parser)


def add_environment(parser: argparse.ArgumentParser) -> None:
    """Add --allow and --env."""
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="MODULE",
        help="allow a log to name this module for import; repeatable",
    )
    parser.add_argument(
        "--env",
        metavar="ENV",
        help="run in this environment or world: a Gymnasium id, or module:factory",
    )


def add_restore(parser: argparse.ArgumentParser) -> None:
    """Add --restore and --no-control."""
    parser.add_argument(
        "--restore",
        choices=RESTORE_CHOICES,
        default="auto",
        help="how to reach a step (default: auto, the cheapest correct way)",
    )
    parser.add_argument(
        "--no-control",
        action="store_true",
        help="run no controls: branches with the recorded actions, which must reproduce the "
        "recording",
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add --seed of commands that draw random numbers."""
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of all randomness (default: 0)"
    )


def add_rollouts(parser: argparse.ArgumentParser, *, needs_policy: bool) -> None:
    """Add the options of commands that run rollouts."""
    parser.add_argument("--policy", required=needs_policy, metavar="POLICY", help=POLICY_HELP)
    parser.add_argument(
        "-n",
        type=read_count,
        default=32,
        metavar="N",
        help="rollouts of each arm (default: 32)",
    )
    parser.add_argument(
        "--noise",
        choices=("shared", "fresh", "recorded"),
        help="randomness of the rollouts (default: shared; pooled takes fresh)",
    )
    add_seed(parser)
    parser.add_argument(
        "--success",
        metavar="CHECK",
        help="terminated, truncated, or module:function that returns whether the end is a success",
    )
    parser.add_argument(
        "--max-steps",
        type=read_count,
        metavar="STEPS",
        help="cut rollouts off at this step of the episode",
    )
    parser.add_argument(
        "--ulps",
        type=read_distance,
        default=0,
        metavar="N",
        help="accept floats that are N units in the last place from the recorded ones (default: 0)",
    )
    parser.add_argument(
        "--on-error",
        choices=("bounds", "lost"),
        help="how rollouts count that an exception has ended: bounds for all that they may be, or "
        "lost for a failure (default: bounds)",
    )
    parser.add_argument(
        "--resample-hidden",
        metavar="FUNCTION",
        help="module:function of environment and generator that redraws unseen facts",
    )
    parser.add_argument(
        "--plot",
        type=fixed_path,
        metavar="FILE",
        help="draw a plot into FILE: .png, .svg or .html (trajrec[plot])",
    )
    add_execution(parser)
    add_restore(parser)
    add_json(parser)


def add_prices(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add --prices."""
    parser.add_argument(
        "--prices",
        type=read_json_file,
        metavar="FILE",
        help=f"JSON of the prices of a million tokens by model, {purpose}: "
        '{"gpt-5*": {"input": 1.25, "cached": 0.125, "output": 10}}',
    )


def add_ignore(parser: argparse.ArgumentParser) -> None:
    """Add --ignore."""
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        type=read_pattern,
        metavar="REGEX",
        help="matches in the texts of requests do not count, e.g. a date; repeatable",
    )


def read_pattern(text: str) -> re.Pattern[str]:
    """Read a regular expression."""
    try:
        return re.compile(text)
    except re.error as exc:
        raise argparse.ArgumentTypeError(f"must be a regular expression: {exc}") from exc


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def read_limit(text: str) -> int:
    """Read the argument of --limit."""
    if text == "all":
        return ALL
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1, or 'all', got {text!r}")
    return number


def read_count(text: str) -> int:
    """Read a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def read_seconds(text: str) -> float:
    """Read a number of seconds above 0."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {value:g}")
    return value


def read_distance(text: str) -> int:
    """Read a whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {value}")
    return value


def read_json(text: str) -> object:
    """Read any JSON value."""
    try:
        return json.loads(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"must be JSON: {exc}") from exc


def read_json_object(text: str) -> dict[str, object]:
    """Read a JSON object."""
    value = read_json(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text!r}")
    return value


def read_json_file(text: str) -> dict[str, object]:
    """Read a file that holds a JSON object."""
    try:
        return read_json_object(Path(text).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise argparse.ArgumentTypeError(f"{text} cannot be read: {exc}") from exc


def read_slice(text: str) -> slice:
    """Read FIRST:STOP or FIRST:STOP:EVERY, as Python slices: STOP is excluded."""
    try:
        first, stop, *every = (int(part) if part else None for part in text.split(":"))
        steps = slice(first, stop, *every)
        # Any length shows whether Python accepts the slice, e.g. not a step of 0.
        steps.indices(1)
        return steps
    except (ValueError, TypeError) as exc:
        raise argparse.ArgumentTypeError(
            f"must be FIRST:STOP or FIRST:STOP:EVERY, got {text!r}"
        ) from exc
