"""The state of an environment's random generators, which makes an unseeded reset repeatable."""

from __future__ import annotations

import random
import sys
import types
from collections.abc import Callable, Container, Hashable, Iterable, Iterator

import numpy as np

from trajrec.envstate.ale import StickyGenerator
from trajrec.envstate.pettingzoo import api_of
from trajrec.protocols import StateAdapter
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.plain import IMMUTABLE_TYPES

GeneratorPath = tuple[Hashable, ...]
"""Attributes, keys and positions that lead from an object to a generator in it."""

_GENERATOR_TYPES = (
    np.random.Generator,
    np.random.RandomState,
    random.Random,
    np.random.BitGenerator,
)

SEARCH_DEPTH = 4
"""Levels that are searched in PettingZoo's environments. Without a bound, one reference to a module
or to a large game would have everything in the process searched at every reset."""

_SEARCH_ITEMS = 64
"""Longer containers hold data, not generators, so they are not searched."""

_LEAF_TYPES = IMMUTABLE_TYPES | {np.ndarray}

# By name: older releases of NumPy lack some of them.
_BIT_GENERATORS = {
    name: getattr(np.random, name)
    for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
    if hasattr(np.random, name)
}


def generator_state(bare: Value, adapter: StateAdapter | None) -> bytes | None:
    """Return the encoded state of an environment's generators, or None if it has none to be seen.

    Args:
        bare: The unwrapped environment.
        adapter: Its state adapter, which may have a further generator.
    """
    if api_of(bare) is not None:
        # PettingZoo has no attribute of its own for a generator, so all attributes are searched.
        nested = [
            [list(path), state_of(generator)] for path, generator in nested_generators(bare, set())
        ]
        return codec.encode({"nested": nested}, opaque=True) if nested else None
    # Not `np_random`: reading that property makes a generator from OS entropy if there is none.
    # Not `vars`: it turns an object's inline attributes into a dict, and each later step of the
    # environment gets slower (0.9 us on CartPole).
    generator = getattr(bare, "_np_random", None)
    if not isinstance(generator, np.random.Generator):
        return None
    state: dict[str, Value] = {"np_random": generator.bit_generator.state}
    if adapter is not None and adapter.generator is not None:
        state["native"] = adapter.generator()
    return codec.encode(state)


def restore_generator(bare: Value, adapter: StateAdapter | None, data: bytes) -> None:
    """Set an environment's generators to the state that `generator_state` returned.

    Raises:
        ValueError: NumPy does not have the kind of generator, or no adapter has a native one.
        LookupError: The environment has no generator at a recorded path; it may have one after a
            reset.
    """
    state = codec.decode(data)
    if "nested" in state:
        for path, nested_state in state["nested"]:
            put_state(_generator_at(bare, path), nested_state)
        return
    recorded = state["np_random"]
    kind = _BIT_GENERATORS.get(recorded["bit_generator"])
    if kind is None:
        raise ValueError(
            f"this NumPy has no bit generator {recorded['bit_generator']!r}, which the log names"
        )
    generator = getattr(bare, "_np_random", None)
    if generator is None or type(generator.bit_generator) is not kind:
        generator = bare._np_random = np.random.Generator(kind(0))
    generator.bit_generator.state = recorded
    if "native" in state:
        if adapter is None or adapter.set_generator is None:
            raise ValueError(
                "the log holds the state of a native generator, and no adapter here can set it"
            )
        adapter.set_generator(state["native"])


def nested_generators(
    value: Value, seen: set[int], *, without: Container[str] = (), depth: int = SEARCH_DEPTH
) -> Iterator[tuple[GeneratorPath, Value]]:
    """Yield the generators in an object, each with its path, in a fixed order.

    Objects and containers in it are searched too, but not spaces.

    Args:
        value: The object.
        seen: Ids of the objects to skip; the objects that were searched are added.
        without: Names of attributes of `value` to skip.
        depth: Levels to search below the attributes of `value` themselves.
    """
    seen.add(id(value))
    for name, item in sorted(vars(value).items()):
        # Most attributes are plain, and asking `_search` for them would take most of the time.
        if type(item) not in _LEAF_TYPES and name not in without:
            yield from _search(item, (name,), seen, depth)


