"""Snapshots of a live environment with all its wrappers, restored in place.

What an environment is lies in the attributes of its layers: numbers, arrays and containers are copied, generators and native
simulators (MuJoCo, ALE) give out and take back their state, objects of Python classes are pickled together, so that what they
share stays shared. One whose state lies outside of this process keeps it there (`trajrec.protocols.SandboxedEnv`). An
environment that holds something else cannot be snapshotted, which is said; and whether a snapshot is exact is for a
probe to prove (`trajrec.replay.check_determinism`), not for this module to promise.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import enum
import io
import pickle
import random
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import cloudpickle
import gymnasium
import numpy as np

from trajrec.envstate.ale import StickyAction
from trajrec.envstate.attributes import Sharing, constants, is_bound_elsewhere, layers_of
from trajrec.envstate.pettingzoo import layers
from trajrec.errors import SnapshotError
from trajrec.protocols import SandboxedEnv

_ATOMS = frozenset(
    {
        int,
        float,
        bool,
        complex,
        str,
        bytes,
        type(None),
        frozenset,
        range,
        type,
        type(Ellipsis),
        np.dtype,
    }
    | {types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType}
)
_CONTAINERS = frozenset((dict, list, tuple, set, collections.deque, np.ndarray))
"""What may be shared with objects."""

_LOSSY = frozenset(("pymunk", "multi_agent_ale_py"))
"""Packages whose objects leave out of their pickles what the next step depends on: contacts, which no probe sees where nothing
touches, and an emulator, of which only the address would be kept."""


class Snapshot(NamedTuple):
    """The state of all layers, of what is native in them, of what objects they hold, and what names the state of a sandbox;
    and what these objects refer to, which may have been replaced since."""

    layers: list[dict[str, Any]]
    natives: list[tuple[Any, Any]]
    objects: bytes | None
    sandboxes: tuple[Any, ...]
    references: dict[int, Any]

    @property
    def restore_method(self) -> Literal["snapshot", "pickle", "env_snapshot"]:
        """How the environment was copied, in the words of the argument `restore`."""
        if self.sandboxes:
            return "env_snapshot"
        return "snapshot" if self.objects is None else "pickle"


class Snapshots:
    """Takes and restores snapshots of one environment object.

    Args:
        env: The environment, with its wrappers; its attributes are read and written, nothing of it is called but the methods
            of a sandbox.

    Attributes:
        sandbox: The innermost layer, where its state lies outside of this process; else None.
    """

    def __init__(self, env: Any) -> None:
        self.layers: list[Any] = list(layers_of(env))
        self.spaces = list(_spaces(self.layers))
        self._kept = [*self.layers, *self.spaces]
        self.sandbox = sandbox_of(env)
        if self.sandbox is not None:
            self.layers.pop()
        self._emulators: dict[int, StickyAction] = {}
        self.constant = [constants(layer) for layer in self.layers]

    def take(self) -> Snapshot:
        """Return the state as it is now.

        Raises:
            SnapshotError: The environment holds something that cannot be copied; names the attribute.
        """
        copier = _Copier(self._kept, self._emulators)
        saved, objects = [], {}
        for number, (layer, constant) in enumerate(zip(self.layers, self.constant, strict=True)):
            values = layer.__dict__.copy()
            for name, value in values.items():
                if name not in constant and not copier.is_atom(value):
                    try:
                        values[name] = copier.copy(value)
                    except _IsObjectError:
                        objects[number, name] = value
            saved.append(values)
        if objects:  # what they share with containers stays shared if these are pickled with them
            objects |= {(number, name): value for number, name, value in self._containers()}
            for number, name in objects:
                saved[number][name] = None
        natives = [
            (space, _generator_state(space.__dict__.get("_np_random"))) for space in self.spaces
        ]
        natives += copier.natives.values()
        pickled = copier.pickle(objects) if objects else None
        sandboxes = () if self.sandbox is None else (self._ask("take_snapshot"),)
        return Snapshot(saved, natives, pickled, sandboxes, copier.references)

    def _containers(self) -> Iterator[tuple[int, str, Any]]:
        for number, (layer, constant) in enumerate(zip(self.layers, self.constant, strict=True)):
            for name, value in layer.__dict__.items():
                if type(value) in _CONTAINERS and name not in constant:
                    yield number, name, value

    def _ask(self, method: str, *args: Any) -> Any:
        """Ask the sandbox, which may have a bad day.

        Raises:
            SnapshotError: It raised.
        """
        try:
            return getattr(self.sandbox, method)(*args)
        except Exception as exc:
            raise SnapshotError(
                f"{method} of {type(self.sandbox).__qualname__}: {type(exc).__name__}: {exc}"
            ) from exc

    def drop(self, snapshot: Snapshot) -> None:
        """Say that a snapshot is not gone back to any more: what a sandbox keeps of it can go."""
        if hasattr(self.sandbox, "drop_snapshot"):
            for name in snapshot.sandboxes:
                with contextlib.suppress(SnapshotError):
                    self._ask("drop_snapshot", name)

    def restore(self, snapshot: Snapshot) -> None:
        """Put the environment back into a state that `take` returned; as often as you like."""
        for name in snapshot.sandboxes:
            self._ask("restore_snapshot", name)
        for native, state in snapshot.natives:
            _set_native(native, state)
        copier = _Copier(self._kept)
        for layer, values, constant in zip(
            self.layers, snapshot.layers, self.constant, strict=True
        ):
            live = layer.__dict__
            for name in live.keys() - values.keys():
                del live[name]
            for name, value in values.items():
                live[name] = (
                    value if type(value) in _ATOMS or name in constant else copier.copy(value)
                )
        if snapshot.objects is not None:
            for (number, name), value in _unpickle(snapshot.objects, snapshot.references).items():
                self.layers[number].__dict__[name] = value


def sandbox_of(env: Any) -> SandboxedEnv | None:
    """Return the innermost layer of an environment, where its state lies outside of this process; else None."""
    *_, bare = layers(env)
    return bare if isinstance(bare, SandboxedEnv) else None


class _IsObjectError(Exception):
    """A value is of a class of its own: it is pickled, with others."""


class _Copier:
    """Copies values once, however often they are referred to; collects the states of what is native, if wanted."""

    def __init__(self, kept: list[Any], emulators: dict[int, StickyAction] | None = None) -> None:
        self._emulators = emulators if emulators is not None else {}
        self._collects = emulators is not None
        self.natives: dict[int, tuple[Any, Any]] = {}
        self._kept = {id(thing): thing for thing in kept}
        self.references: dict[int, Any] = {}
        self._memo: dict[int, Any] = {}
        self._alive: list[Any] = []
        self._sharing = Sharing()

    def is_atom(self, value: Any) -> bool:
        """Say whether a value can be kept as it is."""
        return type(value) in _ATOMS and not is_bound_elsewhere(value, self._kept)

    def copy(self, value: Any) -> Any:
        """Return a copy; of what stays itself (layers, spaces, generators, native simulators) the thing.

        Raises:
            _IsObjectError: It, or something in it, is an object of a class of its own.
        """
        cls = type(value)
        if is_bound_elsewhere(value, self._kept):
            raise _IsObjectError
        if (
            cls in _ATOMS
            or id(value) in self._kept
            or isinstance(value, (np.generic, enum.Enum, type))
        ):
            return value
        found = self._memo.get(id(value))
        if found is not None:
            return found
        if cls is np.ndarray and value.dtype.kind != "O":
            if self._collects:
                self._sharing.see_array(value)
            made = value.copy()
        elif cls is dict:
            made = {key: self.copy(item) for key, item in value.items()}
        elif cls is list:
            made = [self.copy(item) for item in value]
        elif cls is tuple:
            made = tuple(self.copy(item) for item in value)
        elif cls is set:
            made = set(value)
        elif cls is collections.deque:
            made = collections.deque((self.copy(item) for item in value), value.maxlen)
        elif _is_native(value):
            self._keep(value)
            return value
        elif cls.__module__.partition(".")[0] == "pygame":
            return value
        else:
            raise _IsObjectError
        self._memo[id(value)] = made
        self._alive.append(value)  # or another value might get its id
        return made

    def pickle(self, objects: dict[tuple[int, str], Any]) -> bytes:
        """Return objects as bytes; what stays itself is referred to.

        Raises:
            SnapshotError: One cannot be pickled; names it.
        """
        file = io.BytesIO()
        try:
            _Pickler(file, self._reference).dump(objects)
        except Exception as exc:  # whatever an object's own reduction raises
            raise SnapshotError(
                f"it cannot be copied: {self._culprit(objects)}: {type(exc).__name__}: {exc}"
            ) from exc
        return file.getvalue()

    def _reference(self, value: Any) -> int | None:
        if isinstance(value, np.ndarray):
            self._sharing.see_array(value)
        if type(value) is np.random.Generator or type(value).__name__ in ("MjData", "ALEInterface"):
            if id(value) not in self.natives:
                return None
        elif id(value) not in self._kept and type(value).__name__ != "MjModel":
            return None
        self.references[id(value)] = value
        return id(value)

    def _keep(self, value: Any) -> None:
        if self._collects and id(value) not in self.natives:
            self.natives[id(value)] = (value, _native_state(value, self._emulators))

    def _culprit(self, objects: dict[tuple[int, str], Any]) -> str:
        for (_, name), value in objects.items():
            try:
                _Pickler(io.BytesIO(), self._reference).dump(value)
            except Exception:
                return f"attribute {name} ({type(value).__qualname__})"
        return "its attributes together"


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles by attributes what Gymnasium would pickle by constructor: EzPickle makes a fresh environment of a live one."""

    def __init__(self, file: io.BytesIO, reference: Callable[[Any], int | None]) -> None:
        super().__init__(file, protocol=5)
        self._reference = reference

    def persistent_id(self, value: Any) -> int | None:
        return self._reference(value)

    def reducer_override(self, value: Any) -> Any:
        if _package(value) in _LOSSY:
            raise pickle.PicklingError(
                f"objects of {_package(value)} pickle less than they go on by"
            )
        if isinstance(value, gymnasium.utils.EzPickle):
            return object.__new__, (type(value),), value.__dict__, None, None, _set_attributes
        return super().reducer_override(value)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, references: dict[int, Any]) -> None:
        super().__init__(file)
        self._references = references

    def persistent_load(self, reference: int) -> Any:
        return self._references[reference]


