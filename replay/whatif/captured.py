"""A run of an experiment on a command that was recorded by `trajrec capture`, in any language.

Nothing holds such a command's tools: they run again, from the state at its beginning, and the
requests to models show whether they did the same.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO

from trajrec.agents.routing import CAPTURE_ENDED
from trajrec.corpus.attempts import Attempt
from trajrec.corpus.episode import Episode
from trajrec.errors import ReplayError, RerunStopped
from trajrec.protocols import Verifier
from trajrec.proxies.answering import RerunAnswers
from trajrec.proxies.command import Command, RunningCommands
from trajrec.proxies.recording import COMMAND_TOOL
from trajrec.proxies.server import ProxyServer
from trajrec.proxies.upstreams import command_environment, make_routes
from trajrec.replay.agents.watched_state import restore_watched
from trajrec.replay.whatif.plan import Plan
from trajrec.replay.whatif.programs import RunTimeoutError, last_lines, result_of
from trajrec.replay.whatif.result import RunResult
from trajrec.replay.whatif.run import WhatIfRun
from trajrec.replay.whatif.stand_in import StandIn
from trajrec.tracking.parts import Part, digest_of_parts, find_parts
from trajrec.types import Value


def is_captured(episode: Episode) -> bool:
    """Return whether a capture made an episode of a conversation, of which no program tells.

    It is `trajrec capture DIR -- COMMAND`, or `trajrec.capture` in a program that has ended.
    """
    if episode.end is not None and episode.end.stop_reason == CAPTURE_ENDED:
        return True
    task = episode.transcript.task_start
    metadata = None if task is None else episode.transcript.value(task.metadata_data)
    return isinstance(metadata, dict) and {"command", "run"} <= metadata.keys()


@dataclass(frozen=True, kw_only=True)
class CapturedCommand:
    """The command of an experiment, and the state that it acts on.

    Attributes:
        command: The program and its arguments.
        environ: The environment.
        bases: Name of a provider -> the address of its server, beyond those of the environment.
        watch: The watched folders and databases, as `trajrec.episode` takes them; None if there
            are none.
        timeout_s: Seconds that a run may take; None stands for any time.
        running: The commands that run at the moment.
        success: Decides on the watched state, or without one on the command's exit status. None
            takes an exit status of 0 for a success.
    """

    command: Sequence[str]
    environ: Mapping[str, str]
    bases: Mapping[str, str]
    watch: Value
    success: Verifier | None
    timeout_s: float | None = None
    running: RunningCommands = field(default_factory=RunningCommands)

    def run(self, stand_in: StandIn) -> RunResult:
        """Make one run."""
        episode = stand_in.episode
        if self.watch is not None:
            restore_watched(episode, self.watch, None)
        error: BaseException | None = None
        status = 0
        with tempfile.TemporaryFile() as output:
            try:
                with stand_in.make({"wire": False}) as run:
                    commands = _commands(episode)
                    for attempt in commands:
                        run.execute(attempt.tool, attempt.arguments)
                    status = self._run_command(run, output)
                    if run.error is None and run.live is not None:
                        self._check(run, status)
            except (Exception, RerunStopped) as exc:
                error = exc
            said = last_lines(output)
        result = result_of(stand_in, error)
        if result.status == "stopped" and said:
            result = replace(result, reason=f"{result.reason}\nthe command printed: {said}")
        if result.status != "done":
            return result
        if stand_in.plan.arm == "control":
            return self._compare_state(episode, result)
        if status:
            reason = f"the command ended with exit status {status}: {said}"
            return replace(result, status="raised", reason=reason)
        return result

    def _check(self, run: WhatIfRun, status: int) -> None:
        if self.success is None:
            run.notes["a run with exit status 0 counts as won; --success takes another test"] = None
            run.check(ended_well, status)
        else:
            run.check(self.success, status if self.watch is None else self.watch)

    def _run_command(self, run: WhatIfRun, output: IO[bytes]) -> int:
        routes = make_routes(self.environ, self.bases)
        stops: list[Callable[[], None]] = []
        answers = RerunAnswers(run, lambda: [stop() for stop in stops])
        server = ProxyServer(routes, answers.begin, may_send=lambda: run.live is not None)
        environment = command_environment(self.environ, server.address, routes, mode="live")
        # Its output is kept apart from the result.
        command = Command(
            self.command,
            environment,
            in_background=True,
            output=output,
            timeout_s=self.timeout_s,
        )
        stops.append(command.stop)
        server.start()
        try:
            status = self.running.run(command)
        finally:
            server.close()
        if command.has_timed_out:
            assert self.timeout_s is not None
            raise RunTimeoutError(self.timeout_s)
        return status

    def _compare_state(self, episode: Episode, result: RunResult) -> RunResult:
        """Compare the last state of a control with the recorded one."""
        recorded = episode.transcript.state_digest
        if self.watch is None or recorded is None:
            return result
        parts = find_parts(None, self.watch)
        digest = digest_of_parts({part.name: part.tracker.begin()[1] for part in parts})
        if digest == recorded:
            return result
        reason = "the watched state at the end is not the recorded one"
        return replace(result, status="stopped", reason=reason)


def ended_well(status: int) -> bool:
    """Return whether a command ended with exit status 0."""
    return status == 0


def _commands(episode: Episode) -> list[Attempt]:
    attempts = episode.transcript.recorded_attempts
    return [attempt for attempt in attempts if attempt.tool == COMMAND_TOOL]


def require_captured(episode: Episode, plan: Plan, watch: Value, *, runs_tools: bool) -> None:
    """Refuse an experiment whose tools nobody has allowed, or whose state or verifier is missing.

    Raises:
        ReplayError: It is refused; the message says how to go on.
    """
    has_watched = bool(_commands(episode))
    if plan.change.start == "after":
        raise ReplayError(
            "the command makes the call by itself, so another result cannot be given: change the "
            "arguments, the prompt, the message or the model, or record the tool by ep.tool in a "
            "Python program",
            episode_id=episode.id,
        )
    if has_watched and plan.at == 0:
        raise ReplayError("step 0 is the command itself; take a later one", episode_id=episode.id)
    if has_watched and watch is None:
        raise ReplayError(
            "the command was recorded with --watch: give the same paths, which are put into their "
            "state at its beginning, and back at the end",
            episode_id=episode.id,
        )
    deciding = [check.check_id for check in episode.checks if check.is_primary]
    if deciding and not plan.success:
        # Without it the exit status would decide, which is another test. No code runs because a log
        # names it.
        raise ReplayError(
            f"the check {deciding[0]} decided the recorded outcome: name its function again, by "
            "--success module:function",
            episode_id=episode.id,
        )
    tools = {attempt.tool for attempt in episode.transcript.attempts} - {COMMAND_TOOL}
    if tools and not runs_tools:
        raise ReplayError(
            f"the command calls the tools {', '.join(sorted(tools))} itself, which run again from "
            "its beginning: allow it by --run-tools all",
            episode_id=episode.id,
        )


@contextlib.contextmanager
def put_back(watch: Value) -> Iterator[None]:
    """Put watched folders and databases back, at the end of a block, as they were found."""
    parts: list[Part] = [] if watch is None else find_parts(None, watch)
    found = [part.tracker.begin()[0] for part in parts]
    # Each of them, also if one cannot be put back.
    with contextlib.ExitStack() as stack:
        for part, value in zip(parts, found, strict=True):
            stack.callback(_restore, part, value)
        yield


def _restore(part: Part, value: Value) -> None:
    part.tracker.begin()
    part.tracker.restore(value)
