"""Compares trajrec's reader with the slow one, value by value, by type and bits."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from slow_reader import contents
from slow_schema import EVENTS, STRUCTS, is_encoded
from slow_values import Typed, float_bits, pack
from typed_values import count, plain, typed

from trajrec.corpus.episode import Episode
from trajrec.errors import LogCorruptError, StateUnknownError
from trajrec.log.frames import CHUNK, FOOTER
from trajrec.log.reader import LogReader
from trajrec.log.schema import Header
from trajrec.values import codec
from trajrec.values.arrays import array_bytes
from trajrec.values.digest import pack_digests

Struct = dict[str, Any]

_TYPED_FIELDS = {"runtime", "spec_fields"}
_RESTORE = {
    "prefix": "reexecute",
    "native": "snapshot",
    "pickle": "pickle",
    "sandbox": "env_snapshot",
    "process": "os_fork",
}
_KEEP_STATES = {"default": "auto", "full": "all", "minimal": "digests"}
_COLUMNS = {
    "lo": "ci_low",
    "hi": "ci_high",
    "n_lost": "n_invalid",
    "universe": "scenario",
    "returned": "episode_return",
}
_TAGS = {"effect": "side_effect", "regrade": "post_hoc_check"}
_FIELDS = {"level": "restore", "root": "seed", "record": "keep_states"}


class Comparison:
    """Collects the values that were compared, and the first differences.

    Attributes:
        n_values: How many single values were equal.
        differences: The places that differ, with both values.
    """

    def __init__(self) -> None:
        self.n_values = 0
        self.differences: list[str] = []

    def same(self, place: str, ours: Any, slow: Any) -> None:
        if ours == slow or without_padding(ours) == without_padding(slow):
            self.n_values += count(slow)
        elif len(self.differences) < 10:
            self.differences.append(first_difference(place, ours, slow))


def without_padding(value: Any) -> Any:
    """Return typed values with zeros for the bytes of long doubles that are no part of a value.

    Columns of the log have them as they were in memory, and trajrec gives values without them.
    """
    if isinstance(value, (list, tuple)):
        return [without_padding(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and (kind := next(iter(value))) in ("array", "scalar"):
        name, *shape, data = value[kind]
        dtype = np.dtype(name) if isinstance(name, str) else None
        if dtype is not None and dtype.char in "gG":
            return {kind: [name, *shape, array_bytes(np.frombuffer(data, dtype))]}
    return {key: without_padding(item) for key, item in value.items()}


def first_difference(place: str, ours: Any, slow: Any) -> str:
    """Return the first place in which two values differ, with both contents of it."""
    if isinstance(ours, (list, tuple)) and isinstance(slow, (list, tuple)):
        for index, (one, other) in enumerate(zip(ours, slow, strict=False)):
            if one != other:
                return first_difference(f"{place}/{index}", one, other)
    if isinstance(ours, dict) and isinstance(slow, dict) and ours.keys() == slow.keys():
        for key, one in ours.items():
            if one != slow[key]:
                return first_difference(f"{place}/{key}", one, slow[key])
    return f"{place}:\n  trajrec {ours!r:.600}\n  slow    {slow!r:.600}"


def compare_log(path: Path, *, slow: Struct | None = None) -> Comparison:
    """Read a log with both readers and compare everything that they give.

    Args:
        path: The log.
        slow: What the slow reader gives for a damaged log; by default the log must be intact.
    """
    comparison = Comparison()
    if slow is None:
        slow = contents(path)
        comparison.same("failed checks", [], slow["failed"])
    with LogReader(path) as reader:
        _compare_frames(comparison, reader, slow)
        _compare_header(comparison, reader, slow)
        _compare_events(comparison, reader, slow)
        for episode in slow["episodes"]:
            _compare_episode(comparison, Episode(reader, episode["episode"]), episode)
        _compare_states(comparison, reader, slow)
    return comparison


def _compare_header(comparison: Comparison, reader: LogReader, slow: Struct) -> None:
    header = slow["header"]
    if header is None:
        return
    if slow["version"] == 1:
        header = _upgraded_header(header)
    comparison.same("header", _opened(reader.header, ""), _completed(header))


def _compare_frames(comparison: Comparison, reader: LogReader, slow: Struct) -> None:
    ours = [[entry.offset, entry.size, entry.kind, entry.sequence] for entry in reader.frames]
    frames = [frame for frame in slow["frames"] if frame[2] != FOOTER]
    comparison.same("frames", ours, frames)
    comparison.same("is_sealed", reader.is_sealed, slow["is_sealed"])
    # Of a log with a footer, a frame's damage is noted when the frame is read.
    list(reader.chunks())
    damage = [[part.offset, part.offset + part.size] for part in reader.damage if not part.is_tail]
    unread = [offset for offset, _, kind, _ in frames if kind != CHUNK]
    if slow["footer"] is None:
        unread = []
    found = [part for part in slow["damage"] if part[0] not in unread]
    comparison.same("damage", [part for part in damage if part[0] < part[1]], found)
    torn = [part.size for part in reader.damage if part.is_tail]
    comparison.same("torn", sum(torn), slow["torn"])
    if reader.footer is not None:
        footer = {k: v for k, v in plain(reader.footer).items() if k != "header"}
        rewards = footer["episodes"].pop("total_rewards")
        totals = slow["footer"]["episodes"].pop("total_rewards")
        comparison.same(
            "total rewards",
            rewards,
            [x if isinstance(x, dict) else float_bits(float(x)) for x in totals],
        )
        comparison.same("footer", footer, slow["footer"])


def _compare_events(comparison: Comparison, reader: LogReader, slow: Struct) -> None:
    ours = []
    for index, entry in enumerate(reader.frames):
        if entry.kind == CHUNK:
            with contextlib.suppress(LogCorruptError):
                for event in reader.chunk(index).record.events:
                    tag = str(event.__struct_config__.tag)
                    ours.append((index, {"tag": tag} | _opened(event, tag)))
    for chunk in reader.journal:
        for event in chunk.record.events:
            tag = str(event.__struct_config__.tag)
            ours.append((len(reader.frames), {"tag": tag} | _opened(event, tag)))
    # A reader that scans keeps no footer among its frames.
    kept = [number for number, frame in enumerate(slow["frames"]) if frame[2] != FOOTER]
    # The events of the journal count to a frame behind the last one.
    kept.append(len(slow["frames"]))
    events = [(kept.index(frame), event) for frame, event in slow["events"]]
    if slow["version"] == 1:
        events = [(frame, _upgraded_event(event)) for frame, event in events]
    comparison.same("number of events", len(ours), len(events))
    for number, (one, other) in enumerate(zip(ours, events, strict=False)):
        comparison.same(f"event {number}", one, (other[0], _completed(other[1])))


def _compare_episode(comparison: Comparison, ours: Episode, slow: Struct) -> None:
    place = f"episode {ours.number}"
    comparison.same(f"{place} id", ours.id, slow["id"])
    reset = [slow["reset"]] if slow["reset"] else []
    rows = [*reset, *slow["steps"]]
    comparison.same(f"{place} steps", ours.step_numbers.tolist(), _column(slow["steps"], "step"))
    for name, values, slow_rows in [
        ("action", ours.actions, slow["steps"]),
        ("reward", ours.reward_values, slow["steps"]),
        ("info", ours.rows.infos(), slow["steps"]),
        ("obs", ours.observation_values, rows),
    ]:
        comparison.same(f"{place} {name}", list(map(typed, values)), _column(slow_rows, name))
    states = {row: values["state"] for row, values in enumerate(rows) if "state" in values}
    comparison.same(f"{place} states", {k: typed(v) for k, v in ours.states.items()}, states)
    digests = _column(rows, "digest")
    if digests:
        numbers = list(map(int, ours.state_digests))  # type: ignore[arg-type]
        packed = pack_digests(numbers, ours.digest_bytes)
        comparison.same(f"{place} digests", [bytes(row) for row in packed], digests)


def _compare_states(comparison: Comparison, reader: LogReader, slow: Struct) -> None:
    """Compare the states of agents' worlds, rebuilt from their changes."""
    values = {part["event"]: part["value"] for part in slow["parts"]}
    episodes: dict[int, Episode] = {}
    n_changes: Counter[int] = Counter()
    uncaptured: dict[int, set[str]] = {}
    for number, (_, event) in enumerate(slow["events"]):
        if event["tag"] != "state":
            continue
        parts = uncaptured.setdefault(event["episode"], set())
        parts.discard(event["part"])
        if event["data"] is None and not event["digest"]:
            parts.add(event["part"])
        episode = episodes.setdefault(event["episode"], Episode(reader, event["episode"]))
        n_changes[event["episode"]] += 1
        if number in values:
            history = episode.transcript.history
            try:
                state = history.state(n_changes[event["episode"]], event["step"])
            except StateUnknownError:
                # Another part could not be captured, or changes of it were lost.
                is_damaged = bool(slow["failed"] or slow["damage"])
                comparison.same(
                    f"state after event {number} is known", False, not (is_damaged or parts)
                )
                continue
            comparison.same(f"parts unknown after event {number}", set(), parts)
            # The order of keys is no part of a state.
            ours = pack(typed(state[event["part"]]))
            comparison.same(f"state after event {number}", ours, pack(values[number]))


