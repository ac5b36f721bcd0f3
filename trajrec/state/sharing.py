"""What the attributes of an environment share: memory of arrays, containers, methods of each other.

Copies of two arrays of which one is a view of the other are no longer that: an environment that is put back then writes into
the one and reads the other. No probe sees it where nothing is written; so what shares what a copy would not is refused.
"""

from __future__ import annotations

import collections
import types
from collections.abc import Collection
from typing import Any

import numpy as np

from trajrec.errors import SnapshotError


class Sharing:
    """Sees values one after the other."""

    def __init__(self) -> None:
        self._arrays: dict[int, list[np.ndarray[Any, Any]]] = {}
        self._containers: dict[int, Any] = {}

    def see_array(self, array: np.ndarray[Any, Any]) -> None:
        """Look at an array.

        Raises:
            SnapshotError: It shares its memory with another one, or with what is no array.
        """
        base = array if array.base is None else array.base
        if not array.flags.writeable:
            return
        if not isinstance(base, (np.ndarray, bytes, bytearray, memoryview)):  # these it has to itself, when it was unpickled
            raise SnapshotError(
                f"it cannot be copied: an array of shape {array.shape} is a view of a {type(base).__qualname__}"
            )
        others = self._arrays.setdefault(id(base), [])
        if any(other is not array and np.may_share_memory(other, array) for other in others):
            raise SnapshotError(f"it cannot be copied: an array of shape {array.shape} shares its memory with another one")
        others.append(array)

    def see(self, value: Any) -> None:
        """Look at a value and all that it contains.

        Raises:
            SnapshotError: It shares something with another one.
        """
        if isinstance(value, np.ndarray):
            self.see_array(value)
        if type(value) not in (list, dict, set, collections.deque, tuple):
            return
        if type(value) is not tuple:
            if id(value) in self._containers:
                raise SnapshotError(f"it is no plain data: a {type(value).__name__} is in two places")
            self._containers[id(value)] = value
        for item in value.values() if type(value) is dict else value:
            self.see(item)


def is_bound_elsewhere(value: Any, kept: Collection[int]) -> bool:
    """Say whether a value is a method of something that a copy would not have: neither of what stays itself (its id is in
    `kept`), nor of a class or a module."""
    if not isinstance(value, (types.MethodType, types.BuiltinFunctionType)):
        return False
    owner = value.__self__
    if owner is None or isinstance(owner, (type, types.ModuleType, np.random.Generator, np.random.RandomState)):
        return False
    return id(owner) not in kept
