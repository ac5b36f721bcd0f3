"""Logs of agents to rows. An episode that has anything new is read whole again: who tried again what, and where it was
overcome, is known only from all of it."""

from __future__ import annotations

from typing import Any

from trajrec.corpus.episode import Episode
from trajrec.corpus.index.credit import add_credit
from trajrec.corpus.index.rows import (
    EpisodeRow,
    Rows,
    as_json,
    check_row,
    failure_row,
    interface_columns,
    when,
)
from trajrec.corpus.transcript import Attempt, ModelCall, Transcript, argument_changes
from trajrec.log.chunk import LogChunk
from trajrec.log.events import CreditRun, EffectValue, PostHocCheck, StateChange
from trajrec.log.reader import LogReader
from trajrec.values.codec import Plain
from trajrec.values.json import to_json


class AgentRows:
    """Turns a log of agents into rows.

    Args:
        log: The log's path relative to the corpus.
        reader: The log.
        is_first: Whether no row of it was inserted before.
    """

    def __init__(self, log: str, reader: LogReader, *, is_first: bool) -> None:
        self.log, self._reader, self._is_first = log, reader, is_first
        self._touched: dict[int, None] = {}

    def add(self, chunk: LogChunk, rows: Rows) -> None:
        """Note which episodes a chunk goes on with; add what it says of episodes of other logs."""
        for event in chunk.record.events:
            if isinstance(event, PostHocCheck):
                rows.checks.append(check_row(event.target, event, self.log))
            elif isinstance(event, CreditRun):
                add_credit(event, self.log, rows)
            else:
                self._touched[event.episode] = None

    def finish(self, rows: Rows) -> None:
        """Add the rows of these episodes."""
        for number in self._touched:
            chunks = self._reader.chunks_of(number)
            episode = Episode(self._reader, number, chunks)
            if not self._is_first:
                rows.replaced.add(episode.id)
            rows.episodes[episode.id] = self._episode(episode, chunks)
            rows.failures += [failure_row(episode.id, failure) for failure in episode.failures]
            rows.checks += [check_row(episode.id, check, self.log) for check in episode.checks]
            transcript = episode.transcript
            rows.failures += [
                _failure(episode.id, attempt)
                for attempt in transcript.attempts
                if attempt.has_failed
            ]
            rows.failures += [
                _model_failure(episode.id, call)
                for call in transcript.model_calls
                if call.end and call.end.outcome != "ok"
            ]
            rows.decisions += _decisions(episode)
            rows.attempts += _attempts(episode.id, transcript)
            rows.model_calls += [_model_call(episode.id, call) for call in transcript.model_calls]
            rows.side_effects += [
                _side_effect(episode.id, number, transcript, event)
                for number, event in enumerate(transcript.side_effects)
            ]
            rows.changes += [
                (
                    episode.id,
                    *attempt.place,
                    part,
                    change.path,
                    *as_json(change.before, change.after),
                )
                for attempt in transcript.attempts
                for part, changes in attempt.changes.items()
                for change in changes
            ]

    def _episode(self, episode: Episode, chunks: list[int]) -> EpisodeRow:
        transcript, start, end = episode.transcript, episode.start, episode.end
        task = transcript.task_start
        row = EpisodeRow(
            episode.id,
            episode.env_id or None,
            self.log,
            episode.number,
            chunks[0],
            last_frame=chunks[-1],
        )
        row.n_steps, row.total_reward = episode.n_steps, None
        row.outcome = episode.outcome
        row.n_failures = len(episode.failures) + sum(
            attempt.has_failed for attempt in transcript.attempts
        )
        if start is not None:
            row.started_at, row.seed, row.seed_origin = (
                when(start.time_ns),
                start.seed,
                start.seed_origin,
            )
        if end is not None:
            row.ending, row.ended_at = end.ending, when(end.time_ns)
            row.terminated, row.truncated = end.terminated, end.truncated
            row.stop_reason, row.claimed_done = end.stop_reason or None, end.claimed_done
        if episode.fork is not None:
            row.parent_id, row.fork_step = episode.fork.parent_id, episode.fork.step
        if task is not None:
            row.task, row.caller_id, row.caller_step = (
                task.task or None,
                task.caller_id,
                task.caller_step,
            )
            row.state_adapter = (
                ", ".join(f"{part}: {name}" if part else name for part, name, _ in task.parts)
                or None
            )
            row.interface, row.interface_id = interface_columns(
                transcript.value(task.interface_data)
            )
        return row


