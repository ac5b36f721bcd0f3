"""Records the episodes of an environment: their resets, special steps, failures and ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from trajrec.envstate.results import as_flag
from trajrec.errors import EnvContractError
from trajrec.log.events import Redaction, StepValues, TaskStart
from trajrec.log.items import Entry, Reset, encode_row
from trajrec.log.schema import Ending, EpisodeEnd, EpisodeStart, Event, Fork, Keyframe, episode_id
from trajrec.log.writer import LogWriter
from trajrec.protocols import Verifier
from trajrec.recording.buffer import (
    BETWEEN_CALLS,
    NO_EPISODE,
    NOT_RECORDED,
    PENDING,
    RESETTING,
    SKIPPED,
    UNFINISHED,
    StepBuffer,
    make_entry,
)
from trajrec.recording.episode_events import check_events, failure_event
from trajrec.recording.faults import Fault, StepPart, fault_of, fault_of_step
from trajrec.recording.keyframe_schedule import KeyframeSchedule
from trajrec.redaction.redactor import Redactor
from trajrec.types import Action, AnyEnv, Info, Observation, Value
from trajrec.values import codec

StepResult: TypeAlias = tuple[Observation, Any, bool, bool, Info]


class EpisodeWriter:
    """Records the episodes of one environment into one log.

    An exception may come at any point. So each method changes the record by one append at a time,
    and `mend` completes the record of a call that was broken off.

    Args:
        env: The environment, with its wrappers.
        buffer: The buffer of the log.
        writer: The writer of the log.
        checks: Verifiers, run at the end of each episode that was not cut off.
        capture: Returns the state, None if none is recorded.
        clock_ns: Returns the wall-clock time in ns.
        redactor: Takes the secrets out of values.
        primary: Id of the check that decides the outcome.

    Attributes:
        number: The number of the current or last episode, -1 before the first.
        last_recorded: The number of the last episode that is in the log, -1 before the first.
        n_recorded: How many episodes are in the log.
    """

    def __init__(
        self,
        env: AnyEnv,
        buffer: StepBuffer,
        writer: LogWriter,
        *,
        checks: Sequence[Verifier],
        capture: Callable[[], Value] | None,
        clock_ns: Callable[[], int],
        redactor: Redactor,
        primary: str = "",
    ) -> None:
        self.number = -1
        self.last_recorded = -1
        self.n_recorded = 0
        # An episode without steps takes its number with it: an id names one reset.
        self._next_number = 0
        # The items of a reset whose first step has not come.
        self._pending: list[Entry | Reset] | None = None
        self._env = env
        self._buffer = buffer
        self._writer = writer
        self._checks = tuple(checks)
        self._capture = capture
        self._clock_ns = clock_ns
        self._redactor = redactor
        self._primary = primary
        self._has_failed = False
        # The component to blame if the episode ends by an error.
        self._fault: Fault = ""
        # The end of an episode whose last step is recorded: (ending, terminated, truncated).
        self._due_end: tuple[Ending, bool, bool] | None = None
        self._keyframes = KeyframeSchedule(env)
        # The first step of the episode: of a fork, the step at which it was forked.
        self._first_step = 0

    @property
    def id(self) -> str | None:
        """Id of the current or last episode; None before the first."""
        return None if self.number < 0 else episode_id(self._writer.header.log_id, self.number)

    @property
    def is_open(self) -> bool:
        """Whether an episode has begun and not ended."""
        if self._buffer.begun == PENDING:
            return self._pending is not None
        return self._buffer.position.is_open and self._due_end is None

    def new_episode(self) -> int:
        """Return the number of the next episode."""
        self.number = self._next_number
        self._next_number += 1
        self._has_failed = False
        self._fault = ""
        return self.number

    def begin(
        self,
        start: EpisodeStart,
        obs: Observation,
        *,
        n_secrets: Mapping[str, int],
        task: TaskStart | None = None,
        fork: Fork | None = None,
    ) -> None:
        """Take the events of a reset or of a fork, and the first observation and state.

        A fork is recorded now. A reset is recorded with its first step: loops that reset at once
        after an episode's end would leave an abandoned episode without steps when they stop.

        `n_secrets` has the number of secrets that the options and the info of the reset had.
        """
        buffer = self._buffer
        self._pending = None
        buffer.begun = RESETTING
        # The event before the observation: a reader that sees an episode's rows has seen its start.
        events = self._start_events(start, n_secrets, task)
        if fork is not None:
            events.append(fork)
        first_step = 0 if fork is None else fork.step
        row = buffer.take_reset(obs, self.number, first_step)
        self._keyframes.begin_episode(first_step)
        self._first_step = first_step
        self._pending = [*map(make_entry, events), *row]
        if fork is None:
            buffer.end_call(PENDING)
        else:
            self.begin_pending()

    def begin_pending(self) -> None:
        """Record the reset of an episode, because its first step comes."""
        buffer = self._buffer
        if self._pending is None:
            # The call that dropped it was interrupted.
            self._drop_pending()
            return
        buffer.begun = RESETTING
        buffer.add_others(self._pending)
        self._end_pending()

    def _end_pending(self) -> None:
        """Note that the reset of an episode is recorded."""
        self._count_recorded()
        self._buffer.end_call()
        self._pending = None

    def _drop_pending(self) -> None:
        """Forget a reset that no step followed."""
        buffer = self._buffer
        self._pending = None
        if buffer.has_pixels:
            # The change of pixels was taken, and no row has it.
            buffer.begin_block()
        self.number = self.last_recorded
        buffer.end_call(NO_EPISODE)

    def _count_recorded(self) -> None:
        if self.last_recorded != self.number:
            self.last_recorded = self.number
            self.n_recorded += 1

    def fail_reset(
        self,
        start: EpisodeStart,
        phase: Literal["reset", "state"],
        exc: BaseException,
        *,
        n_secrets: Mapping[str, int],
        task: TaskStart | None = None,
    ) -> None:
        """Record an episode that never began; `n_secrets` is as for `begin`."""
        buffer = self._buffer
        self._pending = None
        buffer.begun = RESETTING
        if buffer.has_pixels:
            buffer.begin_block()
        if not buffer.position.is_open:
            buffer.add_others([*map(make_entry, self._start_events(start, n_secrets, task))])
        self._count_recorded()
        self._fault = fault_of(exc, is_of_env=phase == "reset")
        buffer.add_event(
            failure_event(
                exc,
                episode=self.number,
                step=-1,
                time_ns=self._clock_ns(),
                phase=phase,
                origin="env",
                redactor=self._redactor,
            )
        )
        self._add_end(0, "error", False, False)
        buffer.end_call(NO_EPISODE)

    def add_special_step(self, action_part: Any, result: StepResult) -> None:
        """Record a step with an info, the first one of a block, or the last of an episode."""
        buffer = self._buffer
        takes = buffer.takes
        obs, reward, terminated_value, truncated_value, info = result
        terminated = as_flag(terminated_value, "terminated")
        truncated = as_flag(truncated_value, "truncated")
        is_over = terminated or truncated
        is_first = buffer.next_number == buffer.block.first_number
        row = (
            action_part,
            takes.obs(obs),
            takes.reward(reward),
            takes.state(),
            *takes.extras(info, with_state=is_over or is_first),
        )
        if not is_over:
            buffer.add_encoded(encode_row(row), buffer.next_number)
            return
        # Before the row: if an exception comes in between, the next call ends the episode.
        ending: Ending = "terminated" if terminated else "truncated"
        self._due_end = (ending, terminated, truncated)
        buffer.add_last_row(row)
        self._end_due()

    def fail_step(self, exc: BaseException, origin: StepPart, action: Action) -> None:
        """Record a step without an observation: the environment raised, or the recorder did."""
        buffer = self._buffer
        self._fault = fault_of_step(exc, origin, env=self._env, action=action)
        self._add_failure(exc, origin)
        if origin == "scaffold" and buffer.has_pixels:
            # A change of pixels was perhaps taken that no row has.
            buffer.begin_block()
        buffer.end_call()

    def annotate(self, values: Mapping[str, Value]) -> None:
        """Record named values of the last step.

        Raises:
            EnvContractError: No step has been taken since the reset.
            EncodeError: A value cannot be stored.
        """
        self.mend()
        buffer = self._buffer
        begun = buffer.begun
        if begun in (NOT_RECORDED, SKIPPED) or self._writer.has_stopped:
            return
        if self._writer.is_closed:
            raise EnvContractError("annotate came after close, when the log is sealed")
        # Not `self.number`: a reset that raised early has a number, and no step.
        episode, n_steps, _ = buffer.position
        step = n_steps - 1
        if begun == PENDING or episode < 0 or step < self._first_step:
            raise EnvContractError("annotate came before the first step: call it after env.step")
        cleaned, n_secrets = self._redactor.redacted(dict(values), where="values", opaque=False)
        data = codec.encode(cleaned, where=f"values of step {step}")
        buffer.begun = UNFINISHED
        buffer.add_event(StepValues(episode, step, data))
        if n_secrets:
            buffer.add_event(Redaction(episode, step, "values", n_secrets))
        buffer.end_call(begun)

    def end_block(self) -> None:
        """End a full block in the middle of an episode, perhaps with a keyframe."""
        buffer = self._buffer
        n_steps = buffer.position.step
        if n_steps >= self._keyframes.due_step:
            data = self._keyframes.take(n_steps)
            # A state without its secrets leads nowhere.
            if data is not None and not self._redactor.redacted(codec.decode(data))[1]:
                buffer.begun = UNFINISHED
                buffer.add_event(Keyframe(self.number, n_steps, data))
                buffer.end_call()
        buffer.next_block()

    def end_unfinished(self) -> None:
        """End the episode that a reset, a fork or `close` cuts off; forget one without steps."""
        if self._buffer.begun == PENDING:
            self._drop_pending()
        elif self._buffer.begun != NO_EPISODE and self._buffer.position.is_open:
            self._due_end = ("error" if self._has_failed else "abandoned", False, False)
            self._buffer.begun = UNFINISHED
            self._end_due()

    def mend(self) -> None:
        """Complete the record of a call that an exception has broken off.

        An exception may come at any point, for instance by Ctrl-C, also while another one is being
        recorded. The call that it has interrupted may have left a step unrecorded.
        """
        buffer = self._buffer
        begun = buffer.begun
        if begun is None or begun in BETWEEN_CALLS:
            return
        if begun == RESETTING and self._pending is not None and not buffer.position.is_open:
            # Not before a row is recorded: `resume` begins a block, which this reset would not fit.
            buffer.end_call(PENDING)
            return
        buffer.resume()
        if begun == RESETTING and self._pending is not None:
            self._end_pending()
            return
        if begun >= buffer.next_number:
            self._due_end = None
            self._add_failure(_BrokenOffError(), "scaffold")
        if begun == RESETTING and buffer.position.is_open:
            self._due_end = ("abandoned", False, False)
        if self._due_end is not None:
            self._end_due()
        else:
            buffer.end_call(None if buffer.position.is_open else NO_EPISODE)

    def _start_events(
        self, start: EpisodeStart, n_secrets: Mapping[str, int], task: TaskStart | None
    ) -> list[Event]:
        """Return the event of a reset, its task, and the secrets that options and info had."""
        events: list[Event] = [start]
        if task is not None:
            events.append(task)
        events.extend(Redaction(self.number, -1, name, n) for name, n in n_secrets.items() if n)
        return events

    def _end_due(self) -> None:
        """Record the end of the episode, which `_due_end` describes, and judge its last state."""
        assert self._due_end is not None
        buffer = self._buffer
        ending, terminated, truncated = self._due_end
        position = buffer.position
        if position.is_open:
            self._add_end(position.step, ending, terminated, truncated)
        # Not before: if an exception comes earlier, the next call ends the episode.
        self._due_end = None
        # An episode that was cut off has no last state to judge.
        if self._checks and ending in ("terminated", "truncated"):
            for event in check_events(
                self._checks,
                self._env,
                episode=self.number,
                step=position.step,
                clock_ns=self._clock_ns,
                capture=self._capture,
                redactor=self._redactor,
                primary=self._primary,
            ):
                buffer.add_event(event)
        if self._writer.durability == "machine":
            self._writer.flush()
        if buffer.next_number > buffer.limit:
            buffer.next_block()
        buffer.end_call(NO_EPISODE)

    def _add_end(self, n_steps: int, ending: Ending, terminated: bool, truncated: bool) -> None:
        self._buffer.add_event(
            EpisodeEnd(
                episode=self.number,
                time_ns=self._clock_ns(),
                n_steps=n_steps,
                ending=ending,
                terminated=terminated,
                truncated=truncated,
                fault=self._fault if ending == "error" else "",
            )
        )

    def _add_failure(self, exc: BaseException, origin: Literal["env", "scaffold"]) -> None:
        """Record a step that failed. It counts as a step, because the environment may have moved."""
        self._has_failed = True
        self._buffer.drop_redactions()
        self._buffer.add_event(
            failure_event(
                exc,
                episode=self.number,
                step=self._buffer.position.step,
                time_ns=self._clock_ns(),
                phase="step",
                origin=origin,
                redactor=self._redactor,
                action_data=self._buffer.action_data(),
            )
        )


class _BrokenOffError(Exception):
    """An exception has broken off the record of a step, so that its values are missing."""

    def __str__(self) -> str:
        return str(self.__doc__)
