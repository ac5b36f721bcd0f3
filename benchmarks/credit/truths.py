"""Environments with known values, their episodes, and the criteria of a benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium as gym
import numpy as np

import trajrec
import trajrec.envs
from benchmarks import scratch_folder
from trajrec.corpus.episode import Episode
from trajrec.replay.credit import Estimate, TabularPolicy
from trajrec.types import AnyEnv, FloatArray, Value

# An interval may end exactly at the truth, apart from rounding.
ROUNDING = 1e-9


class Criterion(NamedTuple):
    """A measured figure, and whether it reaches its bar.

    Attributes:
        name: The figure, in words.
        measured: Its value.
        bar: The bar, as text.
        holds: Whether the figure reaches the bar.
    """

    name: str
    measured: float
    bar: str
    holds: bool

    def __str__(self) -> str:
        mark = "ok  " if self.holds else "MISS"
        return f"{mark} {self.name}: {self.measured:.4g} (bar: {self.bar})"


def at_least(name: str, measured: float, bar: float) -> Criterion:
    """Return a criterion that holds if a figure is not below a bar."""
    return Criterion(name, float(measured), f">= {bar:g}", bool(measured >= bar))


def at_most(name: str, measured: float, bar: float) -> Criterion:
    """Return a criterion that holds if a figure is not above a bar."""
    return Criterion(name, float(measured), f"<= {bar:g}", bool(measured <= bar))


def is_covered(interval: Estimate, exact: float) -> bool:
    """Return whether the interval of an estimate holds the exact value."""
    return interval.ci_low - ROUNDING <= exact <= interval.ci_high + ROUNDING


@dataclass
class Truth:
    """The exact values of a policy in a tabular environment.

    Attributes:
        policy: The policy.
        values: V of each step and state, (n_steps + 1, S) float64.
        actions: Q of each step, state and action, (n_steps, S, A) float64.
    """

    policy: TabularPolicy
    values: FloatArray
    actions: FloatArray

    def advantage(self, step: int, state: int, action: int) -> float:
        """Return Q - V."""
        return float(self.actions[step, state, action] - self.values[step, state])


class Model(NamedTuple):
    """A tabular environment.

    Attributes:
        transitions: Probability that the episode continues in S', (S, A, S') float64.
        rewards: Mean reward, (S, A) float64.
    """

    transitions: FloatArray
    rewards: FloatArray


def model_of(env: AnyEnv) -> Model:
    """Return the model of a toy text environment."""
    table: Value = env.unwrapped.P  # type: ignore[attr-defined]
    n_states = len(table)
    n_actions = len(table[0])
    transitions = np.zeros((n_states, n_actions, n_states))
    rewards = np.zeros((n_states, n_actions))
    for state in range(n_states):
        for action in range(n_actions):
            for probability, next_state, reward, is_over in table[state][action]:
                rewards[state, action] += probability * reward
                if not is_over:
                    transitions[state, action, next_state] += probability
    return Model(transitions, rewards)


def best_q(model: Model, *, gamma: float = 0.999, n_iterations: int = 2000) -> FloatArray:
    """Return Q of the best policy by value iteration, (S, A) float64.

    A discount near 1 makes shorter ways better, so that the best policy does not wander.
    """
    values = np.zeros(len(model.rewards))
    for _ in range(n_iterations):
        q: FloatArray = model.rewards + gamma * model.transitions @ values
        values = q.max(axis=1)
    return q


def truth_of(model: Model, policy: TabularPolicy, limit: int) -> Truth:
    """Return the values of a policy in episodes of at most `limit` steps."""
    probabilities = np.array([policy.dist(state) for state in range(len(model.rewards))])
    values = np.zeros((limit + 1, len(model.rewards)))
    actions = np.zeros((limit, *model.rewards.shape))
    for step in reversed(range(limit)):
        actions[step] = model.rewards + model.transitions @ values[step + 1]
        values[step] = (probabilities * actions[step]).sum(axis=1)
    return Truth(policy, values, actions)


def record(
    make: Callable[[], AnyEnv],
    policy: Value,
    n: int,
    *,
    seed: int = 0,
    max_steps: int | None = None,
) -> list[Episode]:
    """Record n episodes of a policy and return them."""
    folder = scratch_folder()
    env = trajrec.record(make(), folder)
    rng = np.random.default_rng(seed)
    for k in range(n):
        # Far apart, so that two corpora have no episode in common.
        observation, _ = env.reset(seed=seed * 100_000 + k)
        n_steps = 0
        is_over = False
        while not is_over and (max_steps is None or n_steps < max_steps):
            observation, _, terminated, truncated, _ = env.step(policy.act(observation, rng))
            is_over = terminated or truncated
            n_steps += 1
    env.close()
    corpus = trajrec.open(folder)
    return list(corpus.episodes(order_by="number"))


def record_actions(env_id: str, actions: list[int], **kwargs: Value) -> Episode:
    """Record an episode with given actions and return it."""
    env = trajrec.record(gym.make(env_id, **kwargs), scratch_folder())
    env.reset(seed=0)
    for action in actions:
        env.step(action)
    env.close()
    return next(trajrec.open(env.path.parent).episodes())


def toy(
    env_id: str, epsilon: float, limit: int | None = None, **kwargs: Value
) -> tuple[Callable[[], AnyEnv], Truth]:
    """Return a maker of a toy text environment, and the values of its epsilon-greedy policy."""

    def make() -> AnyEnv:
        return gym.make(env_id, **kwargs)

    env = make()
    model = model_of(env)
    if limit is None:
        assert env.spec is not None
        assert env.spec.max_episode_steps is not None
        limit = env.spec.max_episode_steps
    policy = TabularPolicy.greedy(best_q(model), epsilon)
    return make, truth_of(model, policy, limit)


def states(episode: Episode) -> list[int]:
    """Return the state of a toy text episode before each step, and the last state."""
    return [int(observation) for observation in episode.observation_values]


def true_values(truth: Truth, episode: Episode) -> list[float]:
    """Return V of the state before each step, and of the last state."""
    return [float(truth.values[step, state]) for step, state in enumerate(states(episode))]


def true_advantages(truth: Truth, episode: Episode) -> list[float]:
    """Return the exact advantage of each recorded action."""
    pairs = zip(states(episode), episode.actions, strict=False)
    return [truth.advantage(step, state, int(action)) for step, (state, action) in enumerate(pairs)]
