"""Random recordings: environments of any spaces, infos, rewards and failures, and agents."""

from __future__ import annotations

import contextlib
import copy
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import random_values as rv
from random_values import Rng, pick

import trajrec
from trajrec.replay import fork_many
from trajrec.replay.credit import counterfactual


class BusyError(Exception):
    pass


class RandomEnv(gym.Env[Any, Any]):
    """An environment whose results are random, of the spaces that a seed chooses.

    Args:
        rng: Decides everything.
    """

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.observation_space = rv.space(rng)
        self.action_space = rv.space(rng)
        self.observation_space.seed(int(rng.integers(1 << 31)))
        self.action_space.seed(int(rng.integers(1 << 31)))
        self.p_failure = pick(rng, [0.0, 0.0, 0.1])
        self.p_odd = pick(rng, [0.0, 0.0, 0.05, 0.5])
        self.has_info = rng.random() < 0.7
        self.reward_kind = int(rng.integers(9))
        self.state = self._state()

    def _state(self) -> Any:
        kind = int(self.rng.integers(4))
        if kind == 0:
            return rv.array(self.rng, pick(self.rng, rv.NUMBERS), (3,))
        if kind == 1:
            return {"t": 0, "board": [[0, 1], (2.5, None)], 7: rv.array(self.rng)}
        return rv.value(self.rng)

    def _observation(self) -> Any:
        if self.rng.random() < self.p_odd:
            return rv.value(self.rng)
        return self.observation_space.sample()

    def _reward(self) -> Any:
        kinds = [
            lambda: 1.0,
            lambda: rv.real(self.rng),
            lambda: rv.number(self.rng) % 7,
            lambda: np.float32(self.rng.normal()),
            lambda: rv.number(self.rng),
            lambda: pick(self.rng, [1, 1.0, True, np.int8(1), rv.array(self.rng, "f", (2,))]),
            lambda: pick(self.rng, rv.ODD_REWARDS),
            lambda: pick(self.rng, [0.5, *rv.ODD_REWARDS]) if self.rng.random() < 0.1 else 0.5,
            lambda: rv.array(self.rng, pick(self.rng, rv.REWARDS), pick(self.rng, [(), (1,)])),
        ]
        return kinds[self.reward_kind]()

    def _info(self) -> dict[str, Any]:
        return rv.info(self.rng) if self.has_info and self.rng.random() < 0.7 else {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        if self.rng.random() < self.p_failure:
            raise BusyError("no reset")
        return self._observation(), self._info()

    def step(self, action: Any) -> Any:
        if self.rng.random() < self.p_failure:
            raise BusyError("the step failed")
        if self.rng.random() < 0.5:
            self.state = self._state() if self.rng.random() < 0.1 else copy.deepcopy(self.state)
        is_over = self.rng.random() < 0.05
        is_late = self.rng.random() < 0.02
        return self._observation(), self._reward(), is_over, is_late, self._info()


class Pixels(gym.Env[Any, Any]):
    """Large observations of which little changes, or stacks of the last frames."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.axis = pick(rng, [None, 0, -1])
        self.depth = int(rng.integers(2, 5))
        self.dtype = np.dtype(pick(rng, ["u1", "u1", "i2", "f4", "f8"]))
        self.shape = tuple(rng.integers(17, 40, 2).tolist())
        stacked = {None: self.shape, 0: (self.depth, *self.shape), -1: (*self.shape, self.depth)}
        self.observation_space = gym.spaces.Box(0, 255, stacked[self.axis], self.dtype.type)
        self.frames: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        frame = self.rng.integers(0, 255, self.shape).astype(self.dtype)
        self.frames = [frame] * self.depth
        return self._observation(), {}

    def _observation(self) -> Any:
        if self.axis is None:
            return self.frames[-1]
        return np.ascontiguousarray(np.stack(self.frames, self.axis))

    def step(self, action: Any) -> Any:
        frame = self.frames[-1].copy()
        for _ in range(int(self.rng.integers(0, 9))):
            frame[tuple(int(self.rng.integers(n)) for n in self.shape)] = self.rng.integers(255)
        if self.rng.random() < 0.05:
            frame = self.rng.integers(0, 255, self.shape).astype(self.dtype)
        self.frames = [*self.frames[1:], frame]
        return self._observation(), 0.0, bool(self.rng.random() < 0.05), False, {}


def play(env: Any, rng: Rng, n_steps: int) -> None:
    """Run a recorded environment; go on after failures."""
    is_over = True
    for _ in range(n_steps):
        with contextlib.suppress(BusyError):
            if is_over or rng.random() < 0.02:
                seed = pick(rng, [None, 0, 12345678901])
                options = pick(rng, [None, {"level": (1, rv.text(rng))}])
                is_over = True
                env.reset(seed=seed, options=options)
                is_over = False
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            is_over = terminated or truncated


def record_env(folder: Path, rng: Rng) -> None:
    """Record some episodes of a random environment."""
    is_large = rng.random() < 0.3
    env = Pixels(rng) if is_large else RandomEnv(rng)
    options: dict[str, Any] = {"keep_states": pick(rng, ["auto", "keys", "all", "digests"])}
    if not is_large and rng.random() < 0.7:
        options["state"] = lambda env: env.unwrapped.state
    if rng.random() < 0.3:
        options["interface"] = {"model": rv.text(rng), "n": rv.number(rng)}
    recorder = trajrec.record(env, folder, **options)
    play(recorder, rng, int(rng.integers(1, 60)))
    recorder.close()


def record_vector(folder: Path, rng: Rng) -> None:
    """Record a vector environment: a log for each of its environments."""
    env_id = pick(rng, ["CartPole-v1", "Pendulum-v1", "Taxi-v4", "FrozenLake-v1"])
    env = trajrec.record(gym.make_vec(env_id, 3, vectorization_mode="sync"), folder)
    env.action_space.seed(int(rng.integers(1 << 31)))
    env.reset(seed=int(rng.integers(99)))
    for _ in range(int(rng.integers(1, 90))):
        env.step(env.action_space.sample())
    env.close()


def record_forks(folder: Path, rng: Rng) -> None:
    """Record an episode and forks of it, and credit of one of its steps."""
    env = trajrec.record(gym.make("FrozenLake-v1"), folder)
    env.action_space.seed(int(rng.integers(1 << 31)))
    play(env, rng, 12)
    env.close()
    with trajrec.open(folder) as corpus:
        episode = next(iter(corpus.episodes(order_by="n_steps DESC")))
        at = int(rng.integers(episode.n_steps))
        # Random options of the reset may look like paths.
        seed = int(rng.integers(9))
        fork_many(episode, at=at, actions=[2], n_branches=2, seed=seed, allow=["gymnasium"])
        counterfactual(episode, choose, at, action=1, n_rollouts=3, seed=1, allow=["gymnasium"])
    trajrec.close_logs()


def choose(observation: Any, rng: Rng) -> int:
    return int(rng.integers(4))


def record_players(folder: Path, rng: Rng) -> None:
    """Record a game of several players; raises ImportError without PettingZoo."""
    with warnings.catch_warnings():
        # They are imported by their old names.
        warnings.simplefilter("ignore")
        from pettingzoo.classic import rps_v2, tictactoe_v3

    env = trajrec.record(pick(rng, [tictactoe_v3.env, rps_v2.parallel_env])(), folder)
    env.reset(seed=int(rng.integers(9)))
    if hasattr(env, "agent_iter"):
        for _ in env.agent_iter():
            observation, _, is_over, is_late, _ = env.last()
            free = np.flatnonzero(observation["action_mask"])
            env.step(None if is_over or is_late else int(pick(rng, free)))
    while getattr(env, "agents", None) and not hasattr(env, "agent_iter"):
        env.step({agent: int(rng.integers(3)) for agent in env.agents})
    env.close()
