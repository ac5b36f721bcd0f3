"""The decision about an episode's decisive step, as users see it."""

from __future__ import annotations

from dataclasses import dataclass

from trajrec.replay.credit.results.estimates import Estimate, format_interval
from trajrec.replay.credit.results.table import CreditTable
from trajrec.types import FloatArray

# More candidates than this would hide the decision in a list of numbers.
SHOWN_CANDIDATES = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class Decision:
    """The step that decided an episode, or the reason why none can be named.

    Attributes:
        episode_id: The episode.
        step: The decisive step; None if undecided.
        likeliest: The most probable step, decided or not.
        confidence: Probability that `likeliest` is the decisive step, by the method's model and
            given the confirmation too; None for a method without a model.
        candidates: The steps that together have 95 % of the probability, most probable first.
        effect: Q(recorded action) - V at the step, in scenarios that the search did not use.
        redrawn: The result with the action redrawn from the policy.
        kept: The result with the recorded action.
        reason: The reason for no decision; "" if decided.
        method: The method of the search.
        table: All estimates and rollouts, as the corpus stores them.
        probabilities: Probability of each step, (T,) float64; None for a method without a model.
    """

    episode_id: str
    step: int | None
    likeliest: int
    confidence: float | None
    candidates: tuple[int, ...]
    effect: Estimate
    redrawn: Estimate
    kept: Estimate
    reason: str
    method: str
    table: CreditTable
    probabilities: FloatArray | None = None

    @property
    def n_rollouts(self) -> int:
        """Number of rollouts that were run."""
        return sum(len(arm.rollouts) for arm in self.table.arms)

    @property
    def env_steps(self) -> int:
        """Steps of the environment that were taken."""
        return self.table.env_steps

    def __str__(self) -> str:
        probability = ""
        if self.confidence is not None:
            probability = f" (probability {self.confidence:.2f})"
        if self.step is not None:
            lines = [f"step {self.step} decided it{probability}"]
        else:
            lines = [f"undecided: {self.reason}; likeliest is step {self.likeliest}{probability}"]
            if self.probabilities is not None:
                lines.append(f"  95 % of the probability is on {format_steps(self.candidates)}")
        effect = self.effect
        if effect.step != self.likeliest:
            lines.append(f"  of step {effect.step}, which the search had found:")
        lines += [
            f"  with its action kept    {format_interval(self.kept, 2)}",
            f"  with its action redrawn {format_interval(self.redrawn, 2)}",
            f"  difference              {format_interval(effect, 2)}{_discordant(effect)}",
            f"  {self.method}, policy {self.table.policy_id}: {self.n_rollouts} rollouts, "
            f"{self.env_steps} env steps",
        ]
        if self.table.controls.n:
            lines.append(f"  {self.table.controls}")
        return "\n".join(lines)


def _discordant(effect: Estimate) -> str:
    if effect.n_discordant is None:
        return ""
    return f", {effect.n_discordant} of {effect.n} scenarios differ"


def format_steps(steps: tuple[int, ...]) -> str:
    """Return steps in words, e.g. "steps 3, 4 and 5 more"."""
    n_more = len(steps) - SHOWN_CANDIDATES
    more = f" and {n_more} more" if n_more > 0 else ""
    shown = ", ".join(map(str, steps[:SHOWN_CANDIDATES]))
    return f"step{'s' if len(steps) > 1 else ''} {shown}{more}"
