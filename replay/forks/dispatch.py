"""Runs branches in other processes: servers that walk to the steps, and fork there where the environment cannot be put back."""

from __future__ import annotations

import os
import selectors
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import cloudpickle

from trajrec.errors import RecordedError
from trajrec.replay.forks.branch import Branch, BranchLog, BranchTrace
from trajrec.replay.forks.fork_server import BranchLost, BranchResult, ForkJob, serve
from trajrec.replay.forks.options import Backend
from trajrec.replay.processes.child import ChildProcess
from trajrec.replay.processes.workers import WorkerDied
from trajrec.values import codec

TRIES = 2


class Server(ChildProcess):
    """A server process with its job.

    Args:
        job: What it is to do.
    """

    def __init__(self, job: ForkJob) -> None:
        # One thread, where the caller says nothing: a process that forks must have no other.
        super().__init__(
            "trajrec.replay.forks.fork_server:main",
            {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        )
        self.send(cloudpickle.dumps(job))


def run_in_workers(
    job: ForkJob, servers: int, log: BranchLog, backend: Backend = "local"
) -> list[Branch]:
    """Run a job's branches in servers and record them, in the order of steps and numbers.

    Args:
        job: The whole job.
        servers: How many servers share it, step by step.
        log: Where branches are recorded.
        backend: Where servers run.
    """
    done = []
    for found in results(job, servers) if backend == "local" else _on_ray(job, servers):
        if isinstance(found, BranchLost):
            restore: Any = (
                "os_fork"
                if job.restore == "os_fork"
                else "reexecute"
                if job.restore == "auto"
                else job.restore
            )
            done.append(log.failed(found.step, found.index, restore, found.why))
        else:
            assert isinstance(found, BranchTrace)
            done.append(log.add(found))
    return done


def results(job: ForkJob, servers: int) -> Iterator[BranchResult | BranchLost]:
    """Yield what came of a job's branches, in the order of steps and numbers: whichever came first, so that nothing depends on
    how many processes there were."""
    wanted = list(job.branches)
    waiting: dict[tuple[int, int], BranchResult | BranchLost] = {}
    n_done = 0
    for found in _gather(job, servers):
        waiting[found.step, found.index] = found
        while n_done < len(wanted) and wanted[n_done] in waiting:
            yield waiting.pop(wanted[n_done])
            n_done += 1


def _on_ray(job: ForkJob, tasks: int) -> Iterator[BranchResult | BranchLost]:
    """Yield what came of a job's branches, in order, as tasks of a Ray cluster."""
    from trajrec.replay.processes.ray import map_on_ray

    found: dict[tuple[int, int], BranchResult | BranchLost] = {}
    shares = _share(job, job.branches, tasks)
    for share, answer in zip(shares, map_on_ray(_serve_all, shares, tasks), strict=True):
        came = (
            [BranchLost(*place, answer.why) for place in share.branches]
            if isinstance(answer, WorkerDied)
            else answer
        )
        found.update({(done.step, done.index): done for done in came})
    yield from (found[place] for place in job.branches)


def _serve_all(job: ForkJob) -> list[BranchResult | BranchLost]:
    return list(serve(job))


def _gather(job: ForkJob, servers: int) -> Iterator[BranchResult | BranchLost]:
    """Yield what comes of a job; what a server left undone when it died is tried once more."""
    left = set(job.branches)
    for _ in range(TRIES):
        for found in _run(_share(job, sorted(left), servers)):
            if isinstance(found, BaseException):
                raise _raisable(found)
            left.discard((found.step, found.index))
            yield found
        if not left:
            return
    for step, index in sorted(left):
        yield BranchLost(step, index, f"its server died {TRIES} times; nothing came back")


def _raisable(exc: BaseException) -> Exception:
    """Return what a server raised, or what says so where that would end this process."""
    if isinstance(exc, Exception):
        return exc
    return RecordedError(
        codec.type_name(exc), f"raised in another process: {type(exc).__name__}: {exc}"
    )


def _share(job: ForkJob, branches: Sequence[tuple[int, int]], servers: int) -> list[ForkJob]:
    steps = sorted({step for step, _ in branches})
    shares = [set(steps[k::servers]) for k in range(min(servers, len(steps)))]
    return [replace(job, branches=tuple(b for b in branches if b[0] in share)) for share in shares]


def _run(jobs: list[ForkJob]) -> Iterator[BranchResult | BranchLost | BaseException]:
    """Yield what servers send; end them whatever happens."""
    running: list[Server] = []
    try:
        with selectors.DefaultSelector() as selector:
            for job in jobs:
                running.append(Server(job))
                selector.register(running[-1].out, selectors.EVENT_READ, running[-1])
            open_ = len(running)
            while open_:
                for key, _ in selector.select():
                    found, has_more = key.data.receive()
                    yield from found
                    if not has_more:
                        selector.unregister(key.fileobj)
                        open_ -= 1
    finally:
        for server in running:
            server.close()


def check_portable(**values: object) -> None:
    """Check that values can be sent to another process, before a process is started.

    Raises:
        TypeError: A value cannot be pickled, even by cloudpickle.
    """
    for name, value in values.items():
        try:
            cloudpickle.dumps(value)
        except Exception as exc:
            raise TypeError(
                f"{name} cannot be sent to another process ({exc}); "
                "take jobs=1 and restore='snapshot' or 'reexecute'"
            ) from exc
