"""Values that are certainly the same as before, so that their keys need not be computed again.

Environments hold tables that never change, and to encode one takes longer than many steps. A
table that has not changed so far may change later, unseen: a list or an array tells nobody. So
each part that can change is compared with a copy each time, which takes a fraction of the time of
encoding it. Parts that cannot change are not compared.
"""

from __future__ import annotations

import marshal
from collections.abc import Hashable
from operator import is_
from typing import Any

import numpy as np

from trajrec.types import Array, Value
from trajrec.values.plain import IMMUTABLE_TYPES, PLAIN_TYPES

_MARSHAL_VERSION = 2
"""Newer versions write an object that occurs twice once, so that the bytes would depend on more than
the values."""

_MARSHALLED = PLAIN_TYPES - {bytes}
"""Types of values that equal bytes of marshal tell apart, by type and bits. It writes whatever has
a buffer, an array for instance, as bytes, so that trees with bytes are not compared by it."""

_ARRAY_KINDS = "biufcmMSU"
"""Kinds of dtypes whose bytes, dtype and shape are all of an array."""

_MAX_DEPTH = 20


class Witness:
    """Remembers a value and its key, and tells later whether it is certainly the same.

    Args:
        value: The value. It is kept, so that no other object gets its id.
        key: Its key.

    Attributes:
        value: The value.
        key: Its key.
        is_watching: Whether `holds` can ever be true: copies were made, and the value holds nothing
            whose changes they would not show.
    """

    def __init__(self, value: Value, key: Hashable) -> None:
        self.value = value
        self.key = key
        self.is_watching = False
        self._arrays: list[tuple[Array, np.dtype[Any], tuple[int, ...], bytes]] = []
        self._plain: list[tuple[Value, bytes]] = []
        self._lists: list[tuple[list[Value], list[Value]]] = []
        self._dicts: list[tuple[dict[Value, Value], list[Value], list[Value]]] = []

    def watch(self) -> None:
        """Copy the parts of the value that can change."""
        self.is_watching = self._add(self.value, 0)

    def holds(self, value: Value) -> bool:
        """Return whether a value is the remembered one, and certainly has not changed."""
        if value is not self.value or not self.is_watching:
            return False
        for array, dtype, shape, data in self._arrays:
            if array.dtype is not dtype or array.shape != shape or array.tobytes() != data:
                return False
        for container, data in self._plain:
            if _marshalled(container) != data:
                return False
        for items, copy in self._lists:
            if len(items) != len(copy) or not all(map(is_, items, copy)):
                return False
        for mapping, keys, values in self._dicts:
            if len(mapping) != len(keys):
                return False
            if not all(map(is_, mapping, keys)) or not all(map(is_, mapping.values(), values)):
                return False
        return True

    def _add(self, value: Value, depth: int) -> bool:
        """Copy what can change in a value; return False if it holds anything unknown."""
        kind = type(value)
        if kind in IMMUTABLE_TYPES:
            return True
        if depth > _MAX_DEPTH:
            return False
        if kind is np.ndarray:
            if value.dtype.kind not in _ARRAY_KINDS or value.dtype.isbuiltin == 2:
                return False
            self._arrays.append((value, value.dtype, value.shape, value.tobytes()))
            return True
        if kind is tuple or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
            return all(self._add(item, depth + 1) for item in tuple.__iter__(value))
        if kind is not list and kind is not dict:
            return False
        if _is_plain_tree(value, depth):
            data = _marshalled(value)
            self._plain.append((value, data))
            return data != b""
        if kind is list:
            items = list(value)
            self._lists.append((value, items))
            return all(self._add(item, depth + 1) for item in items)
        keys = list(value)
        values = list(value.values())
        self._dicts.append((value, keys, values))
        return all(self._add(item, depth + 1) for item in (*keys, *values))


def _marshalled(value: Value) -> bytes:
    """Return the bytes of a container of plain values, b"" if it holds others by now."""
    try:
        return marshal.dumps(value, _MARSHAL_VERSION)
    except ValueError:
        return b""


def _is_plain_tree(value: Value, depth: int) -> bool:
    """Return whether lists, tuples and dicts hold plain values alone, and no bytes."""
    kind = type(value)
    if kind in _MARSHALLED:
        return True
    if depth > _MAX_DEPTH:
        return False
    if kind is dict:
        return all(
            _is_plain_tree(key, depth + 1) and _is_plain_tree(item, depth + 1)
            for key, item in value.items()
        )
    return kind in (list, tuple) and all(_is_plain_tree(item, depth + 1) for item in value)
