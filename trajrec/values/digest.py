"""The digest by which the states of steps are compared: the low 24 bits of a CRC-32.

A digest takes three bytes a step, beside about twelve bytes of a CartPole observation. One changed
state has the same digest with probability 6e-8; a state that differs usually stays different, so
later steps show the difference. States that are stored whole (of resets, of ends, and of the first
row of each block) are compared bit by bit.
"""

from __future__ import annotations

from typing import TypeAlias
from zlib import crc32

import numpy as np

from trajrec.types import Array, Value
from trajrec.values import codec

Bytes: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Digests: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.uint32]]

SIZE_BYTES = 3
MASK = 0xFFFFFF

# Kinds of dtypes whose bytes are their value: numbers and times.
_NUMBERS = frozenset("biufcmM")


def state_digest(state: Value) -> int:
    """Return the digest of a state, below 2**24.

    The digested bytes are the C-order bytes of an array of numbers, and the canonical encoding of
    any other value.

    >>> hex(state_digest(np.zeros(4)))
    '0xa55ad'
    """
    if type(state) is np.ndarray and state.dtype.kind in _NUMBERS:
        try:
            return crc32(state) & MASK  # type: ignore[arg-type]
        except (ValueError, TypeError):
            # The array is not contiguous, or its times have no buffer.
            return crc32(state.tobytes()) & MASK
    return crc32(codec.encode(state, where="state", canonical=True)) & MASK


def pack_digests(digests: list[int]) -> Bytes:
    """Return digests as bytes, uint8 (n, 3), little end first."""
    return np.array(digests, "<u4").view(np.uint8).reshape(-1, 4)[:, :SIZE_BYTES].copy()


def unpack_digests(rows: Array) -> Digests:
    """Return packed digests as uint32 (n,)."""
    wide = np.zeros(len(rows), "<u4")
    wide.view(np.uint8).reshape(-1, 4)[:, :SIZE_BYTES] = rows
    return wide.astype(np.uint32, copy=False)
