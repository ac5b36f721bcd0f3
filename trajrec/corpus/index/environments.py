"""Logs of environments to rows: each chunk of a log adds to the tables."""

from __future__ import annotations

import contextlib
import itertools
import math

from trajrec.corpus.episode_parts import why_misplaced
from trajrec.corpus.index.cells import (
    digest_or_none,
    interface_columns,
    json_or_none,
    json_or_null,
    stored_json,
    to_timestamp,
    with_name,
)
from trajrec.corpus.index.import_rows import import_row
from trajrec.corpus.index.row_batch import Rows
from trajrec.corpus.index.rows import EpisodeRow, StateChangeRow, check_row, failure_row
from trajrec.corpus.index.state_numbers import NumericChanges, numeric_changes
from trajrec.corpus.index.step_columns import StepColumns, decode_steps
from trajrec.corpus.outcomes import find_fault, outcome_of, primary_id
from trajrec.corpus.redacted_steps import LOST_FIELDS, first_redacted_step
from trajrec.corpus.step import unrecorded_steps
from trajrec.errors import LogCorruptError
from trajrec.log.annotations import ImportRecord
from trajrec.log.chunk import LogChunk
from trajrec.log.events import Redaction, TaskStart
from trajrec.log.fields import field_values
from trajrec.log.frames import CHUNK
from trajrec.log.identity import may_lack_records
from trajrec.log.reader import LogReader
from trajrec.log.schema import Check, EpisodeEnd, EpisodeStart, Failure, Fork, Segment, episode_id
from trajrec.log.source_facts import extra_of, facts_of, is_unknown, source_of
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.diff import diff
from trajrec.values.json import to_keys, to_pointer
from trajrec.values.real_numbers import sum_of_floats

# Changes of one step beyond this number are not in `state_changes`; the log has the states.
MAX_CHANGES = 64


# A record may hold values that are none, or of types that nobody expects.
MALFORMED = (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError)
"""The exceptions that values of a record raise if they are not such as a writer writes."""


