"""Copies of values that environments and agents hand over, and that are handed to them."""

from __future__ import annotations

import copy

from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.plain import IMMUTABLE_TYPES


def copy_for_record(value: Value) -> Value:
    """Return a copy that no later step changes, with the types that a log gives back.

    Environments reuse their buffers: without copies, all recorded observations would be the last.
    """
    if type(value) in IMMUTABLE_TYPES:
        return value
    # Arrays of any library, without the detour through bytes.
    if hasattr(value, "copy") and hasattr(value, "dtype"):
        return value.copy()
    return codec.decode(codec.encode(value, opaque=True))


def copy_for_env(value: Value) -> Value:
    """Return a copy of the same class that an environment or an agent may change.

    Some environments scale or clip their action in place; the recorded action must stay as it is.
    """
    return value if type(value) in IMMUTABLE_TYPES else copy.deepcopy(value)
