"""The context of a policy for a tool world: its goal, its calls so far, and the recording."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from trajrec.corpus.episode import Episode
from trajrec.corpus.history import recorded_requests, recorded_requests_of
from trajrec.corpus.transcript import Attempt, ModelCall, Transcript
from trajrec.log.events import SideEffect
from trajrec.redaction.comparison import differences
from trajrec.redaction.redactor import Redactor
from trajrec.replay.credit.sampling.answers import (
    EXCHANGE,
    MODEL,
    SIDE_EFFECT,
    Answers,
    RecordedAnswer,
)
from trajrec.replay.credit.sampling.exchanges import recorded_exchange
from trajrec.types import Action, JsonObject, Value
from trajrec.values import codec

Call = tuple[str, JsonObject]
"""A tool's name and its arguments."""


class ToolCall(NamedTuple):
    """A tool call and its result.

    Attributes:
        step: The step of the call.
        tool: Name of the tool.
        arguments: The arguments.
        result: The result; None if the call failed, and of a generator the items before it did.
        error: The exception, as "type: message"; "" if the call did not fail.
        is_async: Whether the call was awaited.
    """

    step: int
    tool: str
    arguments: JsonObject
    result: Value
    error: str
    is_async: bool = False


@dataclass(frozen=True)
class Context:
    """The observation of a policy for a tool world.

    The action of such a policy is a call, (tool, arguments), or a list of calls; None ends the
    episode.

    Attributes:
        goal: The value that the world's reset returned.
        step: The step.
        calls: The calls so far, in order.
        history_key: Digest of the calls. A policy may depend on the whole context, so its rollouts
            are merged only if their keys are equal.
        recording: The recorded episode, for policies that replay a recorded agent.
    """

    goal: Value
    step: int
    calls: tuple[ToolCall, ...]
    history_key: bytes = b""
    recording: Recording | None = field(default=None, repr=False, compare=False)

    def after(self, call: ToolCall) -> Context:
        """Return the context after one more call of the same step."""
        data = codec.encode(
            [call.step, call.tool, call.arguments, call.result, call.error],
            opaque=True,
            canonical=True,
        )
        key = hashlib.blake2b(self.history_key + data).digest()
        return Context(self.goal, self.step, (*self.calls, call), key, self.recording)


class Recording:
    """The recorded calls and answers of an agent's episode.

    Attributes:
        id: The episode's id.
        goal: The goal of the agent.
        held_seed: The seed of the recorded freezing of the clock and entropy; None without one.
        tools: Names of the tools: those at the start, and functions that were called as tools.
        calls: The calls, in order. In a fork, the calls of its parent that led to it come first.
        n_parent_calls: The number of these.
    """

    def __init__(self, episode: Episode) -> None:
        self._episode = episode
        self.id = episode.id
        transcript: Transcript = episode.transcript
        task = transcript.task_start
        self.goal: Value = None
        self.held_seed: int | None = None
        self.tools: set[str] = set()
        if task is not None:
            self.goal = transcript.value(task.goal_data)
            self.held_seed = task.held_seed
            self.tools = {row[0] for row in transcript.value(task.tools_data)}
        self._start_ns = 0 if episode.start is None else episode.start.time_ns
        self._requests = recorded_requests(episode)
        attempts = self._requests.attempts
        self.tools |= {attempt.tool for attempt in attempts if not attempt.start.invalid}
        # A cancelled or open call has no result that could be given again.
        ended = [
            attempt
            for attempt in attempts
            if attempt.end is not None and attempt.end.outcome != "cancelled"
        ]
        self.calls = [_as_tool_call(attempt) for attempt in ended]
        # Only a fork has calls that are not in its own transcript.
        own = {attempt.key for attempt in transcript.attempts}
        self.n_parent_calls = sum(attempt.key not in own for attempt in ended)
        self._times_ns: dict[int, int] = {}
        for attempt in ended:
            self._times_ns.setdefault(attempt.start.step, attempt.start.time_ns)

    def context(self, step: int) -> Context:
        """Return the recorded context before a step."""
        context = Context(self.goal, step, (), recording=self)
        for call in self._calls_until(step - 1):
            context = context.after(call)
        return context

    def matches_recording(self, context: Context, calls: list[Call]) -> bool:
        """Return whether calls at a context are the recorded ones, after a recorded history."""
        recorded = self._calls_until(context.step)
        recorded_now = [[call.tool, call.arguments] for call in recorded[len(context.calls) :]]
        return self._are_recorded(context.calls, recorded) and self._is_recorded(
            recorded_now, [list(call) for call in calls]
        )

    def answers_before(self, step: int) -> Answers:
        """Return the answers of models and of the outside before a step."""
        return {
            kind: [answer for answer_step, answer in rows if answer_step < step]
            for kind, rows in self._answers.items()
        }

    @property
    def has_answers(self) -> bool:
        """Whether the agent asked models or the outside in this episode."""
        return any(self._answers.values())

    def time_ns(self, step: int) -> int:
        """Return the time at which a step began; for a step beyond the last, that of the last."""
        for earlier in range(step, -1, -1):
            if earlier in self._times_ns:
                return self._times_ns[earlier]
        return self._start_ns

    def recorded_call(self, before: Sequence[ToolCall], call: Call) -> ToolCall | None:
        """Return the recorded call that equals a call; None if it was not made at this place.

        Places are counted in calls, not in steps, because only the agent knows its steps.

        Args:
            before: All calls before this one. They must be the recorded ones, with their results.
            call: The call.
        """
        if len(before) >= len(self.calls) or not self._are_recorded(before, self.calls):
            return None
        recorded = self.calls[len(before)]
        same = self._is_recorded([recorded.tool, recorded.arguments], list(call))
        return recorded if same else None

    @functools.cached_property
    def redactor(self) -> Redactor:
        """Removes secrets from values that are compared with recorded ones."""
        return Redactor()

    def _calls_until(self, step: int) -> list[ToolCall]:
        """Return the calls up to the end of a step, those of the parent included."""
        return [
            call
            for number, call in enumerate(self.calls)
            if number < self.n_parent_calls or call.step <= step
        ]

    def _are_recorded(self, calls: Sequence[ToolCall], recorded: Sequence[ToolCall]) -> bool:
        """Return whether calls and their results are the first ones of the recorded calls."""
        # Most calls of a context are the very objects of the recording: no need to compare these.
        return len(calls) <= len(recorded) and all(
            call is before or self._is_recorded(list(before[1:5]), list(call[1:5]))
            for call, before in zip(calls, recorded, strict=False)
        )

    def _is_recorded(self, recorded: Value, live: Value) -> bool:
        """Return whether a live value, redacted as the recorder does, is the recorded one."""
        if codec.encode(recorded, opaque=True) == codec.encode(live, opaque=True):
            return True
        return not differences(self.redactor.plain(recorded), self.redactor.plain(live))

    @functools.cached_property
    def _answers(self) -> dict[str, list[tuple[int, RecordedAnswer]]]:
        """The answers of each kind, each with its step; those of the parent precede all steps."""
        transcript = self._episode.transcript
        # Before every step of the fork itself, so that `answers_before` always has these.
        parent_step = self._episode.first_step - 1
        own = recorded_requests_of(transcript)
        requests = self._requests

        def step_of(place: int, n_all: int, n_own: int, step: int) -> int:
            return parent_step if place < n_all - n_own else step

        models = [
            (
                step_of(place, len(requests.model_calls), len(own.model_calls), call.start.step),
                _model_answer(call),
            )
            for place, call in enumerate(requests.model_calls)
        ]
        exchanges = [
            (
                step_of(place, len(requests.exchanges), len(own.exchanges), exchange.start.step),
                recorded_exchange(exchange),
            )
            for place, exchange in enumerate(requests.exchanges)
        ]
        steps = transcript.side_effect_steps
        steps = [parent_step] * (len(requests.side_effects) - len(steps)) + steps
        side_effects = [
            (step, _side_effect_answer(event, values))
            for step, (event, values) in zip(steps, requests.side_effects, strict=True)
        ]
        return {MODEL: models, SIDE_EFFECT: side_effects, EXCHANGE: exchanges}


