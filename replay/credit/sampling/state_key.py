"""Keys of an environment's full state, by which rollouts of one scenario are merged."""

from __future__ import annotations

import dis
import functools
import struct
import types
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import numpy as np

from trajrec.envstate.attributes import CONSTRUCTION_ATTRIBUTES, layers_with_attributes
from trajrec.envstate.generators import module_of
from trajrec.protocols import SandboxedEnv
from trajrec.replay.credit.sampling.unchanged import Witness
from trajrec.replay.execute.handle import EnvHandle
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.arrays import PADDED
from trajrec.values.plain import PLAIN_TYPES

_COMPLETE_ADAPTERS = frozenset(("toy_text", "blackjack", "classic_control", "minigrid"))
"""Adapters that capture everything on which the next step depends, except the generators. The own
`get_state` of an environment may leave out anything."""

_ADAPTED_PACKAGES = ("gymnasium", "minigrid")
"""Packages of the environments that these adapters are made for."""

_STATELESS_CALLABLES = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    np.ufunc,
    type,
)
"""Types of callable values that stand for code. An object with a method `__call__` may have state."""

_DISTINCT_TYPES = frozenset((int, str, bytes, type(None)))
"""Plain types whose values equal no values of other types; bools and floats may equal integers."""

_ARE_PLAIN = PLAIN_TYPES.issuperset

_CONSTANT_ATTRIBUTES = CONSTRUCTION_ATTRIBUTES | {"env"}
"""Attributes of layers that never change; `env` is the next layer, which has its own key."""


_SHORT_BYTES = 256
"""Arrays up to this size are not worth a look at whether they have changed."""

_SHORT_LENGTH = 16
"""Longer lists and tuples are encoded: the hash of bytes is computed once, that of a tuple each time
that it is looked up."""


class StateKey:
    """Computes the key of an environment with its wrappers; None once it holds an unknown object.

    Args:
        handle: The environment.
        generator_ids: The `id` of each generator. Generators are left out: a scenario sets them at
            each step.
        own_state: Whether the environment's own `get_state` says what its state is. It may leave
            out anything, so rollouts are not merged by it alone.
    """

    def __init__(self, handle: EnvHandle, generator_ids: set[int], *, own_state: bool) -> None:
        *self._wrappers, self._bare = layers_with_attributes(handle.env)
        # Layers have keys of their own, in whichever attributes other objects hold them.
        self._left_out = generator_ids | {id(layer) for layer in (*self._wrappers, self._bare)}
        adapter = handle.native
        is_complete = adapter is not None and adapter.name in _COMPLETE_ADAPTERS
        has_own = adapter is not None and adapter.name == "get_state"
        self._capture = (
            adapter.capture if adapter is not None and (is_complete or has_own) else None
        )
        self._is_complete = is_complete or (has_own and own_state)
        # An adapter knows nothing of the attributes that a class of the user's own adds.
        cls: Any = type(self._bare)
        self._inherited = _inherited_names(cls) if is_complete else None
        # The Python attributes of an environment whose state lies outside say nothing of its state.
        self._is_known = is_complete or has_own or not isinstance(self._bare, SandboxedEnv)
        # Class -> whether its objects are functions or spaces. A cache, since a key is computed at
        # each step and these questions look up attributes.
        self._is_function_or_space: dict[type, bool] = {}
        # For each layer, by attribute: the value of the step before with its key.
        self._wrapper_witnesses: list[dict[str, Witness]] = [{} for _ in self._wrappers]
        self._bare_witnesses: dict[str, Witness] = {}

    def __call__(self) -> Hashable | None:
        """Return the key of the current state."""
        if not self._is_known:
            return None
        try:
            keys = [
                self._attributes_key(wrapper.__dict__.items(), witnesses)
                for wrapper, witnesses in zip(self._wrappers, self._wrapper_witnesses, strict=True)
            ]
            keys.append(self._bare_key())
            return tuple(keys)
        except (TypeError, ValueError):
            self._is_known = False
            return None

    def _bare_key(self) -> Hashable:
        attributes = self._bare.__dict__
        if self._capture is None:
            return self._attributes_key(attributes.items(), self._bare_witnesses)
        try:
            state = self._capture()
        except Exception as exc:
            # The recorder too goes without a state that an own `get_state` does not return.
            raise ValueError(str(exc)) from exc
        if not self._is_complete:
            own = self._attributes_key(attributes.items(), self._bare_witnesses)
            return _hashable(state), own
        inherited = self._inherited
        added: Hashable = ()
        if inherited is not None:
            items = ((name, value) for name, value in attributes.items() if name not in inherited)
            added = self._attributes_key(items, self._bare_witnesses)
        # Taxi draws at the reset whether its passenger changes their mind, and CartPole counts the
        # steps after the end: neither is part of the captured state.
        return (
            _hashable(state),
            attributes.get("fickle_step"),
            attributes.get("steps_beyond_terminated"),
            added,
        )

    def _attributes_key(
        self, attributes: Iterable[tuple[str, Value]], witnesses: dict[str, Witness]
    ) -> Hashable:
        values: list[Hashable] = []
        for name, value in attributes:
            kind = type(value)
            if kind in PLAIN_TYPES:
                values.append(value if kind in _DISTINCT_TYPES else _distinct(value))
            elif name not in _CONSTANT_ATTRIBUTES and id(value) not in self._left_out:
                is_left_out = self._is_function_or_space.get(kind)
                if is_left_out is None:
                    is_space = hasattr(value, "sample") and hasattr(value, "contains")
                    is_left_out = is_space or isinstance(value, _STATELESS_CALLABLES)
                    self._is_function_or_space[kind] = is_left_out
                if not is_left_out:
                    witness = witnesses.get(name)
                    if witness is not None and witness.holds(value):
                        values.append(witness.key)
                    else:
                        values.append(_key_of_attribute(name, value, witnesses))
        return tuple(values)


