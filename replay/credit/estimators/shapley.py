"""Shapley values: the fair share of each step, or segment, in an outcome that several caused.

In the game v(S), the steps in S keep their recorded action and the policy redraws the others.
Leaving one step out blames both of two steps that were each necessary, and neither of two steps
that were each sufficient; Shapley values share the blame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Unpack

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.estimators.recorded import recorded_actions
from trajrec.replay.credit.results.budget import Budget, BudgetSpent, Meter
from trajrec.replay.credit.results.estimates import BOUNDS, LOST, Arm, Estimate
from trajrec.replay.credit.results.store import make_table
from trajrec.replay.credit.results.table import ArmRollouts, CreditTable
from trajrec.replay.credit.sampling.options import RolloutConfig, RolloutOptions
from trajrec.replay.credit.sampling.proof import run_proved
from trajrec.replay.credit.sampling.request import SampleRequest
from trajrec.replay.credit.sampling.sampler import Sampler
from trajrec.statistics import intervals
from trajrec.types import FloatArray, Value

Segment = tuple[int, ...]

# Keeps the orders independent of other draws from the same seed.
_ORDER_STREAM = 5

# The largest standard deviation of a score in [0, 1].
_SCORE_DEVIATION = 0.5

METHOD = "augmented-t over antithetic pairs"


def shapley_values(
    episode: Episode,
    policy: Value,
    *,
    segments: Sequence[Iterable[int]] | None = None,
    n_permutations: int = 64,
    budget: Budget | None = None,
    **options: Unpack[RolloutOptions],
) -> CreditTable:
    """Estimate the Shapley value of each step, or of each segment of steps.

    Args:
        episode: From `Corpus.episode`.
        policy: The policy that redraws actions: see `estimate`.
        segments: Steps that are kept or redrawn together; by default each step is a segment. Steps
            outside of all segments keep their recorded action.
        n_permutations: Number of random orders, each with its reverse. A pair takes
            2 (segments + 1) rollouts of the whole episode, or fewer if rollouts merge.
        budget: Limits of the run.
        options: See `RolloutOptions`.

    Returns:
        A row for each segment, at its first step. The values sum to v(all) - v(none), apart from
        chance.

    Raises:
        IndexError: A segment has steps outside of the episode.
        ValueError: n_permutations is less than 2, or there are no segments.

    Source:
        Castro, Gomez & Tejada, Comput. Oper. Res. 36 (2009); antithetic orders: Mitchell et al.,
        JMLR 23 (2022).
    """
    if n_permutations < 2:
        raise ValueError(f"n_permutations must be at least 2, got {n_permutations!r}")
    steps = range(episode.first_step, episode.end_step)
    groups: list[Segment] = [(step,) for step in steps]
    if segments is not None:
        groups = [tuple(segment) for segment in segments]
    if not groups:
        raise ValueError(f"episode {episode.id} needs a segment of steps, got none")
    for group in groups:
        if not group or any(step not in steps for step in group):
            raise IndexError(
                f"steps of a segment must be in [{steps.start}, {steps.stop}) "
                f"of episode {episode.id}, got {group}"
            )
    config = RolloutConfig.from_options(policy, options, caller="shapley_values")

    def run(config: RolloutConfig) -> CreditTable:
        with Sampler(episode, config) as sampler:
            return _Game(sampler, groups).play(n_permutations, Meter(budget))

    return run_proved(config, run, forks=not episode.is_agent_episode)


class _Game:
    """The keep-or-redraw game of one episode."""

    def __init__(self, sampler: Sampler, segments: Sequence[Segment]) -> None:
        self._sampler = sampler
        self._segments = segments
        self._episode = sampler.episode
        self._actions = recorded_actions(self._episode)
        played = {step for segment in segments for step in segment}
        self._always_kept = set(range(self._episode.first_step, self._episode.end_step)) - played

    def play(self, n_permutations: int, meter: Meter) -> CreditTable:
        """Play the game in random orders and return the table."""
        n = len(self._segments)
        rng = np.random.default_rng([self._sampler.config.noise.seed, _ORDER_STREAM])
        # For each pair of orders, the mean marginal contribution of each segment.
        pairs: list[FloatArray] = []
        arms: list[ArmRollouts] = []
        # In rounds, since the scripts of all orders at once would be large.
        for part in meter.rounds(n_permutations, "pairs of orders", in_rounds=True):
            orders: list[list[int]] = []
            for _ in part:
                order = rng.permutation(n).tolist()
                orders += [order, order[::-1]]
            requests = [
                request
                for number, order in enumerate(orders, 2 * part.start)
                for request in self._requests(order, number)
            ]
            try:
                samples = meter.run(self._sampler, requests)
            except BudgetSpent:
                meter.break_off()
                continue
            results = []
            for rollouts in samples:
                arms.append(ArmRollouts(self._episode.first_step, "held", rollouts))
                results.append(Arm.of(rollouts, self._sampler).values[0])
            values = np.array(results).reshape(-1, n + 1)
            for k in range(0, len(orders), 2):
                marginals = np.zeros(n)
                for order, row in zip(orders[k : k + 2], values[k : k + 2], strict=True):
                    marginals[order] += np.diff(row) / 2
                pairs.append(marginals)
        notes = list(meter.notes)
        n_unknown = int(np.isnan(pairs).any(axis=1).sum())
        if n_unknown:
            notes.append(f"{n_unknown} pairs of orders have no result")
        rows = self._rows(np.array(pairs).reshape(-1, n), arms)
        return make_table(self._sampler, rows, arms, notes=notes)

    def _requests(self, order: Sequence[int], number: int) -> list[SampleRequest]:
        """Return the rollouts of one order: none kept, then one segment more each time.

        All of them run in one scenario, so that a marginal contribution is a paired difference.
        """
        scenarios = self._sampler.config.noise.scenarios(1, f"shapley/{number}", number)
        kept = set(self._always_kept)
        requests = [SampleRequest(self._episode.first_step, scenarios, self._script(kept))]
        for index in order:
            kept |= set(self._segments[index])
            script = self._script(kept)
            requests.append(SampleRequest(self._episode.first_step, scenarios, script))
        return requests

    def _script(self, kept: set[int]) -> tuple[tuple[int, Value], ...]:
        steps = [step for step in sorted(kept) if step in self._actions]
        return tuple((step, self._actions[step]) for step in steps)

    def _rows(self, pairs: FloatArray, arms: Sequence[ArmRollouts]) -> list[Estimate]:
        rollouts = [rollout for arm in arms for rollout in arm.rollouts]
        # Every rollout serves all segments, so each row carries an equal part of the cost.
        n_rows = max(1, len(self._segments))
        env_steps = sum(rollout.env_steps for rollout in rollouts) // n_rows
        policy_calls = sum(rollout.policy_calls for rollout in rollouts) // n_rows
        rows = []
        for column, segment in enumerate(self._segments):
            contributions = pairs[:, column]
            interval = self._interval(contributions)
            is_step = len(segment) == 1
            name = f"step {segment[0]}" if is_step else f"steps {segment[0]} to {segment[-1]}"
            rows.append(
                Estimate(
                    step=segment[0],
                    value=interval.value,
                    ci_low=interval.ci_low,
                    ci_high=interval.ci_high,
                    ci_method=interval.method,
                    n=int(np.count_nonzero(~np.isnan(contributions))),
                    n_discordant=int(np.count_nonzero(np.nan_to_num(contributions))),
                    estimator="shapley",
                    estimand=f"Shapley value of {name}",
                    noise=self._sampler.noise,
                    env_steps=env_steps,
                    policy_calls=policy_calls,
                    n_invalid=int(np.isnan(contributions).sum()),
                    action=self._actions.get(segment[0]) if is_step else None,
                )
            )
        return rows

    def _interval(self, contributions: FloatArray) -> intervals.Interval:
        """Return the mean of a segment's contributions; NaN is an unknown one."""
        is_unknown = np.isnan(contributions)
        if is_unknown.all():
            return intervals.UNKNOWN
        if not self._sampler.by_score:
            known = contributions[~is_unknown]
            scale = intervals.spread_within([known])
            if is_unknown.any():
                return intervals.Interval(float(known.mean()), -np.inf, np.inf, LOST)
            interval = intervals.pooled_t(known, scale, 0.0)
            is_none = interval.method == intervals.NO_SPREAD
            return interval if is_none else interval._replace(method=METHOD)
        # A contribution to a score in [0, 1] lies in [-1, 1].
        low, high = (
            intervals.augmented_t(np.where(is_unknown, extreme, contributions), _SCORE_DEVIATION)
            for extreme in (-1.0, 1.0)
        )
        value = float(contributions[~is_unknown].mean())
        method = f"{METHOD},{BOUNDS}" if is_unknown.any() else METHOD
        return intervals.Interval(value, low.ci_low, high.ci_high, method)
