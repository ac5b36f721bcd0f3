"""Noise of an environment that no key sets: what is known of it, and what it holds."""

from __future__ import annotations

import types
from collections import deque

from trajrec.envstate.contents import attributes_of, parts_of
from trajrec.envstate.generators import module_of
from trajrec.envstate.hidden_generators import MAX_OBJECTS, TABLES
from trajrec.envstate.pettingzoo import layers
from trajrec.types import AnyEnv, Value
from trajrec.values.plain import PLAIN_TYPES

_KNOWN = frozenset(("gymnasium", "minigrid", "ale_py", "pettingzoo", "trajrec"))
"""Packages whose environments draw from generators that are found, and from no others."""


def has_known_noise(env: AnyEnv) -> bool:
    """Return whether all layers of an environment come from packages whose noise is known."""
    return all(module_of(type(layer)).partition(".")[0] in _KNOWN for layer in layers(env))


def held_key(env: AnyEnv) -> str:
    """Return the attribute of an environment that holds a key of JAX, in words; "" if none does.

    Keys are values: no one can set them from outside, and each draw from one gives the same numbers.
    """
    for layer in layers(env):
        for name, value in attributes_of(layer):
            if name not in TABLES and _has_key(value):
                return f"attribute {name} of {type(layer).__qualname__}"
    return ""


def _has_key(value: Value) -> bool:
    waiting = deque([value])
    seen: set[int] = set()
    while waiting and len(seen) < MAX_OBJECTS:
        item = waiting.popleft()
        if type(item) in PLAIN_TYPES or id(item) in seen or isinstance(item, types.ModuleType):
            continue
        seen.add(id(item))
        if _is_key(item):
            return True
        if not hasattr(item, "sample"):
            waiting.extend(parts_of(item))
    return False


def _is_key(value: Value) -> bool:
    if module_of(type(value)).partition(".")[0] not in ("jax", "jaxlib"):
        return False
    kind = str(getattr(value, "dtype", ""))
    # JAX makes no other arrays of this kind by itself.
    is_raw = kind == "uint32" and getattr(value, "shape", None) == (2,)
    return is_raw or kind.startswith("key<")