def _model_answer(call: ModelCall) -> RecordedAnswer:
    request = {"messages": call.messages, **call.request}
    encoded = codec.encode(request)
    end = call.end
    if end is None:
        error = ("builtins.TimeoutError", "the recorded model call was open when its log ended")
        return RecordedAnswer.from_request(
            encoded,
            codec.encode(call.answer) if call.has_answer else None,
            error,
            is_streamed=call.has_answer,
            request=request,
        )
    return RecordedAnswer.from_request(
        encoded,
        None if end.answer_data is None else codec.encode(call.answer),
        (end.error_type, end.message),
        is_streamed=end.is_streamed,
        is_async=end.is_async,
        request=request,
    )


def _side_effect_answer(event: SideEffect, values: Transcript) -> RecordedAnswer:
    request = {"name": event.name, "arguments": values.value(event.arguments_data)}
    return RecordedAnswer.from_request(
        codec.encode(request),
        None if event.value_data is None else codec.encode(values.value(event.value_data)),
        (event.error_type, event.message),
        request=request,
    )


def _as_tool_call(attempt: Attempt) -> ToolCall:
    start = attempt.start
    end = attempt.end
    assert end is not None
    error = f"{end.error_type}: {end.message}" if end.is_raised else ""
    return ToolCall(
        step=start.step,
        tool=start.tool,
        arguments=attempt.arguments,
        result=attempt.result,
        error=error,
        is_async=end.is_async,
    )


def recorded_calls(episode: Episode) -> dict[int, list[Call]]:
    """Return the calls of an agent by step, every attempt included."""
    calls: dict[int, list[Call]] = {
        step: [] for step in range(episode.first_step, episode.end_step)
    }
    recording = Recording(episode)
    for call in recording.calls[recording.n_parent_calls :]:
        calls[call.step].append((call.tool, call.arguments))
    return calls


def as_calls(action: Action) -> list[Call]:
    """Return the calls of an action in a tool world.

    Raises:
        TypeError: The action is neither a call nor a list of calls.
    """
    is_one = isinstance(action, tuple) and len(action) == 2 and isinstance(action[0], str)
    # A single call and a list of two calls both have length 2: the first item tells them apart.
    calls = [action] if is_one else list(action)
    for call in calls:
        if not (
            isinstance(call, (tuple, list))
            and len(call) == 2
            and isinstance(call[0], str)
            and isinstance(call[1], dict)
        ):
            raise TypeError(
                "an action in a world must be (tool, arguments), a list of such, or None; "
                f"got {action!r}"
            )
    return [(tool, arguments) for tool, arguments in calls]
