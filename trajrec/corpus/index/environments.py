"""Logs of environments to rows: each chunk of a log adds to the tables."""

from __future__ import annotations

import numpy as np

from trajrec.corpus.episode import LOST_FIELDS, first_redacted_step
from trajrec.corpus.index.rewards import agent_rewards
from trajrec.corpus.index.rows import (
    EpisodeRow,
    Rows,
    StateChangeRow,
    StepGroup,
    check_row,
    failure_row,
    interface_columns,
    json_or_none,
    to_timestamp,
)
from trajrec.log.chunk import LogChunk
from trajrec.log.events import Redaction
from trajrec.log.fields import Layout, field_values, sparse_values
from trajrec.log.reader import LogReader
from trajrec.log.schema import Check, EpisodeEnd, EpisodeStart, Failure, Fork, Header, episode_id
from trajrec.types import Array, Value
from trajrec.values import codec
from trajrec.values.diff import diff
from trajrec.values.digest import state_key, unpack_digests
from trajrec.values.json import MAX_ELEMENTS, to_json, to_keys, to_pointer

# Changes of one step beyond this number are not in `state_changes`; the log has the states.
MAX_CHANGES = 64


class LogRows:
    """Turns the chunks of one log into rows, in order, and keeps the open episodes between them.

    Args:
        log: The log's path relative to the corpus.
        header: The log's header.
        open_rows: Rows of the log's episodes without an end, from an earlier reading.
    """

    def __init__(self, log: str, header: Header, open_rows: dict[int, EpisodeRow]) -> None:
        self.log = log
        self.header = header
        self._open = dict(open_rows)
        interface = None if header.interface_data is None else codec.decode(header.interface_data)
        self._interface, self._interface_id = interface_columns(interface)
        self._last_state: dict[int, Value] = {}

    def prime(self, reader: LogReader, frame: int) -> None:
        """Read the last state before `frame`, which the next chunk is compared with."""
        for index in range(frame - 1, 0, -1):
            if reader.frames[index].kind == 2:
                chunk = reader.chunk(index)
                self._last_states(chunk)
                return

    def add(self, chunk: LogChunk, rows: Rows) -> None:
        """Add the rows of a chunk."""
        for event in chunk.record.events:
            if isinstance(event, EpisodeStart):
                row = self._row(event.episode, chunk.index)
                row.started_at = to_timestamp(event.time_ns)
                row.seed = event.seed
                row.seed_origin = event.seed_origin
                rows.episodes[row.episode_id] = row
            elif isinstance(event, Fork):
                row = self._row(event.episode, chunk.index)
                row.parent_id = event.parent_id
                row.fork_step = event.step
                row.end_step = event.step
            elif isinstance(event, Redaction):
                step = first_redacted_step([event], LOST_FIELDS)
                if step is not None:
                    row = self._row(event.episode, chunk.index)
                    rows.episodes[row.episode_id] = row
                    row.redacted_step = (
                        step if row.redacted_step is None else min(step, row.redacted_step)
                    )
        # Steps come before failures and ends, which are counted against the steps that are known.
        self._add_steps(chunk, rows)
        for event in chunk.record.events:
            if isinstance(event, (EpisodeEnd, Failure, Check)):
                self._add_event(event, chunk.index, rows)
        self._add_changes(chunk, rows)

    def _row(self, number: int, frame: int) -> EpisodeRow:
        row = self._open.get(number)
        if row is None:
            row = self._open[number] = EpisodeRow(
                episode_id=episode_id(self.header.log_id, number),
                env_id=self.header.env.env_id or None,
                log=self.log,
                number=number,
                first_frame=frame,
                last_frame=frame,
                state_adapter=self.header.state.adapter or None,
                interface=self._interface,
                interface_id=self._interface_id,
            )
        row.last_frame = max(row.last_frame, frame)
        return row

    def _add_event(self, event: EpisodeEnd | Failure | Check, frame: int, rows: Rows) -> None:
        row = self._row(event.episode, frame)
        rows.episodes[row.episode_id] = row
        if isinstance(event, Failure):
            row.n_failures += 1
            if event.phase == "step":
                row.missing_steps += max(0, event.step - row.end_step)
                row.end_step = max(row.end_step, event.step + 1)
            rows.failures.append(failure_row(row, event))
        elif isinstance(event, Check):
            if event.verdict is not None:
                row.outcome = "success" if event.verdict else "failure"
            rows.checks.append(check_row(row.episode_id, row.kind, event, self.log))
        elif isinstance(event, EpisodeEnd):
            row.missing_steps += max(0, event.n_steps - row.end_step)
            row.end_step = event.n_steps
            row.ending = event.ending
            row.ended_at = to_timestamp(event.time_ns)
            row.terminated = event.terminated
            row.truncated = event.truncated
            if row.started_at is None:
                row.seed_origin = None

    def _add_steps(self, chunk: LogChunk, rows: Rows) -> None:
        n = chunk.n_steps
        rewards = _numbers(chunk, "reward", n)
        index = np.empty(n, np.uint32)
        steps = np.empty(n, np.int32)
        keys = _keys(chunk)
        checks = _checks(chunk) if keys is None else None
        reset_keys = _reset_keys(chunk) if keys is None else keys
        failed = {
            (event.episode, event.step)
            for event in chunk.record.events
            if isinstance(event, Failure) and event.phase == "step"
        }
        for span in chunk.spans:
            segment = span.segment
            stop = span.start + segment.n_steps
            row = self._row(segment.episode, chunk.index)
            rows.episodes[row.episode_id] = row
            if segment.has_reset and reset_keys is not None:
                key = reset_keys[span.obs_start]
                row.reset_key = None if key is None else int(key)
            index[span.start : stop] = len(rows.episode_ids)
            rows.episode_ids.append(row.episode_id)
            steps[span.start : stop] = np.arange(
                segment.first_step, segment.first_step + segment.n_steps
            )
            gap = range(row.end_step, segment.first_step)
            row.missing_steps += (
                sum((segment.episode, step) not in failed for step in gap) if failed else len(gap)
            )
            row.end_step = max(row.end_step, segment.first_step + segment.n_steps)
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
        if keys is not None:
            columns["state_key"] = keys[_rows_after(chunk)]
        elif checks is not None:
            columns["state_check"] = checks[_rows_after(chunk)]
        action = _expression(chunk, "action", n, columns)
        info = _infos(chunk, n, columns)
        # Chunks with the same columns and expressions are inserted by one statement.
        signature = ",".join(f"{name}:{column.dtype}" for name, column in columns.items())
        group = rows.steps.setdefault((signature, action + info), StepGroup(action, info))
        group.columns.append(columns)
        rows.n_steps += n

    def _add_changes(self, chunk: LogChunk, rows: Rows) -> None:
        """Add the changes of each step, if states are stored whole."""
        if self.header.state.keep != "every" or chunk.layout("state") is None:
            return
        states = field_values(chunk, chunk.layout("state"), 0, chunk.n_obs)
        for span in chunk.spans:
            segment = span.segment
            row = self._row(segment.episode, chunk.index)
            kind = row.kind
            first = span.obs_start
            before = states[first] if segment.has_reset else self._last_state.get(segment.episode)
            for k in range(segment.n_steps):
                after = states[first + segment.has_reset + k]
                if before is not None:
                    for change in diff(before, after)[:MAX_CHANGES]:
                        rows.changes.append(
                            StateChangeRow(
                                episode_id=row.episode_id,
                                kind=kind,
                                step=segment.first_step + k,
                                path=to_pointer(change.path),
                                keys=to_keys(change.path),
                                before=json_or_none(change.before),
                                after=json_or_none(change.after),
                            )
                        )
                before = after
        self._last_states(chunk, states)

    def _last_states(self, chunk: LogChunk, states: list[Value] | None = None) -> None:
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


