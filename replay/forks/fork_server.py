"""The fork server: a process that walks an environment along an episode and forks a child at a step.

`trajrec.replay.forks.dispatch` starts the server, sends it a job and reads rows. The server has no
threads, so a forked child is complete. A child that crashes, hangs or exceeds its memory limit does
not affect the others. No child outlives the server, and the server does not outlive its caller: on
Linux the kernel ends them, and the caller ends their process group.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from trajrec.corpus.episode import Episode
from trajrec.envstate.snapshots import sandbox_of
from trajrec.errors import SnapshotError
from trajrec.replay.execute.environments import make_env
from trajrec.replay.execute.factories import env_from_factory
from trajrec.replay.execute.reach import EnvHandle, env_handle
from trajrec.replay.forks.branch import portable_error
from trajrec.replay.forks.options import RestoreChoice, RestoreMethod
from trajrec.replay.forks.walker import Walker
from trajrec.replay.processes.child import ChildChannel, die_with_parent
from trajrec.replay.processes.refs import EpisodeLoader, EpisodeRef

_LENGTH = 8
"""Bytes that say how many a child's result has."""

_LOOK_S = 0.1
"""How often children are looked at that say nothing: what one forked holds its pipe open when it has ended itself."""


class BranchResult(Protocol):
    """What came of one branch."""

    @property
    def step(self) -> int:
        """Where it began."""
        ...

    @property
    def index(self) -> int:
        """Which of those there."""
        ...


class BranchTask(Protocol):
    """What is done where a branch begins. Can be pickled, and so can what it returns."""

    def run(
        self,
        stage: EnvHandle,
        episode: Episode,
        step: int,
        index: int,
        observation: Any,
        restore: RestoreMethod,
    ) -> BranchResult:
        """Do it, on a stage that stands there."""
        ...


@dataclass(frozen=True)
class ForkJob:
    """What a server is to do.

    Attributes:
        lineage: The episode and those that it was forked from, the episode first.
        make: Makes the environment; None makes the one that the log names.
        allow: Module prefixes that may be imported because the log names them.
        state: The function that states were captured with; None takes an adapter.
        branches: (step, number) of each branch, in order.
        errand: What each does.
        restore: "os_fork" forks a child for each; any other runs them here.
        jobs: Children that may run at once.
        timeout_s: How long a child may take; None as long as it likes.
        memory_mb: What a child may use beyond what the server does; None without a limit.
    """

    refs_with_ancestors: tuple[EpisodeRef, ...]
    make: Callable[[], Any] | None
    allow: tuple[str, ...]
    state: Callable[[Any], Any] | None
    branches: tuple[tuple[int, int], ...]
    errand: BranchTask
    restore: RestoreChoice
    jobs: int
    timeout_s: float | None = None
    memory_mb: int | None = None


@dataclass(frozen=True)
class BranchLost:
    """A branch that did not come back, and why."""

    step: int
    index: int
    why: str


