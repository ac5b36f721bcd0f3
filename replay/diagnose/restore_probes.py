"""Probe the ways to restore a state: each restored environment must continue as the original did."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import statistics
import time
from collections.abc import Callable

from trajrec.envstate.snapshots import Snapshots, sandbox_of
from trajrec.errors import SnapshotError
from trajrec.replay.diagnose.determinism_report import RestoreReport
from trajrec.replay.diagnose.rollouts import (
    RowDifference,
    first_row_difference,
    rollout,
    take_steps,
)
from trajrec.replay.forks.outside import threads_here
from trajrec.replay.forks.restore import can_fork
from trajrec.replay.processes.child import SubprocessError, call_in_subprocess
from trajrec.types import AnyEnv

# A snapshot is taken after each of these numbers of steps: soon after a reset, and within later
# episodes of short-lived environments.
SNAPSHOT_STEPS = (7, 36, 65)

# Each snapshot is restored twice: the first continuation may spoil what a snapshot shares with the
# environment.
RESTORES = 2

# Steps that a continuation is compared for, across resets without a seed.
CONTINUED_STEPS = 200

# A forked process lacks the threads of its environment, also those that nobody sees, and may wait
# for them for ever.
FORK_TIMEOUT_S = 60

# The number of steps before a process is forked, and of forks that are timed.
FORK_STEP = 36
TIMED_FORKS = 5


def probe_restore(
    env: AnyEnv, factory: Callable[[], AnyEnv], seed: int, n_steps: int
) -> dict[str, RestoreReport]:
    """Probe each way to restore a state of an environment that takes a snapshot or forks.

    Args:
        env: The environment.
        factory: Makes another one, which is forked with a process of its own.
        seed: The seed of the first episode and of its actions.
        n_steps: The number of steps to compare, at most `CONTINUED_STEPS`.
    """
    n_steps = min(n_steps, CONTINUED_STEPS)
    reports: dict[str, RestoreReport] = {}
    is_outside = sandbox_of(env) is not None
    try:
        reports |= _probe_snapshots(env, Snapshots(env), seed, n_steps)
    except SnapshotError as exc:
        names = ("env_snapshot",) if is_outside else ("snapshot", "pickle")
        reports |= {name: RestoreReport(False, str(exc)) for name in names}
    if is_outside:
        reports["os_fork"] = RestoreReport(
            False, "its state lies outside of the process: a forked process would share it"
        )
    else:
        reports["os_fork"] = _probe_process(factory, seed, n_steps)
    return reports


def _probe_snapshots(
    env: AnyEnv, snapshots: Snapshots, seed: int, n_steps: int
) -> dict[str, RestoreReport]:
    names = ("snapshot", "pickle") if snapshots.sandbox is None else ("env_snapshot",)
    method = "snapshot"
    takes_s = []
    restores_s = []
    for number, n_before in enumerate(SNAPSHOT_STEPS):
        env.action_space.seed(seed + number)
        env.reset(seed=seed + number)
        take_steps(env, n_before)
        start = time.perf_counter()
        snapshot = snapshots.take()
        takes_s.append(time.perf_counter() - start)
        method = snapshot.restore_method
        attributes = snapshot.outer.attribute_digests(env)
        continued = take_steps(env, n_steps)
        for _ in range(RESTORES):
            start = time.perf_counter()
            snapshots.restore(snapshot)
            restores_s.append(time.perf_counter() - start)
            if lost := snapshot.outer.lost(attributes, env):
                why = f"restored after {n_before} steps, the attribute {lost} is not as it was"
                return {name: RestoreReport(False, why) for name in names}
            difference = first_row_difference(continued, take_steps(env, n_steps))
            if difference is not None:
                why = f"restored after {n_before} steps, {_continued_otherwise(difference)}"
                return {name: RestoreReport(False, why) for name in names}
        snapshots.drop(snapshot)
    granted = RestoreReport(
        is_granted=True,
        take_us=statistics.median(takes_s) * 1e6,
        restore_us=statistics.median(restores_s) * 1e6,
    )
    if method == "env_snapshot":
        return {"env_snapshot": granted}
    if method == "snapshot":
        return {
            "snapshot": granted,
            "pickle": RestoreReport(False, "not needed: nothing in it has to be pickled"),
        }
    return {
        "snapshot": RestoreReport(False, "it holds objects of classes, which are pickled"),
        "pickle": granted,
    }


def _probe_process(factory: Callable[[], AnyEnv], seed: int, n_steps: int) -> RestoreReport:
    """Fork a process with the environment: the child must continue as the parent does."""
    if not can_fork():
        return RestoreReport(False, "processes are not forked on this system")
    try:
        # In a process of its own, which is lean: a fork copies the page tables of its parent.
        names, fork_s, difference = call_in_subprocess(
            _fork, factory, n_steps, seed, FORK_TIMEOUT_S
        )
    except SubprocessError as exc:
        return RestoreReport(False, str(exc))
    if names:
        return RestoreReport(
            False, f"it runs threads ({names}), which a forked process does not have"
        )
    if difference is not None:
        return RestoreReport(False, f"forked, {_continued_otherwise(difference)}")
    return RestoreReport(True, take_us=fork_s * 1e6)


def _continued_otherwise(difference: RowDifference) -> str:
    return (
        f"it continued differently: {difference.step + 1} steps later, {difference.field} differs"
    )


def _fork(
    factory: Callable[[], AnyEnv], n_steps: int, seed: int, timeout_s: int
) -> tuple[str, float, RowDifference | None]:
    """Fork in the middle of a rollout.

    Returns:
        The threads that a child would lack, the median duration of a fork, in seconds, and the
        first difference of the child. Nothing is forked if there are such threads.

    Raises:
        RuntimeError: The child ended without a result, or took too long.
    """
    env = factory()
    rollout(env, FORK_STEP, seed)
    if names := threads_here():
        return names, 0.0, None
    fork_s = statistics.median(_time_fork() for _ in range(TIMED_FORKS))
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        # Ends the child even if it waits for a lock.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(timeout_s)
        # No exception may leave the child: it would run the rest of the parent's program.
        with contextlib.suppress(BaseException), os.fdopen(write_end, "wb") as pipe:
            pickle.dump(take_steps(env, n_steps), pipe)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if not data:
        is_late = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
        reason = f"took longer than {timeout_s} s" if is_late else "ended without a result"
        raise RuntimeError(f"a forked process {reason}")
    return "", fork_s, first_row_difference(take_steps(env, n_steps), pickle.loads(data))


def _time_fork() -> float:
    start = time.perf_counter()
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return time.perf_counter() - start
