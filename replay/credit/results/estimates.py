"""Estimates of one arm, and of the difference of two arms, with their intervals and costs."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trajrec.replay.credit.sampling.options import OnError
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.credit.sampling.sampler import Sampler
from trajrec.statistics import intervals
from trajrec.statistics.intervals import NO_PAIRS, Interval, PairSpread
from trajrec.statistics.spelling import spell
from trajrec.types import Action, FloatArray

LOST = "none: rollouts without a result"
"""The method of a number whose rollouts have lost results of which no bounds are known."""


BOUNDS = " bounds"
"""The end of the method of an interval that holds the number whatever the lost results were."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number about one step of one episode, with its 95 % confidence interval.

    Attributes:
        step: The step. A value belongs to the state before the step.
        value: The number.
        ci_low: Lower end of the interval; minus infinity if there is no interval.
        ci_high: Upper end of the interval; infinity if there is no interval.
        ci_method: How the interval was computed, or "none" with the reason.
        n: Number of rollouts, pairs of rollouts or episodes in the estimate.
        n_discordant: Number of pairs whose results differ; None if there are no pairs, as in fresh
            noise.
        estimator: Name of the estimator: "value", "advantage", "luck", "delta", ...
        estimand: The estimated quantity, in words.
        noise: "shared", "fresh" or "recorded"; "none" if no rollouts were run.
        env_steps: Steps of the environment that the estimate cost.
        policy_calls: Actions that the policy was asked for.
        n_invalid: Rollouts without a result: they cannot be executed, or the environment raised.
            The interval holds the number whatever their results were, or there is none; with
            `on_error="lost"` they are failures.
        action: The recorded action, or its replacement.
    """

    step: int
    value: float
    ci_low: float
    ci_high: float
    ci_method: str
    n: int
    n_discordant: int | None
    estimator: str
    estimand: str
    noise: str = "none"
    env_steps: int = 0
    policy_calls: int = 0
    n_invalid: int = 0
    action: Action = None

    def __str__(self) -> str:
        return f"step {self.step}: {self.estimator} {format_interval(self)}"


def format_interval(number: Estimate | Interval, digits: int = 3) -> str:
    """Return a number with its interval, for people."""
    numbers = (number.value, number.ci_low, number.ci_high)
    value, low, high = spell(*numbers, sign="+", digits=digits)
    if math.isinf(number.ci_low) and math.isinf(number.ci_high):
        return f"{value} (no interval)"
    return f"{value} [{low}, {high}]"


class Arm(NamedTuple):
    """The results of the rollouts of one request, as numbers.

    Attributes:
        values: The score or return of each rollout, (n,) float64; NaN for a rollout without one.
        rollouts: The rollouts, in the order of the values. Empty if the values are known without.
        low: The lowest share that a rollout without a result can have.
        high: The highest share that it can have.
    """

    values: FloatArray
    rollouts: Sequence[Rollout]
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def of(cls, rollouts: Sequence[Rollout], sampler: Sampler) -> Arm:
        """Return the arm of rollouts.

        Args:
            rollouts: The rollouts.
            sampler: Their sampler. It knows whether results are scores or returns, and how
                rollouts without a result count.
        """
        by_score = sampler.by_score
        on_error = sampler.config.on_error
        values = [_result(rollout, by_score=by_score, on_error=on_error) for rollout in rollouts]
        return cls(np.array(values, np.float64), rollouts)

    def filled(self, value: float) -> FloatArray:
        """Return the results, (n,) float64, with a value for each rollout without one."""
        return np.where(np.isnan(self.values), value, self.values)

    @property
    def valid(self) -> FloatArray:
        """The results that exist, (m,) float64."""
        return self.values[~np.isnan(self.values)]

    @property
    def env_steps(self) -> int:
        """Steps of the environment that the rollouts took."""
        return sum(rollout.env_steps for rollout in self.rollouts)

    @property
    def policy_calls(self) -> int:
        """Actions that the policy was asked for."""
        return sum(rollout.policy_calls for rollout in self.rollouts)

    @property
    def n_unknown(self) -> int:
        """Number of unknown results."""
        return int(np.isnan(self.values).sum())

    @property
    def n_invalid(self) -> int:
        """Number of rollouts that raised or could not be replayed, or that have no verdict."""
        pairs = zip(self.rollouts, self.values, strict=False)
        # With `on_error="lost"` those that raised have a value.
        n_lost = sum(rollout.is_invalid and not np.isnan(value) for rollout, value in pairs)
        return n_lost + self.n_unknown


def _result(rollout: Rollout, *, by_score: bool, on_error: OnError) -> float:
    if rollout.is_invalid:
        if on_error == "bounds":
            return np.nan
        return 0.0 if by_score else rollout.episode_return
    if by_score:
        return np.nan if rollout.score is None else rollout.score
    return rollout.episode_return


def estimate_arm(
    arm: Arm,
    *,
    step: int,
    scale: float | None,
    tail: float = 0.0,
    estimator: str,
    estimand: str,
    noise: str,
    action: Action = None,
) -> Estimate:
    """Return the mean result of an arm.

    Args:
        arm: The rollouts.
        step: See `Estimate`.
        scale: See `intervals.mean`.
        tail: See `intervals.widen`.
        estimator: See `Estimate`.
        estimand: See `Estimate`.
        noise: See `Estimate`.
        action: See `Estimate`.
    """
    interval = intervals.mean(arm.valid, scale)
    if len(arm.valid):
        interval = intervals.widen(interval, tail, len(arm.valid))
    if arm.n_unknown:
        interval = _arm_bounds(arm, scale, interval.value)
    return Estimate(
        step=step,
        value=interval.value,
        ci_low=interval.ci_low,
        ci_high=interval.ci_high,
        ci_method=interval.method,
        n=len(arm.valid),
        n_discordant=None,
        estimator=estimator,
        estimand=estimand,
        noise=noise,
        env_steps=arm.env_steps,
        policy_calls=arm.policy_calls,
        n_invalid=arm.n_invalid,
        action=action,
    )


def estimate_difference(
    a: Arm,
    b: Arm,
    *,
    step: int,
    is_paired: bool,
    scale: float | None,
    spread: PairSpread = NO_PAIRS,
    tail: float = 0.0,
    estimator: str,
    estimand: str,
    noise: str,
    action: Action = None,
) -> Estimate:
    """Return the mean difference of two arms, a - b.

    Args:
        a: The first arm.
        b: The second arm, in the same order of scenarios.
        step: See `Estimate`.
        is_paired: Whether rollouts with the same index share their scenario.
        scale: The standard deviation within the arms of the run; None if every result is 0 or 1.
        spread: See `intervals.pooled_pairs`.
        tail: See `intervals.widen`.
        estimator: See `Estimate`.
        estimand: See `Estimate`.
        noise: See `Estimate`.
        action: See `Estimate`.
    """
    compare = functools.partial(difference, is_paired=is_paired, scale=scale, spread=spread)
    interval, n, n_discordant = compare(a.values, b.values)
    if n:
        interval = intervals.widen(interval, tail, n)
    if a.n_unknown or b.n_unknown:
        if not len(a.valid) and not len(b.valid):
            interval = intervals.UNKNOWN
        elif scale is None and len(a.values) and len(b.values):
            lowest = compare(a.filled(a.low), b.filled(b.high))[0]
            highest = compare(a.filled(a.high), b.filled(b.low))[0]
            interval = _join(lowest, highest, interval.value)
        else:
            interval = Interval(interval.value, -math.inf, math.inf, LOST)
    return Estimate(
        step=step,
        value=interval.value,
        ci_low=interval.ci_low,
        ci_high=interval.ci_high,
        ci_method=interval.method,
        n=n,
        n_discordant=n_discordant,
        estimator=estimator,
        estimand=estimand,
        noise=noise,
        env_steps=a.env_steps + b.env_steps,
        policy_calls=a.policy_calls + b.policy_calls,
        n_invalid=a.n_invalid + b.n_invalid,
        action=action,
    )


def _arm_bounds(arm: Arm, scale: float | None, value: float) -> Interval:
    """Return an interval that holds the mean whatever the rollouts without a result were."""
    if not len(arm.valid):
        return intervals.UNKNOWN
    if scale is not None:
        return Interval(value, -math.inf, math.inf, LOST)  # a return has no bounds
    lowest = intervals.mean(arm.filled(arm.low), scale)
    highest = intervals.mean(arm.filled(arm.high), scale)
    return _join(lowest, highest, value)


def _join(lowest: Interval, highest: Interval, value: float) -> Interval:
    """Return a value with the interval from the lower end of one to the upper end of the other."""
    return Interval(value, lowest.ci_low, highest.ci_high, lowest.method + BOUNDS)


def difference(
    a: FloatArray,
    b: FloatArray,
    *,
    is_paired: bool,
    scale: float | None,
    spread: PairSpread = NO_PAIRS,
) -> tuple[Interval, int, int | None]:
    """Return the mean of a - b with its interval, the number of pairs, and how many pairs differ.

    Without pairs the smaller number of results comes in their place, and None.

    Args:
        a: Result of each rollout of the first arm, (n,) float64; NaN for a rollout without one.
        b: Results of the second arm, (n,) float64.
        is_paired: Whether rollouts with the same index share their scenario.
        scale: See `estimate_difference`.
        spread: See `intervals.pooled_pairs`.
    """
    if not is_paired:
        a = a[~np.isnan(a)]
        b = b[~np.isnan(b)]
        n = min(len(a), len(b))
        return (intervals.independent(a, b, scale) if n else intervals.UNKNOWN), n, None
    # A pair counts only if both of its rollouts have a result.
    is_valid = ~(np.isnan(a) | np.isnan(b))
    a = a[is_valid]
    b = b[is_valid]
    if not len(a):
        return intervals.UNKNOWN, 0, 0
    interval = intervals.paired(a, b, scale, spread)
    return interval, len(a), int(np.count_nonzero(a != b))
