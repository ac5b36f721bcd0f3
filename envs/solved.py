"""Environments so small that the exact credit of each step is known, to test estimators with."""

from __future__ import annotations

from typing import Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from trajrec.types import Info, IntArray, JsonObject

WORK, SPOIL, REPAIR = range(3)

Pair = tuple[int, int]


class _Chain(gymnasium.Env[IntArray, int]):
    """A row of steps. The state is the number of steps and a flag, and the agent sees both.

    Args:
        n_steps: Length of the row.
        n_actions: Number of actions at each step.
    """

    def __init__(self, n_steps: int, n_actions: int) -> None:
        high = np.array([n_steps, 1], np.int64)
        self.observation_space = spaces.Box(np.zeros(2, np.int64), high, dtype=np.int64)
        self.action_space = spaces.Discrete(n_actions)  # type: ignore[assignment]
        self._state: Pair = (0, 0)

    def reset(
        self, *, seed: int | None = None, options: JsonObject | None = None
    ) -> tuple[IntArray, Info]:
        """Begin before the first step, with the flag down."""
        super().reset(seed=seed)
        self._state = (0, 0)
        return np.array(self._state, np.int64), {}

    def get_state(self) -> Pair:
        """Return the number of steps and the flag."""
        return self._state

    def set_state(self, state: Pair) -> None:
        """Restore a state that `get_state` returned."""
        self._state = (int(state[0]), int(state[1]))


class FaultChain(_Chain):
    """A chain of `size` steps that is clean or spoilt. It pays 1 at the end if it is clean.

    The agent alone decides the outcome: action 1 spoils the chain, 2 repairs it, 0 changes nothing.

    Args:
        size: Number of steps.

    Observation, (2,) int64: number of steps, is_spoilt.

    >>> env = FaultChain(size=3)
    >>> _ = env.reset(seed=0)
    >>> [env.step(action)[1] for action in (SPOIL, REPAIR, WORK)]
    [0.0, 0.0, 1.0]
    """

    def __init__(self, *, size: int = 16) -> None:
        super().__init__(size, 3)
        self.size = size

    def step(self, action: int) -> tuple[IntArray, float, bool, bool, Info]:
        """Take an action."""
        step, is_spoilt = self._state
        if action == SPOIL:
            is_spoilt = 1
        elif action == REPAIR:
            is_spoilt = 0
        self._state = (step + 1, is_spoilt)
        is_over = step + 1 == self.size
        reward = float(is_over and not is_spoilt)
        return np.array(self._state, np.int64), reward, is_over, False, {}

    def repairing_value(self, step: int, is_spoilt: bool, rate: float) -> float:
        """Return the probability of a clean end under `RepairingPolicy(rate)` from a state."""
        return 1.0 - (1.0 - rate) ** (self.size - step) if is_spoilt else 1.0


class RepairingPolicy:
    """Works, and repairs a spoilt FaultChain with a fixed probability at each step.

    Args:
        rate: The probability, in [0, 1].
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.id = f"repairing-{rate:g}"

    def act(self, observation: IntArray, rng: np.random.Generator) -> int:
        """Return an action."""
        return REPAIR if rng.random() < self.rate and observation[1] else WORK


class NoisyKey(_Chain):
    """A key, `size` - 1 apples, a door. At each step the agent takes (1) or leaves (0) the object.

    An apple is sweet or sour by chance: taking it pays `apple` or -`apple`. Opening the door pays 5
    if the agent took the key, so the key's reward comes late, under the noise of the apples.

    Under the policy that takes everything with probability 1/2, taking the key is worth 2.5 more
    than leaving it. The difference of two rollouts has the variance 2 (size - 1) apple^2 / 2 + 6.25
    if their noise is independent, and 6.25 if they have common random numbers.

    Args:
        size: Number of steps before the door.
        apple: Reward of a sweet apple.

    Observation, (2,) int64: number of steps, has_key.

    Source:
        The key-to-door task of Meulemans et al., arXiv 2306.16803.
    """

    def __init__(self, *, size: int = 20, apple: float = 1.5) -> None:
        super().__init__(size + 1, 2)
        self.size = size
        self.apple = apple

    def step(self, action: int) -> tuple[IntArray, float, bool, bool, Info]:
        """Take the object of this step, or leave it."""
        step, has_key = self._state
        # Drawn at every step, so that the noise of later steps does not depend on the actions.
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
        """Return the exact advantage of an action over taking everything with probability 1/2."""
        if step == 0:
            return 1.25 if action else -1.25
        if step == self.size and has_key:
            return 2.5 if action else -2.5
        return 0.0


class Switches(gymnasium.Env[IntArray, int]):
    """A row of switches, set one a step. The last step pays by the two switches that count.

    Args:
        rule: "pivot" pays 1 if switch 2 is on, "and" if switches 2 and 5 are on, "or" if one is.
        size: Number of switches.

    Observation, (2,) int64: number of steps, and the two switches that count as a number 0 to 3.
    """

    PIVOTS = (2, 5)

    def __init__(self, *, rule: Literal["pivot", "and", "or"] = "pivot", size: int = 8) -> None:
        self.rule = rule
        self.size = size
        high = np.array([size, 3], np.int64)
        self.observation_space = spaces.Box(np.zeros(2, np.int64), high, dtype=np.int64)
        self.action_space = spaces.Discrete(2)  # type: ignore[assignment]
        self._step = 0
        self._on: Pair = (0, 0)

    def reset(
        self, *, seed: int | None = None, options: JsonObject | None = None
    ) -> tuple[IntArray, Info]:
        """Turn all switches off."""
        super().reset(seed=seed)
        self._step = 0
        self._on = (0, 0)
        return self._observe(), {}

    def step(self, action: int) -> tuple[IntArray, float, bool, bool, Info]:
        """Turn the next switch on (1) or leave it off (0)."""
        first, second = self._on
        if self._step == self.PIVOTS[0]:
            first = int(action)
        if self._step == self.PIVOTS[1]:
            second = int(action)
        self._on = (first, second)
        self._step += 1
        is_over = self._step == self.size
        return self._observe(), float(is_over and self.pays(first, second)), is_over, False, {}

    def pays(self, first: int, second: int) -> bool:
        """Return whether the rule pays for these positions of the two switches that count."""
        if self.rule == "pivot":
            return bool(first)
        if self.rule == "and":
            return bool(first and second)
        return bool(first or second)

    def get_state(self) -> tuple[int, int, int]:
        """Return the number of steps and the two switches that count."""
        return self._step, *self._on

    def set_state(self, state: tuple[int, int, int]) -> None:
        """Restore a state that `get_state` returned."""
        self._step = int(state[0])
        self._on = (int(state[1]), int(state[2]))

    def _observe(self) -> IntArray:
        return np.array([self._step, 2 * self._on[0] + self._on[1]], np.int64)
