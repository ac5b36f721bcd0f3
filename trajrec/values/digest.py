"""Digests of the states of steps: checks of 24 bits, and keys of 64 bits.

A check verifies a replay, step by step: the low 24 bits of a CRC-32. It takes three bytes a step,
beside about twelve bytes of a CartPole observation. One changed state has the same check with
probability 6e-8; a state that differs usually stays different, so later steps show the difference.
States that are stored whole (of resets, of ends, and of the first row of each block) are compared
bit by bit.

A check is no identity: of 100,000 states about 300 pairs have the same one. Whatever tells states
apart (groups, pools, merges, joins) needs keys. A key is the start of the BLAKE2b-128 digest of the
state's canonical encoding: of a thousand million states, two have the same key with probability
0.03. Keys are known of states that are stored whole, and of all states of a log that was recorded
with `keep_states="keys"`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias
from zlib import crc32

import numpy as np

from trajrec.types import Array, Value
from trajrec.values import codec
from trajrec.values.arrays import PADDED, array_bytes

Bytes: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Digests: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.uint32 | np.uint64]]

CHECK_BYTES: Literal[3] = 3
KEY_BYTES: Literal[8] = 8
DigestBytes: TypeAlias = Literal[3, 8]
"""The bytes of a digest that a log stores for each step: of a check, or of a key."""

MASK = 0xFFFFFF

# Characters of the dtypes whose bytes are their value: numbers and times, without long doubles.
_PLAIN = frozenset("?bBhHiIlLqQpPnNefdFDmM")

# The hash of all that comes before an array's own bytes in its encoding, by dtype and shape.
# States of one environment have one or two forms; others are not kept.
_beginnings: dict[tuple[object, tuple[int, ...]], hashlib.blake2b] = {}
_MAX_BEGINNINGS = 256


def state_check(state: Value) -> int:
    """Return the check of a state, below 2**24.

    The checked bytes are the C-order bytes of an array of numbers, and the canonical encoding of
    any other value.

    >>> hex(state_check(np.zeros(4)))
    '0xa55ad'
    """
    if type(state) is np.ndarray and state.dtype.char in _PLAIN:
        try:
            return crc32(state) & MASK  # type: ignore[arg-type]
        except (ValueError, TypeError):
            # The array is not contiguous, or its times have no buffer.
            return crc32(state.tobytes()) & MASK
    if type(state) is np.ndarray and state.dtype.char in PADDED:
        return crc32(array_bytes(state)) & MASK
    return crc32(codec.encode(state, where="state", canonical=True)) & MASK


def state_key(state: Value) -> int:
    """Return the key of a state, below 2**64: the first 16 hex digits of `codec.digest`.

    >>> state = {"x": np.zeros(4)}
    >>> f"{state_key(state):016x}" == codec.digest(state)[:16]
    True
    """
    if type(state) is np.ndarray and state.dtype.char in _PLAIN:
        form = (state.dtype, state.shape)
        beginning = _beginnings.get(form)
        if beginning is None:
            beginning = _begin(state)
        hasher = beginning.copy()
        try:
            hasher.update(state)  # type: ignore[arg-type]
        except (ValueError, TypeError):
            # As above.
            hasher.update(state.tobytes())
        return int.from_bytes(hasher.digest()[:KEY_BYTES], "big")
    data = codec.encode(state, where="state", canonical=True)
    return int.from_bytes(hashlib.blake2b(data, digest_size=16).digest()[:KEY_BYTES], "big")


def array_keys(states: Array) -> Array:
    """Return the key of each of some states that are arrays of numbers, uint64 (n,).

    >>> int(array_keys(np.zeros((2, 4)))[1]) == state_key(np.zeros(4))
    True
    """
    if not states.size or states.dtype.char not in _PLAIN:
        return np.array([state_key(state) for state in states], np.uint64)
    first = np.asarray(states[0])
    beginning = _beginnings.get((first.dtype, first.shape)) or _begin(first)
    data = states.tobytes()
    width = first.nbytes
    return _keys(beginning, (data[at : at + width] for at in range(0, len(data), width)))


def encoded_keys(states: Iterable[bytes]) -> Array:
    """Return the key of each of some states that are given by their canonical encodings.

    >>> int(encoded_keys([codec.encode([0.5])])[0]) == state_key([0.5])
    True
    """
    return _keys(codec.hasher(), states)


def _keys(beginning: hashlib.blake2b, rests: Iterable[bytes]) -> Array:
    """Return the keys of encodings that have one beginning, uint64 (n,)."""
    begun = beginning.copy  # a copy takes a third less time than a new hash object
    digests = []
    for rest in rests:
        hasher = begun()
        hasher.update(rest)
        digests.append(hasher.digest())
    return np.frombuffer(b"".join(digests), ">u8")[::2].astype(np.uint64)


def digest_function(n_bytes: DigestBytes) -> Callable[[Value], int]:
    """Return the function whose results have a number of bytes."""
    return state_key if n_bytes == KEY_BYTES else state_check


def show_digest(digest: int, n_bytes: DigestBytes) -> str:
    """Return a digest as messages show it.

    >>> show_digest(7, 3), show_digest(7, 8)
    ('digest 000007', 'digest 0000000000000007')
    """
    return f"digest {digest:0{2 * n_bytes}x}"


def pack_digests(digests: list[int] | Array, n_bytes: DigestBytes = CHECK_BYTES) -> Bytes:
    """Return digests as bytes: checks uint8 (n, 3), little end first; keys (n, 8), big end first.

    Of checks only the low 24 bits count.
    """
    if n_bytes == KEY_BYTES:
        return np.array(digests, np.uint64).astype(">u8").view(np.uint8).reshape(-1, KEY_BYTES)
    checks = np.array(digests, np.int64).astype("<u4")
    return checks.view(np.uint8).reshape(-1, 4)[:, :CHECK_BYTES].copy()


def unpack_digests(rows: Array) -> Digests:
    """Return packed digests: checks as uint32 (n,), keys as uint64 (n,).

    Raises:
        ValueError: The rows are neither.
    """
    n_bytes = rows.shape[1] if rows.ndim == 2 and rows.dtype == np.uint8 else 0
    if n_bytes == KEY_BYTES:
        return np.ascontiguousarray(rows).view(">u8").reshape(-1).astype(np.uint64)
    if n_bytes != CHECK_BYTES:
        raise ValueError(f"digests of states must have 3 or 8 bytes, got rows of {rows.shape[1:]}")
    wide = np.zeros(len(rows), "<u4")
    wide.view(np.uint8).reshape(-1, 4)[:, :CHECK_BYTES] = rows
    return wide.astype(np.uint32, copy=False)


def _begin(state: Array) -> hashlib.blake2b:
    """Return the hash of the encoding of an array up to its own bytes, which come last."""
    encoding = codec.encode(state, where="state")
    beginning = codec.hasher()
    beginning.update(encoding[: len(encoding) - state.nbytes])
    if len(_beginnings) < _MAX_BEGINNINGS:
        _beginnings[state.dtype, state.shape] = beginning
    return beginning
