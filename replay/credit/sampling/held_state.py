"""What a policy holds beside its methods for memory: attributes, and variables outside of it."""

from __future__ import annotations

import copy
import warnings
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from trajrec.envstate.generators import nested_generators
from trajrec.envstate.outer_state import digest_all, outer_generators
from trajrec.envstate.outer_variables import outer_variables
from trajrec.replay.credit.sampling.policy_state import (
    NOT_SEARCHED,
    SEARCH_DEPTH,
    WITHOUT_STATE,
    is_large,
    owner_of,
)
from trajrec.types import Value


class _Held(NamedTuple):
    """One attribute or variable: its name, value, and a function that sets it."""

    name: str
    value: Value
    put: Callable[[Value], None]


class HeldState:
    """What a policy holds when this is made. It can be compared and put back.

    Networks and large arrays are left out: a rollout does not change them, and copies could fill
    the memory. So are generators, which a scenario sets.

    Args:
        policy: The policy.
    """

    def __init__(self, policy: Value) -> None:
        self._policy = policy
        self._held = _held_by(policy)
        self._digests = self._digests_now()
        self._copies: dict[str, Value] = {}
        try:
            self._copies = _copied({held.name: held.value for held in self._held})
        except Exception:
            for held in self._held:
                try:
                    self._copies[held.name] = _copied(held.value)
                except Exception:
                    continue  # it cannot be put back

    def changed(self) -> list[str]:
        """Return the names of the attributes and variables that have changed since."""
        digests = self._digests_now()
        names = [*self._digests, *(name for name in digests if name not in self._digests)]
        return [name for name in names if digests.get(name) != self._digests.get(name)]

    def put_back(self) -> bool:
        """Put back what has changed; return whether all of it could be."""
        changed = set(self.changed())
        copies = _copied({name: self._copies[name] for name in changed & set(self._copies)})
        for held in self._held:
            if held.name in copies:
                held.put(_with_content(held.value, copies[held.name]))
        return not self.changed()

    def _digests_now(self) -> dict[str, bytes]:
        owner = owner_of(self._policy)
        generators = (
            [g for _, g in nested_generators(owner, set(), depth=SEARCH_DEPTH)]
            if (hasattr(owner, "__dict__"))
            else []
        )
        generators += outer_generators([self._policy, owner], set(map(id, generators)))
        left_out = {id(owner), *map(id, generators)}
        return digest_all(((held.name, held.value) for held in _held_by(self._policy)), left_out)


def _held_by(policy: Value) -> list[_Held]:
    owner = owner_of(policy)
    if isinstance(owner, WITHOUT_STATE):
        return []
    variables = outer_variables([owner] if owner is policy else [policy, owner])
    held = [_Held(name, value, put) for name, value, put in variables]
    attributes = {} if isinstance(owner, type) else getattr(owner, "__dict__", {})
    for name, value in list(attributes.items()):
        if name not in NOT_SEARCHED:
            held.append(_Held(f"attribute {name}", value, _putter(attributes, name)))
    return [one for one in held if not is_large(one.value)]


def _copied(value: Value) -> Value:
    with warnings.catch_warnings():
        # Copies of iterators of itertools are deprecated: later versions of Python refuse them.
        warnings.simplefilter("ignore")
        # The copy of a recorder is none: it cannot take its place.
        warnings.filterwarnings("error", message="a copy of a recorded environment")
        return copy.deepcopy(value)


def _putter(attributes: dict[str, Value], name: str) -> Callable[[Value], None]:
    return lambda value: attributes.__setitem__(name, value)


def _with_content(value: Value, copied: Value) -> Value:
    """Return the object itself with the content of a copy, if it can take it; else the copy."""
    kind = type(value)
    if kind is not type(copied):
        return copied
    if kind in (list, deque, bytearray):
        value.clear()
        value.extend(copied)
    elif isinstance(value, (dict, set)):
        value.clear()
        value.update(copied)
    elif kind is np.ndarray and value.shape == copied.shape and value.flags.writeable:
        value[...] = copied
    elif hasattr(value, "__dict__") and not callable(value):
        value.__dict__.clear()
        value.__dict__.update(copied.__dict__)
    else:
        return copied
    return value
