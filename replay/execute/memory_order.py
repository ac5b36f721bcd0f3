"""Copies of recorded values that lie in memory as those of a live environment do.

A log holds each array in C order. Numbers that are added in another order round differently, so an
environment whose arrays lie in Fortran order would continue with other digits.
"""

from __future__ import annotations

import numpy as np

from trajrec.types import Value
from trajrec.values.copies import copy_for_env


def copy_in_order_of(recorded: Value, live: Value) -> Value:
    """Return a copy of a recorded value, its arrays in the memory order of those of a live value.

    Args:
        recorded: The value. The environment may change the copy.
        live: The same value of the environment, as it is now; other parts of it do not matter.
    """
    cls = type(recorded)
    if cls is not type(live):
        return copy_for_env(recorded)
    if cls is np.ndarray and recorded.shape == live.shape and not recorded.dtype.hasobject:
        copied = np.empty_like(live, dtype=recorded.dtype)
        copied[...] = recorded
        return copied
    if cls is dict:
        return {key: copy_in_order_of(item, live.get(key)) for key, item in recorded.items()}
    if cls in (list, tuple) and len(recorded) == len(live):
        return cls(map(copy_in_order_of, recorded, live))
    return copy_for_env(recorded)
