"""Sums of an episode's rewards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trajrec.types import Array, Value


def total(rewards: Array) -> float:
    """Return the sum of rewards, (T,) or (T, k); NaN if they are no numbers.

    >>> total(np.array([1.0, 0.5]))
    1.5
    """
    try:
        return float(np.sum(rewards))
    except (TypeError, ValueError):
        return float("nan")


def sums_by_agent(rewards: Sequence[Value]) -> dict[Value, float]:
    """Return the sum of each agent's rewards; empty if no reward is a dict by agent.

    >>> sums_by_agent([{"a": 1.0}, {"a": 2.0, "b": 0.5}])
    {'a': 3.0, 'b': 0.5}
    """
    by_agent = [reward for reward in rewards if isinstance(reward, dict)]
    return {
        agent: float(sum(reward.get(agent, 0) for reward in by_agent))
        for agent in dict.fromkeys(agent for reward in by_agent for agent in reward)
    }
