"""Makes the run of an experiment in the place of the episode that an agent's program begins."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trajrec.agents.routing import CAPTURE_ENDED, connect_taps
from trajrec.corpus.attempts import Attempt
from trajrec.corpus.episode import Episode
from trajrec.corpus.history import recorded_requests
from trajrec.errors import ReplayError, RerunStopped
from trajrec.protocols import Verifier, World
from trajrec.redaction.redactor import Redactor, as_redactor
from trajrec.replay.agents.wire_answers import WireAnswers, patterns_of
from trajrec.replay.whatif.plan import Plan
from trajrec.replay.whatif.run import WhatIfRun
from trajrec.types import Value
from trajrec.wire.dialects.choose import is_model_request
from trajrec.wire.exchange import HttpRequest, plain_url

# The arguments of `trajrec.episode` that hold for a live part too. The others describe the task,
# which is that of the recording.
_KEPT_OPTIONS = ("tools", "checks", "primary", "is_error", "on_full", "durability", "wire")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options that all runs of an experiment share.

    Attributes:
        folder: The corpus that records the live parts.
        world: The world; None takes that of the program, or makes the one that the log names.
        watch: The watched objects; None takes those of the program.
        checks: Verifiers to run at the end of each live part, beyond those of the program.
        allow: Module prefixes that may be imported because the log names them.
        ignore: Regular expressions. Their matches in texts of requests do not count.
        redact: The `Redactor` of the recording, if it was not the default one.
        run_tools: The tools that may run before the step; see `trajrec.rerun`.
        held_tools: See `WhatIfRun`.
    """

    folder: Path
    world: World | None = None
    watch: Value = None
    checks: tuple[Verifier, ...] = ()
    allow: tuple[str, ...] = ()
    ignore: tuple[Any, ...] = ()
    redact: bool | Redactor = True
    run_tools: Literal["read", "all"] | None = None
    held_tools: Collection[str] | None = None


@dataclass
class StandIn:
    """Makes one run: directly, or for the program's own `with trajrec.episode(...)`.

    Attributes:
        episode: The recorded episode.
        plan: The run.
        attempt: The recorded call that the experiment changes; None if it changes none.
        options: The options of the experiment.
        run: The run; None as long as it was not made.
        error: Why no run could be made; None if one could.
        judges: The verifiers that get what the program's function returns: there is no state.
    """

    episode: Episode
    plan: Plan
    attempt: Attempt | None
    options: RunOptions
    run: WhatIfRun | None = field(default=None)
    error: ReplayError | None = field(default=None)
    judges: tuple[Verifier, ...] = ()
    _is_conversation: bool = False

    def make(self, given: Mapping[str, Any] | None = None) -> WhatIfRun:
        """Make the run.

        Args:
            given: The arguments of the program's `trajrec.episode`.
        """
        given = given or {}
        options = self.options
        kept: dict[str, Any] = {name: given[name] for name in _KEPT_OPTIONS if name in given}
        world = given.get("world") if options.world is None else options.world
        watch = given.get("watch") if options.watch is None else options.watch
        if not given and world is None and watch is None and not self._has_world():
            self.judges = options.checks
        else:
            kept["checks"] = (*kept.get("checks", ()), *options.checks)
        self.run = WhatIfRun(
            self.episode,
            self.plan,
            self.attempt,
            folder=options.folder,
            world=world,
            watch=watch,
            options=kept,
            allow=options.allow,
            ignore=options.ignore,
            redact=given.get("redact", True) if options.redact is True else options.redact,
            run_tools=options.run_tools,
            held_tools=options.held_tools,
        )
        return self.run

    def _has_world(self) -> bool:
        task = self.episode.transcript.task_start
        return task is not None and bool(task.world)

    def of_request(self, request: HttpRequest) -> WhatIfRun | None:
        """Return the run that a model call outside of all episodes belongs to; None if none.

        The call of a thread without a context belongs to the run. The program of a conversation
        that a capture has recorded marks no episode: its first call begins the run. So does a
        recorded call, which would be made for real otherwise.
        """
        run = self.run
        if run is None and is_model_request(request):
            if self._is_first(request):
                run = self.make()
                self._is_conversation = True
                run.__enter__()
            elif self.error is None:
                # Told if the program begins no episode later.
                self.error = ReplayError(
                    f"the program asks a model at {plain_url(request.url)}, which the recording "
                    "does not have, before it begins an episode with trajrec.episode: run the "
                    "program that recorded the episode",
                    episode_id=self.episode.id,
                )
        return None if run is None or run.has_ended else run

    def _is_first(self, request: HttpRequest) -> bool:
        if records_conversation(self.episode):
            return True
        exchanges = recorded_requests(self.episode).exchanges
        ignore = patterns_of(self.options.ignore)
        answers = WireAnswers(exchanges, as_redactor(self.options.redact), ignore)
        return answers.find(request) is not None

    @contextlib.contextmanager
    def conversation(self) -> Iterator[None]:
        """Have the requests of a block seen, and end the run that one of them has begun."""
        disconnect = connect_taps(self)
        try:
            yield
        except BaseException as exc:
            self.end_conversation(exc)
            raise
        else:
            self.end_conversation(None)
        finally:
            disconnect()

    def end_conversation(self, error: BaseException | None) -> None:
        """End the run that a request has begun; else do nothing.

        Args:
            error: The exception that ended the program.
        """
        run = self.run
        if run is not None and self._is_conversation and not run.has_ended:
            run.__exit__(
                None if error is None else type(error),
                error,
                None if error is None else error.__traceback__,
            )

    def __call__(
        self, folder: str | Path, given: Mapping[str, Value], is_conversation: bool
    ) -> WhatIfRun | None:
        """Make the run for the first episode that the program begins; see `standing_in`.

        Raises:
            RerunStopped: The episode is not the recorded one, or a second one, which would really
                run. It is no `Exception`: a tap would take that for a fault of its own.
        """
        if self.run is not None and self.run.branch is not None:
            # Live: a sub-agent's episode is recorded as usual.
            return None
        reason = self._why_not(given, is_conversation)
        if reason:
            self.error = ReplayError(reason, episode_id=self.episode.id)
            raise RerunStopped(self.error)
        return self.make(given)

    def _why_not(self, given: Mapping[str, Any], is_conversation: bool) -> str:
        """Return why an episode that the program begins cannot be stood in for; "" if it can."""
        if self.run is not None:
            return (
                f"the program begins a second episode before step {self.plan.at}, which nothing "
                "answers"
            )
        if is_conversation:
            return (
                f"the program asks a model outside of its episode before step {self.plan.at}, "
                "which nothing answers"
            )
        task = self.episode.transcript.task
        if given.get("task", "") != task:
            return (
                f"the program begins an episode of the task {given.get('task', '')!r}, and that of "
                f"the recording is {task!r}: give the program the arguments that it was recorded "
                "with"
            )
        return ""


def records_conversation(episode: Episode) -> bool:
    """Return whether a capture may have made an episode of a conversation."""
    return episode.end is None or episode.end.stop_reason == CAPTURE_ENDED
