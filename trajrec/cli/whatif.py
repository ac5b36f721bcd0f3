"""The command `trajrec whatif`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trajrec.cli.arguments import (
    Commands,
    add_command,
    add_episode,
    add_folder,
    add_ignore,
    add_json,
    add_prices,
    read_count,
    read_json_object,
    read_seconds,
)
from trajrec.cli.capture import add_bases, bases_of
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.experiments import list_experiments, require_prices, say_cost
from trajrec.cli.find_step import find_step
from trajrec.cli.folder import reads_folder
from trajrec.cli.interrupts import interrupted_by_signals
from trajrec.cli.output import Progress, print_json
from trajrec.cli.watched_paths import watched_of
from trajrec.types import Value

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus
    from trajrec.corpus.episode import Episode
    from trajrec.proxies.command import RunningCommands
    from trajrec.replay.whatif.changes import Change
    from trajrec.replay.whatif.child import ChildOptions
    from trajrec.replay.whatif.experiment import Experiment
    from trajrec.replay.whatif.result import WhatIfResult


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "whatif",
        run,
        "change one step of an agent's episode and see whether it wins",
        "trajrec whatif runs 3f2a --at 12 --arguments '{\"cents\": 5400}' -n 16 -- python agent.py",
        statuses="0 a result, 2 wrong usage, 3 damaged log, 4 no number: a state "
        "was not put back, or a control differs, 130 interrupted",
    )
    add_folder(parser)
    _add_step(parser)
    _add_changes(parser)
    parser.add_argument(
        "-n", type=read_count, default=8, metavar="N", help="runs with and without (default: 8)"
    )
    parser.add_argument(
        "--success",
        default="",
        metavar="CHECK",
        help="id of the check that decides, as refunded or refunded@1; or a verifier as "
        "module:function (default: the primary check)",
    )
    parser.add_argument(
        "-o", dest="folder", type=Path, metavar="DIR", help="record the runs there (default: DIR)"
    )
    parser.add_argument(
        "--watch",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="of a command that was captured: the folders and databases that it was recorded with; "
        "they are put back at the end; repeatable",
    )
    add_bases(parser)
    _add_leave(parser)
    _add_budget(parser)
    _add_run_seconds(parser)
    add_prices(parser, "for --max-usd")
    parser.add_argument(
        "--jobs",
        type=read_count,
        default=1,
        metavar="N",
        help="runs that are made at the same time (default: 1)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what it would cost, run nothing"
    )
    add_json(parser)
    add_command(parser)


def _add_step(parser: argparse.ArgumentParser) -> None:
    add_episode(parser, is_required=False, note="; --list needs none")
    parser.add_argument(
        "--list",
        action="store_true",
        help="list the experiments on the episode, or without EPISODE all of the folder",
    )
    parser.add_argument("--at", type=int, metavar="STEP", help="the step, from 0")
    parser.add_argument(
        "--find",
        choices=("decisive", "no-return"),
        help="find the step that lost the episode, by runs from some of its steps: the one at which "
        "the share of wins falls below half of that from the start, or to zero",
    )


def _add_changes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the change (default: none; both arms do the same)")
    group.add_argument(
        "--arguments",
        type=read_json_object,
        metavar="JSON",
        help="other arguments of the tool call",
    )
    group.add_argument("--call", type=int, metavar="N", help="the call of the step, from 0")
    group.add_argument(
        "--tool-result", type=Path, metavar="FILE", help="another result of the call: a JSON file"
    )
    group.add_argument("--tool-error", metavar="TEXT", help="have the call fail with this message")
    group.add_argument("--prompt", type=Path, metavar="FILE", help="another system prompt")
    group.add_argument(
        "--message", type=Path, metavar="FILE", help="another last message of a user"
    )
    group.add_argument("--model", metavar="NAME", help="another model")
    group.add_argument(
        "--parameters",
        type=read_json_object,
        metavar="JSON",
        help='of the model, as {"temperature": 0}',
    )
    group.add_argument(
        "--tool-definition",
        type=Path,
        metavar="FILE",
        help="another description or schema of a tool: a JSON file with name, description, schema",
    )


def _add_leave(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run-tools",
        choices=("read", "all", "external"),
        help="tools that may run before the step: those declared read, or all; external: external "
        "tools may run after it",
    )
    parser.add_argument(
        "--stub",
        action="append",
        default=[],
        type=_stub,
        metavar="TOOL=MODULE:FUNCTION",
        help="a function that stands in for a tool after the step; repeatable",
    )
    parser.add_argument("--accept", action="store_true", help="go on if a state cannot be put back")
    add_ignore(parser)
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module that the log may have imported, for its world; repeatable",
    )


def _add_budget(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("budget: the experiment ends before the next run")
    group.add_argument("--max-tokens", type=read_count, metavar="N", help="tokens of all runs")
    group.add_argument("--max-usd", type=read_seconds, metavar="USD", help="price of all runs")
    group.add_argument("--max-seconds", type=read_seconds, metavar="S", help="time of all runs")


def _add_run_seconds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run-seconds",
        type=read_seconds,
        metavar="S",
        help="kill a run that takes longer; it has no verdict (default: wait for each)",
    )


def _stub(text: str) -> tuple[str, str]:
    tool, sign, name = text.partition("=")
    if not (tool and sign and ":" in name):
        raise argparse.ArgumentTypeError(f"must be TOOL=MODULE:FUNCTION, got {text!r}")
    return tool, name


@reads_folder
def run(arguments: argparse.Namespace, corpus: Corpus) -> int:
    """Run the experiment and print its result."""
    from trajrec.replay.whatif.ask import check_step

    if arguments.episode is None and not arguments.list:
        raise ValueError(
            "name the episode: trajrec whatif DIR EPISODE; `trajrec ls DIR` lists them"
        )
    episode = None if arguments.episode is None else corpus.episode(arguments.episode)
    if arguments.list or episode is None:
        return list_experiments(arguments, corpus, episode)
    if arguments.max_usd is not None:
        require_prices(corpus, episode)
    if arguments.find is not None:
        return find_step(arguments, corpus, episode, _run)
    if arguments.at is None:
        raise ValueError("name the step: --at STEP")
    if not arguments.command and not arguments.dry_run:
        raise ValueError("give the command after --: trajrec whatif ... -- python my_agent.py")
    change = change_of_arguments(arguments)
    if arguments.dry_run:
        check_step(episode, arguments.at, arguments.call, change)
        return say_cost(arguments, corpus, episode)
    result = _run(arguments, episode, change)
    if arguments.json:
        print_json(result.to_json())
    else:
        print(result)
    if result.was_stopped == "interrupted":
        return ExitStatus.INTERRUPTED
    return ExitStatus.REFUSED if result.refused else ExitStatus.OK


def change_of_arguments(arguments: argparse.Namespace) -> Change:
    """Return the change that a command line asks for.

    Raises:
        ValueError: It asks for several, or a file does not hold one.
    """
    from trajrec.replay.whatif import changes

    asked: list[Change] = []
    if arguments.arguments is not None:
        asked.append(changes.Arguments(arguments.arguments))
    if arguments.tool_result is not None:
        asked.append(changes.Result(_json_file(arguments.tool_result)))
    if arguments.tool_error is not None:
        asked.append(changes.ToolError(arguments.tool_error))
    if arguments.prompt is not None:
        asked.append(changes.Prompt(arguments.prompt.read_text("utf-8")))
    if arguments.message is not None:
        asked.append(changes.Message(arguments.message.read_text("utf-8")))
    if arguments.model is not None or arguments.parameters:
        asked.append(changes.Model(arguments.model or "", arguments.parameters or {}))
    if arguments.tool_definition is not None:
        asked.append(_definition(arguments.tool_definition))
    if len(asked) > 1:
        raise ValueError(
            f"one change at a time tells which one matters, got {len(asked)}: "
            f"{', '.join(change.name for change in asked)}"
        )
    return asked[0] if asked else changes.Change()


def _json_file(path: Path) -> Value:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as exc:
        raise ValueError(f"{path}: must be JSON: {exc}") from exc


def _definition(path: Path) -> Change:
    from trajrec.replay.whatif.changes import ToolDefinition

    value = _json_file(path)
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError(f"{path}: must be a JSON object with name, description and schema")
    return ToolDefinition(value["name"], value.get("description"), value.get("schema"))


def _run(arguments: argparse.Namespace, episode: Episode, change: Change) -> WhatIfResult:
    from trajrec.proxies.command import RunningCommands
    from trajrec.replay.whatif.ask import plan_experiment
    from trajrec.replay.whatif.budget import Budget
    from trajrec.replay.whatif.captured import is_captured
    from trajrec.replay.whatif.child import run_command

    options = _child_options(arguments, episode)
    running = RunningCommands()
    with interrupted_by_signals(), Progress("running", " runs") as progress:
        experiment = plan_experiment(
            episode,
            at=arguments.at,
            call=arguments.call,
            change=change,
            n=arguments.n,
            success=_success_id(arguments.success),
            folder=options.folder,
            accept=arguments.accept,
            budget=Budget(
                tokens=arguments.max_tokens, usd=arguments.max_usd, seconds=arguments.max_seconds
            ),
            prices=arguments.prices,
            progress=progress,
            jobs=arguments.jobs,
            stop=running.stop,
        )
        if is_captured(episode):
            return _run_captured(arguments, experiment, running)
        return experiment.run(
            lambda plan: run_command(
                arguments.command,
                options,
                plan,
                os.environ,
                timeout_s=arguments.run_seconds,
                running=running,
            )
        )


def _run_captured(
    arguments: argparse.Namespace, experiment: Experiment, running: RunningCommands
) -> WhatIfResult:
    """Run the experiment on a command that `trajrec capture` has recorded."""
    from trajrec.proxies.recording import COMMAND_TOOL
    from trajrec.replay.whatif.captured import CapturedCommand, put_back, require_captured
    from trajrec.replay.whatif.child import named
    from trajrec.replay.whatif.stand_in import RunOptions, StandIn

    watch = watched_of(arguments.watch, arguments.dir, arguments.folder or arguments.dir)
    runs_tools = arguments.run_tools in ("all", "external")
    require_captured(experiment.episode, experiment.plan, watch, runs_tools=runs_tools)
    success = arguments.success
    command = CapturedCommand(
        command=arguments.command,
        environ=os.environ,
        bases=bases_of(arguments),
        watch=watch,
        success=named(success) if ":" in success else None,
        timeout_s=arguments.run_seconds,
        running=running,
    )
    options = RunOptions(
        folder=experiment.folder,
        ignore=tuple(arguments.ignore),
        run_tools="all",
        held_tools=(COMMAND_TOOL,),
    )
    with put_back(watch):
        return experiment.run(
            lambda plan: command.run(StandIn(experiment.episode, plan, experiment.attempt, options))
        )


def _success_id(success: str) -> str:
    """Return the id of the check that decides."""
    if ":" not in success:
        return success
    from trajrec.replay.whatif.child import named
    from trajrec.verifiers import identify

    return identify(named(success)).id


def _child_options(arguments: argparse.Namespace, episode: Episode) -> ChildOptions:
    from trajrec.replay.whatif.child import ChildOptions

    run_tools: Literal["read", "all"] | None = None
    if arguments.run_tools != "external":
        run_tools = arguments.run_tools
    return ChildOptions(
        corpus=str(arguments.dir.resolve()),
        episode=episode.id,
        plan={},
        folder=str((arguments.folder or arguments.dir).resolve()),
        checks=[arguments.success] if ":" in arguments.success else [],
        stubs=dict(arguments.stub),
        allow=arguments.allow,
        ignore=[pattern.pattern for pattern in arguments.ignore],
        run_tools=run_tools,
        runs_external=arguments.run_tools == "external",
    )
