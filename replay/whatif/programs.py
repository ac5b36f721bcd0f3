"""Runs an agent's program that is a function, and tells how a run of any program went."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import IO, Any, TypeAlias

from trajrec.agents.routing import CAPTURE_ENDED
from trajrec.agents.stand_ins import standing_in
from trajrec.corpus.episode import Episode
from trajrec.errors import RerunStopped
from trajrec.recording.error_text import message_of
from trajrec.replay.whatif.result import RunResult, RunStatus
from trajrec.replay.whatif.run import WhatIfRun
from trajrec.replay.whatif.stand_in import StandIn
from trajrec.types import Value
from trajrec.values.recorded import resolve

Agent: TypeAlias = Callable[..., Any]
"""The agent's program: a function of an episode, or one without arguments that begins its own
`with trajrec.episode(...)`, or was recorded by a capture. It may be async."""


NO_EPISODE = (
    "the program began no episode with trajrec.episode, so nothing answered its model calls and "
    "tools: run the program that recorded the episode"
)
"""Why a program that recorded nothing says nothing."""

# Lines of a program's output that a failed run shows.
_SHOWN_LINES = 3


class RunTimeoutError(Exception):
    """A run took too long, and was killed.

    Args:
        timeout_s: The seconds that it had.
    """

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"took longer than {timeout_s:g} s (--run-seconds), and was killed")


def run_function(agent: Agent, stand_in: StandIn) -> RunResult:
    """Make one run of an agent that is a function."""
    error: BaseException | None = None
    try:
        with standing_in(stand_in):
            if takes_episode(agent):
                with stand_in.make() as run:
                    _judge(stand_in, _call(agent, run))
            else:
                with stand_in.conversation():
                    _judge(stand_in, _call(agent))
    except (Exception, RerunStopped, SystemExit) as exc:
        error = exc
    return result_of(stand_in, error)


def result_of(stand_in: StandIn, error: BaseException | None) -> RunResult:
    """Return the result of a run that has ended, with the exception that left the program."""
    plan = stand_in.plan
    run = stand_in.run
    if run is None:
        cause = stand_in.error or error
        reason = message_of(cause) if cause else NO_EPISODE
        return RunResult(arm=plan.arm, number=plan.number, status="stopped", reason=reason)
    status: RunStatus = "done"
    reason = ""
    if isinstance(error, RunTimeoutError):
        status = "timeout"
        reason = str(error)
    elif run.error is not None:
        status = "stopped"
        reason = str(run.error)
    elif plan.arm == "control":
        reason = _why_unequal(run, error or run.raised)
        status = "stopped" if reason else "done"
    elif error is not None:
        status = "raised"
        reason = f"{type(error).__name__}: {message_of(error)}"
    return RunResult(
        arm=plan.arm,
        number=plan.number,
        status=status,
        episode_id="" if run.branch is None else run.branch.id,
        reason=reason,
        notes=tuple(run.notes),
    )


def _why_unequal(run: WhatIfRun, error: BaseException | None) -> str:
    """Return why a control whose requests and results were the recorded ones differs; or ""."""
    told = "" if error is None else f"{type(error).__name__}: {message_of(error)}"
    if run.branch is None:
        return f"the program ended before step {run.plan.at}" + (f": {told}" if error else "")
    if isinstance(error, Exception) and not _may_have_raised(run.episode, error):
        return f"the program raised what it did not raise when it was recorded: {told}"
    return ""


def _may_have_raised(episode: Episode, error: Exception) -> bool:
    """Return whether a program may have raised an exception when its episode was recorded."""
    if episode.ending == "unknown" and episode.end is not None:
        # A capture tells the exception that ended it, and not one that the program caught.
        return episode.end.stop_reason in (CAPTURE_ENDED, type(error).__name__)
    return episode.ending in ("error", "interrupted")


def last_lines(output: IO[bytes]) -> str:
    """Return the last lines that a program has printed into a file, as one line."""
    output.seek(0)
    lines = output.read().decode("utf-8", "replace").strip().splitlines()
    return " | ".join(line.strip() for line in lines[-_SHOWN_LINES:])


def takes_episode(agent: Agent) -> bool:
    """Return whether a program takes the episode as its argument."""
    try:
        parameters = inspect.signature(agent).parameters.values()
    except (TypeError, ValueError):
        return True
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in positional and p.default is p.empty for p in parameters)


def _call(agent: Agent, *args: Any) -> Value:
    result = agent(*args)
    return resolve(result) if inspect.isawaitable(result) else result


def _judge(stand_in: StandIn, result: Value) -> None:
    """Run the verifiers that judge what the program's function has returned."""
    run = stand_in.run
    if run is not None and run.branch is not None and not run.has_ended:
        for verifier in stand_in.judges:
            run.check(verifier, result)
