"""The budget of an experiment: tokens, money and time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from trajrec.replay.whatif.result import RunResult, total_of


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Ends an experiment before the next run, once one of the limits is reached.

    Attributes:
        tokens: Tokens of all live model calls.
        usd: Their price, which needs prices.
        seconds: Time since the budget was made.
    """

    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None
    _start: float = field(default_factory=time.monotonic)

    @property
    def needs_costs(self) -> bool:
        """Whether the tokens and prices of the runs must be known after each run."""
        return self.tokens is not None or self.usd is not None

    def why_over(self, runs: Sequence[RunResult]) -> str:
        """Return which limit is reached, "" if none is.

        A limit that cannot be watched, because a server counts no tokens or a price is missing,
        counts as reached.
        """
        if self.seconds is not None and time.monotonic() - self._start >= self.seconds:
            return f"the time of {self.seconds:g} s is over"
        tokens = total_of([run.n_tokens for run in runs])
        if self.tokens is not None and (tokens is None or tokens >= self.tokens):
            told = "the number of tokens is not known" if tokens is None else f"{tokens} tokens"
            return f"{told}, of a budget of {self.tokens}"
        cost = total_of([run.cost_usd for run in runs])
        if self.usd is not None and (cost is None or cost >= self.usd):
            told = "the price of a model call is not known" if cost is None else f"${cost:.2f}"
            return f"{told}, of a budget of ${self.usd:.2f}"
        return ""
