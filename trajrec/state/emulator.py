"""The generator inside the Arcade Learning Environment, from which it draws whether an action is repeated ("sticky").

ALE shows it to nobody, but a clone that includes it has it among its bytes: as text, 624 numbers of 32 bits and a position, as
C++ writes a Mersenne twister, with its length before it and eight bytes behind it (ALE 0.12.1). Other bytes are not guessed at.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from trajrec.errors import SnapshotError

_SIZE = struct.Struct("<I")
_TRUE = b"\xb2\xfa\xb1\xfa"
"""What ALE writes before the text: that the clone includes it."""

_BODY = 24
"""Where the size of the part that holds the text stands, and what comes before and behind that part."""

_TAIL = 8
_WORDS = 624


class StickyGenerator:
    """The generator of one emulator, to be read and set like any other.

    Args:
        ale: The emulator.

    Raises:
        SnapshotError: Its clones are not as they are known.
    """

    def __init__(self, ale: Any) -> None:
        from ale_py import ALEState  # already imported by the environment

        self._ale, self._new = ale, ALEState
        self._split(self._clone())

    def state(self) -> bytes:
        """Return its state."""
        return self._split(self._clone())[1]

    def put(self, state: bytes) -> None:
        """Put it into a state that `state` returned. All else stays as it is."""
        head, was, tail = self._split(self._clone())
        (body,) = _SIZE.unpack_from(head, _BODY)
        body += len(state) - len(was)
        head = head[:_BODY] + _SIZE.pack(body) + head[_BODY + _SIZE.size : -_SIZE.size] + _SIZE.pack(len(state))
        clone = self._new.__new__(self._new)
        clone.__setstate__(head + state + tail)  # type: ignore[arg-type]
        self._ale.restoreState(clone)

    def seed(self, number: int) -> None:
        """Put it into the state that a number of up to 128 bits names."""
        words = np.random.Philox(key=number).random_raw(_WORDS // 2).view(np.uint32)
        self.put(f"{' '.join(map(str, words.tolist()))} {_WORDS}".encode())

    def _clone(self) -> bytes:
        return bytes(self._ale.cloneState(include_rng=True).__getstate__())

    def _split(self, data: bytes) -> tuple[bytes, bytes, bytes]:
        """Return a clone's bytes up to the text, with its length, the text, and what comes after."""
        start = data.rfind(_TRUE) + len(_TRUE) + _SIZE.size
        text = data[start:-_TAIL]
        sizes = [_SIZE.unpack_from(data, at)[0] for at in (start - _SIZE.size, _BODY) if 0 <= at <= len(data) - _SIZE.size]
        is_known = sizes == [len(text), len(data) - _BODY - _SIZE.size - _TAIL] and len(text.split()) == _WORDS + 1
        if not is_known or not text.replace(b" ", b"").isdigit():
            raise SnapshotError(
                "this version of ALE keeps the generator of its sticky actions otherwise than 0.12.1, and they cannot be drawn "
                "anew: take that version, or record it with repeat_action_probability=0"
            )
        return data[:start], text, data[-_TAIL:]


def sticky_generator(env: Any) -> StickyGenerator | None:
    """Return the generator of an environment's emulator, or None where it has none that draws.

    Raises:
        SnapshotError: It has one that cannot be set.
    """
    ale: Any = getattr(getattr(env, "unwrapped", None), "ale", None)
    if type(ale).__module__.partition(".")[0] != "ale_py" or not ale.getFloat("repeat_action_probability") > 0:
        return None
    return StickyGenerator(ale)
