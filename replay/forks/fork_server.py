"""The fork server: a process that walks an environment along an episode and forks children.

`trajrec.replay.forks.dispatch` starts the server, sends it a job and reads results. The server has
no threads, so a forked child is complete. A child that crashes, hangs or exceeds its memory limit
does not affect the others. No child outlives the server, and the server does not outlive its
caller: on Linux the kernel ends them, and the caller ends their process group.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import pickle
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NoReturn

from trajrec.corpus.refs import EpisodeLoader
from trajrec.envstate.outer_variables import OuterSearch
from trajrec.envstate.pettingzoo import layers
from trajrec.envstate.snapshots import sandbox_of
from trajrec.errors import ControlError, SnapshotError
from trajrec.replay.forks.branch import portable_error
from trajrec.replay.forks.control import CLOSING, is_control
from trajrec.replay.forks.fork_job import BranchLost, BranchResult, ForkJob
from trajrec.replay.forks.outside import Holdings, shared_since, threads_here
from trajrec.replay.forks.walker import Walker
from trajrec.replay.processes.child import (
    ChildChannel,
    die_with_parent,
    dumps,
    end_if_orphan,
    readable,
)

_LENGTH_BYTES = 8
"""Size of the length that precedes a child's pickled result."""

_WRITE_BYTES = 1 << 20
"""Most bytes that one call reads from a pipe or writes to it."""

CONTROL_TIMEOUT_S = 60.0
"""Seconds that a control of at most 200 steps may take."""

_POLL_S = 0.1
"""Seconds between two looks at silent children: a process that the environment of a child started
keeps the child's pipe open, so the pipe alone does not show that the child has ended."""


