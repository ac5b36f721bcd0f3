"""The difference between two states, or any two values, as a list of readable changes."""

from __future__ import annotations

import copy
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, SupportsInt

import numpy as np

from trajrec.types import Array, Value
from trajrec.values import codec
from trajrec.values.arrays import array_bytes
from trajrec.values.codec import Plain


class _Missing:
    __slots__ = ()

    def __repr__(self) -> str:
        return "(missing)"

    def __reduce__(self) -> str:
        # By name: a copy or an unpickled value must be MISSING itself, since it is compared by `is`.
        return "MISSING"


MISSING: Final = _Missing()
"""Stands for a value that one side does not have."""

# Their == takes 0.0 for -0.0, or 1 for True.
_COMPARED_BY_BYTES = frozenset((complex, set, frozenset))


class Change(NamedTuple):
    """A difference between two values at one path.

    Attributes:
        path: Keys and indices that lead to the difference, as a JSON pointer without its first
            slash: "stock/1". The path "" means the values themselves; an empty key is "~2".
        before: The value before, or `MISSING`.
        after: The value after, or `MISSING`.
    """

    path: str
    before: Value
    after: Value


def diff(before: Value, after: Value) -> list[Change]:
    """Return every difference between two values, in a stable order.

    Types count: 1, 1.0, True and numpy.int64(1) differ. Floats are compared by their bits: NaN
    equals NaN, and -0.0 differs from 0.0. Arrays of one dtype and shape are compared element by
    element.

    >>> diff({"stock": [3, 1]}, {"stock": [3, 0], "paid": True})
    [Change(path='stock/1', before=1, after=0), Change(path='paid', before=(missing), after=True)]
    """
    return list(_walk("", before, after))


def first_change(before: Value, after: Value) -> Change | None:
    """Return the first difference between two values as `diff` finds it, or None."""
    return next(_walk("", before, after), None)


def is_same(before: Value, after: Value) -> bool:
    """Return whether two values are the same by type and bits."""
    return first_change(before, after) is None


def apply(value: Value, changes: Sequence[Change]) -> Value:
    """Return a copy of a value with changes made, as `diff` returned them.

    Args:
        value: The value, which stays as it is.
        changes: Changes from this value to another.

    Raises:
        KeyError: A change does not fit the value.

    >>> apply({"stock": [3, 1]}, diff({"stock": [3, 1]}, {"stock": [3], "paid": True}))
    {'stock': [3], 'paid': True}
    """
    # The box makes the value itself an item, so that a change of the path "" can replace it.
    box = {"": copy.deepcopy(value)}
    # Removals come last and in reverse: removing from the end leaves the indices of lists valid.
    removals = [change for change in changes if change.after is MISSING]
    others = [change for change in changes if change.after is not MISSING]
    for change in [*others, *reversed(removals)]:
        _apply_change(box, change)
    return box[""]


def _apply_change(box: dict[str, Value], change: Change) -> None:
    keys = ["", *map(_unescape, change.path.split("/"))] if change.path else [""]
    last = keys.pop()
    parent: Value = box
    for key in keys:
        parent = parent[_existing_key(parent, key, change)]
    if change.after is MISSING:
        del parent[_existing_key(parent, last, change)]
        return
    after = copy.deepcopy(change.after)
    if isinstance(parent, list) and last == str(len(parent)):
        parent.append(after)
    elif isinstance(parent, dict) and _find_key(parent, last) is MISSING:
        parent[last] = after
    else:
        parent[_existing_key(parent, last, change)] = after


def _existing_key(parent: Value, text: str, change: Change) -> Value:
    """Return the key of a container that a part of a path stands for."""
    if isinstance(parent, list) and text.isdigit() and int(text) < len(parent):
        return int(text)
    key = _find_key(parent, text) if isinstance(parent, dict) else MISSING
    if key is MISSING:
        raise KeyError(
            f"the change of {change.path!r} does not fit: the value has no {text!r} on that path"
        )
    return key


def _find_key(mapping: dict[Value, Value], text: str) -> Value:
    """Return the key of a dict with this text, or MISSING. Paths hold all keys as text."""
    if text in mapping:
        return text
    return next((key for key in mapping if str(key) == text), MISSING)


