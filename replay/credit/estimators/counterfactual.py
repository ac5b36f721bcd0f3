"""Counterfactuals: compare a step with another action, observation or policy in its place."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, Literal, Unpack

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.estimators.recorded import recorded_actions, recorded_rewards
from trajrec.replay.credit.results.budget import Budget, BudgetSpent, Meter
from trajrec.replay.credit.results.estimates import (
    Arm,
    Estimate,
    estimate_arm,
    estimate_difference,
)
from trajrec.replay.credit.results.remarks import heavy_tails, invalid_note, tail_note
from trajrec.replay.credit.results.store import make_table
from trajrec.replay.credit.results.table import ArmRollouts, CreditTable
from trajrec.replay.credit.sampling.options import RolloutConfig, RolloutOptions
from trajrec.replay.credit.sampling.proof import run_proved
from trajrec.replay.credit.sampling.request import SampleRequest
from trajrec.replay.credit.sampling.rollout import ForcedActions, Rollout
from trajrec.replay.credit.sampling.sampler import Sampler
from trajrec.replay.forks.policies import Policy, as_policy
from trajrec.statistics import intervals
from trajrec.statistics.intervals import NO_PAIRS, PairSpread
from trajrec.types import Action, Observation, Value


class _Unset:
    def __repr__(self) -> str:
        return "not given"


# None is a possible action and observation, so it cannot say that an argument is missing.
UNSET: Final[Value] = _Unset()


def counterfactual(
    episode: Episode,
    policy: Value,
    step: int,
    *,
    action: Action = UNSET,
    observation: Observation = UNSET,
    by: Value = UNSET,
    rest: Literal["policy", "recorded"] = "policy",
    n_rollouts: int = 64,
    budget: Budget | None = None,
    **options: Unpack[RolloutOptions],
) -> CreditTable:
    """Compare the recorded step with a substitute.

    The substitute is one of `action`, `observation` and `by`. If none is given, the policy draws
    another action.

    Args:
        episode: From `Corpus.episode`.
        policy: The policy that continues after the step: see `estimate`.
        step: The step.
        action: An action to take instead of the recorded one.
        observation: An observation to show to the policy, which then acts.
        by: Another policy, which acts at the step only.
        rest: After the step, "policy" lets the policy act, and "recorded" takes the recorded
            actions as long as there are any. The difference is then the leave-one-out effect, or
            difference reward, of the step.
        n_rollouts: Number of rollouts of each arm, at least 2.
        budget: Limits of the run.
        options: See `RolloutOptions`.

    Returns:
        Rows "kept" and "substituted", the value of each arm; "effect", substituted minus kept; and
        "flip", the probability of another outcome, if the outcome is success or failure.

    Raises:
        DivergenceError: The environment is not in the recorded state at the step.
        IndexError: The episode has no such step.
        ValueError: More than one substitute is given, or an argument has none of its allowed
            values.
    """
    substitutes = {"action": action, "observation": observation, "by": by}
    given = [name for name, value in substitutes.items() if value is not UNSET]
    if rest not in ("policy", "recorded"):
        raise ValueError(f"rest must be 'policy' or 'recorded', got {rest!r}")
    if n_rollouts < 2:
        raise ValueError(f"n_rollouts must be at least 2, got {n_rollouts!r}")
    if len(given) > 1:
        raise ValueError(f"give one of action, observation and by, got {' and '.join(given)}")
    if not episode.first_step <= step < episode.end_step:
        raise IndexError(
            f"step must be in [{episode.first_step}, {episode.end_step}) of episode {episode.id}, "
            f"got {step}"
        )
    config = RolloutConfig.from_options(policy, options, caller="counterfactual")
    actions = recorded_actions(episode)
    later = {k: a for k, a in actions.items() if k > step} if rest == "recorded" else {}
    first_policy: Value = None
    if observation is not UNSET:
        first_policy = _ShownPolicy(as_policy(policy), observation)
    elif by is not UNSET:
        first_policy = by
    forced = {} if action is UNSET else {step: action}
    meter = Meter(budget)

    def run(config: RolloutConfig) -> CreditTable:
        with Sampler(episode, config) as sampler:
            kept, substituted = _sample_arms(
                sampler,
                step,
                kept_script=tuple(sorted({step: actions[step], **later}.items())),
                substituted_script=tuple(sorted({**forced, **later}.items())),
                first_policy=first_policy,
                parts=meter.rounds(n_rollouts),
                meter=meter,
            )
            kept_arm = Arm.of(kept, sampler)
            other_arm = Arm.of(substituted, sampler)
            change = "action redrawn"
            if given:
                change = f"action {action!r}" if given == ["action"] else given[0]
            rows = _rows(
                sampler,
                step,
                kept_arm,
                other_arm,
                change=f"{change} at step {step}",
                action=action if given == ["action"] else None,
            )
            arms = [ArmRollouts(step, "kept", kept), ArmRollouts(step, "substituted", substituted)]
            notes = [*meter.notes, *invalid_note([kept_arm, other_arm], config.on_error)]
            if all(row.estimator != "flip" for row in rows):
                notes += tail_note(heavy_tails([kept_arm, other_arm], is_paired=sampler.is_paired))
            return make_table(sampler, rows, arms, notes=notes)

    return run_proved(config, run, forks=not episode.is_agent_episode)


def _sample_arms(
    sampler: Sampler,
    step: int,
    *,
    kept_script: ForcedActions,
    substituted_script: ForcedActions,
    first_policy: Value,
    parts: Iterable[range],
    meter: Meter,
) -> tuple[list[Rollout], list[Rollout]]:
    """Run the rollouts of both arms in the same scenarios; `first_policy` acts once."""
    kept: list[Rollout] = []
    substituted: list[Rollout] = []
    scenarios = sampler.config.noise.scenarios
    for part in parts:
        kept_scenarios = scenarios(len(part), f"{step}/kept", part.start)
        other_scenarios = scenarios(len(part), f"{step}/substituted", part.start)
        requests = [
            SampleRequest(step, kept_scenarios, kept_script),
            SampleRequest(step, other_scenarios, substituted_script, first_policy),
        ]
        try:
            results = meter.run(sampler, requests)
        except BudgetSpent:
            meter.break_off()
            continue
        for arm, rollouts in zip((kept, substituted), results, strict=True):
            arm += rollouts
    return kept, substituted


def _rows(
    sampler: Sampler, step: int, kept: Arm, other: Arm, *, change: str, action: Action
) -> list[Estimate]:
    """Return the rows of the two arms.

    Args:
        sampler: The sampler.
        step: The step.
        kept: The arm with the recorded step.
        other: The arm with the substitute.
        change: The substitute, in words.
        action: The substituted action, if it is an action.
    """
    results = [kept.valid, other.valid]
    is_share = sampler.has_shares(results)
    scale = None if is_share else intervals.spread_within(results)
    spread = NO_PAIRS if is_share else PairSpread.of([other.values - kept.values])

    def row(name: str, arm: Arm, estimand: str) -> Estimate:
        return estimate_arm(
            arm,
            step=step,
            scale=scale,
            estimator=name,
            estimand=estimand,
            noise=sampler.noise,
            action=action,
        )

    rows = [
        row("kept", kept, "with the recorded action"),
        row("substituted", other, f"with {change}"),
        estimate_difference(
            other,
            kept,
            step=step,
            is_paired=sampler.is_paired,
            scale=scale,
            spread=spread,
            estimator="effect",
            estimand=f"substituted - kept: {change}",
            noise=sampler.noise,
            action=action,
        ),
    ]
    outcome = _recorded_outcome(sampler, step) if is_share else math.nan
    if outcome in (0.0, 1.0):
        flipped = Arm(np.abs(other.values - outcome), other.rollouts)
        rows.append(row("flip", flipped, f"P(another outcome), with {change}"))
    return rows


def _recorded_outcome(sampler: Sampler, step: int) -> float:
    """Return the recorded score, or the return from a step on, as that of a rollout."""
    episode = sampler.episode
    if sampler.by_score:
        return sampler.score_at(episode.end_step)
    gamma = sampler.config.gamma
    rewards = recorded_rewards(episode).items()
    return math.fsum(gamma ** (k - step) * reward for k, reward in rewards if k >= step)


class _ShownPolicy:
    """A policy that sees a given observation instead of the environment's."""

    def __init__(self, policy: Policy, observation: Observation) -> None:
        self._policy = policy
        self._observation = observation

    def act(self, observation: Observation, rng: np.random.Generator) -> Action:
        return self._policy.act(self._observation, rng)
