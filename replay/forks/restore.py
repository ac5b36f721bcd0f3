"""Choose how a step of an episode is reached again and again, from a probe and a measurement.

- reexecute: reset as recorded and apply the recorded actions.
- snapshot: put numbers, arrays, generators and native simulators back in place.
- pickle: as snapshot; objects of classes that the environment holds are pickled.
- env_snapshot: the environment's state lies outside this process, and it restores it itself.
- os_fork: fork a process for each branch. Right for every environment inside one process.
"""

from __future__ import annotations

import os
import sys
import time
from typing import NamedTuple

from trajrec.corpus.episode import Episode
from trajrec.corpus.history import path_between
from trajrec.envstate.outer_state import OuterState
from trajrec.envstate.snapshots import Snapshot, Snapshots
from trajrec.errors import SnapshotError
from trajrec.replay.execute.handle import EnvHandle
from trajrec.replay.forks.options import RestoreMethod
from trajrec.replay.forks.outside import watched
from trajrec.types import Action
from trajrec.values import codec
from trajrec.values.copies import copy_for_env

PROBE_STEPS = 16
"""Recorded steps that a probe compares. Each costs two further steps at the first fork point."""

FORK_S = 0.008
"""Estimated seconds to fork a process, with the memory pages that the branch writes to.

`python -m benchmarks.forks` measures it; its goal is 6 ms a branch of CartPole.
"""

SERVER_S = 0.7
"""Estimated seconds until a fork server takes its first step: it imports trajrec and Gymnasium."""


def can_fork() -> bool:
    """Return whether this system can fork a process that works."""
    # macOS has os.fork, but its system libraries may crash in the forked process.
    return hasattr(os, "fork") and sys.platform != "darwin"


class SnapshotProbe(NamedTuple):
    """Result of a probe of snapshots at one step.

    Attributes:
        restore_method: "snapshot", "pickle" or "env_snapshot" if the restored environment continued
            as before; None if it did not, or if it cannot be copied.
        failure: The reason if the probe failed, else "".
        snapshot: The snapshot if the probe succeeded, else None.
        step_seconds: Duration of one step.
        is_outside: Whether the environment's state lies outside this process, so that forked
            processes would share it.
        outside: What the environment did outside of this process in the probe, so that its state
            may lie there; "" if nothing was noticed.
        has_restored: Whether a snapshot was restored, so that after a failure the environment may
            be in any state.
        changed: The name of a variable outside of the environment's objects that the steps have
            changed; "" if there is none.
        lost: The name of an attribute that is not as it was once the snapshot is restored, although
            no step showed it; "" if there is none.
    """

    restore_method: RestoreMethod | None
    failure: str
    snapshot: Snapshot | None
    step_seconds: float
    is_outside: bool
    outside: str = ""
    has_restored: bool = False
    changed: str = ""
    lost: str = ""

    @property
    def is_trusted(self) -> bool:
        """Whether nothing was noticed that the method does not restore."""
        return (
            not (self.outside or self.changed or self.lost) or self.restore_method == "env_snapshot"
        )


