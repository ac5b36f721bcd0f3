"""Sums of an episode's rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trajrec.types import Array, Value
from trajrec.values.presented import presented


def total(rewards: Array) -> float:
    """Return the sum of rewards, (T,) or (T, k); NaN if they are no numbers that floats hold.

    >>> total(np.array([1.0, 0.5]))
    1.5
    >>> total(np.array([2**62, 2**62]))
    9.223372036854776e+18
    """
    if rewards.dtype.kind == "c":
        return math.nan
    # Sums of integers would begin anew beyond 64 bits.
    dtype = np.float64 if rewards.dtype.kind in "iu" else None
    try:
        return float(np.sum(rewards, dtype=dtype))
    except (TypeError, ValueError, OverflowError):
        return math.nan


def total_of(rewards: Sequence[Value]) -> float:
    """Return the sum of rewards as `total` does.

    >>> total_of([1, 0.5])
    1.5
    >>> total_of([{"a": 1.0}])
    nan
    """
    try:
        return total(np.asarray(list(map(presented, rewards))))
    except ValueError:
        return math.nan  # arrays of several shapes


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
