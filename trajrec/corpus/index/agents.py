"""Logs of agents to rows.

An episode with anything new is read whole again: only the whole episode shows which attempt retries
which one, and at which step a failure was overcome.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from trajrec.corpus.attempts import Attempt, argument_changes
from trajrec.corpus.episode import Episode
from trajrec.corpus.index.cells import (
    digest_or_none,
    interface_columns,
    json_or_none,
    json_or_null,
    to_timestamp,
)
from trajrec.corpus.index.credit import add_credit
from trajrec.corpus.index.model_calls import (
    failed_model_call_row,
    model_call_row,
    system_prompt,
)
from trajrec.corpus.index.rows import (
    AttemptRow,
    EpisodeRow,
    FailureRow,
    Rows,
    SideEffectRow,
    StateChangeRow,
    StepRow,
    check_row,
    failure_row,
)
from trajrec.corpus.outcomes import primary_id
from trajrec.corpus.transcript import Transcript
from trajrec.errors import DecodeError, LogError
from trajrec.log.annotations import CreditRun, PostHocCheck
from trajrec.log.chunk import LogChunk
from trajrec.log.events import CallStart, ModelStart, SideEffect
from trajrec.log.reader import LogReader
from trajrec.log.schema import Check, Failure
from trajrec.tracking.parts import digest_of_parts
from trajrec.types import Value
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
        # Episode -> its frames that were read.
        self._touched: dict[int, dict[int, None]] = {}

    def add(self, chunk: LogChunk, rows: Rows) -> None:
        """Note the episodes of a chunk; add its annotations of episodes of other logs."""
        for event in chunk.record.events:
            try:
                if event.episode >= 0:
                    self._touched.setdefault(event.episode, {})[chunk.index] = None
                elif isinstance(event, PostHocCheck):
                    rows.checks.append(check_row(event.target, None, event, self.log))
                elif isinstance(event, CreditRun):
                    add_credit(event, self.log, rows)
            except DecodeError as exc:
                self._reader.note_damage(chunk.index, f"an annotation: {exc}")

    def finish(self, rows: Rows) -> None:
        """Add the rows of the noted episodes."""
        for number, seen in self._touched.items():
            chunks = sorted({*self._reader.chunks_of(number), *seen})
            episode = Episode(self._reader, number, chunks)
            # Its earlier rows are deleted, because new events can change any of them.
            if not self._is_first:
                rows.replaced.add(episode.id)
            try:
                of_episode = self._rows(episode, episode.transcript, chunks)
            except (LogError, DecodeError):
                # Noted in the damage. Each value that can be read is shown.
                transcript = episode.transcribe(is_tolerant=True)
                of_episode = self._rows(episode, transcript, chunks)
            rows.extend(of_episode)

    @contextlib.contextmanager
    def _noting(self, event: Failure | Check, chunks: list[int]) -> Iterator[None]:
        """Add the frame of an event to the damage if a value of it cannot be decoded."""
        try:
            yield
        except DecodeError as exc:
            for index in chunks:
                with contextlib.suppress(LogError):
                    if event in self._reader.cached_chunk(index).record.events:
                        self._reader.note_damage(index, f"episode {event.episode}: {exc}")

    def _rows(self, episode: Episode, transcript: Transcript, chunks: list[int]) -> Rows:
        """Return the rows of an episode."""
        rows = Rows()
        row = self._episode(episode, transcript, chunks)
        rows.episodes[episode.id] = row
        for failure in episode.failures:
            with self._noting(failure, chunks):
                rows.failures.append(failure_row(row, failure))
        primary = primary_id(episode.checks)
        for check in episode.checks:
            is_primary = check.check_id == primary
            with self._noting(check, chunks):
                rows.checks.append(
                    check_row(row.episode_id, row.kind, check, self.log, is_primary=is_primary)
                )
        rows.decisions += _decisions(episode, transcript, row)
        _add_transcript(row, transcript, rows)
        return rows

    def _episode(self, episode: Episode, transcript: Transcript, chunks: list[int]) -> EpisodeRow:
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
            fault=episode.fault,
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
            row.task_revision = task.task_revision or None
            row.metadata = json_or_null(transcript.value(task.metadata_data))
            row.goal_digest = digest_or_none(transcript.value(task.goal_data))
            row.tools_digest = digest_or_none(transcript.value(task.tools_data) or None)
            row.system_digest = digest_or_none(system_prompt(transcript))
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
            rows.failures.append(failed_model_call_row(episode, call))
        rows.model_calls.append(model_call_row(episode, call))
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


def _key(digest: str | None) -> int | None:
    """Return the first 64 bits of a state's digest, as the keys of environments' states are."""
    return int(digest[:16], 16) if digest else None


def _decisions(episode: Episode, transcript: Transcript, row: EpisodeRow) -> list[StepRow]:
    """Return a row for each step: its calls, each as its first attempt decided it."""
    # Not the steps up to the last one: a log may state any number, and claim all memory so.
    known = {
        event.step
        for event in (*episode.agent_events, *episode.failures)
        if isinstance(event, (CallStart, ModelStart, Failure)) and event.step >= 0
    }
    calls: dict[int, list[Value]] = {step: [] for step in sorted(known)}
    digests: dict[int, str | None] = {}
    for attempt in transcript.attempts:
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
