"""Copies of values that environments and agents hand over, and that are handed to them."""

from __future__ import annotations

import copy

from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.plain import IMMUTABLE_TYPES

_ARE_IMMUTABLE = IMMUTABLE_TYPES.issuperset


def copy_for_record(value: Value) -> Value:
    """Return a copy that no later step changes, with the types that a log gives back.

    Environments reuse their buffers: without copies, all recorded observations would be the last.
    """
    if type(value) in IMMUTABLE_TYPES:
        return value
    # Arrays of any library, without the detour through bytes. A copy of an array of objects has the
    # same objects.
    if hasattr(value, "copy") and hasattr(value, "dtype") and value.dtype != object:
        return value.copy()
    return codec.decode(codec.encode(value, opaque=True))


def copy_for_env(value: Value) -> Value:
    """Return a copy of the same class that an environment or an agent may change.

    Some environments scale or clip their action in place; the recorded action must stay as it is.
    """
    return value if type(value) in IMMUTABLE_TYPES else copy.deepcopy(value)


def copy_data(value: Value) -> Value:
    """Return a copy of data as a log gives it back, several times as fast as `copy.deepcopy`.

    Two places that share one object have two copies of it afterwards.
    """
    cls = type(value)
    if cls in IMMUTABLE_TYPES:
        return value
    if cls is dict:
        # Most dicts are records of numbers and texts.
        if _ARE_IMMUTABLE(map(type, value.values())) and _ARE_IMMUTABLE(map(type, value)):
            return value.copy()
        return {
            key if type(key) in IMMUTABLE_TYPES else copy.deepcopy(key): copy_data(item)
            for key, item in value.items()
        }
    if cls is list:
        return value.copy() if _ARE_IMMUTABLE(map(type, value)) else list(map(copy_data, value))
    return copy.deepcopy(value)
