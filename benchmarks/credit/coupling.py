"""What shared scenarios can save, exactly: the variance of an advantage under shared and under fresh noise, by dynamic
programming over pairs of states.

Two rollouts of one scenario draw the same numbers at the same step: a policy one uniform number for its action, a toy text
environment one for what comes of it. So they are a Markov chain of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from benchmarks.credit.truths import Array
from trajrec.replay.credit import TabularPolicy


class _Outcome(NamedTuple):
    """One of the things that come of an action: its probability, the state after, and the reward."""

    p: float
    after: int
    reward: float


class Coupled:
    """Pairs of rollouts of a policy in a toy text environment, under the same noise.

    Args:
        env: The environment.
        policy: Acts by one uniform number.
        limit: Steps of an episode.

    Attributes:
        first: (limit + 1, S + 1, S + 1) float64: mean difference of the returns of two rollouts that are in two states at a
            step; state S is that of an episode that is over.
        second: Likewise the mean square.
    """

    def __init__(self, env: gym.Env[Any, Any], policy: TabularPolicy, limit: int) -> None:
        table: Any = env.unwrapped.P  # type: ignore[attr-defined]
        self.over = n = len(table)
        self._outcomes = [
            [
                [_Outcome(p, n if over else after, r) for p, after, r, over in table[s][a]]
                for a in range(len(table[s]))
            ]
            for s in range(n)
        ] + [[[_Outcome(1.0, n, 0.0)]]]
        self._acts = [[float(p) for p in policy.dist(s)] for s in range(n)] + [[1.0]]
        size = n + 1
        here, after, p, difference = self._transitions(size)
        self.first, self.second = (
            np.zeros((limit + 1, size * size)),
            np.zeros((limit + 1, size * size)),
        )
        for step in reversed(range(limit)):
            one, two = self.first[step + 1][after], self.second[step + 1][after]
            self.first[step] = np.bincount(here, p * (difference + one), size * size)
            self.second[step] = np.bincount(
                here, p * (difference**2 + 2 * difference * one + two), size * size
            )
        self.first, self.second = (
            moments.reshape(limit + 1, size, size) for moments in (self.first, self.second)
        )

    def variances(self, step: int, state: int, action: int) -> tuple[float, float]:
        """Return the variance of the difference of two rollouts from a state, one of which takes an action first.

        Returns:
            In fresh noise, and in shared noise.
        """
        one = two = 0.0
        for act, p_act in enumerate(self._acts[state]):
            for p, x, y in self._pairs(self._outcomes[state][action], self._outcomes[state][act]):
                difference = x.reward - y.reward
                mean, square = (
                    self.first[step + 1, x.after, y.after],
                    self.second[step + 1, x.after, y.after],
                )
                one += p_act * p * (difference + mean)
                two += p_act * p * (difference**2 + 2 * difference * mean + square)
        alone = self.first[step, state, self.over], self.second[step, state, self.over]
        forced = [0.0, 0.0]
        for p, after, reward in self._outcomes[state][action]:
            mean, square = (
                self.first[step + 1, after, self.over],
                self.second[step + 1, after, self.over],
            )
            forced[0] += p * (reward + mean)
            forced[1] += p * (reward**2 + 2 * reward * mean + square)
        fresh = alone[1] - alone[0] ** 2 + forced[1] - forced[0] ** 2
        return float(fresh), float(two - one**2)

    def _transitions(self, size: int) -> tuple[Array, Array, Array, Array]:
        """Return where each transition of a pair begins and ends, its probability, and the difference of the rewards."""
        found = []
        for s in range(size):
            for t in range(size):
                for p_act, a, b in _joint(self._acts[s], self._acts[t]):
                    for p, x, y in self._pairs(self._outcomes[s][a], self._outcomes[t][b]):
                        found.append(
                            (s * size + t, x.after * size + y.after, p_act * p, x.reward - y.reward)
                        )
        here, after, p, difference = (np.array(column) for column in zip(*found, strict=True))
        return here, after, p, difference

    @staticmethod
    def _pairs(
        a: Sequence[_Outcome], b: Sequence[_Outcome]
    ) -> list[tuple[float, _Outcome, _Outcome]]:
        return [(p, a[i], b[j]) for p, i, j in _joint([x.p for x in a], [x.p for x in b])]


def _joint(a: Sequence[float], b: Sequence[float]) -> list[tuple[float, int, int]]:
    """Return how likely one uniform number chooses i by the probabilities a, and j by b."""
    ends = [np.cumsum(a), np.cumsum(b)]
    bounds = np.unique(np.round(np.concatenate([[0.0], *ends]), 12))
    found = []
    for low, high in pairwise(bounds):
        i, j = (min(int(np.searchsorted(end, (low + high) / 2)), len(end) - 1) for end in ends)
        found.append((float(high - low), i, j))
    return found
