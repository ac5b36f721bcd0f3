"""Rewards as numbers: one rule for sums in logs, in SQL, in Python and of replays."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable

import numpy as np

from trajrec.types import Array, Value
from trajrec.values.extensions import Plain
from trajrec.values.foreign_arrays import ARRAY, as_array, describe_array, has_own_dtype

PLAIN_NUMBERS = {float, int, bool}
"""Python's numbers, which need no further look."""


def real_number(value: Value) -> float | None:
    """Return a reward as a float; None if it is no number that a float holds.

    An array or tensor of one number is that number. Complex numbers, times, texts, records, masked
    items, and lists and dicts of numbers are none.

    >>> real_number(np.array([0.5], np.float32)), real_number(2), real_number("2")
    (0.5, 2.0, None)
    """
    if type(value) in PLAIN_NUMBERS:
        return _to_float(value)
    if isinstance(value, Plain) and value.kind == "subclass":
        return real_number(value.fields.get("value"))
    if isinstance(value, (int, float)):
        # The log has the member of an enum as its name and value: whether it is a number is lost.
        return None if isinstance(value, enum.Enum) else _to_float(value)
    array = _items(value)
    if array is None or array.size != 1:
        return None
    if has_own_dtype(array):
        # bfloat16 and the like: each of their numbers is one of these.
        array = array.astype(np.float32)
    if array.dtype.kind not in "biuf" or np.ma.getmaskarray(array).any():
        return None
    return _to_float(array.reshape(-1)[0])


def reward_parts(value: Value) -> dict[Value, Value] | None:
    """Return the parts of a reward of several agents or objectives; None if it has none.

    They stand by agent in a dict, and by their place in a list, a tuple or a vector.

    >>> reward_parts([0.5, 1]), reward_parts(np.array([2.0])), reward_parts(2.0)
    ({0: 0.5, 1: 1}, None, None)
    """
    if isinstance(value, dict):
        return value
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    array = _items(value)
    if array is None or array.ndim != 1 or array.size < 2:
        return None
    return dict(enumerate(array))


def _to_float(value: Value) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def _items(value: Value) -> Array | None:
    """Return a number of NumPy, an array or a tensor as an array; None for anything else."""
    if type(value) is np.ndarray or isinstance(value, np.generic):
        return np.asarray(value)
    if not isinstance(value, Plain):
        described = describe_array(value)
        if described is None:
            return None
        value = Plain(described[0], ARRAY, described[1])
    if value.kind != ARRAY:
        return None
    try:
        return as_array(value)
    except (TypeError, ValueError, KeyError):
        # Of a package that is not imported, or a record of a damaged log.
        return None


def sum_of(values: Iterable[Value]) -> float:
    """Return the sum of rewards; NaN if one of them is no number that a float holds.

    >>> sum_of([1, 0.5])
    1.5
    >>> sum_of([2**62, 2**62])
    9.223372036854776e+18
    >>> sum_of([{"a": 1.0}])
    nan
    """
    numbers = [real_number(value) for value in values]
    if None in numbers:
        return math.nan
    return sum_of_floats(np.array(numbers, np.float64))


def sum_of_floats(numbers: Array) -> float:
    """Return the sum of an array of float64; a sum beyond all floats is infinite, without a warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(numbers.sum())