@functools.lru_cache(maxsize=32)
def _inherited_names(cls: type) -> frozenset[str] | None:
    """Return the attributes that the adapted classes set which a class of the user's own extends.

    None for a class of such a package itself. An attribute by another name is the user's own.
    """
    if _is_adapted(cls):
        return None
    names: set[str] = set()
    for base in filter(_is_adapted, cls.__mro__):
        for item in vars(base).values():
            function = getattr(item, "fget", None) or getattr(item, "__func__", item)
            names.update(_names_set_in(getattr(function, "__code__", None)))
    return frozenset(names)


def _is_adapted(cls: type) -> bool:
    return module_of(cls).partition(".")[0] in _ADAPTED_PACKAGES


def _names_set_in(code: types.CodeType | None) -> Iterator[str]:
    if code is not None:
        # What the code reads may be an attribute of anything, such as `n` of a space.
        for operation in dis.get_instructions(code):
            if operation.opname == "STORE_ATTR":
                yield operation.argval
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                yield from _names_set_in(constant)


def _key_of_attribute(name: str, value: Value, witnesses: dict[str, Witness]) -> Hashable:
    """Return the key of an attribute, and remember it if that saves time in later steps."""
    key = _hashable(value)
    is_large = type(value) is np.ndarray and value.nbytes > _SHORT_BYTES
    if type(key) is tuple and not is_large:
        # It was as fast to compute as a look at the value is.
        return key
    before = witnesses.get(name)
    if before is not None and before.key == key:
        # The same object: its hash is known, and it equals itself at once.
        key = before.key
    witness = witnesses[name] = Witness(value, key)
    # Copies are made of values that stay, not of those that each step makes anew. A rollout begins
    # with new objects in the place of those that stayed in the one before.
    if before is not None and (before.value is value or before.is_watching):
        witness.watch()
    return key


def _distinct(value: Value) -> Hashable:
    """Return a plain value, or what stands for it if Python takes it for another one."""
    kind = type(value)
    if kind in _DISTINCT_TYPES:
        plain: Hashable = value
        return plain
    if kind is float and (value == 0.0 or value != value):
        # 0.0 and -0.0 are equal, and NaN is not equal to itself.
        return kind, struct.pack("<d", value)
    return kind, value


def _hashable(value: Value) -> Hashable:
    """Return a hashable value that equals another one only if the original values are the same.

    Raises:
        ValueError: The value holds an object of a class that cannot be encoded.
    """
    kind = type(value)
    # The short ways first: most values are plain or arrays, and need no encoder.
    if kind in PLAIN_TYPES:
        return _distinct(value)
    if kind is tuple and len(value) <= _SHORT_LENGTH and _ARE_PLAIN(map(type, value)):
        return tuple(map(_distinct, value))
    if kind is list and len(value) <= _SHORT_LENGTH and _ARE_PLAIN(map(type, value)):
        # The type tells it from a tuple of the same items.
        return list, *map(_distinct, value)
    # Not of records and long doubles, whose padding is anything, nor of texts of any length, which
    # are addresses.
    if kind is np.ndarray and value.dtype.kind in "biufcmMSU" and value.dtype.char not in PADDED:
        return value.dtype.str, value.shape, value.tobytes()
    try:
        return codec.encode(value, canonical=True)
    except Exception as exc:
        raise ValueError(str(exc)) from exc
