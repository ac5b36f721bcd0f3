"""The step that lost an agent's episode, found by experiments that change nothing.

An experiment at a step goes live there, so its share of wins is the worth of the episode before the
step. The shares are searched by halves, and the step that is found is confirmed by fresh runs: of
many shares that vary by chance, the search takes the one that fell most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from trajrec.replay.whatif.result import Share, WhatIfResult, total_of
from trajrec.statistics.intervals import UNKNOWN, Interval
from trajrec.statistics.shares import difference_of_shares
from trajrec.types import JsonObject

Wanted: TypeAlias = Literal["decisive", "no-return"]
"""The step at which the share of wins falls below half, or to zero."""

RunFrom: TypeAlias = Callable[[int], WhatIfResult]
"""Runs the agent from a step on, unchanged, some times."""


@dataclass(frozen=True, kw_only=True)
class LostStep:
    """The step that lost an episode.

    Attributes:
        wanted: "decisive" or "no-return".
        step: The step; None if there is none, or none is sure.
        before: The share of wins from the step on, in fresh runs; None if none were made.
        after: The share with the step as recorded; None if none were made, or the step is the last.
        is_last: Whether the episode ends with the step: it is lost then, and nothing is run.
        searched: Step -> the share of wins from it on, in the order of the search.
        reason: Why there is no step; "" if there is one.
        experiments: The results of all experiments.
    """

    wanted: Wanted
    step: int | None
    before: Share | None = None
    after: Share | None = None
    is_last: bool = False
    searched: dict[int, Share]
    reason: str = ""
    experiments: Sequence[WhatIfResult] = field(repr=False, default=())

    @property
    def difference(self) -> Interval:
        """The share of wins after the step minus that before it, with its 95 % interval."""
        return UNKNOWN if self.before is None else _difference(self.before, self.after)

    @property
    def n_tokens(self) -> int | None:
        """The tokens of all live model calls; None if a server did not say."""
        tokens = total_of([result.n_tokens for result in self.experiments])
        return None if tokens is None else int(tokens)

    @property
    def is_refused(self) -> bool:
        """Whether an experiment gave no number, or ended early."""
        return any(result.refused or result.was_stopped for result in self.experiments)

    def to_json(self) -> JsonObject:
        """Return the result as plain data."""
        low, high = self.difference.ci_low, self.difference.ci_high
        is_known = not math.isnan(self.difference.value)
        return {
            "wanted": self.wanted,
            "step": self.step,
            "reason": self.reason or None,
            "before": _share_json(self.before),
            "after": _share_json(self.after),
            "difference": [low, high] if is_known else None,
            "searched": {str(step): _share_json(share) for step, share in self.searched.items()},
            "experiments": [result.experiment for result in self.experiments],
            "tokens": self.n_tokens,
        }

    def __str__(self) -> str:
        lines = [f"no step: {self.reason}"]
        if self.step is not None and self.wanted == "decisive":
            lines = [f"step {self.step} decided it"]
        elif self.step is not None:
            is_sure = self.after is None or not self.after.n_won
            lines = [f"after step {self.step} it was {'not' if is_sure else 'hardly'} won any more"]
        for step, share in self.searched.items():
            lines.append(f"  from step {step:<4} {_share_text(share)}")
        if self.before is not None:
            lines.append(f"  in fresh runs   {_share_text(self.before)} before the step")
            if self.after is None:
                lines.append("                  the episode ends with it, so it is lost after it")
            else:
                lines.append(f"                  {_share_text(self.after)} after it")
        if not math.isnan(self.difference.value):
            gain = self.difference
            lines.append(
                f"  difference      {gain.value:+.2f} [{gain.ci_low:+.2f}, {gain.ci_high:+.2f}]"
            )
        n_runs = sum(len(result.runs) for result in self.experiments)
        cost = "tokens unknown" if self.n_tokens is None else f"{self.n_tokens} tokens"
        lines.append(f"  {n_runs} runs, {cost}")
        return "\n".join(lines)


def find_lost_step(run_from: RunFrom, steps: Sequence[int], wanted: Wanted) -> LostStep:
    """Find the step that lost an episode.

    Args:
        run_from: Runs the agent from a step on.
        steps: The steps that ask a model, in order.
        wanted: The step to find.

    Raises:
        ValueError: No step asks a model.
    """
    if not steps:
        raise ValueError("the episode asks no model: each of its runs would do the same")
    search = _Search(run_from)
    start = search.share(steps[0])
    if search.why_ended or start is None:
        return search.no_step(wanted, search.why_ended)
    if not start.n_won:
        return search.no_step(wanted, "it was not won from the start on either")
    low, high = 0, len(steps)
    threshold = _rate(start) / 2 if wanted == "decisive" else 0.0
    while high - low > 1:
        middle = (low + high) // 2
        share = search.share(steps[middle])
        if share is None:
            return search.no_step(wanted, search.why_ended)
        if _rate(share) > threshold:
            low = middle
        else:
            high = middle
    after_step = steps[high] if high < len(steps) else None
    return search.confirm(steps[low], after_step, wanted, threshold)


class _Search:
    """The experiments of one search."""

    def __init__(self, run_from: RunFrom) -> None:
        self._run_from = run_from
        self.searched: dict[int, Share] = {}
        self.experiments: list[WhatIfResult] = []
        self.why_ended = ""

    def share(self, step: int) -> Share | None:
        """Return the share of wins from a step on; None if there is no number."""
        share = self._fresh_share(step)
        if share is not None:
            self.searched[step] = share
        return share

    def _fresh_share(self, step: int) -> Share | None:
        result = self._run_from(step)
        self.experiments.append(result)
        # Nothing was changed: both arms did the same.
        share = Share(
            result.unchanged.n_won + result.changed.n_won,
            result.unchanged.n_losses + result.changed.n_losses,
            result.unchanged.n_unknown + result.changed.n_unknown,
        )
        why = result.refused or (result.was_stopped and f"ended early: {result.was_stopped}")
        if not why and not share.n_won + share.n_losses:
            why = "no run has a verdict"
        if why:
            self.why_ended = f"from step {step}: {why}"
            return None
        return share

    def no_step(self, wanted: Wanted, reason: str) -> LostStep:
        """Return a result without a step."""
        return LostStep(
            wanted=wanted,
            step=None,
            searched=self.searched,
            reason=reason,
            experiments=self.experiments,
        )

    def confirm(
        self, step: int, after_step: int | None, wanted: Wanted, threshold: float
    ) -> LostStep:
        """Run from before and behind a step again, and return it if the share really fell.

        Args:
            step: The step.
            after_step: The next one; None if the episode ends with the step.
            wanted: The step to find.
            threshold: The share of wins that the runs from before the step must exceed.
        """
        before = self._fresh_share(step)
        after = None
        if before is not None and after_step is not None:
            after = self._fresh_share(after_step)
        if self.why_ended or before is None:
            return self.no_step(wanted, self.why_ended)
        gain = _difference(before, after)
        # What follows the last step is known: the episode is lost.
        is_sure = _rate(before) > threshold if after_step is None else gain.ci_high < 0
        found = replace(
            self.no_step(wanted, ""), before=before, after=after, is_last=after_step is None
        )
        if is_sure:
            return replace(found, step=step)
        doubt = f"step {step} is the most likely, and fresh runs do not confirm it; take more runs"
        return replace(found, reason=doubt)


def _rate(share: Share) -> float:
    return share.n_won / (share.n_won + share.n_losses)


def _difference(before: Share, after: Share | None) -> Interval:
    """Return the share after minus that before; runs without a verdict widen it."""
    if after is None:
        return UNKNOWN
    n_before = before.n_won + before.n_losses + before.n_unknown
    n_after = after.n_won + after.n_losses + after.n_unknown
    worst = difference_of_shares(after.n_won, n_after, before.n_won + before.n_unknown, n_before)
    best = difference_of_shares(after.n_won + after.n_unknown, n_after, before.n_won, n_before)
    return Interval(_rate(after) - _rate(before), worst.ci_low, best.ci_high, best.method)


def _share_json(share: Share | None) -> JsonObject | None:
    if share is None:
        return None
    return {"won": share.n_won, "lost": share.n_losses, "unknown": share.n_unknown}


def _share_text(share: Share | None) -> str:
    assert share is not None
    unknown = f", {share.n_unknown} unknown" if share.n_unknown else ""
    return f"{share.n_won:>3} of {share.n_won + share.n_losses} won{unknown}"
