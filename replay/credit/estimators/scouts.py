"""Scouts: rollouts in further scenarios that show how far returns spread.

In shared noise all steps of a run see the same n scenarios. A loss with a chance of 1 in n is then
often seen by no rollout, and no other step tells of it. Scouts start from the first step alone, in
scenarios that nothing else uses, and only widen intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trajrec.replay.credit.results.budget import BudgetSpent, Meter
from trajrec.replay.credit.results.estimates import Arm
from trajrec.replay.credit.results.remarks import HeavyTails, heavy_tails
from trajrec.replay.credit.sampling.request import SampleRequest
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.credit.sampling.sampler import Sampler
from trajrec.statistics import intervals

# With so many scenarios a loss that no rollout shows hardly moves a mean beyond its interval.
ENOUGH_SCENARIOS = 128

# More scouts would cost more than they show.
MOST_SCOUTS = 64

# Scouts are at most this share of the run's rollouts, and fewer than so many show nothing.
LARGEST_SHARE = 4
FEWEST_SCOUTS = 8

# Spreads of 8 and 24 normal results differ by this factor in 1 of 100 cases.
WIDER = 2.0

# Number of the first scenario of scouts.
SCOUT_SCENARIO = 1 << 33

# The part of a return's variance that a difference of two arms in one scenario may have. Measured
# on random decision processes with rare losses.
DIFFERENCE_SHARE = 0.05


class Scouts(NamedTuple):
    """The rollouts of the scouts.

    Attributes:
        arm: Their results.
        tails: How few of them the spread rests on; None if the tails are not heavy.
        is_wider: Whether they spread further than the run's own rollouts from their step.
    """

    arm: Arm
    tails: HeavyTails | None
    is_wider: bool

    def tail(self, rollouts: Sequence[Rollout]) -> float:
        """Return the standard deviation that a step's returns may have, by the scouts' tails.

        Rare losses happen in proportion to the steps left.

        Args:
            rollouts: The rollouts from the step, for the number of steps left.
        """
        if not rollouts or not (self.is_wider or self.tails is not None):
            return 0.0
        left = float(np.mean([rollout.length for rollout in rollouts]))
        of_scouts = float(np.mean([rollout.length for rollout in self.arm.rollouts]))
        share = min(1.0, left / of_scouts) if of_scouts else 1.0
        return intervals.spread_within([self.arm.valid]) * math.sqrt(share)


def send_scouts(sampler: Sampler, step: int, meter: Meter, arms: Sequence[Arm]) -> Scouts | None:
    """Run scouts from a step; return None if the run needs none, or has no budget for them.

    Args:
        sampler: The sampler.
        step: The first step of the run.
        meter: The budget.
        arms: The arms of the run, with returns; the arm of the step is put before them.
    """
    sizes = [len(arm.values) for arm in arms[1:] if arm.rollouts]
    n = min(MOST_SCOUTS, sum(sizes) // LARGEST_SHARE)
    has_enough = max(sizes, default=0) >= ENOUGH_SCENARIOS
    if not sampler.is_paired or has_enough or n < FEWEST_SCOUTS or not len(arms[0].valid):
        return None
    try:
        request = SampleRequest(step, range(SCOUT_SCENARIO, SCOUT_SCENARIO + n))
        (rollouts,) = meter.run(sampler, [request])
    except BudgetSpent:
        return None
    arm = Arm.of(rollouts, sampler)
    spread = intervals.spread_within([arm.valid])
    is_wider = spread > WIDER * intervals.spread_within([arms[0].valid])
    return Scouts(arm, heavy_tails([arm], is_paired=False), is_wider)
