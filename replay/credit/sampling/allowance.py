"""The steps, calls and seconds that a run may still take."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from trajrec.errors import ReplayError

SHARE_OF_CHECKS = 0.05
"""The share of a budget that no rollout takes."""


class BudgetSpent(BaseException):
    """A rollout has reached a limit of its run's budget.

    No `Exception`, because a rollout whose environment raises one counts as a result.
    """


@dataclass
class Allowance:
    """Counts the cost of rollouts and ends them at a limit; None is no limit.

    Attributes:
        env_steps: Largest number of steps of the environment.
        policy_calls: Largest number of actions that the policy is asked for.
        seconds: Largest wall time from now on.
        endless_step: A rollout that reaches this step has no end: see `take`.
        episode_id: The episode, for messages.
        n_env_steps: Steps so far.
        n_policy_calls: Actions so far.
        n_check_steps: Those of the steps that only tested the noise.
        n_check_calls: Those of the actions that only tested the noise.
        start: `time.monotonic` at the start.
    """

    env_steps: int | None = None
    policy_calls: int | None = None
    seconds: float | None = None
    endless_step: int | None = None
    episode_id: str = ""
    n_env_steps: int = 0
    n_policy_calls: int = 0
    n_check_steps: int = 0
    n_check_calls: int = 0
    start: float = field(default_factory=time.monotonic)

    def take(self, step: int, n_calls: int) -> None:
        """Count one step of a rollout, before it is taken.

        Args:
            step: The step.
            n_calls: Actions that the policy was asked for; 0 or 1.

        Raises:
            BudgetSpent: The step would exceed a limit.
            ReplayError: The rollout does not end.
        """
        if self.endless_step is not None and step >= self.endless_step:
            raise ReplayError(
                f"a rollout has not ended at step {step}, and the environment has no time limit: "
                "give max_steps, the step at which rollouts are cut off",
                episode_id=self.episode_id,
            )
        self.check(1, n_calls)
        self.add(1, n_calls)

    @property
    def spare(self) -> int:
        """Steps that controls and repeats may still take."""
        return 1 << 60 if self.env_steps is None else max(0, self.env_steps - self.n_env_steps)

    def add_check(self, n_env_steps: int, n_policy_calls: int = 0) -> None:
        """Add the cost of a control or a repeat."""
        self.add(n_env_steps, n_policy_calls)
        self.n_check_steps += n_env_steps
        self.n_check_calls += n_policy_calls

    def check(self, n_env_steps: int = 0, n_policy_calls: int = 0) -> None:
        """Check that a cost fits.

        Raises:
            BudgetSpent: It does not.
        """
        if self.env_steps is not None:
            # The rest is for controls and repeats.
            limit = self.env_steps - int(SHARE_OF_CHECKS * self.env_steps)
            if self.n_env_steps + n_env_steps > limit:
                raise BudgetSpent
        calls = self.n_policy_calls + n_policy_calls
        if self.policy_calls is not None and calls > self.policy_calls:
            raise BudgetSpent
        if self.seconds is not None and time.monotonic() - self.start > self.seconds:
            raise BudgetSpent

    def add(self, n_env_steps: int, n_policy_calls: int) -> None:
        """Add a cost."""
        self.n_env_steps += n_env_steps
        self.n_policy_calls += n_policy_calls

    def add_other(self, other: Allowance) -> None:
        """Add the cost of another process."""
        self.add(other.n_env_steps, other.n_policy_calls)
        self.n_check_steps += other.n_check_steps
        self.n_check_calls += other.n_check_calls

    def rest(self, n_shares: int = 1) -> Allowance:
        """Return an equal share of the rest, for rollouts in another process."""

        def share(limit: int | None, n: int) -> int | None:
            return None if limit is None else max(0, limit - n) // n_shares

        seconds = None
        if self.seconds is not None:
            seconds = self.seconds - (time.monotonic() - self.start)
        return Allowance(
            env_steps=share(self.env_steps, self.n_env_steps),
            policy_calls=share(self.policy_calls, self.n_policy_calls),
            seconds=seconds,
            endless_step=self.endless_step,
            episode_id=self.episode_id,
        )

    def __setstate__(self, state: dict[str, object]) -> None:
        """Start the clock in the process that receives the allowance."""
        self.__dict__.update(state)
        self.start = time.monotonic()