def _column(rows: list[Struct], name: str) -> list[Typed]:
    return [row[name] for row in rows if name in row]


def _opened(record: Any, tag: str) -> Struct:
    """Return a record of trajrec with its encoded values as typed values."""
    values: Struct = {}
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if is_encoded(tag, name) and value:
            values[name] = typed(codec.decode(value))
        elif tag == "model" and name == "messages":
            values[name] = [typed(codec.decode(message)) for message in value]
        elif name == "wrappers":
            values[name] = [[cls, data and typed(codec.decode(data))] for cls, data in value]
        elif name in _TYPED_FIELDS:
            values[name] = typed(value)
        elif isinstance(record, Header) and name in ("env", "state"):
            values[name] = _opened(value, "")
        else:
            values[name] = plain(value)
    return values


def _upgraded_header(header: Struct) -> Struct:
    record = {_FIELDS.get(name, name): value for name, value in header.items()}
    return record | {"keep_states": _KEEP_STATES[record["keep_states"]]}


def _upgraded_event(event: Struct) -> Struct:
    """Return an event of format 1 with the names and words of format 2."""
    record = {_FIELDS.get(name, name): value for name, value in event.items()}
    record["tag"] = _TAGS.get(event["tag"], event["tag"])
    if "restore" in record:
        record["restore"] = _RESTORE[record["restore"]]
    for name in ("estimates_data", "rollouts_data"):
        if name in record:
            columns = record[name]["dict"]
            record[name] = {"dict": [[_COLUMNS.get(key, key), item] for key, item in columns]}
    return record


def _completed(record: Struct) -> Struct:
    """Return a record with the defaults of the fields that format 2 has and it lacks."""
    if "tag" in record:
        return EVENTS[2][record["tag"]] | record
    return STRUCTS[2]["Header"] | record | {"env": STRUCTS[2]["EnvRecord"] | record["env"]}
