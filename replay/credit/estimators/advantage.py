"""Values of states, advantages of actions, and the split of a return into skill and luck.

Three estimators of the Monte Carlo family: `value` is V(k) (Math-Shepherd's soft label), `delta` is
r + V(k+1) - V(k) (VinePPO's), `advantage` is Q(k, a) - V(k) with the recorded action forced. A
delta credits an action with the luck of its outcome; an advantage does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal, NamedTuple, Unpack

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.estimators.recorded import is_over, recorded_actions, recorded_rewards
from trajrec.replay.credit.estimators.scouts import DIFFERENCE_SHARE, Scouts, send_scouts
from trajrec.replay.credit.estimators.skill_luck import split_return
from trajrec.replay.credit.results.budget import Budget, BudgetSpent, Meter
from trajrec.replay.credit.results.estimates import (
    Arm,
    Estimate,
    estimate_arm,
    estimate_difference,
)
from trajrec.replay.credit.results.remarks import HeavyTails, heavy_tails, invalid_note, tail_note
from trajrec.replay.credit.results.store import make_table
from trajrec.replay.credit.results.table import ArmRollouts, CreditTable, SkillLuckSplit
from trajrec.replay.credit.sampling.options import RolloutConfig, RolloutOptions
from trajrec.replay.credit.sampling.proof import run_proved
from trajrec.replay.credit.sampling.request import SampleRequest
from trajrec.replay.credit.sampling.rollout import ForcedActions, Rollout
from trajrec.replay.credit.sampling.sampler import Sampler
from trajrec.statistics import intervals
from trajrec.statistics.intervals import PairSpread
from trajrec.types import Value

Estimator = Literal["value", "delta", "advantage"]

# Whether rollouts have scores -> the measured quantity, in words.
MEASURES = {True: "P(passed)", False: "return"}

# Estimator -> the differences of arms that it gives.
DIFFERENCES: dict[Estimator, tuple[str, ...]] = {
    "value": (),
    "delta": ("delta",),
    "advantage": ("advantage", "luck"),
}

ESTIMANDS = {
    "delta": "r + V(next) - V: the action, and the luck that came with it",
    "advantage": "Q(action) - V: the action, against the policy's",
    "luck": "r + V(next) - Q(action): what came beyond it",
}


class ArmRequest(NamedTuple):
    """The rollouts that a row needs.

    Attributes:
        kind: "value", the policy acts at the step; or "action", the recorded action is forced.
        step: The step to start from.
        script: The forced actions.
    """

    kind: str
    step: int
    script: ForcedActions


def estimate(
    episode: Episode,
    policy: Value,
    *,
    estimator: Estimator = "advantage",
    n_rollouts: int = 32,
    steps: Iterable[int] | None = None,
    budget: Budget | None = None,
    **options: Unpack[RolloutOptions],
) -> CreditTable:
    """Estimate the credit of the steps of an episode by rollouts from forks.

    Args:
        episode: From `Corpus.episode`.
        policy: The policy that continues from each step: "random", a `Policy`, a function of the
            observation (and a generator), or a model of Stable-Baselines3. Values belong to this
            policy, not to the recorded one.
        estimator: "value": V(k), the policy's value of the state before step k. "advantage":
            Q(k, a) - V(k), the recorded action against the policy's, and the luck beyond it.
            "delta": r + V(k + 1) - V(k), both together.
        n_rollouts: Number of rollouts of each arm at each step, at least 2.
        steps: The steps; all by default.
        budget: Limits of the run.
        options: See `RolloutOptions`.

    Returns:
        A table of estimates. If all steps have advantages, it has the split
        R - V(s0) = skill + luck.

    Raises:
        DivergenceError: The environment is not in the recorded state at a step, so no credit can
            be estimated.
        IndexError: A step has no rollouts: it is outside of the episode, or at the cut.
        ValueError: An argument has none of its allowed values.
    """
    if n_rollouts < 2:
        raise ValueError(f"n_rollouts must be at least 2, got {n_rollouts!r}")
    if estimator not in ("value", "delta", "advantage"):
        raise ValueError(f"estimator must be 'value', 'delta' or 'advantage', got {estimator!r}")
    config = RolloutConfig.from_options(policy, options, caller="estimate")
    # A rollout from the step at which rollouts are cut would be empty.
    end = min(episode.end_step, config.last_step(episode) or episode.end_step)
    possible = range(episode.first_step, end)
    wanted = sorted(set(possible if steps is None else steps))
    if not wanted or wanted[0] not in possible or wanted[-1] not in possible:
        # The number is one of the episode's steps, and not of a rollout's.
        cut = f"; rollouts are cut at step {end} of the episode" if end < episode.end_step else ""
        raise IndexError(
            f"steps of episode {episode.id} must be in [{possible.start}, {possible.stop}), "
            f"got {wanted[:1] + wanted[-1:]}{cut}"
        )

    def run(config: RolloutConfig) -> CreditTable:
        with Sampler(episode, config) as sampler:
            run = _Run(sampler, estimator, wanted)
            return run.make_table(n_rollouts, Meter(budget))

    return run_proved(config, run, forks=not episode.is_agent_episode)


class _Run:
    """One run: its arms by kind and step, and the rows made from them."""

    def __init__(self, sampler: Sampler, estimator: Estimator, steps: list[int]) -> None:
        self._sampler = sampler
        self._episode = sampler.episode
        self._by_score = sampler.by_score
        # A score is paid at the end, so it is not discounted.
        self._gamma = 1.0 if self._by_score else sampler.config.gamma
        self._estimator = estimator
        self._steps = steps
        self._actions = recorded_actions(self._episode)
        self._rewards = recorded_rewards(self._episode)
        self._values: dict[int, Arm] = {}
        self._forced: dict[int, Arm] = {}
        self._scouts: Scouts | None = None

    def make_table(self, n_rollouts: int, meter: Meter) -> CreditTable:
        """Run the rollouts and return the table."""
        requests = self._requests()
        samples = self._sample(requests, n_rollouts, meter)
        for request, rollouts in zip(requests, samples, strict=True):
            arms = self._values if request.kind == "value" else self._forced
            arms[request.step] = Arm.of(rollouts, self._sampler)
        self._add_end()
        if not self._has_shares:
            first = requests[0].step
            all_arms = [self._values[first], *self._arms]
            self._scouts = send_scouts(self._sampler, first, meter, all_arms)
        rows = [row for step in self._steps for row in self._rows(step)]
        notes = [
            *meter.notes,
            *invalid_note(self._arms, self._sampler.config.on_error),
            *tail_note(self._tails),
            *self._cut_note(samples),
            *self._pairing_note(),
        ]
        arms_of_table = [
            ArmRollouts(request.step, request.kind, rollouts)
            for request, rollouts in zip(requests, samples, strict=True)
        ]
        scouts = () if self._scouts is None else self._scouts.arm.rollouts
        return make_table(
            self._sampler,
            rows,
            arms_of_table,
            split=self._split(),
            notes=notes,
            scouts=scouts,
        )

    def _requests(self) -> list[ArmRequest]:
        """Return the policy's arm at each step that a row needs, and the recorded action's arms."""
        last = self._episode.end_step
        steps = set(self._steps)
        if self._estimator != "value":
            steps |= {step + 1 for step in self._steps}
        requests = []
        for step in sorted(steps):
            if step < last or not is_over(self._episode):
                requests.append(ArmRequest("value", step, ()))
            is_forced = self._estimator == "advantage" and step in self._actions
            if is_forced and step in self._steps:
                requests.append(ArmRequest("action", step, ((step, self._actions[step]),)))
        return requests

    def _sample(
        self, requests: Sequence[ArmRequest], n_rollouts: int, meter: Meter
    ) -> list[list[Rollout]]:
        samples: list[list[Rollout]] = [[] for _ in requests]
        noise = self._sampler.config.noise
        for part in meter.rounds(n_rollouts):
            sample_requests = [
                SampleRequest(
                    step, noise.scenarios(len(part), f"{step}/{kind}", part.start), script
                )
                for kind, step, script in requests
            ]
            try:
                results = meter.run(self._sampler, sample_requests)
            except BudgetSpent:
                meter.break_off()
                continue
            for rollouts, new in zip(samples, results, strict=True):
                rollouts += new
        return samples

    def _add_end(self) -> None:
        """Add the value of the end, which needs no rollouts if the episode is over."""
        last = self._episode.end_step
        if not is_over(self._episode) or not self._values:
            return
        n = len(next(iter(self._values.values())).values)
        value = self._sampler.score_at(last) if self._by_score else 0.0
        self._values[last] = Arm(np.full(n, value), [])

    def _reward(self, step: int) -> float:
        return 0.0 if self._by_score else self._rewards.get(step, 0.0)

    @property
    def _arms(self) -> list[Arm]:
        return [*self._values.values(), *self._forced.values()]

    def _after(self, step: int) -> Arm | None:
        """Return r + V(next) of a step; None if V(next) is unknown."""
        arm = self._values.get(step + 1)
        if arm is None:
            return None
        reward = self._reward(step)
        values = reward + self._gamma * arm.values
        return Arm(values, arm.rollouts, reward, reward + self._gamma)

    def _pair(self, name: str, step: int) -> tuple[Arm, Arm] | None:
        """Return the arms whose difference is an estimate; None if one of them is missing."""
        first = self._forced.get(step) if name == "advantage" else self._after(step)
        second = self._forced.get(step) if name == "luck" else self._values[step]
        return None if first is None or second is None else (first, second)

    def _rows(self, step: int) -> list[Estimate]:
        """Return the rows of a step."""
        measure = MEASURES[self._by_score]
        rows = [
            estimate_arm(
                self._values[step],
                step=step,
                scale=self._scale,
                tail=self._tail(self._values[step]),
                estimator="value",
                estimand=f"V: {measure} of the policy from the state before the step",
                noise=self._sampler.noise,
            )
        ]
        for name in DIFFERENCES[self._estimator]:
            pair = self._pair(name, step)
            if pair is not None:
                rows.append(self._difference(name, step, *pair))
        return rows

    def _difference(self, name: str, step: int, a: Arm, b: Arm) -> Estimate:
        return estimate_difference(
            a,
            b,
            step=step,
            is_paired=self._sampler.is_paired,
            scale=self._scale,
            spread=self._pair_spreads[name],
            tail=0.0
            if self._scouts is None
            else self._scouts.tail(b.rollouts) * math.sqrt(DIFFERENCE_SHARE),
            estimator=name,
            estimand=ESTIMANDS[name],
            noise=self._sampler.noise,
            action=self._actions.get(step) if name == "advantage" else None,
        )

    @cached_property
    def _pair_spreads(self) -> dict[str, PairSpread]:
        """How much paired differences vary, by estimator."""
        spreads = {}
        for name in DIFFERENCES[self._estimator]:
            pairs = [self._pair(name, step) for step in self._steps]
            differences = [pair[0].values - pair[1].values for pair in pairs if pair is not None]
            spreads[name] = PairSpread.of(differences)
        return spreads

    @property
    def _has_shares(self) -> bool:
        """Whether every result is 0 or 1, and what is compared with results too."""
        arms = [arm for arm in self._arms if arm.rollouts]
        if self._estimator != "value":
            # A recorded reward of 1 and a return of 1 behind it are no share.
            arms += [arm for arm in map(self._after, self._steps) if arm is not None]
        return self._sampler.has_shares([arm.valid for arm in arms])

    @cached_property
    def _scale(self) -> float | None:
        """Standard deviation of returns within the arms; None if every result is 0 or 1."""
        if self._has_shares:
            return None
        results = [arm.valid for arm in self._arms if arm.rollouts]
        if self._scouts is not None:
            results.append(self._scouts.arm.valid)
        return intervals.spread_within(results)

    @cached_property
    def _tails(self) -> HeavyTails | None:
        """How few results the spread of the returns rests on, if the tails are heavy."""
        if self._scale is None:
            return None
        tails = heavy_tails(self._arms, is_paired=self._sampler.is_paired)
        return tails or (None if self._scouts is None else self._scouts.tails)

    def _tail(self, arm: Arm) -> float:
        """Return the spread that the values of an arm may have because of heavy tails."""
        # In fresh noise the other steps have seen the tails too.
        if self._scale is None or not self._sampler.is_paired:
            return 0.0
        tail = 0.0 if self._scouts is None else self._scouts.tail(arm.rollouts)
        if heavy_tails(self._arms, is_paired=True) is None:
            return tail
        return max(tail, self._scale, intervals.spread_within([arm.valid]))

    def _split(self) -> SkillLuckSplit | None:
        """Return the split of the return; None if an advantage or a result is missing."""
        steps = list(range(self._episode.first_step, self._episode.end_step))
        has_all = self._steps == steps and bool(steps) and set(self._forced) == set(steps)
        if self._estimator != "advantage" or not has_all:
            return None
        if any(arm.n_unknown for arm in self._arms):
            return None
        return split_return(
            steps,
            values=self._values,
            forced=self._forced,
            rewards={step: self._reward(step) for step in steps},
            gamma=self._gamma,
            is_over=is_over(self._episode),
            by_score=self._by_score,
            scale=self._scale,
        )

    def _cut_note(self, samples: Sequence[Sequence[Rollout]]) -> list[str]:
        n_cut = sum(rollout.status == "cut" for rollouts in samples for rollout in rollouts)
        if not n_cut:
            return []
        consequence = "the rewards after it are missing"
        if self._by_score:
            consequence = "the check judged the state at the cut"
        step = self._sampler.config.last_step(self._episode)
        return [f"{n_cut} rollouts were cut at step {step}: {consequence}"]

    def _pairing_note(self) -> list[str]:
        """Return a note on common random numbers, which raise the variance on some tasks."""
        if not self._sampler.is_paired or not self._forced:
            return []
        pairs = [(self._forced[step].values, self._values[step].values) for step in self._forced]
        pairs = [(a, b) for a, b in pairs if not np.isnan(a - b).all()]
        independent = sum(float(np.nanvar(a) + np.nanvar(b)) for a, b in pairs)
        paired = sum(float(np.nanvar(a - b)) for a, b in pairs)
        if paired > independent:
            ratio = paired / independent
            return [
                f"shared noise makes differences vary more ({ratio:.1f}-fold): take noise='fresh'"
            ]
        if paired:
            ratio = independent / paired
            return [f"shared noise makes advantages vary less ({ratio:.1f}-fold)"]
        return []
