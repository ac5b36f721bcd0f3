"""Copies of attribute values, and pickles of the objects that cannot be copied by hand."""

from __future__ import annotations

import collections
import copyreg
import enum
import io
import pickle
import types
from collections.abc import Callable, Iterable, Mapping

import cloudpickle
import gymnasium
import numpy as np

from trajrec.envstate.ale import StickyAction
from trajrec.envstate.attributes import SharedMemoryCheck, is_bound_elsewhere
from trajrec.envstate.generators import is_seedable
from trajrec.envstate.natives import LOSSY_PACKAGES, is_native, native_state, package_of
from trajrec.envstate.outer_variables import process_generators
from trajrec.errors import SnapshotError
from trajrec.types import Value
from trajrec.values.plain import ATOMIC_TYPES, IMMUTABLE_BASES, STANDARD_VALUES

Attribute = tuple[int, str]
"""Number of a layer, counted from the outermost, and the name of an attribute of it."""


_HASHED = frozenset((set, frozenset, dict))

_METHODS = (types.MethodType, types.BuiltinFunctionType)

_VALUES = ATOMIC_TYPES - {frozenset}

_are_plain = _VALUES.issuperset


def _are_values(items: Iterable[Value]) -> bool:
    """Return whether items of a set, or keys of a dict, cannot change."""
    # At once: most are plain.
    return _are_plain(map(type, items)) or all(map(_is_value, items))


def _is_value(item: Value) -> bool:
    if isinstance(item, (tuple, frozenset)):
        return _are_values(item)
    return type(item) in _VALUES or isinstance(
        item, (np.generic, *IMMUTABLE_BASES, *STANDARD_VALUES)
    )


class NotCopyableError(Exception):
    """A value is an object of a class of its own, so it is pickled together with others."""


class Copier:
    """Copies values, each once, however often they are referred to.

    Args:
        shared: Objects that the copy shares with the original: layers and spaces.
        emulators: Id of an emulator -> its helper. If it is given, states of native objects are
            collected and shared memory is rejected, as a snapshot needs; a restore needs neither.
        outer: Objects that variables outside of the environment hold, by id. Copies of them would
            no longer be those that the code there uses, so the copy shares them, too.

    Attributes:
        natives: Id of a native object -> the object and its state.
        references: Id of an object that a pickle refers to -> the object.
    """

    def __init__(
        self,
        shared: Iterable[object],
        emulators: dict[int, StickyAction] | None = None,
        *,
        outer: Mapping[int, Value],
    ) -> None:
        self._emulators = {} if emulators is None else emulators
        self._collects = emulators is not None
        self.natives: dict[int, tuple[Value, Value]] = {}
        self.references: dict[int, object] = {}
        self._shared = {id(item): item for item in shared}
        self._copies: dict[int, Value] = {}
        self._originals: list[object] = []
        self._shared_memory = SharedMemoryCheck()
        # Generators among them are no copies either, and have their state restored.
        self._outer_generators = set(map(id, process_generators()))
        for item in outer.values():
            if is_native(item):
                self._outer_generators.add(id(item))
                continue
            self._shared[id(item)] = item
            if isinstance(item, np.ndarray):
                self._shared_memory.note(item)

    def is_atom(self, value: Value) -> bool:
        """Return whether a copy and its original can share a value."""
        cls = type(value)
        if cls is frozenset and not _are_values(value):
            return False
        if cls not in ATOMIC_TYPES or is_bound_elsewhere(value, self._shared):
            return False
        self._note_owner(value)
        return True

    def copy(self, value: Value) -> Value:
        """Return a copy; for layers, spaces, generators and native objects, the object itself.

        Raises:
            NotCopyableError: The value, or one in it, is an object of a class of its own.
        """
        cls = type(value)
        if is_bound_elsewhere(value, self._shared):
            raise NotCopyableError
        # Objects in a set, and keys of a dict, may change as all others do.
        if cls in _HASHED and not _are_values(value):
            raise NotCopyableError
        if cls in ATOMIC_TYPES:
            self._note_owner(value)
            return value
        if (
            id(value) in self._shared
            or isinstance(value, (enum.Enum, type))
            # A record of NumPy has fields that can be assigned to.
            or (isinstance(value, np.generic) and not isinstance(value, np.void))
        ):
            return value
        earlier = self._copies.get(id(value))
        if earlier is not None:
            return earlier
        copied: Value
        if cls is np.ndarray and not value.dtype.hasobject:
            if self._collects:
                self._shared_memory.check_array(value)
            # In its own memory order: a sum in another order rounds differently.
            copied = value.copy(order="K")
            if not value.flags.writeable:
                copied.flags.writeable = False
        elif cls is dict:
            copied = {key: self.copy(item) for key, item in value.items()}
        elif cls is list:
            copied = [self.copy(item) for item in value]
        elif cls is tuple:
            copied = tuple(self.copy(item) for item in value)
        elif cls is set:
            copied = set(value)
        elif cls is collections.deque:
            copied = collections.deque((self.copy(item) for item in value), value.maxlen)
        elif is_native(value):
            self._collect_native(value)
            return value
        elif package_of(value) == "pygame":
            # Surfaces and clocks of windows: an environment draws on them and reads none of them.
            return value
        else:
            raise NotCopyableError
        self._copies[id(value)] = copied
        # A reference keeps the original alive: another object might get its id otherwise.
        self._originals.append(value)
        return copied

    def pickle(self, objects: dict[Attribute, Value]) -> bytes:
        """Return objects as bytes, pickled together, with references to the shared ones.

        Raises:
            SnapshotError: An object cannot be pickled; names its attribute.
        """
        file = io.BytesIO()
        try:
            _Pickler(file, self._reference).dump(objects)
        except Exception as exc:
            # An object's own reduction may raise anything.
            raise SnapshotError(
                f"the environment cannot be copied: {self._culprit(objects)}: "
                f"{type(exc).__name__}: {exc}"
            ) from exc
        return file.getvalue()

    def _reference(self, value: Value) -> int | None:
        """Return the id under which a pickle refers to a value; None to pickle the value itself."""
        if id(value) in self._outer_generators:
            self._collect_native(value)
        is_shared = id(value) in self._shared
        if isinstance(value, np.ndarray) and not is_shared:
            self._shared_memory.check_array(value)
        if type(value) is bytearray:
            self._shared_memory.check_buffer(value)
        # A native object that a layer holds, too, stays the same object, of whatever kind.
        if not (is_shared or id(value) in self.natives or type(value).__name__ == "MjModel"):
            return None
        self.references[id(value)] = value
        return id(value)

    def _note_owner(self, value: Value) -> None:
        """Collect the state of a generator if a value is a method of it."""
        if isinstance(value, _METHODS) and is_seedable(value.__self__):
            self._collect_native(value.__self__)

    def _collect_native(self, native: Value) -> None:
        if self._collects and id(native) not in self.natives:
            self.natives[id(native)] = (native, native_state(native, self._emulators))
            if isinstance(native, np.random.Generator):
                # Another object may draw from what it draws from.
                self._collect_native(native.bit_generator)

    def _culprit(self, objects: dict[Attribute, Value]) -> str:
        """Return the name of the first attribute that cannot be pickled alone."""
        for (_, name), value in objects.items():
            try:
                _Pickler(io.BytesIO(), self._reference).dump(value)
            except Exception:
                return f"attribute {name} ({type(value).__qualname__})"
        return "its attributes together"


