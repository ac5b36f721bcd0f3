"""`python -m benchmarks.rollouts`: a step of a rollout in shared noise, against a bare step.

A rollout step seeds the generators, computes the key by which rollouts are merged, asks the policy
and steps the environment. The bare loop asks the same policy and steps the same environment. Both
are CPU times; of a merged rollout only the steps that were taken count.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

import trajrec
from benchmarks.credit.processes import ProcessEnv
from benchmarks.scenarios import loop, random_policy
from trajrec.corpus.episode import Episode
from trajrec.replay.credit.sampling.noise import Noise
from trajrec.replay.credit.sampling.options import RolloutConfig
from trajrec.replay.credit.sampling.setup import make_runner
from trajrec.replay.execute.factories import make_by_id
from trajrec.replay.forks.env_source import EnvSource
from trajrec.types import AnyEnv, Observation

N_PASSES = 9
N_ROLLOUTS = 12
MAX_STEPS = 200
GOAL = 4.0


class Warehouse(gym.Env[Any, Any]):
    """A walk in a warehouse that keeps its tables in attributes, as environments of users do."""

    observation_space = gym.spaces.Discrete(400)
    action_space = gym.spaces.Discrete(4)

    SIDE = 20

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.walls = rng.random((self.SIDE, self.SIDE)) < 0.2
        self.walls[0, 0] = False
        self.prices = rng.random((self.SIDE * self.SIDE, 4))
        self.names = [f"shelf {k}" for k in range(100)]
        self.moves = {0: (0, 1), 1: (0, -1), 2: (1, 0), 3: (-1, 0)}
        self.stock = {name: [k, float(k), True] for k, name in enumerate(self.names)}
        self.position = (0, 0)
        self.n_steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = (0, 0)
        self.n_steps = 0
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if self.np_random.random() < 0.2:
            action = int(self.np_random.integers(4))
        down, right = self.moves[action]
        row = min(max(self.position[0] + down, 0), self.SIDE - 1)
        column = min(max(self.position[1] + right, 0), self.SIDE - 1)
        if not self.walls[row, column]:
            self.position = (row, column)
        self.n_steps += 1
        number = self.SIDE * self.position[0] + self.position[1]
        return number, float(self.prices[number, action]), False, self.n_steps >= MAX_STEPS, {}


CASES: dict[str, Callable[[], AnyEnv]] = {
    "FrozenLake": functools.partial(gym.make, "FrozenLake8x8-v1"),
    "Taxi": functools.partial(gym.make, "Taxi-v4"),
    "CliffWalkingSlippery": functools.partial(
        gym.make, "CliffWalkingSlippery-v1", max_episode_steps=MAX_STEPS
    ),
    "Blackjack": functools.partial(gym.make, "Blackjack-v1"),
    "CartPole": functools.partial(gym.make, "CartPole-v1"),
    "Pendulum": functools.partial(gym.make, "Pendulum-v1"),
    "MiniGrid Empty-8x8": functools.partial(make_by_id, "MiniGrid-Empty-8x8-v0"),
    "Hopper": functools.partial(gym.make, "Hopper-v5"),
    "a random process": ProcessEnv,
    "a warehouse with tables": Warehouse,
}


class Pass(NamedTuple):
    """CPU times a step, in us."""

    bare_us: float
    rollout_us: float


class SampledPolicy:
    """Draws from a space, with the generator of the rollout."""

    def __init__(self, space: gym.Space[Any]) -> None:
        self._space = space

    def act(self, observation: Observation, rng: np.random.Generator) -> Any:
        space = self._space
        if isinstance(space, gym.spaces.Discrete):
            return int(rng.random() * int(space.n))
        assert isinstance(space, gym.spaces.Box)
        return rng.uniform(space.low, space.high).astype(space.dtype)


def main() -> None:
    """Print the times and ratios of each case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollouts", description=__doc__)
    parser.add_argument("--passes", type=int, default=N_PASSES)
    parser.add_argument("names", nargs="*", default=list(CASES))
    arguments = parser.parse_args()
    for name in arguments.names:
        passes = _measure(CASES[name], arguments.passes)
        bare_us = statistics.median(one.bare_us for one in passes)
        rollout_us = statistics.median(one.rollout_us for one in passes)
        ratio = statistics.median(one.rollout_us / one.bare_us for one in passes)
        print(
            f"{name}: bare {bare_us:.1f}, in a rollout {rollout_us:.1f} us/step: {ratio:.2f}x "
            f"(goal: {GOAL:.0f})",
            flush=True,
        )


def _measure(make: Callable[[], AnyEnv], n_passes: int) -> list[Pass]:
    with tempfile.TemporaryDirectory() as folder:
        env = trajrec.record(make(), folder)
        loop(env, random_policy(env), MAX_STEPS)
        env.close()
        with trajrec.open(folder) as corpus:
            episode = max(corpus.episodes(), key=lambda episode: episode.n_steps)
            return [_pass(episode, make, seed) for seed in range(n_passes)]


def _pass(episode: Episode, make: Callable[[], AnyEnv], seed: int) -> Pass:
    """Run rollouts from the start of an episode, and as many bare steps right after."""
    env = make()
    policy = SampledPolicy(env.action_space)
    config = RolloutConfig(
        policy=policy,
        noise=Noise("shared", seed),
        max_steps=MAX_STEPS,
        source=EnvSource(factory=make),
    )
    runner = make_runner(episode, config, restore="auto", n_slots=1)
    runner.goto(0)
    runner.run(range(1))
    begin = time.process_time()
    rollouts = runner.run(range(1, 1 + N_ROLLOUTS))
    rollout_s = time.process_time() - begin
    n_steps = sum(rollout.env_steps for rollout in rollouts)
    rng = np.random.default_rng(0)
    n_bare = 0
    begin = time.process_time()
    while n_bare < n_steps:
        observation, _ = env.reset(seed=seed if n_bare == 0 else None)
        for _ in range(MAX_STEPS):
            observation, _, terminated, truncated, _ = env.step(policy.act(observation, rng))
            n_bare += 1
            if terminated or truncated:
                break
    bare_s = time.process_time() - begin
    env.close()
    for simulator in runner.simulators:
        simulator.close()
    return Pass(bare_s / n_bare * 1e6, rollout_s / n_steps * 1e6)


if __name__ == "__main__":
    main()
