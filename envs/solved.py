"""Environments small enough that the credit of each of their steps is known exactly: to measure estimators against."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

Observation = np.ndarray[Any, np.dtype[np.int64]]
WORK, SPOIL, REPAIR = range(3)


class _Chain(gymnasium.Env[Observation, int]):
    """A row of steps; its state is how many were taken, and a flag. Both are seen.

    Args:
        n_steps: How many there are.
        n_actions: Actions at each.
    """

    def __init__(self, n_steps: int, n_actions: int) -> None:
        self.observation_space = spaces.Box(
            np.zeros(2, np.int64), np.array([n_steps, 1], np.int64), dtype=np.int64
        )
        self.action_space: spaces.Space[Any] = spaces.Discrete(n_actions)
        self._state = (0, 0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin before the first step, without the flag."""
        super().reset(seed=seed)
        self._state = (0, 0)
        return np.array(self._state, np.int64), {}

    def get_state(self) -> tuple[int, int]:
        """Return steps taken and the flag."""
        return self._state

    def set_state(self, state: tuple[int, int]) -> None:
        """Put it into a state that `get_state` returned."""
        self._state = (int(state[0]), int(state[1]))


class FaultChain(_Chain):
    """A chain of `size` steps that is clean or spoilt. It pays 1 at the end if it is clean then.

    What happens is the agent's doing alone: action 1 spoils it, 2 repairs it, 0 leaves it as it is.

    Args:
        size: Steps.

    Observation, (2,) int64: steps taken, is_spoilt.

    >>> env = FaultChain(size=3)
    >>> _ = env.reset(seed=0)
    >>> [env.step(action)[1] for action in (SPOIL, REPAIR, WORK)]
    [0.0, 0.0, 1.0]
    """

    def __init__(self, *, size: int = 16) -> None:
        super().__init__(size, 3)
        self.size = size

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take an action."""
        step, is_spoilt = self._state
        is_spoilt = 1 if action == SPOIL else 0 if action == REPAIR else is_spoilt
        self._state = (step + 1, is_spoilt)
        is_over = step + 1 == self.size
        return np.array(self._state, np.int64), float(is_over and not is_spoilt), is_over, False, {}

    def repairing_value(self, step: int, is_spoilt: bool, rate: float) -> float:
        """Return the probability that it ends clean under a policy that works, and repairs it with a rate where it is
        spoilt."""
        return 1.0 - (1.0 - rate) ** (self.size - step) if is_spoilt else 1.0


class RepairingPolicy:
    """Works, and repairs a spoilt FaultChain with a probability a step.

    Args:
        rate: The probability.
    """

    def __init__(self, rate: float) -> None:
        self.rate, self.id = rate, f"repairing-{rate:g}"

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """Return an action."""
        return REPAIR if rng.random() < self.rate and observation[1] else WORK


class NoisyKey(_Chain):
    """A key, `size` - 1 apples, a door: at each step the agent takes what is there (action 1) or leaves it (0).

    An apple is sweet or sour by chance: taking it pays `apple` or -`apple`. Opening the door pays 5 if the key was taken.
    What the key is owed comes late, under the noise of the apples. Under the policy that takes everything with probability
    1/2, taking the key is worth 2.5 more than leaving it; the difference of two rollouts has the variance 2 (size - 1)
    apple^2 / 2 + 6.25 where their noise is independent, and 6.25 where it is the same.

    Args:
        size: Steps before the door.
        apple: What an apple pays.

    Observation, (2,) int64: steps taken, has_key.

    Source:
        The key-to-door task of Meulemans et al., Would I have gotten that reward?, arXiv 2306.16803.
    """

    def __init__(self, *, size: int = 20, apple: float = 1.5) -> None:
        super().__init__(size + 1, 2)
        self.size, self.apple = size, apple

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take what is there, or leave it."""
        step, has_key = self._state
        is_sweet = self.np_random.random() < 0.5
        reward = 0.0
        if step == 0:
            has_key = int(action)
        elif step < self.size:
            reward = (self.apple if is_sweet else -self.apple) * action
        else:
            reward = 5.0 * has_key * action
        self._state = (step + 1, has_key)
        return np.array(self._state, np.int64), float(reward), step == self.size, False, {}

    def advantage(self, step: int, has_key: bool, action: int) -> float:
        """Return what an action is better than the policy that takes everything with probability 1/2."""
        if step == 0:
            return 1.25 if action else -1.25
        return (2.5 if action else -2.5) if step == self.size and has_key else 0.0


class Switches(gymnasium.Env[Observation, int]):
    """A row of switches, turned one a step: what they come to is known when the last is.

    Args:
        rule: "pivot": it pays 1 if switch 2 is on; "and": if switches 2 and 5 both are; "or": if either is.
        size: How many there are.

    Observation, (2,) int64: steps taken, and the two switches that count as a number.
    """

    PIVOTS = (2, 5)

    def __init__(self, *, rule: Literal["pivot", "and", "or"] = "pivot", size: int = 8) -> None:
        self.rule, self.size = rule, size
        self.observation_space = spaces.Box(
            np.zeros(2, np.int64), np.array([size, 3], np.int64), dtype=np.int64
        )
        self.action_space: spaces.Space[Any] = spaces.Discrete(2)
        self._step, self._on = 0, (0, 0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Turn all off."""
        super().reset(seed=seed)
        self._step, self._on = 0, (0, 0)
        return self._observe(), {}

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Turn the next one on or leave it off."""
        a, b = self._on
        self._on = (
            int(action) if self._step == self.PIVOTS[0] else a,
            int(action) if self._step == self.PIVOTS[1] else b,
        )
        self._step += 1
        is_over = self._step == self.size
        return self._observe(), float(is_over and self.pays(*self._on)), is_over, False, {}

    def pays(self, a: int, b: int) -> bool:
        """Say whether the two switches that count come to something."""
        return (
            bool(a)
            if self.rule == "pivot"
            else bool(a and b)
            if self.rule == "and"
            else bool(a or b)
        )

    def get_state(self) -> tuple[int, int, int]:
        """Return steps taken and the two switches."""
        return self._step, *self._on

    def set_state(self, state: tuple[int, int, int]) -> None:
        """Put it into a state that `get_state` returned."""
        self._step, self._on = int(state[0]), (int(state[1]), int(state[2]))

    def _observe(self) -> Observation:
        return np.array([self._step, 2 * self._on[0] + self._on[1]], np.int64)
