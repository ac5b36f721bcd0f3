"""What a clone of an Arcade Learning Environment leaves out: the action that ALE executed last.

With sticky actions ALE repeats that action with probability `repeat_action_probability`, and no clone holds it: restored into
an emulator that has gone on, one clone in ten goes on otherwise (measured: 6 of 60 over three games, ALE 0.12.1). It can be
neither read nor written, but set by acting where the next draw does not repeat, and known by its effect.
"""

from __future__ import annotations

from typing import Any

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
