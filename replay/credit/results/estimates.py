"""Estimates of one arm, and of the difference of two arms, with their intervals and costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.statistics import intervals
from trajrec.statistics.intervals import Interval
from trajrec.types import Action, FloatArray


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number about one step of one episode, with its 95 % confidence interval.

    Attributes:
        step: The step. A value belongs to the state before the step.
        value: The number.
        ci_low: Lower end of the interval.
        ci_high: Upper end of the interval.
        ci_method: How the interval was computed.
        n: Number of rollouts, pairs of rollouts or episodes in the estimate.
        n_discordant: Number of pairs whose results differ; None if there are no pairs.
        estimator: Name of the estimator: "value", "advantage", "luck", "delta", ...
        estimand: The estimated quantity, in words.
        noise: "shared", "fresh" or "recorded"; "none" if no rollouts were run.
        env_steps: Steps of the environment that the estimate cost.
        policy_calls: Actions that the policy was asked for.
        n_invalid: Rollouts without a result: they cannot be executed, or the environment raised.
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
    value, low, high = (f"{part:+.{digits}f}" for part in numbers)
    return f"{value} [{low}, {high}]"


class Arm(NamedTuple):
    """The results of the rollouts of one request, as numbers.

    Attributes:
        values: The score or return of each rollout, (n,) float64; NaN for a rollout without one.
        rollouts: The rollouts, in the order of the values. Empty if the values are known without.
    """

    values: FloatArray
    rollouts: Sequence[Rollout]

    @classmethod
    def of(cls, rollouts: Sequence[Rollout], *, by_score: bool) -> Arm:
        """Return the arm of rollouts.

        Args:
            rollouts: The rollouts.
            by_score: Whether their results are scores; otherwise they are returns.
        """
        values = [_result(rollout, by_score=by_score) for rollout in rollouts]
        return cls(np.array(values, np.float64), rollouts)

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
    def n_invalid(self) -> int:
        """Number of rollouts without a result."""
        return int(np.isnan(self.values).sum())


def _result(rollout: Rollout, *, by_score: bool) -> float:
    if rollout.is_invalid:
        return np.nan
    if by_score:
        return np.nan if rollout.score is None else rollout.score
    return rollout.episode_return


def estimate_arm(
    arm: Arm,
    *,
    step: int,
    scale: float | None,
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
        estimator: See `Estimate`.
        estimand: See `Estimate`.
        noise: See `Estimate`.
        action: See `Estimate`.
    """
    interval = intervals.mean(arm.valid, scale)
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
        scale: See `intervals.augmented_t`; None if every result is 0 or 1.
        estimator: See `Estimate`.
        estimand: See `Estimate`.
        noise: See `Estimate`.
        action: See `Estimate`.
    """
    interval, n, n_discordant = difference(a.values, b.values, is_paired=is_paired, scale=scale)
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


def difference(
    a: FloatArray, b: FloatArray, *, is_paired: bool, scale: float | None
) -> tuple[Interval, int, int]:
    """Return the mean of a - b with its interval, the number of pairs, and how many pairs differ.

    Args:
        a: Result of each rollout of the first arm, (n,) float64; NaN for a rollout without one.
        b: Results of the second arm, (n,) float64.
        is_paired: Whether rollouts with the same index share their scenario.
        scale: See `intervals.augmented_t`; None if every result is 0 or 1.
    """
    if not is_paired:
        a = a[~np.isnan(a)]
        b = b[~np.isnan(b)]
        n = min(len(a), len(b))
        return (intervals.independent(a, b, scale) if n else intervals.UNKNOWN), n, n
    # A pair counts only if both of its rollouts have a result.
    is_valid = ~(np.isnan(a) | np.isnan(b))
    a = a[is_valid]
    b = b[is_valid]
    if not len(a):
        return intervals.UNKNOWN, 0, 0
    return intervals.paired(a, b, scale), len(a), int(np.count_nonzero(a != b))


def invalid_note(arms: Sequence[Arm]) -> list[str]:
    """Return a note on the rollouts without a result, or no note if all have one."""
    n_invalid = sum(arm.n_invalid for arm in arms)
    if not n_invalid:
        return []
    reasons = (
        rollout.error or "no verdict"
        for arm in arms
        for rollout in arm.rollouts
        if rollout.is_invalid
    )
    reason = next(reasons, "the check gave no verdict")
    return [f"{n_invalid} rollouts have no result and are left out: {reason}"]
