"""Remarks on the rollouts of a run: lost results, heavy tails, and numbers without an interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trajrec.replay.credit.results.estimates import LOST, Arm, Estimate
from trajrec.replay.credit.sampling.options import OnError
from trajrec.statistics.intervals import NO_SPREAD
from trajrec.types import FloatArray

# The spread rests on so few rollouts, or on such a share of them, if the tails are heavy. A normal
# distribution has a third, an exponential one a ninth.
FEWEST_SPREAD = 2.0
LEAST_SHARE = 0.05

# The same for the rollouts of a single step, whose distribution is one.
SCOUT_SHARE = 0.15

# With fewer rollouts every spread rests on few.
FEWEST_ROLLOUTS = 4


class HeavyTails(NamedTuple):
    """The number of results that a spread rests on, the number of results, and their unit."""

    n_effective: int
    n: int
    is_paired: bool


def invalid_note(arms: Sequence[Arm], on_error: OnError) -> list[str]:
    """Return a note on the rollouts without a result, or no note if all have one."""
    lost = [rollout for arm in arms for rollout in arm.rollouts if rollout.is_invalid]
    n_lost = sum(arm.n_invalid for arm in arms)
    if not n_lost:
        return []
    reasons = (rollout.error or "no verdict" for rollout in lost)
    reason = next(reasons, "the check gave no verdict")
    if on_error == "lost":
        return [
            f"{n_lost} rollouts raised or could not be replayed, and count as failures: {reason}"
        ]
    return [
        f"{n_lost} rollouts have no result: {reason}. The intervals hold whatever their results "
        "were; on_error='lost' counts them as failures"
    ]


def lost_estimand(row: Estimate, on_error: OnError) -> str:
    """Return an estimand's addition that says how rollouts without a result count, or ""."""
    if not row.n_invalid:
        return ""
    if on_error == "lost":
        return f"; {row.n_invalid} rollouts that raised or could not be replayed count as failures"
    known = f"; of the {row.n} rollouts that have a result, {row.n_invalid} have none"
    return known if row.ci_method == LOST else f"{known} and may be 0 or 1: the interval holds both"


def spread_note(rows: Sequence[Estimate]) -> list[str]:
    """Return a note if numbers have no interval because nothing varied."""
    if not any(row.ci_method == NO_SPREAD for row in rows):
        return []
    return [
        "all rollouts of a step are equal in every scenario, so the numbers have no interval: if "
        "policy and environment draw nothing they are exact, and otherwise nothing shows how far "
        "another rollout may differ"
    ]


def heavy_tails(arms: Sequence[Arm], *, is_paired: bool) -> HeavyTails | None:
    """Return how few results the spread of returns rests on, if the tails are heavy.

    Source:
        The number of rollouts that the spread rests on is (sum q)^2 / sum q^2, with the squared
        deviations q: Kish's effective sample size.

    Args:
        arms: The arms of the run, with returns; shares have no tails.
        is_paired: Whether rollouts with the same index share their scenario, so that the arms
            do not add to the number of independent results.
    """
    rows = [_squares(arm.values) for arm in arms if arm.rollouts]
    if not rows:
        return None
    is_summed = is_paired and len({len(row) for row in rows}) == 1
    squares = np.sum(rows, axis=0) if is_summed else np.concatenate(rows)
    total = float(squares.sum())
    n = len(squares)
    if total == 0.0 or n < FEWEST_ROLLOUTS:
        return None
    n_effective = total**2 / float((squares**2).sum())
    share = SCOUT_SHARE if len(rows) == 1 else LEAST_SHARE
    is_heavy = n_effective < max(FEWEST_SPREAD, share * n)
    return HeavyTails(round(n_effective), n, is_summed) if is_heavy else None


def tail_note(tails: HeavyTails | None) -> list[str]:
    """Return a warning if the tails are heavy."""
    if tails is None:
        return []
    unit = "scenarios" if tails.is_paired else "rollouts"
    return [
        f"heavy tails: the spread of the returns rests on about {tails.n_effective} of {tails.n} "
        f"{unit}, so rarer results may be missing and intervals may be too narrow: take more "
        "rollouts, or give success="
    ]


def _squares(values: FloatArray) -> FloatArray:
    """Return the squared deviation of each result from their mean; 0 without a result."""
    known = values[~np.isnan(values)]
    if not len(known):
        return np.zeros(len(values))
    return np.asarray(np.where(np.isnan(values), 0.0, (values - known.mean()) ** 2))
