"""An agent's episode from its events: attempts, retries, recoveries, model calls and states."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from trajrec.corpus.alternatives import mark_taken
from trajrec.corpus.attempts import Attempt as Attempt
from trajrec.corpus.attempts import AttemptKey as AttemptKey
from trajrec.corpus.attempts import link_retries, mark_recoveries
from trajrec.corpus.cached import cached_property
from trajrec.corpus.http_exchanges import OF_EXCHANGES, HttpExchange, read_exchanges
from trajrec.corpus.model_calls import OF_MODELS, read_model_calls
from trajrec.corpus.model_calls import ModelCall as ModelCall
from trajrec.corpus.program_changes import ProgramChange, joined_changes, program_changes
from trajrec.corpus.said_messages import SaidMessage, said_messages
from trajrec.corpus.state_history import StateHistory
from trajrec.corpus.state_positions import StatePosition, StatePositions
from trajrec.corpus.stored_values import StoredValues
from trajrec.corpus.watched_state import WatchedState
from trajrec.corpus.wire_attempts import add_wire_attempts
from trajrec.errors import StateUnknownError
from trajrec.log.events import (
    PROGRAM,
    AgentEvent,
    Blob,
    CallEnd,
    CallStart,
    Redaction,
    SideEffect,
    StateChange,
    TaskStart,
    is_at_reset,
    step_of_request,
)
from trajrec.log.open_ends import is_open_end
from trajrec.log.schema import EpisodeEnd
from trajrec.log.source_facts import messages_of
from trajrec.tracking.parts import digest_of_parts
from trajrec.types import Value
from trajrec.values.diff import Change


def _is_reported(event: AgentEvent) -> bool:
    return type(event) is StateChange and event.origin == "reported"


class Transcript:
    """An agent's episode, decoded when it is read.

    Args:
        events: The episode's events, in order.
        values: Decodes their values.
        episode_id: The episode, for errors.
        ending: Returns how the episode ended.
        end: The end of the episode.
        losses: Numbers of events behind which the log may have lost others.

    Attributes:
        reported_changes: Changes of the state that an imported record reports. They prove nothing,
            so that no state is made of them.
    """

    def __init__(
        self,
        events: Sequence[AgentEvent],
        values: StoredValues,
        episode_id: str = "",
        *,
        ending: Callable[[], str] = str,
        end: EpisodeEnd | None = None,
        losses: Sequence[int] = (),
    ) -> None:
        self._ending = ending
        self._end = end
        self._values = values
        self._episode_id = episode_id
        # Most episodes have few kinds of events: whole passes over them are spared.
        self._kinds = frozenset(map(type, events))
        self.reported_changes: list[StateChange] = []
        if StateChange in self._kinds:
            self.reported_changes = [
                event for event in events if type(event) is StateChange and _is_reported(event)
            ]
        if self.reported_changes:
            losses = [n - sum(map(_is_reported, events[:n])) for n in losses]
            events = [event for event in events if not _is_reported(event)]
        self._events = events
        self._losses = losses
        self.task_start = next((event for event in events if isinstance(event, TaskStart)), None)

    @property
    def task(self) -> str:
        """The task's id."""
        return "" if self.task_start is None else self.task_start.task

    @property
    def metadata(self) -> Value:
        """The metadata that the recorder was given; None if it was given none."""
        return self.value(None if self.task_start is None else self.task_start.metadata_data)

    @property
    def world(self) -> str:
        """The world's class, as "module:Class"; "" if there was no world."""
        return "" if self.task_start is None else self.task_start.world

    @cached_property
    def attempts(self) -> list[Attempt]:
        """All attempts at tool calls: those that were recorded, and those that model calls tell."""
        attempts = self.recorded_attempts
        if OF_EXCHANGES & self._kinds:
            attempts = add_wire_attempts(attempts, self.model_calls)
        link_retries(attempts)
        mark_recoveries(attempts)
        return attempts

    @cached_property
    def recorded_attempts(self) -> list[Attempt]:
        """The attempts that were recorded as they ran, in the order in which they began."""
        task = self.task_start
        # Its own values may come before it.
        first = next((e for e in self._events if type(e) not in (Blob, Redaction)), None)
        if task is not None and first is not task:
            # Frames of a damaged log may have changed places.
            self._values.report(task, "an event before the start of its task")
        by_key: dict[AttemptKey, Attempt] = {}
        n_changes = 0
        state = WatchedState()
        for event in self._events:
            if isinstance(event, CallStart):
                key = (event.step, event.call, event.attempt)
                attempt = Attempt(
                    start=event,
                    end=None,
                    arguments=self._values.decode_as(dict, event.arguments_data, {}),
                    retry_by=event.retry_by,
                )
                if event.attempt:
                    attempt.retry_of = (event.step, event.call, event.attempt - 1)
                if key in by_key:
                    self._values.report(event, f"a second start of attempt {key}")
                    continue
                by_key[key] = attempt
            elif isinstance(event, CallEnd):
                self._add_end(by_key, event, state)
            elif isinstance(event, StateChange):
                is_same = state.change(event)
                if event.step >= 0 and event.actor != PROGRAM:
                    self._add_changes(by_key, event, n_changes, state, is_same=is_same)
                n_changes += 1
        attempts = list(by_key.values())
        if self._has_assumptions or self._losses:
            self._positions.mark(attempts)
        if self.task_start is None:
            # It names the parts: a digest of those that are left would be of no state.
            for attempt in attempts:
                attempt.state_digest = None
        return attempts

    def _add_end(
        self, by_key: dict[AttemptKey, Attempt], event: CallEnd, state: WatchedState
    ) -> None:
        attempt = by_key.get((event.step, event.call, event.attempt))
        if attempt is None or attempt.end is not None:
            # A damaged log may have lost the begin.
            self._values.report(event, "an end of an attempt that is not open")
            return
        attempt.result = self._values.decode(event.result_data)
        if is_open_end(event.extra_data):
            attempt.left_ns = event.time_ns
            return
        attempt.end = event
        attempt.state_digest = state.digest()

    def _add_changes(
        self,
        by_key: dict[AttemptKey, Attempt],
        event: StateChange,
        index: int,
        state: WatchedState,
        *,
        is_same: bool,
    ) -> None:
        attempt = by_key.get((event.step, event.call, event.attempt))
        if attempt is None:
            self._values.report(event, "a change by an attempt that has no start")
            return
        attempt.digests[event.part] = event.digest
        if is_same and event.data is None:
            # No change, but the proof that there was none.
            return
        changes, has_typed_paths = self.history.changes(index)
        # A call that calls another tool has the changes before that one, and those after it.
        attempt.changes[event.part] = joined_changes(attempt.changes.get(event.part, []), changes)
        if not has_typed_paths:
            attempt.open_paths.add(event.part)
        if attempt.end is not None:
            attempt.state_digest = state.digest()
        if event.note:
            attempt.notes.append(event.note)

    @cached_property
    def exchanges(self) -> list[HttpExchange]:
        """All HTTP exchanges that a tap has seen, in the order in which they began."""
        return read_exchanges(self._events, self._values) if self._kinds & OF_EXCHANGES else []

    @cached_property
    def model_calls(self) -> list[ModelCall]:
        """All model calls, in order: those by `ep.model`, and those that a tap has seen."""
        if not self._kinds & OF_MODELS:
            return []
        calls = read_model_calls(self._events, self._values, self.exchanges)
        mark_taken(calls, lambda: self.recorded_attempts)
        return calls

    @cached_property
    def messages(self) -> list[SaidMessage]:
        """The messages of the conversations with models, each once, in order."""
        rest = self._rest_of_conversation
        if not self.model_calls and not rest:
            return []
        return said_messages(self.model_calls, rest, self._end.n_steps if self._end else 0)

    @property
    def _rest_of_conversation(self) -> list[Value]:
        """The messages behind the last model call, which an imported record may have."""
        if self._end is None or self._end.extra_data is None:
            return []
        return messages_of(self._values.decode(self._end.extra_data))

    @property
    def side_effects(self) -> list[SideEffect]:
        """Values that came from outside, in order."""
        if SideEffect not in self._kinds:
            return []
        return [event for event in self._events if isinstance(event, SideEffect)]

    @cached_property
    def side_effect_steps(self) -> list[int]:
        """The step of each value from outside: that of the next call, which it may decide."""
        next_step = max(map(step_of_request, self._events), default=-1) + 1
        backwards = []
        for event in reversed(self._events):
            step = step_of_request(event)
            if step >= 0:
                next_step = step
            elif isinstance(event, SideEffect):
                backwards.append(next_step)
        return backwards[::-1]

    @cached_property
    def history(self) -> StateHistory:
        """The states of the world, rebuilt from its changes."""
        events = [event for event in self._events if isinstance(event, StateChange)]
        # Not `self.value`: the history would refer to this object, which refers to it.
        return StateHistory(events, self._values.decode, self._episode_id)

    @cached_property
    def program_changes(self) -> list[ProgramChange]:
        """The changes of the state that were made between the calls, in order."""
        if StateChange not in self._kinds:
            return []
        return program_changes(self._events, self.history)

    def state_changes(self) -> Iterator[tuple[StateChange, list[Change]]]:
        """Yield the changes of the state in the order of the log, each with its values."""
        events = (event for event in self._events if isinstance(event, StateChange))
        for index, event in enumerate(events):
            yield event, self.history.changes(index)[0]

    @cached_property
    def initial_state(self) -> dict[str, Value]:
        """The parts of the state after the reset."""
        return {event.part: self.value(event.data) for event in self._initial_events()}

    @property
    def initial_digests(self) -> dict[str, str]:
        """Digests of the parts of the state after the reset."""
        return {event.part: event.digest for event in self._initial_events()}

    def _initial_events(self) -> list[StateChange]:
        if StateChange not in self._kinds:
            return []
        return [e for e in self._events if type(e) is StateChange and is_at_reset(e)]

    def state(self, step: int) -> dict[str, Value]:
        """Return the parts of the state when a step began, as plain data of its own.

        Args:
            step: The step; the number of steps for the last state.

        Raises:
            StateUnknownError: A part was not captured, or the recorded changes do not lead to its
                recorded digest.
        """
        position = self._positions.before(step)
        if position is None:
            self._check_last(step)
            position = self._positions.last
        return self._state(position, step)

    def _state(self, position: StatePosition, step: int) -> dict[str, Value]:
        if self.task_start is None:
            # It names the parts: without it, a state that is lost reads as one without parts.
            raise StateUnknownError(
                "the log has lost the start of its task", episode_id=self._episode_id, step=step
            )
        unproved = position.unproved()
        if unproved is not None:
            raise StateUnknownError(
                unproved.reason, episode_id=self._episode_id, step=step, part=unproved.part
            )
        return self.history.state(position.n_changes, step)

    def state_at(self, n_changes: int, step: int) -> dict[str, Value]:
        """Return the parts of the state after some recorded changes.

        Args:
            n_changes: The number of the changes, with those of the reset.
            step: The step that the state belongs to, for errors.

        Raises:
            StateUnknownError: See `state`.
        """
        return self.history.state(n_changes, step)

    def n_changes_before(self, step: int) -> int:
        """Return the number of recorded changes, with those of the reset, when a step began."""
        return (self._positions.before(step) or self._positions.last).n_changes

    def digests_before(self, step: int) -> dict[str, str]:
        """Return the digests of the parts when a step began, as far as they are known."""
        changes = [event for event in self._events if isinstance(event, StateChange)]
        return {e.part: e.digest for e in changes[: self.n_changes_before(step)] if e.digest}

    def first_call_without(self, keys: Collection[AttemptKey]) -> AttemptKey | None:
        """Return the first call that began and is not one of some; None if there is none."""
        attempts = self.recorded_attempts
        return next((attempt.key for attempt in attempts if attempt.key not in keys), None)

    @property
    def _has_assumptions(self) -> bool:
        """Whether parts of the state were not compared after some calls, or were late."""
        return any(
            isinstance(event, (CallEnd, StateChange)) and event.extra_data is not None
            for event in self._events
        )

    @cached_property
    def _positions(self) -> StatePositions:
        return StatePositions(self._events, self._losses)

    def _check_last(self, step: int) -> None:
        """Refuse the state after a call whose changes the end of the process may have kept out.

        Raises:
            StateUnknownError: The end of a call is the last event of an episode that was cut off.
        """
        is_last = bool(self._events) and isinstance(self._events[-1], CallEnd)
        if is_last and self.initial_digests and self._ending() == "interrupted":
            raise StateUnknownError(
                "the process ended right after the last call, perhaps before its changes were "
                "recorded",
                episode_id=self._episode_id,
                step=step,
            )

    def state_after(self, attempt: Attempt) -> dict[str, Value]:
        """Return the parts of the state at the end of an attempt.

        Raises:
            StateUnknownError: See `state`.
        """
        return self._state(self._positions.after(attempt.key), attempt.start.step)

    @property
    def state_digest(self) -> str | None:
        """Digest of all parts of the last state, as checks store it; None if a part is unknown."""
        if self.task_start is None or self.assumed_at_end:
            return None
        changes = [event for event in self._events if isinstance(event, StateChange)]
        return digest_of_parts({event.part: event.digest for event in changes})

    @property
    def assumed_at_end(self) -> list[str]:
        """Parts that were not compared after the last calls, because the log ends before that."""
        return [assumption.part for assumption in self._positions.last.assumptions]

    def json(self, data: bytes | None, value: Value) -> str:
        """Return the value that some bytes encode as JSON text."""
        return self._values.json(data, value)

    def value(self, data: bytes | None) -> Value:
        """Return an encoded value, with references replaced by the values that they refer to.

        Raises:
            LogCorruptError: The log has lost the value, or holds none there.
        """
        return self._values.decode(data)
