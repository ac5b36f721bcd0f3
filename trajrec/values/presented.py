"""Decoded values as their readers want them: objects of known libraries instead of plain data."""

from __future__ import annotations

import sys
from collections import OrderedDict

import numpy as np

from trajrec.types import Value
from trajrec.values.extensions import Plain
from trajrec.values.foreign_arrays import ARRAY, as_array


def presented(value: Value) -> Value:
    """Return a decoded value with arrays as NumPy's, and ordered dicts as such.

    The member of an enum is the member itself if its class is imported. Other objects stay plain
    data. A value without such objects is returned itself.

    >>> presented([Plain("collections.OrderedDict", "subclass", {"value": {"a": 1}})])
    [OrderedDict({'a': 1})]
    """
    return _presented(value) if has_objects(value) else value


def presented_rows(rows: Value) -> Value:
    """Return the rows of a field as their readers want them: stacked, if they can be.

    Args:
        rows: An array, a list of values, or a dict or tuple of such.
    """
    if type(rows) is dict:
        return {key: presented_rows(item) for key, item in rows.items()}
    if type(rows) is tuple:
        return tuple(map(presented_rows, rows))
    is_array = isinstance(rows, np.ndarray)
    values = rows.tolist() if is_array and rows.dtype == object else rows
    if type(values) is not list or not any(map(has_objects, values)):
        return rows
    shown = list(map(_presented, values))
    try:
        return stacked(shown)
    except ValueError:
        return shown


def has_objects(value: Value) -> bool:
    """Return whether a decoded value holds the plain data of an object."""
    if isinstance(value, Plain):
        return True
    if isinstance(value, dict):
        return any(map(has_objects, value.values()))
    return isinstance(value, (list, tuple)) and any(map(has_objects, value))


def stacked(values: list[Value]) -> Value:
    """Return values as one array, or as a dict or tuple of arrays.

    Raises:
        ValueError: They have no common form.
    """
    first = values[0]
    if any(type(value) is not type(first) for value in values):
        raise ValueError("the values are of several types")
    if isinstance(first, dict):
        if any(list(value) != list(first) for value in values):
            raise ValueError("the values have different keys")
        return {key: stacked([value[key] for value in values]) for key in first}
    if type(first) is tuple:
        return tuple(stacked(list(items)) for items in zip(*values, strict=True))
    if not isinstance(first, (np.ndarray, np.generic, bool, int, float)):
        raise ValueError("the values are no arrays")
    if isinstance(first, np.ndarray) and any(value.dtype != first.dtype for value in values):
        raise ValueError("the arrays have several dtypes")
    if isinstance(first, np.ma.MaskedArray):
        masked: Value = np.ma.stack(values)
        return masked
    return np.stack(values)


def _presented(value: Value) -> Value:
    if isinstance(value, Plain):
        return _presented_object(value)
    if type(value) is dict:
        return {key: _presented(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_presented, value))
    return value


def _presented_object(value: Plain) -> Value:
    if value.kind == ARRAY:
        try:
            return as_array(value)
        except TypeError:
            # Its dtype belongs to a package that is not imported here.
            return value
    if value.type_name == "collections.OrderedDict" and set(value.fields) == {"value"}:
        return OrderedDict(_presented(value.fields["value"]))
    if value.kind == "enum":
        module, _, name = value.type_name.rpartition(".")
        members = getattr(getattr(sys.modules.get(module), name, None), "__members__", {})
        return members.get(value.fields.get("name"), value)
    return value
