"""A Bayesian model of one fault from which the agent may recover."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trajrec.types import FloatArray

# The prior is uniform over these grids: chances of recovery per step, and chances of success before
# the fault. They are dense near 0 and near 1, because the likelihood changes fastest there.
RATES = np.array([0.0, 0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4])
LEVELS = np.array(
    [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.995, 0.9999]
)

# A chance of exactly 0 would let one lucky rollout exclude the true fault for ever.
_FLOOR = 1e-4

# Keeps logarithms and quotients finite; far below every chance of the model.
_TINY = 1e-12
_TINIEST = 1e-300


class Outcomes(NamedTuple):
    """Rollouts from one step, and how many of them were won."""

    n_won: int
    n: int


class ChangePoint:
    """Probabilities of each step f to be the fault, given the outcomes of rollouts.

    Rollouts from steps up to f succeed with a level p. Rollouts from a later step k of T succeed
    with p (1 - (1 - r)^(T - k)): at each remaining step the agent recovers with a rate r. With
    r = 0 nothing repairs the fault. Level and rate are unknown, and summed over.

    Args:
        n_steps: T.
    """

    def __init__(self, n_steps: int) -> None:
        self._n = n_steps
        steps_left = n_steps - np.arange(n_steps)
        recovered = 1.0 - (1.0 - RATES[:, None]) ** steps_left[None, :]
        # Chance of success from step k before and after the fault, (levels, rates, T) each.
        shape = (len(LEVELS), len(RATES), n_steps)
        self._before = np.broadcast_to(LEVELS[:, None, None], shape)
        self._after = np.clip(LEVELS[:, None, None] * recovered[None], _FLOOR, 1 - _FLOOR)
        self._outcomes: dict[int, Outcomes] = {}

    def add(self, step: int, won: int, n: int) -> None:
        """Add the outcomes of n rollouts from a step."""
        earlier = self._outcomes.get(step, Outcomes(0, 0))
        self._outcomes[step] = Outcomes(earlier.n_won + won, earlier.n + n)

    def probabilities(self) -> FloatArray:
        """Return the probability of each step to be the fault, (T,) float64."""
        weights = self._log_weights()
        # Less the maximum, so that the largest weight is 1 and none overflows.
        weights = np.exp(weights - weights.max())
        probabilities: FloatArray = weights.sum(axis=(0, 1)) / weights.sum()
        return probabilities

    def drop(self, fault: int) -> float:
        """Return the loss of success probability by a fault at a step."""
        weights = _normalised(self._log_weights()[:, :, fault])
        after = 0.0 if fault + 1 == self._n else self._after[:, :, fault + 1]
        return float((weights * (self._before[:, :, fault] - after)).sum())

    def next_probe(self) -> int:
        """Return the step whose next rollout has the largest mutual information with the fault."""
        weights = _normalised(self._log_weights())
        of_fault = weights.sum(axis=(0, 1))
        # chance[k, f]: of success from step k given the fault f, averaged over level and rate. For
        # k <= f it is the mean level, for k > f the mean chance after a fault. Two products give
        # the whole table; a loop over f would repeat the sums T times.
        safe = np.maximum(of_fault, _TINIEST)
        mean_level = (weights * self._before[:, :, :1]).sum(axis=(0, 1)) / safe
        flat = weights.reshape(-1, self._n)
        after = self._after.reshape(-1, self._n)
        mean_after = (after.T @ flat) / safe[None, :]
        steps = np.arange(self._n)[:, None]
        faults = np.arange(self._n)[None, :]
        chance = np.where(steps > faults, mean_after, mean_level[None, :])
        overall = chance @ of_fault
        information = _entropy(overall) - _entropy(chance) @ of_fault
        return int(information.argmax())

    def _log_weights(self) -> FloatArray:
        """Return the log posterior of (levels, rates, f), not normalised."""
        total = np.zeros((len(LEVELS), len(RATES), self._n))
        faults = np.arange(self._n)
        for step, outcomes in self._outcomes.items():
            n_lost = outcomes.n - outcomes.n_won
            before = self._before[:, :, step]
            after = self._after[:, :, step]
            log_before = outcomes.n_won * np.log(before) + n_lost * np.log1p(-before)
            log_after = outcomes.n_won * np.log(after) + n_lost * np.log1p(-after)
            # The step is after the faults f < step.
            is_after = faults[None, None, :] < step
            total += np.where(is_after, log_after[:, :, None], log_before[:, :, None])
        return total


def _normalised(log_weights: FloatArray) -> FloatArray:
    """Return weights that sum to 1 from their logarithms."""
    weights: FloatArray = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    return weights


def _entropy(chance: FloatArray) -> FloatArray:
    """Return the entropy of a success with each chance, in nats."""
    q = np.clip(chance, _TINY, 1 - _TINY)
    entropy: FloatArray = -(q * np.log(q) + (1 - q) * np.log(1 - q))
    return entropy
