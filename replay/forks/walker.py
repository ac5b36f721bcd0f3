"""The walker: brings an environment to steps of an episode, and verifies its state each time."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from trajrec.corpus.episode import Episode
from trajrec.corpus.history import preceding_episodes
from trajrec.envstate.attributes import STANDARD_WRAPPERS
from trajrec.envstate.outer_state import OuterState
from trajrec.envstate.pettingzoo import layers
from trajrec.envstate.snapshots import Snapshot, Snapshots
from trajrec.errors import DivergenceError, SnapshotError
from trajrec.replay.execute.handle import EnvHandle
from trajrec.replay.execute.reach import (
    apply_steps,
    reach_step,
    repeats_itself,
    replay_predecessors,
    verify_continuation,
)
from trajrec.replay.execute.verify import verify_state, verify_step
from trajrec.replay.forks.branch import BranchPoint, copied
from trajrec.replay.forks.control import CONTROL_STEPS, held_against, is_control
from trajrec.replay.forks.options import RestoreChoice, RestoreMethod
from trajrec.replay.forks.restore import (
    RestorePlan,
    SnapshotProbe,
    cheapest_plan,
    probe_snapshots,
)
from trajrec.types import Info, Observation

MAX_SNAPSHOTS = 64
"""Snapshots that are kept, the latest ones: a search for a step goes back and forth."""


class _Saved(NamedTuple):
    """A snapshot with the observation at its step."""

    snapshot: Snapshot
    observation: Observation


class ResetMode(enum.Enum):
    """The environment that is reset to reach a step, in the order in which modes are tried."""

    SAME_ENV = enum.auto()
    """The environment itself, although it was used before."""

    NEW_ENV = enum.auto()
    """A new environment."""

    NEW_ENV_WITH_HISTORY = enum.auto()
    """A new environment that first replays the episodes recorded before this one."""


class Walker:
    """Brings an environment to steps of an episode, and verifies its state each time.

    Args:
        episode: The episode.
        make_handle: Makes the environment; called again if the environment carries state over from
            one episode to the next.
        restore: How to return to a step. "reexecute" re-executes; "snapshot", "pickle" and
            "env_snapshot" restore a snapshot and raise if the probe at the first step fails;
            "auto" restores a snapshot if the probe succeeds and re-executes otherwise.
        is_given: Whether `make_handle` returns the same environment at each call.

    Attributes:
        handle: The environment.
        restore_method: The method in use.
        step: The step that the environment was brought to last; -1 before the first.
        observation: The last observation before the step.
    """

    def __init__(
        self,
        episode: Episode,
        make_handle: Callable[[], EnvHandle],
        restore: RestoreChoice,
        *,
        is_given: bool = False,
    ) -> None:
        self.episode = episode
        self.handle = make_handle()
        self.restore_method: RestoreMethod = "reexecute"
        self.observation: Observation = None
        self._make_handle = make_handle
        self._requested = restore
        # The modes that are still to be tried; the first one leads to the recorded state, as far
        # as is known.
        self._modes = (ResetMode.SAME_ENV,) if is_given else tuple(ResetMode)
        self._is_used = False
        # Mode -> the values of `_is_used` for which the mode was verified.
        self._verified_modes: dict[ResetMode, set[bool]] = {
            ResetMode.SAME_ENV: set(),
            ResetMode.NEW_ENV: set(),
            ResetMode.NEW_ENV_WITH_HISTORY: {False},
        }
        self._compare_rewards = True
        self._is_closed = False
        self.step = -1
        self._probe: SnapshotProbe | None = None
        takes_snapshots = restore not in ("reexecute", "os_fork")
        self._snapshots = Snapshots(self.handle.env) if takes_snapshots else None
        self._saved: dict[int, _Saved] = {}
        self._leak = ""

    def goto(self, step: int) -> None:
        """Bring the environment to a step.

        Raises:
            ControlError: The environment is not in the recorded state after a snapshot was restored.
            DivergenceError: It is not after a reset.
            SnapshotError: The requested way to restore does not work for this environment.
        """
        start = max((saved for saved in self._saved if saved <= step), default=None)
        if start is not None and self._restore(start):
            self._leak = self._leak or self._leak_since(start)
            with held_against(self.restore_method, start):
                observation, _ = apply_steps(
                    self.episode,
                    self.handle,
                    self._saved[start].observation,
                    {},
                    first=start,
                    last=step,
                )
                verify_step(self.episode, self.handle, step, observation)
            # A copy, since many environments reuse the buffer of their observation.
            self.observation = copied(observation, self.episode, step)
            if start != step:
                self._save(step)
        else:
            is_proved = bool(self._saved)
            self.observation = copied(self.reset_to(step)[0], self.episode, step)
            if is_proved and self._snapshots is not None:
                self._save(step)
            elif self._snapshots is not None:
                self._probe_snapshots(step)
        self.step = step

    def advance(self, step: int) -> None:
        """Bring the environment to a later step; no branch has used it since the last step."""
        if self.step < 0:
            self.observation, _ = self.reset_to(step)
        else:
            self.observation, _ = apply_steps(
                self.episode, self.handle, self.observation, {}, first=self.step, last=step
            )
            verify_step(self.episode, self.handle, step, self.observation)
        self.step = step

    def rewind(self) -> None:
        """Bring the environment back to the last step that it was brought to; see `goto`."""
        if self._restore(self.step):
            with held_against(self.restore_method, self.step):
                verify_state(self.episode, self.handle, self.step)
        else:
            self.reset_to(self.step)

    def branch_points(self, branches: Iterable[tuple[int, int]]) -> Iterator[BranchPoint]:
        """Yield the start of each branch, in order; it may use the environment until the next.

        Args:
            branches: (step, number) of each branch; branches of one step stand together.
        """
        for step, index in branches:
            if step != self.step:
                self.goto(step)
            else:
                self.rewind()
            yield self.branch_point(index)

    def branch_point(self, index: int) -> BranchPoint:
        """Return the start of a branch at the current step."""
        if is_control(index) and self.step in self._saved:
            self._leak = self._leak or self._leak_since(self.step)
        return BranchPoint(
            handle=self.handle,
            episode=self.episode,
            step=self.step,
            index=index,
            observation=self.observation,
            restore=self.restore_method,
            compares_rewards=self._compare_rewards,
            leak=self._leak,
        )

    def plan_restores(self, steps: list[int], *, n_branches: int, jobs: int) -> RestorePlan:
        """Go to the first of some steps and return the cheapest way to reach all of them.

        Args:
            steps: The steps, ascending.
            n_branches: Branches at each step.
            jobs: Processes that may run at the same time.
        """
        self.goto(steps[0])
        probe = self._probe
        if probe is None:
            snapshots = Snapshots(self.handle.env)
            probe = probe_snapshots(snapshots, self.handle, self.episode, steps[0])
            if probe.snapshot is not None:
                snapshots.drop(probe.snapshot)
        return cheapest_plan(
            probe,
            steps,
            n_branches=n_branches,
            jobs=jobs,
            n_predecessor_steps=self._n_predecessor_steps(),
        )

    def close(self) -> None:
        """Close the environment. Closing twice is harmless."""
        if not self._is_closed:
            self._is_closed = True
            self._drop_snapshots()
            self.handle.env.close()

    def reset_to(self, step: int) -> tuple[Observation, Info]:
        """Reset an environment, apply the recorded actions before a step, return the last result.

        The modes of `ResetMode` are tried in order. Once a mode was needed, it is the first to be
        tried from then on. Rewards that differ in every mode, each time in another way, depend on
        something that no log contains, and are not compared any more.

        Raises:
            DivergenceError: No mode leads to the recorded state, or to the recorded rewards.
        """
        try:
            return self._try_modes(step)
        except DivergenceError as exc:
            if exc.field != "reward" or repeats_itself(exc, lambda: self._try_modes(step)):
                raise
        self._compare_rewards = False
        return self._try_modes(step)

    def reset_anew(self, step: int) -> tuple[Observation, Info]:
        """Do as `reset_to` does, with a new environment if one can be made.

        A control may have left something behind that no reset clears and no recorded step shows.
        """
        # The other modes make a new one each time.
        if self._modes[0] == ResetMode.SAME_ENV and len(self._modes) > 1:
            self._renew()
        return self.reset_to(step)

    def _try_modes(self, step: int) -> tuple[Observation, Info]:
        errors: list[DivergenceError] = []
        for number, mode in enumerate(self._modes):
            if mode != ResetMode.SAME_ENV:
                self._renew()
            # Before the verification, which must see the state that these episodes leave behind.
            if mode == ResetMode.NEW_ENV_WITH_HISTORY:
                replay_predecessors(self.episode, self.handle)
            try:
                self._verify_reset(mode, step)
                self._is_used = True
                result = reach_step(
                    self.episode, self.handle, step, compare_rewards=self._compare_rewards
                )
            except DivergenceError as exc:
                errors.append(exc)
                continue
            self._modes = self._modes[number:]
            return result
        # In a wrong mode the environment differs early.
        raise max(errors, key=lambda error: error.step)

    def _renew(self) -> None:
        self._drop_snapshots()
        self.handle.env.close()
        self.handle = self._make_handle()
        self._is_used = False
        if self._snapshots is not None:
            self._snapshots = Snapshots(self.handle.env)

    def _verify_reset(self, mode: ResetMode, step: int) -> None:
        """Verify a reset of an environment with hidden state by some steps beyond the given one.

        State that is carried over from one episode to the next, by the environment or a wrapper
        without an adapter, may show only later. Each mode is verified once; the environment is left
        as it was before.

        Raises:
            DivergenceError: The environment does not continue as recorded.
        """
        if self._modes[-1] == ResetMode.SAME_ENV or self._is_used in self._verified_modes[mode]:
            return
        *wrappers, _ = layers(self.handle.env)
        if self.handle.adapter is not None and all(
            type(wrapper).__name__ in STANDARD_WRAPPERS for wrapper in wrappers
        ):
            return
        if not self._is_used and next(preceding_episodes(self.episode), None) is None:
            return  # the recorded environment was new, too
        was_used = self._is_used
        self._is_used = True
        verify_continuation(
            self.episode, self.handle, step, CONTROL_STEPS, compare_rewards=self._compare_rewards
        )
        self._verified_modes[mode].add(was_used)
        if not was_used:
            self._renew()

    def _probe_snapshots(self, step: int) -> None:
        assert self._snapshots is not None
        if self._modes[0] == ResetMode.NEW_ENV_WITH_HISTORY:
            # A snapshot does not see the state that such an environment carries over a reset.
            self._give_up_snapshots()
            return
        probe = probe_snapshots(self._snapshots, self.handle, self.episode, step)
        self._probe = probe
        # Whoever asks for a method knows the environment; controls and repeats are left.
        is_asked_for = self._requested == probe.restore_method
        is_found = self._requested == "auto" and probe.is_trusted
        if probe.restore_method is not None and (is_asked_for or is_found):
            assert probe.snapshot is not None
            self._saved[step] = _Saved(probe.snapshot, self.observation)
            self.restore_method = probe.restore_method
            return
        if self._requested != "auto":
            reason = probe.failure or f"its snapshots need restore={probe.restore_method!r}"
            raise SnapshotError(
                f"restore={self._requested!r} does not work for this environment: {reason}"
            )
        self._give_up_snapshots()
        if probe.has_restored:
            self._renew()
        self.observation = copied(self.reset_to(step)[0], self.episode, step)

    def _save(self, step: int) -> None:
        assert self._snapshots is not None
        try:
            self._saved[step] = _Saved(self._snapshots.take(), self.observation)
            if len(self._saved) > MAX_SNAPSHOTS:
                oldest = next(iter(self._saved))
                self._snapshots.drop(self._saved.pop(oldest).snapshot)
        except SnapshotError:
            if self._requested != "auto":
                raise
            self._give_up_snapshots()

    def _leak_since(self, step: int) -> str:
        """Return the name of a variable that changed since a snapshot, and is not restored by it."""
        if self.restore_method == "env_snapshot":
            return ""
        return self._saved[step].snapshot.outer.changed(OuterState.of_env(self.handle.env))

    def _restore(self, step: int) -> bool:
        """Restore the snapshot of a step; return whether there is one."""
        if self._snapshots is None or step not in self._saved:
            return False
        try:
            saved = self._saved[step]
            self._snapshots.restore(saved.snapshot)
            # Forks seed them, also those from which no step draws.
            saved.snapshot.outer.put_back_generators()
        except SnapshotError:
            if self._requested != "auto":
                raise
            self._give_up_snapshots()
            self._renew()  # a part of it may be restored
            return False
        return True

    def _drop_snapshots(self) -> None:
        if self._snapshots is not None:
            for saved in self._saved.values():
                self._snapshots.drop(saved.snapshot)
        self._saved.clear()

    def _give_up_snapshots(self) -> None:
        self._drop_snapshots()
        self._snapshots = None
        self.restore_method = "reexecute"

    def _n_predecessor_steps(self) -> int:
        if self._modes[0] != ResetMode.NEW_ENV_WITH_HISTORY:
            return 0
        return sum(before.n_steps for before in preceding_episodes(self.episode))


def cheapest_method(
    episode: Episode,
    make_handle: Callable[[], EnvHandle],
    steps: list[int],
    *,
    n_branches: int,
    jobs: int,
) -> RestoreMethod:
    """Return the cheapest way to reach some steps, from a probe at the first; see `RestorePlan`."""
    walker = Walker(episode, make_handle, "auto")
    try:
        return walker.plan_restores(steps, n_branches=n_branches, jobs=jobs).restore_method
    finally:
        walker.close()
