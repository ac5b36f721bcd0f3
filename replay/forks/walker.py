"""Walks an environment along an episode, from one step to a later one, and back to where it stood after each branch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from trajrec.corpus.episode import Episode
from trajrec.corpus.history import preceding_episodes
from trajrec.envstate.attributes import STANDARD_WRAPPERS
from trajrec.envstate.pettingzoo import layers
from trajrec.envstate.snapshots import Snapshot, Snapshots
from trajrec.errors import DivergenceError, SnapshotError
from trajrec.replay.execute.reach import (
    EnvHandle,
    apply_steps,
    reach_step,
    replay_predecessors,
    verify_continuation,
    verify_state,
    verify_step,
)
from trajrec.replay.forks.options import RestoreChoice, RestoreMethod
from trajrec.replay.forks.restore import PROBE_STEPS, RestorePlan, SnapshotProbe, cheapest, prove

_KEPT, _FRESH, _RELIVED = range(3)
MARKS = 64
"""Snapshots that are kept, of the steps that were gone to last: a search goes back and forth."""


class Walker:
    """Brings a stage to steps of an episode, verified each time.

    Args:
        episode: The episode.
        make: Makes a stage; called again where the environment carries state over from one episode to the next.
        restore: How it returns to a step. "reexecute" re-executes; "snapshot", "pickle" and
            "env_snapshot" restore a snapshot and raise if the probe at the first step fails;
            "auto" restores a snapshot if the probe succeeds and re-executes otherwise.
        is_given: Whether there is only one environment, which `make` returns.

    Attributes:
        restore_method: How it goes back, as far as is known.
        observation: The last observation before the step.
    """

    def __init__(
        self,
        episode: Episode,
        make: Callable[[], EnvHandle],
        restore: RestoreChoice,
        *,
        is_given: bool = False,
    ) -> None:
        self.episode, self.stage = episode, make()
        self._make, self._reset, self._last = make, _KEPT, _KEPT if is_given else _RELIVED
        self._is_used, self._sure = (
            False,
            {_RELIVED: {False}, _FRESH: set[bool](), _KEPT: set[bool]()},
        )
        self.restore_method: RestoreMethod = "reexecute"
        self.observation: Any = None
        self._wanted = restore
        self._proof: SnapshotProbe | None = None
        self._is_closed, self._is_paid = False, True
        self._snapshots = None if restore in ("reexecute", "os_fork") else Snapshots(self.stage.env)
        self._marks: dict[int, tuple[Snapshot, Any]] = {}
        self._step = -1

    def go(self, step: int) -> None:
        """Bring the stage to a step.

        Raises:
            DivergenceError: It is not in the recorded state there.
            SnapshotError: The requested way to restore does not work for this environment.
        """
        mark = max((known for known in self._marks if known <= step), default=None)
        if mark is not None and self._restore(mark):
            self.observation = self._marks[mark][1]
            observation, _ = apply_steps(
                self.episode, self.stage, self.observation, {}, first=mark, last=step
            )
            verify_step(self.episode, self.stage, step, observation)
            self.observation = copy.deepcopy(observation)  # environments reuse their buffers
            if mark != step:
                self._take(step)
        else:
            is_proved = bool(self._marks)
            self.observation = copy.deepcopy(self.walk(step)[0])
            if is_proved and self._snapshots is not None:
                self._take(step)
            elif self._snapshots is not None:
                self._probe_snapshots(step)
        self._step = step

    def advance(self, step: int) -> None:
        """Bring the stage to a later step from where it stands: nothing was done with it since."""
        if self._step < 0:
            self.observation, _ = self.walk(step)
        else:
            self.observation, _ = apply_steps(
                self.episode, self.stage, self.observation, {}, first=self._step, last=step
            )
            verify_step(self.episode, self.stage, step, self.observation)
        self._step = step

    def go_back(self) -> None:
        """Bring the stage back to the step it was brought to last."""
        if self._restore(self._step):
            verify_state(self.episode, self.stage, self._step)
        else:
            self.walk(self._step)

    def measure(self, steps: list[int], n: int, jobs: int) -> RestorePlan:
        """Go to the first of some steps; return the way in which n branches at each of them cost least."""
        self.go(steps[0])
        proof = self._proof
        if proof is None:
            snapshots = Snapshots(self.stage.env)
            proof = prove(snapshots, self.stage, self.episode, steps[0])
            if proof.snapshot is not None:
                snapshots.drop(proof.snapshot)
        return cheapest(steps, n, proof, jobs, n_before=self.n_before)

    @property
    def n_before(self) -> int:
        """Steps that have to be taken before an episode's own, to reach any step of it."""
        return (
            sum(before.n_steps for before in preceding_episodes(self.episode))
            if self._reset == _RELIVED
            else 0
        )

    def close(self) -> None:
        """Close the environment. Twice is harmless."""
        if not self._is_closed:
            self._is_closed = True
            self._forget()
            self.stage.env.close()

    def _restore(self, step: int) -> bool:
        """Put the stage back to a step of which there is a snapshot; say whether it was."""
        if self._snapshots is None or step not in self._marks:
            return False
        try:
            self._snapshots.restore(self._marks[step][0])
        except SnapshotError:
            if self._wanted != "auto":
                raise
            self._without_snapshots()
            return False
        return True

    def _forget(self) -> None:
        """Let go of all snapshots."""
        if self._snapshots is not None:
            for snapshot, _ in self._marks.values():
                self._snapshots.drop(snapshot)
        self._marks.clear()

    def walk(self, step: int) -> tuple[Any, Any]:
        """Walk to a step from a reset: of the environment that is there, of a fresh one, of a fresh one that had the episodes
        before; once one of these was needed it is what is done from then on.

        Rewards are to be the recorded ones, unless they never are: then they depend on what no log knows of.

        Raises:
            DivergenceError: None of them leads to the recorded state.
        """
        try:
            return self._walk(step)
        except DivergenceError as exc:
            if exc.field != "reward":
                raise
        self._is_paid = False
        return self._walk(step)

    def _walk(self, step: int) -> tuple[Any, Any]:
        first: DivergenceError | None = None
        for way in range(self._reset, self._last + 1):
            if way != _KEPT:
                self._renew()
            if way == _RELIVED:
                replay_predecessors(self.episode, self.stage)
            try:
                self._verify_reset(way, step)
                self._is_used = True
                found = reach_step(self.episode, self.stage, step, compare_rewards=self._is_paid)
            except DivergenceError as exc:
                first = first or exc
                continue
            self._reset = way
            return found
        assert first is not None
        raise first

    def _renew(self) -> None:
        self._forget()
        self.stage.env.close()
        self.stage, self._is_used = self._make(), False
        if self._snapshots is not None:
            self._snapshots = Snapshots(self.stage.env)

    def _verify_reset(self, way: int, step: int) -> None:
        """Let an environment whose state, or that of its wrappers, nobody sees go on from a step as recorded, once for each
        way to it: what is carried over from one episode to the next may show only later. Leaves an environment that is as it
        was found.

        Raises:
            DivergenceError: It does not.
        """
        if self._last == _KEPT or self._is_used in self._sure[way]:
            return
        *wrappers, _ = layers(self.stage.env)
        if self.stage.adapter is not None and all(
            type(wrapper).__name__ in STANDARD_WRAPPERS for wrapper in wrappers
        ):
            return
        if not self._is_used and next(preceding_episodes(self.episode), None) is None:
            return  # as it was when this was recorded
        was_used, self._is_used = self._is_used, True
        verify_continuation(
            self.episode, self.stage, step, PROBE_STEPS, compare_rewards=self._is_paid
        )
        self._sure[way].add(was_used)
        if not was_used:
            self._renew()

    def _probe_snapshots(self, step: int) -> None:
        assert self._snapshots is not None
        if self._reset == _RELIVED:
            self._without_snapshots()  # what is carried over is out of their sight
            return
        proof = self._proof = prove(self._snapshots, self.stage, self.episode, step)
        if proof.restore_method is not None and self._wanted in ("auto", proof.restore_method):
            assert proof.snapshot is not None
            self._marks[step], self.restore_method = (
                (proof.snapshot, self.observation),
                proof.restore_method,
            )
            return
        why = proof.why or f"its snapshots need restore={proof.restore_method!r}"
        if self._wanted != "auto":
            raise SnapshotError(
                f"restore={self._wanted!r} does not work for this environment: {why}"
            )
        self._without_snapshots()
        self.observation = copy.deepcopy(self.walk(step)[0])

    def _take(self, step: int) -> None:
        assert self._snapshots is not None
        try:
            self._marks[step] = self._snapshots.take(), self.observation
            if len(self._marks) > MARKS:
                self._snapshots.drop(self._marks.pop(next(iter(self._marks)))[0])
        except SnapshotError:
            if self._wanted != "auto":
                raise
            self._without_snapshots()

    def _without_snapshots(self) -> None:
        self._forget()
        self._snapshots = None
        self.restore_method = "reexecute"


def cheapest_method(
    episode: Episode, make: Callable[[], EnvHandle], steps: list[int], n: int, jobs: int
) -> RestoreMethod:
    """Return the cheapest way to reach the given steps, n times each, from a probe at the first."""
    walker = Walker(episode, make, "auto")
    try:
        return walker.measure(steps, n, jobs).restore_method
    finally:
        walker.close()
