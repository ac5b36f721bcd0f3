"""Unpacks many encoded lists of floats at once: as states of environments often are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trajrec.types import Array

_FIXED_ARRAY = 0x90
_FLOAT64 = 0xCB
# The type of a float, and its bytes.
_WIDTH = 9
_MAX_ITEMS = 15


def unpack_float_lists(values: Sequence[bytes]) -> Array | None:
    """Return encoded lists of k floats as one array, float64 (n, k); None for other values.

    >>> from trajrec.values.codec import encode
    >>> unpack_float_lists([encode([0.5, 1.0]), encode([2.0, -0.0])]).tolist()
    [[0.5, 1.0], [2.0, -0.0]]
    >>> unpack_float_lists([encode([0.5, 1])])
    """
    if not values or not values[0]:
        return None
    n_items = values[0][0] - _FIXED_ARRAY
    size = 1 + _WIDTH * n_items
    if not 1 <= n_items <= _MAX_ITEMS or set(map(len, values)) != {size}:
        return None
    table = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), size)
    items = np.ascontiguousarray(table[:, 1:]).reshape(len(values), n_items, _WIDTH)
    if (table[:, 0] != values[0][0]).any() or (items[:, :, 0] != _FLOAT64).any():
        return None
    floats = np.ascontiguousarray(items[:, :, 1:]).view(">f8")
    return floats.reshape(len(values), n_items).astype(np.float64)
