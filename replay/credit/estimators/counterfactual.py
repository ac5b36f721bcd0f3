"""Substitution: what would have come of it, had one step been another: another action, one drawn anew, another observation,
another policy.
"""

from __future__ import annotations

from typing import Any, Literal, Unpack

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.estimators.advantage import difference, lost_note, recorded_actions
from trajrec.replay.credit.results.estimates import Arm, Budget, CreditTable, Estimate, Meter
from trajrec.replay.credit.results.store import make_table
from trajrec.replay.credit.sampling.options import RolloutConfig, RolloutOptions
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.credit.sampling.sampler import Sampler, SampleRequest
from trajrec.replay.forks.policies import Policy, as_policy
from trajrec.statistics import intervals


class _Unset:
    def __repr__(self) -> str:
        return "not given"


UNSET: Any = _Unset()


def counterfactual(
    episode: Episode,
    policy: Any,
    step: int,
    *,
    action: Any = UNSET,
    observation: Any = UNSET,
    by: Any = UNSET,
    rest: Literal["policy", "recorded"] = "policy",
    n_rollouts: int = 64,
    budget: Budget | None = None,
    **how: Unpack[RolloutOptions],
) -> CreditTable:
    """Compare what comes of a step with what comes of another in its place.

    Args:
        episode: From `Corpus.episode`.
        policy: Goes on after the step: see `scan`.
        step: The step.
        action: Taken in place of the recorded one.
        observation: What the policy is shown at the step, in place of what was there; it then acts.
        by: Another policy, which acts at the step.
        rest: After the step "policy" acts; or the "recorded" actions are taken as long as there are any: the difference is then
            the leave-one-out effect, or difference reward, of the step.
        n_rollouts: Rollouts of each arm.
        budget: What it may take.
        how: See `RolloutOptions`.

    Where neither `action` nor `observation` nor `by` is given, the action is drawn anew from the policy.

    Returns:
        Rows "kept" and "substituted", the value of each arm; "effect", what the substitute makes better; and, where the
        episode was lost or won, "flip", the probability that it would not have been.
    """
    given = [
        name
        for name, value in (("action", action), ("observation", observation), ("by", by))
        if value is not UNSET
    ]
    if len(given) > 1:
        raise ValueError(f"one thing can be substituted at a time, got {' and '.join(given)}")
    if not episode.first_step <= step < episode.n_steps:
        raise IndexError(
            f"episode {episode.id} has the steps {episode.first_step} to {episode.n_steps - 1}, got {step}"
        )
    setting = RolloutConfig.from_options(policy, how, caller="counterfactual")
    actions = recorded_actions(episode)
    after = {t: a for t, a in actions.items() if t > step} if rest == "recorded" else {}
    first: Any = None
    if observation is not UNSET:
        first = _Shown(as_policy(policy), observation)
    elif by is not UNSET:
        first = by
    here = {} if action is UNSET else {step: action}
    scripts = [
        tuple(sorted(script.items()))
        for script in ({step: actions[step], **after}, {**here, **after})
    ]
    arms: list[tuple[int, str, list[Rollout]]] = [(step, "kept", []), (step, "substituted", [])]
    meter = Meter(budget)
    with Sampler(episode, setting) as prober:
        for part in meter.rounds(n_rollouts):
            scenarios = [
                setting.noise.scenarios(len(part), f"{step}/{arm}", part.start)
                for _, arm, _ in arms
            ]
            probes = [
                SampleRequest(step, scenarios[0], scripts[0]),
                SampleRequest(step, scenarios[1], scripts[1], first),
            ]
            for (_, _, rollouts), more in zip(arms, prober.run(probes), strict=True):
                rollouts += more
                meter.add(more)
        kept, other = (Arm.of(rollouts, by_score=prober.by_score) for _, _, rollouts in arms)
        what = (
            f"action {action!r}" if given == ["action"] else given[0] if given else "action redrawn"
        )
        rows = _rows(
            step,
            kept,
            other,
            prober,
            f"{what} at step {step}",
            action if given == ["action"] else None,
        )
        return make_table(prober, rows, arms, how, notes=[*meter.notes, *lost_note([kept, other])])


def _rows(
    step: int, kept: Arm, other: Arm, prober: Sampler, what: str, action: Any
) -> list[Estimate]:
    noise, by_score = prober.noise, prober.by_score
    known = np.concatenate([kept.known, other.known])
    is_share = by_score or (
        prober.episode.total_reward in (0.0, 1.0) and intervals.is_binary(known)
    )
    scale = None if is_share else intervals.standard_deviation(known)

    def single(name: str, arm: Arm, estimand: str) -> Estimate:
        found = intervals.mean(arm.known, scale)
        return Estimate(
            step,
            *found,
            len(arm.known),
            None,
            name,
            estimand,
            noise,
            arm.env_steps,
            arm.policy_calls,
            arm.n_invalid,
            action,
        )

    found, n, n_discordant = difference(
        other.values, kept.values, is_paired=prober.is_paired, scale=scale
    )
    cost = (
        kept.env_steps + other.env_steps,
        kept.policy_calls + other.policy_calls,
        kept.n_invalid + other.n_invalid,
    )
    rows = [
        single("kept", kept, "with the recorded action"),
        single("substituted", other, f"with {what}"),
        Estimate(
            step,
            *found,
            n,
            n_discordant,
            "effect",
            f"substituted - kept: {what}",
            noise,
            *cost,
            action,
        ),
    ]
    if is_share:
        end = prober.score_at(prober.episode.n_steps) if by_score else prober.episode.total_reward
        flipped = Arm(np.abs(other.values - end), other.rollouts)
        rows.append(single("flip", flipped, f"P(another outcome), with {what}"))
    return rows


class _Shown:
    """A policy that is shown something else than what is there."""

    def __init__(self, policy: Policy, observation: Any) -> None:
        self._policy, self._observation = policy, observation

    def act(self, observation: Any, rng: np.random.Generator) -> Any:
        return self._policy.act(self._observation, rng)
