"""Attributes of an environment's layers: which ones never change, and which ones share memory.

A layer is a wrapper or the bare environment. This module also names the wrappers that have no
effect on an episode, because other rooms leave them out or skip them.

Shared memory: if one array is a view of another, copies of the two are no longer views of each
other, so a restored environment would write into the one and read the other. No probe notices this
while nothing is written. Attributes that share memory which a copy would separate are therefore
rejected.
"""

from __future__ import annotations

import collections
import hashlib
import pickle
import sys
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from trajrec.envstate.pettingzoo import layers
from trajrec.errors import SnapshotError
from trajrec.types import Array, Value
from trajrec.values.plain import PLAIN_TYPES

CONSTRUCTION_ATTRIBUTES = frozenset(
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
"""Attributes of Gymnasium's classes that hold the arguments a layer was made with."""

CHECKING_WRAPPERS = frozenset(("PassiveEnvChecker", "OrderEnforcing"))
"""Gymnasium's wrappers that only check how they are called. A replay makes environments without
them, so keyframes leave them out too."""

STANDARD_WRAPPERS = CHECKING_WRAPPERS | {"TimeLimit"}
"""The wrappers that `gymnasium.make` adds itself. A reset puts each of them into its first
state."""

DISPLAY_WRAPPERS = frozenset(("HumanRendering", "RecordVideo"))
"""Gymnasium's wrappers that open a window or write a video. A replay leaves them out: a log must
not decide that a file is written."""

_CANVASES = frozenset(
    ("screen", "clock", "window", "window_surface", "surf", "renderer", "mujoco_renderer")
)
"""Attributes that environments of `_DRAWING_MODULES` draw with. Elsewhere such a name may mean
anything, e.g. a clock that counts steps."""

_STATE_TYPES = (PLAIN_TYPES - {type(None)}) | {
    dict,
    list,
    tuple,
    set,
    collections.deque,
    np.ndarray,
}
"""Types that no canvas has: a subclass of such an environment may call its own state `window`."""

_DRAWING_MODULES = ("gymnasium.envs.", "gymnasium.wrappers.", "minigrid.", "ale_py.", "pettingzoo.")

_TOY_TEXT = "gymnasium.envs.toy_text."
_TOY_TEXT_TABLES = frozenset(("P", "desc", "initial_state_distrib", "locs", "locs_colors"))
"""Attributes of Gymnasium's toy text that its constructor fills. They are large: Taxi's `P` holds
500 states with 6 actions each, so a copy at every step would cost more than the step."""


def layers_with_attributes(env: Any) -> Iterator[Any]:
    """Yield an environment's wrappers, outermost first, and last the bare environment.

    Raises:
        SnapshotError: A layer has no `__dict__`, so its attributes cannot be read.
    """
    for layer in layers(env):
        if not hasattr(layer, "__dict__"):
            raise SnapshotError(
                f"{type(layer).__qualname__} has no __dict__, so its attributes cannot be read"
            )
        yield layer


def constant_attributes(layer: object) -> frozenset[str]:
    """Return the names of a layer's attributes that snapshots leave as they are."""
    names = CONSTRUCTION_ATTRIBUTES
    if any(cls.__module__.startswith(_DRAWING_MODULES) for cls in type(layer).__mro__):
        names |= _CANVASES
    if type(layer).__module__.startswith(_TOY_TEXT):
        names |= _TOY_TEXT_TABLES
    return names


def constants_among(names: frozenset[str], values: Mapping[str, Value]) -> frozenset[str]:
    """Return the names of `constant_attributes` without those that hold a state now.

    Args:
        names: The names.
        values: The attributes of the layer, or a copy of them.
    """
    held = {name for name in names & _CANVASES if type(values.get(name)) in _STATE_TYPES}
    return names - held if held else names


def constants_digest(env: Any) -> bytes:
    """Return a BLAKE2b digest of the constants that a user's function might change nevertheless.

    These are the tables of toy text and MuJoCo's models.
    """
    digest = hashlib.blake2b()
    for layer in layers_with_attributes(env):
        for name, value in sorted(layer.__dict__.items()):
            if type(value).__name__ == "MjModel":
                mujoco = sys.modules["mujoco"]
                buffer = np.empty(mujoco.mj_sizeModel(value), np.uint8)
                mujoco.mj_saveModel(value, None, buffer)
                digest.update(buffer.tobytes())
            elif name in _TOY_TEXT_TABLES and type(layer).__module__.startswith(_TOY_TEXT):
                digest.update(pickle.dumps(value))
    return digest.digest()


class SharedMemoryCheck:
    """Looks at the values of one snapshot, one after the other, for memory that two share."""

    def __init__(self) -> None:
        self._arrays: dict[int, list[Array]] = {}
        self._containers: dict[int, Value] = {}
        self._buffers: dict[int, bytearray] = {}

    def note(self, array: Array) -> None:
        """Note an array that no copy is made of."""
        self._arrays.setdefault(id(_base_of(array)), []).append(array)

    def check_buffer(self, buffer: bytearray) -> None:
        """Check bytes that can be changed against the arrays before them.

        Raises:
            SnapshotError: An array is a view of them.
        """
        self._buffers[id(buffer)] = buffer
        if id(buffer) in self._arrays:
            raise _shared_bytes()

    def check_array(self, array: Array) -> None:
        """Check an array against those before it.

        Raises:
            SnapshotError: The array shares its memory with another one, or with an object that is
                no array.
        """
        base = _base_of(array)
        is_written = array.flags.writeable
        can_change = isinstance(base, bytearray) or (
            isinstance(base, np.ndarray) and base.flags.writeable
        )
        if not is_written and not can_change:
            return
        # An unpickled array is a view of bytes that belong to it alone.
        if not isinstance(base, (np.ndarray, bytes, bytearray, memoryview)):
            raise SnapshotError(
                f"the environment cannot be copied: an array of shape {array.shape} is a view of a "
                f"{type(base).__qualname__}"
            )
        if id(base) in self._buffers:
            raise _shared_bytes()
        others = self._arrays.setdefault(id(base), [])
        if any(
            other is not array
            # Two views that only read what neither of them can change stay right.
            and (is_written or other.flags.writeable)
            and np.may_share_memory(other, array)
            for other in others
        ):
            raise SnapshotError(
                f"the environment cannot be copied: an array of shape {array.shape} shares its "
                "memory with another one"
            )
        others.append(array)

    def check(self, value: Value) -> None:
        """Check a value and everything in it.

        Raises:
            SnapshotError: A container or an array is shared with a value before it.
        """
        if isinstance(value, np.ndarray):
            self.check_array(value)
            if value.flags.writeable:
                self._check_alone(value)
            return
        if type(value) not in (list, dict, set, collections.deque, tuple):
            return
        if type(value) is not tuple:
            self._check_alone(value)
        for item in value.values() if type(value) is dict else value:
            self.check(item)

    def _check_alone(self, value: Value) -> None:
        if id(value) in self._containers:
            raise SnapshotError(
                "the environment is no plain data: two attributes or items are the same "
                f"{type(value).__name__}"
            )
        self._containers[id(value)] = value


def _base_of(array: Array) -> object:
    """Return the object that owns the memory of an array."""
    base = array if array.base is None else array.base
    if isinstance(base, memoryview) and isinstance(base.obj, bytearray):
        return base.obj
    return base


def _shared_bytes() -> SnapshotError:
    return SnapshotError(
        "the environment cannot be copied: an array is a view of a bytearray in it"
    )


def is_bound_elsewhere(value: object, shared_ids: Collection[int]) -> bool:
    """Return whether a value is a method of an object that a copy would not have.

    Args:
        value: The value.
        shared_ids: Ids of the objects that a copy shares; methods of classes, modules
            and random generators are never bound elsewhere.
    """
    if not isinstance(value, (types.MethodType, types.BuiltinFunctionType)):
        return False
    owner = value.__self__
    if owner is None or isinstance(
        owner, (type, types.ModuleType, np.random.Generator, np.random.RandomState)
    ):
        return False
    return id(owner) not in shared_ids
