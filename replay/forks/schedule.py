"""Run the branches of one call of `fork_many`: in this process, in servers, or on Ray.

Controls and repeats run among them. If one fails, all branches are void: their log is deleted, and
they are run again with another way of reaching steps, if the caller left that open.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trajrec.corpus.episode import Episode
from trajrec.corpus.refs import refs_with_ancestors
from trajrec.errors import TrajrecError
from trajrec.replay.forks.batch import BranchBatch, Branches
from trajrec.replay.forks.branch import BranchPlan, BranchTrace, run_branch
from trajrec.replay.forks.branch_log import BranchLog
from trajrec.replay.forks.control import (
    ControlledTask,
    is_control,
    last_step_of,
    run_control,
    with_controls,
)
from trajrec.replay.forks.dispatch import check_portable, run_in_workers
from trajrec.replay.forks.env_source import EnvSource
from trajrec.replay.forks.fallback import with_fallback
from trajrec.replay.forks.fork_job import ForkJob
from trajrec.replay.forks.options import Backend, RestoreChoice, RestoreMethod
from trajrec.replay.forks.walker import Walker

BranchNumbers = tuple[tuple[int, int], ...]
"""(step, number) of some branches."""


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
        control: See `ForkOptions`.
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
    control: bool

    def run(self) -> Branches:
        """Run and record all branches; return them by step and number.

        Raises:
            ControlError: No way of reaching the steps is right for this environment.
        """
        return with_fallback(self, Schedule._run_recorded)

    def _run_recorded(self) -> Branches:
        with BranchLog(self.episode, self.folder, self.plan, control=self.control) as log:
            batch = BranchBatch(self.episode, log, self._branches(self.steps))
            try:
                return self._run(batch)
            except TrajrecError:
                log.discard()
                raise
            except BaseException:
                if not batch.branches:
                    log.discard()
                raise

    def _run(self, batch: BranchBatch) -> Branches:
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
            if restore != "os_fork" and self.jobs == 1 and self.backend == "local":
                if walker is None:
                    walker = Walker(self.episode, make_handle, restore)
                    stack.enter_context(contextlib.closing(walker))
                self._run_here(walker, self.steps, batch)
                self._repeat_here(batch, walker.restore_method)
                return batch.finish()
            check_portable(
                env=self.source.factory,
                state=self.source.state,
                policy=self.plan.policy,
                checks=self.plan.checks,
            )
            if walker is not None:
                self._run_here(walker, near_steps, batch)
                walker.close()
            rest = replace(
                self,
                steps=tuple(step for step in self.steps if step not in near_steps),
                restore=restore,
            )
            rest._run_elsewhere(batch)
            rest._repeat_elsewhere(batch)
            return batch.finish()

    def _check_ray(self) -> None:
        # A Ray worker has threads, and a fork copies only the thread that calls it.
        if self.timeout_s is not None or self.memory_mb is not None:
            raise ValueError(
                "timeout_s and memory_mb need forked processes, which Ray workers cannot be; "
                "take backend='local'"
            )

    def _branches(self, steps: Sequence[int]) -> BranchNumbers:
        return tuple((step, index) for step in steps for index in range(self.plan.n_branches))

    def _relative_length(self) -> float:
        """Return the expected steps of a branch, as a multiple of the steps of a control."""
        controls = [last_step_of(self.episode, step) - step for step in self.steps]
        length = max(1.0, sum(controls) / max(1, len(controls)))
        if self.plan.policy is None:
            return len(self.plan.actions) / length
        # With a policy, a branch is expected to be as long as the rest of the recorded episode.
        rests = [self.episode.end_step - step for step in self.steps]
        expected = sum(rests) / max(1, len(rests))
        if self.plan.max_steps is not None:
            expected = min(expected, self.plan.max_steps)
        return expected / length

    def _run_here(self, walker: Walker, steps: Sequence[int], batch: BranchBatch) -> None:
        branches = self._branches(steps)
        if self.control:
            branches = with_controls(branches, relative_length=self._relative_length())
        for point in walker.branch_points(branches):
            if is_control(point.index):
                batch.add(run_control(point), point.restore)
            else:
                batch.add(run_branch(point, self.plan), point.restore)

    def _run_elsewhere(self, batch: BranchBatch) -> None:
        # One server forks all children, `jobs` at a time; other servers run branches themselves.
        n_servers = 1 if self.restore == "os_fork" else self.jobs
        branches = self._branches(self.steps)
        if self.control:
            branches = with_controls(
                branches,
                n_servers,
                forks=self.restore == "os_fork",
                relative_length=self._relative_length(),
            )
        job = self._job(branches, self.plan, self.restore)
        lost_restore: RestoreMethod = "reexecute" if self.restore == "auto" else self.restore
        for result in run_in_workers(job, n_servers=n_servers, backend=self.backend):
            batch.add(result, lost_restore)

    def _job(self, branches: BranchNumbers, plan: BranchPlan, restore: RestoreChoice) -> ForkJob:
        return ForkJob(
            refs=refs_with_ancestors(self.episode),
            source=self.source,
            branches=branches,
            task=ControlledTask(plan),
            restore=restore,
            jobs=self.jobs,
            timeout_s=self.timeout_s,
            memory_mb=self.memory_mb,
        )

    def _repeat_here(self, batch: BranchBatch, restore: RestoreMethod) -> None:
        if not self.control:
            return
        make_handle = functools.partial(self.source.make_handle, self.episode)
        plan = replace(self.plan, checks=())
        # Another environment, which gets to the steps in another order.
        with contextlib.closing(Walker(self.episode, make_handle, "reexecute")) as walker:
            traces = (run_branch(point, plan) for point in walker.branch_points(batch.repeats.left))
            batch.repeats.check(traces, self.episode.id, restore)

    def _repeat_elsewhere(self, batch: BranchBatch) -> None:
        if not self.control or not batch.repeats.left:
            return
        # Only forked processes have limits of time and memory.
        is_limited = self.timeout_s is not None or self.memory_mb is not None
        restore: RestoreChoice = "os_fork" if is_limited else "reexecute"
        branches = tuple(sorted(batch.repeats.left))
        job = self._job(branches, replace(self.plan, checks=()), restore)
        results: Iterable[object] = run_in_workers(job, n_servers=1, backend=self.backend)
        traces = (result for result in results if isinstance(result, BranchTrace))
        batch.repeats.check(traces, self.episode.id, self.restore)
