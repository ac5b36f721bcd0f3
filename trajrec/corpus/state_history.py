"""The states of an agent's world, rebuilt from its recorded changes and verified by their digests.

A state is never given out unverified: of each part, the digest that was recorded with its last
change is compared with that of the rebuilt part. A state that does not match, or whose changes do
not fit, is unknown.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Final

from trajrec.errors import StateUnknownError
from trajrec.log.events import StateChange
from trajrec.tracking.tree import Tree, is_digest_of
from trajrec.types import Value
from trajrec.values.diff import MISSING, Change
from trajrec.values.patch import patched
from trajrec.values.paths import Path
from trajrec.values.text_paths import possible_paths, text_keys

# Ways to read the text paths of one record that are tried. Each costs a digest of the state.
MAX_READINGS = 64


class _Unknown:
    def __repr__(self) -> str:
        return "(unknown)"


UNKNOWN: Final = _Unknown()
"""Stands for a part of the state that no changes lead to."""


class StateHistory:
    """The states between the recorded changes of an episode.

    Args:
        events: The changes in the order of the log: first the parts at the reset.
        decode: Returns an encoded value, with its references resolved.
        episode_id: The episode, for errors.
    """

    def __init__(
        self,
        events: Sequence[StateChange],
        decode: Callable[[bytes | None], Value],
        episode_id: str,
    ) -> None:
        self._events = events
        self._decode = decode
        self._episode_id = episode_id
        self._changes: list[list[Change]] = []
        # For each event: whether its paths have the recorded types, or were found by a digest.
        self._has_typed_paths: list[bool] = []
        # The state after each event that was read so far. Unchanged parts of values are shared.
        self._states: list[dict[str, Value]] = []
        self._is_verified: dict[int, bool] = {}

    def __len__(self) -> int:
        return len(self._events)

    def changes(self, index: int) -> list[Change]:
        """Return the changes of an event; none for the parts at the reset."""
        self._read(index + 1)
        return self._changes[index]

    def has_typed_paths(self, index: int) -> bool:
        """Return whether the types of the keys in an event's paths are known."""
        self._read(index + 1)
        return self._has_typed_paths[index]

    def state(self, n_events: int, step: int) -> dict[str, Value]:
        """Return the parts of the state after the first events, as plain data of its own.

        Args:
            n_events: The number of events.
            step: The step that the state belongs to, for errors.

        Raises:
            StateUnknownError: The state is unknown.
        """
        self._read(n_events)
        last = {event.part: index for index, event in enumerate(self._events[:n_events])}
        for index in last.values():
            self._verify(index, step)
        return copy.deepcopy(self._states[n_events - 1]) if n_events else {}

    def last_unknown(self) -> StateUnknownError | None:
        """Return why the last state is unknown; None if it is known, or if there is none."""
        try:
            self.state(len(self._events), self._events[-1].step if self._events else -1)
        except StateUnknownError as error:
            return error
        return None

    def first_unknown(self) -> StateUnknownError | None:
        """Return why the first unknown state is unknown; None if all are known."""
        self._read(len(self._events))
        # A tree digests only the records that changed, and nearly always gives the right digest.
        trees: dict[str, _PartTree] = {}
        for index, event in enumerate(self._events):
            value = self._states[index][event.part]
            if value is not UNKNOWN:
                digest = trees.setdefault(event.part, _PartTree()).digest(value)
                if digest == event.digest:
                    self._is_verified[index] = True
            try:
                self._verify(index, event.step)
            except StateUnknownError as error:
                return error
        return None

    def _verify(self, index: int, step: int) -> None:
        event = self._events[index]
        value = self._states[index][event.part]
        if not event.digest:
            reason = "it could not be captured"
        elif value is UNKNOWN:
            reason = "the recorded changes do not fit it"
        else:
            if index not in self._is_verified:
                self._is_verified[index] = is_digest_of(event.digest, value)
            if self._is_verified[index]:
                return
            reason = f"the recorded changes lead to another digest than the recorded {event.digest}"
        raise StateUnknownError(reason, episode_id=self._episode_id, step=step, part=event.part)

    def _read(self, n_events: int) -> None:
        for event in self._events[len(self._states) : n_events]:
            state = dict(self._states[-1]) if self._states else {}
            before = state.get(event.part, UNKNOWN)
            changes: list[Change] = []
            is_typed = True
            if event.step < 0:
                state[event.part] = UNKNOWN if event.data is None else self._decode(event.data)
            elif event.data is not None:
                operations = self._decode(event.data)
                changes, is_typed, state[event.part] = _read_changes(operations, before, event)
            elif event.part not in state:
                state[event.part] = UNKNOWN
            # Without data, the change is part of the next one, and the digest tells if it is known.
            self._changes.append(changes)
            self._has_typed_paths.append(is_typed)
            self._states.append(state)


class _PartTree:
    """Computes the digests of one part's values, which follow each other."""

    def __init__(self) -> None:
        self._value: Value = None
        self._tree = Tree(lambda: self._value)
        self._has_begun = False

    def digest(self, value: Value) -> str:
        self._value = value
        if self._has_begun:
            return self._tree.update()[1]
        self._has_begun = True
        return self._tree.begin()[1]


def _read_changes(
    operations: Value, before: Value, event: StateChange
) -> tuple[list[Change], bool, Value]:
    """Return recorded changes, whether their paths are certain, and the value that they lead to."""
    if not _are_operations(operations):
        return [], True, UNKNOWN
    if all(not isinstance(path, str) for _, path, *_ in operations):
        changes = [_change(operation, tuple(operation[1])) for operation in operations]
        return changes, True, _applied(before, changes)
    readings = [
        list(
            itertools.islice(
                possible_paths(before, operation[1], is_addition=operation[0] == "add"),
                MAX_READINGS,
            )
        )
        for operation in operations
    ]
    n_readings = math.prod(map(len, readings))
    if 1 <= n_readings <= MAX_READINGS:
        for paths in itertools.product(*readings):
            changes = [
                _change(operation, path) for operation, path in zip(operations, paths, strict=True)
            ]
            after = _applied(before, changes)
            if n_readings == 1 or (after is not UNKNOWN and is_digest_of(event.digest, after)):
                return changes, True, after
    changes = [_change(operation, text_keys(operation[1])) for operation in operations]
    return changes, False, UNKNOWN


def _are_operations(operations: Value) -> bool:
    """Return whether a value is a list of changes."""
    return isinstance(operations, list) and all(map(_is_operation, operations))


def _is_operation(item: Value) -> bool:
    match item:
        case ["add" | "remove", str() | list() | tuple(), _]:
            return True
        case ["replace", str() | list() | tuple(), _, _]:
            return True
    return False


def _applied(before: Value, changes: list[Change]) -> Value:
    if before is UNKNOWN and not any(change.path == () for change in changes):
        return UNKNOWN
    try:
        return patched(before, changes)
    except KeyError:
        return UNKNOWN


def _change(operation: list[Value], path: Path) -> Change:
    name, _, *values = operation
    if name == "add":
        return Change(path, MISSING, values[0])
    if name == "remove":
        return Change(path, values[0], MISSING)
    return Change(path, values[0], values[1])
