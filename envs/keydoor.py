"""KeyDoor: a corridor with a key and a door. The reward comes late, and its cause is known."""

from __future__ import annotations

import functools

import gymnasium
import numpy as np

from trajrec.types import FloatArray, Info, IntArray, JsonObject

LEFT, RIGHT, PICK_UP, OPEN = range(4)


class KeyDoor(gymnasium.Env[IntArray, np.int64]):
    """A corridor of `size` cells: a key in cell 0, a door in the last cell, the agent in between.

    Opening the door ends the episode, with reward 1 if the agent holds the key and 0 otherwise.
    Picking up the key pays nothing although it earns the reward. A coin in the middle pays nothing
    either: it is there for estimators to credit wrongly.

    Args:
        size: Number of cells, at least 3.
        slip: Probability that a move has no effect, in [0, 1).
        max_steps: Number of steps after which the episode is truncated.

    Observation, (4,) int64: position, has_key, has_coin, number of steps. Actions: 0 left, 1 right,
    2 pick up, 3 open.

    >>> env = KeyDoor(size=3)
    >>> env.reset(seed=0)[0].tolist()
    [1, 0, 0, 0]
    >>> [env.step(action)[1] for action in (0, 2, 1, 1, 3)]
    [0.0, 0.0, 0.0, 0.0, 1.0]
    """

    def __init__(self, *, size: int = 8, slip: float = 0.0, max_steps: int = 64) -> None:
        if size < 3:
            raise ValueError(f"size must be at least 3, got {size!r}")
        if not 0.0 <= slip < 1.0:
            raise ValueError(f"slip must be in [0, 1), got {slip!r}")
        if max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps!r}")
        self.size = size
        self.slip = slip
        self.max_steps = max_steps
        high = np.array([size - 1, 1, 1, max_steps], np.int64)
        self.observation_space = gymnasium.spaces.Box(np.zeros(4, np.int64), high, dtype=np.int64)
        self.action_space = gymnasium.spaces.Discrete(4)
        self._position = 0
        self._n_steps = 0
        self._has_key = False
        self._has_coin = False
        self._is_open = False

    def reset(
        self, *, seed: int | None = None, options: JsonObject | None = None
    ) -> tuple[IntArray, Info]:
        """Put the agent into the middle cell, or into the cell `options["position"]`."""
        super().reset(seed=seed)
        position = (options or {}).get("position", self.size // 2)
        if not 0 <= position < self.size:
            raise ValueError(f"options['position'] must be in [0, {self.size}), got {position!r}")
        self._position = int(position)
        self._n_steps = 0
        self._has_key = False
        self._has_coin = False
        self._is_open = False
        return self._observe(), {}

    def step(self, action: np.int64 | int) -> tuple[IntArray, float, bool, bool, Info]:
        """Take an action. An action that is impossible in the agent's cell does nothing."""
        if not self.action_space.contains(action):
            raise ValueError(f"action must be in [0, 4), got {action!r}")
        reward = 0.0
        self._n_steps += 1
        # Without slip no random number is drawn: the recorded samples rely on it.
        if action in (LEFT, RIGHT) and not (self.slip and self.np_random.random() < self.slip):
            move = 1 if action == RIGHT else -1
            self._position = min(self.size - 1, max(0, self._position + move))
        elif action == PICK_UP:
            self._has_key = self._has_key or self._position == 0
            self._has_coin = self._has_coin or self._position == self.size // 2
        elif action == OPEN and self._position == self.size - 1:
            self._is_open = True
            reward = float(self._has_key)
        truncated = not self._is_open and self._n_steps >= self.max_steps
        return self._observe(), reward, self._is_open, truncated, {}

    def get_state(self) -> dict[str, int]:
        """Return the whole state except the generator's."""
        return {
            "position": self._position,
            "has_key": int(self._has_key),
            "has_coin": int(self._has_coin),
            "n_steps": self._n_steps,
            "is_open": int(self._is_open),
        }

    def set_state(self, state: dict[str, int]) -> None:
        """Restore a state that `get_state` returned."""
        self._position = state["position"]
        self._n_steps = state["n_steps"]
        self._has_key = bool(state["has_key"])
        self._has_coin = bool(state["has_coin"])
        self._is_open = bool(state["is_open"])

    def random_value(self, position: int, has_key: bool, n_steps: int) -> float:
        """Return the probability that a uniformly random policy wins from a state.

        The exact value to compare estimates with, computed by dynamic programming over positions,
        key and remaining steps.
        """
        return _random_value(self.size, self.slip, position, has_key, self.max_steps - n_steps)

    def _observe(self) -> IntArray:
        return np.array([self._position, self._has_key, self._has_coin, self._n_steps], np.int64)


@functools.cache
def _random_value(size: int, slip: float, position: int, has_key: bool, steps_left: int) -> float:
    # values[key, cell]: the probability of winning, with the number of steps left growing by one
    # in each round.
    values: FloatArray = np.zeros((2, size))
    for _ in range(steps_left):
        previous = np.empty_like(values)
        for key in (0, 1):
            left = np.concatenate([values[key, :1], values[key, :-1]])
            right = np.concatenate([values[key, 1:], values[key, -1:]])
            moves = (1 - slip) * (left + right) + 2 * slip * values[key]
            pick_up = values[key].copy()
            pick_up[0] = values[1, 0]
            opened = values[key].copy()
            opened[-1] = float(key)
            previous[key] = (moves + pick_up + opened) / 4
        values = previous
    return float(values[int(has_key), position])
