"""An environment whose state lies in another process; `python outside.py` is that process."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np


class Outside(gym.Env[Any, Any]):
    """A walk in a simulator of its own, which can keep its state and go back to it."""

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
        place, n = self.ask("step", int(action))
        return np.array([place, n]), float(place), n >= 40, False, {}

    def take_snapshot(self) -> Any:
        return self.ask("keep"), self.np_random.bit_generator.state

    def restore_snapshot(self, name: Any) -> None:
        number, self.np_random.bit_generator.state = name
        self.ask("go", number)

    def close(self) -> None:
        assert self.simulator.stdin is not None
        assert self.simulator.stdout is not None
        self.simulator.stdin.close()
        self.simulator.wait(10)
        self.simulator.stdout.close()

    def drop_snapshot(self, name: Any) -> None:
        self.ask("drop", name[0])


class Forgetful(Outside):
    """Goes back to nothing."""

    def restore_snapshot(self, name: Any) -> None:
        self.ask("place")


class Full(Outside):
    """Can keep nothing any more after a while."""

    n_kept = 0

    def take_snapshot(self) -> Any:
        self.n_kept += 1
        if self.n_kept > 1:
            raise OSError("disk full")
        return super().take_snapshot()


def main() -> None:
    drawn = random.Random()
    place = 0.0
    n = 0.0
    snapshots: list[Any] = []
    while True:
        try:
            what, *values = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if what == "reset":
            drawn = random.Random(values[0])
            place = 0.0
            n = 0.0
        elif what == "step":
            place = place + values[0] - 1 + drawn.random()
            n = n + 1
        elif what == "go":
            state, place, n = snapshots[values[0]]
            drawn.setstate(state)
        elif what == "keep":
            snapshots.append((drawn.getstate(), place, n))
        elif what == "drop":
            snapshots[values[0]] = None
        answer = (
            len(snapshots) - 1
            if what == "keep"
            else sum(one is not None for one in snapshots)
            if what == "kept"
            else (place, n)
        )
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
