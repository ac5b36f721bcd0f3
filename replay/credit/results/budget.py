"""The budget of a run, and the meter that compares a run's cost with it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trajrec.replay.credit.sampling.allowance import Allowance, BudgetSpent
from trajrec.replay.credit.sampling.request import SampleRequest
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.credit.sampling.sampler import Sampler

# Large enough that the processes of a round stay busy, small enough that a budget is used well: a
# round is the unit in which results count.
SCENARIOS_OF_A_ROUND = 8

# The fewest scenarios that have a confidence interval. A run with a budget begins with so many,
# because the cost of a scenario is unknown before the first round.
SCENARIOS_OF_THE_FIRST_ROUND = 2

# The first round may take so many steps even if the budget is smaller: without it there is nothing.
LEAST_ENV_STEPS = 1000


@dataclass(frozen=True)
class Budget:
    """Limits of a run; None is no limit.

    A run never exceeds them, except that a limit of fewer than 1,000 steps counts as 1,000 for the
    first two scenarios. A run ends after the round in which it reaches a limit; a round that a
    limit breaks off is left out. A note says so. Every row then rests on the same, smaller number
    of scenarios. The steps that lead to a fork are not counted.

    Attributes:
        env_steps: Largest number of steps of the environment.
        policy_calls: Largest number of actions that the policy is asked for.
        seconds: Largest wall time.
    """

    env_steps: int | None = None
    policy_calls: int | None = None
    seconds: float | None = None


class Meter:
    """Counts the cost of a run and compares it with the budget.

    Args:
        budget: The limits; None has no limit.
        share: The part of the budget, in (0, 1], that may be spent before `release`.

    Attributes:
        notes: Which work was left out because of the budget.

    Raises:
        TypeError: The budget is no `Budget`.
    """

    def __init__(self, budget: Budget | None, share: float = 1.0) -> None:
        if budget is not None and not isinstance(budget, Budget):
            raise TypeError(
                "budget must be a credit.Budget, e.g. credit.Budget(env_steps=10_000), "
                f"got {budget!r}"
            )
        self._budget = budget or Budget()
        self._share = share
        self._allowance = Allowance()
        self._least_env_steps = LEAST_ENV_STEPS
        self._set_limits()
        self._broken_off = ""
        self.notes: list[str] = []

    @property
    def is_limited(self) -> bool:
        """Whether the budget has any limit."""
        return self._budget != Budget()

    def release(self) -> None:
        """Allow the whole budget."""
        self._share = 1.0
        self._set_limits()

    def _set_limits(self) -> None:
        budget = self._budget
        allowance = self._allowance
        if budget.env_steps is not None:
            allowance.env_steps = max(
                self._least_env_steps, int(budget.env_steps * self._share), allowance.n_env_steps
            )
        if budget.policy_calls is not None:
            allowance.policy_calls = int(budget.policy_calls * self._share)
        if budget.seconds is not None:
            allowance.seconds = budget.seconds * self._share

    def run(self, sampler: Sampler, requests: Sequence[SampleRequest]) -> list[list[Rollout]]:
        """Return the rollouts of each request.

        Raises:
            BudgetSpent: The budget does not reach so far; none of the rollouts counts.
        """
        endless_step = sampler.allowance.endless_step
        self._allowance.endless_step = endless_step
        self._allowance.episode_id = sampler.episode.id
        sampler.allowance = self._allowance
        return sampler.run(requests)

    def rounds(
        self, n: int, unit: str = "scenarios", *, in_rounds: bool = False
    ) -> Iterator[range]:
        """Yield the scenarios of each round, until all have run or the budget is spent.

        Only the cost decides when to stop, never a result: a run that stops at a good-looking
        result has no valid interval.

        Args:
            n: Number of scenarios without a budget.
            unit: Name of a scenario in the note.
            in_rounds: Whether to split the scenarios into rounds if there is no budget either.

        Raises:
            ValueError: The budget does not reach for the first round.
        """
        size = n
        if self.is_limited:
            size = SCENARIOS_OF_THE_FIRST_ROUND
        elif in_rounds:
            size = SCENARIOS_OF_A_ROUND
        first = 0
        while first < n:
            end = min(first + size, n)
            yield range(first, end)
            if self._broken_off:
                self.require_progress(first, f"{end} {unit}")
                self.notes.append(
                    f"stopped by its budget ({self._broken_off}): {first} of {n} {unit}; the round "
                    "that it broke off is left out"
                )
                return
            if size < SCENARIOS_OF_A_ROUND:
                # The number of scenarios doubles until a round has its usual size.
                size = min(end, SCENARIOS_OF_A_ROUND)
            first = end
            self._least_env_steps = 0
            self._set_limits()
            spent = self.spent()
            if spent and end < n:
                self.notes.append(f"stopped by its budget ({spent}): {end} of {n} {unit}")
                return

    def break_off(self) -> None:
        """End the rounds, and leave out the round that `BudgetSpent` has ended."""
        self._broken_off = self.spent() or self._cost()

    def require_progress(self, n_done: int, work: str) -> None:
        """Check that a run has any result.

        Args:
            n_done: Finished parts of the run.
            work: The part that was broken off, in words.

        Raises:
            ValueError: No part is finished.
        """
        if not n_done:
            raise ValueError(
                f"the budget is too small for {work} ({self._cost()}): give fewer steps=, a smaller "
                "max_steps= or a larger budget"
            )

    def spent(self, ahead: float = 1.0) -> str:
        """Return the limit that is reached, in words, or "" if none is reached.

        Args:
            ahead: The expected cost after the next round, as a multiple of the cost so far.
        """
        budget = self._budget
        share = self._share
        allowance = self._allowance
        n_steps = allowance.n_env_steps - allowance.n_check_steps
        n_calls = allowance.n_policy_calls - allowance.n_check_calls
        if budget.env_steps is not None and n_steps * ahead >= budget.env_steps * share:
            return f"{n_steps} of {budget.env_steps} env steps"
        if budget.policy_calls is not None and n_calls * ahead >= budget.policy_calls * share:
            return f"{n_calls} of {budget.policy_calls} policy calls"
        seconds = time.monotonic() - self._allowance.start
        if budget.seconds is not None and seconds * ahead >= budget.seconds * share:
            return f"{seconds:.1f} of {budget.seconds} s"
        return ""

    def affordable(self, *, env_steps: int, policy_calls: int) -> int | None:
        """Return how many times a cost fits into the rest of the budget; None without a limit."""
        rest = self._allowance.rest()
        pairs = ((rest.env_steps, env_steps), (rest.policy_calls, policy_calls))
        return min(
            (limit // max(1, cost) for limit, cost in pairs if limit is not None), default=None
        )

    def _cost(self) -> str:
        """Return the cost so far, beside the limits."""
        budget = self._budget
        parts = []
        if budget.env_steps is not None:
            parts.append(f"{self._allowance.n_env_steps} of {budget.env_steps} env steps")
        if budget.policy_calls is not None:
            parts.append(f"{self._allowance.n_policy_calls} of {budget.policy_calls} policy calls")
        if budget.seconds is not None:
            seconds = time.monotonic() - self._allowance.start
            parts.append(f"{seconds:.1f} of {budget.seconds} s")
        return ", ".join(parts)


__all__ = ["Budget", "BudgetSpent", "Meter"]
