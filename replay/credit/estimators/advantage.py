"""Scans: the value of each state of an episode, the advantage of each action, and what was skill and what was luck.

Estimators E1 and E2 of the literature's Monte-Carlo family: `value` (Math-Shepherd's soft label), `delta` (VinePPO's
r + V(k+1) - V(k)), `advantage` (Q(k, a) - V(k), with the recorded action forced). A delta credits the action with the luck of
what came of it; an advantage does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Literal, Unpack

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.corpus.history import path_between
from trajrec.replay.credit.results.estimates import (
    Arm,
    Budget,
    CreditTable,
    Estimate,
    Meter,
    SkillLuckSplit,
)
from trajrec.replay.credit.results.store import make_table
from trajrec.replay.credit.sampling.context import recorded_calls
from trajrec.replay.credit.sampling.options import RolloutConfig, RolloutOptions
from trajrec.replay.credit.sampling.rollout import Rollout, Script
from trajrec.replay.credit.sampling.sampler import Sampler, SampleRequest
from trajrec.replay.execute.reach import check_step
from trajrec.statistics import intervals
from trajrec.statistics.intervals import Interval
from trajrec.types import FloatArray

Estimator = Literal["value", "delta", "advantage"]
MEASURES = {True: "P(passed)", False: "return"}


def estimate(
    episode: Episode,
    policy: Any,
    *,
    estimator: Estimator = "advantage",
    n_rollouts: int = 32,
    steps: Iterable[int] | None = None,
    budget: Budget | None = None,
    **how: Unpack[RolloutOptions],
) -> CreditTable:
    """Estimate the credit of the steps of an episode by rollouts from forks.

    Args:
        episode: From `Corpus.episode`.
        policy: Goes on from each step: a `Policy`, "random", a function of the observation (and a generator), a model of
            Stable-Baselines3. Values are those of this policy, not of the one that was recorded.
        estimator: "value": V(k), what the policy makes of the state before step k. "advantage": Q(k, a) - V(k), what the
            recorded action is better than the policy's, and the luck that came on top. "delta": r + V(k + 1) - V(k), both
            together.
        n_rollouts: Rollouts of each arm at each step.
        steps: Which steps; all by default.
        budget: What it may take.
        how: See `RolloutOptions`.

    Returns:
        A table of estimates, with the split R - V(s0) = skill + luck where all steps were scanned for their advantage.

    Raises:
        DivergenceError: The environment is not in the recorded state at a step: there is no credit to be had.
        ValueError: Something given is not what it must be.
    """
    if n_rollouts < 2:
        raise ValueError(f"n_rollouts must be at least 2, got {n_rollouts!r}")
    if estimator not in ("value", "delta", "advantage"):
        raise ValueError(f"estimator must be 'value', 'delta' or 'advantage', got {estimator!r}")
    setting = RolloutConfig.from_options(policy, how, caller="estimate")
    # From where rollouts are cut at once nothing can be said.
    there = range(
        episode.first_step, min(episode.n_steps, setting.last_step(episode) or episode.n_steps)
    )
    wanted = sorted(set(there if steps is None else steps))
    if not wanted or wanted[0] not in there or wanted[-1] not in there:
        raise IndexError(
            f"episode {episode.id} can be scanned from step {there.start} to {there.stop - 1}, got {wanted[:1] + wanted[-1:]}"
        )
    with Sampler(episode, setting) as prober:
        return _Scan(prober, estimator, wanted, n_rollouts, budget).run(how)


class _Scan:
    """One scan: its arms, by kind and step."""

    def __init__(
        self, prober: Sampler, estimator: str, steps: list[int], n: int, budget: Budget | None
    ) -> None:
        self._prober, self._episode, self._setting = prober, prober.episode, prober.setting
        self._estimator, self._steps, self._n = estimator, steps, n
        self._meter = Meter(budget)
        self._by_score = prober.by_score
        self._actions = recorded_actions(self._episode)
        self._rewards = recorded_rewards(self._episode)
        self._values: dict[int, Arm] = {}
        self._forced: dict[int, Arm] = {}
        self._notes: list[str] = []

    def run(self, how: RolloutOptions) -> CreditTable:
        probes = self._probes()
        rollouts = self._roll(probes)
        for (kind, step, _), found in zip(probes, rollouts, strict=True):
            (self._values if kind == "value" else self._forced)[step] = Arm.of(
                found, by_score=self._by_score
            )
        self._add_end()
        rows = [row for step in self._steps for row in self._rows(step)]
        self._notes += lost_note([*self._values.values(), *self._forced.values()])
        self._note_cut(rollouts)
        self._note_pairing()
        kinds: list[tuple[int, str, Sequence[Rollout]]] = [
            (step, kind, found) for (kind, step, _), found in zip(probes, rollouts, strict=True)
        ]
        return make_table(self._prober, rows, kinds, how, split=self._split(), notes=self._notes)

    def _probes(self) -> list[tuple[str, int, Script]]:
        """Return the arms: the policy's at each step that a row needs, and the recorded action's."""
        last = self._episode.n_steps
        steps = set(self._steps)
        if self._estimator != "value":
            steps |= {step + 1 for step in self._steps}
        found: list[tuple[str, int, Script]] = []
        for step in sorted(steps):
            if step < last or not is_over(self._episode):
                found.append(("value", step, ()))
            if self._estimator == "advantage" and step in self._actions and step in self._steps:
                found.append(("action", step, ((step, self._actions[step]),)))
        return found

    def _roll(self, probes: Sequence[tuple[str, int, Script]]) -> list[list[Rollout]]:
        found: list[list[Rollout]] = [[] for _ in probes]
        noise = self._setting.noise
        for part in self._meter.rounds(self._n):
            asked = [
                SampleRequest(
                    step, noise.scenarios(len(part), f"{step}/{kind}", part.start), script
                )
                for kind, step, script in probes
            ]
            for rollouts, more in zip(found, self._prober.run(asked), strict=True):
                rollouts += more
                self._meter.add(more)
        self._notes += self._meter.notes
        return found

    def _add_end(self) -> None:
        """Add what is known of the end: no rollouts are needed where the episode is over."""
        last = self._episode.n_steps
        if not is_over(self._episode) or not self._values:
            return
        n = len(next(iter(self._values.values())).values)
        self._values[last] = Arm(np.full(n, self._end_value()), [])

    def _end_value(self) -> float:
        return final_score(self._prober) if self._by_score else 0.0

    def _reward(self, step: int) -> float:
        return 0.0 if self._by_score else self._rewards.get(step, 0.0)

    def _rows(self, step: int) -> list[Estimate]:
        here, measure = self._values[step], MEASURES[self._by_score]
        action = self._actions.get(step)
        rows = [
            self._single(
                "value", f"V: {measure} of the policy from the state before the step", step, here
            )
        ]
        after = self._values.get(step + 1)
        gamma, reward = (1.0 if self._by_score else self._setting.gamma), self._reward(step)
        if self._estimator == "delta" and after is not None:
            shifted = Arm(reward + gamma * after.values, after.rollouts)
            rows.append(
                self._pair(
                    "delta",
                    "r + V(next) - V: the action, and the luck that came with it",
                    step,
                    shifted,
                    here,
                )
            )
        forced = self._forced.get(step)
        if forced is not None:
            rows.append(
                self._pair(
                    "advantage",
                    "Q(action) - V: the action, against the policy's",
                    step,
                    forced,
                    here,
                    action,
                )
            )
            if after is not None:
                shifted = Arm(reward + gamma * after.values, after.rollouts)
                rows.append(
                    self._pair(
                        "luck",
                        "r + V(next) - Q(action): what came beyond it",
                        step,
                        shifted,
                        forced,
                    )
                )
        return rows

    def _single(self, name: str, estimand: str, step: int, arm: Arm) -> Estimate:
        known = arm.known
        found = intervals.mean(known, self._scale)
        return Estimate(
            step,
            *found,
            len(known),
            None,
            name,
            estimand,
            self._prober.noise,
            arm.env_steps,
            arm.policy_calls,
            arm.n_invalid,
        )

    def _pair(
        self, name: str, estimand: str, step: int, a: Arm, b: Arm, action: Any = None
    ) -> Estimate:
        found, n, n_discordant = difference(
            a.values, b.values, is_paired=self._prober.is_paired, scale=self._scale
        )
        lost = a.n_invalid + b.n_invalid
        cost = a.env_steps + b.env_steps, a.policy_calls + b.policy_calls
        return Estimate(
            step, *found, n, n_discordant, name, estimand, self._prober.noise, *cost, lost, action
        )

    @cached_property
    def _scale(self) -> float | None:
        """What a pair of returns may differ by: their standard deviation, over all rollouts; None where they are shares."""
        known = np.concatenate(
            [arm.known for arm in (*self._values.values(), *self._forced.values()) if arm.rollouts]
        )
        is_share = self._by_score or self._episode.total_reward in (0.0, 1.0)
        return (
            None if is_share and intervals.is_binary(known) else intervals.standard_deviation(known)
        )

    def _split(self) -> SkillLuckSplit | None:
        """Return where the episode's return came from; None where a step is missing, or nothing came of it."""
        steps = list(range(self._episode.first_step, self._episode.n_steps))
        if (
            self._estimator != "advantage"
            or self._steps != steps
            or not steps
            or set(self._forced) != set(steps)
        ):
            return None
        if any(not len(arm.known) for arm in (*self._values.values(), *self._forced.values())):
            return None
        gamma = 1.0 if self._by_score else self._setting.gamma
        n = len(self._values[steps[0]].values)
        skill, luck, returned = np.zeros(n), np.zeros(n), 0.0
        means = {step: float(np.nanmean(arm.values)) for step, arm in self._values.items()}
        sums = [0.0, 0.0]
        for k, step in enumerate(steps):
            weight, reward = gamma**k, self._reward(step)
            forced, here, after = (
                self._forced[step].values,
                self._values[step].values,
                self._values[step + 1].values,
            )
            skill += weight * (forced - here)
            luck += weight * (reward + gamma * after - forced)
            q = float(np.nanmean(forced))
            sums[0] += weight * (q - means[step])
            sums[1] += weight * (reward + gamma * means[step + 1] - q)
            returned += weight * reward
        if self._by_score or not is_over(self._episode):
            returned += gamma ** len(steps) * means[self._episode.n_steps]
        value = intervals.mean(self._values[steps[0]].known, self._scale)
        error = returned - value.value - sums[0] - sums[1]
        of_skill, of_luck = (
            intervals.augmented_t(part[~np.isnan(part)], self._scale or 1.0)._replace(value=total)
            for part, total in zip((skill, luck), sums, strict=True)
        )
        return SkillLuckSplit(returned, value, of_skill, of_luck, error)

    def _note_cut(self, rollouts: Sequence[Sequence[Rollout]]) -> None:
        n_cut = sum(r.status == "cut" for found in rollouts for r in found)
        if n_cut:
            what = (
                "their check was asked there"
                if self._by_score
                else "what they would have earned afterwards is missing"
            )
            self._notes.append(
                f"{n_cut} rollouts were cut at step {self._setting.last_step(self._episode)}: {what}"
            )

    def _note_pairing(self) -> None:
        """Say what common noise did to the variance of differences: on some tasks it raises it."""
        if not self._prober.is_paired or not self._forced:
            return
        pairs = [(self._forced[step].values, self._values[step].values) for step in self._forced]
        pairs = [(a, b) for a, b in pairs if not np.isnan(a - b).all()]
        apart = sum(float(np.nanvar(a) + np.nanvar(b)) for a, b in pairs)
        together = sum(float(np.nanvar(a - b)) for a, b in pairs)
        if together > apart:
            self._notes.append(
                f"common noise makes differences vary more ({together / apart:.1f}-fold): take noise='fresh'"
            )
        elif together:
            self._notes.append(
                f"common noise makes advantages vary less ({apart / together:.1f}-fold)"
            )


