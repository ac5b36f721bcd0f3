"""Contrasts of cells: sums of rates of the same tasks, with intervals over tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trajrec.analysis.estimate import Estimate
from trajrec.statistics.intervals import augmented_t
from trajrec.types import FloatArray


def contrast(
    passed: Sequence[FloatArray], n: Sequence[FloatArray], weights: Sequence[float]
) -> Estimate:
    """Return a weighted sum of mean rates over tasks, with its interval.

    The interval is Student's over tasks with two added tasks, one standard deviation of a binomial
    cell away on each side, so that it has a width if all tasks agree.

    Args:
        passed: Successes of each task in each cell, shape (T,) each.
        n: Rollouts of each task in each cell, shape (T,) each, all at least 1.
        weights: The weight of each cell.

    >>> ones = np.ones(4)
    >>> contrast([0 * ones, 4 * ones], [4 * ones, 4 * ones], [-1.0, 1.0]).value
    1.0
    """
    values = np.zeros(len(n[0]))
    variances = np.zeros(len(n[0]))
    for of_cell, n_of_cell, weight in zip(passed, n, weights, strict=True):
        values += weight * of_cell / n_of_cell
        # Shrunk rates, so that a cell that always passed varies too.
        shrunk = (of_cell + 0.5) / (n_of_cell + 1)
        variances += weight**2 * shrunk * (1 - shrunk) / n_of_cell
    scale = float(np.sqrt(variances.mean()))
    interval = augmented_t(values, scale)
    most = float(sum(weight for weight in weights if weight > 0))
    least = float(sum(weight for weight in weights if weight < 0))
    return Estimate(
        value=interval.value,
        ci_low=max(interval.ci_low, least),
        ci_high=min(interval.ci_high, most),
    )
