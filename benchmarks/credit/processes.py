"""Random decision processes with exact answers: returns of several kinds, ties, absorbing states.

Each process is drawn from its kind and a seed. Its environment keeps all of its state in three
attributes, and draws the same numbers at each step.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np

from benchmarks.credit.truths import Truth
from trajrec.replay.credit import TabularPolicy
from trajrec.types import FloatArray

Kind = Literal["binary", "goal", "ties", "gauss", "rare", "delay"]

N_ACTIONS = 3

# More than any process has.
STATES = 100

# A loss with a chance of up to 2 % a step, as large as a hundred usual rewards.
RARE_LOSS = -100.0
RARE_CHANCES = (0.002, 0.005, 0.01, 0.02)

# Steps between the action that matters and its reward.
DELAY = 100


class Process(NamedTuple):
    """A decision process.

    Attributes:
        kind: How it was drawn. "binary": a reward of 1 with a chance in each step; "ties" the same,
            and two actions are equal; "goal": the first reward of 1 ends the episode; "gauss":
            normal rewards; "rare": small rewards and rare large losses; "delay": the first action
            alone decides, and is paid 100 steps later among normal rewards.
        transitions: Probability of the next state, (S, A, S) float64.
        base: Fixed reward, (S, A) float64.
        chance: Chance of the extra reward, (S, A) float64.
        size: The extra reward.
        noise: Standard deviation of a normal reward with the mean 0, (S,) float64.
        last: Reward for the state before the last step, (S,) float64.
        ends: Whether the extra reward ends the episode.
        length: Steps of an episode.
        policy: Probability of each action, (S, A) float64.
    """

    kind: Kind
    transitions: FloatArray
    base: FloatArray
    chance: FloatArray
    size: float
    noise: FloatArray
    last: FloatArray
    ends: bool
    length: int
    policy: FloatArray


@functools.lru_cache(maxsize=1000)
def draw_process(kind: Kind, seed: int) -> Process:
    """Return the process of a kind and a seed."""
    if kind == "delay":
        return _delay()
    rng = np.random.default_rng([seed, sum(map(ord, kind))])
    n_states = int(rng.integers(5, 11))
    length = int(rng.integers(20, 61))
    transitions = rng.dirichlet(np.full(n_states, 0.4), (n_states, N_ACTIONS))
    absorbing = rng.choice(n_states, int(rng.integers(0, 3)), replace=False)
    # Rarely reached: an episode that is absorbed at once has nothing to estimate.
    transitions[:, :, absorbing] *= 0.05
    transitions /= transitions.sum(axis=2, keepdims=True)
    transitions[absorbing] = 0.0
    transitions[absorbing, :, absorbing] = 1.0
    shape = (n_states, N_ACTIONS)
    base = np.zeros(shape)
    chance = np.zeros(shape)
    noise = np.zeros(n_states)
    size = 1.0
    if kind == "gauss":
        base = rng.normal(size=shape)
        noise[:] = 1.0
    elif kind == "rare":
        size = RARE_LOSS
        base = rng.random(shape)
        chance = np.where(rng.random(shape) < 0.5, rng.choice(RARE_CHANCES, shape), 0.0)
    else:
        most = 0.3 if kind == "goal" else 1.0
        chance = (rng.random(shape) < 0.3) * rng.random(shape) * most
    for table in (base, chance, noise):
        table[absorbing] = 0.0
    if kind == "ties":
        transitions[:, 2] = transitions[:, 1]
        chance[:, 2] = chance[:, 1]
    return Process(
        kind=kind,
        transitions=transitions,
        base=base,
        chance=chance,
        size=size,
        noise=noise,
        last=np.zeros(n_states),
        ends=kind == "goal",
        length=length,
        policy=rng.dirichlet(np.full(N_ACTIONS, 0.6), n_states),
    )


def _delay() -> Process:
    """Return a process in which the first action takes a key or not: states start, key, no key."""
    transitions = np.zeros((3, N_ACTIONS, 3))
    transitions[0, 0, 1] = 1.0
    transitions[0, 1:, 2] = 1.0
    transitions[1, :, 1] = 1.0
    transitions[2, :, 2] = 1.0
    zeros = np.zeros((3, N_ACTIONS))
    return Process(
        kind="delay",
        transitions=transitions,
        base=zeros,
        chance=zeros,
        size=0.0,
        noise=np.ones(3),
        last=np.array([0.0, 5.0, 0.0]),
        ends=False,
        length=DELAY + 1,
        policy=np.full((3, N_ACTIONS), 1 / N_ACTIONS),
    )


def truth_of_process(process: Process) -> Truth:
    """Return the exact values of the process's policy."""
    n_states = len(process.base)
    values = np.zeros((process.length + 1, n_states))
    actions = np.zeros((process.length, n_states, N_ACTIONS))
    rewards = process.base + process.size * process.chance
    goes_on = 1.0 - process.chance * process.ends
    for step in reversed(range(process.length)):
        actions[step] = rewards + goes_on * (process.transitions @ values[step + 1])
        if step == process.length - 1:
            actions[step] += process.last[:, None]
        values[step] = (process.policy * actions[step]).sum(axis=1)
    policy = TabularPolicy(process.policy, lambda observation: observation % STATES, process.kind)
    return Truth(policy, values, actions)