def _unpickle(data: bytes, references: dict[int, Any]) -> dict[tuple[int, str], Any]:
    """Return objects that a copier made bytes of, in this process only."""
    return dict(_Unpickler(io.BytesIO(data), references).load())


def _set_attributes(value: Any, state: dict[str, Any]) -> None:
    value.__dict__.update(state)


def _is_native(value: Any) -> bool:
    if isinstance(value, (np.random.Generator, np.random.RandomState, random.Random)):
        return True
    return (
        type(value).__name__ in ("MjModel", "MjData", "ALEInterface")
        and _package(value) not in _LOSSY
    )


def _package(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def _ale_state(ale: Any, emulators: dict[int, StickyAction]) -> Any:
    sticky = emulators.get(id(ale))
    if sticky is None:
        sticky = emulators[id(ale)] = StickyAction(ale)
    try:
        return sticky, sticky.take()
    except LookupError as exc:
        raise SnapshotError(
            f"the action that ALE executed last cannot be found out: {exc}"
        ) from exc


def _native_state(value: Any, emulators: dict[int, StickyAction]) -> Any:
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.RandomState):
        return value.get_state()
    name = type(value).__name__
    if name == "ALEInterface":
        return _ale_state(value, emulators)
    if name == "MjData":
        return copy.copy(value)
    return _generator_state(value) if isinstance(value, np.random.Generator) else None