def _numbers(chunk: LogChunk, name: str, n: int) -> Array | None:
    """Return a field of one number a row as float64; None for any other field."""
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


def _keys(chunk: LogChunk) -> Array | None:
    """Return the key of the state of each observation, uint64; None if one is unknown."""
    digests = _digests(chunk)
    if digests is not None:
        return digests if digests.dtype == np.uint64 else None
    layout = chunk.layout("state")
    if layout is None or not chunk.n_obs:
        return None
    states = field_values(chunk, layout, 0, chunk.n_obs)
    return np.array([state_key(state) for state in states], np.uint64)


def _checks(chunk: LogChunk) -> Array | None:
    """Return the check of the state of each observation, uint32; None if the log has none."""
    digests = _digests(chunk)
    return digests if digests is not None and digests.dtype == np.uint32 else None


def _reset_keys(chunk: LogChunk) -> list[int | None] | None:
    """Return the key of the state of each observation that is a reset's; None for the others.

    A log with checks stores the states of resets whole.
    """
    resets = {span.obs_start for span in chunk.spans if span.segment.has_reset}
    if not resets or chunk.layout("state") is None:
        return None
    keys: list[int | None] = [None] * chunk.n_obs
    for row, state in zip(*sparse_values(chunk, "state", 0, chunk.n_obs), strict=True):
        if row in resets:
            keys[row] = state_key(state)
    return keys


def _digests(chunk: LogChunk) -> Array | None:
    packed = chunk.column("state_digest")
    array = None if packed is None else packed.array()
    return None if array is None else unpack_digests(array)


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
    sql = _sql(chunk, layout, n, columns)
    if sql is not None:
        return f"to_json({sql})"
    columns[field_name] = np.array(
        [to_json(value) for value in field_values(chunk, layout, 0, n)], object
    )
    return f'"{field_name}"'


def _sql(chunk: LogChunk, layout: Layout, n: int, columns: dict[str, Array]) -> str | None:
    """Return SQL for a value made of finite numbers; None for any other value."""
    if layout[0] == "dict":
        # DuckDB's structs take names that differ in case for one, and no empty name.
        names = {key.lower() for key in layout[1]}
        if len(names) < len(layout[1]) or "" in names:
            return None
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
    """Add the infos. Python makes the JSON of infos that differ in form or are missing in steps."""
    layout = chunk.layout("info")
    if layout is None and not chunk.record.irregular:
        return "NULL"
    is_dense = layout is not None and not chunk.record.irregular
    if is_dense and (sql := _sql(chunk, layout, n, columns)) is not None:
        return f"to_json({sql})"
    # Text by text in Python, which is slower: these infos have no common columns.
    texts = np.full(n, None, object)
    if layout is not None:
        indices, values = sparse_values(chunk, "info", 0, n)
        for row, value in zip(indices, values, strict=True):
            texts[row] = to_json(value)
    row_of_step = {
        (span.segment.episode, span.segment.first_step + k): span.start + k
        for span in chunk.spans
        for k in range(span.segment.n_steps)
    }
    for number, step, data in chunk.record.irregular:
        if (number, step) in row_of_step:
            texts[row_of_step[number, step]] = to_json(codec.decode(data))
    columns["info"] = texts
    return '"info"'
