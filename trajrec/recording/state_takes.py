"""Functions that read the state of an environment and digest it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias
from zlib import crc32

import numpy as np

from trajrec.types import Value
from trajrec.values.arrays import PADDED
from trajrec.values.digest import state_check, state_key

Capture: TypeAlias = Callable[[], Value]
TakeDigest: TypeAlias = Callable[[], int]


def make_digest_taker(
    capture: Capture, *, has_keys: bool, replace: Callable[[TakeDigest], None]
) -> TakeDigest:
    """Return a function that reads and digests the state.

    Args:
        capture: Reads the state.
        has_keys: Whether the digest is a key, and not a check.
        replace: Given a function that does the same faster, once the first state is known.
    """
    digest = state_key if has_keys else state_check

    def take_digest() -> int:
        return digest(capture())

    def take_first() -> int:
        value = capture()
        is_array = (
            type(value) is np.ndarray
            and value.dtype.kind in "iuf"
            and value.dtype.char not in PADDED
        )
        is_fast = is_array and not has_keys
        replace(_array_check_taker(capture, value) if is_fast else take_digest)
        return digest(value)

    return take_first


def _array_check_taker(capture: Capture, first: Value) -> TakeDigest:
    """Return a function that checks states which are contiguous arrays of one dtype."""
    ndarray = np.ndarray
    dtype = first.dtype

    def take_check() -> int:
        value = capture()
        # For such states `state_check` comes down to the CRC-32, whose low bits packing keeps.
        try:
            is_like_first = type(value) is ndarray and value.dtype is dtype
            return crc32(value) if is_like_first else state_check(value)
        except (TypeError, ValueError):
            return state_check(value)

    return take_check
