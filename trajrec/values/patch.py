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
    root = _Edits(())
    for change in changes:
        node = root
        for depth, key in enumerate(change.path, 1):
            own_id = key_id(key)
            if own_id not in node.below:
                node.below[own_id] = _Edits(change.path[:depth])
            node = node.below[own_id]
        if node.change is not None:
            raise KeyError(f"two changes of {to_pointer(change.path)!r} contradict each other")
        node.change = change
    return _edited(value, root)


class _Edits:
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
        self.below: dict[Hashable, _Edits] = {}

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


def _edited(value: Value, edits: _Edits) -> Value:
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


def _edited_dict(value: dict[Value, Value], edits: _Edits) -> dict[Value, Value]:
    own_ids = dict.fromkeys(value) if has_text_keys(value) else keys_by_id(value)
    if own_ids is None:
        raise next(iter(edits.below.values())).misfit()
    edited = {}
    for own_id, key in zip(own_ids, value, strict=True):
        below = edits.below.get(own_id)
        if below is None:
            edited[key] = value[key]
        elif below.is_addition:
            raise below.misfit()
        elif not below.is_removal:
            edited[key] = _edited(value[key], below)
    for other_id, below in edits.below.items():
        if other_id in own_ids:
            continue
        key = below.path[-1]
        # Python takes 1 and True for one key: the one must be gone before the other comes.
        if below.change is None or not below.is_addition or key in edited:
            raise below.misfit()
        edited[key] = below.change.after
    return edited


def _edited_items(items: Iterable[Value], edits: _Edits) -> list[Value]:
    edited = list(items)
    removed: list[int] = []
    for below in edits.below.values():
        index = below.path[-1]
        if below.is_addition:
            continue
        if not _is_index(index, len(edited)):
            raise below.misfit()
        if below.is_removal:
            removed.append(index)
        else:
            edited[index] = _edited(edited[index], below)
    # Items are removed from the end and added at the end.
    rest = len(edited) - len(removed)
    if any(index < rest for index in removed):
        raise edits.below[key_id(min(removed))].misfit()
    del edited[rest:]
    added = [below for below in edits.below.values() if below.is_addition]
    for below in sorted(added, key=_index_of):
        if removed or _index_of(below) != len(edited) or below.change is None:
            raise below.misfit()
        edited.append(below.change.after)
    return edited


def _index_of(edits: _Edits) -> int:
    index = edits.path[-1]
    return index if type(index) is int else -1


def _edited_array(value: Array, edits: _Edits) -> Array:
    edited = value.copy()
    for item_edits in _array_edits(edits, value.ndim):
        index = item_edits.path[len(edits.path) :]
        is_inside = len(index) == value.ndim and all(map(_is_index, index, value.shape))
        if not is_inside or item_edits.is_addition:
            raise item_edits.misfit()
        item = _edited(value[index], item_edits)
        # Arrays of objects and of texts of any length take any item.
        if value.dtype.kind not in "OT" and np.asarray(item).dtype.kind != value.dtype.kind:
            raise item_edits.misfit()
        edited[index] = item
    return edited


def _array_edits(edits: _Edits, n_dimensions: int) -> Iterator[_Edits]:
    """Yield the changes of an array's items, each of which has a key for each dimension."""
    if n_dimensions == 0 or edits.change is not None:
        yield edits
        return
    for below in edits.below.values():
        yield from _array_edits(below, n_dimensions - 1)


def _is_index(index: Value, size: int) -> bool:
    return type(index) is int and 0 <= index < size
