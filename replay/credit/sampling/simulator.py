"""The simulator of rollouts: an environment or tool world that is brought to a step and continues.

`EnvSimulator` and `OneShotSimulator` run Gymnasium environments, `WorldSimulator` runs tool worlds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Literal, Protocol

import numpy as np

from trajrec.protocols import Verifier
from trajrec.replay.forks.control import Control
from trajrec.replay.forks.noise_watch import NoiseSeen
from trajrec.replay.forks.options import RestoreMethod
from trajrec.types import Action, Observation, Value

Success = Verifier | Literal["terminated", "truncated"] | None
"""Decides at the end of a rollout whether it succeeded; see `RolloutOptions.success`."""

Resample = Callable[[Value, np.random.Generator], None]
"""Draws again the facts of an environment or world that the agent has not seen."""


class Simulator(Protocol):
    """Runs rollouts, one after the other.

    Attributes:
        restore_method: How it returns to a step.
        observation: The observation of the policy at the step that it was brought to.
        n_generators: The generators whose noise a scenario fixes.
    """

    restore_method: RestoreMethod
    observation: Observation
    n_generators: int

    def goto(self, step: int, /) -> None:
        """Bring the environment into the recorded state before a step, and verify it.

        Raises:
            DivergenceError: The environment does not reach the recorded state.
        """
        ...

    def rewind(self) -> None:
        """Bring the environment back to the step, after a rollout."""
        ...

    def resample(self, resample_hidden: Resample, rng: np.random.Generator, /) -> None:
        """Draw again the facts that the agent has not seen."""
        ...

    def seed(self, scenario: int, step: int, /) -> None:
        """Set the environment's generators to a step of a scenario."""
        ...

    def state_key(self) -> Hashable | None:
        """Return a hashable key of the full state, without the generators; None if it is unknown.

        Two rollouts of a scenario with equal keys at a step have equal continuations, if their
        policies do.
        """
        ...

    def step(self, action: Action, /) -> tuple[Observation, float, bool]:
        """Take a step; return the observation, the reward and whether the episode is over.

        Raises:
            UnreplayableError: The action cannot be executed again.
        """
        ...

    def control(self, n_steps: int, /) -> Control | None:
        """Take the recorded actions from the step on, and compare the results with the recording.

        Args:
            n_steps: The most steps.

        Returns:
            The result; None if the simulator has no controls. It is at its step again.
        """
        ...

    def noise_seen(self) -> NoiseSeen | None:
        """Return what the rollout that has just ended shows of noise that no scenario sets.

        None if it was not watched.
        """
        ...

    def score(self) -> float | None:
        """Return the result of the success function: 1 passed, 0 failed, or its score."""
        ...

    def close(self) -> None:
        """Close the environment. Closing twice is harmless."""
        ...
