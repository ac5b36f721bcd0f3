"""State inside the Arcade Learning Environment (ALE) that its clones hide or leave out.

The generator of sticky actions: ALE shows the generator to nobody, but a clone that includes it has
it among its bytes as text: 624 numbers of 32 bits and a position, as C++ writes a Mersenne twister,
with its length in front and eight bytes behind it (ALE 0.12.1). Other bytes are refused, not guessed.

The last action: with sticky actions ALE repeats the action that it executed last with probability
`repeat_action_probability`, and no clone holds that action. Restored into an emulator that has moved
on, one clone in ten continues differently (measured: 6 of 60 over three games, ALE 0.12.1). The last
action can be neither read nor written. It can be set, by acting in a state in which the next draw
does not repeat, and recognised by its effect.
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
        head = (
            head[:_BODY]
            + _SIZE.pack(body)
            + head[_BODY + _SIZE.size : -_SIZE.size]
            + _SIZE.pack(len(state))
        )
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
        sizes = [
            _SIZE.unpack_from(data, at)[0]
            for at in (start - _SIZE.size, _BODY)
            if 0 <= at <= len(data) - _SIZE.size
        ]
        is_known = (
            sizes == [len(text), len(data) - _BODY - _SIZE.size - _TAIL]
            and len(text.split()) == _WORDS + 1
        )
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
    if (
        type(ale).__module__.partition(".")[0] != "ale_py"
        or not ale.getFloat("repeat_action_probability") > 0
    ):
        return None
    return StickyGenerator(ale)


FRAMES = 12
"""Frames by which the last action has been replaced, but for one case in 10^7 at the usual probability of 0.25."""

SEARCH_FRAMES = 600


class StickyAction:
    """Clones and restores an emulator with the action that it executed last."""

    def __init__(self, ale: Any) -> None:
        self._ale = ale
        self._is_sticky = ale.getFloat("repeat_action_probability") > 0
        self._actions = list(ale.getLegalActionSet())
        self._setter: Any = None

    def take(self) -> Any:
        """Return a clone, and an action that has the effect of the one executed last.

        Raises:
            LookupError: That cannot be found out in this game's present state.
        """
        ale = self._ale
        clone = ale.cloneState(include_rng=True)
        if not self._is_sticky:
            return clone, None
        wanted = self._go_on()
        try:
            if self._setter is None:
                self._setter = self._find_setter(clone)
            for action in self._actions:
                self.restore((clone, action))
                if self._go_on() == wanted:
                    self.restore((clone, action))
                    return clone, action
            raise LookupError("no action goes on as the one executed last")
        except LookupError:
            ale.restoreState(clone)
            raise

    def restore(self, state: Any) -> None:
        """Put the emulator back."""
        clone, action = state
        if action is not None:
            self._ale.restoreState(self._setter)
            self._ale.act(action)
        self._ale.restoreState(clone)

    def put(self, state: Any) -> None:
        """Put the emulator into a state that another object like this one took.

        Raises:
            LookupError: The last action cannot be set in this game's present state.
        """
        if state[1] is not None and self._setter is None:
            self._setter = self._find_setter(state[0])
        self.restore(state)

    def _go_on(self) -> list[bytes]:
        """Return what comes of a few frames, whatever is asked for in them: the action executed last, while it is repeated."""
        found = []
        for _ in range(FRAMES):
            self._ale.act(self._actions[0])
            found.append(self._ale.getRAM().tobytes())
        found.append(self._state())
        return found

    def _find_setter(self, clone: Any) -> Any:
        """Return a state in which the next draw does not repeat: different actions have different effects there."""
        ale, here = self._ale, clone
        for _ in range(SEARCH_FRAMES):
            effects = set()
            for action in self._actions:
                ale.restoreState(here)
                ale.act(action)
                effects.add(self._state())
                if len(effects) > 1:
                    return here
            here = ale.cloneState(include_rng=True)
        raise LookupError(f"no action has an effect within {SEARCH_FRAMES} frames")

    def _state(self) -> bytes:
        state: bytes = self._ale.cloneState(include_rng=True).serialize()
        return state
