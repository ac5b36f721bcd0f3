"""Random generators anywhere in an object: deep in it, in long containers, in callable objects."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Container, Iterable, Iterator

from trajrec.envstate.contents import attributes_of, parts_of
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
        elif not hasattr(value, "sample"):
            waiting.extend(parts_of(value))
