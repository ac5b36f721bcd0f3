"""Seed the generators of an environment anew, for a fork that has randomness of its own."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from trajrec.envstate.ale import sticky_generator
from trajrec.envstate.generators import SEARCH_DEPTH, nested_generators, setter_of
from trajrec.envstate.hidden_generators import TABLES, hidden_generators
from trajrec.envstate.outer_state import outer_generators
from trajrec.envstate.pettingzoo import api_of, layers
from trajrec.types import AnyEnv, Value

EVERYWHERE = "*"
"""The end of a key from which generators in nested objects were seeded too."""

OUTSIDE = "**"
"""The end of a key from which generators in variables outside of the environment were seeded too."""


class Reseeded(NamedTuple):
    """What `reseed_fresh` has seeded.

    Attributes:
        key: The key for `reseed`; "" if the environment has no generator.
        generators: The generators, in a fixed order.
    """

    key: str
    generators: list[Value]


def reseed_fresh(env: AnyEnv, key: str) -> Reseeded:
    """Seed every generator of an environment, wherever it lies.

    Args:
        env: The environment, with its wrappers.
        key: Source of the randomness.

    Raises:
        SnapshotError: ALE's generator cannot be set.
    """
    found = _find(env, with_hidden=True, with_outside=True)
    generators = _seed_all(found, key)
    if found.outside:
        key += OUTSIDE
    elif found.hidden:
        key += EVERYWHERE
    return Reseeded(key if generators else "", generators)


def reseed(env: AnyEnv, key: str) -> int:
    """Seed the generators of an environment and its wrappers, each from the key and its own path.

    Args:
        env: The environment, with its wrappers.
        key: Source of the randomness, as `reseed_fresh` gave it. If it ends with `EVERYWHERE`,
            generators in nested objects are seeded too; in PettingZoo's environments some of them
            are in any case. If it ends with `OUTSIDE`, so are those in variables of modules,
            classes and closures, and those of `random` and `numpy.random`, if its code uses them.

    Returns:
        The number of generators. ALE's generator of sticky actions is counted; generators of
        spaces and of other native simulators are neither seeded nor counted.

    Raises:
        SnapshotError: ALE's generator cannot be set.
    """
    found = _find(env, with_hidden=key.endswith(EVERYWHERE), with_outside=key.endswith(OUTSIDE))
    return len(_seed_all(found, key.removesuffix(OUTSIDE).removesuffix(EVERYWHERE)))


class _Found(NamedTuple):
    """The generators of an environment.

    Attributes:
        by_path: Those of each layer with its number and their paths in it.
        sticky: That of ALE's sticky actions, if there is one.
        hidden: Those that lie deep in objects of the layers, in a fixed order.
        outside: Those in variables outside of the layers, in a fixed order.
    """

    by_path: list[tuple[str, Value]]
    sticky: Value
    hidden: list[Value]
    outside: list[Value]


def _find(env: AnyEnv, *, with_hidden: bool, with_outside: bool) -> _Found:
    """Find the generators of an environment: a search outside of it takes up to 10 ms."""
    all_layers = list(layers(env))
    seen = set(map(id, all_layers))
    by_path = []
    for number, layer in enumerate(all_layers):
        depth = 0 if api_of(layer) is None else SEARCH_DEPTH
        for path, generator in nested_generators(layer, seen, depth=depth):
            by_path.append((f"{number}/{'/'.join(map(str, path))}", generator))
    known = {*map(id, all_layers), *(id(generator) for _, generator in by_path)}
    hidden = []
    if with_hidden:
        hidden = list(hidden_generators(all_layers, set(known), without=TABLES))
        known |= set(map(id, hidden))
    outside = list(outer_generators(all_layers, known)) if with_outside else []
    return _Found(by_path, sticky_generator(env), hidden, outside)


def _seed_all(found: _Found, key: str) -> list[Value]:
    """Seed generators, each from the key and its own path; return them."""
    named = list(found.by_path)
    if found.sticky is not None:
        named.append(("sticky", found.sticky))
    named += [(f"hidden/{number}", one) for number, one in enumerate(found.hidden)]
    named += [(f"outside/{number}", one) for number, one in enumerate(found.outside)]
    for name, generator in named:
        _seed(generator, _key_number(f"{key}/{name}"))
    return [generator for _, generator in named]


def _key_number(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=16).digest(), "little")


def _seed(generator: Value, seed: int) -> None:
    if isinstance(generator, np.random.Generator):
        # Not by `setter_of`: the results of a key would be other ones.
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    else:
        setter_of(generator)(seed)
