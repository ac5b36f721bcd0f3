"""Confidence intervals of rates over tasks: one arm, two arms on the same tasks, and pass^k.

The unit is the task, not the rollout: rollouts of one task resemble each other. With few tasks, or
with rates near 0 or 1, bootstraps and Student's t cover far less than they say. Every interval of
this module is a closed form, draws no random numbers, and never has zero width.

The functions take arrays of shape (..., T): the last axis holds the T tasks of a corpus, the axes
before it hold corpora, so that a simulation computes thousands of intervals at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trajrec.statistics.quantiles import CONFIDENCE, t_quantile
from trajrec.types import FloatArray


class Limits(NamedTuple):
    """Estimates with the ends of their intervals.

    Attributes:
        value: The estimates, shape (...), float64.
        ci_low: Lower ends, of the same shape.
        ci_high: Upper ends, of the same shape.
    """

    value: FloatArray
    ci_low: FloatArray
    ci_high: FloatArray


class TaskSpread(NamedTuple):
    """Means over tasks, and their variance between tasks.

    Attributes:
        mean: Shape (...), float64.
        variance: Sample variance over the tasks, shape (...), exactly 0 if all tasks are equal.
    """

    mean: FloatArray
    variance: FloatArray


def spread_over_tasks(values: FloatArray) -> TaskSpread:
    """Return the mean and the sample variance over tasks.

    Args:
        values: Shape (..., T), T >= 2, float64.
    """
    mean = values.mean(axis=-1)
    variance = values.var(axis=-1, ddof=1)
    # The mean of equal values may differ from them by rounding.
    is_flat = np.all(values == values[..., :1], axis=-1)
    return TaskSpread(mean, np.where(is_flat, 0.0, variance))


def score_limits(share: FloatArray, n: FloatArray, quantile: float) -> Limits:
    """Return Wilson's limits of shares of n independent trials.

    Args:
        share: Shares, in [0, 1].
        n: Trials, > 0, need not be whole numbers.
        quantile: How many standard errors the limits are away: of the normal or of Student's t.

    >>> limits = score_limits(np.array(0.0), np.array(5.0), quantile=2.0)
    >>> round(float(limits.ci_high), 4)
    0.4444
    """
    square = quantile * quantile
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = quantile * np.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    low = np.clip(np.minimum(share, centre - half), 0.0, 1.0)
    high = np.clip(np.maximum(share, centre + half), 0.0, 1.0)
    return Limits(share, low, high)


def rate_over_tasks(
    rates: FloatArray, most: FloatArray | float, confidence: float = CONFIDENCE
) -> Limits:
    """Return the mean rate over tasks, with Wilson's limits for an effective number of trials.

    The effective number is the one whose binomial variance is the observed variance of the mean.
    It is clipped to [T / 2, most], and is T if all tasks are equal. Student's quantile with T - 1
    degrees of freedom stands in place of the normal one, since the variance is estimated.

    Args:
        rates: The rate of each task, in [0, 1], shape (..., T), T >= 2.
        most: The number of rollouts: no corpus knows more than they do. Shape (...) or a number.
        confidence: The share of intervals that cover the true rate.

    >>> round(float(rate_over_tasks(np.zeros(5), 20).ci_high), 4)
    0.6066
    """
    n_tasks = rates.shape[-1]
    mean, variance = spread_over_tasks(rates)
    is_flat = variance == 0.0
    of_mean = np.where(is_flat, 1.0, variance) / n_tasks
    effective = np.where(is_flat, float(n_tasks), mean * (1 - mean) / of_mean)
    effective = np.clip(effective, n_tasks / 2, np.maximum(most, n_tasks / 2))
    return score_limits(mean, effective, t_quantile(confidence, n_tasks - 1))


def mover_difference(
    rates_a: FloatArray,
    rates_b: FloatArray,
    most_a: FloatArray | float,
    most_b: FloatArray | float,
    confidence: float = CONFIDENCE,
) -> Limits:
    """Return the difference of the rates of two arms on the same tasks, b - a, by square-and-add.

    Args:
        rates_a: The rate of each task in the first arm, in [0, 1], shape (..., T), T >= 2.
        rates_b: The same of the second arm.
        most_a: Rollouts of the first arm, shape (...) or a number.
        most_b: Rollouts of the second arm.
        confidence: The share of intervals that cover the true difference.

    Source:
        Newcombe, Statist. Med. 17 (1998) 2635, method 10 for pairs, with the limits of
        `rate_over_tasks` and the correlation of the rates over tasks.
    """
    arm_a = rate_over_tasks(rates_a, most_a, confidence)
    arm_b = rate_over_tasks(rates_b, most_b, confidence)
    correlation = _correlation(rates_a, rates_b)
    difference = arm_b.value - arm_a.value
    below_b = arm_b.value - arm_b.ci_low
    above_b = arm_b.ci_high - arm_b.value
    below_a = arm_a.value - arm_a.ci_low
    above_a = arm_a.ci_high - arm_a.value
    low = difference - _square_and_add(below_b, above_a, correlation)
    high = difference + _square_and_add(above_b, below_a, correlation)
    return Limits(difference, low, high)


def _square_and_add(first: FloatArray, second: FloatArray, correlation: FloatArray) -> FloatArray:
    """Return the length of a side of a triangle: the spread of a difference of correlated parts."""
    square = first * first - 2 * correlation * first * second + second * second
    return np.asarray(np.sqrt(np.maximum(square, 0.0)))


def _correlation(rates_a: FloatArray, rates_b: FloatArray) -> FloatArray:
    """Return the correlation over tasks, shape (...); 0 if an arm does not vary."""
    spread_a = spread_over_tasks(rates_a)
    spread_b = spread_over_tasks(rates_b)
    n_tasks = rates_a.shape[-1]
    deviations = (rates_a - spread_a.mean[..., None]) * (rates_b - spread_b.mean[..., None])
    covariance = deviations.sum(axis=-1) / (n_tasks - 1)
    scale = np.sqrt(spread_a.variance * spread_b.variance)
    is_flat = scale == 0.0
    correlation = np.where(is_flat, 0.0, covariance / np.where(is_flat, 1.0, scale))
    return np.asarray(np.clip(correlation, -1.0, 1.0))


def t_difference(differences: FloatArray, confidence: float = CONFIDENCE) -> Limits:
    """Return the mean difference over tasks with Student's interval.

    It has no width if all tasks differ alike: use `hull_difference`.

    Args:
        differences: The difference of each task, shape (..., T), T >= 2.
        confidence: The share of intervals that cover the true mean.
    """
    n_tasks = differences.shape[-1]
    mean, variance = spread_over_tasks(differences)
    half = t_quantile(confidence, n_tasks - 1) * np.sqrt(variance / n_tasks)
    return Limits(mean, mean - half, mean + half)


def hull_difference(
    rates_a: FloatArray,
    rates_b: FloatArray,
    most_a: FloatArray | float,
    most_b: FloatArray | float,
    confidence: float = CONFIDENCE,
) -> Limits:
    """Return the difference of rates, b - a, with the hull of Student's interval and of MOVER.

    Each of the two covers too little in some corpora: t if few tasks vary, MOVER if a few tasks
    vary much. Their hull covers at least 93.5 % in each of 384 simulated conditions
    (`benchmarks/attribution.py`), and is at most 1.2 times as wide as t from 20 tasks on.

    Both have no width if every task has the same rate in both arms, so the hull is never narrower
    than Student's interval with two more tasks, of which one gains a rollout and one loses one.

    Args:
        rates_a: The rate of each task in the first arm, in [0, 1], shape (..., T), T >= 2.
        rates_b: The same of the second arm.
        most_a: Rollouts of the first arm, shape (...) or a number.
        most_b: Rollouts of the second arm.
        confidence: The share of intervals that cover the true difference.

    >>> hull = hull_difference(np.zeros(5), np.ones(5), 20, 20)
    >>> [round(float(end), 3) for end in hull]
    [1.0, 0.142, 1.0]
    """
    mover = mover_difference(rates_a, rates_b, most_a, most_b, confidence)
    student = t_difference(rates_b - rates_a, confidence)
    least = _least_half_width(rates_a.shape[-1], np.minimum(most_a, most_b), confidence)
    low = np.minimum(np.minimum(mover.ci_low, student.ci_low), mover.value - least)
    high = np.maximum(np.maximum(mover.ci_high, student.ci_high), mover.value + least)
    return Limits(mover.value, np.clip(low, -1.0, 1.0), np.clip(high, -1.0, 1.0))


def _least_half_width(
    n_tasks: int, n_rollouts: FloatArray | float, confidence: float
) -> FloatArray:
    """Return the half width if all tasks agree, but for two that differ by a rollout, one each way.

    The idea is that of Bonett & Price, J. Educ. Behav. Stat. 37 (2012), for k rollouts a task.
    """
    step = np.minimum(1.0, n_tasks / np.asarray(n_rollouts, np.float64))
    variance = 2 * step * step / (n_tasks + 1)
    return np.asarray(t_quantile(confidence, n_tasks + 1) * np.sqrt(variance / (n_tasks + 2)))


def difference_on_these(
    passed_a: FloatArray,
    n_a: FloatArray,
    passed_b: FloatArray,
    n_b: FloatArray,
    confidence: float = CONFIDENCE,
) -> Limits:
    """Return the difference of mean rates on these tasks alone, b - a: nothing about other tasks.

    Only the chance of the rollouts counts. The variance of a cell is q(1 - q) / n with
    q = (passed + 1/2) / (n + 1), so that a cell that always passed has a variance too.

    Args:
        passed_a: Successes of each task in the first arm, shape (..., T).
        n_a: Rollouts of each task in the first arm, each >= 2.
        passed_b: Successes of each task in the second arm.
        n_b: Rollouts of each task in the second arm, each >= 2.
        confidence: The share of intervals that cover the true difference on these tasks.
    """
    n_tasks = passed_a.shape[-1]
    difference = (passed_b / n_b - passed_a / n_a).mean(axis=-1)
    variance = (_cell_variance(passed_a, n_a) + _cell_variance(passed_b, n_b)).sum(axis=-1)
    # Cells of equal arms have the same degrees of freedom, so the smallest sum stands for all.
    df = float(((n_a - 1) + (n_b - 1)).sum(axis=-1).min())
    half = t_quantile(confidence, df) * np.sqrt(variance) / n_tasks
    low = np.clip(difference - half, -1.0, 1.0)
    high = np.clip(difference + half, -1.0, 1.0)
    return Limits(difference, low, high)


def _cell_variance(passed: FloatArray, n: FloatArray) -> FloatArray:
    shrunk = (passed + 0.5) / (n + 1)
    return np.asarray(shrunk * (1 - shrunk) / n)
