"""The decisive step: the step whose action lost an episode, or won it.

Two methods search for it. "drop" compares each recorded action with the policy's own, under common
random numbers, and takes the first large loss. It finds faults that can be repaired, although every
later step that does not repair such a fault is a loss too. "bayes" fits a model of one fault and
probes the step from which a rollout is most informative. The found step is confirmed in scenarios
that the search did not use; a step that cannot be confirmed is undecided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Unpack

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.estimators.changepoint import ChangePoint
from trajrec.replay.credit.estimators.decision import Decision, format_steps
from trajrec.replay.credit.estimators.effects import draw_effects
from trajrec.replay.credit.estimators.recorded import is_over, recorded_actions, recorded_rewards
from trajrec.replay.credit.results.budget import Budget, Meter
from trajrec.replay.credit.results.estimates import (
    Arm,
    Estimate,
    estimate_arm,
    estimate_difference,
)
from trajrec.replay.credit.results.store import make_table
from trajrec.replay.credit.results.table import ArmRollouts
from trajrec.replay.credit.sampling.options import RolloutConfig, RolloutOptions
from trajrec.replay.credit.sampling.request import SampleRequest
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.credit.sampling.sampler import Sampler
from trajrec.statistics import intervals
from trajrec.types import FloatArray, Value

Method = Literal["drop", "bayes"]

# Number of the first scenario that is reserved for confirmation. No search reaches it: it would
# take four billion rollouts of one arm.
CONFIRMING_SCENARIO = 1 << 32

# The fewest scenarios that have an interval; a search with a budget begins with so many.
MIN_SCENARIOS = 2

# Draws of all effects: a probability of 0.95 then has a standard error of 0.003.
N_DRAWS = 4000

# An effect this many standard errors from zero is confirmed with high probability: 3.5 squared.
CONFIRMING_ERRORS = 12


class ArmSize(NamedTuple):
    """An arm and the number of rollouts that it should have."""

    step: int
    arm: str
    n: int


class Finding(NamedTuple):
    """The result of a search, before it is confirmed.

    Attributes:
        step: The most probable step.
        probabilities: Probability of each step, (T,) float64; None for a method without a model.
        method: The method.
        reason: The reason for no decision; "" if the search decided.
        n_to_confirm: Rollouts of each arm that the confirmation needs.
    """

    step: int
    probabilities: FloatArray | None
    method: str
    reason: str
    n_to_confirm: int


def decisive_step(
    episode: Episode,
    policy: Value,
    *,
    method: Method = "drop",
    n_rollouts: int = 32,
    max_rollouts: int = 2048,
    confidence: float = 0.95,
    share: float = 1 / 3,
    budget: Budget | None = None,
    **options: Unpack[RolloutOptions],
) -> Decision:
    """Find the step whose action lost an episode, or won it if the episode was won.

    Args:
        episode: From `Corpus.episode`.
        policy: The policy that the recorded actions are compared with: see `estimate`.
        method: "drop" or "bayes": see the module.
        n_rollouts: Rollouts of each arm at first, and at least so many to confirm.
        max_rollouts: The search doubles the rollouts of an arm until one step is sure enough, or
            an arm has so many.
        confidence: The probability that a step needs to be decisive.
        share: "drop" takes the earliest step whose effect is at least this share of the largest.
        budget: Limits of the run.
        options: See `RolloutOptions`.

    Returns:
        The decision; its `step` is None if undecided.

    Raises:
        DivergenceError: The environment is not in the recorded state at a step.
        ValueError: An argument has none of its allowed values, or the episode has no steps.
    """
    if method not in ("drop", "bayes"):
        raise ValueError(f"method must be 'drop' or 'bayes', got {method!r}")
    if n_rollouts < 2 or max_rollouts < n_rollouts:
        raise ValueError(
            f"n_rollouts must be in [2, max_rollouts], got {n_rollouts!r} and {max_rollouts!r}"
        )
    config = RolloutConfig.from_options(policy, options, caller="decisive_step")
    with Sampler(episode, config) as sampler:
        search = Search(
            sampler,
            n_rollouts=n_rollouts,
            max_rollouts=max_rollouts,
            confidence=confidence,
            budget=budget,
        )
        finding = search.by_drop(share) if method == "drop" else search.by_change_point()
        return search.confirm(finding, options)


class Search:
    """One search for the decisive step. Its samples grow, arm by arm.

    Args:
        sampler: Runs the rollouts.
        n_rollouts: See `decisive_step`.
        max_rollouts: See `decisive_step`.
        confidence: See `decisive_step`.
        budget: See `decisive_step`.
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
        self._sampler = sampler
        self._episode = sampler.episode
        self._n_first = n_rollouts
        self._max_rollouts = max_rollouts
        self._confidence = confidence
        self._meter = Meter(budget)
        self._n_run = 0
        self._samples: dict[tuple[int, str], list[Rollout]] = {}
        self._is_binary = True
        self._actions = recorded_actions(self._episode)
        self.steps = range(self._episode.first_step, self._episode.end_step)
        if not self.steps:
            raise ValueError(f"episode {self._episode.id} has no steps: none can be decisive")
        self._outcome = self._recorded_outcome()
        # A successful episode was won by a step, so effects count positive; another was lost.
        self._sign = 1.0 if self._outcome >= 1.0 and self.is_share else -1.0

    @property
    def is_share(self) -> bool:
        """Whether results are 0 or 1, so that their mean is a probability."""
        return self._sampler.by_score or (self._is_binary and self._outcome in (0.0, 1.0))

    def require_failure(self, method: str) -> None:
        """Check that a method for failed episodes applies.

        Raises:
            ValueError: The episode was won, or results are no successes and failures.
        """
        if not self.is_share or self._sign > 0:
            raise ValueError(
                f"method {method!r} needs a failed episode that could have succeeded: "
                "give success=, or take method='drop'"
            )

    def by_drop(self, share: float) -> Finding:
        """Compare every action with the policy's, with more scenarios until one step stands out."""
        # The cost of a scenario is unknown at first, so a budget is approached from the fewest.
        n = min(self._n_first, MIN_SCENARIOS) if self._meter.is_limited else self._n_first
        reason = ""
        while True:
            self._grow(
                [ArmSize(step, arm, n) for step in self.steps for arm in ("value", "action")]
            )
            probabilities = self._drop_probabilities(share)
            best = int(probabilities.argmax())
            if n >= self._n_first and probabilities[best] >= self._confidence:
                break
            # The next round doubles the rollouts.
            spent = self._meter.spent(ahead=2.0)
            if spent:
                reason = f"its budget does not reach further ({spent})"
                break
            if n * 2 > self._max_rollouts:
                reason = f"{n} scenarios do not tell the steps apart"
                break
            n = min(2 * n, self._n_first) if n < self._n_first else 2 * n
        step = self.steps[best]
        effects = self._results(step, "action") - self._results(step, "value")
        effects = effects[~np.isnan(effects)]
        n_needed = self._n_first
        if len(effects):
            n_needed = _n_to_confirm(float(effects.mean()), float((effects**2).mean()))
        return Finding(step, probabilities, "drop", reason, n if reason else n_needed)

    def by_change_point(self) -> Finding:
        """Probe the step that is most informative about the change of the success rate."""
        self.require_failure("bayes")
        model = ChangePoint(len(self.steps))
        n_batch = max(4, self._n_first // 8)
        # As many probes as a bisection would need, half of them with the largest arm.
        limit = self._max_rollouts * max(1, math.ceil(math.log2(len(self.steps) + 1)) // 2)
        reason = ""
        while True:
            probabilities = model.probabilities()
            if probabilities.max() >= self._confidence:
                break
            spent = self._meter.spent()
            if spent:
                reason = f"its budget is spent ({spent})"
                break
            if self._n_run >= limit:
                reason = f"{self._n_run} rollouts do not tell the steps apart"
                break
            k = model.next_probe()
            results = self.sample_value(self.steps[k], n_batch)
            model.add(k, int((results > 0.5).sum()), len(results))
        best = int(probabilities.argmax())
        drop = model.drop(best)
        return Finding(self.steps[best], probabilities, "bayes", reason, _n_to_confirm(drop, drop))

    def sample_value(self, step: int, n: int) -> FloatArray:
        """Run n more rollouts of the policy from a step; return their results, (m,) float64."""
        n_before = len(self._samples.get((step, "value"), ()))
        self._grow([ArmSize(step, "value", n_before + n)])
        results = self._results(step, "value")[n_before:]
        return results[~np.isnan(results)]

    def confirm(self, finding: Finding, options: RolloutOptions) -> Decision:
        """Estimate the step's effect in fresh scenarios, and store the run.

        The largest of many effects looks larger than it is, so the search's own scenarios prove
        nothing. Their number is fixed before any result is seen: an interval that is checked again
        and again does not cover.
        """
        step = finding.step
        n_confirm = min(max(finding.n_to_confirm, self._n_first), self._max_rollouts)
        if finding.reason:
            n_confirm = min(max(finding.n_to_confirm, MIN_SCENARIOS), self._n_first)
        sizes = [ArmSize(step, "redrawn", n_confirm), ArmSize(step, "kept", n_confirm)]
        self._grow(sizes, first=CONFIRMING_SCENARIO)
        redrawn = self._arm(step, "redrawn")
        kept = self._arm(step, "kept")
        results = np.concatenate([redrawn.valid, kept.valid])
        effect = estimate_difference(
            kept,
            redrawn,
            step=step,
            is_paired=self._sampler.is_paired,
            scale=None if self.is_share else intervals.standard_deviation(results),
            estimator="decisive",
            estimand="Q(action) - V, in fresh scenarios",
            noise=self._sampler.noise,
            action=self._actions[step],
        )
        reason = finding.reason
        is_confirmed = effect.ci_low > 0 if self._sign > 0 else effect.ci_high < 0
        if not is_confirmed and not reason:
            reason = (
                "in scenarios that the search did not use, its action does not differ from the "
                "policy's"
            )
        candidates = self._candidates(finding)
        note = f"step {step} decided it"
        if reason:
            note = f"undecided among {format_steps(candidates)}: {reason}"
        samples = sorted(self._samples.items())
        rows = [self._row(at, arm) for (at, arm), _ in samples]
        arms = [ArmRollouts(at, arm, rollouts) for (at, arm), rollouts in samples]
        table = make_table(self._sampler, [*rows, effect], arms, options, notes=[note])
        confidence = None
        if finding.probabilities is not None:
            confidence = float(finding.probabilities[step - self.steps[0]])
        return Decision(
            episode_id=self._episode.id,
            step=None if reason else step,
            likeliest=step,
            confidence=confidence,
            candidates=candidates,
            effect=table.of("decisive")[0],
            redrawn=table.of("redrawn")[0],
            kept=table.of("kept")[0],
            reason=reason,
            method=finding.method,
            table=table,
            probabilities=finding.probabilities,
        )

    def _grow(self, sizes: Sequence[ArmSize], first: int = 0) -> None:
        """Run rollouts until each arm has its size, in scenarios from number `first` on."""
        requests = []
        for step, arm, n in sizes:
            n_before = len(self._samples.setdefault((step, arm), []))
            scenarios = self._sampler.config.noise.scenarios(
                n - n_before, f"{step}/{arm}", first + n_before
            )
            is_forced = arm in ("action", "kept")
            script = ((step, self._actions[step]),) if is_forced else ()
            requests.append(SampleRequest(step, scenarios, script))
        for size, rollouts in zip(sizes, self._sampler.run(requests), strict=True):
            self._samples[size.step, size.arm] += rollouts
            self._meter.add(rollouts)
            self._n_run += len(rollouts)
            self._is_binary = self._is_binary and all(
                rollout.episode_return in (0.0, 1.0) for rollout in rollouts
            )

    def _arm(self, step: int, arm: str) -> Arm:
        return Arm.of(self._samples[step, arm], by_score=self._sampler.by_score)

    def _results(self, step: int, arm: str) -> FloatArray:
        return self._arm(step, arm).values

    def _drop_probabilities(self, share: float) -> FloatArray:
        """Return the probability of each step to be the first with a large effect.

        Source:
            The probability is the share of joint draws of all effects in which the step comes out.
        """
        rng = np.random.default_rng(self._sampler.config.noise.seed)
        arms = [self._arm(step, arm) for step in self.steps for arm in ("value", "action")]
        scale = intervals.standard_deviation(np.concatenate([arm.valid for arm in arms]))
        draws = np.empty((N_DRAWS, len(self.steps)))
        for column, step in enumerate(self.steps):
            draws[:, column] = draw_effects(
                self._results(step, "action"),
                self._results(step, "value"),
                n_draws=N_DRAWS,
                is_paired=self._sampler.is_paired,
                is_share=self.is_share,
                scale=scale,
                rng=rng,
            )
        effects = draws * self._sign
        is_large = effects >= share * effects.max(axis=1, keepdims=True)
        first = is_large.argmax(axis=1)
        return np.bincount(first, minlength=len(self.steps)) / N_DRAWS

    def _candidates(self, finding: Finding) -> tuple[int, ...]:
        """Return the steps that together have 95 % of the probability, most probable first."""
        if finding.probabilities is None:
            return (finding.step,)
        order = finding.probabilities.argsort()[::-1]
        cumulated = finding.probabilities[order].cumsum()
        n = int(np.searchsorted(cumulated, 0.95)) + 1
        return tuple(self.steps[0] + int(k) for k in order[:n])

    def _row(self, step: int, name: str) -> Estimate:
        arm = self._arm(step, name)
        measure = "P(success)" if self.is_share else "return"
        action = "recorded action" if name in ("action", "kept") else "action redrawn"
        return estimate_arm(
            arm,
            step=step,
            scale=None if self.is_share else intervals.standard_deviation(arm.valid),
            estimator=name,
            estimand=f"{measure} with the {action}",
            noise=self._sampler.noise,
            action=self._actions.get(step),
        )

    def _recorded_outcome(self) -> float:
        if not self._sampler.by_score:
            return float(sum(recorded_rewards(self._episode).values()))
        if not is_over(self._episode):
            return 0.0
        return self._sampler.score_at(self._episode.end_step)


def _n_to_confirm(effect: float, square: float) -> int:
    """Return the number of pairs that puts an effect 3.5 standard errors from zero.

    Args:
        effect: Mean difference of a pair.
        square: Mean square of the difference.
    """
    # Both bounds keep the number finite: a variance of zero, or an effect of zero, is an accident.
    variance = max(square - effect**2, 0.01)
    return math.ceil(CONFIRMING_ERRORS * variance / max(effect**2, 1e-6))
