"""Pairs of different values that == takes for equal, or cannot compare."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

# NumPy 2.5 warns of times without a unit.
with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
    NO_UNIT = np.timedelta64(1)

EQUAL_PAIRS: list[tuple[Any, Any]] = [
    (np.complex64(0j), np.complex64(complex(-0.0, 0.0))),
    (np.complex128(0j), np.complex128(complex(0.0, -0.0))),
    (np.longdouble(0.0), np.longdouble(-0.0)),
    (np.timedelta64(1, "s"), np.timedelta64(1000, "ms")),
    (NO_UNIT, np.timedelta64(1, "s")),
    (0.0, -0.0),
    (np.float32(0.0), np.float32(-0.0)),
    (1, True),
    (1, 1.0),
    ({"n": 1}, {"n": True}),
    ([0.0], [-0.0]),
    ({1}, {True}),
    ((np.zeros(2),), (np.zeros(2, np.float32),)),
]
