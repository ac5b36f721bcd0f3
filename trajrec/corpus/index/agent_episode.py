"""An episode of an agent to rows of the tables."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache

from trajrec.corpus.attempts import Attempt, argument_changes
from trajrec.corpus.episode import Episode
from trajrec.corpus.index.cells import (
    digest_or_none,
    interface_columns,
    json_or_null,
    names_json,
    to_timestamp,
)
from trajrec.corpus.index.imported import (
    call_leftovers,
    leftovers_json,
    notes_by_step,
    reported_changes,
)
from trajrec.corpus.index.messages import (
    ToolCells,
    message_row,
    prompt_digest,
    tools_digest,
)
from trajrec.corpus.index.model_calls import (
    failed_model_call_row,
    model_call_row,
    recoveries,
    system_prompt,
)
from trajrec.corpus.index.row_batch import Rows
from trajrec.corpus.index.rows import (
    AttemptRow,
    EpisodeRow,
    FailureRow,
    SideEffectRow,
    StepRow,
    check_row,
    failure_row,
)
from trajrec.corpus.index.state_changes import (
    attempt_changes,
    changes_between_calls,
    changes_json,
)
from trajrec.corpus.index.views import EpisodeKind
from trajrec.corpus.outcomes import find_agents_fault, primary_id
from trajrec.corpus.transcript import Transcript
from trajrec.log.events import SideEffect, step_of_request
from trajrec.log.schema import Check, Failure
from trajrec.log.unseen_ways import unseen_of
from trajrec.tracking.parts import digest_of_parts
from trajrec.values.json import (
    stored_to_json,
    to_json,
)

Noting = Callable[[Failure | Check], AbstractContextManager[None]]
"""Returns a context that notes an event of which a value cannot be decoded."""


# A row of the table `attempts` without its long texts.
ROW_BYTES = 500


def episode_rows(
    episode: Episode, transcript: Transcript, frames: list[int], noting: Noting
) -> Rows:
    """Return the rows of an episode.

    Args:
        episode: The episode.
        transcript: Its transcript.
        frames: The frames of its log that hold a part of it.
        noting: Notes an event of which a value cannot be decoded.

    Raises:
        LogError: A value is lost; a tolerant transcript raises none.
    """
    rows = Rows()
    row = _episode_row(episode, transcript, frames)
    kind = row.kind
    rows.episodes[row.episode_id] = row
    for failure in episode.failures:
        with noting(failure):
            rows.failures.append(failure_row(row, failure))
    primary = primary_id(episode.checks)
    for check in episode.checks:
        is_primary = check.check_id == primary
        with noting(check):
            rows.checks.append(
                check_row(
                    row.episode_id,
                    kind,
                    check,
                    is_primary=is_primary,
                    to_json=lambda data: json_or_null(transcript.value(data)),
                    extra=leftovers_json(transcript, check.extra_data),
                )
            )
    texts = [transcript.json(a.start.arguments_data, a.arguments) for a in transcript.attempts]
    rows.decisions += _decisions(episode, transcript, row, texts)
    _add_attempts(row, transcript, texts, rows)
    overcome = recoveries(transcript.model_calls)
    tools = ToolCells()
    for call in transcript.model_calls:
        if call.end is not None and call.end.outcome != "ok":
            recovery = overcome.get(call.start.number)
            rows.failures.append(failed_model_call_row(row, call, recovery))
        extra = leftovers_json(transcript, call.start.extra_data)
        rows.model_calls.append(model_call_row(row, call, tools.names(call), extra))
    rows.changes += reported_changes(row, transcript)
    rows.messages += [message_row(row, said) for said in transcript.messages]
    for number, event in enumerate(transcript.side_effects):
        rows.side_effects.append(_side_effect(row, number, transcript, event))
    row.n_failures = len(rows.failures)
    row.error_types = names_json({failure.error_type for failure in rows.failures})
    row.tools_called = names_json({attempt.tool for attempt in rows.attempts})
    rows.n_bytes = _size(rows, texts)
    return rows


def _size(rows: Rows, texts: list[str]) -> int:
    """Return the bytes of an episode's rows, about."""
    n_rows = len(rows.attempts) + len(rows.decisions) + len(rows.changes)
    n_rows += (
        len(rows.model_calls) + len(rows.messages) + len(rows.side_effects) + len(rows.failures)
    )
    texts = [*texts, *[row.result for row in rows.attempts if row.result is not None]]
    texts += [row.answer for row in rows.model_calls if row.answer is not None]
    texts += [row.text for row in rows.messages]
    texts += [row.value for row in rows.side_effects if row.value is not None]
    return n_rows * ROW_BYTES + sum(map(len, texts))


