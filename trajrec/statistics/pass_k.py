"""pass@k and pass^k: the chance that one of k rollouts of a task succeeds, and that all do."""

from __future__ import annotations

import math

import numpy as np

from trajrec.statistics.paired_rates import Limits, rate_over_tasks
from trajrec.statistics.quantiles import CONFIDENCE
from trajrec.types import FloatArray


def pass_at_k(n_rollouts: int, n_passed: int, k: int) -> float:
    """Return the unbiased estimate of the chance that at least one of k rollouts succeeds.

    Args:
        n_rollouts: Rollouts of the task, at least k.
        n_passed: Those that succeeded.
        k: Rollouts that are drawn without replacement.

    Raises:
        ValueError: There are fewer than k rollouts.

    Source:
        Chen et al., Evaluating Large Language Models Trained on Code (2021), eq. 1.

    >>> pass_at_k(4, 2, 2)
    0.8333333333333334
    """
    _require(n_rollouts, n_passed, k)
    return 1 - math.comb(n_rollouts - n_passed, k) / math.comb(n_rollouts, k)


def pass_hat_k(n_rollouts: int, n_passed: int, k: int) -> float:
    """Return the unbiased estimate of the chance that k rollouts all succeed.

    The plug-in estimate (n_passed / n_rollouts) ** k is biased upwards: a true 0.273 becomes 0.334
    at n = k = 4.

    Args:
        n_rollouts: Rollouts of the task, at least k.
        n_passed: Those that succeeded.
        k: Rollouts that are drawn without replacement.

    Raises:
        ValueError: There are fewer than k rollouts.

    Source:
        Yao et al., tau-bench (2024), section 5.

    >>> pass_hat_k(4, 2, 2)
    0.16666666666666666
    """
    _require(n_rollouts, n_passed, k)
    return math.comb(n_passed, k) / math.comb(n_rollouts, k)


def _require(n_rollouts: int, n_passed: int, k: int) -> None:
    if not 1 <= k <= n_rollouts:
        raise ValueError(f"k must be from 1 to the {n_rollouts} rollouts of the task, got {k}")
    if not 0 <= n_passed <= n_rollouts:
        raise ValueError(f"n_passed must be from 0 to {n_rollouts}, got {n_passed}")


def mean_over_tasks(values: FloatArray, confidence: float = CONFIDENCE) -> Limits:
    """Return the mean of pass@k or pass^k over tasks, with its interval.

    Args:
        values: The estimate of each task, in [0, 1], shape (..., T). A single task says nothing
            about others: its interval is [0, 1].
        confidence: The share of intervals that cover the true mean.

    >>> [round(float(end), 3) for end in mean_over_tasks(np.ones(3))]
    [1.0, 0.139, 1.0]
    """
    n_tasks = values.shape[-1]
    if n_tasks < 2:
        mean = values.mean(axis=-1)
        return Limits(mean, np.zeros_like(mean), np.ones_like(mean))
    return rate_over_tasks(values, 4.0 * n_tasks, confidence)
