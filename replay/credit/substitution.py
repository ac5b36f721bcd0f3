"""Substitution: what would have come of it, had one step been another: another action, one drawn anew, another observation,
another policy.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np

from trajrec.episodes import Episode
from trajrec.protocols import Verifier
from trajrec.replay.branches import Level
from trajrec.replay.credit import intervals
from trajrec.replay.credit.estimates import Arm, Credit, Estimate
from trajrec.replay.credit.noise import Mode, Noise
from trajrec.replay.credit.policies import Policy, as_policy, policy_id
from trajrec.replay.credit.probes import Probe, Prober, Setting
from trajrec.replay.credit.scanning import difference, recorded_actions


class _Unset:
    def __repr__(self) -> str:
        return "not given"


UNSET: Any = _Unset()


def substitute(
    episode: Episode,
    policy: Any,
    step: int,
    *,
    action: Any = UNSET,
    observation: Any = UNSET,
    by: Any = UNSET,
    rest: Literal["policy", "recorded"] = "policy",
    n: int = 64,
    noise: Mode = "shared",
    root: int = 0,
    check: Verifier | None = None,
    gamma: float = 1.0,
    max_steps: int | None = None,
    env: Callable[[], Any] | None = None,
    allow: Iterable[str] = (),
    state: Callable[[Any], Any] | None = None,
    level: Level | Literal["auto"] = "auto",
    jobs: int = 1,
    backend: Literal["local", "ray"] = "local",
) -> Credit:
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
        n: Rollouts of each arm.
        noise: See `scan`. So are all the others.
        root: See `scan`.
        check: See `scan`.
        gamma: See `scan`.
        max_steps: See `scan`.
        env: See `scan`.
        allow: See `scan`.
        state: See `scan`.
        level: See `scan`.
        jobs: See `scan`.
        backend: See `scan`.

    Where neither `action` nor `observation` nor `by` is given, the action is drawn anew from the policy.

    Returns:
        Rows "kept" and "substituted", the value of each arm; "effect", what the substitute makes better; and, where the
        episode was lost or won, "flip", the probability that it would not have been.
    """
    given = [name for name, value in (("action", action), ("observation", observation), ("by", by)) if value is not UNSET]
    if len(given) > 1:
        raise ValueError(f"one thing can be substituted at a time, got {' and '.join(given)}")
    if not episode.first_step <= step < episode.n_steps:
        raise IndexError(f"episode {episode.id} has the steps {episode.first_step} to {episode.n_steps - 1}, got {step}")
    setting = Setting(policy, Noise(noise, root), gamma, max_steps, check, env, tuple(allow), state, level, jobs, backend)
    actions = recorded_actions(episode)
    after = {t: a for t, a in actions.items() if t > step} if rest == "recorded" else {}
    first: Any = None
    if observation is not UNSET:
        first = _Shown(as_policy(policy), observation)
    elif by is not UNSET:
        first = by
    here = {} if action is UNSET else {step: action}
    with Prober(episode, setting) as prober:
        universes = [setting.noise.universes(n, f"{step}/{arm}") for arm in ("kept", "substituted")]
        kept_script = tuple(sorted({step: actions[step], **after}.items()))
        probes = [
            Probe(step, universes[0], kept_script),
            Probe(step, universes[1], tuple(sorted({**here, **after}.items())), first),
        ]
        rollouts = prober.run(probes)
        by_score = check is not None or episode.is_agents
        kept, other = (Arm.of(found, by_score=by_score) for found in rollouts)
        what = f"action {action!r}" if given == ["action"] else given[0] if given else "action redrawn"
        rows = _rows(step, kept, other, prober, f"{what} at step {step}", by_score, action if given == ["action"] else None)
        arms = [(step, name, found) for name, found in zip(("kept", "substituted"), rollouts, strict=True)]
        noise_ = rows[0].noise
        return Credit(
            secrets.token_hex(8), episode.id, policy_id(policy), rows, noise_, root, prober.level, None, (), list(arms)
        )


def _rows(step: int, kept: Arm, other: Arm, prober: Prober, what: str, by_score: bool, action: Any) -> list[Estimate]:
    noise = prober.setting.noise.mode if prober.is_determined else "fresh"
    known = np.concatenate([kept.known, other.known])
    is_share = by_score or (prober.episode.total_reward in (0.0, 1.0) and intervals.is_binary(known))
    scale = None if is_share else float(known.std())

    def single(name: str, arm: Arm, estimand: str) -> Estimate:
        found = intervals.mean(arm.known, scale)
        return Estimate(
            step, *found, len(arm.known), None, name, estimand, noise, arm.env_steps, arm.policy_calls, arm.n_lost, action
        )

    found, n, n_discordant = difference(other.values, kept.values, is_paired=noise != "fresh", scale=scale)
    cost = kept.env_steps + other.env_steps, kept.policy_calls + other.policy_calls, kept.n_lost + other.n_lost
    rows = [
        single("kept", kept, "with the recorded action"),
        single("substituted", other, f"with {what}"),
        Estimate(step, *found, n, n_discordant, "effect", f"substituted - kept: {what}", noise, *cost, action),
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
