"""The state of an environment's random generators: what makes an unseeded reset repeatable."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Container, Iterator
from typing import Any

import numpy as np

from trajrec.envstate.ale import StickyGenerator, sticky_generator
from trajrec.envstate.pettingzoo import api_of, layers
from trajrec.protocols import StateAdapter
from trajrec.values import codec

Path = tuple[Any, ...]
"""Attributes, keys and positions that lead from an object to a generator that it holds."""

DEPTH = 4
"""How deep within an environment generators are looked for."""

_LARGE = 64
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
_ATOMS = frozenset((int, float, bool, str, bytes, type(None), np.ndarray))

_BIT_GENERATORS = {
    name: getattr(np.random, name)
    for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
    if hasattr(np.random, name)
}


def generator_state(bare: Any, adapter: StateAdapter | None) -> bytes | None:
    """Return the encoded state of an environment's generators before a reset, or None where they cannot be seen.

    Args:
        bare: The unwrapped environment.
        adapter: Its state adapter, which may know of further generators.
    """
    if api_of(bare) is not None:
        # PettingZoo has no place of its own for a generator: wherever they are, in the environment or in what it holds.
        found = [
            [list(path), state_of(generator)] for path, generator in nested_generators(bare, set())
        ]
        return codec.encode({"nested": found}, opaque=True) if found else None
    # Not `np_random`: reading that property of an environment without a generator makes one out of OS entropy.
    # Nor `vars`: it turns an object's inline attributes into a dict, and each step of it gets slower (0.9 us on CartPole).
    generator = getattr(bare, "_np_random", None)
    if not isinstance(generator, np.random.Generator):
        return None
    state: dict[str, Any] = {"np_random": generator.bit_generator.state}
    if adapter is not None and adapter.generator is not None:
        state["native"] = adapter.generator()
    return codec.encode(state)


def nested_generators(
    value: Any, seen: set[int], *, without: Container[str] = (), depth: int = DEPTH
) -> Iterator[tuple[Path, Any]]:
    """Yield the generators that an object holds, also within objects and containers, with what leads to each, in a fixed order.
    Those of spaces are not among them.

    Args:
        value: The object.
        seen: Ids of what is not to be looked at, or was already; added to.
        without: Attributes of the object that are not looked at.
        depth: How deep they may lie; with 0 only attributes of the object itself are.
    """
    seen.add(id(value))
    for name, item in sorted(vars(value).items()):
        if name not in without:
            yield from _look(item, (name,), seen, depth)


def _look(value: Any, path: Path, seen: set[int], depth: int) -> Iterator[tuple[Path, Any]]:
    if type(value) in _ATOMS or id(value) in seen:
        return
    if isinstance(value, _GENERATORS):
        seen.add(id(value))
        yield path, value
    elif not depth:
        return
    elif type(value) in (list, tuple, dict):
        if len(value) <= _LARGE:
            seen.add(id(value))
            for key, item in value.items() if type(value) is dict else enumerate(value):
                yield from _look(item, (*path, key), seen, depth - 1)
    elif hasattr(value, "__dict__") and not callable(value) and not hasattr(value, "sample"):
        seen.add(id(value))
        for name, item in sorted(vars(value).items()):
            yield from _look(item, (*path, name), seen, depth - 1)


def reseed(env: Any, key: str) -> int:
    """Seed every generator that an environment or a wrapper of it holds, each from the key and its own place; of PettingZoo's
    environments also those within what they hold.

    Args:
        env: The environment, with its wrappers.
        key: What the randomness is derived from.

    Returns:
        How many generators there are; that of ALE's sticky actions is among them, those of spaces and of other native
        simulators are not.

    Raises:
        SnapshotError: ALE's cannot be set.
    """
    found, all_layers = 0, list(layers(env))
    seen = set(map(id, all_layers))
    for place, layer in enumerate(all_layers):
        for path, generator in nested_generators(
            layer, seen, depth=0 if api_of(layer) is None else DEPTH
        ):
            name = "/".join(map(str, path))
            data = hashlib.blake2b(f"{key}/{place}/{name}".encode(), digest_size=16).digest()
            _seed(generator, int.from_bytes(data, "little"))
            found += 1
    if (sticky := sticky_generator(env)) is not None:
        data = hashlib.blake2b(f"{key}/sticky".encode(), digest_size=16).digest()
        _seed(sticky, int.from_bytes(data, "little"))
        found += 1
    return found


def state_of(generator: Any) -> Any:
    """Return a generator's state."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    if isinstance(generator, StickyGenerator):
        return generator.state()
    return generator.bit_generator.state


def _seed(generator: Any, seed: int) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    else:
        generator.seed(seed & 0xFFFFFFFF if isinstance(generator, np.random.RandomState) else seed)


def restore_generator(bare: Any, adapter: StateAdapter | None, data: bytes) -> None:
    """Give an environment's generators the state that `generator_state` returned.

    Raises:
        ValueError: The state is of a generator that is not known here, or the environment has no such generator.
        LookupError: It has none in that place now; it may have after a reset.
    """
    state = codec.decode(data)
    if "nested" in state:
        for path, wanted in state["nested"]:
            put_state(_at(bare, path), wanted)
        return
    wanted = state["np_random"]
    kind = _BIT_GENERATORS.get(wanted["bit_generator"])
    if kind is None:
        raise ValueError(f"the generator {wanted['bit_generator']!r} is not known")
    current = getattr(bare, "_np_random", None)
    if current is None or type(current.bit_generator) is not kind:
        current = bare._np_random = np.random.Generator(kind(0))
    current.bit_generator.state = wanted
    if "native" in state:
        if adapter is None or adapter.set_generator is None:
            raise ValueError(
                "the log holds the state of a native generator, and no adapter here can set it"
            )
        adapter.set_generator(state["native"])


def _at(value: Any, path: list[Any]) -> Any:
    """Return what a path leads to.

    Raises:
        LookupError: It leads nowhere.
    """
    for key in path:
        try:
            value = value[key] if type(value) in (list, tuple, dict) else vars(value)[key]
        except TypeError as exc:
            raise LookupError(f"there is nothing at {key!r} of {type(value).__qualname__}") from exc
    if not isinstance(value, _GENERATORS):
        raise LookupError(f"{'/'.join(map(str, path))} is no generator")
    return value


def put_state(generator: Any, state: Any) -> None:
    """Put a generator into a state that `state_of` returned."""
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    elif isinstance(generator, StickyGenerator):
        generator.put(state)
    else:
        generator.bit_generator.state = state
