"""Random draws of an action's effect, given the rollouts of its two arms."""

from __future__ import annotations

import math

import numpy as np

from trajrec.types import FloatArray

# Pseudo-counts of scenarios in which the action wins, or loses, against the policy's: most actions
# do neither, so the prior expects few.
PRIOR = 0.25

# Jeffreys' prior of a success rate.
JEFFREYS = 0.5


def draw_effects(
    a: FloatArray,
    b: FloatArray,
    *,
    n_draws: int,
    is_paired: bool,
    is_share: bool,
    scale: float,
    rng: np.random.Generator,
) -> FloatArray:
    """Return draws of the mean of a - b from its posterior, (n_draws,) float64.

    Args:
        a: Results of the action's rollouts, (n,) float64; NaN for a rollout without one.
        b: Results of the policy's rollouts, (n,) float64.
        n_draws: Number of draws.
        is_paired: Whether rollouts with the same index share their scenario.
        is_share: Whether results are 0 or 1.
        scale: Standard deviation of results within the arms of the search.
        rng: The generator.
    """
    if is_paired:
        is_valid = ~(np.isnan(a) | np.isnan(b))
        differences = a[is_valid] - b[is_valid]
        if is_share:
            return _draw_paired_shares(differences, n_draws, rng)
        return _draw_paired_means(differences, n_draws, scale, rng)
    a = a[~np.isnan(a)]
    b = b[~np.isnan(b)]
    if not len(a) or not len(b):
        # Nothing is known of the effect.
        return rng.uniform(-1.0, 1.0, n_draws) * (1.0 if is_share else scale)
    if is_share:
        rate_a = rng.beta(a.sum() + JEFFREYS, len(a) - a.sum() + JEFFREYS, n_draws)
        rate_b = rng.beta(b.sum() + JEFFREYS, len(b) - b.sum() + JEFFREYS, n_draws)
        return np.asarray(rate_a - rate_b)
    # One more value of the usual spread: rollouts that happen to agree still leave doubt.
    variance_a = (a.var() + scale**2 / len(a)) / len(a)
    variance_b = (b.var() + scale**2 / len(b)) / len(b)
    error = math.sqrt(variance_a + variance_b)
    return np.asarray(a.mean() - b.mean() + error * rng.standard_normal(n_draws))


def _draw_paired_shares(
    differences: FloatArray, n_draws: int, rng: np.random.Generator
) -> FloatArray:
    """Draw from the Dirichlet posterior of the rates of better, worse and equal pairs."""
    n_up = np.count_nonzero(differences > 0)
    n_down = np.count_nonzero(differences < 0)
    n_equal = len(differences) - n_up - n_down
    rates = rng.dirichlet([n_up + PRIOR, n_down + PRIOR, n_equal + 1.0], n_draws)
    return np.asarray(rates[:, 0] - rates[:, 1])


def _draw_paired_means(
    differences: FloatArray, n_draws: int, scale: float, rng: np.random.Generator
) -> FloatArray:
    """Draw from the t posterior of the mean, with two added pairs as in `intervals.augmented_t`."""
    augmented = np.concatenate([differences, [scale, -scale]])
    n = len(augmented)
    error = augmented.std(ddof=1) / math.sqrt(n)
    return np.asarray(augmented.mean() + error * rng.standard_t(n - 1, n_draws))
