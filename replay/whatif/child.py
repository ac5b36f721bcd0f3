"""A run of an experiment in a process of its own: the agent's program, as a command."""

from __future__ import annotations

import atexit
import dataclasses
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from trajrec.agents.stand_ins import VARIABLE
from trajrec.corpus.corpus import open as open_corpus
from trajrec.errors import RerunStopped
from trajrec.proxies.command import Command, RunningCommands
from trajrec.proxies.upstreams import path_of_children
from trajrec.replay.whatif.plan import Plan, changed_attempt, plan_of
from trajrec.replay.whatif.programs import NO_EPISODE, RunTimeoutError, last_lines, result_of
from trajrec.replay.whatif.result import RunResult
from trajrec.replay.whatif.stand_in import RunOptions, StandIn
from trajrec.types import JsonObject, Value
from trajrec.wire.json_bodies import read_json

PLAN_VARIABLE = "TRAJREC_WHAT_IF"
"""The path of the plan of the run that a process is."""


class ChildOptions(msgspec.Struct, kw_only=True):
    """The options of a run in another process, as its plan file has them.

    Attributes:
        corpus: The corpus that has the episode.
        episode: The episode's id.
        plan: See `Plan.about`.
        folder: The corpus that records the run.
        checks: Verifiers as module:function.
        stubs: Tool -> module:function.
        allow: Module prefixes that may be imported because the log names them.
        ignore: Regular expressions. Their matches in texts of requests do not count.
        run_tools: The tools that may run before the step; see `trajrec.rerun`.
        runs_external: Whether external tools may run after it.
        result: The file that the run writes its result to.
    """

    corpus: str
    episode: str
    plan: dict[str, Any]
    folder: str
    checks: list[str] = []
    stubs: dict[str, str] = {}
    allow: list[str] = []
    ignore: list[str] = []
    run_tools: Literal["read", "all"] | None = None
    runs_external: bool = False
    result: str = ""


def make_stand_in() -> StandIn:
    """Return the run that this process is; its result is written when the process ends."""
    options = _read_options(Path(os.environ[PLAN_VARIABLE]))
    corpus = open_corpus(options.corpus)
    episode = corpus.episode(options.episode)
    plan = dataclasses.replace(
        plan_of(options.plan),
        runs_external=options.runs_external,
        stubs={tool: named(name) for tool, name in options.stubs.items()},
    )
    stand_in = StandIn(
        episode=episode,
        plan=plan,
        attempt=changed_attempt(episode, plan.at, plan.call, plan.change),
        options=RunOptions(
            folder=Path(options.folder),
            checks=tuple(named(name) for name in options.checks),
            allow=tuple(options.allow),
            ignore=tuple(options.ignore),
            run_tools=options.run_tools,
        ),
    )
    atexit.register(_write_result, stand_in, Path(options.result))
    return stand_in


def _write_result(stand_in: StandIn, path: Path) -> None:
    error: BaseException | None = None
    try:
        # Nothing else ends a run that a captured conversation has begun.
        stand_in.end_conversation(None)
    except (Exception, RerunStopped) as exc:
        error = exc
    result = result_of(stand_in, error)
    _write_json(path, dataclasses.asdict(result))


# Python's own JSON on both sides: a change may have a lone surrogate, which msgspec refuses, or a
# NaN, which msgspec writes as null.


def _write_json(path: Path, value: JsonObject) -> None:
    path.write_text(json.dumps(value), "ascii")


def _read_options(path: Path) -> ChildOptions:
    return msgspec.convert(json.loads(path.read_text("ascii")), ChildOptions)


def named(name: str) -> Any:
    """Return the function that a text names, as module:function.

    Raises:
        ValueError: There is no such function.
    """
    module, _, function = name.partition(":")
    if not (module and function):
        raise ValueError(f"must be module:function, got {name!r}")
    if "" not in sys.path:
        # Like the command, which may lie in the working folder.
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as exc:
        raise ValueError(f"cannot import {name}: {exc}") from exc


def run_command(
    command: Sequence[str],
    options: ChildOptions,
    plan: Plan,
    environ: Mapping[str, str],
    *,
    timeout_s: float | None = None,
    running: RunningCommands | None = None,
) -> RunResult:
    """Run the agent's program as a command, and return the result that it leaves.

    Args:
        command: The program and its arguments.
        options: The options of the experiment.
        plan: The run.
        environ: The environment.
        timeout_s: Seconds that it may take; None stands for any time.
        running: The commands that run at the moment.
    """
    with tempfile.TemporaryDirectory(prefix="trajrec-whatif-") as folder:
        told = Path(folder) / "result.json"
        plan_file = Path(folder) / "plan.json"
        own = msgspec.structs.replace(options, plan=plan.about(), result=str(told))
        _write_json(plan_file, msgspec.structs.asdict(own))
        environment = {
            **environ,
            # So that a program that begins no episode asks no model.
            "PYTHONPATH": path_of_children(environ),
            VARIABLE: f"{__name__}:{make_stand_in.__name__}",
            PLAN_VARIABLE: str(plan_file),
        }
        with tempfile.TemporaryFile() as output:
            process = Command(
                command, environment, in_background=True, output=output, timeout_s=timeout_s
            )
            status = (running or RunningCommands()).run(process)
            said = last_lines(output)
        if timeout_s is not None and process.has_timed_out:
            # Also if it left a result: it did not end.
            return RunResult(
                arm=plan.arm,
                number=plan.number,
                status="timeout",
                reason=str(RunTimeoutError(timeout_s)),
            )
        return _read_result(told, plan, status, said)


def _read_result(path: Path, plan: Plan, status: int, said: str) -> RunResult:
    value: Value = read_json(path.read_bytes()) if path.exists() else None
    if not isinstance(value, dict):
        reason = f"{NO_EPISODE}; exit status {status}: {said}"
        return RunResult(arm=plan.arm, number=plan.number, status="stopped", reason=reason)
    result = msgspec.convert(value, RunResult)
    if result.status == "done" and status and plan.arm != "control":
        reason = f"the program ended with exit status {status}: {said}"
        return dataclasses.replace(result, status="raised", reason=reason)
    return result
