"""Find out whether fresh noise sets all noise of a branch, from the generators that were seeded."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field

from trajrec.envstate.generators import state_of
from trajrec.envstate.unset_noise import has_known_noise, held_key
from trajrec.types import AnyEnv, Value

WATCHED_STEPS = 1000
"""Steps of a branch that are watched if none draws; a step costs some 5 us more."""

COMPARED_STEPS = 32
"""Steps of a branch after which states are kept, for a comparison with other branches."""


@dataclass
class NoiseSeen:
    """What one branch shows of the noise that its seed does not set.

    Attributes:
        key: The attribute that holds a key of JAX; "" if none does.
        has_drawn: Whether a step drew from a generator that was seeded.
        after: (step, number of a generator) -> a digest of its state after a step that changed it.
    """

    key: str = ""
    has_drawn: bool = False
    after: dict[tuple[int, int], bytes] = field(default_factory=dict)

    @property
    def unset(self) -> str | None:
        """From what the environment draws that the seed does not set, as far as the branch shows.

        "" if nothing was drawn; None if a seeded generator was.
        """
        if self.key:
            return f"a key of JAX in {self.key}"
        return None if self.has_drawn else ""


class NoiseWatch:
    """Looks at the seeded generators of an environment after each step of a branch.

    Args:
        env: The environment, from a package whose noise is not known.
        generators: Those that were seeded.
        step: The step at which the branch starts.

    Attributes:
        seen: What the steps have shown so far.
    """

    def __init__(self, env: AnyEnv, generators: Sequence[Value], step: int) -> None:
        self.seen = NoiseSeen(held_key(env))
        self._generators = generators
        self._states = self._read()
        self._first_step = step
        self._n_steps = 0

    def look(self) -> None:
        """Look at the generators after a step."""
        limit = COMPARED_STEPS if self.seen.has_drawn else WATCHED_STEPS
        if self._n_steps >= limit:
            return
        step = self._first_step + self._n_steps
        self._n_steps += 1
        before = self._states
        self._states = self._read()
        for number, state in enumerate(self._states):
            if state != before[number]:
                self.seen.has_drawn = True
                self.seen.after[step, number] = hashlib.blake2b(state, digest_size=16).digest()

    def _read(self) -> list[bytes]:
        return [pickle.dumps(state_of(generator)) for generator in self._generators]


def watch_noise(env: AnyEnv, generators: Sequence[Value], step: int) -> NoiseWatch | None:
    """Return a watch; None if the environment comes from packages whose noise is known."""
    return None if has_known_noise(env) else NoiseWatch(env, generators, step)


class UnsetNoise:
    """What the branches of a call show together of the noise that no seed sets.

    Attributes:
        found: From what the environment draws. "" if no branch has drawn; None if all noise is
            set, as far as the branches show, or if none was watched.
    """

    def __init__(self) -> None:
        self.found: str | None = None
        self._has_run = False
        self._after: dict[tuple[int, int], set[bytes]] = {}

    def add(self, seen: NoiseSeen) -> None:
        """Add a branch; each has a seed of its own."""
        unset = seen.unset
        for place, state in seen.after.items():
            states = self._after.setdefault(place, set())
            if state in states and not seen.key:
                # Each branch was seeded otherwise, so this state comes from the environment.
                unset = "generators that its own steps seed"
            states.add(state)
        if not self._has_run or unset or (unset is None and not self.found):
            self.found = unset
        self._has_run = True


def unset_notes(unset: str | None) -> tuple[str, ...]:
    """Return a note on noise that no seed sets; see `UnsetNoise.found`."""
    if unset is None:
        return ()
    if unset:
        return (
            f"the environment draws from {unset}, which no seed sets: its noise is the recorded "
            "noise, in every branch, not fresh noise",
        )
    return (
        "no step drew from a generator that was seeded, so the environment counts as "
        "deterministic: noise that it makes in another way, or drew at the reset, is the recorded "
        "noise in every branch",
    )
