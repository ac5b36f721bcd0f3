"""Types of plain and of immutable values. All rooms take their sets of types from this module.

The sets answer different questions, so they differ. Look up `type(value)` in the frozensets;
the two tuples hold base classes and belong in `isinstance`.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import pathlib
import types
import uuid
from typing import Any

import numpy as np

PLAIN_TYPES: frozenset[type] = frozenset((type(None), bool, int, float, str, bytes))
"""Python's plain values: immutable, hashable, and stored by msgpack without an extension."""

# An np.object_ has no class of its own, and an np.void can be changed in place.
# Packages such as ml_dtypes, which JAX imports, add types that NumPy itself cannot read again.
_NUMPY_SCALARS = frozenset(
    cls for cls in np.sctypeDict.values() if np.dtype(cls).isbuiltin == 1
) - {np.object_, np.void}

# numpy.datetime64 is missing: a log stores each as a value of its own, since it is no numpy.number.
# Adding it would change the bytes of new recordings for nothing.
SCALAR_TYPES: frozenset[type] = PLAIN_TYPES | (_NUMPY_SCALARS - {np.datetime64})
"""Types that a log stores as a column of scalars."""

NUMBER_TYPES: frozenset[type] = SCALAR_TYPES - {str, bytes, np.str_, np.bytes_, type(None)}
"""Those of them that have no texts, nor None, in the place of which a text may come."""

PLAIN_NUMBERS: frozenset[type] = PLAIN_TYPES & NUMBER_TYPES
"""Python's own among them."""

# NumPy has two classes for one kind of integer, for instance int64 and longlong on Linux.
# The name of a dtype leads to the first alone, so a log gives back the first.
IMMUTABLE_TYPES: frozenset[type] = PLAIN_TYPES | {
    cls for cls in _NUMPY_SCALARS if np.dtype(np.dtype(cls).str).type is cls
}
"""Immutable types that a log gives back unchanged: their values need no copy."""

ATOMIC_TYPES: frozenset[type] = PLAIN_TYPES | {
    complex,
    frozenset,
    range,
    type,
    type(Ellipsis),
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.ModuleType,
}
"""Types whose values a copied object shares with the original.

A bound method is shared too: check first that it is bound to something that is not copied."""

STANDARD_VALUES: tuple[type, ...] = (
    datetime.date,
    datetime.time,
    decimal.Decimal,
    uuid.UUID,
    pathlib.PurePath,
)
"""Base classes of immutable values of the standard library that `str` describes in full."""

# Paths are missing: a tracked path stands for a file or a folder, which can change.
IMMUTABLE_BASES: tuple[type, ...] = (
    str,
    bytes,
    int,
    float,
    complex,
    type(None),
    frozenset,
    enum.Enum,
    decimal.Decimal,
    datetime.date,
    datetime.time,
)
"""Base classes of values that can only be replaced in their container, never changed."""


def is_immutable(value: Any) -> bool:
    """Return whether a value is an instance of `IMMUTABLE_BASES`, or a tuple of such values.

    >>> is_immutable((1, "lamp")), is_immutable(([], 1))
    (True, False)
    """
    if type(value) is tuple:
        return all(map(is_immutable, value))
    return isinstance(value, IMMUTABLE_BASES)
