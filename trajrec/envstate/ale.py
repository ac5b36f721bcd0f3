"""State in the Arcade Learning Environment (ALE) that its clones hide or leave out.

The generator of sticky actions: ALE offers no access to it, but a clone that includes it holds it
as text: 624 numbers of 32 bits and a position, as C++ writes a Mersenne twister, with its length
before it and eight bytes behind it (ALE 0.12.1). Bytes of another form are rejected.

The last action: with sticky actions, ALE repeats the action that it executed last with probability
`repeat_action_probability`, and no clone holds that action. If a clone is restored into an emulator
that has executed other actions since, one in ten continues differently (measured: 6 of 60 over
three games, ALE 0.12.1). The last action can be neither read nor written. It can be set, by acting
in a state in which the next draw does not repeat, and recognised by its effect.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from trajrec.errors import SnapshotError
from trajrec.types import AnyEnv, Value

# The layout of a clone's bytes, as ALE 0.12.1 writes it.
_SIZE = struct.Struct("<I")
_HAS_RNG = b"\xb2\xfa\xb1\xfa"
"""Bytes before the text's length: they say that the clone includes the generator."""

_SIZE_OFFSET = 24
"""Offset of the size of the part that holds the text; the size counts the bytes behind itself,
without the last eight."""

_TAIL_BYTES = 8
_WORDS = 624
"""Numbers of 32 bits in the state of a Mersenne twister (MT19937)."""


