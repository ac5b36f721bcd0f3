"""The difference of two states, or of any two values, as readable changes."""

from __future__ import annotations

import copy
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from trajrec.values import codec
from trajrec.values.codec import Plain

MISSING = type("Missing", (), {"__repr__": lambda self: "(missing)", "__slots__": ()})()
"""Stands for a value that one side does not have."""


_BY_BITS = frozenset((complex, set, frozenset))
"""Types whose == takes 0.0 for -0.0, or 1 for True."""


class Change(NamedTuple):
    """One place where two values differ. `path` is a JSON pointer without its first slash, "" for the values themselves (an
    empty key is written "~2")."""

    path: str
    before: Any
    after: Any


def diff(before: Any, after: Any) -> list[Change]:
    """Return every place where two values differ, in a stable order.

    Types count: 1, 1.0, True and numpy.int64(1) differ. Floats are compared by their bits, so NaN equals NaN, and -0.0 is
    not 0.0. Arrays of one dtype and shape differ element by element.

    >>> diff({"stock": [3, 1]}, {"stock": [3, 0], "paid": True})
    [Change(path='stock/1', before=1, after=0), Change(path='paid', before=(missing), after=True)]
    """
    return list(_walk("", before, after))


def first_change(before: Any, after: Any) -> Change | None:
    """Return the first place where two values differ, or None where they are the same."""
    return next(_walk("", before, after), None)


def apply(value: Any, changes: Sequence[Change]) -> Any:
    """Return a value with changes made, as `diff` of two values found them; the value itself stays as it is.

    What is new or different comes first, in order, then what is gone, from the end: so the items of a list keep their places.

    >>> apply({"stock": [3, 1]}, diff({"stock": [3, 1]}, {"stock": [3], "paid": True}))
    {'stock': [3], 'paid': True}

    Raises:
        KeyError: A change does not fit the value.
    """
    box = {"": copy.deepcopy(value)}
    gone = [change for change in changes if change.after is MISSING]
    for change in [*(change for change in changes if change.after is not MISSING), *reversed(gone)]:
        *parents, last = ["", *map(_unescaped, change.path.split("/"))] if change.path else [""]
        at: Any = box
        for key in parents:
            at = at[_key(at, key, change)]
        if isinstance(at, list) and last == str(len(at)) and change.after is not MISSING:
            at.append(copy.deepcopy(change.after))
        elif change.after is MISSING:
            del at[_key(at, last, change)]
        elif isinstance(at, dict) and last not in at and not any(str(key) == last for key in at):
            at[last] = copy.deepcopy(change.after)
        else:
            at[_key(at, last, change)] = copy.deepcopy(change.after)
    return box[""]


def _key(at: Any, key: str, change: Change) -> Any:
    """Return the key of a container that a part of a path means."""
    if isinstance(at, list) and key.isdigit() and int(key) < len(at):
        return int(key)
    if isinstance(at, dict):
        found = key if key in at else next((name for name in at if str(name) == key), MISSING)
        if found is not MISSING:
            return found
    raise KeyError(f"the change of {change.path!r} does not fit: there is no {key!r} in it")


def is_same(before: Any, after: Any) -> bool:
    """Say whether two values are the same, by type and bits."""
    return first_change(before, after) is None


def _walk(path: str, a: Any, b: Any) -> Iterator[Change]:
    cls = type(a)
    if cls is not type(b):
        yield Change(path, a, b)
    elif cls is float:
        if (a != b or a == 0.0) and struct.pack("<d", a) != struct.pack("<d", b):
            yield Change(path, a, b)
    elif cls is dict:
        yield from _mappings(path, a, b)
    elif cls is list or cls is tuple:
        yield from _sequences(path, a, b)
    elif isinstance(a, np.ndarray):
        yield from _arrays(path, a, b)
    elif isinstance(a, np.generic):
        if a.dtype != b.dtype or a.tobytes() != b.tobytes():
            yield Change(path, a, b)
    elif isinstance(a, tuple) and hasattr(cls, "_fields"):
        yield from _mappings(
            path, dict(zip(cls._fields, a, strict=True)), dict(zip(cls._fields, b, strict=True))
        )
    elif cls is Plain:
        if (a.type_name, a.kind) != (b.type_name, b.kind):
            yield Change(path, a, b)
        else:
            yield from _mappings(path, a.fields, b.fields)
    elif cls in _BY_BITS:
        if codec.encode(a, opaque=True) != codec.encode(b, opaque=True):
            yield Change(path, a, b)
    elif a != b:
        yield Change(path, a, b)


def join(path: str, key: Any) -> str:
    """Return the path of an item of what is at a path."""
    part = str(key).replace("~", "~0").replace("/", "~1") or "~2"
    return f"{path}/{part}" if path else part


def _unescaped(part: str) -> str:
    return "" if part == "~2" else part.replace("~1", "/").replace("~0", "~")


def _mappings(path: str, a: dict[Any, Any], b: dict[Any, Any]) -> Iterator[Change]:
    for key, value in a.items():
        if _has(b, key):
            yield from _walk(join(path, key), value, b[key])
        else:
            yield Change(join(path, key), value, MISSING)
    for key, value in b.items():
        if not _has(a, key):
            yield Change(join(path, key), MISSING, value)


def _has(mapping: dict[Any, Any], key: Any) -> bool:
    """Say whether a dict has a key of this type: it takes 1, 1.0 and True for one."""
    if key not in mapping:
        return False
    return type(key) is str or any(type(found) is type(key) and found == key for found in mapping)


def _sequences(path: str, a: Any, b: Any) -> Iterator[Change]:
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        yield from _walk(join(path, index), x, y)
    for index in range(len(b), len(a)):
        yield Change(join(path, index), a[index], MISSING)
    for index in range(len(a), len(b)):
        yield Change(join(path, index), MISSING, b[index])


def _arrays(path: str, a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> Iterator[Change]:
    if a.dtype != b.dtype or a.shape != b.shape:
        yield Change(path, a, b)
        return
    if a.dtype.kind in "OT":  # their bytes are addresses
        for index, x, y in zip(
            np.ndindex(a.shape), a.ravel().tolist(), b.ravel().tolist(), strict=True
        ):
            yield from _walk(_at(path, index), x, y)
        return
    if a.tobytes() == b.tobytes():
        return
    if a.dtype.names is not None or a.itemsize == 0:
        yield Change(path, a, b)
        return
    x, y = (
        np.ascontiguousarray(v).reshape(-1).view(np.uint8).reshape(-1, a.itemsize) for v in (a, b)
    )
    for flat in np.flatnonzero((x != y).any(axis=1)).tolist():
        index = np.unravel_index(flat, a.shape)
        yield Change(_at(path, index), a[index], b[index])


def _at(path: str, index: Iterable[Any]) -> str:
    for part in index:
        path = join(path, int(part))
    return path
