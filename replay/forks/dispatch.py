"""Run branches in other processes: start servers, share a job among them, collect the results."""

from __future__ import annotations

import os
import selectors
from collections.abc import Iterator, Sequence
from dataclasses import replace

from trajrec.errors import RecordedError
from trajrec.replay.forks.fork_job import BranchLost, BranchResult, ForkJob
from trajrec.replay.forks.fork_server import serve
from trajrec.replay.forks.options import Backend
from trajrec.replay.processes.child import ChildProcess
from trajrec.replay.processes.pickles import by_value
from trajrec.replay.processes.workers import WorkerDied
from trajrec.values import codec

TRIES = 2
"""Servers that may die while they run a branch: the second rules out an accident of the first."""


class _Server(ChildProcess):
    """A server process that runs one job."""

    def __init__(self, job: ForkJob) -> None:
        # A process that forks must have no other threads, and numerical libraries start some.
        # A caller who sets the variable has decided otherwise.
        super().__init__(
            "trajrec.replay.forks.fork_server:main",
            {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        )
        self.send(by_value(job))


def run_in_workers(
    job: ForkJob, *, n_servers: int, backend: Backend
) -> Iterator[BranchResult | BranchLost]:
    """Run the branches of a job; yield their results in the order of the branches.

    Args:
        job: The job.
        n_servers: Servers that share the job, step by step.
        backend: Where the servers run.
    """
    return run_job(job, n_servers) if backend == "local" else _run_on_ray(job, n_servers)


def run_job(job: ForkJob, n_servers: int) -> Iterator[BranchResult | BranchLost]:
    """Run a job in servers on this machine; yield its results in the order of the branches.

    The order of a log thus does not depend on the number of servers.
    """
    order = list(job.branches)
    # Results that came before the results of earlier branches.
    waiting: dict[tuple[int, int], BranchResult | BranchLost] = {}
    n_yielded = 0
    for result in _run_with_retry(job, n_servers):
        waiting[result.step, result.index] = result
        while n_yielded < len(order) and order[n_yielded] in waiting:
            yield waiting.pop(order[n_yielded])
            n_yielded += 1


def _run_on_ray(job: ForkJob, n_tasks: int) -> Iterator[BranchResult | BranchLost]:
    """Run a job as tasks of a Ray cluster; yield its results in the order of the branches."""
    from trajrec.replay.processes.ray import map_on_ray

    results: dict[tuple[int, int], BranchResult | BranchLost] = {}
    shares = _share(job, job.branches, n_tasks)
    for share, answer in zip(shares, map_on_ray(_serve_all, shares, n_tasks), strict=True):
        if isinstance(answer, WorkerDied):
            answer = [BranchLost(step, index, answer.why) for step, index in share.branches]
        results.update({(result.step, result.index): result for result in answer})
    yield from (results[branch] for branch in job.branches)


def _serve_all(job: ForkJob) -> list[BranchResult | BranchLost]:
    return list(serve(job))


def _run_with_retry(job: ForkJob, n_servers: int) -> Iterator[BranchResult | BranchLost]:
    """Yield the results of a job; branches of a server that died are run again."""
    unfinished = set(job.branches)
    for _ in range(TRIES):
        # In each round only the branches that have no result yet.
        for result in _run_servers(_share(job, sorted(unfinished), n_servers)):
            if isinstance(result, BaseException):
                raise _as_exception(result)
            unfinished.discard((result.step, result.index))
            yield result
        if not unfinished:
            return
    for step, index in sorted(unfinished):
        yield BranchLost(step, index, f"its server died {TRIES} times without a result")


def _as_exception(exc: BaseException) -> Exception:
    """Return an exception that does not end this process, as a SystemExit of a server would."""
    if isinstance(exc, Exception):
        return exc
    return RecordedError(
        codec.type_name(exc), f"raised in another process: {type(exc).__name__}: {exc}"
    )


def _share(job: ForkJob, branches: Sequence[tuple[int, int]], n_servers: int) -> list[ForkJob]:
    """Split a job by steps, so that each server reaches a step once."""
    steps = sorted({step for step, _ in branches})
    # Every n-th step, not a stretch of steps: late steps take longer to reach than early ones.
    shares = [set(steps[k::n_servers]) for k in range(min(n_servers, len(steps)))]
    return [
        replace(job, branches=tuple(branch for branch in branches if branch[0] in share))
        for share in shares
    ]


def _run_servers(jobs: list[ForkJob]) -> Iterator[BranchResult | BranchLost | BaseException]:
    """Yield the results of servers as they come; end the servers in any case."""
    servers: list[_Server] = []
    try:
        with selectors.DefaultSelector() as selector:
            for job in jobs:
                server = _Server(job)
                servers.append(server)
                selector.register(server.out, selectors.EVENT_READ, server)
            n_open = len(servers)
            while n_open:
                for key, _ in selector.select():
                    results, has_more = key.data.receive()
                    yield from results
                    if not has_more:
                        selector.unregister(key.fileobj)
                        n_open -= 1
    finally:
        for server in servers:
            server.close()


def check_portable(**values: object) -> None:
    """Check that values can be sent to another process, before a process is started.

    Raises:
        TypeError: A value cannot be pickled, even by cloudpickle.
    """
    for name, value in values.items():
        try:
            by_value(value)
        except Exception as exc:
            raise TypeError(
                f"{name} cannot be sent to another process ({exc}); "
                "take jobs=1 and restore='snapshot' or 'reexecute'"
            ) from exc
