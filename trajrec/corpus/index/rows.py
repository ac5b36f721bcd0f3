"""Logs to rows: what a chunk of a log says to each table."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trajrec.corpus.index.rewards import agent_rewards
from trajrec.log.chunk import LogChunk
from trajrec.log.events import PostHocCheck
from trajrec.log.fields import field_values, sparse_values
from trajrec.log.reader import LogReader
from trajrec.log.schema import Check, EpisodeEnd, EpisodeStart, Failure, Fork, Header, episode_id
from trajrec.values import codec
from trajrec.values.diff import MISSING, diff
from trajrec.values.digest import state_digest, unpack_digests
from trajrec.values.json import MAX_ELEMENTS, to_canonical_json, to_json

Array = np.ndarray[Any, Any]
MAX_CHANGES = 64
"""Changes of one step beyond this are left out of `state_changes`: the states themselves are in the log."""


@dataclass
class EpisodeRow:
    """An episode's row in the making; its fields are the table's columns."""

    episode_id: str
    env_id: str | None
    log: str
    number: int
    first_frame: int
    n_steps: int = 0
    total_reward: float | None = 0.0
    ending: str | None = None
    outcome: str | None = None
    task: str | None = None
    stop_reason: str | None = None
    claimed_done: bool | None = None
    terminated: bool | None = None
    truncated: bool | None = None
    n_failures: int = 0
    missing_steps: int = 0
    started_at: datetime.datetime | None = None
    ended_at: datetime.datetime | None = None
    seed: int | None = None
    seed_origin: str | None = None
    parent_id: str | None = None
    fork_step: int | None = None
    caller_id: str | None = None
    caller_step: int | None = None
    state_adapter: str | None = None
    reset_digest: int | None = None
    interface: str | None = None
    interface_id: str | None = None
    last_frame: int = 0


@dataclass
class StepGroup:
    """Steps of one layout as numpy columns: `expressions` make action and info of them in SQL."""

    action: str
    info: str
    columns: list[dict[str, Array]] = field(default_factory=list)


@dataclass
class Rows:
    """Rows for the tables, gathered over chunks and logs until they are inserted."""

    episodes: dict[str, EpisodeRow] = field(default_factory=dict)
    episode_ids: list[str] = field(default_factory=list)
    steps: dict[tuple[str, str], StepGroup] = field(default_factory=dict)
    agent_rewards: list[dict[str, Array]] = field(default_factory=list)
    n_steps: int = 0
    failures: list[tuple[Any, ...]] = field(default_factory=list)
    checks: list[tuple[Any, ...]] = field(default_factory=list)
    changes: list[tuple[Any, ...]] = field(default_factory=list)
    attempts: list[tuple[Any, ...]] = field(default_factory=list)
    model_calls: list[tuple[Any, ...]] = field(default_factory=list)
    side_effects: list[tuple[Any, ...]] = field(default_factory=list)
    credit: list[tuple[Any, ...]] = field(default_factory=list)
    rollouts: list[tuple[Any, ...]] = field(default_factory=list)
    decisions: list[tuple[Any, ...]] = field(default_factory=list)
    """Rows of `steps` that come from agents."""
    replaced: set[str] = field(default_factory=set)
    """Episodes whose rows of before are to be deleted first."""


class LogRows:
    """Turns the chunks of one log into rows, one after the other; keeps what is open between them.

    Args:
        log: The log's path relative to the corpus.
        header: The log's header.
        open_rows: Rows of the log's episodes without an end, from an earlier reading.
    """

    def __init__(self, log: str, header: Header, open_rows: dict[int, EpisodeRow]) -> None:
        self.log, self.header = log, header
        self._open = dict(open_rows)
        self._interface = interface_columns(
            None if header.interface_data is None else codec.decode(header.interface_data)
        )
        self._last_state: dict[int, Any] = {}

    def prime(self, reader: LogReader, frame: int) -> None:
        """Take from the chunk before `frame` the last state of the episode that goes on in it."""
        for index in range(frame - 1, 0, -1):
            if reader.frames[index].kind == 2:
                chunk = reader.chunk(index)
                self._last_states(chunk)
                return

    def add(self, chunk: LogChunk, rows: Rows) -> None:
        """Add what a chunk says."""
        for event in chunk.record.events:
            if isinstance(event, EpisodeStart):
                row = self._row(event.episode, chunk.index)
                row.started_at, row.seed, row.seed_origin = (
                    when(event.time_ns),
                    event.seed,
                    event.seed_origin,
                )
                rows.episodes[row.episode_id] = row
            elif isinstance(event, Fork):
                row = self._row(event.episode, chunk.index)
                row.parent_id, row.fork_step, row.n_steps = event.parent_id, event.step, event.step
        self._add_steps(chunk, rows)
        for event in chunk.record.events:
            if isinstance(event, (EpisodeEnd, Failure, Check)):
                self._add_event(event, chunk.index, rows)
        self._add_changes(chunk, rows)

    def _row(self, number: int, frame: int) -> EpisodeRow:
        row = self._open.get(number)
        if row is None:
            state = self.header.state.adapter
            row = self._open[number] = EpisodeRow(
                episode_id(self.header.log_id, number),
                self.header.env.env_id or None,
                self.log,
                number,
                frame,
                state_adapter=state or None,
                interface=self._interface[0],
                interface_id=self._interface[1],
            )
        row.last_frame = max(row.last_frame, frame)
        return row

    def _add_event(self, event: EpisodeEnd | Failure | Check, frame: int, rows: Rows) -> None:
        row = self._row(event.episode, frame)
        rows.episodes[row.episode_id] = row
        if isinstance(event, Failure):
            row.n_failures += 1
            if event.phase == "step":
                row.missing_steps += max(0, event.step - row.n_steps)
                row.n_steps = max(row.n_steps, event.step + 1)
            rows.failures.append(failure_row(row.episode_id, event))
        elif isinstance(event, Check):
            if event.verdict is not None:
                row.outcome = "success" if event.verdict else "failure"
            rows.checks.append(check_row(row.episode_id, event, self.log))
        elif isinstance(event, EpisodeEnd):
            row.missing_steps += max(0, event.n_steps - row.n_steps)
            row.n_steps, row.ending, row.ended_at = event.n_steps, event.ending, when(event.time_ns)
            row.terminated, row.truncated = event.terminated, event.truncated
            if row.started_at is None:
                row.seed_origin = None

    def _add_steps(self, chunk: LogChunk, rows: Rows) -> None:
        n = chunk.n_steps
        rewards = _numbers(chunk, "reward", n)
        index, steps = np.empty(n, np.uint32), np.empty(n, np.int32)
        digests = _digests(chunk)
        failed = {
            (e.episode, e.step)
            for e in chunk.record.events
            if isinstance(e, Failure) and e.phase == "step"
        }
        for span in chunk.spans:
            segment, stop = span.segment, span.start + span.segment.n_steps
            row = self._row(segment.episode, chunk.index)
            rows.episodes[row.episode_id] = row
            if segment.has_reset and digests is not None:
                row.reset_digest = int(digests[span.obs_start])
            index[span.start : stop] = len(rows.episode_ids)
            rows.episode_ids.append(row.episode_id)
            steps[span.start : stop] = np.arange(
                segment.first_step, segment.first_step + segment.n_steps
            )
            gap = range(row.n_steps, segment.first_step)
            row.missing_steps += (
                sum((segment.episode, step) not in failed for step in gap) if failed else len(gap)
            )
            row.n_steps = max(row.n_steps, segment.first_step + segment.n_steps)
            if rewards is None or row.total_reward is None:
                row.total_reward = None if segment.n_steps else row.total_reward
            else:
                row.total_reward += float(rewards[span.start : stop].sum())
        if not n:
            return
        columns = {"episode": index, "step": steps}
        if rewards is not None:
            columns["reward"] = rewards
        elif (by_agent := agent_rewards(chunk, index, steps)) is not None:
            rows.agent_rewards.append(by_agent)
        if digests is not None:
            columns["state_digest"] = digests[_rows_after(chunk)]
        action = _expression(chunk, "action", n, columns)
        info = _infos(chunk, n, columns)
        signature = ",".join(f"{name}:{column.dtype}" for name, column in columns.items())
        group = rows.steps.setdefault((signature, action + info), StepGroup(action, info))
        group.columns.append(columns)
        rows.n_steps += n

    def _add_changes(self, chunk: LogChunk, rows: Rows) -> None:
        """Add what each step changed, where states are stored whole."""
        if self.header.state.keep != "every" or chunk.layout("state") is None:
            return
        states = field_values(chunk, chunk.layout("state"), 0, chunk.n_obs)
        for span in chunk.spans:
            segment = span.segment
            first = span.obs_start
            before = states[first] if segment.has_reset else self._last_state.get(segment.episode)
            identifier = episode_id(self.header.log_id, segment.episode)
            for k in range(segment.n_steps):
                after = states[first + segment.has_reset + k]
                if before is not None:
                    for path, old, new in diff(before, after)[:MAX_CHANGES]:
                        rows.changes.append(
                            (
                                identifier,
                                segment.first_step + k,
                                None,
                                None,
                                "",
                                path,
                                *as_json(old, new),
                            )
                        )
                before = after
        self._last_states(chunk, states)

    def _last_states(self, chunk: LogChunk, states: list[Any] | None = None) -> None:
        if not chunk.spans or self.header.state.keep != "every" or chunk.layout("state") is None:
            return
        span = chunk.spans[-1]
        last = span.obs_start + span.segment.has_reset + span.segment.n_steps - 1
        value = (
            field_values(chunk, chunk.layout("state"), last, last + 1)[0]
            if states is None
            else states[last]
        )
        self._last_state = {span.segment.episode: value}


def interface_columns(interface: Any) -> tuple[str | None, str | None]:
    """Return an interface as canonical JSON, and its digest."""
    if interface is None:
        return None, None
    text = to_canonical_json(interface)
    return text, codec.digest_bytes(text.encode())[:16]


def failure_row(identifier: str, event: Failure) -> tuple[Any, ...]:
    """Return the row of an exception."""
    action = None if event.action_data is None else to_json(codec.decode(event.action_data))
    what = event.phase, "error", event.origin, event.error_type, event.message, event.traceback
    return (
        identifier,
        event.step,
        None,
        event.attempt,
        *what,
        action,
        None,
        None,
        when(event.time_ns),
    )


def check_row(identifier: str, event: Check | PostHocCheck, log: str) -> tuple[Any, ...]:
    """Return the row of a verdict."""
    evidence = None if event.evidence_data is None else to_json(codec.decode(event.evidence_data))
    phase = event.phase if isinstance(event, Check) else "post-hoc"
    who = event.check_id, event.version, event.family, phase, event.status
    found = event.verdict, event.score, evidence, event.code_digest, event.state_digest
    return identifier, event.step, *who, *found, when(event.time_ns), log


def as_json(*values: Any) -> tuple[str | None, ...]:
    """Return values as JSON, None for those that are missing."""
    return tuple(None if value is MISSING else to_json(value) for value in values)


def when(time_ns: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(time_ns // 1000 / 1e6, datetime.UTC).replace(tzinfo=None)


def _numbers(chunk: LogChunk, name: str, n: int) -> Array | None:
    """Return a field of one number a row as float64, or None where it is something else."""
    layout = chunk.layout(name)
    array = (
        chunk.rows(layout[1]).array(0, n) if layout is not None and layout[0] == "leaf" else None
    )
    if array is not None and array.dtype.kind in "biuf" and array.size == n:
        return array.reshape(n).astype(np.float64)
    if layout is None or n == 0:
        return np.zeros(0)
    try:
        return np.array([float(value) for value in field_values(chunk, layout, 0, n)], np.float64)
    except (TypeError, ValueError):
        return None


def _digests(chunk: LogChunk) -> Array | None:
    """Return the digest of the state of each observation, those of resets among them."""
    packed = chunk.column("state_digest")
    if packed is not None:
        array = packed.array()
        return None if array is None else unpack_digests(array)
    layout = chunk.layout("state")
    if layout is None or not chunk.n_obs:
        return None
    return np.array(
        [state_digest(state) for state in field_values(chunk, layout, 0, chunk.n_obs)], np.uint32
    )


def _rows_after(chunk: LogChunk) -> Array:
    """Return which observations come after steps."""
    firsts = [
        (span.obs_start + span.segment.has_reset, span.segment.n_steps) for span in chunk.spans
    ]
    return np.concatenate([np.arange(first, first + n) for first, n in firsts])


def _expression(chunk: LogChunk, field_name: str, n: int, columns: dict[str, Array]) -> str:
    """Add a field's leaves to the columns; return the SQL that makes JSON of them."""
    layout = chunk.layout(field_name)
    if layout is None:
        return "NULL"
    found = _sql(chunk, layout, n, columns)
    if found is not None:
        return f"to_json({found})"
    columns[field_name] = np.array(
        [to_json(value) for value in field_values(chunk, layout, 0, n)], object
    )
    return f'"{field_name}"'


