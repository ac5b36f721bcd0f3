"""Changes of a world's state, and results of its calls: the recorded ones beside the live ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from trajrec.corpus.transcript import Attempt
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.codec import Plain
from trajrec.values.diff import MISSING, Change, diff
from trajrec.values.paths import Path, path_id

UNORDERED = (
    "unordered set: the same items in another order, as each process orders sets of texts; "
    "PYTHONHASHSEED=0 when recording and when replaying gives one order"
)


def is_outside_world(tool: str, access: str, world_tools: Collection[str]) -> bool:
    """Return whether a world cannot make a call again: the tool is external, or not the world's."""
    return access == "external" or tool not in world_tools


def in_part(part: str, change: Change) -> Change:
    """Return a change of a part of the state with the path that reports give it."""
    prefix = ("state", part) if part else ("state",)
    return change._replace(path=(*prefix, *change.path))


def differences(recorded: Sequence[Change], live: Sequence[Change]) -> Iterator[Change]:
    """Yield the differences of the values that two lists of changes lead to."""
    recorded_by_id = {path_id(change.path): change for change in recorded}
    live_by_id = {path_id(change.path): change for change in live}
    for own_id, either in (recorded_by_id | live_by_id).items():
        expected = recorded_by_id[own_id].after if own_id in recorded_by_id else MISSING
        actual = live_by_id[own_id].after if own_id in live_by_id else MISSING
        for change in diff(expected, actual):
            yield change._replace(path=(*either.path, *change.path))


def has_changes(attempt: Attempt, part: str, live: Sequence[Change]) -> bool:
    """Return whether an attempt made these changes of a part, by their paths and values."""
    recorded = attempt.changes.get(part, [])
    recorded_paths, live_paths = (
        {path_id(change.path) for change in changes} for changes in (recorded, live)
    )
    if part in attempt.open_paths or recorded_paths != live_paths:
        return False
    return not any(differences(recorded, live))


def is_reordered(recorded: Value, live: Value, path: Path) -> bool:
    """Return whether, along a path, two lists have the same items in another order."""
    for key in path:
        if isinstance(recorded, list) and isinstance(live, list) and recorded != live:
            if sorted(map(codec.encode, recorded)) == sorted(map(codec.encode, live)):
                return True
            if key >= min(len(recorded), len(live)):
                # One of them has more items.
                return False
            recorded = recorded[key]
            live = live[key]
        elif isinstance(recorded, Plain) and isinstance(live, Plain):
            recorded = recorded.fields.get(key)
            live = live.fields.get(key)
        elif isinstance(recorded, dict) and isinstance(live, dict):
            recorded = recorded.get(key)
            live = live.get(key)
        else:
            return False
    return False
