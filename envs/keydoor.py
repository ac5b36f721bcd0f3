"""KeyDoor: a corridor with a key at one end and a door at the other. The reward comes late, and its cause is known."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np

LEFT, RIGHT, PICK_UP, OPEN = range(4)
Observation = np.ndarray[Any, np.dtype[np.int64]]


class KeyDoor(gymnasium.Env[Observation, np.int64]):
    """A corridor of `size` cells: a key in cell 0, a door in the last, the agent between them.

    Opening the door ends the episode, with reward 1 if the agent holds the key and 0 if not. Picking up the key pays nothing,
    and is what the reward is owed to. A coin in the middle pays nothing either: it is there to be wrongly credited.

    Args:
        size: Cells of the corridor, at least 3.
        slip: Probability that a move goes nowhere, in [0, 1).
        max_steps: Steps after which the episode is truncated.

    Observation, (4,) int64: position, has_key, has_coin, steps taken. Actions: 0 left, 1 right, 2 pick up, 3 open.

    >>> env = KeyDoor(size=3)
    >>> env.reset(seed=0)[0].tolist()
    [1, 0, 0, 0]
    >>> [env.step(a)[1] for a in (0, 2, 1, 1, 3)]
    [0.0, 0.0, 0.0, 0.0, 1.0]
    """

    def __init__(self, *, size: int = 8, slip: float = 0.0, max_steps: int = 64) -> None:
        if size < 3:
            raise ValueError(f"size must be at least 3, got {size!r}")
        if not 0.0 <= slip < 1.0:
            raise ValueError(f"slip must be in [0, 1), got {slip!r}")
        if max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps!r}")
        self.size, self.slip, self.max_steps = size, slip, max_steps
        high = np.array([size - 1, 1, 1, max_steps], np.int64)
        self.observation_space = gymnasium.spaces.Box(np.zeros(4, np.int64), high, dtype=np.int64)
        self.action_space = gymnasium.spaces.Discrete(4)
        self._position = self._n_steps = 0
        self._has_key = self._has_coin = self._is_open = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Put the agent in the middle, or where `options["position"]` says."""
        super().reset(seed=seed)
        position = (options or {}).get("position", self.size // 2)
        if not 0 <= position < self.size:
            raise ValueError(f"options['position'] must be in [0, {self.size}), got {position!r}")
        self._position, self._n_steps = int(position), 0
        self._has_key = self._has_coin = self._is_open = False
        return self._observe(), {}

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take an action; one that makes no sense where the agent stands does nothing."""
        if not self.action_space.contains(action):
            raise ValueError(f"action must be in [0, 4), got {action!r}")
        reward = 0.0
        self._n_steps += 1
        if action in (LEFT, RIGHT) and not (self.slip and self.np_random.random() < self.slip):
            self._position = min(
                self.size - 1, max(0, self._position + (1 if action == RIGHT else -1))
            )
        elif action == PICK_UP:
            self._has_key = self._has_key or self._position == 0
            self._has_coin = self._has_coin or self._position == self.size // 2
        elif action == OPEN and self._position == self.size - 1:
            self._is_open, reward = True, float(self._has_key)
        return (
            self._observe(),
            reward,
            self._is_open,
            not self._is_open and self._n_steps >= self.max_steps,
            {},
        )

    def get_state(self) -> dict[str, int]:
        """Return the whole state but the generator's."""
        return {
            "position": self._position,
            "has_key": int(self._has_key),
            "has_coin": int(self._has_coin),
            "n_steps": self._n_steps,
            "is_open": int(self._is_open),
        }

    def set_state(self, state: dict[str, int]) -> None:
        """Put the environment into a state that `get_state` returned."""
        self._position, self._n_steps = state["position"], state["n_steps"]
        self._has_key, self._has_coin = bool(state["has_key"]), bool(state["has_coin"])
        self._is_open = bool(state["is_open"])

    def random_value(self, position: int, has_key: bool, n_steps: int) -> float:
        """Return the probability that a uniformly random policy still wins from a state: the truth to measure credit against.

        Computed by dynamic programming over positions, key and steps left.
        """
        return _random_value(self.size, self.slip, position, has_key, self.max_steps - n_steps)

    def _observe(self) -> Observation:
        return np.array([self._position, self._has_key, self._has_coin, self._n_steps], np.int64)


@functools.cache
def _random_value(size: int, slip: float, position: int, has_key: bool, steps_left: int) -> float:
    values = np.zeros((2, size))
    for _ in range(steps_left):
        before = np.empty_like(values)
        for key in (0, 1):
            left = np.concatenate([values[key, :1], values[key, :-1]])
            right = np.concatenate([values[key, 1:], values[key, -1:]])
            moves = (1 - slip) * (left + right) + 2 * slip * values[key]
            pick_up, open_ = values[key].copy(), values[key].copy()
            pick_up[0] = values[1, 0]
            open_[-1] = float(key)
            before[key] = (moves + pick_up + open_) / 4
        values = before
    return float(values[int(has_key), position])
