"""Logs of agents to rows.

An episode with anything new is read whole again: only the whole episode shows which attempt retries
which one, and at which step a failure was overcome.
"""

from __future__ import annotations

from trajrec.corpus.episode import Episode
from trajrec.corpus.index.credit import add_credit
from trajrec.corpus.index.rows import (
    AttemptRow,
    EpisodeRow,
    FailureRow,
    ModelCallRow,
    Rows,
    SideEffectRow,
    StateChangeRow,
    StepRow,
    check_row,
    failure_row,
    interface_columns,
    json_or_none,
    to_timestamp,
)
from trajrec.corpus.transcript import (
    Attempt,
    ModelCall,
    Transcript,
    argument_changes,
    milliseconds_between,
)
from trajrec.log.annotations import Annotation, CreditRun, PostHocCheck
from trajrec.log.chunk import LogChunk
from trajrec.log.events import SideEffect
from trajrec.log.reader import LogReader
from trajrec.tracking.parts import digest_of_parts
from trajrec.types import Value
from trajrec.values.codec import Plain
from trajrec.values.diff import MISSING, Change
from trajrec.values.json import to_json, to_keys, to_pointer, typed_keys


class AgentRows:
    """Turns a log of agents into rows.

    Args:
        log: The log's path relative to the corpus.
        reader: The log.
        is_first: Whether no row of it was inserted before.
    """

    def __init__(self, log: str, reader: LogReader, *, is_first: bool) -> None:
        self.log = log
        self._reader = reader
        self._is_first = is_first
        self._touched: dict[int, None] = {}

    def add(self, chunk: LogChunk, rows: Rows) -> None:
        """Note the episodes of a chunk; add its annotations of episodes of other logs."""
        for event in chunk.record.events:
            if isinstance(event, PostHocCheck):
                rows.checks.append(check_row(event.target, None, event, self.log))
            elif isinstance(event, CreditRun):
                add_credit(event, self.log, rows)
            elif not isinstance(event, Annotation):
                self._touched[event.episode] = None

    def finish(self, rows: Rows) -> None:
        """Add the rows of the noted episodes."""
        for number in self._touched:
            chunks = self._reader.chunks_of(number)
            episode = Episode(self._reader, number, chunks)
            # Its earlier rows are deleted, because new events can change any of them.
            if not self._is_first:
                rows.replaced.add(episode.id)
            row = self._episode(episode, chunks)
            kind = row.kind
            rows.episodes[episode.id] = row
            rows.failures += [failure_row(row, failure) for failure in episode.failures]
            rows.checks += [check_row(row.episode_id, kind, c, self.log) for c in episode.checks]
            rows.decisions += _decisions(episode, row)
            _add_transcript(row, episode.transcript, rows)

    def _episode(self, episode: Episode, chunks: list[int]) -> EpisodeRow:
        transcript = episode.transcript
        start = episode.start
        end = episode.end
        task = transcript.task_start
        n_failed = sum(attempt.has_failed for attempt in transcript.attempts)
        row = EpisodeRow(
            episode_id=episode.id,
            env_id=episode.env_id or None,
            log=self.log,
            number=episode.number,
            first_frame=chunks[0],
            last_frame=chunks[-1],
            end_step=episode.end_step,
            total_reward=None,
            reset_key=_key(digest_of_parts(transcript.initial_digests)),
            outcome=episode.outcome,
            n_failures=len(episode.failures) + n_failed,
            redacted_step=episode.redacted_step,
        )
        if start is not None:
            row.started_at = to_timestamp(start.time_ns)
            row.seed = start.seed
            row.seed_origin = start.seed_origin
        if end is not None:
            row.ending = end.ending
            row.ended_at = to_timestamp(end.time_ns)
            row.terminated = end.terminated
            row.truncated = end.truncated
            row.stop_reason = end.stop_reason or None
            row.claimed_done = end.claimed_done
        if episode.fork is not None:
            row.parent_id = episode.fork.parent_id
            row.fork_step = episode.fork.step
        if task is not None:
            row.task = task.task or None
            row.caller_id = task.caller_id
            row.caller_step = task.caller_step
            parts = [f"{part}: {name}" if part else name for part, name, _ in task.parts]
            row.state_adapter = ", ".join(parts) or None
            row.interface, row.interface_id = interface_columns(
                transcript.value(task.interface_data)
            )
        return row


