"""Where the chance of winning changes: a Bayesian model of one fault that the agent may recover from."""

from __future__ import annotations

import numpy as np

from trajrec.types import FloatArray

RATES = np.array([0.0, 0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4])
LEVELS = np.array(
    [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.995, 0.9999]
)
_FLOOR = 1e-4


class ChangePoint:
    """Beliefs about the step f whose action is the fault: rollouts from steps up to f win with a level p, and later ones, from
    step k of T, with p (1 - (1 - r)^(T - k)): the agent repairs the fault with a rate r at each step that is left.

    With a rate of 0 that is a fault that nothing repairs. Level and rate are not known, and summed over.

    Args:
        n_steps: T.
    """

    def __init__(self, n_steps: int) -> None:
        self._n = n_steps
        left = n_steps - np.arange(n_steps)
        recovered = 1.0 - (1.0 - RATES[:, None]) ** left[None, :]  # (rates, T)
        # Probability of winning from step k, for each level and rate: before the fault, and after it; (levels, rates, T).
        self._before = np.broadcast_to(LEVELS[:, None, None], (len(LEVELS), len(RATES), n_steps))
        self._after = np.clip(LEVELS[:, None, None] * recovered[None], _FLOOR, 1 - _FLOOR)
        # Log likelihood of what was seen; at step k it counts as "after" for the faults f < k.
        self._seen: dict[int, tuple[int, int]] = {}

    def add(self, step: int, won: int, n: int) -> None:
        """Take in that n rollouts from a step won so often."""
        before = self._seen.get(step, (0, 0))
        self._seen[step] = before[0] + won, before[1] + n

    def _log_weights(self) -> FloatArray:
        """Return the log posterior of (levels, rates, f), not normalised."""
        shape = (len(LEVELS), len(RATES), self._n)
        total = np.zeros(shape)
        faults = np.arange(self._n)
        for step, (won, n) in self._seen.items():
            lost = n - won
            b, a = self._before[:, :, step], self._after[:, :, step]
            of_before = won * np.log(b) + lost * np.log1p(-b)
            of_after = won * np.log(a) + lost * np.log1p(-a)
            total += np.where(
                faults[None, None, :] < step, of_after[:, :, None], of_before[:, :, None]
            )
        return total

    def probabilities(self) -> FloatArray:
        """Return the probability of each step to be the fault, (T,) float64."""
        weights = self._log_weights()
        weights = np.exp(weights - weights.max())
        found: FloatArray = weights.sum(axis=(0, 1)) / weights.sum()
        return found

    def drop(self, fault: int) -> float:
        """Return what a fault at a step costs, in probability of winning."""
        weights = self._log_weights()[:, :, fault]
        weights = np.exp(weights - weights.max())
        weights /= weights.sum()
        after = 0.0 if fault + 1 == self._n else self._after[:, :, fault + 1]
        return float((weights * (self._before[:, :, fault] - after)).sum())

    def next_probe(self) -> int:
        """Return the step from which a rollout tells most about the fault: the mutual information is largest."""
        weights = self._log_weights()
        weights = np.exp(weights - weights.max())
        weights /= weights.sum()
        of_fault = weights.sum(axis=(0, 1))  # (T,)
        # The chance of winning from step k given the fault f, over what is believed of level and rate there.
        safe = np.maximum(of_fault, 1e-300)
        # E[p(k) | f] for k <= f is the mean level; for k > f the mean of the recovering one: a (T, T) table, by two products.
        mean_level = (weights * self._before[:, :, :1]).sum(axis=(0, 1)) / safe
        flat, after = weights.reshape(-1, self._n), self._after.reshape(-1, self._n)
        mean_after = (after.T @ flat) / safe[None, :]  # (k, f)
        k, f = np.arange(self._n)[:, None], np.arange(self._n)[None, :]
        chance = np.where(k > f, mean_after, mean_level[None, :])
        overall = chance @ of_fault
        information = _entropy(overall) - _entropy(chance) @ of_fault
        return int(information.argmax())


def _entropy(p: FloatArray) -> FloatArray:
    q = np.clip(p, 1e-12, 1 - 1e-12)
    found: FloatArray = -(q * np.log(q) + (1 - q) * np.log(1 - q))
    return found