def unpickle(data: bytes, references: dict[int, object]) -> dict[Attribute, Value]:
    """Return the objects that `Copier.pickle` of this process made bytes of.

    Raises:
        SnapshotError: An object cannot be made of its bytes.
    """
    try:
        return dict(_Unpickler(io.BytesIO(data), references).load())
    except Exception as exc:
        # The classes of objects may raise anything.
        raise SnapshotError(
            f"the environment cannot be restored from its pickle: {type(exc).__name__}: {exc}"
        ) from exc


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles EzPickle objects by their attributes: EzPickle would make a fresh environment."""

    def __init__(self, file: io.BytesIO, reference: Callable[[Value], int | None]) -> None:
        super().__init__(file, protocol=5)
        self._reference = reference

    def persistent_id(self, value: Value) -> int | None:
        return self._reference(value)

    def reducer_override(self, value: Value) -> Value:
        if package_of(value) in LOSSY_PACKAGES:
            raise pickle.PicklingError(
                f"objects of {package_of(value)} leave out of their pickles a part of their state"
            )
        if _is_ended_by_its_copy(value):
            raise pickle.PicklingError(
                f"{type(value).__qualname__} has a __del__: when its copy goes, it may end what the "
                "original uses (a class with a __reduce__ or a __getstate__ of its own is copied)"
            )
        if isinstance(value, memoryview):
            raise pickle.PicklingError("a view of memory would be pickled as a copy of its bytes")
        if isinstance(value, np.void) and value.base is not None:
            raise pickle.PicklingError("a record of an array would no longer be a part of it")
        if isinstance(value, gymnasium.utils.EzPickle):
            return object.__new__, (type(value),), value.__dict__, None, None, _set_attributes
        return super().reducer_override(value)


def _is_ended_by_its_copy(value: Value) -> bool:
    """Return whether the finalizer of a copy may free what the original still uses.

    A client of PyBullet holds the number of its simulation: its copy has the same number, and
    disconnects both when it goes. A class that says how it is pickled is taken at its word.
    """
    cls = type(value)
    if not hasattr(cls, "__del__") or cls in copyreg.dispatch_table:
        return False
    # EzPickle's word does not count: such objects are pickled by their attributes here.
    return isinstance(value, gymnasium.utils.EzPickle) or not any(
        getattr(cls, name, None) is not getattr(object, name, None)
        for name in ("__reduce__", "__reduce_ex__", "__getstate__")
    )


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, references: dict[int, object]) -> None:
        super().__init__(file)
        self._references = references

    def persistent_load(self, reference: int) -> object:
        return self._references[reference]


def _set_attributes(value: Value, state: dict[str, Value]) -> None:
    value.__dict__.update(state)
