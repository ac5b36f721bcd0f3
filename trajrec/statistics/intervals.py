"""Confidence intervals of shares, of means, and of differences of independent or paired arms.

Each function takes samples and returns an `Interval`; its method is stored with the estimate. The
usual intervals of paired differences have no width if every pair agrees, although the next pair
may still differ. The intervals of this module keep a width in that case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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

NO_SPREAD = "none: all rollouts are equal"
"""The method of a number whose interval is not known because nothing in the run varies."""


def spread_within(arms: Sequence[FloatArray]) -> float:
    """Return the standard deviation of values around the mean of their arm, 0.0 if there are none.

    Args:
        arms: The values of each arm, shape (n,) each.

    >>> spread_within([np.array([1.0, 3.0]), np.array([101.0, 103.0])])
    1.414...
    """
    n_free = sum(len(arm) - 1 for arm in arms if len(arm))
    if not n_free:
        return 0.0
    varied = [arm for arm in arms if len(arm) and not np.all(arm == arm[0])]
    squares = sum(float(((arm - arm.mean()) ** 2).sum()) for arm in varied)
    return math.sqrt(squares / n_free)


class PairSpread(NamedTuple):
    """How much paired differences vary in a run.

    Attributes:
        within: Their standard deviation around the mean of their step.
        apart: The root mean square of those that are not 0: how far the results of a pair lie
            apart if they differ at all. 0.0 if none differ.
    """

    within: float
    apart: float

    @classmethod
    def of(cls, steps: Sequence[FloatArray]) -> PairSpread:
        """Return that of the differences of each step, shape (n,) each; a NaN is left out.

        >>> PairSpread.of([np.array([0.0, 4.0]), np.array([0.0, 0.0])])
        PairSpread(within=2.0, apart=4.0)
        """
        known = [differences[~np.isnan(differences)] for differences in steps]
        differing = [differences[differences != 0.0] for differences in known]
        n_differing = sum(map(len, differing))
        squares = sum(float((differences**2).sum()) for differences in differing)
        apart = math.sqrt(squares / n_differing) if n_differing else 0.0
        return cls(spread_within(known), apart)


NO_PAIRS = PairSpread(0.0, 0.0)
"""The spread of a run without pairs."""


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
    """Return the mean of one arm: a share by Wilson's interval, a return by `pooled_t`.

    Args:
        values: The result of each rollout, shape (n,).
        scale: The standard deviation within the arms of the run; None if every result is 0 or 1.
        confidence: The share of intervals that cover the true mean.

    Returns:
        The interval; `UNKNOWN` if there are no values.
    """
    if not len(values):
        return UNKNOWN
    if scale is None:
        return wilson(values, confidence)
    return pooled_t(values, scale, arm_weight(len(values)), confidence)


def widen(interval: Interval, tail: float, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Return an interval that is at least as wide as a spread with heavy tails demands.

    A spread that rests on few results has few degrees of freedom, however many results there are.

    Args:
        interval: The interval of a mean of n values.
        tail: The standard deviation with the tails; 0.0 leaves the interval as it is.
        n: The number of values, at least 1.
        confidence: The share of intervals that cover the true mean.

    >>> widen(Interval(0.0, -1.0, 1.0, "augmented-t"), tail=4.0, n=4)
    Interval(value=0.0, ci_low=-5.55..., ci_high=5.55..., method='augmented-t')
    """
    if tail == 0.0:
        return interval
    half = t_quantile(confidence, HEAVY_DF) * tail / math.sqrt(n)
    low = min(interval.ci_low, interval.value - half)
    high = max(interval.ci_high, interval.value + half)
    return interval._replace(ci_low=low, ci_high=high)


def pooled_t(
    values: FloatArray, scale: float, weight: float, confidence: float = CONFIDENCE
) -> Interval:
    """Return the mean with Student's interval and a variance that is drawn towards the run's.

    A return may be the same in all of 64 rollouts and lower by a hundred in the next. The spread of
    the other arms of the run tells how far it may be. The variance is never below the arm's own.

    Args:
        values: Shape (n,), n >= 1.
        scale: The standard deviation within the arms of the run.
        weight: Number of values that the run's variance counts as.
        confidence: The share of intervals that cover the true mean.

    Returns:
        An infinite interval for a single value. No interval if nothing in the run varies: see
        `without_interval`.

    >>> pooled_t(np.zeros(8), scale=1.0, weight=8)
    Interval(value=0.0, ci_low=-0.55..., ci_high=0.55..., method='augmented-t')
    """
    n = len(values)
    centre = float(values.mean())
    if n < 2:
        return Interval(centre, -math.inf, math.inf, "augmented-t")
    variance = pooled_variance(values, scale, weight)
    if variance == 0.0:
        return without_interval(centre)
    half = t_quantile(confidence, n - 1 + weight) * math.sqrt(variance / n)
    return Interval(centre, centre - half, centre + half, "augmented-t")


def pooled_variance(values: FloatArray, scale: float, weight: float) -> float:
    """Return the variance of values of shape (n,), drawn towards scale**2, n >= 2."""
    n = len(values)
    # The mean of equal values may differ from them by rounding.
    own = 0.0 if np.all(values == values[0]) else float(values.var(ddof=1))
    return max(own, ((n - 1) * own + weight * scale**2) / (n - 1 + weight))