def difference(
    a: FloatArray, b: FloatArray, *, is_paired: bool, scale: float | None
) -> tuple[Interval, int, int]:
    """Return the mean of a - b with its interval, how many pairs it rests on and how many of them differ.

    Args:
        a: One value a rollout; NaN where it came to nothing.
        b: Of the other arm, in the same scenarios.
        is_paired: Whether the scenarios are the same.
        scale: See `intervals.augmented_t`.
    """
    if not is_paired:
        a, b = a[~np.isnan(a)], b[~np.isnan(b)]
        n = min(len(a), len(b))
        return (intervals.independent(a, b, scale) if n else intervals.UNKNOWN), n, n
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known], b[known]
    if not len(a):
        return intervals.UNKNOWN, 0, 0
    return intervals.paired(a, b, scale), len(a), int(np.count_nonzero(a != b))


def recorded_actions(episode: Episode) -> dict[int, Any]:
    """Return the recorded actions by step, those that raised among them.

    Raises:
        ReplayError: The log has lost some.
    """
    if episode.is_agent_episode:
        return recorded_calls(episode)
    check_step(episode, episode.n_steps)
    first = episode.first_step
    return {
        first + k: action
        for k, (action, _) in enumerate(path_between(episode, first, episode.n_steps))
    }


def recorded_rewards(episode: Episode) -> dict[int, float]:
    """Return the recorded rewards by step; nothing where each of several agents has one of its own."""
    if episode.agent_rewards:
        return {}
    return {
        int(step): float(reward)
        for step, reward in zip(episode.step_numbers, episode.reward_values, strict=True)
    }


def is_over(episode: Episode) -> bool:
    """Say whether the environment had ended the episode: there is nothing to be had after its last step."""
    return episode.ending in ("terminated", "truncated")


def final_score(prober: Sampler) -> float:
    """Return what the check says of the recorded end, which is gone to."""
    return prober.score_at(prober.episode.n_steps)


def lost_note(arms: Sequence[Arm]) -> list[str]:
    """Return a note on the rollouts that came to nothing; none where there are none."""
    n_invalid = sum(arm.n_invalid for arm in arms)
    if not n_invalid:
        return []
    why = next(
        (r.error or "no verdict" for arm in arms for r in arm.rollouts if r.is_lost),
        "the check gave no verdict",
    )
    return [f"{n_invalid} rollouts came to nothing, and count for nothing: {why}"]
