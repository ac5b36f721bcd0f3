"""Noise of an environment that no key sets: what is known of it, and what it holds."""

from __future__ import annotations

import functools
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator

from trajrec.envstate.contents import attributes_of, parts_of
from trajrec.envstate.generators import module_of
from trajrec.envstate.hidden_generators import MAX_OBJECTS, TABLES
from trajrec.envstate.pettingzoo import layers
from trajrec.types import AnyEnv, Value
from trajrec.values.plain import PLAIN_TYPES

_KNOWN = frozenset(("gymnasium", "minigrid", "ale_py", "pettingzoo", "trajrec"))
"""Packages whose environments draw from generators that are found, and from no others."""

_JAX_ENVS = tuple(f"gymnasium.envs.{name}." for name in ("functional_jax_env", "phys2d", "tabular"))
"""Modules of Gymnasium whose environments draw from keys of JAX."""

_HOLDERS = ("gymnasium.wrappers.", "trajrec.envs.")
"""Modules whose classes are given functions or worlds of anybody."""

_NOISELESS = TABLES | {"check"}
"""Attributes of holders in which no noise is looked for: a check is a question about a state."""

_PLAIN_PACKAGES = sys.stdlib_module_names | _KNOWN | {"numpy"}


def has_known_noise(env: AnyEnv) -> bool:
    """Return whether all noise of an environment is that of packages whose noise is known."""
    all_layers = list(layers(env))
    seen = set(map(id, all_layers))
    return all(_has_known_noise(layer, seen) for layer in all_layers)


def _has_known_noise(layer: Value, seen: set[int]) -> bool:
    module = f"{module_of(type(layer))}."
    if module.partition(".")[0] not in _KNOWN or module.startswith(_JAX_ENVS):
        return False
    if not module.startswith(_HOLDERS):
        return True
    held = [value for name, value in attributes_of(layer) if name not in _NOISELESS]
    return all(_package_of(item) in _PLAIN_PACKAGES for item in _all_in(held, set(seen)))


def _package_of(item: Value) -> str:
    """Return the package of a function, or of an object's class."""
    if isinstance(item, functools.partial):
        item = item.func
    owner = item if isinstance(item, (types.FunctionType, types.MethodType)) else type(item)
    return module_of(owner).partition(".")[0]


def held_key(env: AnyEnv) -> str:
    """Return the attribute of an environment that holds a key of JAX, in words; "" if none does.

    Keys are values: no one can set them from outside, and each draw from one gives the same numbers.
    """
    for layer in layers(env):
        for name, value in attributes_of(layer):
            if name not in TABLES and any(map(_is_key, _all_in([value], set()))):
                return f"attribute {name} of {type(layer).__qualname__}"
    return ""


def _all_in(values: Iterable[Value], seen: set[int]) -> Iterator[Value]:
    """Yield some values that are no plain ones, and what they hold, up to `MAX_OBJECTS`."""
    waiting = deque(values)
    n_left = MAX_OBJECTS
    while waiting and n_left:
        item = waiting.popleft()
        if type(item) in PLAIN_TYPES or id(item) in seen or isinstance(item, types.ModuleType):
            continue
        seen.add(id(item))
        n_left -= 1
        yield item
        if not hasattr(item, "sample"):
            waiting.extend(parts_of(item))


def _is_key(value: Value) -> bool:
    if module_of(type(value)).partition(".")[0] not in ("jax", "jaxlib"):
        return False
    kind = str(getattr(value, "dtype", ""))
    # JAX makes no other arrays of this kind by itself.
    is_raw = kind == "uint32" and getattr(value, "shape", None) == (2,)
    return is_raw or kind.startswith("key<")
