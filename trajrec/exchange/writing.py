"""Turns imported episodes into the events of a log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from trajrec.exchange.records import (
    Call,
    Change,
    Effect,
    Fault,
    ImportedEpisode,
    Message,
    Note,
    Turn,
    Verdict,
)
from trajrec.exchange.turns import TurnWriter
from trajrec.exchange.values import ValueEncoder
from trajrec.log.events import CallEnd, CallStart, SideEffect, StateChange, StepValues, TaskStart
from trajrec.log.schema import Check, EpisodeEnd, EpisodeStart, Event, Failure, Fork, episode_id
from trajrec.log.source_facts import end_data, extra_data, source_data
from trajrec.redaction.redactor import Redactor
from trajrec.run_interface import interface
from trajrec.types import JsonObject, Value
from trajrec.values import codec

_NO_INFO = codec.encode({})


class EpisodeLogger:
    """Writes the episodes of one file.

    Args:
        add: Adds an event to the log.
        log_id: The log.
        source: The file, its digest and its format.
        redactor: Removes secrets; None leaves values as they are.

    Attributes:
        ids: The ids of the episodes, in order.
        n_steps: Their steps.
        n_calls: Their calls.
    """

    def __init__(
        self,
        add: Callable[[Event], None],
        log_id: str,
        *,
        source: JsonObject,
        redactor: Redactor | None,
    ) -> None:
        self._add = add
        self._log_id = log_id
        self._source = source
        self.values = ValueEncoder(add, redactor)
        self._numbers: dict[str, int] = {}
        self.ids: list[str] = []
        self.n_steps = 0
        self.n_calls = 0

    @property
    def n_redacted(self) -> int:
        """The number of values from which secrets were removed."""
        return self.values.n_redacted

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        return self.values.text(text)

    def write(self, episode: ImportedEpisode) -> None:
        """Write an episode.

        Raises:
            EncodeError: A value of it cannot be stored.
            LogWriteError: The log cannot be written.
        """
        number = len(self.ids)
        self._numbers[episode.position] = number
        self.ids.append(episode_id(self._log_id, number))
        writer = _EpisodeWriter(self._add, self.values, number)
        self._add(self._start(number, episode))
        if episode.fork is not None:
            self._add(self._fork(number, *episode.fork))
            writer.turns.step = episode.fork[1] - 1
        self._add(self._task_start(number, episode))
        writer.write(episode)
        first = 0 if episode.fork is None else episode.fork[1]
        self.n_steps += writer.turns.step + 1 - first
        self.n_calls += writer.n_calls

    def _start(self, number: int, episode: ImportedEpisode) -> EpisodeStart:
        return EpisodeStart(
            episode=number,
            time_ns=episode.start_ns,
            seed=episode.seed,
            seed_origin="none" if episode.seed is None else "caller",
            options_data=None,
            rng_data=None,
            info_data=_NO_INFO,
            extra_data=source_data({**self._source, "position": episode.position}),
        )

    def _fork(self, number: int, parent: str, step: int) -> Fork:
        return Fork(
            episode=number,
            parent_id=self.ids[self._numbers[parent]],
            step=step,
            kind="agent",
            noise="",
        )

    def _task_start(self, number: int, episode: ImportedEpisode) -> TaskStart:
        values = self.values
        caller = None if episode.caller is None else self._numbers.get(episode.caller)
        fields = None if episode.interface is None else interface(**episode.interface)
        return TaskStart(
            episode=number,
            task=values.text(episode.task),
            task_revision=values.text(episode.task_revision),
            goal_data=values.data_or_none(number, episode.goal),
            tools_data=values.data_or_none(number, episode.tools),
            interface_data=values.data_or_none(number, fields),
            metadata_data=values.data_or_none(number, episode.metadata),
            caller_id=None if caller is None else self.ids[caller],
            caller_step=None if caller is None else episode.caller_step,
            extra_data=extra_data(_stored(values, number, episode.extra)),
        )


class _EpisodeWriter:
    """Writes the items of one episode."""

    def __init__(self, add: Callable[[Event], None], values: ValueEncoder, number: int) -> None:
        self._add = add
        self._values = values
        self._number = number
        self.turns = TurnWriter(add, values, number)
        self._calls_of_step: dict[int, int] = {}
        self.n_calls = 0

    def write(self, episode: ImportedEpisode) -> None:
        """Write the items and the end."""
        for item in episode.items:
            # The most frequent first.
            if type(item) is Call:
                self._write_call(item)
            elif type(item) is Turn:
                self.turns.write(item)
            elif type(item) is Message:
                self.turns.hold(item)
            elif type(item) is Verdict:
                self._write_verdict(item)
            elif type(item) is Fault:
                self._write_fault(item)
            elif type(item) is Note:
                self._write_note(item)
            elif type(item) is Change:
                self._write_change(item)
            elif type(item) is Effect:
                self._write_effect(item)
        self._write_end(episode)

    @property
    def _step(self) -> int:
        """The step of what happens now: the last turn's, or 0 before the first."""
        return max(self.turns.step, 0)

    def _write_call(self, call: Call) -> None:
        number = self._number
        values = self._values
        step = self._step
        # A call before the first turn makes the step that it is in.
        self.turns.step = step
        index = self._calls_of_step.get(step, 0)
        self._calls_of_step[step] = index + 1
        self.n_calls += 1
        n_redacted = values.n_redacted
        arguments = values.data(number, call.arguments)
        self._add(
            CallStart(
                episode=number,
                step=step,
                call=index,
                attempt=0,
                time_ns=call.start_ns,
                tool=values.text(call.tool),
                call_id=values.text(call.call_id),
                arguments_data=arguments,
                access="unknown",
                invalid=values.text(call.invalid),
                is_redacted=values.n_redacted > n_redacted,
                actor=call.actor,
                extra_data=extra_data(_stored(values, number, call.extra)),
            )
        )
        if call.outcome != "open":
            self._write_result(call, step, index)

    def _write_result(self, call: Call, step: int, index: int) -> None:
        values = self._values
        number = self._number
        outcome: Literal["ok", "error", "timeout", "cancelled"] = "ok"
        if call.outcome not in ("unknown", "open"):
            outcome = call.outcome  # type: ignore[assignment]
        extra = _stored(values, number, call.result_extra)
        self._add(
            CallEnd(
                episode=number,
                step=step,
                call=index,
                attempt=0,
                time_ns=call.end_ns,
                outcome=outcome,
                result_data=values.data(number, call.result) if call.has_result else None,
                is_raised=call.is_raised,
                origin=call.origin if outcome != "ok" else "",
                error_type=values.text(call.error_type),
                message=values.text(call.error),
                extra_data=end_data(is_unknown=call.outcome == "unknown", extra=extra),
            )
        )

    def _write_verdict(self, verdict: Verdict) -> None:
        values = self._values
        number = self._number
        self._add(
            Check(
                episode=number,
                step=self.turns.step + 1 if verdict.step is None else verdict.step,
                time_ns=verdict.time_ns,
                check_id=values.text(verdict.check_id),
                version=values.text(verdict.version),
                family=verdict.family,
                phase=verdict.phase,
                status=verdict.status,
                verdict=verdict.verdict,
                score=verdict.score,
                evidence_data=values.data_or_none(number, verdict.evidence),
                code_digest=None,
                state_digest=None,
                is_primary=verdict.is_primary,
                extra_data=extra_data(_stored(values, number, verdict.extra)),
            )
        )

    def _write_fault(self, fault: Fault) -> None:
        values = self._values
        self._add(
            Failure(
                episode=self._number,
                step=self.turns.step if fault.step is None else fault.step,
                attempt=0,
                time_ns=fault.time_ns,
                phase=fault.phase,
                origin=fault.origin,
                error_type=values.text(fault.error_type),
                message=values.text(fault.message),
                traceback=values.text(fault.traceback),
                extra_data=extra_data(_stored(values, self._number, fault.extra)),
            )
        )

    def _write_note(self, note: Note) -> None:
        values = self._values
        self._add(
            StepValues(
                self._number,
                self.turns.step,
                values.data(self._number, note.values),
                extra_data(_stored(values, self._number, note.extra)),
            )
        )

    def _write_change(self, change: Change) -> None:
        index = max(self._calls_of_step.get(self._step, 0) - 1, 0)
        self._add(
            StateChange(
                episode=self._number,
                step=self.turns.step,
                call=index,
                attempt=0,
                part=self._values.text(change.part),
                digest="",
                data=self._values.data(self._number, change.value),
                note="reported",
                actor=change.actor,
                origin="reported",
                extra_data=extra_data(_stored(self._values, self._number, change.extra)),
            )
        )

    def _write_effect(self, effect: Effect) -> None:
        values = self._values
        number = self._number
        self._add(
            SideEffect(
                episode=number,
                step=self.turns.step,
                time_ns=effect.time_ns,
                name=values.text(effect.name),
                arguments_data=values.data(number, effect.arguments),
                value_data=None if effect.error else values.data(number, effect.value),
                error_type="error" if effect.error else "",
                message=values.text(effect.error),
                actor=effect.actor,
                extra_data=extra_data(_stored(values, number, effect.extra)),
            )
        )

    def _write_end(self, episode: ImportedEpisode) -> None:
        values = self._values
        number = self._number
        ending = episode.ending
        self._add(
            EpisodeEnd(
                episode=number,
                time_ns=episode.end_ns,
                n_steps=self.turns.step + 1,
                ending="abandoned" if ending == "unknown" else ending,
                terminated=ending == "terminated",
                truncated=ending == "truncated",
                stop_reason=values.text(episode.stop_reason),
                claimed_done=episode.claimed_done,
                fault=episode.fault,
                reported_data=values.data_or_none(number, episode.reported),
                extra_data=end_data(
                    is_unknown=ending == "unknown", messages=self.turns.pending_values()
                ),
            )
        )


def _stored(values: ValueEncoder, number: int, extra: Value) -> Value:
    """Return leftovers as a record holds them: without secrets, and large ones as references."""
    return None if extra is None else codec.decode(values.data(number, extra))
