"""Changes applied to a value, as `trajrec.values.diff` finds them."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Iterator

import numpy as np

from trajrec.types import Array, Value
from trajrec.values.codec import Plain
from trajrec.values.diff import MISSING, Change
from trajrec.values.json import to_pointer
from trajrec.values.paths import Path, has_text_keys, key_id, keys_by_id


def apply(value: Value, changes: Iterable[Change]) -> Value:
    """Return a copy of a value with changes made, as `diff` returned them.

    Keys of a dict that stay keep their order; new ones come behind them.

    Args:
        value: The value, which stays as it is.
        changes: Changes from this value to another.

    Raises:
        KeyError: A change does not fit the value.

    >>> from trajrec.values.diff import diff
    >>> apply({"stock": [3, 1]}, diff({"stock": [3, 1]}, {"stock": [3], 7: True}))
    {'stock': [3], 7: True}
    """
    return copy.deepcopy(patched(value, changes))


def patched(value: Value, changes: Iterable[Change]) -> Value:
    """Return a value with changes made, as `apply` does, that shares the unchanged parts.

    Raises:
        KeyError: A change does not fit the value.
    """
    return edited(value, group_changes(changes))


def group_changes(changes: Iterable[Change]) -> Edits:
    """Return changes by the containers that they lie in.

    Raises:
        KeyError: Two changes have one path.
    """
    root = Edits(())
    for change in changes:
        node = root
        for depth, key in enumerate(change.path, 1):
            own_id = key_id(key)
            below = node.below.get(own_id)
            if below is None:
                below = node.below[own_id] = Edits(change.path[:depth])
            node = below
        if node.change is not None:
            raise KeyError(f"two changes of {to_pointer(change.path)!r} contradict each other")
        node.change = change
    return root


class Edits:
    """The changes of a value and of its parts.

    Attributes:
        path: The path of the value.
        change: The change of the value itself, or None.
        below: The changes of its parts, by the id of their key.
    """

    __slots__ = ("below", "change", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.change: Change | None = None
        self.below: dict[Hashable, Edits] = {}

    @property
    def is_removal(self) -> bool:
        """Whether the value itself is removed."""
        return self.change is not None and self.change.after is MISSING

    @property
    def is_addition(self) -> bool:
        """Whether the value itself is added."""
        return self.change is not None and self.change.before is MISSING

    def changes(self) -> Iterator[Change]:
        """Yield all changes of the value and of its parts."""
        if self.change is not None:
            yield self.change
        for edits in self.below.values():
            yield from edits.changes()

    def misfit(self) -> KeyError:
        """Return the error of a path that the value does not have, or has already."""
        path = next(self.changes()).path
        key = self.path[-1] if self.path else ()
        problem = f"already has {key!r}" if self.is_addition else f"has no {key!r}"
        return KeyError(
            f"the change of {to_pointer(path)!r} does not fit: the value {problem} on that path"
        )


def edited(value: Value, edits: Edits) -> Value:
    """Return a value with grouped changes made; unchanged parts are shared.

    Raises:
        KeyError: A change does not fit the value.
    """
    if edits.change is not None:
        if edits.below or edits.is_removal:
            raise edits.misfit()
        return edits.change.after
    if not edits.below:
        return value
    cls = type(value)
    if cls is dict:
        return _edited_dict(value, edits)
    if cls is list or cls is tuple:
        return cls(_edited_items(value, edits))
    if isinstance(value, np.ndarray):
        return _edited_array(value, edits)
    if cls is Plain:
        return Plain(value.type_name, value.kind, _edited_dict(value.fields, edits))
    if isinstance(value, tuple) and hasattr(cls, "_fields"):
        fields = dict(zip(cls._fields, value, strict=True))
        return cls(**_edited_dict(fields, edits))
    raise next(iter(edits.below.values())).misfit()


def _edited_dict(value: dict[Value, Value], edits: Edits) -> dict[Value, Value]:
    own_ids = dict.fromkeys(value) if has_text_keys(value) else keys_by_id(value)
    if own_ids is None:
        raise next(iter(edits.below.values())).misfit()
    changed = {}
    for own_id, key in zip(own_ids, value, strict=True):
        below = edits.below.get(own_id)
        if below is None:
            changed[key] = value[key]
        elif below.is_addition:
            raise below.misfit()
        elif not below.is_removal:
            changed[key] = edited(value[key], below)
    for other_id, below in edits.below.items():
        if other_id in own_ids:
            continue
        # Python takes 1 and True for one key: the one must be gone before the other comes.
        if below.change is None or not below.is_addition or _is_taken(below.path[-1], changed):
            raise below.misfit()
        changed[below.path[-1]] = below.change.after
    return changed


def _is_taken(key: Value, items: dict[Value, Value]) -> bool:
    """Return whether a dict cannot get a key, because it has an equal one, or because of its type."""
    try:
        return key in items
    except TypeError:
        return True


def _edited_items(items: Iterable[Value], edits: Edits) -> list[Value]:
    changed = list(items)
    replaced, n_left, added = split_list_edits(len(changed), edits)
    for index, below in replaced:
        changed[index] = edited(changed[index], below)
    return changed[:n_left] + added


def split_list_edits(
    n_items: int, edits: Edits
) -> tuple[list[tuple[int, Edits]], int, list[Value]]:
    """Return the changes of a list's items, the number of items that stay, and the added items.

    Items are removed from the end and added at the end.

    Args:
        n_items: The length of the list.
        edits: The changes of the list.

    Raises:
        KeyError: A change does not fit.
    """
    replaced: list[tuple[int, Edits]] = []
    removed: list[int] = []
    additions: list[Edits] = []
    for below in edits.below.values():
        index = below.path[-1]
        if below.is_addition:
            additions.append(below)
        elif not _is_index(index, n_items):
            raise below.misfit()
        elif below.is_removal:
            removed.append(index)
        else:
            replaced.append((index, below))
    n_left = n_items - len(removed)
    if any(index < n_left for index in removed):
        raise edits.below[key_id(min(removed))].misfit()
    added: list[Value] = []
    for below in sorted(additions, key=_index_of):
        if removed or _index_of(below) != n_items + len(added) or below.change is None:
            raise below.misfit()
        added.append(below.change.after)
    return replaced, n_left, added


def _index_of(edits: Edits) -> int:
    index = edits.path[-1]
    return index if type(index) is int else -1


def _edited_array(value: Array, edits: Edits) -> Array:
    changed = value.copy()
    for item_edits in _array_edits(edits, value.ndim):
        index = item_edits.path[len(edits.path) :]
        is_inside = len(index) == value.ndim and all(map(_is_index, index, value.shape))
        if not is_inside or item_edits.is_addition:
            raise item_edits.misfit()
        item = edited(value[index], item_edits)
        # Arrays of objects and of texts of any length take any item.
        if value.dtype.kind not in "OT" and np.asarray(item).dtype.kind != value.dtype.kind:
            raise item_edits.misfit()
        try:
            changed[index] = item
        except (TypeError, ValueError, OverflowError) as exc:
            raise item_edits.misfit() from exc
    return changed


def _array_edits(edits: Edits, n_dimensions: int) -> Iterator[Edits]:
    """Yield the changes of an array's items, each of which has a key for each dimension."""
    if n_dimensions == 0 or edits.change is not None:
        yield edits
        return
    for below in edits.below.values():
        yield from _array_edits(below, n_dimensions - 1)


def _is_index(index: Value, size: int) -> bool:
    return type(index) is int and 0 <= index < size
