"""Seed the generators of an environment anew, for a fork that has randomness of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from trajrec.envstate.ale import sticky_generator
from trajrec.envstate.generators import SEARCH_DEPTH, nested_generators
from trajrec.envstate.hidden_generators import TABLES, hidden_generators
from trajrec.envstate.outer_state import outer_generators
from trajrec.envstate.pettingzoo import api_of, layers
from trajrec.types import AnyEnv, Value

EVERYWHERE = "*"
"""The end of a key from which generators in nested objects were seeded too."""

OUTSIDE = "**"
"""The end of a key from which generators in variables outside of the environment were seeded too."""


def reseed_fresh(env: AnyEnv, key: str) -> str:
    """Seed every generator of an environment, wherever it lies; return the key for `reseed`.

    Args:
        env: The environment, with its wrappers.
        key: Source of the randomness.

    Returns:
        The key; "" if the environment has no generator.

    Raises:
        SnapshotError: ALE's generator cannot be set.
    """
    all_layers = list(layers(env))
    hidden = _hidden(all_layers)
    if _outside(all_layers, hidden):
        key += OUTSIDE
    elif hidden:
        key += EVERYWHERE
    return key if reseed(env, key) else ""


def reseed(env: AnyEnv, key: str) -> int:
    """Seed the generators of an environment and its wrappers, each from the key and its own path.

    Args:
        env: The environment, with its wrappers.
        key: Source of the randomness, as `reseed_fresh` returned it. If it ends with `EVERYWHERE`,
            generators in nested objects are seeded too; in PettingZoo's environments some of them
            are in any case. If it ends with `OUTSIDE`, so are those in variables of modules,
            classes and closures, and those of `random` and `numpy.random`, if its code uses them.

    Returns:
        The number of generators. ALE's generator of sticky actions is counted; generators of
        spaces and of other native simulators are neither seeded nor counted.

    Raises:
        SnapshotError: ALE's generator cannot be set.
    """
    is_outside = key.endswith(OUTSIDE)
    is_everywhere = key.endswith(EVERYWHERE)
    key = key.removesuffix(OUTSIDE).removesuffix(EVERYWHERE)
    n_generators = 0
    all_layers = list(layers(env))
    seen = set(map(id, all_layers))
    for number, layer in enumerate(all_layers):
        depth = 0 if api_of(layer) is None else SEARCH_DEPTH
        for path, generator in nested_generators(layer, seen, depth=depth):
            name = "/".join(map(str, path))
            _seed(generator, _key_number(f"{key}/{number}/{name}"))
            n_generators += 1
    if (sticky := sticky_generator(env)) is not None:
        _seed(sticky, _key_number(f"{key}/sticky"))
        n_generators += 1
    if is_everywhere:
        hidden = _hidden(all_layers)
        outside = _outside(all_layers, hidden) if is_outside else []
        for name, generators in (("hidden", hidden), ("outside", outside)):
            for number, generator in enumerate(generators):
                _seed(generator, _key_number(f"{key}/{name}/{number}"))
                n_generators += 1
    return n_generators


def _hidden(all_layers: Sequence[Value]) -> list[Value]:
    """Return the generators that lie in objects of the layers, in a fixed order."""
    return list(hidden_generators(all_layers, _seen_by_path(all_layers), without=TABLES))


def _outside(all_layers: Sequence[Value], hidden: Sequence[Value]) -> list[Value]:
    """Return the generators in variables outside of the layers, in a fixed order."""
    seen = _seen_by_path(all_layers) | set(map(id, hidden))
    return list(outer_generators(all_layers, seen))


def _seen_by_path(all_layers: Sequence[Value]) -> set[int]:
    """Return the ids of the layers, and of the generators that are seeded by their paths."""
    seen = set(map(id, all_layers))
    for layer in all_layers:
        depth = 0 if api_of(layer) is None else SEARCH_DEPTH
        own = [generator for _, generator in nested_generators(layer, set(seen), depth=depth)]
        seen |= set(map(id, own))
    return seen


def _key_number(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=16).digest(), "little")


def _seed(generator: Value, seed: int) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    elif isinstance(generator, np.random.RandomState):
        # A RandomState takes seeds of 32 bits.
        generator.seed(seed & 0xFFFFFFFF)
    else:
        generator.seed(seed)
