"""The point of no return: the step from which a failed episode could no longer succeed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.estimators.decisive import CONFIRMING_SCENARIO
from trajrec.replay.credit.estimators.recorded import is_over, recorded_actions, recorded_rewards
from trajrec.replay.credit.results.estimates import BOUNDS, Arm, Estimate, estimate_arm
from trajrec.replay.credit.results.store import make_table, with_estimand_note
from trajrec.replay.credit.results.table import ArmRollouts, CreditTable
from trajrec.replay.credit.sampling.options import RolloutConfig, RolloutOptions
from trajrec.replay.credit.sampling.proof import run_proved
from trajrec.replay.credit.sampling.request import SampleRequest
from trajrec.replay.credit.sampling.rollout import ForcedActions, Rollout
from trajrec.replay.credit.sampling.sampler import Sampler
from trajrec.types import Action, Value

# If the policy surely succeeds with this probability before the step, one step lost the episode.
# Below, the intervals must tell whether one did.
ABRUPT = 0.2


@dataclass(frozen=True, eq=False, kw_only=True)
class PointOfNoReturn:
    """The step from which a failed episode could no longer succeed.

    Attributes:
        step: The first step from which no rollout succeeds; None if none succeeds from the start.
        start: Probability of success from the first step.
        before: Probability from the step before `step`, in fresh scenarios.
        after: Probability from `step`, in fresh scenarios.
        kept: Probability from the step before with its action kept; None if it has no action.
        action: The action between the two.
        table: All estimates and rollouts, as the corpus stores them.
    """

    step: int | None
    start: Estimate
    before: Estimate
    after: Estimate
    kept: Estimate | None
    action: Action
    table: CreditTable

    def __str__(self) -> str:
        if self.step is None:
            return (
                f"The episode could not succeed from the start: the policy succeeds "
                f"{_times(self.start)}."
            )
        lost = "could no longer succeed" if not self.after.value else "hardly succeeded any more"
        return (
            f"After step {self.step - 1} (action {self.action}) the episode {lost}: the policy "
            f"succeeds {_times(self.start)} from the start, {_times(self.before)} from before "
            f"that step, and {_times(self.after)} from after it. {self._reason()}{self._doubt()}"
        )

    def _doubt(self) -> str:
        """Return a sentence on rollouts without a result, "" if all have one."""
        n_unknown = sum(row.ci_method.endswith(BOUNDS) and row.n_invalid for row in self.table)
        if not n_unknown:
            return ""
        return f" {n_unknown} rollouts have no result and may have succeeded."

    def _reason(self) -> str:
        """Return what lost the episode: the action, its outcome, many steps, or that none is sure."""
        if self.before.ci_low < ABRUPT and self.before.ci_high < self.start.ci_low:
            return "It was lost little by little: no single step lost it."
        if self.kept is None:
            return "It is unknown whether the action lost it: the log has no action of that step."
        rate = f"with that action the policy succeeds {_times(self.kept)} in other scenarios"
        is_harmless = self.kept.value > self.before.value / 2
        if not self._is_sure(self.kept, is_harmless=is_harmless):
            return (
                f"The rollouts do not tell whether that step lost it: {rate}; more rollouts may "
                "(n_rollouts=, -n)."
            )
        if is_harmless:
            return f"The outcome of the action lost it, not the action: {rate}."
        return f"The action lost it: {rate}."

    def _is_sure(self, kept: Estimate, *, is_harmless: bool) -> bool:
        """Return whether the intervals show a loss at this step, and by what."""
        if self.before.ci_low >= ABRUPT:
            return True
        if is_harmless:
            return min(self.before.ci_low, kept.ci_low) > self.after.ci_high
        return self.before.ci_low > max(self.after.ci_high, kept.ci_high)


def point_of_no_return(
    episode: Episode,
    policy: Value,
    *,
    n_rollouts: int = 32,
    **options: Unpack[RolloutOptions],
) -> PointOfNoReturn:
    """Find the step from which a failed episode could no longer succeed, by bisection.

    The cost is about n_rollouts * log2(T) rollouts for T steps.

    Args:
        episode: An episode that failed.
        policy: The policy that could no longer succeed: see `estimate`.
        n_rollouts: Rollouts of each probe. A step from which fewer than 1 in n_rollouts
            continuations succeed may count as lost.
        options: See `RolloutOptions`. `success` says what success is; needed if rewards are not
            0 or 1.

    Raises:
        DivergenceError: The environment is not in the recorded state at a step.
        ValueError: The episode succeeded, or success is not defined.
    """
    if n_rollouts < 2:
        raise ValueError(f"n_rollouts must be at least 2, got {n_rollouts!r}")
    if episode.ending == "error":
        # As in `decisive_step`: the exception lost the episode.
        options = {"on_error": "lost", **options}
    config = RolloutConfig.from_options(policy, options, caller="point_of_no_return")

    def run(config: RolloutConfig) -> PointOfNoReturn:
        with Sampler(episode, config) as sampler:
            _check_failed(sampler)
            return _Bisection(sampler, n_rollouts).run()

    return run_proved(config, run, forks=not episode.is_agent_episode)


def _check_failed(sampler: Sampler) -> None:
    episode = sampler.episode
    if sampler.by_score:
        has_succeeded = is_over(episode) and sampler.score_at(episode.end_step) > 0
        reason = ""
    else:
        rewards = set(recorded_rewards(episode).values())
        if not rewards <= {0.0, 1.0}:
            raise ValueError(
                "the rewards do not say what success is: give success=, 'terminated', 'truncated' "
                "or a function"
            )
        has_succeeded = sum(rewards) > 0
        reason = (
            f" (its return is {episode.total_reward:g} > 0; redefine it by success=, --success)"
        )
    if has_succeeded:
        raise ValueError(f"episode {episode.id} succeeded{reason}: it has no point of no return")


class _Bisection:
    """One search: bisection as `git bisect` does it, with rollouts in the place of a test."""

    def __init__(self, sampler: Sampler, n_rollouts: int) -> None:
        self._sampler = sampler
        self._episode = sampler.episode
        self._n_rollouts = n_rollouts
        self._actions = recorded_actions(self._episode)
        self._samples: dict[int, list[Rollout]] = {}

    def run(self) -> PointOfNoReturn:
        """Search, confirm in fresh scenarios, and store the run."""
        first = self._episode.first_step
        possible = first
        lost = self._episode.end_step
        has_chance = self._succeeds(first)
        while has_chance and lost - possible > 1:
            middle = (possible + lost) // 2
            if self._succeeds(middle):
                possible = middle
            else:
                lost = middle
        if not has_chance:
            lost = possible
        # Bisection takes the luckiest probe for the last possible step, so both ends are probed
        # again in scenarios that the search has not seen.
        fresh: dict[int, list[Rollout]] = {}
        for step in {possible, min(lost, self._episode.end_step - 1)}:
            self._succeeds(step, CONFIRMING_SCENARIO)
            fresh[step] = self._samples[step][-self._n_rollouts :]
        rows = [self._row(step, rollouts) for step, rollouts in sorted(self._samples.items())]
        arms = [
            ArmRollouts(step, "value", rollouts) for step, rollouts in sorted(self._samples.items())
        ]
        kept = None
        if has_chance and lost - 1 in self._actions:
            script = ((lost - 1, self._actions[lost - 1]),)
            forced = self._roll(lost - 1, CONFIRMING_SCENARIO, script)
            arms.append(ArmRollouts(lost - 1, "action", forced))
            kept = replace(
                self._row(lost - 1, forced),
                estimator="kept",
                estimand="P(success) with the action of the step",
            )
            rows.append(kept)
        lost_from = lost if has_chance else None
        table = make_table(self._sampler, rows, arms, notes=[f"no return from step {lost_from}"])
        after = self._row(lost, fresh[lost]) if lost in fresh else self._end_row(lost)
        return PointOfNoReturn(
            step=lost_from,
            start=table[0],
            before=with_estimand_note(self._row(possible, fresh[possible]), self._sampler),
            after=with_estimand_note(after, self._sampler),
            kept=table.of("kept")[0] if kept is not None else None,
            action=self._actions.get(lost - 1),
            table=table,
        )

    def _roll(self, step: int, first: int, script: ForcedActions = ()) -> list[Rollout]:
        """Run rollouts from a step, in scenarios from number `first` on."""
        kind = "action" if script else "value"
        scenarios = self._sampler.config.noise.scenarios(
            self._n_rollouts, f"{step}/{kind}/{first}", first
        )
        return self._sampler.run([SampleRequest(step, scenarios, script)])[0]

    def _succeeds(self, step: int, first: int = 0) -> bool:
        """Run rollouts from a step; return whether any succeeds."""
        rollouts = self._roll(step, first)
        self._samples.setdefault(step, []).extend(rollouts)
        return bool((Arm.of(rollouts, self._sampler).valid > 0).any())

    def _row(self, step: int, rollouts: list[Rollout]) -> Estimate:
        arm = Arm.of(rollouts, self._sampler)
        successes = np.where(np.isnan(arm.values), np.nan, arm.values > 0)
        row = estimate_arm(
            Arm(successes, rollouts),
            step=step,
            scale=None,
            estimator="value",
            estimand="P(success) from before the step",
            noise=self._sampler.noise,
        )
        if len(arm.valid):
            return row
        # Without any result, every probability is possible.
        return replace(row, value=0.0, ci_low=0.0, ci_high=1.0, ci_method=f"wilson{BOUNDS}")

    def _end_row(self, step: int) -> Estimate:
        """Return the row of the recorded end, which needs no rollouts."""
        return Estimate(
            step=step,
            value=0.0,
            ci_low=0.0,
            ci_high=0.0,
            ci_method="recorded",
            n=1,
            n_discordant=None,
            estimator="value",
            estimand="P(success): the episode ended there",
            noise=self._sampler.noise,
        )


def _times(estimate: Estimate) -> str:
    if estimate.ci_method == "recorded":
        return "never"
    if estimate.ci_method.endswith(BOUNDS):
        unknown = f"{estimate.n_invalid} of {estimate.n + estimate.n_invalid} without a result"
        return f"{estimate.ci_low:.0%} to {estimate.ci_high:.0%} of the times ({unknown})"
    n_successes = round(estimate.value * estimate.n)
    return f"{n_successes} of {estimate.n} times ({estimate.ci_low:.0%} to {estimate.ci_high:.0%})"