def _add_transcript(episode: EpisodeRow, transcript: Transcript, rows: Rows) -> None:
    """Add the attempts, model calls and side effects of an episode, and their failures."""
    changes_of = argument_changes(transcript.attempts)
    for attempt in transcript.attempts:
        if attempt.has_failed:
            rows.failures.append(_failed_attempt(episode, attempt))
        rows.attempts.append(_attempt(episode, attempt, changes_of.get(attempt.key)))
        rows.changes += _state_changes(episode, attempt)
    for call in transcript.model_calls:
        if call.end is not None and call.end.outcome != "ok":
            rows.failures.append(_failed_model_call(episode, call))
        rows.model_calls.append(_model_call(episode, call))
    for number, event in enumerate(transcript.side_effects):
        rows.side_effects.append(_side_effect(episode, number, transcript, event))


def _attempt(
    episode: EpisodeRow, attempt: Attempt, argument_changes: list[Change] | None
) -> AttemptRow:
    start = attempt.start
    end = attempt.end
    retry_of = attempt.retry_of
    return AttemptRow(
        episode_id=episode.episode_id,
        kind=episode.kind,
        step=start.step,
        call=start.call,
        attempt=start.attempt,
        tool=attempt.tool,
        call_id=start.call_id or None,
        arguments=to_json(attempt.arguments),
        access=start.access,
        invalid=start.invalid or None,
        outcome=attempt.outcome,
        result=None if end is None or end.is_raised else to_json(attempt.result),
        is_raised=None if end is None else end.is_raised,
        error_type=(end.error_type or None) if end else None,
        message=(end.message or None) if end else None,
        latency_ms=attempt.latency_ms,
        backoff_ms=start.backoff_ns / 1e6,
        retry_by=attempt.retry_by or None,
        retry_of_step=None if retry_of is None else retry_of[0],
        retry_of_call=None if retry_of is None else retry_of[1],
        argument_changes=None if argument_changes is None else _changes_json(argument_changes),
        state_digest=attempt.state_digest,
        finding="; ".join(attempt.notes) or None,
        is_redacted=start.is_redacted or (end is not None and end.is_redacted),
        started_at=to_timestamp(start.time_ns),
    )


def _changes_json(changes: list[Change]) -> str:
    """Return changes as [JSON Pointer, before, after, keys]; null stands for a missing value."""
    return to_json(
        [
            [
                to_pointer(change.path),
                None if change.before is MISSING else change.before,
                None if change.after is MISSING else change.after,
                typed_keys(change.path),
            ]
            for change in changes
        ]
    )


def _state_changes(episode: EpisodeRow, attempt: Attempt) -> list[StateChangeRow]:
    return [
        StateChangeRow(
            episode_id=episode.episode_id,
            kind=episode.kind,
            step=attempt.start.step,
            call=attempt.start.call,
            attempt=attempt.start.attempt,
            part=part,
            path=to_pointer(change.path),
            keys=None if part in attempt.open_paths else to_keys(change.path),
            before=json_or_none(change.before),
            after=json_or_none(change.after),
        )
        for part, changes in attempt.changes.items()
        for change in changes
    ]


def _failed_attempt(episode: EpisodeRow, attempt: Attempt) -> FailureRow:
    start = attempt.start
    end = attempt.end
    assert end is not None
    return FailureRow(
        episode_id=episode.episode_id,
        kind=episode.kind,
        step=start.step,
        call=start.call,
        attempt=start.attempt,
        phase="call",
        failure_kind="invalid" if start.invalid else end.outcome,
        origin=end.origin or "tool",
        error_type=end.error_type,
        message=end.message,
        traceback=end.traceback,
        action=to_json({"tool": start.tool, "arguments": attempt.arguments}),
        recovered_at=attempt.recovered_at,
        recovered_by=attempt.recovered_by or None,
        failed_at=to_timestamp(end.time_ns),
    )


def _failed_model_call(episode: EpisodeRow, call: ModelCall) -> FailureRow:
    end = call.end
    assert end is not None
    return FailureRow(
        episode_id=episode.episode_id,
        kind=episode.kind,
        step=call.start.step,
        attempt=call.start.attempt,
        phase="model",
        failure_kind=end.outcome,
        origin="infra",
        error_type=end.error_type,
        message=end.message,
        traceback=end.traceback,
        failed_at=to_timestamp(end.time_ns),
    )