def _sql(chunk: LogChunk, layout: Any, n: int, columns: dict[str, Array]) -> str | None:
    """Return SQL for a value made of finite numbers, or None where it is not."""
    if layout[0] == "dict":
        parts = [
            (key, _sql(chunk, item, n, columns))
            for key, item in zip(layout[1], layout[2], strict=True)
        ]
        if not parts or any(part is None for _, part in parts):
            return None
        return (
            "{"
            + ", ".join("'{}': {}".format(key.replace("'", "''"), part) for key, part in parts)
            + "}"
        )
    if layout[0] == "tuple":
        items = [_sql(chunk, item, n, columns) for item in layout[1]]
        return (
            None
            if not items or any(item is None for item in items)
            else f"[{', '.join(map(str, items))}]"
        )
    rows = chunk.rows(layout[1])
    array = None if rows.row_numbers is not None else rows.array(0, n)
    if array is None or array.dtype.kind not in "biuf" or array[0].size > MAX_ELEMENTS:
        return None
    if array.dtype.kind == "f" and (array.itemsize not in (4, 8) or not np.isfinite(array).all()):
        return None
    if rows.type_name in ("bool", "|b1"):
        array = array.astype(np.bool_)
    return _nested(np.ascontiguousarray(array), f"c{len(columns)}", columns)


