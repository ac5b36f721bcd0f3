"""Quantiles of the normal and of Student's distribution, without SciPy."""

from __future__ import annotations

import math
from statistics import NormalDist

CONFIDENCE = 0.95
"""The share of intervals that cover the true number: the convention of the field."""


def normal_quantile(confidence: float) -> float:
    """Return z with P(|Z| < z) = confidence for a standard normal Z.

    >>> round(normal_quantile(0.95), 4)
    1.96
    """
    return NormalDist().inv_cdf((1 + confidence) / 2)


def t_quantile(confidence: float, df: float) -> float:
    """Return t with P(|T| < t) = confidence for Student's T.

    Args:
        confidence: In (0, 1).
        df: Degrees of freedom, >= 1; need not be a whole number.

    Returns:
        Exact for 1 and 2 degrees of freedom, otherwise correct to five digits; between 1 and 3 only
        from a confidence of 0.5 on.

    Source:
        Hill, Comm. ACM 13 (1970), algorithm 396. The unnamed numbers below are its coefficients.

    >>> round(t_quantile(0.95, 15), 4), round(t_quantile(0.95, 1), 3)
    (2.1314, 12.706)
    """
    p = 1 - confidence
    if df == 1:
        return 1 / math.tan(p * math.pi / 2)
    if df == 2:
        return math.sqrt(2 / (p * (2 - p)) - 2)
    if df < _FEW_DF and p <= _MOST_BEYOND:
        return _quantile_of_few(p, df)
    a = 1 / (df - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * df
    y = (d * p) ** (2 / df)
    if y > 0.05 + a:
        # The centre of the distribution: an expansion around the normal quantile.
        x = NormalDist().inv_cdf(p / 2)
        y = x * x
        if df < 5:
            c += 0.3 * (df - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = a * y * y
        y = math.expm1(y) if y > 0.002 else 0.5 * y * y + y
    else:
        # The tail: an expansion in powers of y itself.
        tail = ((df + 6) / (df * y) - 0.089 * d - 0.822) * (df + 2) * 3
        y = ((1 / tail + 0.5 / (df + 4)) * y - 1) * (df + 1) / (df + 2) + 1 / y
    return math.sqrt(df * y)


_FEW_DF = 3
"""Below, Hill's expansion is off by up to a fifth: the intervals of two arms of two values need it."""

_MOST_BEYOND = 0.5
"""For a larger chance beyond the quantile, the series below converges too slowly."""

_LARGEST = 0.95
"""More than x is for 3 degrees of freedom and this chance: 0.915."""

_MOST_ROUNDS = 30


def _quantile_of_few(p: float, df: float) -> float:
    """Return t with P(|T| > t) = p for 1 < df < 3.

    With x = cos(arctan(t / sqrt(df))) the density is that of x**(df - 1) / sqrt(1 - x**2), whose
    integral from 0 is a power series in x.
    """
    whole = math.sqrt(math.pi) / 2 * math.gamma(df / 2) / math.gamma((df + 1) / 2)
    # The first term alone gives too large a number. Of a convex function, Newton's method comes
    # down to the root.
    x: float = min((p * whole * df) ** (1 / df), _LARGEST)
    for _ in range(_MOST_ROUNDS):
        step = (_integral(x, df) - p * whole) * math.sqrt(1 - x * x) / x ** (df - 1)
        x -= step
        if abs(step) < 1e-12:
            break
    return math.sqrt(df * (1 - x * x)) / x


def _integral(x: float, df: float) -> float:
    """Return the integral of u**(df - 1) / sqrt(1 - u**2) over u from 0 to x < 1."""
    total = 0.0
    factor = 1.0
    k = 0
    while (term := factor / (df + 2 * k)) > 1e-14:
        total += term
        k += 1
        factor *= (2 * k - 1) / (2 * k) * x * x
    return float(x**df * total)
