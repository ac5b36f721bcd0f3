"""The runs of an experiment: controls and both arms, in turn or together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from trajrec.corpus.attempts import Attempt
from trajrec.corpus.episode import Episode
from trajrec.corpus.prices import Prices
from trajrec.replay.whatif.budget import Budget
from trajrec.replay.whatif.plan import ARMS, Plan
from trajrec.replay.whatif.result import RunResult, WhatIfResult
from trajrec.replay.whatif.verdicts import Verdicts

RunOne: TypeAlias = Callable[[Plan], RunResult]
"""Makes one run."""

N_CONTROLS = 2


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The runs to make.

    Attributes:
        episode: The recorded episode.
        attempt: The recorded call that is changed; None if none is.
        plan: The plan of the first run; the others differ in arm and number.
        n: Runs of each arm.
        n_controls: Controls: half of them run first, the others last.
        not_restored: What cannot be put back.
        budget: Ends the experiment early.
        prices: Prices of models.
        folder: The corpus that records the runs.
        progress: Called with (runs made, runs to make).
        jobs: Runs that are made at the same time.
        stop: Stops the runs that are made at the moment, if somebody interrupts them.
    """

    episode: Episode
    attempt: Attempt | None
    plan: Plan
    n: int
    n_controls: int
    not_restored: tuple[str, ...]
    budget: Budget
    prices: Prices | None
    folder: Path
    progress: Callable[[int, int], object]
    jobs: int = 1
    stop: Callable[[], object] = lambda: None

    @property
    def what(self) -> str:
        """The tool and the change in words."""
        change = self.plan.change
        if self.attempt is None:
            return change.describe(None)
        return f"{self.attempt.tool} {change.describe(self.attempt.arguments)}"

    def run(self, run_one: RunOne) -> WhatIfResult:
        """Make all runs, and return the result.

        Args:
            run_one: Makes one run.
        """
        start = time.monotonic()
        runs: list[RunResult] = []
        refused = was_stopped = ""
        verdicts = Verdicts(self.folder, self.prices, self.plan.success, self.plan.experiment)
        plans = list(self._plans())
        for batch in self._batches(plans):
            if self.budget.needs_costs:
                runs = verdicts.add_to(runs)
            was_stopped = self.budget.why_over(runs)
            if was_stopped:
                break
            try:
                for done in self._run_together(run_one, batch):
                    runs.append(done)
                    self.progress(len(runs), len(plans))
            except KeyboardInterrupt:
                was_stopped = "interrupted"
                break
            refused = self._why_refused(runs)
            if refused:
                break
        # At once: to look into a log that grows takes longer than a run of a small agent.
        runs = verdicts.add_to(runs)
        verdicts.label(runs)
        refused = refused or self._why_doubtful(runs)
        return WhatIfResult(
            experiment=self.plan.experiment,
            episode_id=self.episode.id,
            at=self.plan.at,
            what=self.what,
            success=self.plan.success,
            runs=tuple(runs),
            refused=refused,
            not_restored=self.not_restored,
            was_stopped=was_stopped,
            seconds=time.monotonic() - start,
        )

    def _batches(self, plans: list[Plan]) -> Iterator[list[Plan]]:
        """Yield the runs that are made at the same time: the first control is made alone."""
        yield plans[:1]
        for start in range(1, len(plans), self.jobs):
            yield plans[start : start + self.jobs]

    def _run_together(self, run_one: RunOne, batch: list[Plan]) -> Iterator[RunResult]:
        """Yield the results of some runs, in their order."""
        if len(batch) == 1:
            yield run_one(batch[0])
            return
        with ThreadPoolExecutor(len(batch)) as pool:
            try:
                yield from pool.map(run_one, batch)
            except BaseException:
                # The pool waits for its threads.
                self.stop()
                raise

    def _why_refused(self, runs: list[RunResult]) -> str:
        """Return why there can be no number, "" if there can."""
        failed = [run for run in runs if run.arm == "control" and run.status != "done"]
        if failed and failed[0].status == "timeout":
            return f"no number: a control did not end\n{failed[0].reason}"
        if failed and not failed[0].episode_id:
            return f"no number: no run comes to step {self.plan.at}\n{failed[0].reason}"
        if failed:
            return (
                "no number: a control differs from the recording, so the state was not put back, "
                f"or a tool does not do the same twice\n{failed[0].reason}"
            )
        first = [run for run in runs if run.arm != "control"][:2]
        if len(first) == 2 and all(r.status == "stopped" and not r.episode_id for r in first):
            return f"no run came to step {self.plan.at}: {first[1].reason}"
        return ""

    def _why_doubtful(self, runs: list[RunResult]) -> str:
        """Return why the verdicts mean nothing, "" if they do.

        The controls end as the recording did. If a check tells them apart, it reads a state that
        an earlier run has left, and so did those of the other runs.
        """
        name, _, version = self.plan.success.partition("@")
        verdicts = {run.won for run in runs if run.arm == "control" and run.status == "done"}
        verdicts |= {
            check.verdict
            for check in self.episode.checks
            if name and check.check_id == name and version in ("", check.version)
        }
        if len(verdicts - {None}) < 2:
            return ""
        return (
            f"no number: {f'the check {name!r}' if name else 'the primary check'} tells the "
            "controls from the recording or from each other, though they did the same: it judges "
            "a state that was not put back, or not the same twice"
        )

    def _plans(self) -> Iterator[Plan]:
        """Yield the runs: a control first, the arms in turn, the other controls last."""
        n_first = (self.n_controls + 1) // 2
        for number in range(n_first):
            yield replace(self.plan, arm="control", number=number)
        for number in range(self.n):
            # In turn, so that a drift of the server's meets both arms.
            for arm in ARMS if number % 2 == 0 else reversed(ARMS):
                yield replace(self.plan, arm=arm, number=number)
        for number in range(n_first, self.n_controls):
            yield replace(self.plan, arm="control", number=number)