class StickyGenerator:
    """The generator of one emulator's sticky actions, with the methods of any other generator.

    Args:
        ale: The emulator.

    Raises:
        SnapshotError: The emulator's clones have another layout.
    """

    def __init__(self, ale: Any) -> None:
        # Late: an environment with an emulator has imported ale_py already.
        from ale_py import ALEState

        self._ale = ale
        self._clone_class = ALEState
        self._split(self._clone())

    def state(self) -> bytes:
        """Return the generator's state."""
        _, text, _ = self._split(self._clone())
        return text

    def put(self, state: bytes) -> None:
        """Set the generator to a state that `state` returned; the game's state stays as it is."""
        head, text, tail = self._split(self._clone())
        (size,) = _SIZE.unpack_from(head, _SIZE_OFFSET)
        # The text has no fixed length, so both lengths before it change.
        new_head = (
            head[:_SIZE_OFFSET]
            + _SIZE.pack(size + len(state) - len(text))
            + head[_SIZE_OFFSET + _SIZE.size : -_SIZE.size]
            + _SIZE.pack(len(state))
        )
        clone = self._clone_class.__new__(self._clone_class)
        clone.__setstate__(new_head + state + tail)  # type: ignore[arg-type]
        self._ale.restoreState(clone)

    def seed(self, number: int) -> None:
        """Set the generator to a state that is derived from a number of up to 128 bits."""
        words = np.random.Philox(key=number).random_raw(_WORDS // 2).view(np.uint32)
        # Position 624: all words are used up, so the first draw mixes them.
        self.put(f"{' '.join(map(str, words.tolist()))} {_WORDS}".encode())

    def _clone(self) -> bytes:
        return bytes(self._ale.cloneState(include_rng=True).__getstate__())

    def _split(self, data: bytes) -> tuple[bytes, bytes, bytes]:
        """Return a clone's bytes up to the text, with its length; the text; the bytes after it."""
        start = data.rfind(_HAS_RNG) + len(_HAS_RNG) + _SIZE.size
        text = data[start:-_TAIL_BYTES]
        sizes = [
            _SIZE.unpack_from(data, offset)[0]
            for offset in (start - _SIZE.size, _SIZE_OFFSET)
            if 0 <= offset <= len(data) - _SIZE.size
        ]
        expected = [len(text), len(data) - _SIZE_OFFSET - _SIZE.size - _TAIL_BYTES]
        has_layout = (
            sizes == expected
            and len(text.split()) == _WORDS + 1
            and text.replace(b" ", b"").isdigit()
        )
        if not has_layout:
            raise SnapshotError(
                "this version of ALE stores the generator of its sticky actions in another layout "
                "than 0.12.1, so it cannot be seeded: install ale-py 0.12.1, or record the game "
                "with repeat_action_probability=0"
            )
        return data[:start], text, data[-_TAIL_BYTES:]


def sticky_generator(env: AnyEnv) -> StickyGenerator | None:
    """Return the generator of an environment's sticky actions, or None if it has no such actions.

    Raises:
        SnapshotError: The generator cannot be set.
    """
    ale: Any = getattr(getattr(env, "unwrapped", None), "ale", None)
    if type(ale).__module__.partition(".")[0] != "ale_py":
        return None
    if not ale.getFloat("repeat_action_probability") > 0:
        return None
    return StickyGenerator(ale)


OBSERVED_FRAMES = 12
"""Frames after which the last action is recognised. At the usual probability of 0.25 the action is
still repeated after 12 frames in one case of 10^7 (0.25^12 = 6e-8)."""

SEARCH_FRAMES = 600
"""Frames in which a state is searched in which actions have different effects: ten seconds of play.
The search needs a bound, because a game that is over ignores all actions."""


class StickyAction:
    """Clones and restores an emulator together with the action that it executed last."""

    def __init__(self, ale: Any) -> None:
        self._ale = ale
        self._is_sticky = ale.getFloat("repeat_action_probability") > 0
        self._actions = list(ale.getLegalActionSet())
        # A clone in which the next draw does not repeat: acting there sets the last action.
        self._setter: Any = None

    def take(self) -> Value:
        """Return a clone, and an action with the effect of the one that was executed last.

        Raises:
            LookupError: The action cannot be found out in the game's present state.
        """
        ale = self._ale
        clone = ale.cloneState(include_rng=True)
        if not self._is_sticky:
            return clone, None
        effect = self._continuation()
        try:
            if self._setter is None:
                self._setter = self._find_setter(clone)
            for action in self._actions:
                self.restore((clone, action))
                if self._continuation() == effect:
                    self.restore((clone, action))
                    return clone, action
            raise LookupError("no action has the effect of the one executed last")
        except LookupError:
            ale.restoreState(clone)
            raise

    def restore(self, state: Value) -> None:
        """Put the emulator into a state that `take` of this object returned."""
        clone, action = state
        if action is not None:
            self._ale.restoreState(self._setter)
            self._ale.act(action)
        self._ale.restoreState(clone)

    def put(self, state: Value) -> None:
        """Put the emulator into a state that `take` of another object like this one returned.

        Raises:
            LookupError: The last action cannot be set in the game's present state.
        """
        clone, action = state
        if action is not None and self._setter is None:
            self._setter = self._find_setter(clone)
        self.restore(state)

    def _continuation(self) -> list[bytes]:
        """Return the memory after each of a few frames.

        As long as the last action is repeated, the memory depends on it, not on the action given.
        """
        memories = []
        for _ in range(OBSERVED_FRAMES):
            self._ale.act(self._actions[0])
            memories.append(self._ale.getRAM().tobytes())
        memories.append(self._state())
        return memories

    def _find_setter(self, clone: Any) -> Any:
        """Return a state in which two actions have different effects, so no draw repeats there."""
        ale = self._ale
        candidate = clone
        for _ in range(SEARCH_FRAMES):
            effects = set()
            for action in self._actions:
                ale.restoreState(candidate)
                ale.act(action)
                effects.add(self._state())
                if len(effects) > 1:
                    return candidate
            candidate = ale.cloneState(include_rng=True)
        raise LookupError(f"no action has an effect within {SEARCH_FRAMES} frames")

    def _state(self) -> bytes:
        state: bytes = self._ale.cloneState(include_rng=True).serialize()
        return state
