"""The state that lies in the variables outside of an environment: generators, and what changes."""

from __future__ import annotations

import hashlib
import pickle
import types
import warnings
from collections import deque
from collections.abc import Collection, Container, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from trajrec.envstate.attributes import constant_attributes, constants_among
from trajrec.envstate.contents import attributes_of, parts_of
from trajrec.envstate.generators import is_seedable, put_state, state_of
from trajrec.envstate.outer_variables import OuterSearch, process_generators
from trajrec.envstate.pettingzoo import layers
from trajrec.protocols import SandboxedEnv
from trajrec.types import Array, Value
from trajrec.values.arrays import array_bytes
from trajrec.values.plain import PLAIN_TYPES, STANDARD_VALUES

MAX_OBJECTS = 20_000
"""Objects of which a digest is made; changes in others are not seen. It takes 50 ms."""

_CODE = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.ModuleType,
    type,
    staticmethod,
    classmethod,
    property,
)


_VALUES = (np.generic, complex, range, *STANDARD_VALUES)
"""Types of values that count by what they are, and not by which object they are."""


def outer_generators(values: Iterable[Value], seen: set[int]) -> Iterator[Value]:
    """Yield the generators in the variables outside of some objects, in a fixed order.

    The generators of `random` and `numpy.random` are among them if the code of the objects uses
    them.

    Args:
        values: The objects, e.g. the layers of an environment.
        seen: Ids of the objects to skip; the objects that were searched are added.
    """
    search = OuterSearch(values)
    waiting = deque(variable.value for variable in search.variables)
    n_left = MAX_OBJECTS
    while waiting and n_left:
        value = waiting.popleft()
        if type(value) in PLAIN_TYPES or id(value) in seen or isinstance(value, _CODE):
            continue
        seen.add(id(value))
        n_left -= 1
        if is_seedable(value):
            yield value
        elif not hasattr(value, "sample") and not isinstance(value, (set, frozenset)):
            waiting.extend(parts_of(value))
    yield from (one for one in search.process_generators if id(one) not in seen)


class OuterState(NamedTuple):
    """The variables outside of an object.

    Attributes:
        digests: Digests of them, by name.
        generators: The generators of the process that the code of the object may use, with their
            states.
        objects: The objects that the variables hold, by id.
    """

    digests: dict[str, bytes]
    generators: tuple[tuple[Value, Value], ...]
    objects: dict[int, Value]

    @classmethod
    def of(cls, values: Iterable[Value], without: Container[int] = ()) -> OuterState:
        """Return those of this moment.

        Args:
            values: The objects, e.g. the layers of an environment.
            without: Ids of objects that may change, such as the layers themselves.
        """
        search = OuterSearch(values)
        digester = _Digester(without)
        digests = {name: digester.digest(value) for name, value, _ in search.variables}
        names = process_generators()
        for generator in search.process_generators:
            if id(generator) not in without:
                digests[names[generator]] = _content(generator)
        states = tuple((one, state_of(one)) for one in search.process_generators)
        return cls(digests, states, digester.objects)

    @classmethod
    def of_env(cls, env: Value, without: Collection[int] = ()) -> OuterState:
        """Return those outside of an environment with its wrappers, or of a world; see `of`."""
        all_layers = list(layers(env))
        return cls.of(all_layers, {*map(id, all_layers), *without})

    def put_back_generators(self) -> None:
        """Give the generators of the process the states that they had."""
        for generator, state in self.generators:
            put_state(generator, state)

    def attribute_digests(self, env: Value) -> dict[str, bytes]:
        """Return a digest of each attribute of an environment's layers, by its name.

        Objects in the variables count by their identity, and so do those that two attributes share.
        A sandbox keeps its attributes itself: a restored one may be in another container.
        """
        all_layers = list(layers(env))
        digester = _Digester(set(map(id, all_layers)), known=self.objects)
        digests: dict[str, bytes] = {}
        for layer in all_layers:
            if isinstance(layer, SandboxedEnv):
                continue
            constant = constants_among(constant_attributes(layer), vars(layer))
            for name, value in attributes_of(layer):
                if name not in constant:
                    digests[f"{name} of {type(layer).__qualname__}"] = digester.digest(value)
        return digests

    def lost(self, attributes: dict[str, bytes], env: Value) -> str:
        """Return the name of an attribute that has another digest now; "" if there is none.

        Args:
            attributes: From `attribute_digests`.
            env: The environment, after a snapshot was restored.
        """
        restored = self.attribute_digests(env)
        return next((name for name in attributes if restored.get(name) != attributes[name]), "")

    def changed(self, later: OuterState) -> str:
        """Return the name of a variable that is another one later; "" if there is none."""
        for name, digest in later.digests.items():
            if self.digests.get(name, digest) != digest:
                return name
        return next((name for name in self.digests if name not in later.digests), "")


