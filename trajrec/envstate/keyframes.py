"""Keyframes: the state of an environment with its wrappers as plain data, which a log may hold.

With a keyframe, a late step of a long episode is reached without re-executing the steps before it.
Unlike a snapshot, a keyframe is only data: an environment that holds objects of Python classes has
none.

MuJoCo computes some of its fields one substep late, and these are right again only after one more
step. A keyframe is therefore used to reach later steps than its own.
"""

from __future__ import annotations

import enum
import functools
import sys
import types
from collections.abc import Iterator, Sequence

import numpy as np

from trajrec.envstate.ale import StickyAction
from trajrec.envstate.attributes import CHECKING_WRAPPERS, SharedMemoryCheck, is_bound_elsewhere
from trajrec.envstate.contents import attributes_of, held_by
from trajrec.envstate.generators import module_of
from trajrec.envstate.pettingzoo import PettingZooEnv
from trajrec.envstate.snapshots import Snapshots
from trajrec.errors import EncodeError, SnapshotError
from trajrec.types import AnyEnv, Value
from trajrec.values import codec
from trajrec.values.plain import PLAIN_TYPES, is_immutable

EARLY_STEPS = 1024
"""The steps of an episode after which a recorder looks first at the variables outside of the
environment, which no keyframe has. To look reads the `__dict__` of each layer, and Python 3.11 and
3.12 read their attributes more slowly ever after (1 µs a step of CartPole); most episodes end before.
A replay or fork that uses a keyframe takes these steps again first, and compares the variables."""

_KEY_TYPES = frozenset((str, int, bool))

_ACTION_PACKAGES = frozenset(("ale_py", "minigrid"))
"""Packages whose enums list the actions of a game."""

_OLD_NAMES = {"turns": "acting_agents", "keeps": "holds_returned"}
"""Name in keyframes of log format 1 -> attribute of `trajrec.envstate.pettingzoo`."""


_CLASSES = {"generator": "Generator", "mujoco": "MjData", "ale": "ALEInterface"}
"""Kind of an entry that is no value -> the class of the object that takes it."""


class Keyframes:
    """Takes keyframes of one environment object and restores them.

    Args:
        env: The environment, with its wrappers.
    """

    def __init__(self, env: AnyEnv) -> None:
        self._snapshots = Snapshots(env)
        self._sticky: dict[int, StickyAction] = {}

    def take(self) -> bytes:
        """Return the present state as an encoded value.

        Raises:
            SnapshotError: The environment holds a value that is no plain data; names the attribute.
        """
        snapshots = self._snapshots
        if snapshots.sandbox is not None:
            raise SnapshotError(
                "the environment's state lies outside of this process, so a log cannot hold it"
            )
        snapshots.check_slots()
        layers = []
        shared_memory = SharedMemoryCheck()
        for layer, constant in self._layers():
            names = [name for name in layer.__dict__ if name not in constant]
            for name in names:
                shared_memory.check(layer.__dict__[name])
            entries = {name: self._to_entry(layer.__dict__[name], name) for name in names}
            state = {name: entry for name, entry in entries.items() if entry is not None}
            layers.append([type(layer).__name__, state])
        spaces = [_generator_state(space.__dict__.get("_np_random")) for space in snapshots.spaces]
        try:
            return codec.encode({"layers": layers, "spaces": spaces})
        except EncodeError as exc:
            raise SnapshotError(str(exc)) from exc

    def put(self, data: bytes) -> None:
        """Put the environment into a state that `take` of an environment like it returned.

        Raises:
            SnapshotError: The environment has other wrappers, or not yet an object whose state the
                keyframe has.
        """
        state = codec.decode(data)
        layers = [layer for layer, _ in self._layers()]
        recorded = [
            (name, entries) for name, entries in state["layers"] if name not in CHECKING_WRAPPERS
        ]
        names = [type(layer).__name__ for layer in layers]
        recorded_names = [name for name, _ in recorded]
        if names != recorded_names:
            raise SnapshotError(
                f"the environment has the layers {names}, and the keyframe is of {recorded_names}: "
                "make the environment with the wrappers that were recorded"
            )
        for layer, (_, entries) in zip(layers, recorded, strict=True):
            is_view = isinstance(layer, PettingZooEnv)
            for name, value in layer.__dict__.items():
                # Keyframes of earlier versions leave out members of enums, which may be a state.
                if _has_members(value) and name not in entries and not _is_list_of_actions(value):
                    raise SnapshotError(f"the keyframe does not have the attribute {name}")
            for name, entry in entries.items():
                self._put(layer.__dict__, _OLD_NAMES.get(name, name) if is_view else name, entry)
        for space, generator_state in zip(self._snapshots.spaces, state["spaces"], strict=True):
            if generator_state is not None:
                # Gives the space a generator if it has none yet.
                space.seed(0)
                space.__dict__["_np_random"].bit_generator.state = generator_state

    def _layers(self) -> Iterator[tuple[Value, frozenset[str]]]:
        """Yield the layers that have a state, each with the names of its constant attributes."""
        for layer, constant in self._snapshots.layers_with_constants():
            if type(layer).__name__ not in CHECKING_WRAPPERS:
                yield layer, constant

    def _to_entry(self, value: Value, name: str) -> list[Value] | None:
        """Return an attribute as [kind, data]; None if only a constructor sets it."""
        cls = type(value)
        if _is_plain(value):
            return ["value", value]
        if isinstance(value, np.random.Generator):
            return ["generator", _generator_state(value)]
        if cls.__name__ == "MjData":
            return ["mujoco", _mujoco_state(value)]
        if cls.__name__ == "ALEInterface":
            clone, action = self._sticky.setdefault(id(value), StickyAction(value)).take()
            action_value = None if action is None else int(action.value)
            return ["ale", bytes(clone.__getstate__()), action_value]
        if _is_list_of_actions(value):
            return None
        if is_bound_elsewhere(value, set(map(id, self._snapshots.layers))):
            raise SnapshotError(f"attribute {name} is a method of an object that is no layer")
        if any(map(self._is_lost, held_by(value))):
            raise SnapshotError(f"attribute {name} holds a value that no attribute has")
        is_layer = any(value is layer for layer in self._snapshots.layers)
        if is_layer or cls.__name__ == "MjModel" or _is_stateless_callable(value):
            return None
        if hasattr(value, "contains") and hasattr(value, "sample"):
            # A space: `take` stores its generator separately.
            return None
        raise SnapshotError(f"attribute {name} ({cls.__qualname__}) is no plain data")

    def _is_lost(self, item: Value) -> bool:
        """Return whether a value in a callable may change, and is no part of a keyframe."""
        layers = self._snapshots.layers
        if isinstance(item, (types.FunctionType, type)) or is_immutable(item):
            return False
        if isinstance(item, np.random.Generator):
            # That of an attribute keeps its place, and gets its state.
            return not any(item is held for layer in layers for held in vars(layer).values())
        if isinstance(item, (types.MethodType, types.BuiltinFunctionType, functools.partial)):
            return any(map(self._is_lost, held_by(item)))
        return not any(item is layer for layer in layers)

    def _put(self, attributes: dict[str, Value], name: str, entry: list[Value]) -> None:
        kind, value = entry[:2]
        if kind == "value":
            if not _is_plain(value):
                # An object of a class, as keyframes of earlier versions may hold.
                raise SnapshotError(f"attribute {name} of the keyframe is no plain data")
            attributes[name] = value
            return
        held = attributes.get(name)
        if not _has_class(held, _CLASSES[kind]):
            raise SnapshotError(
                f"attribute {name} is {held!r:.50}, and the keyframe has the state of a "
                f"{_CLASSES[kind]}"
            )
        if kind == "generator":
            attributes[name].bit_generator.state = value
        elif kind == "mujoco":
            data = attributes[name]
            mujoco = sys.modules["mujoco"]
            # `mj_forward` computes the fields that derive from the state, and changes a part of the
            # state itself (the warm start of the solver), so the state is set twice.
            mujoco.mj_setState(data.model, data, value, mujoco.mjtState.mjSTATE_INTEGRATION)
            mujoco.mj_forward(data.model, data)
            mujoco.mj_setState(data.model, data, value, mujoco.mjtState.mjSTATE_INTEGRATION)
        elif kind == "ale":
            # Late: an environment with an emulator has imported ale_py already.
            from ale_py import Action, ALEState

            clone = ALEState.__new__(ALEState)
            clone.__setstate__(value)
            emulator = attributes[name]
            sticky = self._sticky.setdefault(id(emulator), StickyAction(emulator))
            sticky.put((clone, None if entry[2] is None else Action(entry[2])))