def is_seedable(value: Value) -> bool:
    """Return whether a value is a generator with a state; that of the system has none."""
    # By the type: `isinstance` reads `__class__`, which is code of objects that warn of their use.
    return is_generator_class(type(value))


def is_generator_class(cls: type) -> bool:
    """Return whether objects of a class are generators with a state."""
    if issubclass(cls, _GENERATOR_TYPES):
        return not issubclass(cls, random.SystemRandom)
    # By name: nothing here imports PyTorch.
    return cls.__name__ == "Generator" and module_of(cls) == "torch._C"


def module_of(owner: Value) -> str:
    """Return the module of a class or function; "" for classes of SWIG, which have none."""
    return getattr(owner, "__module__", None) or ""


def _is_torch(generator: Value) -> bool:
    return module_of(type(generator)) == "torch._C"


def _search(
    value: Value, path: GeneratorPath, seen: set[int], depth: int
) -> Iterator[tuple[GeneratorPath, Value]]:
    if type(value) in _LEAF_TYPES or id(value) in seen:
        return
    if is_seedable(value):
        seen.add(id(value))
        yield path, value
    elif not depth:
        return
    elif type(value) in (list, tuple, dict):
        if len(value) <= _SEARCH_ITEMS:
            seen.add(id(value))
            for key, item in value.items() if type(value) is dict else enumerate(value):
                yield from _search(item, (*path, key), seen, depth - 1)
    elif hasattr(value, "__dict__") and not callable(value) and not hasattr(value, "sample"):
        seen.add(id(value))
        # A module holds the things of a whole library: only its own generators count.
        depth_below = 0 if issubclass(type(value), types.ModuleType) else depth - 1
        for name, item in sorted(vars(value).items()):
            yield from _search(item, (*path, name), seen, depth_below)


def state_of(generator: Value) -> Value:
    """Return a generator's state."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    if isinstance(generator, StickyGenerator):
        return generator.state()
    if isinstance(generator, np.random.BitGenerator):
        return generator.state
    if _is_torch(generator):
        return bytes(generator.get_state().numpy())
    return generator.bit_generator.state


def put_state(generator: Value, state: Value) -> None:
    """Set a generator to a state that `state_of` returned."""
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    elif isinstance(generator, StickyGenerator):
        generator.put(state)
    elif isinstance(generator, np.random.BitGenerator):
        generator.state = state
    elif _is_torch(generator):
        torch = sys.modules["torch"]
        generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    else:
        generator.bit_generator.state = state


def setter_of(generator: Value) -> Callable[[int], None]:
    """Return a function that sets a generator to the state that a 128-bit number names."""
    if isinstance(generator, (StickyGenerator, random.Random)):
        return generator.seed
    if isinstance(generator, np.random.RandomState):
        return lambda number: generator.seed(number & 0xFFFFFFFF)  # it takes 32 bits at most
    if _is_torch(generator):
        return lambda number: generator.manual_seed(number & 0x7FFFFFFFFFFFFFFF)
    is_bare = isinstance(generator, np.random.BitGenerator)
    bits = generator if is_bare else generator.bit_generator
    kind = type(bits)
    if kind in (np.random.PCG64, np.random.PCG64DXSM):
        # Every 128-bit number is a state of these generators, so nothing has to be expanded:
        # 2 us instead of the 38 us of a SeedSequence, for each step of each rollout.
        inner = {"state": 0, "inc": 0xDA3E39CB94B95BDB5851F42D4C957F2D | 1}
        state = {"bit_generator": kind.__name__, "state": inner, "has_uint32": 0, "uinteger": 0}

        def put(number: int) -> None:
            inner["state"] = number
            bits.state = state

        return put

    def expand(number: int) -> None:
        bits.state = kind(number).state

    return expand


def _generator_at(value: Value, path: Iterable[Value]) -> Value:
    """Return the generator at a path.

    Raises:
        LookupError: The path leads nowhere, or to no generator.
    """
    for key in path:
        try:
            value = value[key] if type(value) in (list, tuple, dict) else vars(value)[key]
        except TypeError as exc:
            raise LookupError(f"{type(value).__qualname__} has no item {key!r}") from exc
    if not is_seedable(value):
        raise LookupError(f"{'/'.join(map(str, path))} is no generator")
    return value
