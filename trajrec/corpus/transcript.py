"""An agent's episode from its events: attempts, retries, recoveries, model calls and states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from trajrec.corpus.state_history import StateHistory
from trajrec.log.events import (
    AgentEvent,
    AnswerPart,
    CallEnd,
    CallStart,
    ModelEnd,
    ModelStart,
    SideEffect,
    StateChange,
    TaskStart,
)
from trajrec.tracking.parts import digest_of_parts
from trajrec.types import JsonObject, Value
from trajrec.values import codec
from trajrec.values.codec import Plain, Ref
from trajrec.values.diff import Change, diff

AttemptKey = tuple[int, int, int]
"""Step, call and attempt."""


@dataclass
class Attempt:
    """One attempt at executing a tool call.

    Attributes:
        start: The recorded begin.
        end: The recorded end; None if the log ends before it.
        arguments: The arguments, by name.
        result: The returned value; None if the attempt raised.
        retry_of: The failed attempt that this one repeats; None if it repeats none.
        retry_by: Who retried: agent, scaffold, transport or harness; "" if it is no retry.
        recovered_at: The step at which a retry of this failed attempt succeeded; None if none did.
        recovered_by: Who made that retry.
        changes: The changes that it made, by part of the state.
        digests: The digests of the changed parts afterwards.
        open_paths: Parts of the state in whose changes the types of keys are unknown: the paths
            hold them as texts. Only logs of format 1 have such paths.
        notes: Findings, e.g. a tool that was declared to read changed the state.
        state_digest: Digest of all watched parts after it, as checks store it; None if it has not
            ended, if nothing was watched, or if a part is unknown.
    """

    start: CallStart
    end: CallEnd | None
    arguments: JsonObject
    result: Value = None
    retry_of: AttemptKey | None = None
    retry_by: str = ""
    recovered_at: int | None = None
    recovered_by: str = ""
    changes: dict[str, list[Change]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    open_paths: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    state_digest: str | None = None

    @property
    def key(self) -> AttemptKey:
        """Step, call and attempt."""
        return self.start.step, self.start.call, self.start.attempt

    @property
    def tool(self) -> str:
        """The tool's name."""
        return self.start.tool

    @property
    def outcome(self) -> str:
        """One of ok, error, timeout and cancelled; open if the log ends before the attempt."""
        return "open" if self.end is None else self.end.outcome

    @property
    def has_failed(self) -> bool:
        """Whether the attempt ended without success."""
        return self.end is not None and self.end.outcome != "ok"

    @property
    def latency_ms(self) -> float | None:
        """Duration in milliseconds; None if the attempt is open, or a time is unknown."""
        return (
            None if self.end is None else milliseconds_between(self.start.time_ns, self.end.time_ns)
        )


def milliseconds_between(start_ns: int, end_ns: int) -> float | None:
    """Return the milliseconds between two times, None if one of them is unknown (0)."""
    return (end_ns - start_ns) / 1e6 if start_ns and end_ns else None


@dataclass
class ModelCall:
    """One model call.

    Attributes:
        start: The recorded begin.
        end: The recorded end; None if the log ends before it.
        messages: All messages of the request.
        request: The other arguments, by name; positional ones under "args".
        answer: The answer; a list of pieces if it was streamed, without the last ones if the log
            ends before the stream; None if there is none.
    """

    start: ModelStart
    end: ModelEnd | None
    messages: list[Value]
    request: JsonObject
    answer: Value

    @property
    def outcome(self) -> str:
        """One of ok, error and cancelled; open if the log ends before the call."""
        return "open" if self.end is None else self.end.outcome

    @property
    def is_streamed(self) -> bool | None:
        """Whether the answer was streamed; None if the log ends before that shows."""
        if self.end is None:
            return None if self.answer is None else True
        return self.end.is_streamed

    @property
    def has_answer(self) -> bool:
        """Whether there is an answer, or the first pieces of one."""
        return self.answer is not None if self.end is None else self.end.answer_data is not None


