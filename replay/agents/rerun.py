"""`trajrec.rerun`: runs an agent's own loop against its recording.

Models, tools and side effects answer from the log. The first request that it lacks is reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from trajrec.agents.arguments import request_of
from trajrec.agents.context import EpisodeToken, enter_episode, leave_episode
from trajrec.agents.counters import CounterMark, StepCounter
from trajrec.agents.episode import AgentEpisode
from trajrec.agents.routing import connect_taps
from trajrec.agents.tool_wrappers import AnsweredStream, ToolStream
from trajrec.corpus.attempts import Attempt
from trajrec.corpus.episode import Episode
from trajrec.corpus.http_exchanges import HttpExchange
from trajrec.errors import AgentDivergedError, ReplayError, RerunStopped, ToolNotHeldError
from trajrec.log.remote import local_folder
from trajrec.protocols import World
from trajrec.recording.faults import causes_of
from trajrec.redaction.comparison import differences
from trajrec.redaction.redactor import Redactor, as_redactor
from trajrec.replay.agents.agent_difference import AgentDifference, RequestKind
from trajrec.replay.agents.answered import Answered
from trajrec.replay.agents.live_fork import LiveOptions, continue_live
from trajrec.replay.agents.recorded_answers import (
    as_stored,
    body_value,
    call_items,
    call_result,
    check_unchanged,
    exchange_request,
    first_unmade,
    model_answer,
    model_request,
    only_episode,
    recorded_goal,
)
from trajrec.replay.agents.stood_in import StandingIn
from trajrec.replay.agents.tool_answers import asked_unheld
from trajrec.replay.agents.wire_answers import (
    AnsweredExchange,
    answer_of,
    patterns_of,
)
from trajrec.replay.execute.trust import module_prefixes
from trajrec.tracking.parts import fixed_paths
from trajrec.types import JsonObject, Value
from trajrec.values.recorded import rehydrate
from trajrec.values.recorded_errors import as_exception
from trajrec.wire.exchange import Exchange, HttpRequest

_OWN_ERRORS = (AgentDivergedError, RerunStopped)


class Rerun(StandingIn):
    """An episode that answers from its recording, without a model, a tool or a network.

        with trajrec.rerun(corpus.episode("3f2a")) as ep:
            my_agent(ep)
        assert ep.difference is None

    Args:
        episode: An agent's episode, or the path of a log that holds only one episode.
        on_difference: "stop" raises AgentDivergedError at the first request that differs. "report"
            does the same, but catches the error at the end of the `with` block; see `difference`.
            "live" continues from there with the real model, tools and world, as a fork: `live`.
        folder: For "live": the corpus that records the fork. Default: the recording's folder.
        world: For "live": the world. Default: the world that the log names is made. It is brought
            to the point that the agent has reached.
        watch: For "live": the watched objects, database or folder, which are put into the state of
            that point, and proved to be.
        allow: For "live": module prefixes that may be imported because the log names them.
        ignore: Regular expressions. Their matches in texts of requests, say a date, do not count.
        redact: The `Redactor` that the episode was recorded with, if it was not the default one.
        run_tools: "read" runs the tools that were declared so for real, "all" runs all. By default
            none runs: `ToolNotHeldError` ends the rerun before the agent can run one.

    Attributes:
        episode: The recorded episode.
        difference: The first difference; None if there was none so far.
        error: The error that ended the agent, or is to end it; None if there was none so far.
        live: The episode that continues live; None before the first difference.
        world: The world of the live episode; None before, because the log answers.
        goal: The agent's goal.

    Raises:
        ValueError: The episode is an environment's, or the log does not hold exactly one episode.
        ReplayError: The episode is a run of `trajrec.replay.what_if` with a change.
        TypeError: `allow` or `ignore` is one text, and not several.
    """

    def __init__(
        self,
        episode: Episode | str | Path,
        *,
        on_difference: Literal["stop", "report", "live"] = "stop",
        folder: str | Path | None = None,
        world: World | None = None,
        watch: Value = None,
        allow: Iterable[str] = (),
        ignore: Iterable[str | re.Pattern[str]] = (),
        redact: bool | Redactor = True,
        run_tools: Literal["read", "all"] | None = None,
    ) -> None:
        if not isinstance(episode, Episode):
            episode = only_episode(Path(episode))
        if not episode.is_agent_episode:
            raise ValueError(
                f"episode {episode.id} is an environment's, not an agent's; "
                "replay it with trajrec.replay"
            )
        check_unchanged(episode)
        super().__init__(episode)
        self.difference: AgentDifference | None = None
        self.world: World | None = None
        self.goal = recorded_goal(episode)
        self._on_difference = on_difference
        self._live_options = LiveOptions(
            folder=episode.path.parent if folder is None else local_folder(folder),
            world=world,
            watch=fixed_paths(watch),
            allow=module_prefixes(allow),
            redact=redact,
        )
        self._token: EpisodeToken | None = None
        self._ignore = patterns_of(ignore)
        self._compare_by(as_redactor(redact))
        self._run_tools = run_tools
        self._n_models = 0
        self._n_side_effects = 0

    def __enter__(self) -> Self:
        self._token = enter_episode(self)
        self._disconnect = connect_taps(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        self._has_ended = True
        # The live episode first: it was begun inside of this one.
        if self.live is not None:
            self.live.__exit__(kind, exc, tb)
        if self._token is not None:
            leave_episode(self._token)
            self._disconnect()
        # An agent that has caught its error did not end early of its own accord.
        if exc is None and self.live is None and self.difference is None and self.error is None:
            self._check_end()
        is_own = any(isinstance(cause, _OWN_ERRORS) for cause in causes_of(exc))
        is_refused = isinstance(self.error, ToolNotHeldError)
        is_difference = self.error is None or isinstance(self.error, AgentDivergedError)
        if not is_refused and self._on_difference == "report" and is_difference:
            return is_own
        # Also if the agent or its framework has caught it: it must not pass for a good run.
        if self.error is not None and (exc is None or (is_own and exc is not self.error)):
            raise self.error
        return False

    @property
    def n_matched(self) -> Mapping[str, int]:
        """How many HTTP requests were found by each of `trajrec.replay.agents.wire_answers.KEYS`."""
        return self._answers.n_matched

    @property
    def recorded_ends(self) -> Mapping[str, int] | None:
        """When the recorded tool calls ended, by the model's ids of them; None once it is live."""
        if self.live is not None:
            return None
        return {
            attempt.start.call_id: attempt.end.time_ns
            for attempt in self._requests.attempts
            if attempt.start.call_id and attempt.end is not None
        }

    def open_stream(self, tool: str, arguments: JsonObject, call_id: str = "") -> ToolStream:
        """Return the recorded items of a call of a generator."""
        found = self._take_attempt(tool, arguments, call_id, has_code=True)
        if isinstance(found, AgentEpisode):
            return found.open_stream(tool, arguments, call_id)
        return AnsweredStream(None if self._runs(found) else call_items(found))

    def _runs(self, attempt: Attempt) -> bool:
        return self._run_tools == "all" or self._run_tools == attempt.start.access == "read"

    def execute(
        self,
        tool: str,
        arguments: JsonObject,
        *,
        call_id: str = "",
        run: Callable[[], Value] | None = None,
    ) -> Value:
        """Return the recorded result of a call, or raise its recorded exception.

        Raises:
            AgentDivergedError: The recording has no such call at this step.
        """
        if run is None and (begun := self._generators.begun(self, tool, arguments, call_id)):
            return begun
        found = self._take_attempt(tool, arguments, call_id, has_code=run is not None)
        if isinstance(found, AgentEpisode):
            return found.execute(tool, arguments, call_id=call_id, run=run)
        return call_result(found) if run is None or not self._runs(found) else run()

    def answer_call(self, tool: str, arguments: JsonObject) -> Attempt:
        """Return the recorded attempt that answers a call, in whatever step it was.

        A server serves several conversations, whose calls it cannot tell apart.

        Raises:
            AgentDivergedError: The recording has no such call.
        """
        with self._steps.lock:
            step = self._tools.step_of(tool, arguments)
            if step is not None:
                self._steps.enter(step)
            found = self._take_attempt(tool, arguments, "", has_code=False)
        if isinstance(found, AgentEpisode):
            raise ReplayError(
                "the calls of MCP servers cannot go on live", episode_id=self.episode.id
            )
        return found

    def _take_attempt(
        self, tool: str, arguments: JsonObject, call_id: str, *, has_code: bool
    ) -> Attempt | AgentEpisode:
        """Return the attempt that answers a call, or the live episode that makes the call."""
        if self.live is not None:
            return self.live
        # The mark is from before the call: a live episode makes the call again, with its number.
        mark = self._steps.mark()
        position = self._steps.next_call()
        found = self._tools.take(position, tool, arguments, call_id)
        if isinstance(found, Attempt):
            if has_code and not self._runs(found):
                self._tools.excuse(found)
            return found
        return self._diverge(position.step, "tool call", found.recorded, found.actual, mark)

    def model(self, function: Callable[..., Value], /, *args: Value, **kwargs: Value) -> Value:
        """Return the recorded answer; `function` is not called.

        Raises:
            AgentDivergedError: The request is not the recorded one.
        """
        if self.live is not None:
            return self.live.model(function, *args, **kwargs)
        mark = self._steps.mark()
        with self._steps.lock:
            number, _, _ = self._steps.next_model_call()
        actual = as_stored(request_of(args, kwargs))
        calls = self._requests.model_calls
        call = calls[number] if number < len(calls) else None
        recorded = None if call is None else model_request(call)
        if call is None or not self._tools.is_recorded(recorded, actual):
            live = self._diverge(self._steps.step, "model call", recorded, actual, mark)
            return live.model(function, *args, **kwargs)
        self._n_models += 1
        return model_answer(call)

    def begin_exchange(self, request: HttpRequest) -> Exchange | None:
        """Answer an HTTP request of a model client from its recorded exchange.

        Raises:
            RerunStopped: The recording has no such request.
        """
        if self.live is not None:
            return self.live.begin_exchange(request)
        with self._steps.lock:
            mark = self._steps.mark()
            exchange = self._answers.take(request)
            if exchange is not None:
                # Calls of one answer may come in any order, so the recording tells the step.
                if exchange.start.model_call >= 0:
                    self._steps.enter(exchange.start.step)
                self._refuse_unheld(exchange)
                return self._answer(exchange)
        try:
            live = self._diverge_on_wire(request, mark)
        except AgentDivergedError as exc:
            # No Exception: a client would take it for a failure of the network, and try again.
            raise RerunStopped(exc) from exc
        return live.begin_exchange(request)

    def _answer(self, exchange: HttpExchange) -> Exchange:
        return AnsweredExchange(answer_of(exchange))

    def _refuse_unheld(self, exchange: HttpExchange) -> None:
        """Raise if an answer asks for a tool of which the recording has no result."""
        unheld = asked_unheld(self.episode, exchange)
        if unheld and self._run_tools != "all" and self._on_difference != "live":
            self.error = ToolNotHeldError(unheld, episode_id=self.episode.id)
            raise RerunStopped(self.error)

    def side_effect(self, name: str, function: Callable[..., Value], /, *args: Value) -> Value:
        """Return the recorded value from outside; `function` is not called.

        Raises:
            AgentDivergedError: The request is not the recorded one.
        """
        if self.live is not None:
            return self.live.side_effect(name, function, *args)
        mark = self._steps.mark()
        actual = as_stored({"name": str.__str__(name), "arguments": list(args)})
        recorded = None
        if self._n_side_effects < len(self._requests.side_effects):
            event, transcript = self._requests.side_effects[self._n_side_effects]
            recorded = {"name": event.name, "arguments": transcript.value(event.arguments_data)}
            if self._tools.is_recorded(recorded, actual):
                self._n_side_effects += 1
                if event.value_data is None:
                    raise as_exception(event.error_type, event.message)
                return rehydrate(transcript.value(event.value_data))
        live = self._diverge(self._steps.step, "side effect", recorded, actual, mark)
        return live.side_effect(name, function, *args)

    def _check_end(self) -> None:
        """Report the first recorded request that the agent did not make."""
        unmade = first_unmade(
            self._tools.not_excused(self._requests.model_calls[self._n_models :]),
            self._tools.not_excused(self._answers.unused),
            self._tools.not_excused(self._tools.unused),
        )
        if unmade is None:
            return
        self.difference = AgentDifference(*unmade, None)
        if self._on_difference == "stop":
            raise AgentDivergedError(self.difference, episode_id=self.episode.id)

    def _diverge_on_wire(self, request: HttpRequest, mark: CounterMark) -> AgentEpisode:
        """Raise the difference of an HTTP request, or return the episode that continues live."""
        miss = self._answers.miss(request)
        recorded = None if miss.nearest is None else exchange_request(miss.nearest)
        step = self._steps.step + 1 if miss.nearest is None else miss.nearest.start.step
        return self._diverge(step, "model call", recorded, body_value(miss.body), mark)

    def _diverge(
        self, step: int, kind: RequestKind, recorded: Value, actual: Value, mark: CounterMark
    ) -> AgentEpisode:
        """Raise a difference, or return the live episode that continues from before it."""
        # Without its secrets: a difference is printed, and sent to other processes.
        actual = self._redactor.plain(actual)
        changes = () if recorded is None else tuple(differences(recorded, actual))
        difference = AgentDifference(step, kind, recorded, actual, changes)
        self.difference = self.difference or difference
        if self._on_difference != "live":
            self.error = self.error or AgentDivergedError(difference, episode_id=self.episode.id)
            raise self.error
        self._steps.rewind(mark)
        return self._go_live(max(0, step))

    def _go_live(self, step: int) -> AgentEpisode:
        """Go on live from a step."""
        self.live = self._begin_live(step, self._steps)
        self.world = self.live.world
        return self.live

    def _begin_live(self, step: int, steps: StepCounter) -> AgentEpisode:
        """Begin the live episode at a step, in the state after the requests that were answered."""
        return continue_live(
            self.episode,
            step,
            steps=steps,
            answered=self._answered(),
            functions=self._functions,
            goal=self.goal,
            options=self._live_options,
        )

    def _answered(self) -> Answered:
        """Return the requests that the recording has answered so far."""
        return Answered(
            attempts=self._tools.used_keys,
            n_models=self._n_models,
            n_side_effects=self._n_side_effects,
            exchanges=tuple(self._answers.used_places),
        )
