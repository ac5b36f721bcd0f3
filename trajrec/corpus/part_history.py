"""One part of the state of an agent's world: rebuilt after any of its changes, and digested.

The part is one value that is changed in place, so a step forward costs its changes and not the size
of the state. A step back begins again at the last of some copies. They are made when a step back
happens for the first time, at even distances, and their number is limited by their size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from trajrec.errors import EncodeError
from trajrec.log.events import StateChange, is_at_reset
from trajrec.tracking.plain_data import NOT_PLAIN, encode
from trajrec.tracking.tree import Tree, is_digest_of
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.copies import copy_data
from trajrec.values.diff import MISSING, Change
from trajrec.values.own_value import OwnValue
from trajrec.values.patch import patched
from trajrec.values.paths import Path
from trajrec.values.text_paths import possible_paths, text_keys

# Ways to read the text paths of one record that are tried. Each costs a digest of the state.
MAX_READINGS = 64

MAX_COPIES = 16
MAX_COPY_BYTES = 1 << 24
"""The most bytes of all copies of a part, encoded. As objects they take about six times as much."""

MIN_COPY_DISTANCE = 64
"""Changes of so many events cost less than a copy."""


class _Unknown:
    def __repr__(self) -> str:
        return "(unknown)"


UNKNOWN: Final = _Unknown()
"""Stands for a part of the state that no changes lead to."""

# A change may be any data, and the value that it leads to may nest too deeply for Python.
_MISFIT = (KeyError, RecursionError)


class PartHistory:
    """One part of the state.

    Args:
        events: The part's changes in the order of the log: first the part at the reset.
        decode: Returns an encoded value, as an object of its own.

    """

    def __init__(
        self, events: Sequence[StateChange], decode: Callable[[bytes | None], Value]
    ) -> None:
        self._events = events
        self._decode = decode
        self._own = OwnValue(UNKNOWN)
        self._n_applied = 0
        # The number of events after which the value was compared with its digest, and the result.
        self._compared: tuple[int, bool] = (-1, False)
        self._digests = _PartDigests()
        self._copies = _Copies(len(events))
        # Of format 1: the paths of an event that were read from texts, and if they are certain.
        self._read_paths: dict[int, tuple[list[Path], bool]] = {}

    @property
    def value(self) -> Value:
        """The part after the events that `go_to` named, or `UNKNOWN`; the next call changes it."""
        return self._own.value

    def changes(self, position: int) -> tuple[list[Change], bool]:
        """Return the changes of an event, and whether the types of the keys in its paths are known.

        The part at the reset has no changes.
        """
        event = self._events[position]
        if is_at_reset(event) or event.data is None:
            return [], True
        operations = self._decode(event.data)
        if not _are_operations(operations):
            return [], True
        if _has_text_paths(operations) and position not in self._read_paths:
            # Only the state before tells the types of their keys.
            self.go_to(position)
            self._apply(position)
            self._n_applied += 1
        return self._with_paths(position, operations)

    def go_to(self, n_events: int) -> None:
        """Rebuild the part after the first events."""
        is_backwards = n_events < self._n_applied
        self._copies.are_wanted |= is_backwards
        n_copied = self._copies.last_before(n_events)
        if is_backwards or n_copied > self._n_applied + MIN_COPY_DISTANCE:
            self._own = OwnValue(self._copies.get(n_copied) if n_copied else UNKNOWN)
            self._n_applied = n_copied
        while self._n_applied < n_events:
            self._apply(self._n_applied)
            self._n_applied += 1
            self._copies.add(self._n_applied, self.value)

    def unknown_reason(self) -> str:
        """Return why the part is unknown; "" if its digest is the recorded one."""
        event = self._events[self._n_applied - 1]
        if not event.digest:
            return "it could not be captured"
        if self.value is UNKNOWN:
            return "the recorded changes do not fit it"
        if self._compared[0] != self._n_applied:
            n_between = abs(self._n_applied - self._compared[0])
            # Of a large state, most records are the same even then.
            n_near = max(MIN_COPY_DISTANCE, _n_items(self.value) // 4)
            is_equal = self._digests.is_equal(event.digest, self.value, is_near=n_between <= n_near)
            self._compared = (self._n_applied, is_equal)
        if self._compared[1]:
            return ""
        return f"the recorded changes lead to another digest than the recorded {event.digest}"

    def _apply(self, position: int) -> None:
        """Make the changes of an event, which follows those that were made."""
        event = self._events[position]
        if is_at_reset(event):
            value = UNKNOWN if event.data is None else self._decode(event.data)
            self._own = OwnValue(value)
        elif event.data is not None:
            # Without data, the change is part of the next one, and the digest tells if it is known.
            operations = self._decode(event.data)
            if not _are_operations(operations):
                self._own = OwnValue(UNKNOWN)
                return
            if _has_text_paths(operations) and position not in self._read_paths:
                self._read_paths[position] = _read_paths(operations, self.value, event)
            self._patch(self._with_paths(position, operations))

    def _patch(self, changes: tuple[list[Change], bool]) -> None:
        is_typed = changes[1]
        try:
            if is_typed and _have_base(self.value, changes[0]):
                self._own.patch(changes[0])
                return
        except _MISFIT:
            pass
        self._own = OwnValue(UNKNOWN)

    def _with_paths(self, position: int, operations: list[Value]) -> tuple[list[Change], bool]:
        is_typed = True
        paths: Iterable[Path]
        if position in self._read_paths:
            paths, is_typed = self._read_paths[position]
        else:
            paths = (tuple(operation[1]) for operation in operations)
        return [_change(*item) for item in zip(operations, paths, strict=True)], is_typed


class _PartDigests:
    """Compares digests with the values of one part, which mostly follow each other."""

    def __init__(self) -> None:
        self._value: Value = None
        # It looks at all of the value, and digests only the records that changed since the last.
        # Made when it is needed: it refers to this object, and only the garbage collector, which
        # is off while logs are indexed, frees the two.
        self._tree: Tree | None = None
        self._has_begun = False
        # Trackers of a user's own have digests of another kind.
        self._is_of_tree = True

    def is_equal(self, digest: str, value: Value, *, is_near: bool) -> bool:
        """Return whether a digest is that of a value, which differs little from the last if near."""
        if self._is_of_tree and self._of_tree(value, is_near) == digest:
            return True
        is_equal = is_digest_of(digest, value)
        self._is_of_tree = self._is_of_tree and not is_equal
        return is_equal

    def _of_tree(self, value: Value, is_near: bool) -> str:
        self._value = value
        if self._tree is None:
            self._tree = Tree(lambda: self._value)
        is_update = self._has_begun and is_near
        # After an exception, the tree has taken in a part of the value.
        self._has_begun = False
        try:
            digest = self._tree.update()[1] if is_update else self._tree.begin()[1]
        except (EncodeError, RecursionError):
            return ""
        self._has_begun = True
        return digest


class _Copies:
    """Copies of a part after some of its events.

    Args:
        n_events: The number of the part's events.

    Attributes:
        are_wanted: Whether copies are made. A reader who only goes forward needs none.
    """

    def __init__(self, n_events: int) -> None:
        self.are_wanted = False
        self._distance = max(MIN_COPY_DISTANCE, -(-n_events // (MAX_COPIES + 1)))
        self._values: dict[int, Value] = {}
        self._sizes: dict[int, int] = {}

    def add(self, n_events: int, value: Value) -> None:
        """Add a copy of the value after some events, if one is wanted there."""
        if not self.are_wanted or n_events % self._distance or n_events in self._values:
            return
        size = _encoded_bytes(value)
        if size > MAX_COPY_BYTES:
            return
        self._values[n_events] = copy_data(value)
        self._sizes[n_events] = size
        while sum(self._sizes.values()) > MAX_COPY_BYTES:
            self._distance *= 2
            for n in [n for n in self._values if n % self._distance]:
                del self._values[n], self._sizes[n]

    def last_before(self, n_events: int) -> int:
        """Return the number of events of the last copy that is not behind so many; 0 without one."""
        return max((n for n in self._values if n <= n_events), default=0)

    def get(self, n_events: int) -> Value:
        """Return a copy as a value of its own."""
        return copy_data(self._values[n_events])


def _n_items(value: Value) -> int:
    return len(value) if isinstance(value, (dict, list)) else 1


def _encoded_bytes(value: Value) -> int:
    if value is UNKNOWN:
        return 0
    try:
        return len(encode(value))
    except NOT_PLAIN:
        return len(codec.encode(value, opaque=True))


def _read_paths(
    operations: list[Value], before: Value, event: StateChange
) -> tuple[list[Path], bool]:
    """Return the paths that texts stand for, as the digest decides, and whether they are certain."""
    readings = [_readings(before, operation) for operation in operations]
    n_readings = math.prod(map(len, readings))
    if 1 <= n_readings <= MAX_READINGS:
        for paths in itertools.product(*readings):
            if n_readings == 1 or _leads_to(event.digest, before, operations, paths):
                return list(paths), True
    return [_key_texts(operation[1]) for operation in operations], False


def _readings(before: Value, operation: list[Value]) -> list[Path]:
    """Return the paths that the path of an operation may stand for."""
    name, path, *_ = operation
    if not isinstance(path, str):
        return [tuple(path)]
    paths = possible_paths(before, path, is_addition=name == "add")
    return list(itertools.islice(paths, MAX_READINGS))


def _key_texts(path: Value) -> Path:
    return text_keys(path) if isinstance(path, str) else tuple(path)


def _leads_to(digest: str, before: Value, operations: list[Value], paths: Sequence[Path]) -> bool:
    """Return whether operations, with some paths, lead to the value with a digest."""
    changes = [_change(*item) for item in zip(operations, paths, strict=True)]
    try:
        return _have_base(before, changes) and is_digest_of(digest, patched(before, changes))
    except _MISFIT:
        return False


def _have_base(before: Value, changes: list[Change]) -> bool:
    """Return whether changes can be made: the value is known, or is replaced as a whole."""
    return before is not UNKNOWN or any(change.path == () for change in changes)


def _has_text_paths(operations: list[Value]) -> bool:
    return any(isinstance(operation[1], str) for operation in operations)


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


def _change(operation: list[Value], path: Path) -> Change:
    name, _, *values = operation
    if name == "add":
        return Change(path, MISSING, values[0])
    if name == "remove":
        return Change(path, values[0], MISSING)
    return Change(path, values[0], values[1])
