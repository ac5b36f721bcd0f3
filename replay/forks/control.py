"""Control branches take the recorded actions and must reproduce the recording.

They run among the other branches, reached in the same way: one before all others, one after them.
A control that differs shows that branches do not start in the recorded state, whatever the cause:
state in another process, in a file, or in a global variable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from trajrec.corpus.episode import Episode
from trajrec.corpus.history import path_between, rewards_between
from trajrec.errors import ControlError, DivergenceError
from trajrec.log.source_facts import CUT_OFF, unknown_of
from trajrec.replay.execute.verify import (
    diverged,
    verify_failure,
    verify_reward,
    verify_step,
)
from trajrec.replay.forks.branch import BranchPoint
from trajrec.replay.forks.fork_job import BranchLost, BranchResult, BranchTask
from trajrec.replay.forks.options import RestoreMethod
from trajrec.types import Observation, Value
from trajrec.values.copies import copy_for_env
from trajrec.values.shown import short_pair

CONTROL_STEPS = 200
"""The most steps of a control: state that lies outside shows late in some environments."""

SHARE = 0.05
"""The share of controls among the branches of a call, and the share of branches that are run twice,
if these are more than the fewest."""

OPENING = -1
"""Number of the control that runs at a step before its branches; a second one has the number -2."""

CLOSING = 1 << 40
"""Number of the control that runs at a step after its branches."""


@dataclass(frozen=True)
class Control:
    """The result of a control.

    Attributes:
        step: The step at which it started.
        index: `OPENING` or `CLOSING`.
        restore: How the step was reached.
        n_steps: Recorded steps that it reproduced.
        error: The first difference from the recording; None if there is none.
        leak: See `BranchPoint`.
        changed: The name of a variable outside of the environment's objects that the steps have
            changed, or branches before; "" if none is known.
    """

    step: int
    index: int
    restore: RestoreMethod
    n_steps: int
    error: DivergenceError | None = None
    leak: str = ""
    changed: str = ""


@dataclass(frozen=True)
class ControlledTask:
    """A task of branches with controls among them.

    Attributes:
        task: The task of the other branches.
    """

    task: BranchTask

    def run(self, point: BranchPoint) -> BranchResult:
        """Run the branch, or the control, of a point."""
        if not is_control(point.index):
            return self.task.run(point)
        return run_control(point)


def is_control(index: int) -> bool:
    """Return whether the number of a branch is that of a control."""
    return not 0 <= index < CLOSING


def with_controls(
    branches: tuple[tuple[int, int], ...],
    n_servers: int = 1,
    *,
    forks: bool = False,
    relative_length: float = 1.0,
) -> tuple[tuple[int, int], ...]:
    """Return branches, ascending, with controls: a twentieth of their steps, at least two.

    Args:
        branches: (step, number) of each branch.
        n_servers: Servers that share the branches by their steps, every n-th step each. Each server
            has a control before its first and after its last branch.
        forks: Whether a server forks a process for each. Processes that share an engine may wait
            for each other for ever, so a second control runs before all others: it sees what the
            first one has left behind.
        relative_length: Steps of a branch, as a multiple of the steps of a control.
    """
    steps = sorted({step for step, _ in branches})
    n_ends = min(n_servers, len(steps))
    controls = {(step, OPENING) for step in steps[:n_ends]}
    controls |= {(step, OPENING - 1) for step in steps[:n_ends] if forks}
    controls |= {(step, CLOSING) for step in steps[-n_ends:] if n_ends}
    n_more = int(SHARE * len(branches) * relative_length) - len(controls)
    between = [step for step in steps if (step, CLOSING) not in controls]
    if n_more > 0 and between:
        stride = max(1, len(between) // n_more)
        controls |= {(step, CLOSING) for step in between[::stride][:n_more]}
    return tuple(sorted((*branches, *controls)))


def last_step_of(episode: Episode, first: int, n_steps: int = CONTROL_STEPS) -> int:
    """Return the end of the recorded steps that a control from a step can reproduce.

    Args:
        episode: The episode.
        first: The step.
        n_steps: The most steps.
    """
    ends = [first + n_steps, episode.end_step]
    ends += [lost for lost, _ in episode.missing_steps if lost >= first]
    if episode.redacted_step is not None:
        ends.append(max(first, episode.redacted_step))
    return min(ends)


def run_control(point: BranchPoint, n_steps: int = CONTROL_STEPS) -> Control:
    """Run a control of at most `n_steps` steps from a point."""
    episode = point.episode
    first = point.step
    last = last_step_of(episode, first, n_steps)
    rewards = rewards_between(episode, first, last) if point.compares_rewards else {}
    control = Control(first, point.index, point.restore, last - first, leak=point.leak)
    for number, (action, failure) in enumerate(path_between(episode, first, last), first):
        raised: BaseException | None = None
        try:
            result = point.handle.env.step(copy_for_env(action))
        except (Exception, SystemExit) as exc:
            raised = exc
        try:
            verify_failure(episode, number, recorded=failure, raised=raised)
            if raised is None and failure is None:
                _verify(point, number, result, rewards)
        except DivergenceError as exc:
            return replace(control, n_steps=number - first, error=exc)
    return control


def _verify(
    point: BranchPoint,
    step: int,
    result: tuple[Observation, Value, bool, bool, Value],
    rewards: dict[int, Value],
) -> None:
    """Compare the result of a step with the recorded one.

    Raises:
        DivergenceError: They differ.
    """
    episode = point.episode
    observation, reward, terminated, truncated, _ = result
    if step in rewards:
        verify_reward(episode, point.handle, step, expected=rewards[step], reward=reward)
    is_last = step == episode.end_step - 1
    # An imported episode may be called truncated though it was only cut off.
    is_known = CUT_OFF not in unknown_of(episode.header.env.extra_data)
    unknown = () if is_known else ("truncated",)
    for field, flag in (("terminated", terminated), ("truncated", truncated)):
        expected = is_last and episode.end is not None and bool(getattr(episode.end, field))
        if bool(flag) != expected and not (expected and field in unknown):
            raise diverged(episode, step=step, field=field, expected=expected, actual=bool(flag))
    verify_step(episode, point.handle, step + 1, observation)


def check_lost(lost: BranchLost, episode: Episode, restore: RestoreMethod) -> None:
    """Check that a branch whose process gave no result is no control.

    Raises:
        ControlError: It is one.
    """
    if is_control(lost.index):
        raise ControlError(
            f"restore={restore!r} is not right for this environment: a branch from step "
            f"{lost.step} with the recorded actions has no end: {lost.reason}",
            episode_id=episode.id,
            restore=restore,
            start=lost.step,
        )


def check_control(control: Control, episode: Episode) -> None:
    """Check that a control has reproduced the recording.

    Raises:
        ControlError: It has not, or branches have changed a variable that is not restored.
    """
    if control.leak:
        raise ControlError(
            f"restore={control.restore!r} is not right for this environment: it does not restore "
            f"the variable {control.leak}, which branches have changed",
            episode_id=episode.id,
            restore=control.restore,
            start=control.step,
            field=control.leak,
        )
    if control.error is not None:
        raise _not_right(control.error, control.restore, control.step, is_optional=True)


@contextlib.contextmanager
def held_against(restore: RestoreMethod, start: int) -> Iterator[None]:
    """Have a difference from the recording count against the way to a step: another may be right.

    Raises:
        ControlError: Instead of a `DivergenceError`; see `_not_right`.
    """
    try:
        yield
    except DivergenceError as exc:
        raise _not_right(exc, restore, start, is_optional=False) from exc


def _not_right(
    error: DivergenceError, restore: RestoreMethod, start: int, *, is_optional: bool
) -> ControlError:
    """Return the error that says that the recorded actions do not lead to the recorded results.

    Args:
        error: The first difference.
        restore: How the step was reached from which the actions were taken.
        start: The step.
        is_optional: Whether a run without controls would not see it.
    """
    recorded, now = short_pair(error.expected, error.actual)
    return ControlError(
        f"restore={restore!r} is not right for this environment: a branch from step {start} with "
        f"the recorded actions does not reproduce the recording: after step {error.step}, "
        f"{error.field}: recorded {recorded}, now {now}",
        episode_id=error.episode_id,
        restore=restore,
        start=start,
        step=error.step,
        field=error.field,
        is_optional=is_optional,
    )
