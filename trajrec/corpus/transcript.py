"""What an agent did, from the events of its episode: attempts, retries and recoveries, model calls, what the state was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from trajrec.errors import CorpusError
from trajrec.log.events import (
    AgentEvent,
    CallEnd,
    CallStart,
    EffectValue,
    ModelEnd,
    ModelStart,
    StateChange,
    TaskStart,
)
from trajrec.values import codec
from trajrec.values.codec import Plain, Ref
from trajrec.values.diff import MISSING, Change, apply, diff

Place = tuple[int, int]
"""Step and call."""


@dataclass
class Attempt:
    """One try at a tool call.

    Attributes:
        outcome: ok, error, timeout, cancelled; open where the log ends before it did.
        retry_of: The call that this one tries again, by who made it; None for the first attempt of a call that repeats nothing.
        retry_by: agent, scaffold, transport or harness; "" where it repeats nothing.
        changes: What it changed, by part of the state; `digests` has the digests of these parts afterwards.
    """

    start: CallStart
    end: CallEnd | None
    arguments: Any
    result: Any = None
    retry_of: tuple[int, int, int] | None = None
    retry_by: str = ""
    recovered_at: int | None = None
    recovered_by: str = ""
    changes: dict[str, list[Change]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    state_digest: str | None = None

    @property
    def place(self) -> tuple[int, int, int]:
        """Step, call and attempt."""
        return self.start.step, self.start.call, self.start.attempt

    @property
    def tool(self) -> str:
        """The tool's name."""
        return self.start.tool

    @property
    def outcome(self) -> str:
        """What came of it."""
        return "open" if self.end is None else self.end.outcome

    @property
    def has_failed(self) -> bool:
        """Whether it came to an end that is no success."""
        return self.end is not None and self.end.outcome != "ok"

    @property
    def latency_ms(self) -> float | None:
        """How long it took; None where it was open."""
        return None if self.end is None else (self.end.time_ns - self.start.time_ns) / 1e6


@dataclass
class ModelCall:
    """One model call.

    Attributes:
        messages: The messages of the request, whole.
        request: The other arguments, by name; positional ones under "args".
        answer: What came back; a list of pieces where it was streamed; None where nothing did.
    """

    start: ModelStart
    end: ModelEnd | None
    messages: list[Any]
    request: dict[str, Any]
    answer: Any

    @property
    def outcome(self) -> str:
        """What came of it; open where the log ends before it did."""
        return "open" if self.end is None else self.end.outcome


