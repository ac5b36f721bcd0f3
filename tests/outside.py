"""An environment whose state lies in another process; `python outside.py` is this process.

A request is a tuple: a command and its values. The answer is a value, pickled.
"""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np


class Outside(gym.Env[Any, Any]):
    """A random walk in a simulator, which can store its state and restore it."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gym.spaces.Discrete(3)
        self.simulator = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, *request: Any) -> Any:
        assert self.simulator.stdin is not None
        assert self.simulator.stdout is not None
        pickle.dump(request, self.simulator.stdin)
        self.simulator.stdin.flush()
        return pickle.load(self.simulator.stdout)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.array(self.ask("reset", int(self.np_random.integers(1 << 30)))), {}

    def step(self, action: Any) -> Any:
        position, n_steps = self.ask("step", int(action))
        return np.array([position, n_steps]), float(position), n_steps >= 40, False, {}

    def take_snapshot(self) -> Any:
        return self.ask("take"), self.np_random.bit_generator.state

    def restore_snapshot(self, name: Any) -> None:
        number, self.np_random.bit_generator.state = name
        self.ask("restore", number)

    def close(self) -> None:
        assert self.simulator.stdin is not None
        assert self.simulator.stdout is not None
        self.simulator.stdin.close()
        self.simulator.wait(10)
        self.simulator.stdout.close()

    def drop_snapshot(self, name: Any) -> None:
        self.ask("drop", name[0])


class Forgetful(Outside):
    """Does not restore anything."""

    def restore_snapshot(self, name: Any) -> None:
        self.ask("position")


class Full(Outside):
    """Can store one snapshot only."""

    n_taken = 0

    def take_snapshot(self) -> Any:
        self.n_taken += 1
        if self.n_taken > 1:
            raise OSError("disk full")
        return super().take_snapshot()


def main() -> None:
    rng = random.Random()
    position = 0.0
    n_steps = 0.0
    snapshots: list[Any] = []
    while True:
        try:
            command, *values = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if command == "reset":
            rng = random.Random(values[0])
            position = 0.0
            n_steps = 0.0
        elif command == "step":
            position = position + values[0] - 1 + rng.random()
            n_steps += 1
        elif command == "restore":
            state, position, n_steps = snapshots[values[0]]
            rng.setstate(state)
        elif command == "take":
            snapshots.append((rng.getstate(), position, n_steps))
        elif command == "drop":
            snapshots[values[0]] = None
        answer: Any = (position, n_steps)
        if command == "take":
            answer = len(snapshots) - 1
        elif command == "count":
            answer = sum(snapshot is not None for snapshot in snapshots)
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
