"""Find out whether seeding sets all noise of an environment, from the generators that were seeded.

Each run of a batch, a branch or a rollout, has noise of its own. A watch looks at the seeded
generators around the steps of a run, and `UnsetNoise` compares what the runs have shown.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from trajrec.envstate.generators import state_of
from trajrec.envstate.unset_noise import has_known_noise, held_key
from trajrec.types import AnyEnv, Value

WATCHED_STEPS = 1000
"""Steps that a watch looks at; a step costs some 5 us more."""

KEPT_STATES = 32
"""A run is watched until this many states of generators are kept of it, for a comparison with other runs."""

MAX_STATES = 100_000
"""States that are compared in all: some 20 MB. Noise that steps seed shows in far fewer."""


@dataclass
class NoiseSeen:
    """What one run shows of the noise that its seed does not set.

    Attributes:
        run: Names the seed of its generators: runs of different seeds have different noise.
        key: The attribute that holds a key of JAX; "" if none does.
        has_drawn: Whether a step drew from a generator that was seeded.
        after: (step, number of a generator) -> a digest of its state after a step that changed it.
    """

    run: Hashable
    key: str = ""
    has_drawn: bool = False
    after: dict[tuple[int, int], bytes] = field(default_factory=dict)

    @property
    def unset(self) -> str | None:
        """From what the environment draws that no seed sets, as far as the run shows.

        "" if nothing was drawn; None if a seeded generator was.
        """
        if self.key:
            return f"a key of JAX in {self.key}"
        return None if self.has_drawn else ""


class NoiseWatch:
    """Looks at the seeded generators of an environment around its steps.

    Args:
        get_states: Returns the state of each generator that is seeded.

    Attributes:
        is_on: Whether steps are watched still: not after `WATCHED_STEPS`.
        seen: What the run has shown so far; None if no step of it was watched.
    """

    def __init__(self, get_states: Callable[[], Sequence[Value]]) -> None:
        self.is_on = True
        self._get_states = get_states
        self.seen: NoiseSeen | None = None
        self._states: list[bytes] = []
        self._step = 0
        self._n_steps = 0

    def before(self, env: AnyEnv, run: Hashable, step: int) -> None:
        """Look at the generators before a step; they have just been seeded for a run."""
        # Generators are seeded for other runs too, from which no step is taken.
        if self.seen is None or self.seen.run != run:
            self.seen = NoiseSeen(run, held_key(env))
        elif len(self.seen.after) >= KEPT_STATES:
            return
        self._states = self._read()
        self._step = step

    def after(self) -> None:
        """Look at them again, after the step. What a branch seeds once is looked at after each."""
        seen = self.seen
        if seen is None or not self.is_on or len(seen.after) >= KEPT_STATES:
            return
        before, self._states = self._states, self._read()
        for number, state in enumerate(self._states):
            if state == before[number]:
                continue
            seen.has_drawn = True
            digest = hashlib.blake2b(state, digest_size=16).digest()
            seen.after[self._step, number] = digest
        self._step += 1
        self._n_steps += 1
        self.is_on = self._n_steps < WATCHED_STEPS

    @property
    def unset(self) -> str | None:
        """From what the environment draws that no seed sets, as far as the run shows so far."""
        unset = None if self.seen is None else self.seen.unset
        # That nothing was drawn says nothing before a step.
        return unset if unset or self._n_steps else None

    def end_run(self) -> NoiseSeen | None:
        """End a run, and return what it has shown."""
        seen, self.seen = self.seen, None
        return seen

    def _read(self) -> list[bytes]:
        return list(map(pickle.dumps, self._get_states()))


def watch_noise(env: AnyEnv, get_states: Callable[[], Sequence[Value]]) -> NoiseWatch | None:
    """Return a watch; None if the environment comes from packages whose noise is known."""
    return None if has_known_noise(env) else NoiseWatch(get_states)


def watch_branch(
    env: AnyEnv, run: Hashable, step: int, generators: Sequence[Value]
) -> NoiseWatch | None:
    """Return a watch of a branch whose generators were seeded once, at its first step."""
    watch = watch_noise(env, lambda: list(map(state_of, generators)))
    if watch is not None:
        watch.before(env, run, step)
    return watch


class UnsetNoise:
    """What the runs of a batch show together of the noise that no seed sets.

    Attributes:
        found: From what the environment draws. "" if no run has drawn from a seeded generator;
            None if all noise is set, as far as the runs show, or if none was watched.
    """

    def __init__(self) -> None:
        self.found: str | None = None
        self._has_run = False
        self._runs: dict[tuple[int, int, bytes], Hashable] = {}

    def add(self, seen: NoiseSeen | None) -> None:
        """Add a run: one that drew from seeded generators is proof that there are some."""
        if seen is None:
            return
        unset = seen.unset
        for place, state in seen.after.items():
            if len(self._runs) >= MAX_STATES:
                break
            run = self._runs.setdefault((*place, state), seen.run)
            if run != seen.run and not seen.key:
                # The two were seeded otherwise, so this state comes from the environment.
                unset = "generators that its own steps seed"
        if not self._has_run or unset or (unset is None and not self.found):
            self.found = unset
        self._has_run = True


def unset_notes(unset: str | None, run: str) -> tuple[str, ...]:
    """Return a note on noise that no seed sets.

    Args:
        unset: See `UnsetNoise.found`.
        run: What a run is called: "branch" or "rollout".
    """
    if unset is None:
        return ()
    if unset:
        return (
            f"the environment draws from {unset}, which no seed sets: its noise is the recorded "
            f"noise, in every {run}, not the requested noise",
        )
    return (
        "no step drew from a generator that was seeded, so the environment counts as "
        "deterministic: noise that it makes in another way, or drew at the reset, is the recorded "
        f"noise in every {run}",
    )