class Transcript:
    """An agent's episode, decoded when it is read.

    Args:
        events: The episode's events, in order.
        blob: Returns a value that the log stores once, by its digest.
        episode_id: The episode, for errors.
    """

    def __init__(
        self, events: Sequence[AgentEvent], blob: Callable[[bytes], bytes], episode_id: str = ""
    ) -> None:
        self._events = events
        self._blob = blob
        self._episode_id = episode_id
        self.task_start = next((event for event in events if isinstance(event, TaskStart)), None)

    @property
    def task(self) -> str:
        """The task's id."""
        return "" if self.task_start is None else self.task_start.task

    @property
    def world(self) -> str:
        """The world's class, as "module:Class"; "" if there was no world."""
        return "" if self.task_start is None else self.task_start.world

    @cached_property
    def attempts(self) -> list[Attempt]:
        """All attempts at tool calls, in the order in which they began."""
        by_key: dict[AttemptKey, Attempt] = {}
        n_changes = 0
        part_digests: dict[str, str] = {}
        state_digest: str | None = None
        for event in self._events:
            if isinstance(event, CallStart):
                key = (event.step, event.call, event.attempt)
                attempt = Attempt(
                    start=event,
                    end=None,
                    arguments=self.value(event.arguments_data),
                    retry_by=event.retry_by,
                )
                if event.attempt:
                    attempt.retry_of = (event.step, event.call, event.attempt - 1)
                by_key[key] = attempt
            elif isinstance(event, CallEnd):
                self._add_end(by_key, event, state_digest)
            elif isinstance(event, StateChange):
                part_digests[event.part] = event.digest
                state_digest = digest_of_parts(part_digests)
                if event.step >= 0:
                    self._add_changes(by_key, event, n_changes, state_digest)
                n_changes += 1
        attempts = list(by_key.values())
        _link_retries(attempts)
        _mark_recoveries(attempts)
        return attempts

    def _add_end(
        self, by_key: dict[AttemptKey, Attempt], event: CallEnd, state_digest: str | None
    ) -> None:
        attempt = by_key.get((event.step, event.call, event.attempt))
        # A damaged log may have lost the begin.
        if attempt is not None:
            attempt.end = event
            attempt.result = self.value(event.result_data)
            attempt.state_digest = state_digest

    def _add_changes(
        self,
        by_key: dict[AttemptKey, Attempt],
        event: StateChange,
        index: int,
        state_digest: str | None,
    ) -> None:
        attempt = by_key.get((event.step, event.call, event.attempt))
        if attempt is None:
            return
        attempt.changes[event.part] = self.history.changes(index)
        if not self.history.has_typed_paths(index):
            attempt.open_paths.add(event.part)
        attempt.digests[event.part] = event.digest
        attempt.state_digest = state_digest
        if event.note:
            attempt.notes.append(event.note)

    @cached_property
    def model_calls(self) -> list[ModelCall]:
        """All model calls, in order."""
        calls: dict[int, ModelCall] = {}
        for event in self._events:
            if isinstance(event, ModelStart):
                # A request repeats the first messages of an earlier one, which are stored once.
                base = calls.get(event.base)
                repeated = [] if base is None else base.messages[: event.kept]
                new = [self.value(message) for message in event.messages]
                request = self.value(event.request_data)
                fields = dict(request["kwargs"])
                if request["args"]:
                    fields["args"] = request["args"]
                calls[event.number] = ModelCall(
                    start=event,
                    end=None,
                    messages=[*repeated, *new],
                    request=fields,
                    answer=None,
                )
            elif isinstance(event, AnswerPart) and event.number in calls:
                call = calls[event.number]
                call.answer = [*(call.answer or ()), *self.value(event.data)]
            elif isinstance(event, ModelEnd) and event.number in calls:
                call = calls[event.number]
                call.end = event
                answer = self.value(event.answer_data)
                # Of a long stream, the parts come before.
                has_parts = event.is_streamed and call.answer is not None
                call.answer = [*call.answer, *answer] if has_parts else answer
        return list(calls.values())

    @property
    def side_effects(self) -> list[SideEffect]:
        """Values that came from outside, in order."""
        return [event for event in self._events if isinstance(event, SideEffect)]

    @cached_property
    def side_effect_steps(self) -> list[int]:
        """The step of each value from outside: that of the next call, which it may decide."""
        steps = [event.step for event in self._events if isinstance(event, (CallStart, ModelStart))]
        next_step = max(steps, default=-1) + 1
        backwards = []
        for event in reversed(self._events):
            if isinstance(event, (CallStart, ModelStart)):
                next_step = event.step
            elif isinstance(event, SideEffect):
                backwards.append(next_step)
        return backwards[::-1]

    @cached_property
    def history(self) -> StateHistory:
        """The states of the world, rebuilt from its changes."""
        events = [event for event in self._events if isinstance(event, StateChange)]
        return StateHistory(events, self.value, self._episode_id)

    @cached_property
    def initial_state(self) -> dict[str, Value]:
        """The parts of the state after the reset."""
        return {event.part: self.value(event.data) for event in self._initial_events()}

    @property
    def initial_digests(self) -> dict[str, str]:
        """Digests of the parts of the state after the reset."""
        return {event.part: event.digest for event in self._initial_events()}

    def _initial_events(self) -> list[StateChange]:
        return [
            event for event in self._events if isinstance(event, StateChange) and event.step < 0
        ]

    def state(self, step: int) -> dict[str, Value]:
        """Return the parts of the state when a step began, as plain data of its own.

        Args:
            step: The step; the number of steps for the last state.

        Raises:
            StateUnknownError: A part was not captured, or the recorded changes do not lead to its
                recorded digest.
        """
        n_changes = 0
        for event in self._events:
            if isinstance(event, (CallStart, ModelStart)) and event.step >= step:
                break
            n_changes += isinstance(event, StateChange)
        return self.history.state(n_changes, step)

    def state_after(self, attempt: Attempt) -> dict[str, Value]:
        """Return the parts of the state at the end of an attempt.

        Raises:
            StateUnknownError: See `state`.
        """
        n_changes = 0
        is_over = False
        for event in self._events:
            if isinstance(event, StateChange):
                if is_over and (event.step, event.call, event.attempt) != attempt.key:
                    break
                n_changes += 1
            elif is_over:
                break
            # The changes of an attempt stand behind its end.
            is_over = is_over or event is attempt.end
        return self.history.state(n_changes, attempt.start.step)

    @property
    def state_digest(self) -> str | None:
        """Digest of all parts of the last state, as checks store it; None if a part is unknown."""
        changes = [event for event in self._events if isinstance(event, StateChange)]
        return digest_of_parts({event.part: event.digest for event in changes})

    def value(self, data: bytes | None) -> Value:
        """Return an encoded value, with references replaced by the values that they refer to."""
        return None if data is None else self._resolve(codec.decode(data))

    def _resolve(self, value: Value) -> Value:
        if isinstance(value, Ref):
            return self._resolve(codec.decode(self._blob(value.digest)))
        if isinstance(value, dict):
            return {key: self._resolve(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._resolve(item) for item in value)
        if isinstance(value, Plain):
            fields = {key: self._resolve(item) for key, item in value.fields.items()}
            return Plain(value.type_name, value.kind, fields)
        return value


def _link_retries(attempts: Sequence[Attempt]) -> None:
    """Mark the retries of the agent: a call of a tool whose last call failed."""
    last: dict[str, Attempt] = {}
    for attempt in attempts:
        before = last.get(attempt.tool)
        is_other_call = before is not None and before.key[:2] != attempt.key[:2]
        if attempt.retry_of is None and before is not None and before.has_failed and is_other_call:
            attempt.retry_of = before.key
            attempt.retry_by = "agent"
        last[attempt.tool] = attempt


def _mark_recoveries(attempts: Sequence[Attempt]) -> None:
    """Mark the failed attempts in whose line of retries one succeeded."""
    by_key = {attempt.key: attempt for attempt in attempts}
    for attempt in attempts:
        if attempt.outcome != "ok":
            continue
        failed = by_key.get(attempt.retry_of) if attempt.retry_of else None
        while failed is not None and failed.has_failed:
            failed.recovered_at = attempt.start.step
            failed.recovered_by = attempt.retry_by
            failed = by_key.get(failed.retry_of) if failed.retry_of else None


def argument_changes(attempts: Sequence[Attempt]) -> dict[AttemptKey, list[Change]]:
    """Return the changes from the arguments of a failed attempt to those of its retry, by retry."""
    by_key = {attempt.key: attempt for attempt in attempts}
    return {
        attempt.key: diff(by_key[attempt.retry_of].arguments, attempt.arguments)
        for attempt in attempts
        if attempt.retry_of in by_key
    }