class Transcript:
    """An agent's episode.

    Args:
        events: The episode's events, in order.
        blob: Finds values that are stored once a log, by their digest.
    """

    def __init__(self, events: Sequence[AgentEvent], blob: Callable[[bytes], bytes]) -> None:
        self._events, self._blob = events, blob
        self.task_start = next((event for event in events if isinstance(event, TaskStart)), None)

    @property
    def task(self) -> str:
        """The task's id."""
        return "" if self.task_start is None else self.task_start.task

    @property
    def world(self) -> str:
        """The world's class, as "module:Class"; "" where there was none."""
        return "" if self.task_start is None else self.task_start.world

    @cached_property
    def attempts(self) -> list[Attempt]:
        """Every attempt at a tool call, in the order in which they began."""
        found: dict[tuple[int, int, int], Attempt] = {}
        for event in self._events:
            if isinstance(event, CallStart):
                place = event.step, event.call, event.attempt
                found[place] = Attempt(
                    event, None, self.value(event.arguments_data), retry_by=event.retry_by
                )
                if event.attempt:
                    found[place].retry_of = (event.step, event.call, event.attempt - 1)
            elif isinstance(event, CallEnd):
                attempt = found.get((event.step, event.call, event.attempt))
                if attempt is not None:
                    attempt.end = event
                    attempt.result = self.value(event.result_data)
            elif isinstance(event, StateChange) and event.step >= 0:
                attempt = found.get((event.step, event.call, event.attempt))
                if attempt is not None:
                    attempt.changes[event.part] = self._changes(event)
                    attempt.digests[event.part] = attempt.state_digest = event.digest
                    if event.note:
                        attempt.notes.append(event.note)
        attempts = list(found.values())
        _link(attempts)
        return attempts

    @cached_property
    def model_calls(self) -> list[ModelCall]:
        """Every model call, in order."""
        found: dict[int, ModelCall] = {}
        for event in self._events:
            if isinstance(event, ModelStart):
                earlier = found.get(event.base)
                kept = [] if earlier is None else earlier.messages[: event.kept]
                request = self.value(event.request_data)
                fields = {
                    **request["kwargs"],
                    **({"args": request["args"]} if request["args"] else {}),
                }
                messages = [*kept, *(self.value(message) for message in event.messages)]
                found[event.number] = ModelCall(event, None, messages, fields, None)
            elif isinstance(event, ModelEnd) and event.number in found:
                found[event.number].end = event
                found[event.number].answer = self.value(event.answer_data)
        return list(found.values())

    @property
    def side_effects(self) -> list[EffectValue]:
        """Values that came from outside, in order."""
        return [event for event in self._events if isinstance(event, EffectValue)]

    @cached_property
    def side_effect_steps(self) -> list[int]:
        """The step that each value from outside is of: that of the call or model call that comes next, which it may decide."""
        steps = [event.step for event in self._events if isinstance(event, (CallStart, ModelStart))]
        found, following = [], max(steps, default=-1) + 1
        for event in reversed(self._events):
            if isinstance(event, (CallStart, ModelStart)):
                following = event.step
            elif isinstance(event, EffectValue):
                found.append(following)
        return found[::-1]

    @cached_property
    def initial_state(self) -> dict[str, Any]:
        """The parts of the state after the reset."""
        first = [
            event for event in self._events if isinstance(event, StateChange) and event.step < 0
        ]
        return {event.part: self.value(event.data) for event in first}

    def state(self, step: int) -> dict[str, Any]:
        """Return the parts of the state before a step, as plain data; `step` may be the number of steps, for the last state.

        Raises:
            CorpusError: A change was recorded without what changed, so that the state is not known from there on.
        """
        return self._state([attempt for attempt in self._ended if attempt.start.step < step])

    def state_after(self, attempt: Attempt) -> dict[str, Any]:
        """Return the parts of the state as they were when an attempt had ended.

        Raises:
            CorpusError: As of `state`.
        """
        place = next(k for k, ended in enumerate(self._ended) if ended is attempt)
        return self._state(self._ended[: place + 1])

    @cached_property
    def _ended(self) -> list[Attempt]:
        """The attempts in the order in which they ended, which is that of their changes."""
        return sorted(self.attempts, key=lambda a: a.end.time_ns if a.end else 0)

    def _state(self, attempts: Sequence[Attempt]) -> dict[str, Any]:
        found = dict(self.initial_state)
        for attempt in attempts:
            for part, changes in attempt.changes.items():
                if not changes:
                    raise CorpusError(
                        f"step {attempt.start.step}: what changed in {part or 'the state'} was not recorded"
                    )
                found[part] = apply(found[part], changes)
        return found

    @property
    def initial_digests(self) -> dict[str, str]:
        """Digests of the parts of the state after the reset."""
        return {
            event.part: event.digest
            for event in self._events
            if isinstance(event, StateChange) and event.step < 0
        }

    @property
    def state_digest(self) -> str | None:
        """Digest of all parts of the last state, as checks have it; None where it is not known."""
        digests = {
            event.part: event.digest for event in self._events if isinstance(event, StateChange)
        }
        return codec.digest(sorted(digests.items())) if digests and all(digests.values()) else None

    def value(self, data: bytes | None) -> Any:
        """Return an encoded value, with what it refers to in its place."""
        return None if data is None else self._resolved(codec.decode(data))

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, Ref):
            return self._resolved(codec.decode(self._blob(value.digest)))
        if isinstance(value, dict):
            return {key: self._resolved(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._resolved(item) for item in value)
        if isinstance(value, Plain):
            return Plain(
                value.type_name,
                value.kind,
                {key: self._resolved(item) for key, item in value.fields.items()},
            )
        return value

    def _changes(self, event: StateChange) -> list[Change]:
        found = []
        for operation, path, *values in self.value(event.data) or ():
            before, after = {"add": (MISSING, *values), "remove": (*values, MISSING)}.get(
                operation
            ) or values
            found.append(Change(path, before, after))
        return found


def _link(attempts: list[Attempt]) -> None:
    """Find who tried again what, and where a failure was overcome.

    An agent tries again when it calls a tool whose last call failed. A failure is overcome where its line of tries succeeds.
    """
    last: dict[str, Attempt] = {}
    by_place = {attempt.place: attempt for attempt in attempts}
    for attempt in attempts:
        before = last.get(attempt.tool)
        if (
            attempt.retry_of is None
            and before is not None
            and before.has_failed
            and before.place[:2] != attempt.place[:2]
        ):
            attempt.retry_of, attempt.retry_by = before.place, "agent"
        last[attempt.tool] = attempt
    for attempt in attempts:
        if attempt.outcome != "ok":
            continue
        by, earlier = attempt.retry_by, by_place.get(attempt.retry_of) if attempt.retry_of else None
        while earlier is not None and earlier.has_failed:
            earlier.recovered_at, earlier.recovered_by = attempt.start.step, by
            earlier = by_place.get(earlier.retry_of) if earlier.retry_of else None


def argument_changes(attempts: Sequence[Attempt]) -> dict[tuple[int, int, int], list[Change]]:
    """Return how the arguments of each retry differ from those of what it tries again."""
    by_place = {attempt.place: attempt for attempt in attempts}
    return {
        attempt.place: diff(by_place[attempt.retry_of].arguments, attempt.arguments)
        for attempt in attempts
        if attempt.retry_of in by_place
    }
