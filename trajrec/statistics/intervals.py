"""Confidence intervals of shares, of means, and of differences of independent or paired arms.

Each function takes samples and returns an `Interval`; its method is stored with the estimate. The
usual intervals of paired differences have no width if every pair agrees, although the next pair
may still differ. The intervals of this module keep a width in that case.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
LEVEL = 0.95


class Interval(NamedTuple):
    """A value with the interval that covers the true one with the stated probability, and how it was computed."""

    value: float
    ci_low: float
    ci_high: float
    method: str


NOTHING_KNOWN = Interval(math.nan, -math.inf, math.inf, "none")


def spread(values: Array) -> float:
    """Return the standard deviation; 0 of no values."""
    return float(values.std()) if len(values) else 0.0


def is_binary(values: Array) -> bool:
    """Say whether all values are 0 or 1."""
    return bool(np.all((values == 0.0) | (values == 1.0)))


def wilson(values: Array, level: float = LEVEL) -> Interval:
    """Return the share of ones, by Wilson's score interval.

    Source:
        Wilson, JASA 22 (1927); Brown, Cai & DasGupta, Statist. Sci. 16 (2001).

    >>> wilson(np.array([1.0] * 8 + [0.0] * 8))
    Interval(value=0.5, ci_low=0.27999..., ci_high=0.72000..., method='wilson')
    """
    n, p, z = len(values), float(values.mean()), normal_quantile(level)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), "wilson")


def student(values: Array, level: float = LEVEL) -> Interval:
    """Return the mean, by Student's interval; it is infinite for one value.

    >>> student(np.array([1.0, 2.0, 3.0, 4.0]))
    Interval(value=2.5, ci_low=0.44573..., ci_high=4.55426..., method='t')
    """
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Interval(mean, -math.inf, math.inf, "t")
    half = t_quantile(level, n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, "t")


def mean(values: Array, scale: float | None, level: float = LEVEL) -> Interval:
    """Return the mean: of shares (scale None) by Wilson, else by Student with two values more: scale above and below. Of no
    values nothing is known.

    A return may be the same in all of 64 rollouts and a hundred less in the next: where nothing varied, what varies elsewhere
    says how far the truth may be.

    Args:
        values: One a rollout.
        scale: The standard deviation of the returns of the whole scan; None where all of them are 0 or 1.
    """
    if not len(values):
        return NOTHING_KNOWN
    if scale is None:
        return wilson(values, level)
    centre = float(values.mean())
    _, ci_low, ci_high, _ = student(
        np.concatenate([values, [centre - scale, centre + scale]]), level
    )
    return Interval(centre, ci_low, ci_high, "augmented-t")


def newcombe(a: Array, b: Array, level: float = LEVEL) -> Interval:
    """Return the difference of two independent shares of ones, a - b, by Newcombe's hybrid score interval.

    Source:
        Newcombe, Statist. Med. 17 (1998), method 10.
    """
    x, y = wilson(a, level), wilson(b, level)
    d = x.value - y.value
    ci_low = d - math.hypot(x.value - x.ci_low, y.ci_high - y.value)
    ci_high = d + math.hypot(x.ci_high - x.value, y.value - y.ci_low)
    return Interval(d, ci_low, ci_high, "newcombe")


def welch(a: Array, b: Array, level: float = LEVEL) -> Interval:
    """Return the difference of two independent means, a - b, by Welch's interval."""
    d = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return Interval(d, -math.inf, math.inf, "welch")
    u, v = float(a.var(ddof=1)) / len(a), float(b.var(ddof=1)) / len(b)
    if u + v == 0.0:
        return Interval(d, d, d, "welch")
    df = (u + v) ** 2 / (u * u / (len(a) - 1) + v * v / (len(b) - 1))
    half = t_quantile(level, df) * math.sqrt(u + v)
    return Interval(d, d - half, d + half, "welch")


def bonett_price(differences: Array, level: float = LEVEL) -> Interval:
    """Return the mean of paired differences of shares (each -1, 0 or 1), by the adjusted Wald interval on discordant pairs.

    Source:
        Bonett & Price, J. Educ. Behav. Stat. 37 (2012).

    >>> bonett_price(np.zeros(64))
    Interval(value=0.0, ci_low=-0.04..., ci_high=0.04..., method='bonett-price')
    """
    n = len(differences)
    up, down = int(np.count_nonzero(differences > 0)), int(np.count_nonzero(differences < 0))
    p, q = (up + 1) / (n + 2), (down + 1) / (n + 2)
    half = normal_quantile(level) * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    d = float(differences.mean())
    return Interval(
        d, max(-1.0, min(d, p - q - half)), min(1.0, max(d, p - q + half)), "bonett-price"
    )


def augmented_t(differences: Array, scale: float, level: float = LEVEL) -> Interval:
    """Return the mean of paired differences, by Student's interval with two pairs more: +scale and -scale.

    What Bonett and Price do to shares, for real values: where all pairs agree the interval still has a width.

    Args:
        differences: One a pair.
        scale: What a pair may differ by: the standard deviation of what is compared.
    """
    n = len(differences)
    with_more = np.concatenate([differences, [scale, -scale]])
    _, ci_low, ci_high, _ = student(with_more, level)
    d = float(differences.mean()) if n else 0.0
    return Interval(d, min(d, ci_low), max(d, ci_high), "augmented-t")


def paired(a: Array, b: Array, scale: float | None, level: float = LEVEL) -> Interval:
    """Return the mean of a - b over pairs: of shares (scale None) by Bonett and Price, else by the augmented t."""
    if scale is None:
        return bonett_price(a - b, level)
    return augmented_t(a - b, scale, level)


def independent(a: Array, b: Array, scale: float | None, level: float = LEVEL) -> Interval:
    """Return the difference of means of independent arms: of shares (scale None) by Newcombe, else by Welch."""
    return newcombe(a, b, level) if scale is None else welch(a, b, level)


def normal_quantile(level: float) -> float:
    """Return z with P(|Z| < z) = level."""
    return NormalDist().inv_cdf((1 + level) / 2)


def t_quantile(level: float, df: float) -> float:
    """Return t with P(|T| < t) = level for Student's T with df degrees of freedom.

    Source:
        Hill, Comm. ACM 13 (1970), algorithm 396; exact for 1 and 2 degrees, else to six digits.

    >>> round(t_quantile(0.95, 15), 4), round(t_quantile(0.95, 1), 3)
    (2.1314, 12.706)
    """
    p = 1 - level
    if df == 1:
        return 1 / math.tan(p * math.pi / 2)
    if df == 2:
        return math.sqrt(2 / (p * (2 - p)) - 2)
    a = 1 / (df - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * df
    y = (d * p) ** (2 / df)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(p / 2)
        y = x * x
        if df < 5:
            c += 0.3 * (df - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = a * y * y
        y = math.expm1(y) if y > 0.002 else 0.5 * y * y + y
    else:
        y = (
            (1 / (((df + 6) / (df * y) - 0.089 * d - 0.822) * (df + 2) * 3) + 0.5 / (df + 4)) * y
            - 1
        ) * (df + 1) / (df + 2) + 1 / y
    return math.sqrt(df * y)