def _episode_row(episode: Episode, transcript: Transcript, frames: list[int]) -> EpisodeRow:
    start = episode.start
    end = episode.end
    task = transcript.task_start
    row = EpisodeRow(
        episode_id=episode.id,
        env_id=episode.header.env.env_id or transcript.world or None,
        number=episode.number,
        first_frame=frames[0],
        last_frame=frames[-1],
        end_step=episode.end_step,
        total_reward=None,
        reset_key=_key(digest_of_parts(transcript.initial_digests)),
        outcome=episode.outcome,
        # Not the property of the episode, which would make a transcript of its own.
        fault=find_agents_fault(end, episode.checks, transcript.model_calls, transcript.attempts),
        redacted_step=episode.redacted_step,
    )
    if start is not None:
        row.started_at = to_timestamp(start.time_ns)
        row.seed = start.seed
        row.seed_origin = start.seed_origin
        if start.options_data is not None:
            row.options = stored_to_json(transcript.value(start.options_data))
        row.source = json_or_null(episode.source)
    if end is not None:
        row.ending = episode.ending
        row.reported = json_or_null(transcript.value(end.reported_data))
        row.ended_at = to_timestamp(end.time_ns)
        row.terminated = end.terminated
        row.truncated = end.truncated
        row.stop_reason = end.stop_reason or None
        row.claimed_done = end.claimed_done
        row.unseen = ", ".join(unseen_of(end.extra_data)) or None
    if episode.fork is not None:
        row.parent_id = episode.fork.parent_id
        row.fork_step = episode.fork.step
    if task is not None:
        row.task = task.task or None
        row.caller_id = task.caller_id
        row.caller_step = task.caller_step
        parts = [f"{part}: {name}" if part else name for part, name, _ in task.parts]
        row.state_adapter = ", ".join(parts) or None
        row.interface, row.interface_id = interface_columns(transcript.value(task.interface_data))
        row.task_revision = task.task_revision or None
        row.metadata = json_or_null(transcript.value(task.metadata_data))
        row.goal_digest = digest_or_none(transcript.value(task.goal_data))
        row.tools_digest = digest_or_none(transcript.value(task.tools_data) or None)
        offered = tools_digest(transcript.model_calls)
        if row.tools_digest is None:
            row.tools_digest = offered
        else:
            # The program may describe its tools to the model in other words than to the recorder.
            row.offered_digest = offered
        row.system_digest = digest_or_none(system_prompt(transcript))
        row.prompt_digest = prompt_digest(transcript.model_calls)
        row.extra = leftovers_json(transcript, task.extra_data)
    return row


def _add_attempts(row: EpisodeRow, transcript: Transcript, texts: list[str], rows: Rows) -> None:
    """Add attempts, of which the arguments are given as JSON, with their failures and changes."""
    attempts = transcript.attempts
    changes_of = argument_changes(attempts)
    episode_id = row.episode_id
    kind = row.kind
    for attempt, arguments in zip(attempts, texts, strict=True):
        if attempt.has_failed:
            rows.failures.append(_failed_attempt(row, attempt, arguments))
        retry_changes = None
        if attempt.retry_of is not None:
            changes = changes_of.get(attempt.key)
            retry_changes = None if changes is None else changes_json(changes)
        end = attempt.end
        result = None
        if end is not None and not end.is_raised and end.result_data is not None:
            result = transcript.json(end.result_data, attempt.result)
        attempt_row = _attempt(episode_id, kind, attempt, arguments, retry_changes)
        attempt_row.result = result
        attempt_row.extra = call_leftovers(transcript, attempt)
        rows.attempts.append(attempt_row)
        if attempt.changes:
            rows.changes += attempt_changes(episode_id, kind, attempt)
    rows.changes += changes_between_calls(episode_id, kind, transcript)


