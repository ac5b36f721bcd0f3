"""The exact gain of shared scenarios: the variance of an advantage under shared and fresh noise.

Two rollouts of one scenario draw the same numbers at the same step: a policy one uniform number for
its action, a toy text environment one for its outcome. So the two rollouts are a Markov chain of
pairs of states, and dynamic programming over pairs gives the exact variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from trajrec.replay.credit import TabularPolicy
from trajrec.types import AnyEnv, FloatArray, IntArray, Value

# Bounds of two distributions that differ by rounding are the same bound.
DECIMALS = 12


class Outcome(NamedTuple):
    """A possible outcome of an action: its probability, the next state, and the reward."""

    probability: float
    next_state: int
    reward: float


class JointOutcome(NamedTuple):
    """Outcomes of two actions that the same uniform number gives, and their probability."""

    probability: float
    first: Outcome
    second: Outcome


class JointIndex(NamedTuple):
    """Indices that the same uniform number chooses from two distributions."""

    probability: float
    first: int
    second: int


class Variances(NamedTuple):
    """Variance of the difference of two rollouts with fresh noise, and in shared scenarios."""

    fresh: float
    shared: float


class Transitions(NamedTuple):
    """All transitions of pairs of states, a column each.

    Attributes:
        pair: Number of the pair of states before, (n,) int64.
        next_pair: Number of the pair of states after, (n,) int64.
        probability: (n,) float64.
        difference: Difference of the two rewards, (n,) float64.
    """

    pair: IntArray
    next_pair: IntArray
    probability: FloatArray
    difference: FloatArray


class Coupled:
    """Pairs of rollouts of a policy in a toy text environment, in the same scenario.

    Args:
        env: The environment.
        policy: A policy that draws one uniform number for each action.
        limit: Number of steps of an episode.

    Attributes:
        first: Mean difference of the returns of two rollouts, by step and their two states,
            (limit + 1, S + 1, S + 1) float64. State S is the end of an episode.
        second: Mean square of the difference, likewise.
    """

    def __init__(self, env: AnyEnv, policy: TabularPolicy, limit: int) -> None:
        table: Value = env.unwrapped.P  # type: ignore[attr-defined]
        n_states = len(table)
        self.over = n_states
        self._outcomes: list[list[list[Outcome]]] = [
            [
                [Outcome(p, n_states if is_over else after, r) for p, after, r, is_over in outcomes]
                for outcomes in table[state].values()
            ]
            for state in range(n_states)
        ]
        # After the end there is one action, which changes nothing.
        self._outcomes.append([[Outcome(1.0, n_states, 0.0)]])
        self._action_probabilities = [
            [float(p) for p in policy.dist(state)] for state in range(n_states)
        ]
        self._action_probabilities.append([1.0])
        n_all = n_states + 1
        n_pairs = n_all * n_all
        moves = self._transitions(n_all)
        first = np.zeros((limit + 1, n_pairs))
        second = np.zeros((limit + 1, n_pairs))
        for step in reversed(range(limit)):
            mean = first[step + 1][moves.next_pair]
            square = second[step + 1][moves.next_pair]
            first[step] = np.bincount(
                moves.pair, moves.probability * (moves.difference + mean), n_pairs
            )
            squares = moves.difference**2 + 2 * moves.difference * mean + square
            second[step] = np.bincount(moves.pair, moves.probability * squares, n_pairs)
        self.first: FloatArray = first.reshape(limit + 1, n_all, n_all)
        self.second: FloatArray = second.reshape(limit + 1, n_all, n_all)

    def variances(self, step: int, state: int, action: int) -> Variances:
        """Return the variances of Q(s, a) - V(s), by one rollout with the action and one without."""
        mean = 0.0
        square = 0.0
        for other, probability in enumerate(self._action_probabilities[state]):
            for pair in _couple(self._outcomes[state][action], self._outcomes[state][other]):
                weight = probability * pair.probability
                difference = pair.first.reward - pair.second.reward
                after = (step + 1, pair.first.next_state, pair.second.next_state)
                mean += weight * (difference + self.first[after])
                square += weight * (
                    difference**2 + 2 * difference * self.first[after] + self.second[after]
                )
        # Beside an episode that is over, the difference is the return itself.
        v_mean = self.first[step, state, self.over]
        v_square = self.second[step, state, self.over]
        q_mean = 0.0
        q_square = 0.0
        for outcome in self._outcomes[state][action]:
            after = (step + 1, outcome.next_state, self.over)
            reward = outcome.reward
            q_mean += outcome.probability * (reward + self.first[after])
            q_square += outcome.probability * (
                reward**2 + 2 * reward * self.first[after] + self.second[after]
            )
        fresh = v_square - v_mean**2 + q_square - q_mean**2
        return Variances(fresh=float(fresh), shared=float(square - mean**2))

    def _transitions(self, n_states: int) -> Transitions:
        """Return the transitions of all pairs of states under the policy."""
        rows: list[tuple[int, int, float, float]] = []
        for s in range(n_states):
            for t in range(n_states):
                actions = _couple_indices(
                    self._action_probabilities[s], self._action_probabilities[t]
                )
                for p_actions, a, b in actions:
                    for p, x, y in _couple(self._outcomes[s][a], self._outcomes[t][b]):
                        pair = s * n_states + t
                        next_pair = x.next_state * n_states + y.next_state
                        rows.append((pair, next_pair, p_actions * p, x.reward - y.reward))
        return Transitions(*(np.array(column) for column in zip(*rows, strict=True)))


def _couple(a: Sequence[Outcome], b: Sequence[Outcome]) -> list[JointOutcome]:
    """Return the joint outcomes of two actions whose outcomes the same uniform number decides."""
    indices = _couple_indices([x.probability for x in a], [y.probability for y in b])
    return [JointOutcome(p, a[i], b[j]) for p, i, j in indices]


def _couple_indices(a: Sequence[float], b: Sequence[float]) -> list[JointIndex]:
    """Return the joint choices of one uniform number from two distributions."""
    ends = [np.cumsum(a), np.cumsum(b)]
    bounds = np.unique(np.round(np.concatenate([[0.0], *ends]), DECIMALS))
    joint = []
    for low, high in pairwise(bounds):
        middle = (low + high) / 2
        first, second = (min(int(np.searchsorted(end, middle)), len(end) - 1) for end in ends)
        joint.append(JointIndex(float(high - low), first, second))
    return joint
