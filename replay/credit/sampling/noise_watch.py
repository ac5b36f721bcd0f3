"""Find out whether the scenarios of a run set the noise of an environment."""

from __future__ import annotations

import pickle

from trajrec.envstate.unset_noise import has_known_noise, held_key
from trajrec.replay.credit.sampling.noise import EnvNoise
from trajrec.types import AnyEnv

WATCHED_STEPS = 1000
"""Steps that are watched; a step costs some 5 us more."""


class NoiseWatch:
    """Looks at the generators of an environment before and after its first steps.

    Args:
        env: The environment, which comes from a package whose noise is known, or from another.
        seeds: Whether scenarios are to set the noise at all.

    Attributes:
        unset: See `Simulator.unset_noise`.
        is_on: Whether steps are watched still.
    """

    def __init__(self, env: AnyEnv, *, seeds: bool) -> None:
        self.is_on = seeds and not has_known_noise(env)
        self.unset: str | None = "" if self.is_on else None
        self._n_steps = 0
        self._before: list[bytes] = []
        self._place = (0, 0)
        # Step and number of a generator -> scenario in which the step changed it, and its new state.
        self._after: dict[tuple[int, int], tuple[int, bytes]] = {}

    def before(self, env: AnyEnv, noise: EnvNoise, scenario: int, step: int) -> None:
        """Look at the generators, which have been set for a step."""
        if not self._n_steps:
            key = held_key(env)
            if key:
                self._end(f"a key of JAX in {key}")
                return
        self._before = _states(noise)
        self._place = scenario, step

    def after(self, noise: EnvNoise) -> None:
        """Look at them again after the step."""
        self._n_steps += 1
        scenario, step = self._place
        states = _states(noise)
        is_proved = False
        for number, (before, after) in enumerate(zip(self._before, states, strict=False)):
            if before == after:
                continue
            self.unset = None
            earlier, same = self._after.setdefault((step, number), (scenario, after))
            if earlier != scenario and same == after:
                # Each scenario set another state, so this one comes from the environment.
                self._end("generators that its own steps seed")
                return
            is_proved |= earlier != scenario
        if is_proved or self._n_steps >= WATCHED_STEPS:
            self.is_on = False

    def _end(self, unset: str | None) -> None:
        self.unset = unset
        self.is_on = False


def _states(noise: EnvNoise) -> list[bytes]:
    return list(map(pickle.dumps, noise.get_states()))
