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
from typing import Any, NamedTuple

from trajrec.corpus.episode import Episode
from trajrec.corpus.history import path_between
from trajrec.envstate.snapshots import Snapshot, Snapshots
from trajrec.errors import SnapshotError
from trajrec.replay.execute.reach import EnvHandle
from trajrec.replay.forks.options import RestoreMethod
from trajrec.values import codec
from trajrec.values.copies import copy_for_env

PROBE_STEPS = 16

FORK_S = 0.008
"""What a forked process is taken to cost, with what its pages cost that are written."""

SERVER_S = 0.7
"""What a server is taken to cost before it takes its first step."""


def can_fork() -> bool:
    """Say whether processes can be forked here."""
    return hasattr(os, "fork") and sys.platform != "darwin"


class SnapshotProbe(NamedTuple):
    """What a probe of snapshots found at one step.

    Attributes:
        restore_method: "snapshot", "pickle" or "env_snapshot" if a restored environment continued as
            before; None if it did not, or cannot be copied.
        why: Why not.
        snapshot: The snapshot; None where there is none.
        step_seconds: What one step took.
        is_outside: Whether its state lies outside of this process: a forked one would share it.
    """

    restore_method: RestoreMethod | None
    why: str
    snapshot: Snapshot | None
    step_seconds: float
    is_outside: bool = False


def prove(
    snapshots: Snapshots, stage: EnvHandle, episode: Episode, step: int, n_steps: int = PROBE_STEPS
) -> SnapshotProbe:
    """Take a snapshot where a stage stands and go on twice with the recorded actions: the second time must be as the first.

    Leaves the stage where it was if the snapshot is right; otherwise anywhere.
    """
    path = path_between(episode, step, min(episode.n_steps, step + n_steps))
    actions = [action for action, has_raised in path if not has_raised]
    snapshot, why, is_outside = None, "", snapshots.sandbox is not None
    try:
        snapshot = snapshots.take()
    except SnapshotError as exc:
        why = str(exc)
    start = time.perf_counter()
    first = _go_on(stage, actions)
    step_seconds = (time.perf_counter() - start) / max(1, len(actions))
    if snapshot is None:
        return SnapshotProbe(None, why, None, step_seconds, is_outside)
    try:
        snapshots.restore(snapshot)
        is_same = _go_on(stage, actions) == first
        snapshots.restore(snapshot)
        why = (
            ""
            if is_same
            else f"restored at step {step}, it went on otherwise within {len(actions)} steps"
        )
    except SnapshotError as exc:
        why = str(exc)
    if why:
        snapshots.drop(snapshot)
        return SnapshotProbe(None, why, None, step_seconds, is_outside)
    return SnapshotProbe(snapshot.restore_method, "", snapshot, step_seconds, is_outside)


def _go_on(stage: EnvHandle, actions: list[Any]) -> list[bytes]:
    found = []
    for action in map(copy_for_env, actions):
        try:
            obs, reward, terminated, truncated, info = stage.env.step(action)
        except (Exception, SystemExit) as exc:
            found.append(codec.type_name(exc).encode())
            break
        found.append(
            codec.encode([obs, reward, bool(terminated), bool(truncated), info], opaque=True)
        )
        if stage.adapter is not None:
            found.append(codec.encode(stage.adapter.capture()))
        if terminated or truncated:
            break
    return found


class RestorePlan(NamedTuple):
    """How steps are best reached.

    Attributes:
        restore_method: How steps are reached.
        near: With "os_fork": steps that are sooner gone to again, in this process, than one is forked for each branch.
    """

    restore_method: RestoreMethod
    near: tuple[int, ...] = ()


def cheapest(
    steps: list[int], n: int, proof: SnapshotProbe, jobs: int, n_before: int = 0
) -> RestorePlan:
    """Return the way that costs least, from what a proof measured.

    Args:
        steps: Where the branches begin.
        n: Branches at each.
        proof: What was found at the first of them.
        jobs: Processes that may run at once.
        n_before: Steps that have to be taken before the episode's own: an environment that needs them cannot be snapshotted,
            for what it carries over is out of sight.
    """
    if proof.restore_method is not None and not n_before:
        return RestorePlan(proof.restore_method)
    if proof.is_outside or not can_fork():
        return RestorePlan("reexecute")
    prefix_s = {step: (step + n_before) * proof.step_seconds for step in steps}
    jobs = max(1, min(jobs, os.cpu_count() or 1))
    near = tuple(step for step in steps if prefix_s[step] < FORK_S) if jobs == 1 else ()
    far = [step for step in steps if step not in near]
    process_s = SERVER_S + max(prefix_s.values(), default=0.0) + n * len(far) * FORK_S
    return (
        RestorePlan("os_fork", near)
        if process_s < n * sum(prefix_s[step] for step in far) / jobs
        else RestorePlan("reexecute")
    )
