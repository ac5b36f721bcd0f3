"""Copies of live values that no later step changes, in the cheapest form that shows all of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trajrec.types import Array, Value
from trajrec.values import codec
from trajrec.values.plain import IMMUTABLE_TYPES

_PLAIN_DTYPES = frozenset(np.dtype(kind).num for kind in (*"?bBhHiIlLqQefdgFDG", "M8[s]", "m8[s]"))
"""Numbers of the dtypes whose bytes are their value. One number tells more than kind and package,
and a look at it takes half of the time."""

_MAX_DEPTH = 3
"""Dicts and tuples nested deeper are encoded: a log has no columns for most of them."""

_MAX_ITEMS = 256
"""Larger ones are encoded too: only an encoder knows which values are too large for a log."""

_ARE_IMMUTABLE = IMMUTABLE_TYPES.issuperset


def is_plain_array(array: Array) -> bool:
    """Return whether the dtype and the bytes of an array are all of it."""
    return array.dtype.num in _PLAIN_DTYPES


class Encoded(NamedTuple):
    """A value in its encoded form, for values that no copy preserves."""

    data: bytes


def keep(value: Value) -> Value:
    """Return a copy of a value that no later step changes.

    Numbers, texts, arrays, and dicts and tuples of these are copied as they are, which takes a
    fraction of the time of encoding them.

    Returns:
        The copy, or an `Encoded`; `restored` returns the value in either case.
    """
    copied = _copied(value, 0)
    return Encoded(codec.encode(value, opaque=True)) if copied is _UNKNOWN else copied


def keep_info(info: Value) -> Value:
    """Return the same for an info, most of which hold numbers and a few arrays."""
    if type(info) is not dict:
        return _kept_whole(info)
    kept = info.copy()
    if _ARE_IMMUTABLE(map(type, info.values())):
        return kept
    for key, value in info.items():
        kind = type(value)
        if kind is np.ndarray and value.dtype.num in _PLAIN_DTYPES:
            kept[key] = value.copy()
        elif kind not in IMMUTABLE_TYPES:
            return _kept_whole(info)
    return kept


def _kept_whole(info: Value) -> Value:
    copied = _copied(info, 0)
    return Encoded(codec.encode_info(info)) if copied is _UNKNOWN else copied


def restored(kept: Value) -> Value:
    """Return the value that was kept, with the types that a log gives back."""
    return codec.decode(kept.data) if type(kept) is Encoded else kept


def encoded(kept: Value) -> bytes:
    """Return the encoded form of a value that was kept."""
    return kept.data if type(kept) is Encoded else codec.encode(kept, opaque=True)


_UNKNOWN = object()
"""Stands for a value that has to be encoded. None is a value."""


def _copied(value: Value, depth: int) -> Value:
    kind = type(value)
    if kind in IMMUTABLE_TYPES:
        return value
    if kind is np.ndarray:
        return value.copy() if is_plain_array(value) else _UNKNOWN
    if (kind is not dict and kind is not tuple) or depth == _MAX_DEPTH or len(value) > _MAX_ITEMS:
        return _UNKNOWN
    if kind is tuple:
        items = [_copied(item, depth + 1) for item in value]
        return _UNKNOWN if any(item is _UNKNOWN for item in items) else tuple(items)
    copies = {}
    for key, item in value.items():
        copied = item if type(item) in IMMUTABLE_TYPES else _copied(item, depth + 1)
        if copied is _UNKNOWN or type(key) is not str:
            return _UNKNOWN
        copies[key] = copied
    return copies
