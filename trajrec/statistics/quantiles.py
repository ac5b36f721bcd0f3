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
        df: Degrees of freedom, > 0; need not be a whole number.

    Returns:
        Exact for 1 and 2 degrees of freedom, otherwise correct to six digits.

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