def digest_all(
    values: Iterable[tuple[str, Value]], without: Container[int] = ()
) -> dict[str, bytes]:
    """Return the digest of each value with all that it holds, by its name.

    Args:
        values: Names and values.
        without: See `OuterState.of`.
    """
    digester = _Digester(without)
    return {name: digester.digest(value) for name, value in values}


class ProcessGenerators:
    """The states of the process's generators when this is made, so that they can be put back."""

    def __init__(self) -> None:
        self._states = [(generator, state_of(generator)) for generator in process_generators()]

    def put_back(self, used: Container[int]) -> None:
        """Put back those whose ids are given."""
        for generator, state in self._states:
            if id(generator) in used:
                put_state(generator, state)


class _Digester:
    """Makes digests of values with all that they hold.

    Args:
        without: Ids of objects of which nothing is taken.
        known: Objects that count by their identity alone, by id.
    """

    def __init__(self, without: Container[int], known: Iterable[int] = ()) -> None:
        self._without = without
        # Id -> number of the object, in the order in which they come.
        self._numbers = {own_id: number for number, own_id in enumerate(known)}
        self._held: list[Value] = []

    @property
    def objects(self) -> dict[int, Value]:
        """The objects of which a digest was made, by id."""
        return {id(item): item for item in self._held}

    def digest(self, value: Value) -> bytes:
        """Return the digest of a value."""
        digest = hashlib.blake2b(digest_size=16)
        for part in self._parts(value):
            digest.update(part)
            digest.update(b"\0")
        return digest.digest()

    def _parts(self, value: Value) -> Iterator[bytes]:
        waiting = [value]
        while waiting and len(self._held) < MAX_OBJECTS:
            item = waiting.pop()
            kind = type(item)
            # A path keeps its text in a slot once it is asked for it, which is no change.
            if kind in PLAIN_TYPES or isinstance(item, _VALUES):
                yield f"{kind.__name__} {item!r}".encode("utf-8", "surrogatepass")
                continue
            if kind is frozenset and PLAIN_TYPES.issuperset(map(type, item)):
                yield _content(item)
                continue
            is_new = id(item) not in self._numbers
            number = self._numbers.setdefault(id(item), len(self._numbers))
            yield f"{kind.__name__} {number}".encode()
            if not is_new or id(item) in self._without:
                continue
            self._held.append(item)
            if isinstance(item, _CODE):
                continue
            yield _content(item)
            waiting.extend(reversed(parts_of(item)))


def _content(item: Value) -> bytes:
    """Return what an object itself is, without the objects in it."""
    if is_seedable(item):
        return pickle.dumps(state_of(item))
    if isinstance(item, np.ndarray):
        return _content_of_array(item)
    if isinstance(item, dict):
        return repr(list(map(_key, item))).encode("utf-8", "surrogatepass")
    if isinstance(item, (set, frozenset)):
        return repr(sorted(map(repr, item))).encode()
    if isinstance(item, (bytearray, memoryview)):
        return bytes(item)
    # The parts of an object with slots are looked at one by one. A pickle of each of many objects
    # that refer to each other would hold all of them each time.
    if (
        hasattr(item, "__dict__")
        or attributes_of(item)
        or isinstance(item, (list, tuple, types.GeneratorType))
    ):
        return b""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pickle.dumps(item)
    except Exception:
        return b""  # nothing is known of it


def _content_of_array(array: Array) -> bytes:
    """Return what an array is, without the objects in it."""
    digest = hashlib.blake2b(f"{array.dtype!r} {array.shape}".encode(), digest_size=16)
    if isinstance(array, np.ma.MaskedArray):
        digest.update(np.ma.getmaskarray(array).tobytes())
    if array.dtype.kind == "T":
        # Its bytes are addresses.
        digest.update(repr(array.tolist()).encode("utf-8", "surrogatepass"))
    elif not array.dtype.hasobject:
        digest.update(array_bytes(np.asarray(array)))
    return digest.digest()


def _key(key: Value) -> Value:
    """Return a key of a dict, or the type of one that is no plain data."""
    if type(key) is tuple:
        return tuple(map(_key, key))
    return key if type(key) in PLAIN_TYPES else type(key)
