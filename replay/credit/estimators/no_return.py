"""The point of no return: the step from which a failed episode could no longer be won, found as git finds a bad commit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Unpack

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.estimators.advantage import is_over, recorded_actions, recorded_rewards
from trajrec.replay.credit.estimators.decisive import CONFIRM
from trajrec.replay.credit.results.estimates import Arm, CreditTable, Estimate
from trajrec.replay.credit.results.store import make_table, with_estimand_note
from trajrec.replay.credit.sampling.options import RolloutConfig, RolloutOptions
from trajrec.replay.credit.sampling.rollout import Rollout, Script
from trajrec.replay.credit.sampling.sampler import Sampler, SampleRequest
from trajrec.statistics import intervals

ABRUPT = 0.2
"""One step lost what the policy still won with this probability; below, time or many steps did."""


@dataclass(frozen=True, eq=False)
class PointOfNoReturn:
    """Where a failed episode could no longer be won.

    Attributes:
        step: The first step from which no rollout wins; None where none wins from the beginning.
        start: Probability of winning from the first step.
        before: From the step before `step`, in scenarios that it was not found in.
        after: From `step`, in these too.
        kept: From the step before with its action kept, whatever comes of it; None where none was taken.
        action: The action between the two.
        table: All that it rests on, as it is kept in the corpus.
    """

    step: int | None
    start: Estimate
    before: Estimate
    after: Estimate
    kept: Estimate | None
    action: Any
    table: CreditTable

    def __str__(self) -> str:
        if self.step is None:
            return f"It could not be won from the beginning: the policy wins {_times(self.start)}."
        could = "could no longer be won" if not self.after.value else "was hardly won any more"
        return (
            f"After step {self.step - 1} (action {self.action}) it {could}: the policy wins "
            f"{_times(self.start)} from the beginning, {_times(self.before)} from before that step, and {_times(self.after)} "
            f"from after it. {self._how()}"
        )

    def _how(self) -> str:
        """Say what lost it at the step: its action, what came of it, or neither alone."""
        if self.before.ci_low < ABRUPT or self.kept is None:
            return "It was lost little by little: no single step did it."
        with_it = f"with that action in other scenarios it wins {_times(self.kept)}"
        if self.kept.value > self.before.value / 2:
            return f"What came of its action there lost it, not the action: {with_it}."
        return f"Its action there lost it: {with_it}."


def point_of_no_return(
    episode: Episode, policy: Any, *, n_rollouts: int = 32, **how: Unpack[RolloutOptions]
) -> PointOfNoReturn:
    """Find the step from which a failed episode could no longer be won, by bisection: n log2(T) rollouts.

    Args:
        episode: One that was lost.
        policy: See `scan`: it is this policy that could no longer win it.
        n_rollouts: Rollouts of each probe. A step from which fewer than 1 in n_rollouts
            continuations succeed may count as lost.
        how: See `RolloutOptions`; `success` says what winning is, where the return is not 0 or 1.

    Raises:
        DivergenceError: The environment is not in the recorded state at a step: nothing can be said.
        ValueError: The episode was won, or nothing says what winning is.
    """
    if n_rollouts < 2:
        raise ValueError(f"n_rollouts must be at least 2, got {n_rollouts!r}")
    with Sampler(
        episode, RolloutConfig.from_options(policy, how, caller="point_of_no_return")
    ) as prober:
        if _is_won(prober):
            why = (
                ""
                if prober.by_score
                else f" (it returned {episode.total_reward:g} > 0; success=, or --success, says otherwise)"
            )
            raise ValueError(
                f"episode {episode.id} was won{why}: there is no step after which it could not be"
            )
        samples: dict[int, list[Rollout]] = {}

        actions = recorded_actions(episode)

        def roll(step: int, first: int, script: Script = ()) -> list[Rollout]:
            scenarios = prober.setting.noise.scenarios(
                n_rollouts, f"{step}/{'action' if script else 'value'}/{first}", first
            )
            return prober.run([SampleRequest(step, scenarios, script)])[0]

        def wins(step: int, first: int = 0) -> bool:
            rollouts = roll(step, first)
            samples.setdefault(step, []).extend(rollouts)
            return bool((Arm.of(rollouts, by_score=prober.by_score).known > 0).any())

        lo, hi = episode.first_step, episode.n_steps
        has_chance = wins(lo)
        while has_chance and hi - lo > 1:
            middle = (lo + hi) // 2
            lo, hi = (middle, hi) if wins(middle) else (lo, middle)
        if not has_chance:
            hi = lo
        found = {}
        for step in {lo, min(hi, episode.n_steps - 1)}:
            wins(step, CONFIRM)
            found[step] = samples[step][-n_rollouts:]
        rows = [_row(step, rollouts, prober) for step, rollouts in sorted(samples.items())]
        after = _row(hi, found[hi], prober) if hi in found else _end(hi, prober)
        arms = [(at, "value", rollouts) for at, rollouts in sorted(samples.items())]
        kept = None
        if has_chance and hi - 1 in actions:
            forced = roll(hi - 1, CONFIRM, ((hi - 1, actions[hi - 1]),))
            arms.append((hi - 1, "action", forced))
            kept = replace(
                _row(hi - 1, forced, prober),
                estimator="kept",
                estimand="P(won) with the action of the step",
            )
        lost_from = hi if has_chance else None
        table = make_table(
            prober,
            [*rows, *([kept] if kept else [])],
            arms,
            how,
            notes=[f"no return from step {lost_from}"],
        )
        kept = table.of("kept")[0] if kept else None
        before, after = (
            with_estimand_note(_row(lo, found[lo], prober), prober),
            with_estimand_note(after, prober),
        )
        return PointOfNoReturn(lost_from, table[0], before, after, kept, actions.get(hi - 1), table)


def _is_won(prober: Sampler) -> bool:
    """Say whether the episode was won.

    Raises:
        ValueError: Nothing says what winning is.
    """
    episode = prober.episode
    if prober.by_score:
        return is_over(episode) and prober.score_at(episode.n_steps) > 0
    rewards = set(recorded_rewards(episode).values())
    if not rewards <= {0.0, 1.0}:
        raise ValueError(
            "the rewards do not say what winning is: give success=, 'terminated' or a function"
        )
    return sum(rewards) > 0


def _row(step: int, rollouts: list[Rollout], prober: Sampler) -> Estimate:
    arm = Arm.of(rollouts, by_score=prober.by_score)
    found = (
        intervals.wilson((arm.known > 0).astype(float))
        if len(arm.known)
        else intervals.Interval(0.0, 0.0, 1.0, "wilson")
    )
    cost = arm.env_steps, arm.policy_calls, arm.n_invalid
    return Estimate(
        step,
        *found,
        len(arm.known),
        None,
        "value",
        "P(won) from before the step",
        prober.noise,
        *cost,
    )


def _end(step: int, prober: Sampler) -> Estimate:
    return Estimate(
        step,
        0.0,
        0.0,
        0.0,
        "recorded",
        1,
        None,
        "value",
        "P(won): the episode ended there",
        prober.noise,
    )


def _times(e: Estimate) -> str:
    if e.ci_method == "recorded":
        return "never"
    return f"{round(e.value * e.n)} of {e.n} times ({e.ci_low:.0%} to {e.ci_high:.0%})"
