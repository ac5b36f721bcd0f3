"""Estimates: numbers with their intervals, what they are of, and what they cost; and the table of a run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.statistics.intervals import Interval
from trajrec.types import FloatArray

ROUND = 8
"""Scenarios of a round, where there is a budget."""


@dataclass(frozen=True)
class Budget:
    """What a run may take; None without a limit. It ends after the round of scenarios in which it is spent, and says so: each
    row then has fewer scenarios, all rows the same.

    Attributes:
        env_steps: Steps of the environment.
        policy_calls: Actions that the policy is asked for.
        seconds: Wall time.
    """

    env_steps: int | None = None
    policy_calls: int | None = None
    seconds: float | None = None


class Meter:
    """Counts what a run takes, against its budget.

    Attributes:
        env_steps: Steps of the environment so far.
        policy_calls: Actions that the policy was asked for so far.
        notes: What was not reached, and why.
    """

    def __init__(self, budget: Budget | None) -> None:
        if budget is not None and not isinstance(budget, Budget):
            raise TypeError(
                f"budget must be a credit.Budget, e.g. credit.Budget(env_steps=10_000), got {budget!r}"
            )
        self._budget, self._began = budget or Budget(), time.monotonic()
        self.env_steps = self.policy_calls = 0
        self.notes: list[str] = []

    @property
    def is_limited(self) -> bool:
        """Whether there is a budget."""
        return self._budget != Budget()

    def add(self, rollouts: Iterable[Rollout]) -> None:
        """Count rollouts."""
        for rollout in rollouts:
            self.env_steps += rollout.env_steps
            self.policy_calls += rollout.policy_calls

    def rounds(self, n: int, what: str = "scenarios", *, always: bool = False) -> Iterator[range]:
        """Yield what is to be run in each round, until all n were or the budget is spent.

        What was spent alone says when to end: it is never asked what came of it.

        Args:
            n: How many scenarios there are to be.
            what: What they are called.
            always: Whether there are rounds although there is no budget.
        """
        first, size = 0, n
        if always or self._budget != Budget():
            # From the fewest that have an interval on: how much a round takes is not known before.
            size = ROUND if always and self._budget == Budget() else 2
        while first < n:
            end = min(first + size, n)
            yield range(first, end)
            first, size = end, min(end, ROUND) if size < ROUND else size
            spent = self.spent()
            if spent and end < n:
                self.notes.append(f"stopped by its budget ({spent}): {end} of {n} {what}")
                return

    def spent(self, ahead: float = 1.0) -> str:
        """Return which part of the budget is spent; "" where none is.

        Args:
            ahead: How many times what was taken so far there will be after what comes next.
        """
        budget = self._budget
        if budget.env_steps is not None and self.env_steps * ahead >= budget.env_steps:
            return f"{self.env_steps} of {budget.env_steps} env steps"
        if budget.policy_calls is not None and self.policy_calls * ahead >= budget.policy_calls:
            return f"{self.policy_calls} of {budget.policy_calls} policy calls"
        seconds = time.monotonic() - self._began
        is_late = budget.seconds is not None and seconds * ahead >= budget.seconds
        return f"{seconds:.1f} of {budget.seconds} s" if is_late else ""


@dataclass(frozen=True)
class Estimate:
    """A number that says something of one step of one episode.

    Attributes:
        step: The step; of a value the state before it.
        value: The number.
        ci_low: The interval's lower end.
        ci_high: Its upper end: ci_low to ci_high covers the true number in 95 of 100 cases.
        ci_method: How the interval was computed.
        n: Rollouts, or pairs of rollouts, that it rests on.
        n_discordant: Pairs that differ; of a single arm, None.
        estimator: Which: "value", "advantage", "luck", "delta", ...
        estimand: What the number is of, in words.
        noise: "shared", "fresh" or "recorded"; "none" where no rollouts were run.
        env_steps: Steps of the environment that were taken for it.
        policy_calls: Actions that the policy was asked for.
        n_invalid: Rollouts that came to nothing: what cannot be done again, or what the environment raised.
        action: The recorded action, or what it was replaced by.
    """

    step: int
    value: float
    ci_low: float
    ci_high: float
    ci_method: str
    n: int
    n_discordant: int | None
    estimator: str
    estimand: str
    noise: str = "none"
    env_steps: int = 0
    policy_calls: int = 0
    n_invalid: int = 0
    action: Any = None

    def __str__(self) -> str:
        return f"step {self.step}: {self.estimator} {self.value:+.3f} [{self.ci_low:+.3f}, {self.ci_high:+.3f}]"


class Arm(NamedTuple):
    """The rollouts of one probe, as numbers.

    Attributes:
        values: The return or score of each rollout, (n,) float64; NaN where it came to nothing.
        rollouts: The rollouts.
    """

    values: FloatArray
    rollouts: Sequence[Rollout]

    @classmethod
    def of(cls, rollouts: Sequence[Rollout], *, by_score: bool) -> Arm:
        """Return the arm of rollouts, by score or by return."""
        values = [
            np.nan
            if r.is_lost or (by_score and r.score is None)
            else r.score
            if by_score
            else r.episode_return
            for r in rollouts
        ]
        return cls(np.array(values, np.float64), rollouts)

    @property
    def known(self) -> FloatArray:
        """The values of those that came to something."""
        return self.values[~np.isnan(self.values)]

    @property
    def env_steps(self) -> int:
        """Steps of the environment that were taken."""
        return sum(rollout.env_steps for rollout in self.rollouts)

    @property
    def policy_calls(self) -> int:
        """Actions that the policy was asked for."""
        return sum(rollout.policy_calls for rollout in self.rollouts)

    @property
    def n_invalid(self) -> int:
        """Rollouts that came to nothing."""
        return int(np.isnan(self.values).sum())


class SkillLuckSplit(NamedTuple):
    """Where the return of an episode came from: R - V(s0) = skill + luck.

    Attributes:
        episode_return: What the episode returned, or what the check said of it.
        value: What the policy makes of its first state.
        skill: Sum of what the chosen actions were better than the policy's.
        luck: Sum of what came out better than the actions were.
        error: How far the two sides of the equation are apart: rounding, but for rollouts that were lost.
    """

    episode_return: float
    value: Interval
    skill: Interval
    luck: Interval
    error: float

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {part.value:+.3f} [{part.ci_low:+.3f}, {part.ci_high:+.3f}]"
            for name, part in (("V(s0)", self.value), ("skill", self.skill), ("luck", self.luck))
        )
        return f"R {self.episode_return:+.3f} = {parts}"


@dataclass
class CreditTable(Sequence[Estimate]):
    """What a run found: estimates in the order of steps.

    Attributes:
        run_id: 16 hex digits.
        episode_id: The episode.
        policy_id: The policy that went on from its steps.
        estimates: The rows.
        noise: See `Estimate`.
        seed: What the noise was derived from.
        restore: How steps were reached.
        split: The skill/luck split; None where it was not asked for.
        notes: What must be known to read it.
        arms: Of each its step, its name and its rollouts.
    """

    run_id: str
    episode_id: str
    policy_id: str
    estimates: list[Estimate]
    noise: str = "none"
    seed: int = 0
    restore: str = ""
    split: SkillLuckSplit | None = None
    notes: tuple[str, ...] = ()
    arms: list[tuple[int, str, Sequence[Rollout]]] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.estimates)

    def __getitem__(self, index: Any) -> Any:
        return self.estimates[index]

    def __iter__(self) -> Iterator[Estimate]:
        return iter(self.estimates)

    def of(self, estimator: str) -> list[Estimate]:
        """Return the rows of one estimator, in the order of steps."""
        return [estimate for estimate in self.estimates if estimate.estimator == estimator]

    @property
    def env_steps(self) -> int:
        """Steps of the environment that were taken."""
        return sum(rollout.env_steps for _, _, rollouts in self.arms for rollout in rollouts)

    @property
    def policy_calls(self) -> int:
        """Actions that the policy was asked for."""
        return sum(rollout.policy_calls for _, _, rollouts in self.arms for rollout in rollouts)

    def __str__(self) -> str:
        names = list(dict.fromkeys(estimate.estimator for estimate in self.estimates))
        by_step: dict[int, dict[str, Estimate]] = {}
        for estimate in self.estimates:
            by_step.setdefault(estimate.step, {})[estimate.estimator] = estimate
        lines = [
            f"episode {self.episode_id}, policy {self.policy_id}, {self.noise} noise, {self.env_steps} env steps"
        ]
        lines += [str(self.split)] if self.split is not None else []
        lines += [f"note: {note}" for note in self.notes]
        lines.append(
            "  ".join(["step", "action".ljust(12), *(name.ljust(26) for name in names)]).rstrip()
        )
        for step, row in by_step.items():
            action = next((str(e.action) for e in row.values() if e.action is not None), "")
            cells = [
                f"{row[name].value:+.3f} [{row[name].ci_low:+.3f}, {row[name].ci_high:+.3f}]"
                if name in row
                else ""
                for name in names
            ]
            lines.append(
                "  ".join(
                    [f"{step:4}", action[:12].ljust(12), *(cell.ljust(26) for cell in cells)]
                ).rstrip()
            )
        return "\n".join(lines)