def _nested(array: Array, name: str, columns: dict[str, Array]) -> str:
    if array.ndim == 1:
        columns[name] = array.astype(array.dtype.newbyteorder("="))
        return f'"{name}"'
    return (
        "["
        + ", ".join(
            _nested(np.ascontiguousarray(array[:, k]), f"{name}_{k}", columns)
            for k in range(array.shape[1])
        )
        + "]"
    )


def _infos(chunk: LogChunk, n: int, columns: dict[str, Array]) -> str:
    """Add the infos; those that do not fit the columns, or do not come with every step, go through Python."""
    layout = chunk.layout("info")
    if layout is None and not chunk.record.irregular:
        return "NULL"
    dense = layout is not None and not chunk.record.irregular
    if dense and (found := _sql(chunk, layout, n, columns)) is not None:
        return f"to_json({found})"
    texts = np.full(n, None, object)
    if layout is not None:
        place, values = sparse_values(chunk, "info", 0, n)
        for row, value in zip(place, values, strict=True):
            texts[row] = to_json(value)
    at = {
        (span.segment.episode, span.segment.first_step + k): span.start + k
        for span in chunk.spans
        for k in range(span.segment.n_steps)
    }
    for number, step, data in chunk.record.irregular:
        if (number, step) in at:
            texts[at[number, step]] = to_json(codec.decode(data))
    columns["info"] = texts
    return '"info"'