def _has_class(value: Value, name: str) -> bool:
    return any(cls.__name__ == name for cls in type(value).__mro__)


def _mujoco_state(data: Value) -> Value:
    mujoco = sys.modules["mujoco"]
    signature = mujoco.mjtState.mjSTATE_INTEGRATION
    buffer = np.empty(mujoco.mj_stateSize(data.model, signature), np.float64)
    mujoco.mj_getState(data.model, data, buffer, signature)
    return buffer


def _is_plain(value: Value) -> bool:
    """Return whether a value consists of plain data alone."""
    if type(value) is np.ndarray:
        # A log has no other memory order, in which a sum would round differently.
        return value.dtype.kind in "biufcSU" and value.flags.c_contiguous
    if type(value) is dict:
        has_plain_keys = _KEY_TYPES.issuperset(map(type, value))
        return has_plain_keys and all(map(_is_plain, value.values()))
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    # By the type: a log gives back an integer of a class of its own, such as a member of an IntEnum,
    # as an object that stands for it. The fields of a record of NumPy can be assigned to; those that
    # a log gives back cannot.
    is_scalar = isinstance(value, np.generic) and not isinstance(value, np.void)
    return type(value) in PLAIN_TYPES or is_scalar


def _is_list_of_actions(value: Value) -> bool:
    """Return whether a value lists the actions of a game, as ALE does; only a constructor sets it."""
    return _has_members(value) and all(
        module_of(type(item)).partition(".")[0] in _ACTION_PACKAGES for item in _items_of(value)
    )


def _has_members(value: Value) -> bool:
    """Return whether a value is a member of an enum, or a list that has one."""
    return any(isinstance(item, enum.Enum) for item in _items_of(value))


def _items_of(value: Value) -> Sequence[Value]:
    return value if type(value) in (list, tuple) else [value]


def _is_stateless_callable(value: Value) -> bool:
    """Return whether a value is a function, or an object like one that has no attributes."""
    # The attributes of a function are seldom its state; an opponent with `__call__` counts in its.
    is_function = isinstance(value, (types.FunctionType, types.MethodType, type, functools.partial))
    return is_function or (callable(value) and not attributes_of(value))


def _generator_state(generator: Value) -> Value:
    return None if generator is None else generator.bit_generator.state
