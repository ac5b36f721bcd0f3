"""The split of an episode's return into skill and luck: R - V(s0) = skill + luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trajrec.replay.credit.results.estimates import Arm
from trajrec.replay.credit.results.table import SkillLuckSplit
from trajrec.statistics import intervals
from trajrec.types import FloatArray


def split_return(
    steps: Sequence[int],
    *,
    values: Mapping[int, Arm],
    forced: Mapping[int, Arm],
    rewards: Mapping[int, float],
    gamma: float,
    is_over: bool,
    by_score: bool,
    scale: float | None,
) -> SkillLuckSplit:
    """Split the return of an episode into the policy's value, skill and luck.

    Args:
        steps: All steps of the episode, in order.
        values: The policy's arm at each step and at the end, V(k).
        forced: The arm of the recorded action at each step, Q(k, a).
        rewards: The recorded rewards.
        gamma: Discount per step.
        is_over: Whether the environment ended the episode.
        by_score: Whether results are scores.
        scale: Standard deviation within the arms; None if every result is 0 or 1.
    """
    n = len(values[steps[0]].values)
    skill = np.zeros(n)
    luck = np.zeros(n)
    total_skill = 0.0
    total_luck = 0.0
    episode_return = 0.0
    means = {step: float(np.mean(arm.values)) for step, arm in values.items()}
    for k, step in enumerate(steps):
        weight = gamma**k
        reward = rewards[step]
        action_values = forced[step].values
        skill += weight * (action_values - values[step].values)
        luck += weight * (reward + gamma * values[step + 1].values - action_values)
        action_mean = float(np.mean(action_values))
        total_skill += weight * (action_mean - means[step])
        total_luck += weight * (reward + gamma * means[step + 1] - action_mean)
        episode_return += weight * reward
    if by_score or not is_over:
        # The score, or the value of the state at which the episode was left.
        episode_return += gamma ** len(steps) * means[steps[-1] + 1]
    value = intervals.mean(values[steps[0]].valid, scale)
    skill_interval = _sum_interval(skill, scale)
    luck_interval = _sum_interval(luck, scale)
    return SkillLuckSplit(
        episode_return=episode_return,
        value=value,
        skill=skill_interval._replace(value=total_skill),
        luck=luck_interval._replace(value=total_luck),
        error=episode_return - value.value - total_skill - total_luck,
    )


def _sum_interval(sums: FloatArray, scale: float | None) -> intervals.Interval:
    """Return the mean of a sum over the steps of each scenario, with its interval."""
    if scale == 0.0:
        return intervals.without_interval(float(sums.mean()))
    return intervals.augmented_t(sums, 1.0 if scale is None else scale)
