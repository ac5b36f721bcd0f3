"""A number with its confidence interval: no analysis returns one without the other."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from trajrec.statistics.intervals import wilson
from trajrec.statistics.paired_rates import Limits
from trajrec.statistics.spelling import spell
from trajrec.values.html_cards import Picture, interval_picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its confidence interval.

    Attributes:
        value: The number.
        ci_low: Lower end of the 95 % interval.
        ci_high: Upper end.
    """

    value: float
    ci_low: float
    ci_high: float

    def __str__(self) -> str:
        value, low, high = spell(self.value, self.ci_low, self.ci_high)
        return f"{value} [{low}, {high}]"

    @property
    def signed(self) -> str:
        """The number with its sign, as a difference is written."""
        value, low, high = spell(self.value, self.ci_low, self.ci_high, sign="+")
        return f"{value} [{low}, {high}]"

    @property
    def text(self) -> str:
        """The number with its sign, "unknown" for an interval without ends."""
        if math.isfinite(self.ci_low) or math.isfinite(self.ci_high):
            return self.signed
        return f"{spell(self.value, sign='+')[0]} [unknown]"

    def picture(self, limit: float) -> Picture:
        """Return the number and its interval on an axis from -limit to +limit."""
        return interval_picture(self.value, self.ci_low, self.ci_high, limit=limit)


def share(k: int, n: int) -> Estimate:
    """Return the share k of n, n >= 1, with Wilson's interval.

    >>> str(share(8, 16))
    '0.500 [0.280, 0.720]'
    """
    value, low, high, _ = wilson(np.array([1.0] * k + [0.0] * (n - k)))
    return Estimate(value=value, ci_low=low, ci_high=high)


def as_estimate(limits: Limits, scale: float = 1.0, offset: float = 0.0) -> Estimate:
    """Return the estimate of a single corpus: each number times `scale`, plus `offset`."""
    return Estimate(
        value=float(limits.value) * scale + offset,
        ci_low=float(limits.ci_low) * scale + offset,
        ci_high=float(limits.ci_high) * scale + offset,
    )
