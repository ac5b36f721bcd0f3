"""The difference between two states, or any two values, as a list of readable changes.

Two values are the same if they have the same type and bits. The order of a dict's keys does not
count: no digest and no canonical encoding depends on it.

A list of changes obeys these rules, which a reader of logs may rely on:

- No two changes have the same path, and no path begins with the path of another change.
- Lists and tuples are compared index by index. Of a longer `before`, the items behind the end of
  `after` are removed; of a longer `after`, the items behind the end of `before` are added. So
  removed items are always the last ones, and an item that is put in at the front of a list changes
  all items behind it.
- The changes of one value come in the order of the keys of `before`, then those of the keys that
  only `after` has, in its order. Indices ascend.
- Changes are applied at once, not one after the other: every path but that of an added value is one
  of `before`. One after the other they fit in any order in which the removed items of a list come
  last and descend, its added items ascend, and the removed keys of a dict come before its added
  ones.
- A dict in which two keys are the same (two NaN) changes as a whole, and so do an array without
  dimensions and one that changes its dtype or shape, an object that changes its type, a set, and
  any value that changes its type.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from trajrec.types import Array, Value
from trajrec.values import codec
from trajrec.values.arrays import array_bytes
from trajrec.values.codec import Plain
from trajrec.values.paths import Path, has_text_keys, keys_by_id


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

# Equal values of one of these types are the same.
_COMPARED_BY_VALUE = frozenset((str, int, bool, type(None), bytes))


class Change(NamedTuple):
    """A difference between two values at one path.

    Attributes:
        path: The keys that lead to the difference, with their types: ("stock", 1). The path ()
            means the values themselves. `trajrec.values.json.to_pointer` makes it readable.
        before: The value before, or `MISSING`.
        after: The value after, or `MISSING`.
    """

    path: Path
    before: Value
    after: Value


def diff(before: Value, after: Value) -> list[Change]:
    """Return every difference between two values, in the order that this module defines.

    Types count: 1, 1.0, True and numpy.int64(1) differ, as values and as keys. Floats are compared
    by their bits: NaN equals NaN, and -0.0 differs from 0.0. Arrays of one dtype and shape are
    compared element by element.

    >>> diff({"stock": [3, 1]}, {"stock": [3, 0], 7: True})
    [Change(path=('stock', 1), before=1, after=0), Change(path=(7,), before=(missing), after=True)]
    """
    return list(_walk((), before, after))


def first_change(before: Value, after: Value) -> Change | None:
    """Return the first difference between two values as `diff` finds it, or None."""
    return next(_walk((), before, after), None)


def is_same(before: Value, after: Value) -> bool:
    """Return whether two values are the same by type and bits."""
    return first_change(before, after) is None


def _walk(path: Path, a: Value, b: Value) -> Iterator[Change]:
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
        if _encoded(a) != _encoded(b):
            yield Change(path, a, b)
    elif a != b:
        yield Change(path, a, b)


def _encoded(value: Value) -> bytes:
    return codec.encode(value, opaque=True, canonical=True)


def _named(values: tuple[Value, ...], names: tuple[str, ...]) -> dict[str, Value]:
    return dict(zip(names, values, strict=True))


def _mappings(path: Path, a: dict[Value, Value], b: dict[Value, Value]) -> Iterator[Change]:
    if has_text_keys(a) and has_text_keys(b):
        yield from _text_mappings(path, a, b)
        return
    keys_a = keys_by_id(a)
    keys_b = keys_by_id(b)
    if keys_a is None or keys_b is None:
        # No path leads to one of two keys that are the same.
        if _encoded(a) != _encoded(b):
            yield Change(path, a, b)
        return
    for key_id, key in keys_a.items():
        if key_id in keys_b:
            yield from _walk((*path, key), a[key], b[keys_b[key_id]])
        else:
            yield Change((*path, key), a[key], MISSING)
    for key_id, key in keys_b.items():
        if key_id not in keys_a:
            yield Change((*path, key), MISSING, b[key])


def _text_mappings(path: Path, a: dict[Value, Value], b: dict[Value, Value]) -> Iterator[Change]:
    """Compare two dicts whose keys are texts: most of them, so this is the fast way."""
    for key, value in a.items():
        if key not in b:
            yield Change((*path, key), value, MISSING)
            continue
        other = b[key]
        cls = type(value)
        # Most items are equal values of these types; this test spares them a generator each.
        if cls is not type(other) or cls not in _COMPARED_BY_VALUE or value != other:
            yield from _walk((*path, key), value, other)
    for key, value in b.items():
        if key not in a:
            yield Change((*path, key), MISSING, value)


def _sequences(path: Path, a: Sequence[Value], b: Sequence[Value]) -> Iterator[Change]:
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        yield from _walk((*path, index), x, y)
    for index in range(len(b), len(a)):
        yield Change((*path, index), a[index], MISSING)
    for index in range(len(a), len(b)):
        yield Change((*path, index), MISSING, b[index])


def _arrays(path: Path, a: Array, b: Array) -> Iterator[Change]:
    if a.dtype != b.dtype or a.shape != b.shape:
        yield Change(path, a, b)
        return
    # The bytes of object and variable-width text arrays are addresses.
    if a.dtype.kind in "OT":
        if a.ndim == 0:
            # Its item has the path of the array itself.
            if not is_same(a.item(), b.item()):
                yield Change(path, a, b)
            return
        items = zip(a.ravel().tolist(), b.ravel().tolist(), strict=True)
        for index, (x, y) in zip(np.ndindex(a.shape), items, strict=True):
            yield from _walk((*path, *index), x, y)
        return
    if array_bytes(a) == array_bytes(b):
        return
    if a.dtype.names is not None or a.itemsize == 0 or a.ndim == 0:
        yield Change(path, a, b)
        return
    for flat in np.flatnonzero((_item_bytes(a) != _item_bytes(b)).any(axis=1)).tolist():
        index = tuple(int(number) for number in np.unravel_index(flat, a.shape))
        yield Change((*path, *index), a[index], b[index])


def _item_bytes(array: Array) -> Array:
    """Return the bytes of an array's elements, uint8 (size, itemsize)."""
    return np.frombuffer(array_bytes(array), np.uint8).reshape(-1, array.itemsize)
