"""Changes of an agent's state that its own program made between the recorded calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from trajrec.corpus.attempts import AttemptKey
from trajrec.corpus.state_history import StateHistory
from trajrec.log.events import (
    PROGRAM,
    AgentEvent,
    CallStart,
    ExchangeStart,
    ModelStart,
    StateChange,
)
from trajrec.values.diff import Change
from trajrec.values.paths import path_id


class ProgramChange(NamedTuple):
    """A change of one part of the state between two calls.

    Attributes:
        step: The last step that had begun; -1 before the first.
        part: The part of the state.
        changes: The changes; none if the part could not be captured.
        has_typed_paths: Whether the types of the keys in the paths are known.
        digest: The digest of the part afterwards, "" if it could not be captured.
        n_changes: The number of recorded changes that lead to the state after it.
        next_call: The next call that began; None if none did.
        n_models: The number of model calls by a client that had begun.
        n_exchanges: The number of HTTP exchanges that had begun.
    """

    step: int
    part: str
    changes: list[Change]
    has_typed_paths: bool
    digest: str
    n_changes: int
    next_call: AttemptKey | None
    n_models: int
    n_exchanges: int


def program_changes(events: Sequence[AgentEvent], history: StateHistory) -> list[ProgramChange]:
    """Return the changes between the calls of an episode, in order."""
    starts = [event for event in events if type(event) is CallStart]
    n_started = n_changes = n_models = n_exchanges = 0
    found: list[ProgramChange] = []
    for event in events:
        if type(event) is CallStart:
            n_started += 1
        elif type(event) is ModelStart:
            n_models += 1
        elif type(event) is ExchangeStart:
            n_exchanges += 1
        elif type(event) is StateChange:
            n_changes += 1
            if event.actor != PROGRAM:
                continue
            changes, has_typed_paths = history.changes(n_changes - 1)
            start = starts[n_started] if n_started < len(starts) else None
            change = ProgramChange(
                step=event.step,
                part=event.part,
                changes=changes,
                has_typed_paths=has_typed_paths,
                digest=event.digest,
                n_changes=n_changes,
                next_call=None if start is None else (start.step, start.call, start.attempt),
                n_models=n_models,
                n_exchanges=n_exchanges,
            )
            found.append(change)
    return found


def joined_changes(earlier: list[Change], later: list[Change]) -> list[Change]:
    """Return two lists of changes as one, in which a value that changed twice stands once."""
    if not earlier:
        return later
    joined = {path_id(change.path): change for change in earlier}
    for change in later:
        own_id = path_id(change.path)
        before = joined.get(own_id)
        joined[own_id] = change if before is None else change._replace(before=before.before)
    return list(joined.values())
