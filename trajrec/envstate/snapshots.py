"""Snapshots of a live environment with all its wrappers, restored in place.

The state of an environment lies in the attributes of its layers:

- Numbers, arrays and containers are copied.
- Generators and native simulators (MuJoCo, ALE) hand out their state and take it back.
- Objects of Python classes are pickled together, so that objects which two of them share stay
  shared.
- An environment whose state lies outside of this process stores it there
  (`trajrec.protocols.SandboxedEnv`).

If an environment holds anything else, no snapshot is taken, and the error names the attribute. A
snapshot that was taken is not proved to be complete: `trajrec.replay.check_determinism` probes it.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from trajrec.envstate.ale import StickyAction
from trajrec.envstate.attributes import (
    constant_attributes,
    constants_among,
    layers_with_attributes,
)
from trajrec.envstate.contents import slots_of
from trajrec.envstate.copier import Attribute, Copier, NotCopyableError, unpickle
from trajrec.envstate.natives import restore_native, space_state, spaces_of
from trajrec.envstate.outer_state import OuterState
from trajrec.envstate.pettingzoo import layers
from trajrec.errors import SnapshotError
from trajrec.protocols import SandboxedEnv
from trajrec.types import AnyEnv, Value
from trajrec.values.plain import ATOMIC_TYPES

_CONTAINERS = frozenset((dict, list, tuple, set, collections.deque, np.ndarray))
"""Types of values that an object may refer to as well as a layer."""


class Snapshot(NamedTuple):
    """The state of an environment.

    Attributes:
        layers: For each layer its attributes by name, copied.
        natives: Native objects and spaces, each with its state.
        objects: Pickled attributes that hold objects of Python classes, None if there are none.
        sandboxes: The name that a sandbox gave to its own snapshot; empty without a sandbox.
        references: The objects that `objects` refers to, by id; a layer may hold others by now.
        outer: The variables outside of the environment. Of those the snapshot only has generators.
    """

    layers: list[dict[str, Value]]
    natives: list[tuple[Value, Value]]
    objects: bytes | None
    sandboxes: tuple[Value, ...]
    references: dict[int, object]
    outer: OuterState

    @property
    def restore_method(self) -> Literal["snapshot", "pickle", "env_snapshot"]:
        """How the environment was copied, in the words of the argument `restore`."""
        if self.sandboxes:
            return "env_snapshot"
        return "snapshot" if self.objects is None else "pickle"


class Snapshots:
    """Takes and restores snapshots of one environment object.

    Args:
        env: The environment, with its wrappers. Its attributes are read and written; no method of
            it is called except those of a sandbox.

    Attributes:
        layers: The layers whose attributes are copied, outermost first: all but a sandbox.
        spaces: The spaces of all layers.
        sandbox: The bare environment if its state lies outside of this process, else None.
    """

    def __init__(self, env: AnyEnv) -> None:
        self._env = env
        self.layers: list[Value] = list(layers_with_attributes(env))
        self.spaces = list(spaces_of(self.layers))
        self._shared = [*self.layers, *self.spaces]
        self.sandbox = sandbox_of(env)
        if self.sandbox is not None:
            self.layers.pop()
        self._slotted = [type(layer) for layer in self.layers if slots_of(type(layer))]
        self._emulators: dict[int, StickyAction] = {}
        self._constant = [constant_attributes(layer) for layer in self.layers]

    def take(self) -> Snapshot:
        """Return the present state.

        Raises:
            SnapshotError: The environment holds a value that cannot be copied; names the attribute.
        """
        outer = OuterState.of_env(self._env)
        self.check_slots()
        copier = Copier(self._shared, self._emulators, outer=outer.objects)
        copies: list[dict[str, Value]] = []
        objects: dict[Attribute, Value] = {}
        for number, (layer, constant) in enumerate(self.layers_with_constants()):
            values = layer.__dict__.copy()
            for name, value in values.items():
                if name not in constant and not copier.is_atom(value):
                    try:
                        values[name] = copier.copy(value)
                    except (NotCopyableError, RecursionError):
                        # A pickle takes what refers to itself, too.
                        objects[number, name] = value
            copies.append(values)
        if objects:
            # An object may refer to a container that is an attribute too. The two stay one only
            # if they are pickled together, so the containers join the objects.
            objects |= {(number, name): value for number, name, value in self._containers()}
            for number, name in objects:
                copies[number][name] = None
        # Before what `copier` has collected is read: pickling adds to it.
        pickled = copier.pickle(objects) if objects else None
        natives: list[tuple[Value, Value]] = [(space, space_state(space)) for space in self.spaces]
        natives += copier.natives.values()
        sandboxes = () if self.sandbox is None else (self._ask("take_snapshot"),)
        return Snapshot(copies, natives, pickled, sandboxes, copier.references, outer)

    def restore(self, snapshot: Snapshot) -> None:
        """Put the environment into the state of a snapshot, any number of times.

        Raises:
            SnapshotError: A sandbox raised, or an object cannot be unpickled.
        """
        for name in snapshot.sandboxes:
            self._ask("restore_snapshot", name)
        for native, state in snapshot.natives:
            restore_native(native, state)
        # A copy of the copies: the environment changes those that it gets.
        copier = Copier(self._shared, outer=snapshot.outer.objects)
        for layer, values, names in zip(self.layers, snapshot.layers, self._constant, strict=True):
            attributes = layer.__dict__
            constant = constants_among(names, values)
            for name in attributes.keys() - values.keys():
                del attributes[name]
            for name, value in values.items():
                if type(value) in ATOMIC_TYPES or name in constant:
                    attributes[name] = value
                else:
                    attributes[name] = copier.copy(value)
        if snapshot.objects is not None:
            for (number, name), value in unpickle(snapshot.objects, snapshot.references).items():
                self.layers[number].__dict__[name] = value

    def drop(self, snapshot: Snapshot) -> None:
        """Tell a sandbox that a snapshot will not be restored again, so that it can delete it."""
        if hasattr(self.sandbox, "drop_snapshot"):
            for name in snapshot.sandboxes:
                with contextlib.suppress(SnapshotError):
                    self._ask("drop_snapshot", name)

    def check_slots(self) -> None:
        """Check that all attributes of the layers lie in their `__dict__`.

        Raises:
            SnapshotError: A layer has others.
        """
        for cls in self._slotted:
            name, _ = slots_of(cls)[0]
            raise SnapshotError(
                f"the environment cannot be copied: {cls.__qualname__} has the attribute {name} in "
                "a slot: leave out __slots__"
            )

    def layers_with_constants(self) -> Iterator[tuple[Value, frozenset[str]]]:
        """Yield each layer with the names of the attributes that no snapshot has."""
        for layer, names in zip(self.layers, self._constant, strict=True):
            yield layer, constants_among(names, layer.__dict__)

    def _containers(self) -> Iterator[tuple[int, str, Value]]:
        for number, (layer, constant) in enumerate(self.layers_with_constants()):
            for name, value in layer.__dict__.items():
                if type(value) in _CONTAINERS and name not in constant:
                    yield number, name, value

    def _ask(self, method: str, *arguments: Value) -> Value:
        """Call a method of the sandbox.

        Raises:
            SnapshotError: The method raised.
        """
        try:
            return getattr(self.sandbox, method)(*arguments)
        except Exception as exc:
            raise SnapshotError(
                f"{method} of {type(self.sandbox).__qualname__}: {type(exc).__name__}: {exc}"
            ) from exc


def sandbox_of(env: AnyEnv) -> SandboxedEnv | None:
    """Return the bare environment if its state lies outside of this process, else None."""
    *_, bare = layers(env)
    return bare if isinstance(bare, SandboxedEnv) else None