def _attempt(
    episode_id: str,
    kind: EpisodeKind,
    attempt: Attempt,
    arguments: str,
    retry_changes: str | None,
) -> AttemptRow:
    start = attempt.start
    row = AttemptRow(
        episode_id=episode_id,
        kind=kind,
        step=start.step,
        call=start.call,
        attempt=start.attempt,
        tool=start.tool,
        call_id=start.call_id or None,
        arguments=arguments,
        access=start.access,
        invalid=start.invalid or None,
        backoff_ms=start.backoff_ns / 1e6,
        retry_by=attempt.retry_by or None,
        argument_changes=retry_changes,
        state_digest=attempt.state_digest,
        finding="; ".join(attempt.notes) or None,
        is_redacted=start.is_redacted,
        actor=start.actor,
        started_at=to_timestamp(start.time_ns),
    )
    if attempt.retry_of is not None:
        row.retry_of_step, row.retry_of_call, _ = attempt.retry_of
    if attempt.followed_by is not None:
        row.followed_by_step, row.followed_by_call, _ = attempt.followed_by
    end = attempt.end
    if end is not None:
        row.outcome = attempt.outcome
        row.is_raised = end.is_raised
        row.error_type = end.error_type or None
        row.message = end.message or None
        row.latency_ms = attempt.latency_ms
        row.is_redacted = start.is_redacted or end.is_redacted
    return row


def _failed_attempt(row: EpisodeRow, attempt: Attempt, arguments: str) -> FailureRow:
    start = attempt.start
    end = attempt.end
    assert end is not None
    return FailureRow(
        episode_id=row.episode_id,
        kind=row.kind,
        step=start.step,
        call=start.call,
        attempt=start.attempt,
        phase="call",
        failure_kind="invalid" if start.invalid else end.outcome,
        origin=end.origin or "tool",
        error_type=end.error_type,
        message=end.message,
        traceback=end.traceback,
        action=_call_json(start.tool, arguments),
        recovered_at=attempt.recovered_at,
        recovered_by=attempt.recovered_by or None,
        failed_at=to_timestamp(end.time_ns),
    )


def _call_json(tool: str, arguments: str) -> str:
    """Return a call as JSON: its arguments are JSON already."""
    return f'{{"tool":{_tool_json(tool)},"arguments":{arguments}}}'


# An agent has few tools.
_tool_json = lru_cache(maxsize=1024)(to_json)


def _key(digest: str | None) -> int | None:
    """Return the first 64 bits of a state's digest, as the keys of environments' states are."""
    return int(digest[:16], 16) if digest else None


def _decisions(
    episode: Episode, transcript: Transcript, row: EpisodeRow, texts: list[str]
) -> list[StepRow]:
    """Return a row for each step: its calls, each as its first attempt decided it."""
    # Not the steps up to the last one: a log may state any number, and claim all memory so.
    known = set(map(step_of_request, episode.agent_events)) - {-1}
    notes = notes_by_step(episode, transcript)
    # A turn that no model gave has nothing but its values.
    known |= notes.keys() - {-1}
    known |= {failure.step for failure in episode.failures if failure.step >= 0}
    calls: dict[int, list[tuple[int, str]]] = {step: [] for step in sorted(known)}
    digests: dict[int, str | None] = {}
    for attempt, arguments in zip(transcript.attempts, texts, strict=True):
        start = attempt.start
        # Further attempts repeat the decision of the first one.
        if start.attempt == 0:
            calls[start.step].append((start.call, _call_json(start.tool, arguments)))
        if attempt.end is not None:
            digests[start.step] = attempt.state_digest
    digest = digest_of_parts(transcript.initial_digests)
    key = _key(digest)
    episode_id = row.episode_id
    kind = row.kind
    decisions = []
    for step, numbered in calls.items():
        # By their numbers: frames of a damaged log may have changed places.
        made = [call for _, call in sorted(numbered)]
        if digests.get(step, digest) is not digest:
            digest = digests[step]
            key = _key(digest)
        action = made[0] if len(made) == 1 else f"[{','.join(made)}]"
        decisions.append(
            StepRow(
                episode_id=episode_id,
                kind=kind,
                step=step,
                action=action if made else None,
                state_key=key,
                extra=notes.get(step),
            )
        )
    return decisions


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
        arguments=stored_to_json(transcript.value(event.arguments_data)),
        value=stored_to_json(transcript.value(event.value_data)) if has_value else None,
        error_type=event.error_type or None,
        is_redacted=event.is_redacted,
        entered_at=to_timestamp(event.time_ns),
    )
