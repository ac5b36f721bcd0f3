"""Attributes of an environment's layers: which never change, and which share memory.

If one array is a view of another, copies of the two are no longer views of each other: a restored
environment would then write into the one and read the other. No probe sees this while nothing is
written, so attributes that share memory which a copy would separate are rejected.
"""

from __future__ import annotations

import collections
import hashlib
import pickle
import sys
import types
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from trajrec.envstate.pettingzoo import layers
from trajrec.errors import SnapshotError

_CONSTANT = frozenset(
    (
        "spec",
        "metadata",
        "_metadata",
        "_cached_spec",
        "_saved_kwargs",
        "_ezpickle_args",
        "_ezpickle_kwargs",
    )
)
"""Attributes that hold what an environment was made with."""

_CANVASES = frozenset(
    ("screen", "clock", "window", "window_surface", "surf", "renderer", "mujoco_renderer")
)
"""What environments of these packages draw on; another's attribute of such a name may be anything."""

_DRAWING = ("gymnasium.envs.", "gymnasium.wrappers.", "minigrid.", "ale_py.", "pettingzoo.")

_TABLES = frozenset(("P", "desc", "initial_state_distrib", "locs", "locs_colors"))
"""Of toy text: tables that are filled when it is made, and large."""


def layers_of(env: Any) -> Iterator[Any]:
    """Yield an environment's wrappers, outermost first, and what they wrap last.

    Raises:
        SnapshotError: A layer has no attributes that could be read.
    """
    for layer in layers(env):
        if not hasattr(layer, "__dict__"):
            raise SnapshotError(f"{type(layer).__qualname__} keeps its attributes out of sight")
        yield layer


def constants(layer: Any) -> frozenset[str]:
    """Return the attributes of a layer that no snapshot has."""
    drawing = any(cls.__module__.startswith(_DRAWING) for cls in type(layer).__mro__)
    is_table = type(layer).__module__.startswith("gymnasium.envs.toy_text.")
    return (
        _CONSTANT | (_CANVASES if drawing else frozenset()) | (_TABLES if is_table else frozenset())
    )


def constants_digest(env: Any) -> bytes:
    """Return a digest of what snapshots take for constant, and leave as it is: tables of toy text, models of MuJoCo."""
    found = hashlib.blake2b()
    for layer in layers_of(env):
        for name, value in sorted(layer.__dict__.items()):
            if type(value).__name__ == "MjModel":
                mujoco = sys.modules["mujoco"]
                buffer = np.empty(mujoco.mj_sizeModel(value), np.uint8)
                mujoco.mj_saveModel(value, None, buffer)
                found.update(buffer.tobytes())
            elif name in _TABLES and type(layer).__module__.startswith("gymnasium.envs.toy_text."):
                found.update(pickle.dumps(value))
    return found.digest()


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
        if not isinstance(
            base, (np.ndarray, bytes, bytearray, memoryview)
        ):  # these it has to itself, when it was unpickled
            raise SnapshotError(
                f"it cannot be copied: an array of shape {array.shape} is a view of a {type(base).__qualname__}"
            )
        others = self._arrays.setdefault(id(base), [])
        if any(other is not array and np.may_share_memory(other, array) for other in others):
            raise SnapshotError(
                f"it cannot be copied: an array of shape {array.shape} shares its memory with another one"
            )
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
                raise SnapshotError(
                    f"it is no plain data: a {type(value).__name__} is in two places"
                )
            self._containers[id(value)] = value
        for item in value.values() if type(value) is dict else value:
            self.see(item)


def is_bound_elsewhere(value: Any, kept: Collection[int]) -> bool:
    """Say whether a value is a method of something that a copy would not have: neither of what stays itself (its id is in
    `kept`), nor of a class or a module."""
    if not isinstance(value, (types.MethodType, types.BuiltinFunctionType)):
        return False
    owner = value.__self__
    if owner is None or isinstance(
        owner, (type, types.ModuleType, np.random.Generator, np.random.RandomState)
    ):
        return False
    return id(owner) not in kept
