"""Remarks on the rollouts of a run: lost results, heavy tails, and numbers without an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trajrec.replay.credit.results.estimates import BOUNDS, LOST, Arm, Estimate
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
    rollouts = [rollout for arm in arms for rollout in arm.rollouts]
    errors = [rollout.error for rollout in rollouts if rollout.is_invalid]
    n_unknown = sum(arm.n_unknown for arm in arms)
    notes = []
    if on_error == "lost" and errors:
        notes.append(
            f"{len(errors)} rollouts raised or could not be replayed, and count as failures: "
            f"{errors[0]}"
        )
        errors = []
    if n_unknown:
        reason = errors[0] if errors else "the check gave no verdict"
        if not errors and any(math.isnan(rollout.episode_return) for rollout in rollouts):
            reason = "their rewards have no sum (NaN)"
        remedy = "; on_error='lost' counts them as failures" if errors else ""
        notes.append(
            f"{n_unknown} rollouts have no result: {reason}. The intervals hold whatever their "
            f"results were{remedy}"
        )
    return notes


def lost_estimand(row: Estimate, on_error: OnError) -> str:
    """Return an estimand's addition that says how rollouts without a result count, or ""."""
    if not row.n_invalid:
        return ""
    has_bounds = row.ci_method.endswith(BOUNDS)
    if on_error == "lost" and not has_bounds and row.ci_method != LOST and row.n:
        return f"; {row.n_invalid} rollouts that raised or could not be replayed count as failures"
    text = f"; beside the {row.n} rollouts that have a result, {row.n_invalid} have none"
    if on_error == "lost":
        text = (
            f"; of {row.n_invalid} rollouts without a result those that raised or could not be "
            "replayed count as failures; the others have none"
        )
    return f"{text} and may be 0 or 1: the interval holds both" if has_bounds else text


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
