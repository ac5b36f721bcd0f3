"""Values that environments and agents hand over: which of them nothing can change, and copies of the others."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from trajrec.values import codec

_SCALARS = {cls for cls in np.sctypeDict.values() if cls not in (np.object_, np.void)}

IMMUTABLE_TYPES = frozenset(
    {float, int, bool, str, bytes, type(None)}
    | {cls for cls in _SCALARS if np.dtype(np.dtype(cls).str).type is cls}
)
"""Types of values that nothing can change, and that a log gives back as they are."""


def copy_for_record(value: Any) -> Any:
    """Return a copy to keep, as a log would give it back: environments reuse their buffers."""
    if type(value) in IMMUTABLE_TYPES:
        return value
    if hasattr(value, "copy") and hasattr(value, "dtype"):
        return value.copy()
    return codec.decode(codec.encode(value, opaque=True))


def copy_for_env(value: Any) -> Any:
    """Return a copy to give away, of the same class: environments and agents change what they are given."""
    return value if type(value) in IMMUTABLE_TYPES else copy.deepcopy(value)
