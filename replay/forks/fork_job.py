"""The job of a fork server: the branches to run, the task at each, and the results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from trajrec.corpus.refs import EpisodeRef
from trajrec.replay.forks.branch import BranchPoint
from trajrec.replay.forks.env_source import EnvSource
from trajrec.replay.forks.options import RestoreChoice


class BranchResult(Protocol):
    """The result of the task at one branch."""

    @property
    def step(self) -> int:
        """The step at which the branch starts."""
        ...

    @property
    def index(self) -> int:
        """Number of the branch among those at its step."""
        ...


@dataclass(frozen=True)
class BranchLost:
    """A branch whose process gave no result.

    Attributes:
        step: The step at which the branch starts.
        index: Number of the branch among those at its step.
        reason: How the process ended.
    """

    step: int
    index: int
    reason: str


class BranchTask(Protocol):
    """The work at each branch. The task and its results must be picklable."""

    def run(self, point: BranchPoint) -> BranchResult:
        """Run the branch on the environment of the point."""
        ...


@dataclass(frozen=True, kw_only=True)
class ForkJob:
    """The branches of one episode that other processes run.

    Attributes:
        refs: The episode and the episodes from which it was forked, the episode first.
        source: Makes the environment.
        branches: (step, number) of each branch, ascending.
        task: The work at each branch.
        restore: "os_fork" forks a child process for each branch; with every other method the
            server process runs the branches itself.
        jobs: Children that may run at the same time.
        timeout_s: Seconds that a child may take; None for any time.
        memory_mb: Memory, in MiB, that a child may allocate beyond its server's; None for any.
    """

    refs: tuple[EpisodeRef, ...]
    source: EnvSource
    branches: tuple[tuple[int, int], ...]
    task: BranchTask
    restore: RestoreChoice
    jobs: int
    timeout_s: float | None = None
    memory_mb: int | None = None
