"""The decisive step: the step whose action lost an episode, or won it.

Two methods search for it. "drop" compares each recorded action with the policy's own, under common
random numbers, and takes the first large loss. It finds faults that can be repaired, although every
later step that does not repair such a fault is a loss too. "bayes" fits a model of one fault and
probes the step from which a rollout is most informative. The found step is confirmed in scenarios
that the search did not use; a step that cannot be confirmed is undecided.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple, Unpack

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.estimators.changepoint import ChangePoint
from trajrec.replay.credit.estimators.decision import Decision, format_steps
from trajrec.replay.credit.estimators.effects import draw_effects
from trajrec.replay.credit.estimators.search_arms import (
    MIN_SCENARIOS,
    ArmSize,
    SearchArms,
)
from trajrec.replay.credit.results.budget import Budget
from trajrec.replay.credit.results.estimates import (
    Estimate,
)
from trajrec.replay.credit.results.remarks import invalid_note
from trajrec.replay.credit.results.store import make_table
from trajrec.replay.credit.results.table import ArmRollouts
from trajrec.replay.credit.sampling.options import RolloutConfig, RolloutOptions
from trajrec.replay.credit.sampling.proof import run_proved
from trajrec.replay.credit.sampling.sampler import Sampler
from trajrec.statistics import intervals
from trajrec.types import FloatArray, Value

Method = Literal["drop", "bayes"]

# Number of the first scenario that is reserved for confirmation. No search reaches it: it would
# take four billion rollouts of one arm.
CONFIRMING_SCENARIO = 1 << 32

# With so many scenarios that are all equal, an effect counts as the same in every scenario.
SCENARIOS_WITHOUT_SPREAD = 8

# Draws of all effects: a probability of 0.95 then has a standard error of 0.003.
N_DRAWS = 4000

# An effect this many standard errors from zero is confirmed with high probability: 3.5 squared.
CONFIRMING_ERRORS = 12

# More rollouts cannot tell such steps apart.
FOLLOWED = (
    "the policy takes every recorded action itself, so the outcome is luck and no action's effect "
    "(the luck of each step: credit.estimate)"
)


class Finding(NamedTuple):
    """The result of a search, before it is confirmed.

    Attributes:
        step: The most probable step.
        probabilities: Probability of each step, (T,) float64; None for a method without a model.
        method: The method.
        reason: The reason for no decision; "" if the search decided.
        n_to_confirm: Rollouts of each arm that the confirmation needs.
        update: Returns the probabilities again, given the rollouts of the confirmation too.
    """

    step: int
    probabilities: FloatArray | None
    method: str
    reason: str
    n_to_confirm: int
    update: Callable[[], FloatArray] | None = None


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
    if episode.ending == "error":
        # The exception lost the episode, so it must count where it is raised again.
        options = {"on_error": "lost", **options}
    config = RolloutConfig.from_options(policy, options, caller="decisive_step")

    def run(config: RolloutConfig) -> Decision:
        with Sampler(episode, config) as sampler:
            search = Search(
                sampler,
                n_rollouts=n_rollouts,
                max_rollouts=max_rollouts,
                confidence=confidence,
                budget=budget,
            )
            finding = search.by_drop(share) if method == "drop" else search.by_change_point()
            return search.confirm(finding)

    return run_proved(config, run, forks=not episode.is_agent_episode)


class Search(SearchArms):
    """One search for the decisive step; see `SearchArms` for the arguments."""

    def require_failure(self, method: str) -> None:
        """Check that a method for failed episodes applies.

        Raises:
            ValueError: The episode was won, or results are no successes and failures.
        """
        if not self.is_share or self.sign > 0:
            raise ValueError(
                f"method {method!r} needs a failed episode that could have succeeded: "
                "give success=, or take method='drop'"
            )

    def by_drop(self, share: float) -> Finding:
        """Compare every action with the policy's, with more scenarios until one step stands out."""
        # The cost of a scenario is unknown at first, so a budget is approached from the fewest.
        n = min(self.n_first, MIN_SCENARIOS) if self.meter.is_limited else self.n_first
        n_done = 0
        reason = ""
        while True:
            sizes = [ArmSize(step, arm, n) for step in self.steps for arm in ("value", "action")]
            if not self.grow(sizes):
                self.meter.require_progress(n_done, f"{n} scenarios of each step")
                reason = f"its budget does not allow more rollouts ({self.meter.spent()})"
                break
            n_done = n
            probabilities = self._drop_probabilities(share)
            best = int(probabilities.argmax())
            if n >= self.n_first and probabilities[best] >= self.confidence:
                break
            if n >= self.n_first and self._has_no_effects():
                reason = FOLLOWED
                break
            # The next round doubles the rollouts.
            spent = self.meter.spent(ahead=2.0)
            if spent:
                reason = f"its budget does not allow twice the rollouts ({spent})"
                break
            if n * 2 > self.max_rollouts:
                reason = f"{n} scenarios do not tell the steps apart"
                break
            n = min(2 * n, self.n_first) if n < self.n_first else 2 * n
        step = self.steps[best]
        effects = self.results(step, "action") - self.results(step, "value")
        effects = effects[~np.isnan(effects)]
        n_needed = self.n_first
        if len(effects):
            n_needed = _n_to_confirm(float(effects.mean()), float((effects**2).mean()))
        return Finding(
            step,
            probabilities,
            "drop",
            reason,
            n_done if reason else n_needed,
            functools.partial(self._drop_probabilities, share, step),
        )

    def _has_no_effects(self) -> bool:
        """Return whether no recorded action can have an effect: the policy takes each itself."""
        if not self.follows_recording:
            return False
        arms = [(self.results(step, "value"), self.results(step, "action")) for step in self.steps]
        # Independent rollouts of the same actions differ by chance.
        return not self.sampler.is_paired or all(
            np.array_equal(value, action, equal_nan=True) for value, action in arms
        )

    def by_change_point(self) -> Finding:
        """Probe the step that is most informative about the change of the success rate."""
        self.require_failure("bayes")
        model = ChangePoint(len(self.steps))
        n_batch = max(4, self.n_first // 8)
        # As many probes as a bisection would need, half of them with the largest arm.
        limit = self.max_rollouts * max(1, math.ceil(math.log2(len(self.steps) + 1)) // 2)
        reason = ""
        while True:
            probabilities = model.probabilities()
            if probabilities.max() >= self.confidence:
                break
            spent = self.meter.spent()
            if spent:
                reason = f"its budget is spent ({spent})"
                break
            if self.n_run >= limit:
                reason = f"{self.n_run} rollouts do not tell the steps apart"
                break
            k = model.next_probe()
            n_before = len(self.samples.get((self.steps[k], "value"), ()))
            if not self.grow([ArmSize(self.steps[k], "value", n_before + n_batch)]):
                reason = "its budget does not reach for further rollouts"
                break
            _add_outcomes(model, k, self.results(self.steps[k], "value")[n_before:])
        best = int(probabilities.argmax())
        drop = model.drop(best)

        def update() -> FloatArray:
            redrawn = self.results(self.steps[best], "redrawn")
            kept = self.results(self.steps[best], "kept")
            # The action's rollouts begin after the possible fault.
            _add_outcomes(model, best, redrawn)
            if best + 1 < len(self.steps):
                _add_outcomes(model, best + 1, kept)
            after: FloatArray = model.probabilities()
            # The model knows no luck: a step whose outcome was bad luck is a fault to it. The new
            # scenarios tell whether the action has the effect of the fault.
            after[best] *= self._chance_of_effect(kept, redrawn, -drop / 4)
            return after

        n_needed = _n_to_confirm(drop, drop)
        return Finding(self.steps[best], probabilities, "bayes", reason, n_needed, update)

    def _chance_of_effect(self, kept: FloatArray, redrawn: FloatArray, most: float) -> float:
        """Return the probability that the effect of an action is at most a negative number."""
        draws = draw_effects(
            kept,
            redrawn,
            n_draws=N_DRAWS,
            is_paired=self.sampler.is_paired,
            is_share=True,
            scale=0.0,
            rng=np.random.default_rng(self.sampler.config.noise.seed),
        )
        return float(np.mean(draws <= most))

    def confirm(self, finding: Finding) -> Decision:
        """Estimate the step's effect in fresh scenarios, and store the run.

        The largest of many effects looks larger than it is, so the search's own scenarios prove
        nothing. Their number is fixed before any result is seen: an interval that is checked again
        and again does not cover.
        """
        step = finding.step
        n_confirm = min(max(finding.n_to_confirm, self.n_first), self.max_rollouts)
        if finding.reason:
            n_confirm = min(max(finding.n_to_confirm, MIN_SCENARIOS), self.n_first)
        self.meter.release()
        n_confirm = min(n_confirm, max(MIN_SCENARIOS, self.n_affordable()))
        sizes = [ArmSize(step, "redrawn", n_confirm), ArmSize(step, "kept", n_confirm)]
        has_confirmed = self.grow(sizes, first=CONFIRMING_SCENARIO)
        has_shares = self.has_shares()
        effect = self.effect(step, has_shares=has_shares)
        probabilities = finding.probabilities
        confidence = None
        if probabilities is not None:
            if has_confirmed and finding.update is not None and not finding.reason:
                probabilities = finding.update()
            confidence = float(probabilities[step - self.steps[0]])
        reason = finding.reason
        if not has_confirmed:
            reason = reason or "its budget is spent before the step is confirmed"
        reason = reason or self._refutation(effect, confidence)
        candidates = self._candidates(step, probabilities)
        # The confirmation may have made another step the most probable one.
        likeliest = candidates[0] if reason else step
        if probabilities is not None:
            confidence = float(probabilities[likeliest - self.steps[0]])
        note = f"step {step} decided it"
        if reason:
            note = f"undecided among {format_steps(candidates)}: {reason}"
        samples = sorted(self.samples.items())
        rows = [self.row(at, arm, has_shares=has_shares) for (at, arm), _ in samples]
        arms = [ArmRollouts(at, arm, rollouts) for (at, arm), rollouts in samples]
        notes = [note, *invalid_note([self.arm(*key) for key, _ in samples], self.on_error)]
        table = make_table(self.sampler, [*rows, effect], arms, notes=notes)
        return Decision(
            episode_id=self.episode.id,
            step=None if reason else step,
            likeliest=likeliest,
            confidence=confidence,
            candidates=candidates,
            effect=table.of("decisive")[0],
            redrawn=table.of("redrawn")[0],
            kept=table.of("kept")[0],
            reason=reason,
            method=finding.method,
            table=table,
            probabilities=probabilities,
        )

    def _refutation(self, effect: Estimate, confidence: float | None) -> str:
        """Return why the confirmation does not confirm a step, "" if it does."""
        is_confirmed = effect.ci_low > 0 if self.sign > 0 else effect.ci_high < 0
        if effect.ci_method == intervals.NO_SPREAD and effect.n >= SCENARIOS_WITHOUT_SPREAD:
            # Nothing is drawn, as far as can be seen: the effect is the same in every scenario.
            is_confirmed = effect.value * self.sign > 0
        if not is_confirmed:
            return (
                "in scenarios that the search did not use, its action does not differ from the "
                "policy's"
            )
        if confidence is not None and confidence < self.confidence:
            return f"after its confirmation its probability is {confidence:.2f}"
        return ""

    def _drop_probabilities(self, share: float, confirmed: int | None = None) -> FloatArray:
        """Return the probability of each step to be the first with a large effect.

        Args:
            share: See `decisive_step`.
            confirmed: A step whose confirming rollouts count too.

        Source:
            The probability is the share of joint draws of all effects in which the step comes out.
        """
        rng = np.random.default_rng(self.sampler.config.noise.seed)
        arms = [self.arm(step, arm) for step in self.steps for arm in ("value", "action")]
        scale = intervals.spread_within([arm.valid for arm in arms])
        draws = np.empty((N_DRAWS, len(self.steps)))
        for column, step in enumerate(self.steps):
            action = self.results(step, "action")
            value = self.results(step, "value")
            if step == confirmed:
                action = np.concatenate([action, self.results(step, "kept")])
                value = np.concatenate([value, self.results(step, "redrawn")])
            draws[:, column] = draw_effects(
                action,
                value,
                n_draws=N_DRAWS,
                is_paired=self.sampler.is_paired,
                is_share=self.is_share,
                scale=scale,
                rng=rng,
            )
        effects = draws * self.sign
        is_large = effects >= share * effects.max(axis=1, keepdims=True)
        first = is_large.argmax(axis=1)
        return np.bincount(first, minlength=len(self.steps)) / N_DRAWS

    def _candidates(self, step: int, probabilities: FloatArray | None) -> tuple[int, ...]:
        """Return the steps that together have 95 % of the probability, most probable first."""
        if probabilities is None:
            return (step,)
        order = probabilities.argsort()[::-1]
        cumulated = probabilities[order].cumsum()
        n = int(np.searchsorted(cumulated, 0.95)) + 1
        return tuple(self.steps[0] + int(k) for k in order[:n])


def _add_outcomes(model: ChangePoint, step: int, results: FloatArray) -> None:
    """Add the results of rollouts from a step to a model; unknown ones say nothing."""
    known = results[~np.isnan(results)]
    model.add(step, int((known > 0.5).sum()), len(known))


def _n_to_confirm(effect: float, square: float) -> int:
    """Return the number of pairs that puts an effect 3.5 standard errors from zero.

    Args:
        effect: Mean difference of a pair.
        square: Mean square of the difference.
    """
    # Both bounds keep the number finite: a variance of zero, or an effect of zero, is an accident.
    variance = max(square - effect**2, 0.01)
    return math.ceil(CONFIRMING_ERRORS * variance / max(effect**2, 1e-6))