def join(path: str, key: object) -> str:
    """Return the path of an item of the value at a path.

    >>> join("stock", "a/b")
    'stock/a~1b'
    """
    part = str(key).replace("~", "~0").replace("/", "~1") or "~2"
    return f"{path}/{part}" if path else part


def _unescape(part: str) -> str:
    return "" if part == "~2" else part.replace("~1", "/").replace("~0", "~")


def _walk(path: str, a: Value, b: Value) -> Iterator[Change]:
    cls = type(a)
    if cls is not type(b):
        yield Change(path, a, b)
    elif cls is float:
        # Only zeros and NaNs need their bits: all other floats are equal if their bits are.
        if (a != b or a == 0.0) and struct.pack("<d", a) != struct.pack("<d", b):
            yield Change(path, a, b)
    elif cls is dict:
        yield from _mappings(path, a, b)
    elif cls is list or cls is tuple:
        yield from _sequences(path, a, b)
    elif isinstance(a, np.ndarray):
        yield from _arrays(path, a, b)
    elif isinstance(a, np.generic):
        if a.dtype != b.dtype or array_bytes(a) != array_bytes(b):
            yield Change(path, a, b)
    elif isinstance(a, tuple) and hasattr(cls, "_fields"):
        yield from _mappings(path, _named(a, cls._fields), _named(b, cls._fields))
    elif cls is Plain:
        if (a.type_name, a.kind) != (b.type_name, b.kind):
            yield Change(path, a, b)
        else:
            yield from _mappings(path, a.fields, b.fields)
    elif cls in _COMPARED_BY_BYTES:
        if codec.encode(a, opaque=True) != codec.encode(b, opaque=True):
            yield Change(path, a, b)
    elif a != b:
        yield Change(path, a, b)


def _named(values: tuple[Value, ...], names: tuple[str, ...]) -> dict[str, Value]:
    return dict(zip(names, values, strict=True))


def _mappings(path: str, a: dict[Value, Value], b: dict[Value, Value]) -> Iterator[Change]:
    for key, value in a.items():
        if _has(b, key):
            yield from _walk(join(path, key), value, b[key])
        else:
            yield Change(join(path, key), value, MISSING)
    for key, value in b.items():
        if not _has(a, key):
            yield Change(join(path, key), MISSING, value)


def _has(mapping: dict[Value, Value], key: Value) -> bool:
    """Return whether a dict has a key of this type: a dict takes 1, 1.0 and True for one key."""
    if key not in mapping:
        return False
    if type(key) is str:
        return True
    return any(type(other) is type(key) and other == key for other in mapping)


def _sequences(path: str, a: Sequence[Value], b: Sequence[Value]) -> Iterator[Change]:
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        yield from _walk(join(path, index), x, y)
    for index in range(len(b), len(a)):
        yield Change(join(path, index), a[index], MISSING)
    for index in range(len(a), len(b)):
        yield Change(join(path, index), MISSING, b[index])


def _arrays(path: str, a: Array, b: Array) -> Iterator[Change]:
    if a.dtype != b.dtype or a.shape != b.shape:
        yield Change(path, a, b)
        return
    # The bytes of object and variable-width text arrays are addresses.
    if a.dtype.kind in "OT":
        items = zip(a.ravel().tolist(), b.ravel().tolist(), strict=True)
        for index, (x, y) in zip(np.ndindex(a.shape), items, strict=True):
            yield from _walk(_join_index(path, index), x, y)
        return
    if array_bytes(a) == array_bytes(b):
        return
    if a.dtype.names is not None or a.itemsize == 0:
        yield Change(path, a, b)
        return
    for flat in np.flatnonzero((_item_bytes(a) != _item_bytes(b)).any(axis=1)).tolist():
        index = np.unravel_index(flat, a.shape)
        yield Change(_join_index(path, index), a[index], b[index])


def _item_bytes(array: Array) -> Array:
    """Return the bytes of an array's elements, uint8 (size, itemsize)."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(-1, array.itemsize)


def _join_index(path: str, index: Iterable[SupportsInt]) -> str:
    for number in index:
        path = join(path, int(number))
    return path
