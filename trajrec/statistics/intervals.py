"""Confidence intervals of shares, of means, and of differences of independent or paired arms.

Each function takes samples and returns an `Interval`; its method is stored with the estimate. The
usual intervals of paired differences have no width if every pair agrees, although the next pair
may still differ. The intervals of this module keep a width in that case.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from trajrec.statistics.quantiles import CONFIDENCE, normal_quantile, t_quantile
from trajrec.types import FloatArray


class Interval(NamedTuple):
    """An estimate with its confidence interval.

    Attributes:
        value: The estimate.
        ci_low: Lower end of the interval.
        ci_high: Upper end of the interval.
        method: How the interval was computed; stored with the estimate.
    """

    value: float
    ci_low: float
    ci_high: float
    method: str


UNKNOWN = Interval(math.nan, -math.inf, math.inf, "none")
"""The interval of an estimate without samples: any number is possible."""


def standard_deviation(values: FloatArray) -> float:
    """Return the standard deviation of values of shape (n,), or 0.0 if there are none."""
    return float(values.std()) if len(values) else 0.0


def is_binary(values: FloatArray) -> bool:
    """Return whether every value is 0 or 1."""
    return bool(np.all((values == 0.0) | (values == 1.0)))


def wilson(values: FloatArray, confidence: float = CONFIDENCE) -> Interval:
    """Return the share of ones with Wilson's score interval.

    Args:
        values: Zeros and ones, shape (n,), n >= 1.
        confidence: The share of intervals that cover the true share.

    Source:
        Wilson, JASA 22 (1927); Brown, Cai & DasGupta, Statist. Sci. 16 (2001).

    >>> wilson(np.array([1.0] * 8 + [0.0] * 8))
    Interval(value=0.5, ci_low=0.27999..., ci_high=0.72000..., method='wilson')
    """
    n = len(values)
    share = float(values.mean())
    z = normal_quantile(confidence)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Rounding may leave the share itself, or [0, 1], by the last bit.
    low = max(0.0, min(share, centre - half))
    high = min(1.0, max(share, centre + half))
    return Interval(share, low, high, "wilson")


def student(values: FloatArray, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean with Student's interval, which is infinite for a single value.

    >>> student(np.array([1.0, 2.0, 3.0, 4.0]))
    Interval(value=2.5, ci_low=0.44573..., ci_high=4.55426..., method='t')
    """
    n = len(values)
    centre = float(values.mean())
    if n < 2:
        return Interval(centre, -math.inf, math.inf, "t")
    half = t_quantile(confidence, n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(centre, centre - half, centre + half, "t")


def mean(values: FloatArray, scale: float | None, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of one arm: a share by Wilson's interval, a return by the augmented t.

    A return may be the same in all of 64 rollouts and lower by a hundred in the next. If an arm
    does not vary, the spread of the other arms tells how far the truth may be. The augmented t
    therefore adds two values to the sample: the mean plus and minus `scale`.

    Args:
        values: The result of each rollout, shape (n,).
        scale: The standard deviation of the returns of all arms; None if every result is 0 or 1.
        confidence: The share of intervals that cover the true mean.

    Returns:
        The interval; `UNKNOWN` if there are no values.
    """
    if not len(values):
        return UNKNOWN
    if scale is None:
        return wilson(values, confidence)
    centre = float(values.mean())
    augmented = np.concatenate([values, [centre - scale, centre + scale]])
    interval = student(augmented, confidence)
    return Interval(centre, interval.ci_low, interval.ci_high, "augmented-t")


def newcombe(a: FloatArray, b: FloatArray, confidence: float = CONFIDENCE) -> Interval:
    """Return the difference of two independent shares with Newcombe's hybrid score interval.

    Args:
        a: Zeros and ones of the first arm, shape (n,).
        b: Zeros and ones of the second arm, shape (m,); the difference is a - b.
        confidence: The share of intervals that cover the true difference.

    Source:
        Newcombe, Statist. Med. 17 (1998), method 10.
    """
    first = wilson(a, confidence)
    second = wilson(b, confidence)
    difference = first.value - second.value
    low = math.hypot(first.value - first.ci_low, second.ci_high - second.value)
    high = math.hypot(first.ci_high - first.value, second.value - second.ci_low)
    return Interval(difference, difference - low, difference + high, "newcombe")


def welch(a: FloatArray, b: FloatArray, confidence: float = CONFIDENCE) -> Interval:
    """Return the difference of two independent means, a - b, with Welch's interval."""
    difference = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return Interval(difference, -math.inf, math.inf, "welch")
    error_a = float(a.var(ddof=1)) / len(a)
    error_b = float(b.var(ddof=1)) / len(b)
    total = error_a + error_b
    if total == 0.0:
        return Interval(difference, difference, difference, "welch")
    df = total**2 / (error_a * error_a / (len(a) - 1) + error_b * error_b / (len(b) - 1))
    half = t_quantile(confidence, df) * math.sqrt(total)
    return Interval(difference, difference - half, difference + half, "welch")


def bonett_price(differences: FloatArray, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of paired differences of shares with the adjusted Wald interval.

    Args:
        differences: One for each pair, shape (n,); each is -1, 0 or 1.
        confidence: The share of intervals that cover the true mean.

    Source:
        Bonett & Price, J. Educ. Behav. Stat. 37 (2012): one discordant pair is added each way.

    >>> bonett_price(np.zeros(64))
    Interval(value=0.0, ci_low=-0.04..., ci_high=0.04..., method='bonett-price')
    """
    n = len(differences)
    n_up = int(np.count_nonzero(differences > 0))
    n_down = int(np.count_nonzero(differences < 0))
    up = (n_up + 1) / (n + 2)
    down = (n_down + 1) / (n + 2)
    half = normal_quantile(confidence) * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    difference = float(differences.mean())
    low = max(-1.0, min(difference, up - down - half))
    high = min(1.0, max(difference, up - down + half))
    return Interval(difference, low, high, "bonett-price")


def augmented_t(differences: FloatArray, scale: float, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of paired differences with Student's interval and two added pairs.

    The added pairs are +scale and -scale: the idea of Bonett and Price for real values. If all
    pairs agree, the interval still has a width.

    Args:
        differences: One for each pair, shape (n,).
        scale: The standard deviation of the compared results: how far a pair may differ.
        confidence: The share of intervals that cover the true mean.
    """
    augmented = np.concatenate([differences, [scale, -scale]])
    interval = student(augmented, confidence)
    centre = float(differences.mean()) if len(differences) else 0.0
    low = min(centre, interval.ci_low)
    high = max(centre, interval.ci_high)
    return Interval(centre, low, high, "augmented-t")


def paired(
    a: FloatArray, b: FloatArray, scale: float | None, confidence: float = CONFIDENCE
) -> Interval:
    """Return the mean of a - b over pairs: `bonett_price` if scale is None, else `augmented_t`."""
    if scale is None:
        return bonett_price(a - b, confidence)
    return augmented_t(a - b, scale, confidence)


def independent(
    a: FloatArray, b: FloatArray, scale: float | None, confidence: float = CONFIDENCE
) -> Interval:
    """Return the difference of two independent arms: `newcombe` if scale is None, else `welch`."""
    if scale is None:
        return newcombe(a, b, confidence)
    return welch(a, b, confidence)