class ProcessEnv(gym.Env[Any, Any]):
    """The environment of all processes of a kind: the seed of a reset chooses the process.

    An observation is 100 times the number of the process, plus the number of the state. One
    recording can thus hold episodes of many processes.

    Args:
        kind: See `draw_process`.
    """

    action_space = gym.spaces.Discrete(N_ACTIONS)
    observation_space = gym.spaces.Discrete(1 << 60)

    def __init__(self, kind: Kind = "binary") -> None:
        self._kind: Kind = kind
        self._choose(0)
        self._state = 0
        self._step = 0

    def _choose(self, number: int) -> None:
        self._number = number
        self._process = draw_process(self._kind, number)
        self._cumulative = self._process.transitions.cumsum(axis=2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        """Begin in a random state that is not absorbing; with a delay, in the first state."""
        super().reset(seed=seed)
        if seed is not None:
            self._choose(seed)
        is_absorbing = np.einsum("iai->ia", self._process.transitions) == 1.0
        starts = [0] if self._kind == "delay" else np.flatnonzero(~is_absorbing.all(axis=1))
        self._state = int(self.np_random.choice(starts))
        self._step = 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Take a step."""
        process = self._process
        state = self._state
        next_draw, extra_draw = self.np_random.random(2)
        normal = self.np_random.standard_normal()
        has_extra = bool(extra_draw < process.chance[state, action])
        reward = process.base[state, action] + process.size * has_extra
        reward += process.noise[state] * normal
        self._step += 1
        if self._step == process.length:
            reward += process.last[state]
        row = self._cumulative[state, action]
        self._state = min(int(row.searchsorted(next_draw, side="right")), len(row) - 1)
        is_over = has_extra and process.ends
        is_cut = self._step >= process.length
        return self._observation(), float(reward), is_over, is_cut, {}

    def _observation(self) -> int:
        return STATES * self._number + self._state

    def get_state(self) -> list[int]:
        """Return the state as plain data."""
        return [self._number, self._state, self._step]

    def set_state(self, state: list[int]) -> None:
        """Put the environment into a state."""
        number, self._state, self._step = state
        if number != self._number:
            self._choose(number)


class ProcessPolicy:
    """The policy of each process of a kind.

    Args:
        kind: See `draw_process`.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind: Kind = kind
        self.id = f"{kind}-processes"

    def act(self, observation: int, rng: np.random.Generator) -> int:
        """Return an action."""
        number, state = divmod(observation, STATES)
        row = draw_process(self._kind, number).policy[state].cumsum()
        return min(int(row.searchsorted(rng.random(), side="right")), N_ACTIONS - 1)
