"""What lies in an object: attributes, items, and what functions, iterators and coroutines hold."""

from __future__ import annotations

import contextlib
import functools
import gc
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from trajrec.envstate.generators import is_generator_class, module_of
from trajrec.types import Array, Value

_Slots = tuple[tuple[str, types.MemberDescriptorType], ...]

_OWN = "trajrec."

_OWN_ENVS = "trajrec.envs."

_CLOSED = ("torch", "jax", "jaxlib", "duckdb")
"""Packages whose objects are not looked into: they are large, and their state is native."""

_METHODS = (types.MethodType, types.BuiltinFunctionType, types.MethodWrapperType)

_FRAMES = {
    types.GeneratorType: ("gi_frame", "gi_yieldfrom"),
    types.CoroutineType: ("cr_frame", "cr_await"),
    types.AsyncGeneratorType: ("ag_frame", "ag_await"),
}
"""Types of code that waits: their attributes for its variables, and for what it waits for."""

_ITERATORS_OF = frozenset(("builtins", "itertools", "collections", "functools"))
"""Modules whose iterators hold others, which only the garbage collector tells."""


def attributes_of(value: Value) -> list[tuple[str, Value]]:
    """Return the attributes of an object by name, those in slots too; no code of it runs."""
    try:
        # Not `getattr`: an object without attributes may answer for any name.
        named = object.__getattribute__(value, "__dict__")
    except AttributeError:
        named = {}
    slots = slots_of(type(value))
    if slots:
        named = dict(named)
        for name, member in slots:
            # Not asked with hasattr: a slot without a value may hide a name of the class.
            with contextlib.suppress(AttributeError):
                named[name] = member.__get__(value)
    try:
        # No two names are equal, so values are never compared.
        return sorted(named.items())
    except TypeError:
        return sorted(named.items(), key=lambda item: str(item[0]))


def parts_of(value: Value) -> list[Value]:
    """Return the values in an object: items, attributes, and what `held_by` gives."""
    # The way to them depends on the class alone, and is looked up once for each class.
    cls = type(value)
    known = _READERS.get(id(cls))
    if known is None or known[0]() is not cls:
        known = _READERS[id(cls)] = weakref.ref(cls), _reader_of(cls)
    return known[1](value)


def held_by(value: Value) -> list[Value]:
    """Return what a value that is code holds: variables, arguments, the object of a method.

    Empty for functions: the variables around them have names, and lie outside of the object.
    """
    kind = type(value)
    waiting = _FRAMES.get(kind)
    if waiting is not None:
        frame, awaited = (getattr(value, name) for name in waiting)
        return [*({} if frame is None else frame.f_locals).values(), awaited]
    if kind in _METHODS:
        owner = value.__self__
        return [] if isinstance(owner, (types.ModuleType, type)) else [owner]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, weakref.ref):
        return [value()]
    if module_of(kind) in _ITERATORS_OF and hasattr(kind, "__next__"):
        return gc.get_referents(value)
    return []


def is_own_library(module: str) -> bool:
    """Return whether a module is one of trajrec's that is no environment."""
    # With the dot: `trajrec.envstate` is no environment.
    return module.startswith(_OWN) and not f"{module}.".startswith(_OWN_ENVS)


def _reader_of(cls: type) -> Callable[[Value], list[Value]]:
    """Return the function that reads the values in objects of a class."""
    if cls is dict:
        return lambda value: list(value.values())
    if cls in (list, tuple, deque):
        return list
    if issubclass(cls, dict):
        return lambda value: [*value.values(), *_attribute_values(value)]
    if issubclass(cls, (list, tuple, deque)):
        return lambda value: [*value, *_attribute_values(value)]
    if issubclass(cls, np.ndarray):
        return _array_items
    if is_own_library(module_of(cls)) and hasattr(cls, "step"):
        return _environment_in
    if is_generator_class(cls) or not _is_open(cls):
        return lambda _: []
    if _may_hold(cls):
        return lambda value: [*_attribute_values(value), *held_by(value)]
    return _attribute_values


def _environment_in(wrapper: Value) -> list[Value]:
    """Return the environment in a wrapper of trajrec, e.g. a recorder."""
    env = vars(wrapper).get("env")
    return [] if env is None else [env]


def _array_items(array: Array) -> list[Value]:
    return list(array.ravel().tolist()) if array.dtype.hasobject else []


def _attribute_values(value: Value) -> list[Value]:
    return [item for _, item in attributes_of(value)]


def _may_hold(cls: type) -> bool:
    """Return whether `held_by` may find anything in objects of a class."""
    is_iterator = module_of(cls) in _ITERATORS_OF and hasattr(cls, "__next__")
    return (
        is_iterator
        or cls in _FRAMES
        or cls in _METHODS
        or issubclass(cls, (functools.partial, weakref.ref))
    )


def _is_open(cls: type) -> bool:
    """Return whether objects of a class are looked into; those of trajrec hold whole corpora."""
    module = module_of(cls)
    return not is_own_library(module) and module.partition(".")[0] not in _CLOSED


# Id of a class -> the class, and the function that reads its objects.
_READERS: dict[int, tuple[weakref.ref[type], Callable[[Value], list[Value]]]] = {}

# Id of a class -> the class, and its slots, which are fixed when a class is made.
_SLOTS: dict[int, tuple[weakref.ref[type], _Slots]] = {}


def slots_of(cls: type) -> _Slots:
    """Return the slots of a class by name, in the order in which one hides another."""
    known = _SLOTS.get(id(cls))
    if known is None or known[0]() is not cls:
        known = _SLOTS[id(cls)] = weakref.ref(cls), tuple(_slots(cls))
    return known[1]


def _slots(cls: type) -> Iterator[tuple[str, types.MemberDescriptorType]]:
    for base in cls.__mro__:
        if "__slots__" in base.__dict__:
            # Not by `__slots__`: a private name is another one there.
            for name, member in base.__dict__.items():
                if isinstance(member, types.MemberDescriptorType):
                    yield name, member
