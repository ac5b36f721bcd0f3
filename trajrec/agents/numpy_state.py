"""The state of `numpy.random`, saved and restored in a tenth of the time that NumPy takes.

NumPy copies the 624 words of a Mersenne Twister one by one, which takes 72 us for a state that is
saved and restored: more than most tools take, at each call of a tool with frozen randomness. The
generator states the address of its words (`BitGenerator.ctypes`), so they can be copied at once.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from typing import Any, NamedTuple

import numpy as np

# The words, and the position of the next one, as NumPy's C code declares them.
_STATE = struct.Struct("=624Ii")


class WholeState(NamedTuple):
    """A state as NumPy returns it, for any generator."""

    state: Any

    def restore(self) -> None:
        """Put `numpy.random` into the state."""
        np.random.set_state(self.state)


class TwisterState(NamedTuple):
    """The state of a Mersenne Twister.

    Attributes:
        address: The address of its words.
        words: Its words and its position.
        normal: The normal draw that is kept for the next call; None if none is.
    """

    address: int
    words: bytes
    normal: float | None

    def restore(self) -> None:
        """Put `numpy.random` into the state."""
        if self.normal is not None:
            *words, position = _STATE.unpack(self.words)
            key = np.array(words, np.uint32)
            np.random.set_state(("MT19937", key, position, 1, self.normal))
            return
        # Seeding drops a normal draw that is kept.
        np.random.seed(0)
        ctypes.memmove(self.address, self.words, _STATE.size)


def take_numpy_state() -> WholeState | TwisterState:
    """Return the state of `numpy.random`, which the caller seeds next.

    Until then, its state is undefined.
    """
    address = _twister_address()
    if address is None:
        return WholeState(np.random.get_state())
    words = ctypes.string_at(address, _STATE.size)
    # The only quick way to see a normal draw that is kept: taking it changes no word.
    normal = np.random.standard_normal()
    is_kept = ctypes.string_at(address, _STATE.size) == words
    return TwisterState(address, words, normal if is_kept else None)


def _twister_address() -> int | None:
    """Return the address of the words of `numpy.random`; None if it is not known."""
    bits = np.random.get_bit_generator()  # type: ignore[attr-defined]
    if type(bits) is not np.random.MT19937 or not _has_known_layout():
        return None
    address: int = bits.ctypes.state_address
    return address


@functools.cache
def _has_known_layout() -> bool:
    """Return whether this NumPy lays out a Mersenne Twister as `_STATE` says."""
    try:
        bits = np.random.MT19937(1)
        bits.random_raw(3)
        state: Any = bits.state["state"]
        raw = ctypes.string_at(bits.ctypes.state_address, _STATE.size)
    except (AttributeError, KeyError, TypeError):
        return False
    return raw == _STATE.pack(*map(int, state["key"]), int(state["pos"]))
