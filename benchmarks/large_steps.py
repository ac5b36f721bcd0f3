"""`python -m benchmarks.large_steps`: recording steps of much data, beyond the bare environment.

A bare environment and a recorded one take the same actions, in blocks by turns, so that a machine
that others use slows both alike. Prints the CPU time of all threads beyond the bare environment,
the time until the log is closed included, and the bytes.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

import trajrec
from benchmarks import scratch_folder
from trajrec.types import AnyEnv, Array

N_PASSES = 7
BLOCK = 25


class Film(gym.Env[Array, Any]):
    """Frames of 240x320 pixels that all change in each step.

    Args:
        kind: "noise": random pixels; "tiles": tiles of 8x8 pixels in random colours.
    """

    observation_space = gym.spaces.Box(0, 255, (240, 320, 3), np.uint8)
    action_space = gym.spaces.Discrete(4)

    N_FRAMES = 16

    def __init__(self, kind: str) -> None:
        rng = np.random.default_rng(0)
        shape = (self.N_FRAMES, 240, 320, 3) if kind == "noise" else (self.N_FRAMES, 30, 40, 3)
        frames = rng.integers(0, 256, shape, np.uint8)
        self.frames = frames if kind == "noise" else frames.repeat(8, axis=1).repeat(8, axis=2)
        self.n_steps = 0

    def reset(
        self, *, seed: int | None = None, options: Any = None
    ) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        return self.frames[0].copy(), {}

    def step(self, action: int) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        return self.frames[self.n_steps % self.N_FRAMES].copy(), 0.0, False, False, {}


class Case(NamedTuple):
    """An environment, a number of steps, and the goal in us beyond the bare environment."""

    make: Callable[[], AnyEnv]
    n_steps: int
    goal_us: float


CASES = {
    "Humanoid, ~23-step episodes": Case(functools.partial(gym.make, "Humanoid-v5"), 1_500, 100),
    "Ant": Case(functools.partial(gym.make, "Ant-v5"), 1_500, 50),
    "240x320x3 noise": Case(functools.partial(Film, "noise"), 300, 250),
    "240x320x3 tiles": Case(functools.partial(Film, "tiles"), 300, 250),
}


def main() -> None:
    """Print the figures of each case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_steps", description=__doc__)
    parser.add_argument("--passes", type=int, default=N_PASSES)
    parser.add_argument("names", nargs="*", default=list(CASES))
    arguments = parser.parse_args()
    for name in arguments.names:
        case = CASES[name]
        passes = [_measure(case) for _ in range(arguments.passes)]
        bare_us, beyond_us, n_bytes = (
            statistics.median(column) for column in zip(*passes, strict=True)
        )
        print(
            f"{name}: bare {bare_us:.0f}, recording {beyond_us:.0f} us/step more "
            f"(goal: {case.goal_us:.0f}), {n_bytes:,.0f} bytes/step",
            flush=True,
        )


def _measure(case: Case) -> tuple[float, float, float]:
    """Return the bare CPU time, the time beyond it (both in us a step), and the bytes a step."""
    folder = scratch_folder()
    bare = case.make()
    recorded = trajrec.record(case.make(), folder)
    bare.action_space.seed(0)
    actions = [bare.action_space.sample() for _ in range(case.n_steps)]
    for env in (bare, recorded):
        env.reset(seed=0)
    bare_s = 0.0
    recorded_s = 0.0
    for first in range(0, case.n_steps, BLOCK):
        block = actions[first : first + BLOCK]
        begin = time.process_time()
        _play(bare, block)
        middle = time.process_time()
        _play(recorded, block)
        bare_s += middle - begin
        recorded_s += time.process_time() - middle
    begin = time.process_time()
    recorded.close()
    recorded_s += time.process_time() - begin
    bare.close()
    size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    scale = 1e6 / case.n_steps
    return bare_s * scale, (recorded_s - bare_s) * scale, size_bytes / case.n_steps


def _play(env: AnyEnv, actions: list[Any]) -> None:
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()


if __name__ == "__main__":
    main()
