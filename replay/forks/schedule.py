"""Run the branches of one call of `fork_many`: in this process, in servers, or on Ray."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trajrec.corpus.episode import Episode
from trajrec.corpus.refs import refs_with_ancestors
from trajrec.replay.forks.branch import Branch, BranchPlan, run_branch
from trajrec.replay.forks.branch_log import BranchLog
from trajrec.replay.forks.dispatch import check_portable, run_in_workers
from trajrec.replay.forks.env_source import EnvSource
from trajrec.replay.forks.fork_job import ForkJob
from trajrec.replay.forks.options import Backend, RestoreChoice
from trajrec.replay.forks.walker import Walker


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The branches of one call and the way to run them.

    Attributes:
        episode: The episode that is forked.
        steps: The steps at which branches start, ascending.
        plan: The options of the branches.
        source: Makes the environment.
        restore: See `fork_many`.
        jobs: See `fork_many`.
        backend: See `fork_many`.
        timeout_s: See `fork_many`.
        memory_mb: See `fork_many`.
        folder: Folder of the branches' log; None records nothing.
    """

    episode: Episode
    steps: tuple[int, ...]
    plan: BranchPlan
    source: EnvSource
    restore: RestoreChoice
    jobs: int
    backend: Backend
    timeout_s: float | None
    memory_mb: int | None
    folder: Path | None

    def run(self) -> list[Branch]:
        """Run and record all branches; return them by step and number."""
        make_handle = functools.partial(self.source.make_handle, self.episode)
        with contextlib.ExitStack() as stack:
            walker: Walker | None = None
            near_steps: tuple[int, ...] = ()
            restore = self.restore
            if restore == "auto":
                walker = Walker(self.episode, make_handle, "auto")
                stack.enter_context(contextlib.closing(walker))
                cheapest, near_steps = walker.plan_restores(
                    list(self.steps), n_branches=self.plan.n_branches, jobs=self.jobs
                )
                # A snapshot that works at the first step can fail at a later one, and only "auto"
                # then re-executes the steps instead of raising.
                restore = cheapest if cheapest in ("reexecute", "os_fork") else "auto"
            if self.backend == "ray" and restore == "os_fork":
                self._check_ray()
                restore = "reexecute"
                near_steps = ()
            log = stack.enter_context(BranchLog(self.episode, self.folder, self.plan))
            if restore != "os_fork" and self.jobs == 1 and self.backend == "local":
                if walker is None:
                    walker = Walker(self.episode, make_handle, restore)
                    stack.enter_context(contextlib.closing(walker))
                return self._run_here(walker, self.steps, log)
            check_portable(
                env=self.source.factory,
                state=self.source.state,
                policy=self.plan.policy,
                checks=self.plan.checks,
            )
            branches: list[Branch] = []
            if walker is not None:
                branches = self._run_here(walker, near_steps, log)
                walker.close()
            rest = replace(
                self,
                steps=tuple(step for step in self.steps if step not in near_steps),
                restore=restore,
            )
            return branches + rest._run_elsewhere(log)

    def _check_ray(self) -> None:
        # A Ray worker has threads, and a fork copies only the thread that calls it.
        if self.timeout_s is not None or self.memory_mb is not None:
            raise ValueError(
                "timeout_s and memory_mb need forked processes, which Ray workers cannot be; "
                "take backend='local'"
            )

    def _branches(self, steps: Sequence[int]) -> tuple[tuple[int, int], ...]:
        return tuple((step, index) for step in steps for index in range(self.plan.n_branches))

    def _run_here(self, walker: Walker, steps: Sequence[int], log: BranchLog) -> list[Branch]:
        return [
            log.add(run_branch(point, self.plan))
            for point in walker.branch_points(self._branches(steps))
        ]

    def _run_elsewhere(self, log: BranchLog) -> list[Branch]:
        job = ForkJob(
            refs=refs_with_ancestors(self.episode),
            source=self.source,
            branches=self._branches(self.steps),
            task=self.plan,
            restore=self.restore,
            jobs=self.jobs,
            timeout_s=self.timeout_s,
            memory_mb=self.memory_mb,
        )
        # One server forks all children, `jobs` at a time; other servers run branches themselves.
        n_servers = 1 if self.restore == "os_fork" else self.jobs
        return run_in_workers(job, n_servers=n_servers, log=log, backend=self.backend)