class LogRows:
    """Turns the chunks of one log into rows, in order, and keeps the open episodes between them.

    The rows of a chunk that contradicts itself, or the chunks before it, are left out, and the
    chunk is added to the damage of the log.

    Args:
        reader: The log.
        open_rows: Rows of the log's episodes without an end, from an earlier reading.
    """

    def __init__(self, reader: LogReader, open_rows: dict[int, EpisodeRow]) -> None:
        self.header = reader.header
        self._reader = reader
        self._open = dict(open_rows)
        self._started = set(open_rows)
        # Episodes that have rows in the chunks of this reading.
        self._begun: set[int] = set()
        self._interface: str | None = None
        self._interface_id: str | None = None
        data = self.header.interface_data
        if data is not None:
            with contextlib.suppress(*MALFORMED):
                self._interface, self._interface_id = interface_columns(codec.decode(data))
        self._last_state: dict[int, Value] = {}

    def prime(self, frame: int) -> None:
        """Read the last state before `frame`, which the next chunk is compared with."""
        for index in range(frame - 1, 0, -1):
            if self._reader.frames[index].kind == CHUNK:
                with contextlib.suppress(LogCorruptError):
                    self._last_states(self._reader.chunk(index))
                return

    def add(self, chunk: LogChunk, rows: Rows) -> None:
        """Add the rows of a chunk."""
        for event in chunk.record.events:
            if isinstance(event, EpisodeStart):
                self._add_start(event, chunk, rows)
            elif isinstance(event, Fork):
                self._add_fork(event, chunk)
            elif isinstance(event, TaskStart):
                self._add_task(event, chunk)
            elif isinstance(event, Redaction):
                step = first_redacted_step([event], LOST_FIELDS)
                if step is not None:
                    row = self._row(event.episode, chunk.index)
                    rows.episodes[row.episode_id] = row
                    row.redacted_step = (
                        step if row.redacted_step is None else min(step, row.redacted_step)
                    )
        # Steps come before failures and ends, which are counted against the steps that are known.
        try:
            self._check_order(chunk)
            steps = decode_steps(chunk, len(rows.episode_ids))
            changes, numbers = self._changes(chunk, steps)
        except LogCorruptError as exc:
            self._reader.add_damage(chunk, exc.what)
        except MALFORMED as exc:
            self._reader.add_damage(chunk, f"a value is malformed: {type(exc).__name__}: {exc}")
        else:
            self._add_steps(chunk, steps, rows)
            self._add_changes(chunk, changes, rows)
            if numbers is not None:
                rows.numeric_changes.setdefault(numbers.form, []).append(numbers.columns)
        judged: dict[int, list[Check]] = {}
        for event in chunk.record.events:
            if isinstance(event, ImportRecord):
                self._add_import(event, chunk, rows)
            elif isinstance(event, Check):
                judged.setdefault(event.episode, []).append(event)
            elif isinstance(event, (EpisodeEnd, Failure)):
                try:
                    self._add_event(event, chunk.index, rows)
                except MALFORMED as exc:
                    self._note(chunk, event.episode, f"a value is malformed: {exc}")
        for number, checks in judged.items():
            self._add_checks(number, checks, chunk, rows)

    def _note(self, chunk: LogChunk, episode: int, reason: str) -> None:
        self._reader.note_damage(chunk.index, f"episode {episode}: {reason}")

    def _row(self, number: int, frame: int) -> EpisodeRow:
        row = self._open.get(number)
        if row is None:
            row = self._open[number] = EpisodeRow(
                episode_id=episode_id(self.header.log_id, number),
                env_id=self.header.env.env_id or self.header.env.class_name or None,
                number=number,
                first_frame=frame,
                last_frame=frame,
                state_adapter=self.header.state.adapter or None,
                interface=self._interface,
                interface_id=self._interface_id,
            )
            if number not in self._started and not may_lack_records(self._reader):
                reason = f"episode {number}: its start is missing"
                self._reader.note_damage(frame, reason)
        row.last_frame = max(row.last_frame, frame)
        return row

    def _add_start(self, event: EpisodeStart, chunk: LogChunk, rows: Rows) -> None:
        if event.episode in self._started:
            self._note(chunk, event.episode, "it starts a second time")
            return
        self._started.add(event.episode)
        row = self._row(event.episode, chunk.index)
        row.started_at = to_timestamp(event.time_ns)
        row.seed = event.seed
        row.seed_origin = event.seed_origin
        try:
            row.options = stored_json(event.options_data)
        except MALFORMED as exc:
            self._note(chunk, event.episode, f"a value is malformed: {exc}")
        facts = facts_of(event.extra_data)
        row.source = json_or_null(source_of(event.extra_data))
        row.extra = json_or_null(extra_of(facts))
        rows.episodes[row.episode_id] = row

    def _add_fork(self, event: Fork, chunk: LogChunk) -> None:
        row = self._row(event.episode, chunk.index)
        if row.parent_id is not None:
            self._note(chunk, event.episode, "it is forked a second time")
            return
        row.parent_id = event.parent_id
        row.fork_step = event.step
        row.end_step = max(row.end_step, event.step)

    def _add_task(self, event: TaskStart, chunk: LogChunk) -> None:
        row = self._row(event.episode, chunk.index)
        row.task = event.task or None
        row.task_revision = event.task_revision or None
        try:
            if event.metadata_data is not None:
                row.metadata = stored_json(event.metadata_data)
            if event.goal_data is not None:
                row.goal_digest = digest_or_none(codec.decode(event.goal_data))
        except MALFORMED as exc:
            self._note(chunk, event.episode, f"a value is malformed: {exc}")

    def _check_order(self, chunk: LogChunk) -> None:
        """Check that the steps of a chunk follow those of the chunks before it.

        Raises:
            LogCorruptError: They do not.
        """
        for span in chunk.spans:
            segment = span.segment
            row = self._open.get(segment.episode)
            if row is None:
                reason = why_misplaced(segment, 0, 0, has_rows=False)
            elif row.ending is not None:
                reason = f"rows of step {segment.first_step} behind its end"
            else:
                is_begun = segment.episode in self._begun
                reason = why_misplaced(segment, row.fork_step or 0, row.end_step, has_rows=is_begun)
            if reason:
                text = f"episode {segment.episode}: {reason}"
                raise LogCorruptError(text, path=chunk.path, offset=chunk.offset)

    def _add_import(self, event: ImportRecord, chunk: LogChunk, rows: Rows) -> None:
        try:
            rows.imports.append(import_row(event))
        except MALFORMED as exc:
            self._reader.note_damage(chunk.index, f"an import: {exc}")

    def _add_checks(self, number: int, checks: list[Check], chunk: LogChunk, rows: Rows) -> None:
        """Add the checks of an episode, which stand in one chunk."""
        row = self._row(number, chunk.index)
        rows.episodes[row.episode_id] = row
        row.outcome = outcome_of(checks) or row.outcome
        row.fault = row.fault or find_fault(None, checks)
        primary = primary_id(checks)
        for check in checks:
            is_primary = check.check_id == primary
            try:
                rows.checks.append(
                    check_row(row.episode_id, row.kind, check, is_primary=is_primary)
                )
            except MALFORMED as exc:
                self._note(chunk, number, f"a value is malformed: {exc}")

    def _add_event(self, event: EpisodeEnd | Failure, frame: int, rows: Rows) -> None:
        row = self._row(event.episode, frame)
        rows.episodes[row.episode_id] = row
        if isinstance(event, Failure):
            if event.phase == "step":
                row.missing_steps += max(0, event.step - row.end_step)
                row.end_step = max(row.end_step, event.step + 1)
                if unrecorded_steps([event]):
                    row.total_reward = None
            rows.failures.append(failure_row(row, event))
            row.n_failures += 1
            row.error_types = with_name(row.error_types, event.error_type)
        else:
            if row.ending is not None or event.n_steps < row.end_step:
                raise ValueError(f"it ends at step {event.n_steps}, of {row.end_step}")
            row.missing_steps += event.n_steps - row.end_step
            row.end_step = event.n_steps
            row.ending = "unknown" if is_unknown(event.extra_data) else event.ending
            row.ended_at = to_timestamp(event.time_ns)
            row.terminated = event.terminated
            row.truncated = event.truncated
            row.fault = find_fault(event, ())
        _forget_partial_sum(row)

    def _add_steps(self, chunk: LogChunk, steps: StepColumns, rows: Rows) -> None:
        rewards = steps.rewards
        failed = {
            (event.episode, event.step)
            for event in chunk.record.events
            if isinstance(event, Failure) and event.phase == "step"
        }
        for span in chunk.spans:
            segment = span.segment
            stop = span.start + segment.n_steps
            row = self._row(segment.episode, chunk.index)
            self._begun.add(segment.episode)
            rows.episodes[row.episode_id] = row
            if segment.has_reset and steps.reset_keys is not None:
                key = steps.reset_keys[span.obs_start]
                row.reset_key = None if key is None else int(key)
            rows.episode_ids.append(row.episode_id)
            row.missing_steps += segment.first_step - row.end_step
            if failed:
                row.missing_steps -= sum(
                    episode == segment.episode and row.end_step <= step < segment.first_step
                    for episode, step in failed
                )
            row.end_step = segment.first_step + segment.n_steps
            if rewards is None or row.total_reward is None:
                row.total_reward = None if segment.n_steps else row.total_reward
            else:
                total = row.total_reward + sum_of_floats(rewards[span.start : stop])
                row.total_reward = None if math.isnan(total) else total
            _forget_partial_sum(row)
        if not chunk.n_steps:
            return
        if steps.agent_rewards is not None:
            rows.agent_rewards.append(steps.agent_rewards)
        # Chunks with the same columns and expressions are inserted by one statement.
        signature = ",".join(f"{name}:{column.dtype.str}" for name, column in steps.columns.items())
        key = (signature, steps.group.action + steps.group.info)
        rows.steps.setdefault(key, steps.group).columns.append(steps.columns)
        rows.n_steps += chunk.n_steps

    def _add_changes(self, chunk: LogChunk, changes: list[StateChangeRow], rows: Rows) -> None:
        if changes:
            changed = (self._open[span.segment.episode] for span in chunk.spans)
            kinds = {row.episode_id: row.kind for row in changed}
            for change in changes:
                change.kind = kinds[change.episode_id]
            rows.changes += changes
        self._last_states(chunk)

    def _changes(
        self, chunk: LogChunk, steps: StepColumns
    ) -> tuple[list[StateChangeRow], NumericChanges | None]:
        """Return the changes of each step, if states are stored whole.

        Those of plain numbers are found by column, but for the first step of a segment that goes
        on from an earlier one.
        """
        layout = chunk.layout("state")
        if self.header.state.keep != "every" or layout is None:
            return [], None
        numbers = numeric_changes(chunk, steps.columns)
        changes = []
        last_episode = -1
        for span in chunk.spans:
            segment = span.segment
            first = span.obs_start
            n_compared = segment.n_steps
            if numbers is not None:
                n_compared = 0 if segment.has_reset else 1
            stop = first + segment.has_reset + n_compared
            if not segment.has_reset and segment.episode == last_episode:
                # After a step that raised.
                states = field_values(chunk, layout, first - 1, stop)
            else:
                states = field_values(chunk, layout, first, stop)
                if not segment.has_reset:
                    states.insert(0, self._last_state.get(segment.episode))
            changes += self._changes_between(segment, states)
            last_episode = segment.episode
        return changes, numbers

    def _changes_between(self, segment: Segment, states: list[Value]) -> list[StateChangeRow]:
        """Return the changes between the states of a segment, of which the first may be None."""
        own_id = episode_id(self.header.log_id, segment.episode)
        return [
            StateChangeRow(
                episode_id=own_id,
                kind="rollout",  # set when the episode is known
                step=segment.first_step + k,
                path=to_pointer(change.path),
                keys=to_keys(change.path),
                before=json_or_none(change.before),
                after=json_or_none(change.after),
            )
            for k, (before, after) in enumerate(itertools.pairwise(states))
            if before is not None
            for change in diff(before, after)[:MAX_CHANGES]
        ]

    def _last_states(self, chunk: LogChunk) -> None:
        """Keep the last state of a chunk, which the next chunk is compared with."""
        if not chunk.spans or self.header.state.keep != "every" or chunk.layout("state") is None:
            return
        span = chunk.spans[-1]
        last = span.obs_start + span.segment.has_reset + span.segment.n_steps - 1
        # A hostile segment may have no rows, or none of its own.
        self._last_state = {}
        if last >= span.obs_start:
            for value in field_values(chunk, chunk.layout("state"), last, last + 1):
                self._last_state = {span.segment.episode: value}


def _forget_partial_sum(row: EpisodeRow) -> None:
    """Make the sum of the rewards unknown if some of them are lost."""
    if row.missing_steps:
        row.total_reward = None
