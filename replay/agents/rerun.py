"""`trajrec.rerun`: runs an agent's own loop against its recording.

Models, tools and side effects answer from the log. The first request of the agent that it did not
make when it was recorded is reported, with its differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Literal

from trajrec.agents.arguments import arguments_of, request_of, tool_name
from trajrec.agents.context import EpisodeToken, enter_episode, leave_episode
from trajrec.agents.counters import CounterMark, StepCounter
from trajrec.agents.episode import AgentEpisode
from trajrec.agents.retries import AttemptLoop, Exceptions, RetryPlan
from trajrec.corpus.episode import Episode
from trajrec.corpus.history import recorded_requests
from trajrec.corpus.transcript import Attempt
from trajrec.errors import AgentDivergedError
from trajrec.log.reader import LogReader
from trajrec.log.schema import EpisodeStart
from trajrec.protocols import Access, Tool, Verdict, World
from trajrec.redaction.comparison import differences, redacted_like
from trajrec.redaction.redactor import Redactor, as_redactor
from trajrec.replay.agents.agent_difference import AgentDifference, RequestKind
from trajrec.replay.agents.live_fork import Answered, FunctionTool, LiveOptions, continue_live
from trajrec.types import JsonObject, Value
from trajrec.values import codec
from trajrec.values.recorded import (
    RecordedStream,
    as_exception,
    deliver,
    deliver_error,
    rehydrate,
)
from trajrec.verifiers import identify

_NO_CALL_END = "the recorded call was open when its log ended"
_NO_MODEL_END = "the recorded model call was open when its log ended"


class Rerun:
    """An episode that answers from its recording, without a model, a tool or a network.

        with trajrec.rerun(corpus.episode("3f2a")) as ep:
            my_agent(ep)
        assert ep.difference is None

    Args:
        episode: An agent's episode, or the path of a log that holds only one episode.
        on_difference: "stop" raises AgentDivergedError at the first request that differs. "report"
            does the same, but catches the error at the end of the `with` block; see `difference`.
            "live" continues from there with the real model, tools and world, as an
            episode of its own, `live`, which is recorded as a fork.
        folder: For "live": the corpus that records the fork. Default: the recording's folder.
        world: For "live": the world. Default: the world that the log names is made. It is brought
            to the point that the agent has reached.
        allow: For "live": module prefixes that may be imported because the log names them.
        redact: The `Redactor` that the episode was recorded with, if it was not the default one.

    Attributes:
        episode: The recorded episode.
        difference: The first difference; None if there was none so far.
        live: The episode that continues live; None before the first difference.
        world: The world of the live episode; None before, because the log answers.
        goal: The agent's goal.

    Raises:
        ValueError: The episode is an environment's, or the log does not hold exactly one episode.
    """

    def __init__(
        self,
        episode: Episode | str | Path,
        *,
        on_difference: Literal["stop", "report", "live"] = "stop",
        folder: str | Path | None = None,
        world: World | None = None,
        allow: Iterable[str] = (),
        redact: bool | Redactor = True,
    ) -> None:
        if not isinstance(episode, Episode):
            episode = _only_episode(Path(episode))
        if not episode.is_agent_episode:
            raise ValueError(
                f"episode {episode.id} is an environment's, not an agent's; "
                "replay it with trajrec.replay"
            )
        self.episode = episode
        self.difference: AgentDifference | None = None
        self.live: AgentEpisode | None = None
        self.world: World | None = None
        self.goal = _goal(episode)
        self._on_difference = on_difference
        self._live_options = LiveOptions(
            folder=episode.path.parent if folder is None else Path(folder),
            world=world,
            allow=tuple(allow),
            redact=redact,
        )
        self._functions: list[FunctionTool] = []
        self._redactor = as_redactor(redact)
        self._steps = StepCounter()
        self._token: EpisodeToken | None = None
        self._has_ended = False
        self._requests = recorded_requests(episode)
        self._open_attempts = list(self._requests.attempts)
        self._n_models = 0
        self._n_side_effects = 0

    def __enter__(self) -> Rerun:
        self._token = enter_episode(self)
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
        if exc is None and self.live is None and self.difference is None:
            self._check_end()
        return isinstance(exc, AgentDivergedError) and self._on_difference == "report"

    async def __aenter__(self) -> Rerun:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        return self.__exit__(kind, exc, tb)

    @property
    def id(self) -> str:
        """Id of the recorded episode, or of the live one."""
        return self.episode.id if self.live is None else self.live.id

    @property
    def has_ended(self) -> bool:
        """Whether the block of the rerun was left."""
        return self._has_ended

    @property
    def n_steps(self) -> int:
        """Number of steps so far."""
        return self._steps.step + 1

    @property
    def last_step(self) -> int:
        """Number of the last step; -1 before the first."""
        return self._steps.step

    def tool(
        self,
        function: Callable[..., Value],
        *,
        name: str = "",
        schema: JsonObject | None = None,
        access: Access = "unknown",
    ) -> Callable[..., Value]:
        """Return a function that stands for a tool and answers from the log."""
        tool = FunctionTool(
            function=function, name=name or tool_name(function), schema=schema, access=access
        )
        self._functions.append(tool)
        if self.live is not None:
            return self.live.tool(function, name=tool.name, schema=schema, access=access)

        def recorded(*args: Value, **kwargs: Value) -> Value:
            return self.execute(tool.name, arguments_of(function, args, kwargs))

        return recorded

    def call(self, tool: str, /, **arguments: Value) -> Value:
        """Return the recorded result of a call, or raise its recorded exception."""
        return self.execute(tool, arguments)

    def register_tool(self, tool: Tool) -> None:
        """Describe a tool to the live episode; the recording needs no description."""
        if self.live is not None:
            self.live.register_tool(tool)

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
        if self.live is not None:
            return self.live.execute(tool, arguments, call_id=call_id, run=run)
        # The mark is from before the call: a live episode makes the call again, with its number.
        mark = self._steps.mark()
        position = self._steps.next_call()
        actual = _plain({"tool": tool, "arguments": arguments})
        # Calls of other steps are no candidates: an agent that skips a step has changed. Within a
        # step, concurrent calls may come in any order.
        candidates = [
            attempt
            for attempt in self._open_attempts
            if attempt.start.step == position.step and attempt.start.attempt == position.attempt
        ]
        for attempt in candidates:
            if self._is_recorded(_request(attempt), actual):
                self._open_attempts.remove(attempt)
                return _result(attempt)
        recorded = _request(candidates[0]) if candidates else None
        live = self._diverge(position.step, "tool call", recorded, actual, mark)
        return live.execute(tool, arguments, call_id=call_id, run=run)

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
        actual = _plain(request_of(args, kwargs))
        calls = self._requests.model_calls
        call = calls[number] if number < len(calls) else None
        recorded = None if call is None else {"messages": call.messages, **call.request}
        if call is None or not self._is_recorded(recorded, actual):
            live = self._diverge(self._steps.step, "model call", recorded, actual, mark)
            return live.model(function, *args, **kwargs)
        self._n_models += 1
        end = call.end
        if end is None:
            cut_off = as_exception("builtins.TimeoutError", _NO_MODEL_END)
            if call.answer is None:
                raise cut_off
            return RecordedStream(rehydrate(call.answer), cut_off)
        error = as_exception(end.error_type, end.message) if end.error_type else None
        if end.answer_data is None:
            return deliver_error(as_exception(end.error_type, end.message), end.is_async)
        answer = rehydrate(call.answer)
        if end.is_streamed:
            answer = RecordedStream(answer, error)
        return deliver(answer, end.is_async)

    def side_effect(self, name: str, function: Callable[..., Value], /, *args: Value) -> Value:
        """Return the recorded value from outside; `function` is not called.

        Raises:
            AgentDivergedError: The request is not the recorded one.
        """
        if self.live is not None:
            return self.live.side_effect(name, function, *args)
        mark = self._steps.mark()
        actual = _plain({"name": name, "arguments": list(args)})
        recorded = None
        if self._n_side_effects < len(self._requests.side_effects):
            event, transcript = self._requests.side_effects[self._n_side_effects]
            recorded = {"name": event.name, "arguments": transcript.value(event.arguments_data)}
            if self._is_recorded(recorded, actual):
                self._n_side_effects += 1
                if event.value_data is None:
                    raise as_exception(event.error_type, event.message)
                return rehydrate(transcript.value(event.value_data))
        live = self._diverge(self._steps.step, "side effect", recorded, actual, mark)
        return live.side_effect(name, function, *args)

    def check(self, verifier: Callable[..., Value], *args: Value) -> Verdict:
        """Return the recorded verdict of a verifier, or an empty one; a live episode runs it."""
        if self.live is not None:
            return self.live.check(verifier, *args)
        check_id = identify(verifier).id
        for check in self.episode.checks:
            if check.check_id == check_id:
                evidence = self.episode.transcript.value(check.evidence_data)
                return Verdict(check.verdict, check.score, evidence)
        return Verdict(None)

    def step(self) -> AbstractContextManager[int]:
        """Make the calls of a block one step."""
        return self._steps.grouped()

    def attempts(
        self, plan: RetryPlan = 3, *, wait: float = 0.0, on: Exceptions = Exception
    ) -> AttemptLoop:
        """Retry a block as the recorded loop did, without waiting between tries."""
        return AttemptLoop(plan, 0.0 if self.live is None else wait, on)

    def stop(
        self, reason: str, *, claimed_done: bool | None = None, truncated: bool = False
    ) -> None:
        """Record why a live episode ends; the recording has its own reason."""
        if self.live is not None:
            self.live.stop(reason, claimed_done=claimed_done, truncated=truncated)

    def _check_end(self) -> None:
        """Report the first recorded request that the agent did not make."""
        recorded: JsonObject
        model_calls = self._requests.model_calls[self._n_models :]
        if model_calls:
            call = model_calls[0]
            step = call.start.step
            recorded = {"messages": call.messages[-1:], **call.request}
        elif self._open_attempts:
            step = self._open_attempts[0].start.step
            recorded = _request(self._open_attempts[0])
        else:
            return
        self.difference = AgentDifference(step, "end", recorded, None)
        if self._on_difference == "stop":
            raise AgentDivergedError(self.difference, episode_id=self.episode.id)

    def _is_recorded(self, recorded: Value, actual: Value) -> bool:
        """Return whether a request is the recorded one, both without their secrets."""
        return not differences(recorded, redacted_like(recorded, actual, self._redactor))

    def _diverge(
        self, step: int, kind: RequestKind, recorded: Value, actual: Value, mark: CounterMark
    ) -> AgentEpisode:
        """Raise a difference, or return the live episode that continues from before it."""
        # Without its secrets: a difference is printed, and sent to other processes.
        actual = self._redactor.plain(actual)
        changes = () if recorded is None else tuple(differences(recorded, actual))
        difference = AgentDifference(step, kind, recorded, actual, changes)
        if self.difference is None:
            self.difference = difference
        if self._on_difference != "live":
            raise AgentDivergedError(difference, episode_id=self.episode.id)
        self._steps.rewind(mark)
        open_keys = {attempt.key for attempt in self._open_attempts}
        keys = {attempt.key for attempt in self._requests.attempts}
        self.live = continue_live(
            self.episode,
            max(0, step),
            steps=self._steps,
            answered=Answered(
                attempts=frozenset(keys - open_keys),
                n_models=self._n_models,
                n_side_effects=self._n_side_effects,
            ),
            functions=self._functions,
            goal=self.goal,
            options=self._live_options,
        )
        self.world = self.live.world
        return self.live


def _plain(value: Value) -> Value:
    """Return a value as a log gives it back."""
    return codec.decode(codec.encode(value, opaque=True))


def _goal(episode: Episode) -> Value:
    task = episode.transcript.task_start
    if task is None or task.goal_data is None:
        return None
    return rehydrate(episode.transcript.value(task.goal_data))


def _only_episode(path: Path) -> Episode:
    reader = LogReader(path)
    numbers = {
        event.episode
        for chunk in reader.chunks()
        for event in chunk.record.events
        if isinstance(event, EpisodeStart)
    }
    if len(numbers) != 1:
        raise ValueError(
            f"{path} holds {len(numbers)} episodes, not one; "
            "give an episode: trajrec.open(folder).episode(id)"
        )
    return Episode(reader, numbers.pop())


def _request(attempt: Attempt) -> JsonObject:
    return {"tool": attempt.tool, "arguments": attempt.arguments}


def _result(attempt: Attempt) -> Value:
    """Return the recorded result of a call, or raise its recorded exception."""
    end = attempt.end
    if end is None:
        raise as_exception("builtins.TimeoutError", _NO_CALL_END)
    if end.is_raised:
        return deliver_error(as_exception(end.error_type, end.message), end.is_async)
    return deliver(rehydrate(attempt.result), end.is_async)
