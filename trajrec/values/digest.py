"""The digest by which the states of a step are compared: the low 24 bits of a CRC-32.

Short on purpose: three bytes a step beside some twelve of a CartPole observation. One changed state passes unseen with
probability 6e-8, and a state that differs goes on differing. States stored whole (at a reset, at the end, at each block's
start) are compared bit by bit.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np

from trajrec.values import codec

SIZE = 3
MASK = 0xFFFFFF
_PLAIN = frozenset("biufcmM")


def state_digest(state: Any) -> int:
    """Return the digest of a state: of an array's C-order bytes, of anything else's canonical encoding.

    >>> hex(state_digest(np.zeros(4)))
    '0xa55ad'
    """
    if type(state) is np.ndarray and state.dtype.kind in _PLAIN:
        try:
            return crc32(state) & MASK  # type: ignore[arg-type]
        except (ValueError, TypeError):  # not contiguous, or of a kind without a buffer
            return crc32(state.tobytes()) & MASK
    return crc32(codec.encode(state, where="state", canonical=True)) & MASK


def pack_digests(digests: list[int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the low 24 bits of each, (n, 3) uint8, little end first."""
    return np.array(digests, "<u4").view(np.uint8).reshape(-1, 4)[:, :SIZE].copy()


def unpack_digests(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Return packed digests as (n,) uint32."""
    wide = np.zeros(len(rows), "<u4")
    wide.view(np.uint8).reshape(-1, 4)[:, :SIZE] = rows
    return wide.astype(np.uint32, copy=False)
