"""The decisive step of an episode: which action lost it (or won it), how sure that is, and what would have come of another.

Four ways to look for it. "drop" compares each recorded action with the policy's own, in common scenarios, and asks for the
first large loss; it finds faults that can be recovered from, where every later step that does not recover is a loss as well.
"bayes" looks for a change of level by probing where it learns most. "bisect" is OmegaPRM's search for the first step from which
no rollout wins: perfect where a fault is final, and wrong where it can be recovered from. "halving" asks where the value falls
below half of the first. Whatever is found is confirmed in scenarios that it was not found in; what cannot be is undecided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.estimators import changepoint
from trajrec.replay.credit.estimators.advantage import (
    difference,
    is_over,
    recorded_actions,
    recorded_rewards,
)
from trajrec.replay.credit.results.estimates import Arm, Budget, CreditTable, Estimate, Meter
from trajrec.replay.credit.results.store import make_table
from trajrec.replay.credit.sampling.options import RolloutConfig, RolloutOptions
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.credit.sampling.sampler import Sampler, SampleRequest
from trajrec.statistics import intervals
from trajrec.types import FloatArray

Method = Literal["drop", "bayes", "bisect", "halving"]
CONFIRM = 1 << 32
"""Number of the first scenario that is kept for confirming."""

FEWEST = 2
"""Scenarios of an arm, where a budget ends it there."""

DRAWS = 4000


@dataclass(frozen=True, eq=False)
class Decision:
    """Which step decided an episode.

    Attributes:
        episode_id: The episode.
        step: The step; None where it is undecided.
        likeliest: The step that is the likeliest, decided or not.
        confidence: Probability that `likeliest` is it, by the model of the method; None for a method without one.
        candidates: Steps that together have 95 % of the probability, likeliest first.
        effect: Q(recorded action) - V at the step, from scenarios that it was not found in.
        redrawn: What comes of drawing the action anew from the policy: the probability of winning, or the return.
        kept: What comes of keeping the recorded one.
        why: Why it is undecided; "" where it is decided.
        method: How it was looked for.
        table: All estimates that it rests on, with their rollouts, as they are kept in the corpus.
        probabilities: Of each step to be it, (T,) float64; None for a method without a model.
    """

    episode_id: str
    step: int | None
    likeliest: int
    confidence: float | None
    candidates: tuple[int, ...]
    effect: Estimate
    redrawn: Estimate
    kept: Estimate
    why: str
    method: str
    table: CreditTable
    probabilities: FloatArray | None = None

    @property
    def n_rollouts(self) -> int:
        """Rollouts that were run."""
        return sum(len(rollouts) for _, _, rollouts in self.table.arms)

    @property
    def env_steps(self) -> int:
        """Steps of the environment that were taken."""
        return self.table.env_steps

    def __str__(self) -> str:
        sure = "" if self.confidence is None else f" (probability {self.confidence:.2f})"
        if self.step is None:
            lines = [f"undecided: {self.why}; likeliest is step {self.likeliest}{sure}"]
            lines += (
                [f"  95 % of the probability is on {_steps(self.candidates)}"]
                if self.probabilities is not None
                else []
            )
        else:
            lines = [f"step {self.step} decided it{sure}"]
        e = self.effect
        lines += [
            f"  with its action kept    {_text(self.kept)}",
            f"  with its action redrawn {_text(self.redrawn)}",
            f"  difference              {_text(e)}, {e.n_discordant} of {e.n} scenarios differ",
            f"  {self.method}, policy {self.table.policy_id}: {self.n_rollouts} rollouts, {self.env_steps} env steps",
        ]
        return "\n".join(lines)


def decisive_step(
    episode: Episode,
    policy: Any,
    *,
    method: Method = "drop",
    n_rollouts: int = 32,
    max_rollouts: int = 2048,
    confidence: float = 0.95,
    share: float = 1 / 3,
    budget: Budget | None = None,
    **how: Unpack[RolloutOptions],
) -> Decision:
    """Find the step whose action lost an episode, or won it if it was won.

    Args:
        episode: From `Corpus.episode`.
        policy: See `scan`. What it makes of a step is what the recorded action is measured against.
        method: "drop", "bayes", "bisect" or "halving": see the module.
        n_rollouts: Rollouts of an arm at first ("drop"), or of a probe ("bisect", "halving"); and to confirm.
        max_rollouts: "drop" and "bayes" go on, with more scenarios, until one step is sure or an arm has had so many.
        confidence: What the probability of a step must reach.
        share: "drop" takes the earliest step whose effect is at least this share of the largest.
        budget: What it may take.
        how: See `RolloutOptions`.

    Returns:
        The decision; its `step` is None where it is undecided.

    Raises:
        DivergenceError: The environment is not in the recorded state at a step: nothing can be said.
    """
    if method not in ("drop", "bayes", "bisect", "halving"):
        raise ValueError(f"method must be 'drop', 'bayes', 'bisect' or 'halving', got {method!r}")
    if n_rollouts < 2 or max_rollouts < n_rollouts:
        raise ValueError(
            f"n_rollouts must be in [2, max_rollouts], got {n_rollouts!r} and {max_rollouts!r}"
        )
    with Sampler(
        episode, RolloutConfig.from_options(policy, how, caller="decisive_step")
    ) as prober:
        return _Search(prober, n_rollouts, max_rollouts, confidence, share, budget, how).decide(
            method
        )


class _Search:
    """One search for the decisive step."""

    def __init__(
        self,
        prober: Sampler,
        n: int,
        max_rollouts: int,
        confidence: float,
        share: float,
        budget: Budget | None,
        how: RolloutOptions,
    ) -> None:
        self._prober, self._episode = prober, prober.episode
        self._how = how
        self._n, self._max_rollouts, self._confidence, self._share = (
            n,
            max_rollouts,
            confidence,
            share,
        )
        self._meter, self._n_rollouts = Meter(budget), 0
        self._samples: dict[tuple[int, str], list[Rollout]] = {}
        self._is_binary = True
        self._actions = recorded_actions(self._episode)
        self._first, self._last = self._episode.first_step, self._episode.n_steps
        if self._first == self._last:
            raise ValueError(f"episode {self._episode.id} has no steps: none can have decided it")
        self._final = self._final_value()
        # An episode that came to something was won by a step; one that did not was lost by one.
        self._sign = 1.0 if self._final >= 1.0 and self._is_share else -1.0

    def decide(self, method: Method) -> Decision:
        if method == "drop":
            return self._by_drop()
        if not self._is_share or self._sign > 0:
            raise ValueError(
                f"method {method!r} is for lost episodes that could have been won; give success=, or take 'drop'"
            )
        if method == "bayes":
            return self._by_change()
        return self._by_bisection(method)

    def _by_drop(self) -> Decision:
        """Compare every action with the policy's, with more scenarios until one step stands out."""
        steps = list(range(self._first, self._last))
        # What a scenario of all steps costs is not known before: a budget is approached from the fewest.
        n, why = min(self._n, FEWEST) if self._meter.is_limited else self._n, ""
        while True:
            self._sample([(step, arm, n) for step in steps for arm in ("value", "action")])
            probabilities = self._drop_probabilities(steps)
            best = int(probabilities.argmax())
            if n >= self._n and probabilities[best] >= self._confidence:
                break
            spent = self._meter.spent(ahead=2.0)
            if spent or n * 2 > self._max_rollouts:
                why = (
                    f"its budget does not reach further ({spent})"
                    if spent
                    else f"{n} scenarios do not tell the steps apart"
                )
                break
            n = min(2 * n, self._n) if n < self._n else 2 * n
        step = steps[best]
        d = self._values(step, "action") - self._values(step, "value")
        d = d[~np.isnan(d)]
        needed = _n_to_confirm(float(d.mean()), float((d**2).mean())) if len(d) else self._n
        return self._confirmed(
            step, float(probabilities[best]), probabilities, "drop", why, n if why else needed
        )

    def _sample(self, wanted: list[tuple[int, str, int]], first: int = 0) -> None:
        """Bring arms to so many rollouts, in scenarios from a first one on: (step, arm, n) of each."""
        probes = []
        for step, arm, n in wanted:
            known = len(self._samples.setdefault((step, arm), []))
            scenarios = self._prober.setting.noise.scenarios(
                n - known, f"{step}/{arm}", first + known
            )
            script = ((step, self._actions[step]),) if arm in ("action", "kept") else ()
            probes.append(SampleRequest(step, scenarios, script))
        for (step, arm, _), rollouts in zip(wanted, self._prober.run(probes), strict=True):
            self._samples[step, arm] += rollouts
            self._meter.add(rollouts)
            self._n_rollouts += len(rollouts)
            self._is_binary = self._is_binary and all(
                r.episode_return in (0.0, 1.0) for r in rollouts
            )

    def _arm(self, step: int, arm: str) -> Arm:
        return Arm.of(self._samples[step, arm], by_score=self._prober.by_score)

    def _values(self, step: int, arm: str) -> FloatArray:
        return self._arm(step, arm).values

    def _drop_probabilities(self, steps: list[int]) -> FloatArray:
        """Return for each step the probability that it is the first with a large effect, from draws of all effects."""
        rng = np.random.default_rng(self._prober.setting.noise.seed)
        draws = np.empty((DRAWS, len(steps)))
        known = np.concatenate(
            [self._arm(step, arm).known for step in steps for arm in ("value", "action")]
        )
        scale = intervals.standard_deviation(known)
        for column, step in enumerate(steps):
            draws[:, column] = self._draws(
                self._values(step, "action"), self._values(step, "value"), scale, rng
            )
        effects = draws * self._sign
        best = (effects >= self._share * effects.max(axis=1, keepdims=True)).argmax(axis=1)
        return np.bincount(best, minlength=len(steps)) / DRAWS

    def _draws(
        self, a: FloatArray, b: FloatArray, scale: float, rng: np.random.Generator
    ) -> FloatArray:
        """Return draws of the effect of one action, Q - V, given its rollouts."""
        if self._prober.is_paired:
            known = ~(np.isnan(a) | np.isnan(b))
            d = a[known] - b[known]
            if self._is_share:
                up, down = np.count_nonzero(d > 0), np.count_nonzero(d < 0)
                p = rng.dirichlet([up + PRIOR, down + PRIOR, len(d) - up - down + 1.0], DRAWS)
                return np.asarray(p[:, 0] - p[:, 1])
            with_more = np.concatenate([d, [scale, -scale]])
            n = len(with_more)
            return np.asarray(
                with_more.mean()
                + with_more.std(ddof=1) / math.sqrt(n) * rng.standard_t(n - 1, DRAWS)
            )
        a, b = a[~np.isnan(a)], b[~np.isnan(b)]
        if self._is_share:
            p = rng.beta(a.sum() + 0.5, len(a) - a.sum() + 0.5, DRAWS)
            return np.asarray(p - rng.beta(b.sum() + 0.5, len(b) - b.sum() + 0.5, DRAWS))
        se = math.sqrt(
            (a.var() + scale**2 / len(a)) / len(a) + (b.var() + scale**2 / len(b)) / len(b)
        )
        return np.asarray(a.mean() - b.mean() + se * rng.standard_normal(DRAWS))

    def _by_change(self) -> Decision:
        """Probe where it learns most about where the level changes."""
        model = changepoint.ChangePoint(self._last - self._first)
        n_batch = max(4, self._n // 8)
        limit = self._max_rollouts * max(1, math.ceil(math.log2(self._last - self._first + 1)) // 2)
        why = ""
        while True:
            probabilities = model.probabilities()
            if probabilities.max() >= self._confidence:
                break
            spent = self._meter.spent()
            if spent or self._n_rollouts >= limit:
                why = (
                    f"its budget is spent ({spent})"
                    if spent
                    else f"{self._n_rollouts} rollouts do not tell the steps apart"
                )
                break
            k = model.next_probe()
            values = self._value_at(self._first + k, n_batch)
            model.add(k, int((values > 0.5).sum()), len(values))
        best = int(probabilities.argmax())
        drop = model.drop(best)
        needed = _n_to_confirm(drop, drop)
        return self._confirmed(
            self._first + best, float(probabilities[best]), probabilities, "bayes", why, needed
        )

    def _by_bisection(self, method: Method) -> Decision:
        """Find the last step from which the policy still wins, or wins half as often as from the first."""
        lo, hi = self._first, self._last
        bar = 0.0
        if method == "halving":
            bar = float(self._value_at(lo, self._n).mean()) / 2
        while hi - lo > 1:
            middle = (lo + hi) // 2
            if float(self._value_at(middle, self._n).mean()) > bar:
                lo = middle
            else:
                hi = middle
        return self._confirmed(lo, None, None, method, "", self._n)

    def _value_at(self, step: int, n: int) -> FloatArray:
        """Return what n rollouts more from a step come to."""
        before = len(self._samples.get((step, "value"), ()))
        self._sample([(step, "value", before + n)])
        values = self._values(step, "value")[before:]
        return values[~np.isnan(values)]

    def _confirmed(
        self,
        step: int,
        sure: float | None,
        probabilities: FloatArray | None,
        method: str,
        why: str,
        needed: int,
    ) -> Decision:
        """Try the step in scenarios that it was not found in: the largest of many effects looks larger than it is."""
        # Fixed before any of them is seen, from what the search found: an interval that is looked at again and again is none.
        n_confirm = (
            min(max(needed, FEWEST), self._n)
            if why
            else min(max(needed, self._n), self._max_rollouts)
        )
        self._sample([(step, "redrawn", n_confirm), (step, "kept", n_confirm)], CONFIRM)
        redrawn, kept = self._arm(step, "redrawn"), self._arm(step, "kept")
        known = np.concatenate([redrawn.known, kept.known])
        scale = None if self._is_share else intervals.standard_deviation(known)
        found, n, n_discordant = difference(
            kept.values, redrawn.values, is_paired=self._prober.is_paired, scale=scale
        )
        measure = "P(won)" if self._is_share else "return"
        cost = (
            kept.env_steps + redrawn.env_steps,
            kept.policy_calls + redrawn.policy_calls,
            kept.n_invalid + redrawn.n_invalid,
        )
        what, noise = "Q(action) - V, in fresh scenarios", self._prober.noise
        effect = Estimate(
            step, *found, n, n_discordant, "decisive", what, noise, *cost, self._actions[step]
        )
        if not (found.ci_low > 0 if self._sign > 0 else found.ci_high < 0) and not why:
            why = "in scenarios that it was not found in, its action is no different from the policy's"
        order = [] if probabilities is None else [int(k) for k in probabilities.argsort()[::-1]]
        n_needed = (
            0
            if probabilities is None
            else int(np.searchsorted(probabilities[order].cumsum(), 0.95)) + 1
        )
        rows = [self._single(at, arm, measure) for at, arm in sorted(self._samples)]
        arms = [(at, arm, rollouts) for (at, arm), rollouts in sorted(self._samples.items())]
        candidates = tuple(self._first + k for k in order[:n_needed]) or (step,)
        note = f"undecided among {_steps(candidates)}: {why}" if why else f"step {step} decided it"
        table = make_table(self._prober, [*rows, effect], arms, self._how, notes=[note])
        return Decision(
            self._episode.id,
            None if why else step,
            step,
            sure,
            candidates,
            table.of("decisive")[0],
            table.of("redrawn")[0],
            table.of("kept")[0],
            why,
            method,
            table,
            probabilities,
        )

    def _single(self, step: int, name: str, measure: str) -> Estimate:
        arm = self._arm(step, name)
        known = arm.known
        found = intervals.mean(
            known, None if self._is_share else intervals.standard_deviation(known)
        )
        what = f"{measure} with the {'recorded action' if name in ('action', 'kept') else 'action redrawn'}"
        cost = arm.env_steps, arm.policy_calls, arm.n_invalid
        return Estimate(
            step,
            *found,
            len(known),
            None,
            name,
            what,
            self._prober.noise,
            *cost,
            self._actions.get(step),
        )

    @property
    def _is_share(self) -> bool:
        return self._prober.by_score or (self._is_binary and self._final in (0.0, 1.0))

    def _final_value(self) -> float:
        if not self._prober.by_score:
            return float(sum(recorded_rewards(self._episode).values()))
        if not is_over(self._episode):
            return 0.0
        return self._prober.score_at(self._last)


PRIOR = 0.25
"""Pseudo-counts of scenarios in which an action wins, and loses, what the policy would not: most actions do neither."""


def _n_to_confirm(effect: float, square: float) -> int:
    """Return how many pairs put an effect 3.5 standard errors from zero.

    Args:
        effect: Mean difference of a pair.
        square: Mean square of it.
    """
    return math.ceil(12 * max(square - effect**2, 0.01) / max(effect**2, 1e-6))


def _steps(steps: tuple[int, ...], most: int = 8) -> str:
    more = f" and {len(steps) - most} more" if len(steps) > most else ""
    return f"step{'s' if len(steps) > 1 else ''} {', '.join(map(str, steps[:most]))}{more}"


def _text(e: Estimate) -> str:
    return f"{e.value:+.2f} [{e.ci_low:+.2f}, {e.ci_high:+.2f}]"
