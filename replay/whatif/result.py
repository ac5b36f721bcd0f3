"""The result of a what-if experiment: two shares, their difference, and what they rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from trajrec.replay.whatif.plan import Arm
from trajrec.statistics.intervals import UNKNOWN, Interval, wilson
from trajrec.statistics.shares import difference_of_shares
from trajrec.types import FloatArray, JsonObject
from trajrec.values.shown import counted

RunStatus: TypeAlias = Literal["done", "stopped", "raised", "timeout"]
"""How a run ended; see `RunResult`."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One run.

    Attributes:
        arm: Its arm.
        number: Its number in the arm.
        status: "done"; "stopped", because it left the recording before the step or called a tool
            that must not run; "raised", because the agent's program did; "timeout", because it
            took too long and was killed.
        episode_id: The live part; "" if the run did not get there.
        reason: Why it stopped or raised.
        won: Whether it won; None if nothing says so.
        n_tokens: Tokens of its live model calls; None if a server did not say.
        cost_usd: Their price; None if it is not known.
        notes: Facts that a reader must know.
    """

    arm: Arm
    number: int
    status: RunStatus
    episode_id: str = ""
    reason: str = ""
    won: bool | None = None
    n_tokens: int | None = None
    cost_usd: float | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        """Return the run as plain data."""
        return {
            "arm": self.arm,
            "number": self.number,
            "status": self.status,
            "episode_id": self.episode_id or None,
            "reason": self.reason or None,
            "won": self.won,
            "tokens": self.n_tokens,
            "cost_usd": self.cost_usd,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Share:
    """The share of an arm's runs that won.

    Attributes:
        n_won: Runs that won.
        n_losses: Runs that lost.
        n_unknown: Runs without a verdict. The interval holds whichever way they went.
    """

    n_won: int
    n_losses: int
    n_unknown: int

    @property
    def interval(self) -> Interval:
        """The share with its 95 % interval."""
        if not self.n_won + self.n_losses:
            return UNKNOWN
        low = wilson(self.values(unknown=0.0)).ci_low
        high = wilson(self.values(unknown=1.0)).ci_high
        value = self.n_won / (self.n_won + self.n_losses)
        return Interval(value, low, high, "wilson")

    def values(self, *, unknown: float) -> FloatArray:
        """Return a one for each run that won and a zero for each that lost, shape (n,)."""
        counts = [self.n_won, self.n_losses, self.n_unknown]
        return np.repeat([1.0, 0.0, unknown], counts)


@dataclass(frozen=True, kw_only=True)
class WhatIfResult:
    """The result of an experiment.

    Attributes:
        experiment: Its id, by which its forks are found.
        episode_id: The recorded episode.
        at: The step.
        what: The tool and the change in words.
        success: Id of the check that decides; "" stands for the primary check of each run.
        runs: All runs, in the order in which they ran.
        refused: Why there is no number; "" if there is one.
        not_restored: What could not be put back, in words.
        was_stopped: Why it ended before all runs were made: a budget or Ctrl-C; "" if it did not.
        seconds: How long it took.
    """

    experiment: str
    episode_id: str
    at: int
    what: str
    success: str
    runs: Sequence[RunResult] = field(repr=False)
    refused: str = ""
    not_restored: tuple[str, ...] = ()
    was_stopped: str = ""
    seconds: float = 0.0

    def of(self, arm: Arm) -> list[RunResult]:
        """Return the runs of an arm."""
        return [run for run in self.runs if run.arm == arm]

    def share(self, arm: Arm) -> Share:
        """Return the share of an arm's runs that won."""
        runs = self.of(arm)
        n_won = sum(run.won is True for run in runs)
        n_losses = sum(run.won is False for run in runs)
        return Share(n_won, n_losses, len(runs) - n_won - n_losses)

    @property
    def unchanged(self) -> Share:
        """The runs without the change."""
        return self.share("unchanged")

    @property
    def changed(self) -> Share:
        """The runs with the change."""
        return self.share("changed")

    @property
    def difference(self) -> Interval:
        """The share of wins with the change minus that without, with its 95 % interval.

        Runs without a verdict widen it as far as they could; see
        `trajrec.statistics.shares.difference_of_shares`.
        """
        before = self.unchanged
        after = self.changed
        if self.refused or math.isnan(before.interval.value) or math.isnan(after.interval.value):
            return UNKNOWN
        n_after = after.n_won + after.n_losses + after.n_unknown
        n_before = before.n_won + before.n_losses + before.n_unknown
        worst = difference_of_shares(
            after.n_won, n_after, before.n_won + before.n_unknown, n_before
        )
        best = difference_of_shares(after.n_won + after.n_unknown, n_after, before.n_won, n_before)
        value = after.interval.value - before.interval.value
        return Interval(value, worst.ci_low, best.ci_high, best.method)

    @property
    def n_equal_controls(self) -> int:
        """How many controls did as recorded."""
        return sum(run.status == "done" for run in self.of("control"))

    @property
    def n_tokens(self) -> int | None:
        """The tokens of all live model calls; None if a server did not say."""
        tokens = total_of([run.n_tokens for run in self.runs])
        return None if tokens is None else int(tokens)

    @property
    def cost_usd(self) -> float | None:
        """The price of all live model calls; None if one is not known."""
        return total_of([run.cost_usd for run in self.runs])

    def to_json(self) -> JsonObject:
        """Return the result as plain data."""
        arms = {
            name: {
                "won": share.n_won,
                "lost": share.n_losses,
                "unknown": share.n_unknown,
                **_interval_json(UNKNOWN if self.refused else share.interval),
            }
            for name, share in (("unchanged", self.unchanged), ("changed", self.changed))
        }
        return {
            "experiment": self.experiment,
            "episode_id": self.episode_id,
            "at": self.at,
            "change": self.what,
            "success": self.success or None,
            **arms,
            "difference": _interval_json(self.difference),
            "controls": {"equal": self.n_equal_controls, "of": len(self.of("control"))},
            "refused": self.refused or None,
            "not_restored": list(self.not_restored),
            "stopped": self.was_stopped or None,
            "tokens": self.n_tokens,
            "cost_usd": self.cost_usd,
            "seconds": round(self.seconds, 3),
            "runs": [run.to_json() for run in self.runs],
        }

    def __str__(self) -> str:
        lines = [f"step {self.at}, {self.what}"]
        if self.refused:
            return "\n".join([*lines, *(f"  {line}" for line in self.refused.split("\n"))])
        lines += [_share_line("as recorded", self.unchanged), _share_line("changed", self.changed)]
        gain = self.difference
        if math.isnan(gain.value):
            lines.append("  difference   unknown: an arm has no run with a verdict")
        else:
            lines.append(
                f"  difference   {gain.value:+.2f} [{gain.ci_low:+.2f}, {gain.ci_high:+.2f}]   "
                f"{self._facts()}"
            )
        if self.was_stopped:
            lines.append(f"  ended early: {self.was_stopped}")
        for note in dict.fromkeys(note for run in self.runs for note in run.notes):
            lines.append(f"  note: {note}")
        lines += self._unknown_lines()
        return "\n".join(lines)

    def _facts(self) -> str:
        n_pairs = min(len(self.of("unchanged")), len(self.of("changed")))
        facts = [
            counted(n_pairs, "pair"),
            f"controls {self.n_equal_controls} of {len(self.of('control'))} equal",
            _cost_text(self.n_tokens, self.cost_usd),
            f"not restored: {', '.join(self.not_restored) or 'nothing'}",
        ]
        return "; ".join(facts)

    def _why_unknown(self) -> str:
        """Return why runs that ended may have no verdict."""
        if self.success:
            return f"the check {self.success!r} was not run, or could not tell"
        return "no check was run, or none could tell: name a check or a verifier as the success"

    def _unknown_lines(self) -> list[str]:
        reasons: dict[str, int] = {}
        for run in self.runs:
            if run.arm != "control" and run.won is None:
                reason = run.reason or self._why_unknown()
                reasons[reason] = reasons.get(reason, 0) + 1
        return [f"  {counted(n, 'run')} without a verdict: {why}" for why, n in reasons.items()]


def _share_line(name: str, share: Share) -> str:
    n = share.n_won + share.n_losses
    interval = share.interval
    text = "unknown" if math.isnan(interval.value) else f"{interval.value:.2f}"
    ends = f"[{max(0.0, interval.ci_low):.2f}, {min(1.0, interval.ci_high):.2f}]"
    return f"  {name:<11} {share.n_won:>3} of {n} won   {text} {ends}"


def _interval_json(interval: Interval) -> JsonObject:
    if math.isnan(interval.value):
        return {"value": None, "ci_low": None, "ci_high": None}
    return {"value": interval.value, "ci_low": interval.ci_low, "ci_high": interval.ci_high}


def _cost_text(n_tokens: int | None, cost_usd: float | None) -> str:
    if n_tokens is None:
        return "tokens unknown"
    amount = f"{n_tokens} tokens" if n_tokens < 10_000 else f"{n_tokens / 1000:.0f} k tokens"
    return f"{amount}, ${cost_usd:.2f}" if cost_usd is not None else f"{amount}, price unknown"


def total_of(values: Sequence[float | None]) -> float | None:
    """Return a sum; None if a value is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
