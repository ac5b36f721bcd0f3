"""The arms of a search for the decisive step, which grow as the search needs them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trajrec.replay.credit.estimators.recorded import is_over, recorded_actions, recorded_rewards
from trajrec.replay.credit.results.budget import Budget, BudgetSpent, Meter
from trajrec.replay.credit.results.estimates import (
    Arm,
    Estimate,
    estimate_arm,
    estimate_difference,
)
from trajrec.replay.credit.sampling.noise import PolicyNoise
from trajrec.replay.credit.sampling.policy_state import own_generators
from trajrec.replay.credit.sampling.request import SampleRequest
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.credit.sampling.sampler import Sampler
from trajrec.replay.forks.policies import as_policy
from trajrec.statistics import intervals
from trajrec.statistics.intervals import PairSpread
from trajrec.types import Action, FloatArray

# The fewest scenarios that have an interval; a search with a budget begins with so many.
MIN_SCENARIOS = 2

# The part of a budget that the search may spend; the rest is for the confirmation.
SEARCH_SHARE = 0.8


class ArmSize(NamedTuple):
    """An arm and the number of rollouts that it should have."""

    step: int
    arm: str
    n: int


class SearchArms:
    """The rollouts of a search, by step and arm.

    Args:
        sampler: Runs the rollouts.
        n_rollouts: See `decisive_step`.
        max_rollouts: See `decisive_step`.
        confidence: See `decisive_step`.
        budget: See `decisive_step`.

    Attributes:
        steps: The steps of the episode.
        sampler: Runs the rollouts.
        episode: The episode.
        actions: The recorded actions, by step.
        samples: The rollouts by (step, arm). The arms are "value", the policy acts, and "action",
            the recorded action is taken; "redrawn" and "kept" are the same for the confirmation.
        meter: The cost so far, and the budget.
        outcome: The recorded outcome.
        sign: 1.0 if the episode was won, so that effects count positive; else -1.0.
        n_first: Rollouts of each arm at first.
        max_rollouts: Largest number of rollouts of an arm.
        confidence: The probability that a step needs to be decisive.
        n_run: Number of rollouts so far.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        n_rollouts: int,
        max_rollouts: int,
        confidence: float,
        budget: Budget | None,
    ) -> None:
        self.sampler = sampler
        self.episode = sampler.episode
        self.n_first = n_rollouts
        self.max_rollouts = max_rollouts
        self.confidence = confidence
        self.meter = Meter(budget, SEARCH_SHARE)
        self.n_run = 0
        self.on_error = sampler.config.on_error
        self.samples: dict[tuple[int, str], list[Rollout]] = {}
        self._is_binary = True
        self.actions = recorded_actions(self.episode)
        self.steps = range(self.episode.first_step, self.episode.end_step)
        if not self.steps:
            raise ValueError(f"episode {self.episode.id} has no steps: none can be decisive")
        self.outcome = self._recorded_outcome()
        # A successful episode was won by a step, so effects count positive; another was lost.
        self.sign = 1.0 if self.outcome >= 1.0 and self.is_share else -1.0

    @property
    def is_share(self) -> bool:
        """Whether results are 0 or 1 so far: a search may take them for failures and successes."""
        # A recorded end without a verdict says nothing against it.
        has_no_verdict = self.sampler.by_score and math.isnan(self.outcome)
        return self._is_binary and (has_no_verdict or self.outcome in (0.0, 1.0))

    def has_shares(self) -> bool:
        """Return whether results are known to be 0 or 1, so that a reported mean is a probability.

        It goes through all rollouts: ask once.
        """
        arms = [Arm.of(rollouts, self.sampler).valid for rollouts in self.samples.values()]
        return self.is_share and self.sampler.has_shares(arms)

    def sample_value(self, step: int, n: int) -> FloatArray:
        """Run n more rollouts of the policy from a step; return their results, (m,) float64."""
        n_before = len(self.samples.get((step, "value"), ()))
        if not self.grow([ArmSize(step, "value", n_before + n)]):
            return np.zeros(0)
        results = self.results(step, "value")[n_before:]
        return results[~np.isnan(results)]

    def effect(self, step: int, *, has_shares: bool) -> Estimate:
        """Return Q - V at a step, from the rollouts of the confirmation."""
        redrawn = self.arm(step, "redrawn")
        kept = self.arm(step, "kept")
        return estimate_difference(
            kept,
            redrawn,
            step=step,
            is_paired=self.sampler.is_paired,
            scale=None if has_shares else intervals.spread_within([redrawn.valid, kept.valid]),
            spread=PairSpread.of([kept.values - redrawn.values]),
            estimator="decisive",
            estimand="Q(action) - V, in fresh scenarios",
            noise=self.sampler.noise,
            action=self.actions[step],
        )

    def n_affordable(self) -> int:
        """Return the rollouts of each arm that the rest of the budget surely reaches for."""
        rollouts = [rollout for arm in self.samples.values() for rollout in arm]
        if not rollouts:
            return self.max_rollouts
        n = self.meter.affordable(
            # Rollouts in new scenarios cannot take over the steps of earlier ones.
            env_steps=max(rollout.length for rollout in rollouts),
            policy_calls=max(rollout.length for rollout in rollouts),
        )
        return self.max_rollouts if n is None else n // 2

    def grow(self, sizes: Sequence[ArmSize], first: int = 0) -> bool:
        """Run rollouts until each arm has its size, in scenarios from number `first` on.

        Returns:
            Whether the budget has reached for all of them; if not, none counts.
        """
        requests = []
        for step, arm, n in sizes:
            n_before = len(self.samples.setdefault((step, arm), []))
            scenarios = self.sampler.config.noise.scenarios(
                n - n_before, f"{step}/{arm}", first + n_before
            )
            is_forced = arm in ("action", "kept")
            script = ((step, self.actions[step]),) if is_forced else ()
            requests.append(SampleRequest(step, scenarios, script))
        try:
            samples = self.meter.run(self.sampler, requests)
        except BudgetSpent:
            return False
        for size, rollouts in zip(sizes, samples, strict=True):
            self.samples[size.step, size.arm] += rollouts
            self.n_run += len(rollouts)
            results = Arm.of(rollouts, self.sampler).valid
            self._is_binary = self._is_binary and intervals.is_binary(results)
        return True

    def arm(self, step: int, arm: str) -> Arm:
        """Return the results of an arm."""
        return Arm.of(self.samples[step, arm], self.sampler)

    def results(self, step: int, arm: str) -> FloatArray:
        """Return the results of an arm, (n,) float64; NaN for a rollout without one."""
        return self.arm(step, arm).values

    def row(self, step: int, name: str, *, has_shares: bool) -> Estimate:
        """Return the mean result of an arm."""
        arm = self.arm(step, name)
        measure = "P(success)" if has_shares else "return"
        action = "recorded action" if name in ("action", "kept") else "action redrawn"
        return estimate_arm(
            arm,
            step=step,
            scale=None if has_shares else intervals.spread_within([arm.valid]),
            estimator=name,
            estimand=f"{measure} with the {action}",
            noise=self.sampler.noise,
            action=self.actions.get(step),
        )

    @functools.cached_property
    def follows_recording(self) -> bool:
        """Whether the policy takes each recorded action without a draw.

        Its own action is then the recorded one in every rollout, so no action has an effect. The
        observations are the recorded ones; a policy that reads something else is not judged by
        them: one with a memory, one that draws from generators of its own, an agent's.
        """
        policy = self.sampler.config.policy
        values = self.episode.observation_values
        is_judged = self.sampler.is_determined and not self.episode.is_agent_episode
        if not is_judged or isinstance(policy, str) or hasattr(policy, "snapshot"):
            return False
        if own_generators(policy) or len(values) != len(self.steps) + 1:
            return False
        acting = as_policy(policy)
        noise = PolicyNoise(0)
        untouched = noise.seed(0, 0).random()
        for row, step in enumerate(self.steps):
            rng = noise.seed(0, 0)
            if not _is_same_action(acting.act(values[row], rng), self.actions[step]):
                return False
            if rng.random() != untouched:
                return False
        return True

    def _recorded_outcome(self) -> float:
        if not self.sampler.by_score:
            return float(sum(recorded_rewards(self.episode).values()))
        if not is_over(self.episode):
            return 0.0
        return self.sampler.score_at(self.episode.end_step)


def _is_same_action(a: Action, b: Action) -> bool:
    """Return whether two actions are the same numbers, whatever their types are."""
    numbers = (int, float, np.generic, np.ndarray)
    return isinstance(a, numbers) and isinstance(b, numbers) and bool(np.array_equal(a, b))
