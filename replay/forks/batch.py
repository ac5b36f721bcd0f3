"""The branches of one call: their log, the controls among them, and the branches to repeat."""

from __future__ import annotations

import warnings
from typing import NamedTuple

from trajrec.corpus.episode import Episode
from trajrec.replay.forks.branch import Branch, BranchTrace
from trajrec.replay.forks.branch_log import BranchLog
from trajrec.replay.forks.control import Control, check_control, check_lost
from trajrec.replay.forks.fork_job import BranchLost, BranchResult
from trajrec.replay.forks.noise_watch import UnsetNoise, unset_notes
from trajrec.replay.forks.options import RestoreMethod
from trajrec.replay.forks.repeats import Repeats
from trajrec.values.shown import counted


class Controls(NamedTuple):
    """How many controls and repeats ran among some branches. All of them held.

    Attributes:
        n: Number of controls: branches with the recorded actions, which reproduced the recording.
        n_steps: Steps of all controls.
        n_repeats: Number of branches that were run twice, with equal results.
        n_repeat_steps: Steps of these.
    """

    n: int = 0
    n_steps: int = 0
    n_repeats: int = 0
    n_repeat_steps: int = 0

    def __str__(self) -> str:
        verb = "was" if self.n_repeats == 1 else "were"
        return (
            f"{counted(self.n, 'control')} ({counted(self.n_steps, 'step')}) reproduced the "
            f"recording, {counted(self.n_repeats, 'repeat')} "
            f"({counted(self.n_repeat_steps, 'step')}) {verb} equal"
        )


class Branches(list[Branch]):
    """The branches of a call of `fork_many`, by step and number.

    Attributes:
        controls: The controls and repeats that ran among them.
        notes: Conditions of the branches that a reader must know, such as noise that no seed sets.
    """

    controls = Controls()
    notes: tuple[str, ...] = ()


class BranchBatch:
    """Collects the branches of a call, and checks the controls among them.

    Args:
        episode: The episode that is forked.
        log: The log of the branches.
        branches: (step, number) of each branch.

    Attributes:
        branches: The branches so far.
        repeats: The branches that are to be run twice.
    """

    def __init__(
        self, episode: Episode, log: BranchLog, branches: tuple[tuple[int, int], ...]
    ) -> None:
        self.branches: list[Branch] = []
        self.repeats = Repeats(branches)
        self._episode = episode
        self._log = log
        self._n_controls = 0
        self._n_control_steps = 0
        self._unset = UnsetNoise()

    def add(self, result: BranchResult | BranchLost, restore: RestoreMethod) -> None:
        """Add the result of a branch or of a control.

        Args:
            result: The result.
            restore: How steps are reached, for a branch whose process gave no result.

        Raises:
            ControlError: A control did not reproduce the recording.
        """
        if isinstance(result, Control):
            check_control(result, self._episode)
            self._n_controls += 1
            self._n_control_steps += result.n_steps
        elif isinstance(result, BranchTrace):
            self.repeats.note(result)
            self._unset.add(result.noise_seen)
            self.branches.append(self._log.add(result))
        else:
            assert isinstance(result, BranchLost)
            check_lost(result, self._episode, restore)
            self.branches.append(
                self._log.add_lost(result.step, result.index, restore=restore, error=result.reason)
            )

    def finish(self) -> Branches:
        """Return the branches, with the numbers of their controls and repeats.

        Warns if the policy took other actions in a branch that was run twice.
        """
        if self.repeats.n_other:
            warnings.warn(
                f"{self.repeats.n_other} of the branches that were run twice took other actions "
                "the second time: the policy draws from a generator that it is not given, or "
                "remembers earlier branches. The branches are right, and another order of them "
                "gives others; take its draws from the generator, the second argument",
                stacklevel=2,
            )
        branches = Branches(self.branches)
        branches.controls = Controls(
            self._n_controls, self._n_control_steps, self.repeats.n, self.repeats.n_steps
        )
        branches.notes = unset_notes(self._unset.found, "branch")
        return branches
