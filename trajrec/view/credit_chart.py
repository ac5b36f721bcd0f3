"""A chart of one estimator over the steps: bars with the ends of their intervals, as paths of SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trajrec.statistics.spelling import spell

MAX_DRAWN = 2_000
"""Estimates that a chart draws; the rest is counted."""

MAX_QUESTIONS = 100
"""Steps up to which a mark for "unknown" has its place."""

LEVELS = ("value", "action", "kept", "redrawn")
"""Estimators of how good something is. All others compare two things: their 0 means no difference."""

HEIGHT = 100
_BAR = 0.6


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number about one step.

    Attributes:
        value: The number; None if it is unknown.
        low: The lower end of its interval of 95 %; None without one.
        high: The upper end.
        action: The action that it judges, as text; "" for none.
        is_undecided: Whether it is that of a search for the decisive step that named none.
    """

    step: int
    estimator: str
    estimand: str
    value: float | None
    low: float | None
    high: float | None
    ci_method: str
    n: int
    n_invalid: int
    action: str
    is_undecided: bool = False

    @property
    def is_comparison(self) -> bool:
        """Whether it compares two things, so that 0 means no difference."""
        return self.estimator not in LEVELS

    @property
    def is_certain(self) -> bool:
        """Whether it has an interval, and 0 lies outside of it."""
        if self.value is None or self.low is None or self.high is None:
            return False
        return self.low > 0 or self.high < 0

    @property
    def words(self) -> str:
        """The number with its interval, in a sentence."""
        if self.value is None or self.low is None or self.high is None:
            return self.text
        value, low, high = spell(self.value, self.low, self.high, sign="+")
        return f"{value}, 95 % interval {low} to {high}"

    @property
    def text(self) -> str:
        """The number with its interval, as tables show it."""
        if self.value is None:
            return "unknown"
        # A sign says that it is a difference.
        sign = "+" if self.is_comparison else ""
        if self.low is None or self.high is None:
            return f"{spell(self.value, sign=sign)[0]} (no interval)"
        value, low, high = spell(self.value, self.low, self.high, sign=sign)
        return f"{value} [{low}, {high}]"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart of one estimator.

    Attributes:
        summary: Its content in words, for people who do not see it.
        estimands: What it estimates, in the words of its run.
        width: Steps of the episode: one unit each.
        low: The number at its lower edge.
        high: The number at its upper edge.
        paths: Class of the style sheet -> path.
        unknown: Places of steps without a number, in per cent of the width.
        n_more: Estimates that are not drawn.
    """

    name: str
    summary: str
    estimands: Sequence[str]
    width: int
    low: float
    high: float
    paths: Mapping[str, str]
    unknown: Sequence[str]
    n_more: int


def draw_chart(name: str, estimates: Sequence[Estimate], *, first: int, width: int) -> Chart:
    """Return a chart.

    Args:
        name: The estimator.
        estimates: Its estimates, by step.
        first: The first step of the episode.
        width: Its steps.
    """
    drawn = estimates[:MAX_DRAWN]
    ends = [end for item in drawn for end in (item.value, item.low, item.high) if end is not None]
    low = min([0.0, *ends])
    high = max([0.0, *ends])
    if name not in LEVELS:
        # Gains and losses of one size are bars of one size.
        high = max(high, -low)
        low = -high
    if low == high:
        high = low + 1.0
    pieces: dict[str, list[str]] = {"zero": [f"M0 {_y(0.0, low, high)}H{width}"]}
    for item in drawn:
        left = item.step - first
        if item.value is not None and 0 <= left < width:
            pieces.setdefault(_status(item), []).append(_bar(item.value, left, low, high))
            pieces.setdefault("whisker", []).append(_whisker(item, left, low, high))
    told = {item.step - first for item in estimates if item.value is not None}
    asked = range(width) if width <= MAX_QUESTIONS else ()
    return Chart(
        name=name,
        summary=_summary(name, estimates),
        estimands=list(dict.fromkeys(item.estimand for item in estimates))[:3],
        width=width,
        low=low,
        high=high,
        paths={kind: "".join(parts) for kind, parts in pieces.items()},
        unknown=[f"{100 * (place + 0.5) / width:.2f}" for place in asked if place not in told],
        n_more=len(estimates) - len(drawn),
    )


def _status(item: Estimate) -> str:
    if not item.is_comparison:
        return "level"
    if not item.is_certain:
        return "hollow"
    return "ok" if (item.value or 0.0) > 0 else "failed"


def _bar(value: float, left: int, low: float, high: float) -> str:
    zero = _y(0.0, low, high)
    end = _y(value, low, high)
    return f"M{left + (1 - _BAR) / 2:g} {zero}h{_BAR}V{end}h-{_BAR}z"


def _whisker(item: Estimate, left: int, low: float, high: float) -> str:
    if item.low is None or item.high is None:
        return ""
    top = _y(item.high, low, high)
    bottom = _y(item.low, low, high)
    middle = f"M{left + 0.5:g} {bottom}V{top}"
    return f"{middle}M{left + 0.4:g} {bottom}h0.2M{left + 0.4:g} {top}h0.2"


def _y(value: float, low: float, high: float) -> str:
    # Halves, because the span of two large numbers may be beyond all floats.
    share = (high / 2 - value / 2) / (high / 2 - low / 2)
    return f"{HEIGHT * share:.2f}".rstrip("0").rstrip(".")


def _summary(name: str, estimates: Sequence[Estimate]) -> str:
    known = [item.value for item in estimates if item.value is not None]
    if not known:
        return f"{name}: unknown"
    n_certain = sum(item.is_certain for item in estimates)
    least, greatest = spell(min(known), max(known), sign="+")
    return (
        f"{name}: {len(known)} estimates from {least} to {greatest}, "
        f"{n_certain} of them with an interval without 0"
    )