def probe_snapshots(
    snapshots: Snapshots, handle: EnvHandle, episode: Episode, step: int
) -> SnapshotProbe:
    """Take a snapshot and apply recorded actions twice: both times must give the same results.

    If the probe succeeds, the environment is back in its state; otherwise it is in any state.

    Args:
        snapshots: The snapshots of the environment.
        handle: The environment, in the state before the step.
        episode: The episode of the recorded actions.
        step: The step.
    """
    path = path_between(episode, step, min(episode.end_step, step + PROBE_STEPS))
    actions = [action for action, failure in path if failure is None]
    is_outside = snapshots.sandbox is not None
    snapshot = None
    failure = ""
    try:
        snapshot = snapshots.take()
    except SnapshotError as exc:
        failure = str(exc)
    # Measured without a snapshot too: the duration of a step decides between the other methods.
    outer = OuterState.of_env(handle.env) if snapshot is None else snapshot.outer
    attributes = {} if snapshot is None else outer.attribute_digests(handle.env)
    start = time.perf_counter()
    with watched() as notes:
        first_results = _apply(handle, actions)
    step_seconds = (time.perf_counter() - start) / max(1, len(actions))
    outside = next(iter(notes), "")
    changed = outer.changed(OuterState.of_env(handle.env))
    if snapshot is None:
        return SnapshotProbe(
            None, failure, None, step_seconds, is_outside, outside, changed=changed
        )
    try:
        snapshots.restore(snapshot)
        if _apply(handle, actions) != first_results:
            failure = (
                f"restored at step {step}, it continued differently within {len(actions)} steps"
            )
        snapshots.restore(snapshot)
        # The pickle of an object may leave out a part of it, or come back as another object.
        lost = outer.lost(attributes, handle.env)
    except SnapshotError as exc:
        failure = str(exc)
    if failure:
        snapshots.drop(snapshot)
        return SnapshotProbe(None, failure, None, step_seconds, is_outside, outside, True, changed)
    return SnapshotProbe(
        restore_method=snapshot.restore_method,
        failure="",
        snapshot=snapshot,
        step_seconds=step_seconds,
        is_outside=is_outside,
        outside=outside,
        has_restored=True,
        changed=changed,
        lost=lost,
    )


def _apply(handle: EnvHandle, actions: list[Action]) -> list[bytes]:
    """Return the encoded results and states of some actions, up to the end of the episode."""
    results = []
    for action in map(copy_for_env, actions):
        try:
            obs, reward, terminated, truncated, info = handle.env.step(action)
        except (Exception, SystemExit) as exc:
            results.append(codec.type_name(exc).encode())
            break
        results.append(
            codec.encode([obs, reward, bool(terminated), bool(truncated)], opaque=True)
            + codec.encode_info(info)
        )
        if handle.adapter is not None:
            results.append(codec.encode(handle.adapter.capture()))
        if terminated or truncated:
            break
    return results


class RestorePlan(NamedTuple):
    """How the steps of some branches are reached at the lowest cost.

    Attributes:
        restore_method: The method for most steps.
        reexecute_steps: Steps near the episode's start that are reached sooner by re-executing in
            this process than by forking a process; used with "os_fork" only.
    """

    restore_method: RestoreMethod
    reexecute_steps: tuple[int, ...] = ()


def cheapest_plan(
    probe: SnapshotProbe,
    steps: list[int],
    *,
    n_branches: int,
    jobs: int,
    n_predecessor_steps: int = 0,
) -> RestorePlan:
    """Return the plan with the lowest estimated time.

    Args:
        probe: The probe at the first step.
        steps: The steps at which branches start.
        n_branches: Branches at each step.
        jobs: Processes that may run at the same time.
        n_predecessor_steps: Steps of earlier episodes that must be replayed first, because the
            environment carries state over a reset. Snapshots do not see that state, so they are
            not used then.
    """
    if probe.restore_method is not None and not n_predecessor_steps and probe.is_trusted:
        return RestorePlan(probe.restore_method)
    if probe.is_outside or probe.outside or not can_fork():
        return RestorePlan("reexecute")
    reexecute_s = {step: (step + n_predecessor_steps) * probe.step_seconds for step in steps}
    jobs = max(1, min(jobs, os.cpu_count() or 1))
    # Near steps are re-executed in any case. The choice for the others then matters little if a
    # machine forks slower than FORK_S says: without this, "auto" was up to 1.25 times slower.
    near_steps: tuple[int, ...] = ()
    if jobs == 1:
        near_steps = tuple(step for step in steps if reexecute_s[step] < FORK_S)
    far_steps = [step for step in steps if step not in near_steps]
    fork_s = SERVER_S + max(reexecute_s.values(), default=0.0)
    fork_s += n_branches * len(far_steps) * FORK_S
    if fork_s < n_branches * sum(reexecute_s[step] for step in far_steps) / jobs:
        return RestorePlan("os_fork", near_steps)
    return RestorePlan("reexecute")