@dataclass
class Child:
    """A forked process that runs one branch."""

    step: int
    index: int
    process_id: int
    pipe: int
    deadline: float | None
    received: bytearray = field(default_factory=bytearray)

    @property
    def result(self) -> bytes | None:
        """What it wrote, where that is whole."""
        size = int.from_bytes(self.received[:_LENGTH], "little")
        return bytes(self.received[_LENGTH:]) if len(self.received) == _LENGTH + size else None

    def receive(self) -> bool:
        """Take what is in the pipe; say whether more may come."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.pipe, 1 << 20):
                self.received += data
            return False
        return True


def main() -> None:
    """Do a job that the caller sends, and send what comes of it."""
    caller = ChildChannel()
    job: ForkJob = pickle.loads(caller.receive() or b"")
    try:
        for found in serve(job):
            caller.send(found)
    except BaseException as exc:
        caller.send(portable_error(exc))


def serve(job: ForkJob) -> Iterator[BranchResult | BranchLost]:
    """Yield what each branch of a job did."""
    episode = EpisodeLoader().read(job.refs_with_ancestors)

    def make() -> EnvHandle:
        env = (
            env_from_factory(job.make, episode.header.env)
            if job.make is not None
            else make_env(episode.header.env, episode_id=episode.id, allow=job.allow)
        )
        return env_handle(env, episode, job.state)

    walker = Walker(episode, make, job.restore)
    if job.restore == "os_fork" and sandbox_of(walker.stage.env) is not None:
        walker.close()
        raise SnapshotError(
            "restore='os_fork' does not work for this environment: its state lies outside the process, "
            "so forked processes would share it"
        )
    children: list[Child] = []
    leaving: list[int] = []
    position = -1
    for step, index in job.branches:
        if job.restore != "os_fork":
            walker.go(step) if step != position else walker.go_back()
            position = step
            yield job.errand.run(
                walker.stage, episode, step, index, walker.observation, walker.restore_method
            )
            continue
        if step != position:
            walker.advance(step)
            position = step
            gc.collect()
            gc.freeze()  # a child's collector would write to, and so copy, every page
        while len(children) >= job.jobs:
            yield from _reap(children, leaving)
        children.append(_fork(job, walker, episode, step, index))
    while children:
        yield from _reap(children, leaving)
    for process_id in leaving:
        os.waitpid(process_id, 0)
    walker.close()


def _fork(job: ForkJob, walker: Walker, episode: Episode, step: int, index: int) -> Child:
    """Fork a child that runs a branch and writes it to a pipe."""
    read_end, write_end = os.pipe()
    process_id = os.fork()
    if process_id:
        os.close(write_end)
        os.set_blocking(read_end, False)
        deadline = None if job.timeout_s is None else time.monotonic() + job.timeout_s
        return Child(step, index, process_id, read_end, deadline)
    _run_child(job, walker, episode, step, index, write_end)


def _run_child(
    job: ForkJob, walker: Walker, episode: Episode, step: int, index: int, pipe: int
) -> NoReturn:
    status = 1
    try:
        die_with_parent()
        if job.memory_mb is not None:
            _limit_memory(job.memory_mb)
        _send(
            pipe, job.errand.run(walker.stage, episode, step, index, walker.observation, "os_fork")
        )
        status = 0
    except BaseException as exc:
        with contextlib.suppress(OSError):
            _send(pipe, BranchLost(step, index, f"{type(exc).__name__}: {exc}"))
        status = 0
    finally:
        os._exit(status)


def _send(pipe: int, found: BranchResult | BranchLost) -> None:
    data = pickle.dumps(found)
    data = len(data).to_bytes(_LENGTH, "little") + data
    while data:
        data = data[os.write(pipe, data[: 1 << 20]) :]


def _reap(children: list[Child], leaving: list[int]) -> Iterator[BranchResult | BranchLost]:
    """Wait until a child writes, ends or has taken too long; yield what those did that are done.

    One whose result is whole is not waited for: to take a process apart takes longer than most branches. Those are `leaving`.
    """
    deadlines = [child.deadline for child in children if child.deadline is not None]
    wait = _LOOK_S if not deadlines else max(0.0, min(_LOOK_S, min(deadlines) - time.monotonic()))
    ready, _, _ = select.select([child.pipe for child in children], [], [], wait)
    leaving[:] = [
        process_id for process_id in leaving if os.waitpid(process_id, os.WNOHANG)[0] == 0
    ]
    for child in list(children):
        # Before its pipe is read: all that it wrote is there then.
        ended, status = os.waitpid(child.process_id, os.WNOHANG)
        may_come = child.receive() if ended or child.pipe in ready else True
        result = child.result
        has_ended = bool(ended) or not may_come
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
        if not ended and result is not None:
            leaving.append(child.process_id)
        elif not ended:
            _, status = os.waitpid(child.process_id, 0)
        children.remove(child)
        os.close(child.pipe)
        yield pickle.loads(result) if result is not None else _lost(child, status, is_late)


def _lost(child: Child, status: int, is_late: bool) -> BranchLost:
    """Return why a child gave no result."""
    if is_late:
        why = "it took longer than it may and was ended"
    elif os.WIFSIGNALED(status):
        why = f"its process was ended by {signal.Signals(os.WTERMSIG(status)).name}"
    else:
        why = f"its process ended with status {os.waitstatus_to_exitcode(status)} and no result"
    return BranchLost(child.step, child.index, why)


def _limit_memory(megabytes: int) -> None:
    import resource

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20),) * 2)