def _attempts(identifier: str, transcript: Transcript) -> list[tuple[Any, ...]]:
    changed = argument_changes(transcript.attempts)
    return [
        (
            identifier,
            *attempt.place,
            attempt.tool,
            attempt.start.call_id or None,
            to_json(attempt.arguments),
            attempt.start.access,
            attempt.start.invalid or None,
            attempt.outcome,
            None if attempt.end is None or attempt.end.is_raised else to_json(attempt.result),
            None if attempt.end is None else attempt.end.is_raised,
            (attempt.end.error_type or None) if attempt.end else None,
            (attempt.end.message or None) if attempt.end else None,
            attempt.latency_ms,
            attempt.start.backoff_ns / 1e6,
            attempt.retry_by or None,
            *((None, None) if attempt.retry_of is None else attempt.retry_of[:2]),
            None
            if attempt.place not in changed
            else to_json(
                [[c.path, *map(_known, (c.before, c.after))] for c in changed[attempt.place]]
            ),
            attempt.state_digest,
            "; ".join(attempt.notes) or None,
            attempt.start.is_redacted or (attempt.end is not None and attempt.end.is_redacted),
            when(attempt.start.time_ns),
        )
        for attempt in transcript.attempts
    ]


def _known(value: Any) -> Any:
    (text,) = as_json(value)
    return None if text is None else value


def _failure(identifier: str, attempt: Attempt) -> tuple[Any, ...]:
    start, end = attempt.start, attempt.end
    assert end is not None
    kind = "invalid" if start.invalid else end.outcome
    action = to_json({"tool": start.tool, "arguments": attempt.arguments})
    what = "call", kind, end.origin or "tool", end.error_type, end.message, end.traceback
    return (
        identifier,
        *attempt.place,
        *what,
        action,
        attempt.recovered_at,
        attempt.recovered_by or None,
        when(end.time_ns),
    )


def _model_failure(identifier: str, call: ModelCall) -> tuple[Any, ...]:
    start, end = call.start, call.end
    assert end is not None
    what = "model", end.outcome, "infra", end.error_type, end.message, end.traceback
    return identifier, start.step, None, start.attempt, *what, None, None, None, when(end.time_ns)


def _decisions(episode: Episode) -> list[tuple[Any, ...]]:
    """Return a row for each step: its calls (of several tries the first, which is what was decided)."""
    calls: dict[int, list[Any]] = {step: [] for step in range(episode.first_step, episode.n_steps)}
    digests: dict[int, str] = {}
    for attempt in episode.transcript.attempts:
        if attempt.start.attempt == 0:
            calls[attempt.start.step].append({"tool": attempt.tool, "arguments": attempt.arguments})
        if attempt.state_digest:
            digests[attempt.start.step] = attempt.state_digest
    rows, digest = (
        [],
        next((e.digest for e in episode.agent_events if isinstance(e, StateChange)), None),
    )
    for step, made in calls.items():
        digest = digests.get(step, digest)
        action = None if not made else to_json(made[0] if len(made) == 1 else made)
        rows.append(
            (episode.id, step, action, None, None, None if digest is None else int(digest[:6], 16))
        )
    return rows


def _model_call(identifier: str, call: ModelCall) -> tuple[Any, ...]:
    start, end, answer = call.start, call.end, _answer(call)
    usage, choices = _usage(call), _get(answer, "choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    model = _get(answer, "model") or call.request.get("model")
    parameters = {
        key: value
        for key, value in call.request.items()
        if isinstance(value, (str, int, float, bool))
    }
    return (
        identifier,
        start.number,
        start.step,
        model if isinstance(model, str) else None,
        len(call.messages),
        to_json(parameters),
        None if end is None or end.answer_data is None else to_json(call.answer),
        _text(_get(first, "finish_reason") or _get(answer, "stop_reason")),
        _count(_get(usage, "prompt_tokens"), _get(usage, "input_tokens")),
        _count(_get(usage, "completion_tokens"), _get(usage, "output_tokens")),
        _cost(_get(usage, "cost")),
        call.outcome,
        (end.error_type or None) if end else None,
        (end.message or None) if end else None,
        start.retry_by or None,
        None if end is None else (end.time_ns - start.time_ns) / 1e6,
        None if end is None else end.is_streamed,
        when(start.time_ns),
    )


def _side_effect(
    identifier: str, number: int, transcript: Transcript, event: EffectValue
) -> tuple[Any, ...]:
    return (
        identifier,
        number,
        event.step,
        event.name,
        *as_json(transcript.value(event.arguments_data)),
        None if event.value_data is None else to_json(transcript.value(event.value_data)),
        event.error_type or None,
        event.is_redacted,
        when(event.time_ns),
    )


def _usage(call: ModelCall) -> Any:
    """Return what an answer says of tokens and cost: of a stream its last piece that says anything."""
    pieces = (
        call.answer
        if call.end is not None and call.end.is_streamed and isinstance(call.answer, list)
        else [call.answer]
    )
    return next(
        (usage for piece in reversed(pieces) if (usage := _get(piece, "usage")) is not None), None
    )


def _cost(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) else None


def _answer(call: ModelCall) -> Any:
    """Return what says how the answer ended: of a stream its last piece that has choices."""
    if call.end is not None and call.end.is_streamed and isinstance(call.answer, list):
        return next((piece for piece in reversed(call.answer) if _get(piece, "choices")), None)
    return call.answer


def _get(value: Any, name: str) -> Any:
    if isinstance(value, Plain):
        return value.fields.get(name)
    return value.get(name) if isinstance(value, dict) else None


def _count(*values: Any) -> int | None:
    return next((value for value in values if type(value) is int), None)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
