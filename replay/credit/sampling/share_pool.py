"""The worker processes of a credit run: they stay for all its rounds, and for all its episodes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

from trajrec.corpus.refs import EpisodeRef
from trajrec.replay.credit.sampling.allowance import Allowance
from trajrec.replay.credit.sampling.request import SampleRequest
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.forks.batch import Controls
from trajrec.replay.forks.options import Backend, RestoreChoice
from trajrec.replay.processes.workers import WorkerDied, WorkerPool, thread_limits


class Share(NamedTuple):
    """The rollouts that one process runs in a round.

    Attributes:
        refs: The episode, and those that it was forked from.
        number: Number of the share in the run. Generators outside of the noise are copied to each
            process; there they are seeded anew from it.
        requests: The requests, with the scenarios of this share.
        restore: How steps are reached.
        merge_rollouts: Whether rollouts may be merged.
        allowance: The cost that the rollouts may have.
    """

    refs: tuple[EpisodeRef, ...]
    number: int
    requests: list[SampleRequest]
    restore: RestoreChoice
    merge_rollouts: bool
    allowance: Allowance


class ShareResult(NamedTuple):
    """What a process returns for a share.

    Attributes:
        rollouts: For each request its rollouts; None if the allowance was spent.
        restore: How steps were reached.
        is_determined: See `Sampler`.
        cost: The allowance with the cost of the rollouts.
        controls: The controls that held.
    """

    rollouts: list[list[Rollout]] | None
    restore: RestoreChoice
    is_determined: bool
    cost: Allowance
    controls: Controls


class SharePool:
    """Runs shares in other processes.

    Args:
        work: Runs one share; sent to each process once.
        jobs: The number of processes.
        backend: "local", or "ray" for tasks of a Ray cluster.
    """

    def __init__(self, work: Callable[[Share], ShareResult], jobs: int, backend: Backend) -> None:
        self._work = work
        self._jobs = jobs
        self._pool: WorkerPool[Share, ShareResult] | None = None
        if backend == "local":
            self._pool = WorkerPool(work, jobs, settings=thread_limits(jobs))

    def map(self, shares: Sequence[Share]) -> Generator[ShareResult | WorkerDied, None, None]:
        """Yield the results of one round, in order. Close it before the next round."""
        if self._pool is not None:
            yield from self._pool.map(shares)
            return
        from trajrec.replay.processes.ray import map_on_ray

        yield from map_on_ray(self._work, shares, self._jobs)

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.close()
