"""Sums of an episode's rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trajrec.types import Value
from trajrec.values.real_numbers import reward_parts, sum_of


def sums_by_agent(rewards: Sequence[Value], *, is_whole: bool = True) -> dict[Value, float]:
    """Return the sum of each agent's rewards; empty if no reward has parts, see `reward_parts`.

    The sum is NaN for an agent with a reward that is no number, and for all if some are lost.

    >>> sums_by_agent([{"a": 1.0}, {"a": 2.0, "b": 0.5}])
    {'a': 3.0, 'b': 0.5}
    >>> sums_by_agent([[0, 1], [0.5, 1]])
    {0: 0.5, 1: 2.0}
    """
    by_agent = [parts for reward in rewards if (parts := reward_parts(reward)) is not None]
    return {
        agent: sum_of(reward.get(agent, 0) for reward in by_agent) if is_whole else math.nan
        for agent in dict.fromkeys(agent for reward in by_agent for agent in reward)
    }