def arm_weight(n: int) -> float:
    """Return the weight of the run's variance in the interval of an arm of n rollouts.

    A rare loss that an arm of n rollouts misses has a probability of up to 3/n, so the weight grows
    with n. Measured on random decision processes: less does not cover, and more is too wide.
    """
    return max(8.0, n / 4)


HEAVY_DF = 4
"""Degrees of freedom of a spread that rests on few results."""


def difference_weight(n: int) -> float:
    """Return the weight of the run's variance in the interval of n paired differences.

    Their spread differs more between the steps of a run than that of returns.
    """
    return max(4.0, n / 4)


def without_interval(value: float) -> Interval:
    """Return a number that has no interval, because nothing in the run varies."""
    return Interval(value, -math.inf, math.inf, NO_SPREAD)


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


def welch(
    a: FloatArray, b: FloatArray, scale: float = 0.0, confidence: float = CONFIDENCE
) -> Interval:
    """Return the difference of two independent means, a - b, with Welch's interval.

    Args:
        a: Values of the first arm, shape (n,).
        b: Values of the second arm, shape (m,).
        scale: The standard deviation within the arms of the run: see `pooled_t`; 0.0 without others.
        confidence: The share of intervals that cover the true difference.

    Returns:
        An infinite interval if an arm has a single value. No interval if nothing in the run varies.
    """
    difference = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return Interval(difference, -math.inf, math.inf, "welch")
    # Without other arms nothing adds degrees of freedom.
    weight_a = arm_weight(len(a)) if scale else 0.0
    weight_b = arm_weight(len(b)) if scale else 0.0
    error_a = pooled_variance(a, scale, weight_a) / len(a)
    error_b = pooled_variance(b, scale, weight_b) / len(b)
    total = error_a + error_b
    if total == 0.0:
        return without_interval(difference)
    # By shares of the whole: the square of an error may be too small or too large for a float.
    share = error_a / total
    df = 1 / (share**2 / (len(a) - 1 + weight_a) + (1 - share) ** 2 / (len(b) - 1 + weight_b))
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

    The added pairs are the mean plus and minus `scale`: the idea of Bonett and Price for real
    values. If all pairs agree, the interval still has a width. It is never narrower than Student's:
    added pairs that lie closer than the others would narrow that of three pairs to 75 % coverage.

    Args:
        differences: One for each pair, shape (n,), n >= 1.
        scale: The standard deviation of the compared results: how far a pair may differ.
        confidence: The share of intervals that cover the true mean.
    """
    centre = float(differences.mean())
    augmented = np.concatenate([differences, [centre + scale, centre - scale]])
    found = [student(own, confidence) for own in (augmented, differences) if len(own) > 1]
    low = min(interval.ci_low for interval in found)
    high = max(interval.ci_high for interval in found)
    return Interval(centre, low, high, "augmented-t")


def paired(
    a: FloatArray,
    b: FloatArray,
    scale: float | None,
    spread: PairSpread = NO_PAIRS,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the mean of a - b over pairs: `bonett_price` if scale is None, else `pooled_pairs`."""
    if scale is None:
        return bonett_price(a - b, confidence)
    return pooled_pairs(a - b, scale, spread, confidence)


def pooled_pairs(
    differences: FloatArray, scale: float, spread: PairSpread, confidence: float = CONFIDENCE
) -> Interval:
    """Return the mean of paired differences with `pooled_t`, at least as wide as `one_more_pair`.

    If the pairs of all steps agree, the spread of the compared results tells how far the next pair
    may differ: `augmented_t`.

    Args:
        differences: One for each pair, shape (n,), n >= 1.
        scale: The standard deviation within the arms of the run.
        spread: How much such differences vary in the run.
        confidence: The share of intervals that cover the true mean.
    """
    if np.all(differences == differences[0]) and spread.within == 0.0 and scale > 0.0:
        return augmented_t(differences, scale, confidence)
    weight = difference_weight(len(differences))
    interval = pooled_t(differences, spread.within, weight, confidence)
    half = one_more_pair(differences, spread.apart, confidence)
    low = min(interval.ci_low, interval.value - half)
    high = max(interval.ci_high, interval.value + half)
    return interval._replace(ci_low=low, ci_high=high)


def one_more_pair(differences: FloatArray, apart: float, confidence: float = CONFIDENCE) -> float:
    """Return half the width of a normal interval of the mean, as if one more pair differed.

    If few pairs differ, in one way and by much, a step may have seen none of them: of 16 pairs none
    differs with a chance of 1 in 4 if each does so with 1 in 12. This is Bonett and Price's idea for
    differences that are 0 or about `apart`, with one added pair; two were measured to be too wide.

    Args:
        differences: One for each pair, shape (n,), n >= 1.
        apart: How far the results of a pair lie apart if they differ.
        confidence: The share of intervals that cover the true mean.

    >>> one_more_pair(np.zeros(16), apart=5.0)
    0.576...
    """
    n = len(differences) + 1
    mean_square = (float((differences**2).sum()) + apart**2) / n
    variance = max(0.0, mean_square - (float(differences.sum()) / n) ** 2)
    return normal_quantile(confidence) * math.sqrt(variance / n)


def independent(
    a: FloatArray, b: FloatArray, scale: float | None, confidence: float = CONFIDENCE
) -> Interval:
    """Return the difference of two independent arms: `newcombe` if scale is None, else `welch`."""
    if scale is None:
        return newcombe(a, b, confidence)
    return welch(a, b, scale, confidence)
