"""Episodes of environments whose values are known, and these values, by dynamic programming over the steps left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

import trajrec
import trajrec.envs
from benchmarks import scratch_folder
from trajrec.corpus.episode import Episode
from trajrec.replay.credit import TabularPolicy

Array = np.ndarray[Any, np.dtype[np.float64]]


class Criterion(NamedTuple):
    """A figure, what it is to reach, and whether it does."""

    what: str
    measured: float
    wanted: str
    holds: bool

    def __str__(self) -> str:
        return f"{'ok  ' if self.holds else 'MISS'} {self.what}: {self.measured:.4g} (to reach: {self.wanted})"


def at_least(what: str, measured: float, bar: float) -> Criterion:
    """Return a criterion that holds from a bar on."""
    return Criterion(what, float(measured), f">= {bar:g}", bool(measured >= bar))


def at_most(what: str, measured: float, bar: float) -> Criterion:
    """Return a criterion that holds up to a bar."""
    return Criterion(what, float(measured), f"<= {bar:g}", bool(measured <= bar))


@dataclass
class Truth:
    """The values of a policy in a tabular environment.

    Attributes:
        policy: The policy.
        values: (n_steps + 1, S) float64: V at a step of the episode, in a state.
        actions: (n_steps, S, A) float64: Q likewise.
    """

    policy: TabularPolicy
    values: Array
    actions: Array

    def advantage(self, step: int, state: int, action: int) -> float:
        """Return Q - V."""
        return float(self.actions[step, state, action] - self.values[step, state])


class Model(NamedTuple):
    """A tabular environment: (S, A, S') probabilities of going on, and the mean reward, (S, A)."""

    going_on: Array
    rewards: Array


def model_of(env: gym.Env[Any, Any]) -> Model:
    """Return the model of a toy text environment."""
    table: Any = env.unwrapped.P  # type: ignore[attr-defined]
    n, n_actions = len(table), len(table[0])
    going_on, rewards = np.zeros((n, n_actions, n)), np.zeros((n, n_actions))
    for s in range(n):
        for a in range(n_actions):
            for p, after, reward, is_over in table[s][a]:
                rewards[s, a] += p * reward
                if not is_over:
                    going_on[s, a, after] += p
    return Model(going_on, rewards)


def best_q(model: Model, gamma: float = 0.999, n: int = 2000) -> Array:
    """Return Q of the best policy, (S, A), by value iteration."""
    values = np.zeros(len(model.rewards))
    for _ in range(n):
        q: Array = model.rewards + gamma * model.going_on @ values
        values = q.max(axis=1)
    return q


def truth_of(model: Model, policy: TabularPolicy, limit: int) -> Truth:
    """Return the values of a policy where an episode ends after `limit` steps."""
    table = np.array([policy.dist(s) for s in range(len(model.rewards))])
    values = np.zeros((limit + 1, len(model.rewards)))
    actions = np.zeros((limit, *model.rewards.shape))
    for step in reversed(range(limit)):
        actions[step] = model.rewards + model.going_on @ values[step + 1]
        values[step] = (table * actions[step]).sum(axis=1)
    return Truth(policy, values, actions)


def record(
    make: Callable[[], gym.Env[Any, Any]],
    policy: Any,
    n: int,
    *,
    seed: int = 0,
    max_steps: int | None = None,
) -> list[Episode]:
    """Record n episodes of a policy; return them."""
    folder = scratch_folder()
    env = trajrec.record(make(), folder)
    rng = np.random.default_rng(seed)
    for k in range(n):
        observation, _ = env.reset(seed=seed * 100_000 + k)
        is_over, step = False, 0
        while not is_over and (max_steps is None or step < max_steps):
            observation, _, terminated, truncated, _ = env.step(policy.act(observation, rng))
            is_over, step = terminated or truncated, step + 1
    env.close()
    corpus = trajrec.open(folder)
    return list(corpus.episodes(order_by="number"))


def toy(
    env_id: str, epsilon: float, limit: int | None = None, **kwargs: Any
) -> tuple[Callable[[], Any], Truth]:
    """Return what makes a toy text environment, and the values of its epsilon-greedy policy."""

    def make() -> Any:
        return gym.make(env_id, **kwargs)

    env = make()
    model = model_of(env)
    steps = limit or env.spec.max_episode_steps
    return make, truth_of(model, TabularPolicy.greedy(best_q(model), epsilon), steps)


def states(episode: Episode) -> list[int]:
    """Return the states of a toy text episode before each step, and the last."""
    return [int(observation) for observation in episode.observation_values]
