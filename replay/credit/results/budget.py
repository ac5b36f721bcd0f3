"""The budget of a run, and the meter that compares a run's cost with it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from trajrec.replay.credit.sampling.rollout import Rollout

# Large enough that the processes of a round stay busy, small enough that a budget is not overrun
# by much: a round is the unit in which a budget is checked.
SCENARIOS_OF_A_ROUND = 8

# The fewest scenarios that have a confidence interval. A run with a budget begins with so many,
# because the cost of a scenario is unknown before the first round.
SCENARIOS_OF_THE_FIRST_ROUND = 2


@dataclass(frozen=True)
class Budget:
    """Limits of a run; None is no limit.

    A run ends after the round in which it reaches a limit, and a note says so. Every row then rests
    on the same, smaller number of scenarios.

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

    Attributes:
        env_steps: Steps of the environment so far.
        policy_calls: Actions that the policy was asked for so far.
        notes: Which work was left out because of the budget.

    Raises:
        TypeError: The budget is no `Budget`.
    """

    def __init__(self, budget: Budget | None) -> None:
        if budget is not None and not isinstance(budget, Budget):
            raise TypeError(
                "budget must be a credit.Budget, e.g. credit.Budget(env_steps=10_000), "
                f"got {budget!r}"
            )
        self._budget = budget or Budget()
        self._start = time.monotonic()
        self.env_steps = 0
        self.policy_calls = 0
        self.notes: list[str] = []

    @property
    def is_limited(self) -> bool:
        """Whether the budget has any limit."""
        return self._budget != Budget()

    def add(self, rollouts: Iterable[Rollout]) -> None:
        """Add the cost of rollouts."""
        for rollout in rollouts:
            self.env_steps += rollout.env_steps
            self.policy_calls += rollout.policy_calls

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
            if size < SCENARIOS_OF_A_ROUND:
                # The number of scenarios doubles until a round has its usual size.
                size = min(end, SCENARIOS_OF_A_ROUND)
            first = end
            spent = self.spent()
            if spent and end < n:
                self.notes.append(f"stopped by its budget ({spent}): {end} of {n} {unit}")
                return

    def spent(self, ahead: float = 1.0) -> str:
        """Return the limit that is reached, in words, or "" if none is reached.

        Args:
            ahead: The expected cost after the next round, as a multiple of the cost so far.
        """
        budget = self._budget
        if budget.env_steps is not None and self.env_steps * ahead >= budget.env_steps:
            return f"{self.env_steps} of {budget.env_steps} env steps"
        if budget.policy_calls is not None and self.policy_calls * ahead >= budget.policy_calls:
            return f"{self.policy_calls} of {budget.policy_calls} policy calls"
        seconds = time.monotonic() - self._start
        if budget.seconds is not None and seconds * ahead >= budget.seconds:
            return f"{seconds:.1f} of {budget.seconds} s"
        return ""