def _set_native(value: Any, state: Any) -> None:
    if isinstance(value, gymnasium.Space):
        _set_space(value, state)
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = state[1]
    elif isinstance(value, random.Random):
        value.setstate(state)
    elif isinstance(value, np.random.RandomState):
        value.set_state(state)
    elif type(value).__name__ == "ALEInterface":
        state[0].restore(state[1])
    elif type(value).__name__ == "MjData":
        sys.modules["mujoco"].mj_copyData(value, value.model, state)


def _generator_state(generator: Any) -> Any:
    """Return a generator and its state; None for none."""
    return None if generator is None else (generator, generator.bit_generator.state)


def _set_space(space: Any, state: Any) -> None:
    if state is None:
        space.__dict__["_np_random"] = None
    else:
        space.__dict__["_np_random"] = state[0]
        state[0].bit_generator.state = state[1]


def _spaces(layers: list[Any]) -> Iterator[Any]:
    """Yield the spaces of all layers with the spaces in them, each once: what samples draws from their generators."""
    seen: set[int] = set()
    values = [value for layer in layers for value in layer.__dict__.values()]
    # PettingZoo's environments have a dict of spaces by agent.
    values += [item for value in values if type(value) is dict for item in value.values()]
    waiting = [value for value in values if isinstance(value, gymnasium.Space)]
    while waiting:
        space = waiting.pop()
        if id(space) in seen:
            continue
        seen.add(id(space))
        inner = getattr(space, "spaces", ())
        waiting += [
            item
            for item in (inner.values() if hasattr(inner, "values") else inner)
            if isinstance(item, gymnasium.Space)
        ]
        yield space
