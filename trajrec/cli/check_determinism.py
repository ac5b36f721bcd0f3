"""The command `trajrec check-determinism`."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Callable

from trajrec.cli.arguments import Commands, add_json, read_count
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.load import is_factory, load_function, make_env
from trajrec.cli.output import print_json
from trajrec.errors import TrajrecError
from trajrec.types import AnyEnv


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "check-determinism",
        run,
        "probe whether an environment can be replayed and forked",
        "trajrec check-determinism ALE/Breakout-v5",
        finding="not deterministic",
    )
    parser.add_argument("env", metavar="ENV", help="Gymnasium id, or module:factory")
    parser.add_argument(
        "--steps",
        type=read_count,
        default=300,
        metavar="N",
        help="steps of each probe (default: 300)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Probe an environment and print the report."""
    from trajrec.replay import check_determinism

    factory = _factory(arguments.env)
    try:
        report = check_determinism(factory, n_steps=arguments.steps)
    except TrajrecError:
        raise
    except Exception as exc:
        place = traceback.extract_tb(exc.__traceback__)[-1]
        raise ValueError(
            f"{arguments.env} raised while it was probed: {type(exc).__name__}: {exc} "
            f"({place.filename}, line {place.lineno}); if it only raises now and then, probe fewer "
            "steps (--steps), or a function that makes it without that"
        ) from exc
    if arguments.json:
        print_json(report.as_dict())
    else:
        print(report)
    return ExitStatus.OK if report.has_passed else ExitStatus.FINDING


def _factory(name: str) -> str | Callable[[], AnyEnv]:
    if is_factory(name):
        return load_function(name, "ENV", "a Gymnasium id or ")
    # Making it once registers the environment, or says why it cannot be made.
    make_env(name, {}).close()
    return name
