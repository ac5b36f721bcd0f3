"""A number with its confidence interval: no analysis returns one without the other."""

from __future__ import annotations

import dataclasses
import math

from trajrec.statistics.paired_rates import Limits
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
        return f"{self.value:.3f} [{self.ci_low:.3f}, {self.ci_high:.3f}]"

    @property
    def signed(self) -> str:
        """The number with its sign, as a difference is written."""
        return f"{self.value:+.3f} [{self.ci_low:+.3f}, {self.ci_high:+.3f}]"

    @property
    def text(self) -> str:
        """The number with its sign, "unknown" for an interval without ends."""
        if math.isfinite(self.ci_low) or math.isfinite(self.ci_high):
            return self.signed
        return f"{self.value:+.3f} [unknown]"

    def picture(self, limit: float) -> Picture:
        """Return the number and its interval on an axis from -limit to +limit."""
        return interval_picture(self.value, self.ci_low, self.ci_high, limit=limit)


def as_estimate(limits: Limits, scale: float = 1.0, offset: float = 0.0) -> Estimate:
    """Return the estimate of a single corpus: each number times `scale`, plus `offset`."""
    return Estimate(
        value=float(limits.value) * scale + offset,
        ci_low=float(limits.ci_low) * scale + offset,
        ci_high=float(limits.ci_high) * scale + offset,
    )
