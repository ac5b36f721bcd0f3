"""Random generators anywhere in an object: deep in it, in long containers, in callable objects."""

from __future__ import annotations

import contextlib
import types
from collections import deque
from collections.abc import Container, Iterable, Iterator

import numpy as np

from trajrec.envstate.generators import is_seedable
from trajrec.types import Value
from trajrec.values.plain import PLAIN_TYPES

MAX_OBJECTS = 20_000
"""Objects that are searched; then the search ends. It takes 10 ms."""

TABLES = frozenset(
    ("P", "spec", "_cached_spec", "metadata", "_metadata", "_saved_kwargs", "model", "data")
)
"""Attributes of layers that hold no generators: tables and native simulators, which are large.
Another name here would change the order of the generators, and so the results of a seed."""

_CODE = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.ModuleType,
    type,
)


def hidden_generators(
    values: Iterable[Value], seen: set[int], *, without: Container[str] = ()
) -> Iterator[Value]:
    """Yield the generators in some objects, however deep, in a fixed order.

    Sets are left out, since their order is not fixed, and so are spaces, code, and the variables
    around it.

    Args:
        values: The objects.
        seen: Ids of the objects to skip; the objects that were searched are added.
        without: Names of attributes of `values` themselves to skip.
    """
    waiting = deque(
        item for value in values for name, item in attributes_of(value) if name not in without
    )
    n_left = MAX_OBJECTS
    while waiting and n_left:
        value = waiting.popleft()
        if type(value) in PLAIN_TYPES or id(value) in seen or isinstance(value, _CODE):
            continue
        seen.add(id(value))
        n_left -= 1
        if is_seedable(value):
            yield value
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple, deque)):
            waiting.extend(value)
        elif isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                waiting.extend(value.ravel().tolist())
        elif not hasattr(value, "sample"):
            waiting.extend(item for _, item in attributes_of(value))


def attributes_of(value: Value) -> list[tuple[str, Value]]:
    """Return the attributes of an object by name, those in slots too; no code of it runs."""
    named = dict(getattr(value, "__dict__", {}))
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            member = cls.__dict__.get(name)
            if isinstance(member, types.MemberDescriptorType):
                # Not asked with hasattr: a slot without a value may hide a name of the class.
                with contextlib.suppress(AttributeError):
                    named[name] = member.__get__(value)
    return sorted(named.items(), key=lambda item: str(item[0]))
