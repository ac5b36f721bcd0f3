"""A number with its confidence interval: no analysis returns one without the other."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from trajrec.statistics.intervals import wilson
from trajrec.statistics.paired_rates import Limits
from trajrec.values.html_cards import Picture, interval_picture


def spell(*numbers: float, sign: str = "") -> list[str]:
    """Return numbers with three decimals; if all are small, with three digits that count.

    Args:
        numbers: Numbers that are read together.
        sign: "+" to write the sign of positive ones too.

    >>> spell(0.5, 0.0), spell(0.0004, 0.0001, sign="+")
    (['0.500', '0.000'], ['+0.0004', '+0.0001'])
    """
    largest = max((abs(number) for number in numbers if math.isfinite(number)), default=0.0)
    # Scores may be of any size: an interval of small ones must not read as one without a width.
    form = f"{sign}.3g" if 0.0 < largest < SMALL else f"{sign}.3f"
    return [format(number, form) for number in numbers]


SMALL = 0.01
"""Numbers below are spelled by their first digits."""


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