def _key(digest: str | None) -> int | None:
    """Return the first 64 bits of a state's digest, as the keys of environments' states are."""
    return None if digest is None else int(digest[:16], 16)


def _decisions(episode: Episode, row: EpisodeRow) -> list[StepRow]:
    """Return a row for each step: its calls, each as its first attempt decided it."""
    calls: dict[int, list[Value]] = {
        step: [] for step in range(episode.first_step, episode.end_step)
    }
    digests: dict[int, str | None] = {}
    for attempt in episode.transcript.attempts:
        # Further attempts repeat the decision of the first one.
        if attempt.start.attempt == 0:
            calls[attempt.start.step].append({"tool": attempt.tool, "arguments": attempt.arguments})
        if attempt.end is not None:
            digests[attempt.start.step] = attempt.state_digest
    digest = digest_of_parts(episode.transcript.initial_digests)
    decisions = []
    for step, made in calls.items():
        digest = digests.get(step, digest)
        action = made[0] if len(made) == 1 else made
        decisions.append(
            StepRow(
                episode_id=row.episode_id,
                kind=row.kind,
                step=step,
                action=to_json(action) if made else None,
                state_key=_key(digest),
            )
        )
    return decisions


def _model_call(episode: EpisodeRow, call: ModelCall) -> ModelCallRow:
    start = call.start
    end = call.end
    answer = _answer(call)
    usage = _usage(call)
    # By the names of the OpenAI API first, then by those of the Anthropic API.
    choices = _get(answer, "choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    model = _get(answer, "model") or call.request.get("model")
    parameters = {
        key: value
        for key, value in call.request.items()
        if isinstance(value, (str, int, float, bool))
    }
    return ModelCallRow(
        episode_id=episode.episode_id,
        kind=episode.kind,
        number=start.number,
        step=start.step,
        model=model if isinstance(model, str) else None,
        n_messages=len(call.messages),
        parameters=to_json(parameters),
        answer=to_json(call.answer) if call.has_answer else None,
        finish_reason=_text(_get(first, "finish_reason") or _get(answer, "stop_reason")),
        input_tokens=_count(_get(usage, "prompt_tokens"), _get(usage, "input_tokens")),
        output_tokens=_count(_get(usage, "completion_tokens"), _get(usage, "output_tokens")),
        cost=_cost(_get(usage, "cost")),
        outcome=call.outcome,
        error_type=(end.error_type or None) if end else None,
        message=(end.message or None) if end else None,
        retry_by=start.retry_by or None,
        latency_ms=None if end is None else milliseconds_between(start.time_ns, end.time_ns),
        is_streamed=call.is_streamed,
        started_at=to_timestamp(start.time_ns),
    )


def _side_effect(
    episode: EpisodeRow, number: int, transcript: Transcript, event: SideEffect
) -> SideEffectRow:
    has_value = event.value_data is not None
    return SideEffectRow(
        episode_id=episode.episode_id,
        kind=episode.kind,
        number=number,
        step=event.step,
        name=event.name,
        arguments=to_json(transcript.value(event.arguments_data)),
        value=to_json(transcript.value(event.value_data)) if has_value else None,
        error_type=event.error_type or None,
        is_redacted=event.is_redacted,
        entered_at=to_timestamp(event.time_ns),
    )


def _usage(call: ModelCall) -> Value:
    """Return the token counts and cost of an answer; in a stream, the last chunk that has any."""
    pieces = call.answer if call.is_streamed and isinstance(call.answer, list) else [call.answer]
    return next(
        (usage for piece in reversed(pieces) if (usage := _get(piece, "usage")) is not None), None
    )


def _cost(value: Value) -> float | None:
    return float(value) if type(value) in (int, float) else None


def _answer(call: ModelCall) -> Value:
    """Return the answer; of a stream the last chunk with choices, which says how it ended."""
    if call.is_streamed and isinstance(call.answer, list):
        return next((piece for piece in reversed(call.answer) if _get(piece, "choices")), None)
    return call.answer


def _get(value: Value, name: str) -> Value:
    if isinstance(value, Plain):
        return value.fields.get(name)
    return value.get(name) if isinstance(value, dict) else None


def _count(*values: Value) -> int | None:
    return next((value for value in values if type(value) is int), None)


def _text(value: Value) -> str | None:
    return value if isinstance(value, str) else None