@dataclass
class _ForkedChild:
    """A forked process that runs one branch and writes its result to a pipe."""

    step: int
    index: int
    process_id: int
    pipe: int
    deadline: float | None
    received: bytearray = field(default_factory=bytearray)

    def read(self) -> bool:
        """Read the data in the pipe; return whether more may come."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.pipe, _WRITE_BYTES):
                self.received += data
            return False
        return True

    @property
    def result(self) -> bytes | None:
        """The pickled result; None until all of it was read."""
        size = int.from_bytes(self.received[:_LENGTH_BYTES], "little")
        if len(self.received) != _LENGTH_BYTES + size:
            return None
        return bytes(self.received[_LENGTH_BYTES:])

    def lost(self, status: int, *, is_late: bool) -> BranchLost:
        """Return the reason why there is no result.

        Args:
            status: The status of the ended process, as `os.waitpid` returns it.
            is_late: Whether the process was ended because it took too long.
        """
        if is_late:
            reason = "it took longer than timeout_s and was ended"
        elif os.WIFSIGNALED(status):
            reason = f"its process was ended by {signal.Signals(os.WTERMSIG(status)).name}"
        else:
            code = os.waitstatus_to_exitcode(status)
            reason = f"its process ended with status {code} and no result"
        return BranchLost(self.step, self.index, reason)


def main() -> None:
    """Run the job that the caller sends, and send back its results."""
    channel = ChildChannel()
    job: ForkJob = pickle.loads(channel.receive() or b"")
    try:
        for result in serve(job):
            channel.send(result)
    except BaseException as exc:
        channel.send(portable_error(exc))


def serve(job: ForkJob) -> Iterator[BranchResult | BranchLost]:
    """Yield the result of each branch of a job, in any order."""
    episode = EpisodeLoader().read(job.refs)
    make_handle = functools.partial(job.source.make_handle, episode)
    before = Holdings.present()
    with contextlib.closing(Walker(episode, make_handle, job.restore)) as walker:
        if job.restore == "os_fork":
            yield from _serve_forked(job, walker, before)
        else:
            for point in walker.branch_points(job.branches):
                yield job.task.run(point)


def _serve_forked(
    job: ForkJob, walker: Walker, before: Holdings
) -> Iterator[BranchResult | BranchLost]:
    if sandbox_of(walker.handle.env) is not None:
        raise SnapshotError(
            "restore='os_fork' does not work for this environment: its state lies outside the "
            "process, so forked processes would share it"
        )
    children: list[_ForkedChild] = []
    reaped_later: list[int] = []
    last_step = -1
    for step, index in job.branches:
        if step != last_step:
            walker.advance(step)
            last_step = step
            _check_shared(job, step, before, children, reaped_later)
            # Each child searches for variables outside: it finds the names in code known already.
            OuterSearch(layers(walker.handle.env))
            # The garbage collector of a child would write to every object, and so copy every page.
            gc.collect()
            gc.freeze()
            _check_threads(job, step)
        # The last control of a step sees what all other branches have left behind.
        while len(children) >= (1 if index >= CLOSING else job.jobs):
            yield from _reap(children, reaped_later)
        children.append(_fork(job, walker, index))
        # The first controls run alone: if they fail, no branch begins.
        while children and index < 0:
            yield from _reap(children, reaped_later)
    while children:
        yield from _reap(children, reaped_later)
    for process_id in reaped_later:
        os.waitpid(process_id, 0)


def _check_threads(job: ForkJob, step: int) -> None:
    """Check that the environment has no threads, which a forked process would lack.

    Raises:
        ControlError: It has some.
    """
    if names := threads_here():
        raise ControlError(
            f"restore='os_fork' is not right for this environment: it runs threads ({names}), "
            "which a forked process does not have",
            episode_id=job.refs[0].id,
            restore="os_fork",
            start=step,
        )


def _check_shared(
    job: ForkJob,
    step: int,
    before: Holdings,
    children: list[_ForkedChild],
    reaped_later: list[int],
) -> None:
    """Check that the environment has nothing that forked processes would share.

    Raises:
        ControlError: It has a child process, a connection, shared memory or an open file.
    """
    # The children of this server are no ties of the environment.
    own_ids = [child.process_id for child in children] + reaped_later
    own = before.with_children(own_ids, [child.pipe for child in children])
    if shared := shared_since(own):
        raise ControlError(
            f"restore='os_fork' is not right for this environment: {shared}, which forked "
            "processes would share",
            episode_id=job.refs[0].id,
            restore="os_fork",
            start=step,
        )


def _fork(job: ForkJob, walker: Walker, index: int) -> _ForkedChild:
    read_end, write_end = os.pipe()
    drawn = random.getstate()
    server_id = os.getpid()
    process_id = os.fork()
    if not process_id:
        # First of all: from here on no child can outlive the server.
        die_with_parent()
        end_if_orphan(server_id)
        # Python seeds `random` anew in a forked process; an environment may have seeded it.
        random.setstate(drawn)
        _run_child(job, walker, index, write_end)
    os.close(write_end)
    # Non-blocking, because a child may pause in the middle of a large result.
    os.set_blocking(read_end, False)
    return _ForkedChild(
        step=walker.step,
        index=index,
        process_id=process_id,
        pipe=read_end,
        deadline=_deadline(job, index),
    )


def _deadline(job: ForkJob, index: int) -> float | None:
    """Return the time at which a child is ended; None if it may take any time."""
    timeout_s = job.timeout_s
    if timeout_s is None and is_control(index):
        # A forked process lacks the threads of its environment, and may wait for them for ever.
        timeout_s = CONTROL_TIMEOUT_S
    return None if timeout_s is None else time.monotonic() + timeout_s


def _run_child(job: ForkJob, walker: Walker, index: int, pipe: int) -> NoReturn:
    status = 1
    try:
        if job.memory_mb is not None:
            _limit_memory(job.memory_mb)
        _send(pipe, job.task.run(replace(walker.branch_point(index), restore="os_fork")))
        status = 0
    except BaseException as exc:
        with contextlib.suppress(OSError):
            _send(pipe, BranchLost(walker.step, index, f"{type(exc).__name__}: {exc}"))
        status = 0
    finally:
        # Not sys.exit: the exit handlers and buffers belong to the server.
        os._exit(status)


def _send(pipe: int, result: BranchResult | BranchLost) -> None:
    data = dumps(result)
    data = len(data).to_bytes(_LENGTH_BYTES, "little") + data
    while data:
        data = data[os.write(pipe, data[:_WRITE_BYTES]) :]


def _reap(
    children: list[_ForkedChild], reaped_later: list[int]
) -> Iterator[BranchResult | BranchLost]:
    """Wait until a child writes, ends or exceeds its time; yield the results of finished children.

    A child whose result is complete is not waited for, because the end of a process takes longer
    than most branches; its id moves to `reaped_later`.
    """
    deadlines = [child.deadline for child in children if child.deadline is not None]
    wait_s = _POLL_S
    if deadlines:
        wait_s = max(0.0, min(_POLL_S, min(deadlines) - time.monotonic()))
    ready = readable([child.pipe for child in children], wait_s)
    reaped_later[:] = [
        process_id for process_id in reaped_later if os.waitpid(process_id, os.WNOHANG)[0] == 0
    ]
    for child in list(children):
        # Before the pipe is read: if the child has ended, the pipe then has all that it wrote.
        ended_id, status = os.waitpid(child.process_id, os.WNOHANG)
        may_write = child.read() if ended_id or child.pipe in ready else True
        result = child.result
        has_ended = bool(ended_id) or not may_write
        is_late = (
            child.deadline is not None
            and time.monotonic() > child.deadline
            and result is None
            and not has_ended
        )
        if is_late:
            os.kill(child.process_id, signal.SIGKILL)
        if result is None and not has_ended and not is_late:
            continue
        if not ended_id and result is not None:
            reaped_later.append(child.process_id)
        elif not ended_id:
            _, status = os.waitpid(child.process_id, 0)
        children.remove(child)
        os.close(child.pipe)
        if result is None:
            yield child.lost(status, is_late=is_late)
        else:
            yield pickle.loads(result)


def _limit_memory(megabytes: int) -> None:
    import resource

    # The first field of statm is the size of the address space, in pages.
    with open("/proc/self/statm") as file:
        used_bytes = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limit = used_bytes + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
