"""Run some work again with another way of reaching steps, after a control has failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar

from trajrec.errors import ControlError, DivergenceError, SnapshotError
from trajrec.replay.forks.options import Backend, RestoreChoice, RestoreMethod
from trajrec.replay.forks.restore import can_fork


class Attempt(Protocol):
    """The options of some work, a dataclass, as far as they say how steps are reached."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def restore(self) -> RestoreChoice:
        """How steps are reached."""
        ...

    @property
    def jobs(self) -> int:
        """Processes at the same time."""
        ...

    @property
    def backend(self) -> Backend:
        """Where they run."""
        ...

    @property
    def control(self) -> bool:
        """Whether controls run."""
        ...


A = TypeVar("A", bound=Attempt)
T = TypeVar("T")


def with_fallback(
    first: A,
    run: Callable[[A], T],
    *,
    forks: bool = True,
    remark: Callable[[A, str], A] = lambda attempt, _: attempt,
) -> T:
    """Return the result of some work whose controls have held.

    With `restore="auto"`, a failed control ends that way of reaching steps, and so does a snapshot
    that is not restored in the recorded state, which is seen without controls too. The work begins
    anew: in forked processes, then by re-execution, then by re-execution in this process alone.

    Args:
        first: The options to begin with.
        run: The work; a function of the options.
        forks: Whether processes may be forked for it.
        remark: Adds a sentence to the options of the next attempt.

    Raises:
        ControlError: No way is right.
        DivergenceError: The environment is not in the recorded state at a step.
        SnapshotError: The environment has state that cannot be set, whichever way is taken.
    """
    attempt = first
    failures: list[ControlError] = []
    while True:
        try:
            return run(attempt)
        except (ControlError, DivergenceError, SnapshotError) as exc:
            if first.restore != "auto" or not (first.control or isinstance(exc, ControlError)):
                raise
            if isinstance(exc, SnapshotError) and attempt.restore == "reexecute":
                # Nothing is copied then: no other way would mend it.
                raise
            if isinstance(exc, ControlError):
                failures.append(exc)
            elif attempt.jobs > 1 or attempt.restore == "os_fork" or isinstance(exc, SnapshotError):
                # Processes that share a file may not even get to their steps, and an environment
                # that could be copied at the first step may not be copied at a later one.
                failures.append(_lost_way(exc, attempt.restore))
            else:
                raise
            following = _following(attempt, {failure.restore for failure in failures}, forks=forks)
            if following is None:
                raise _all_failed(failures) from exc
            attempt = remark(
                following, f"restore={following.restore!r} was taken: {failures[-1].what}"
            )


def _following(attempt: A, tried: set[str], *, forks: bool) -> A | None:
    """Return the next attempt; None if no way is left."""
    # A sandbox lies outside of this process, and forked processes would share it.
    may_fork = forks and can_fork() and attempt.backend == "local"
    restore: RestoreMethod = "reexecute"
    if may_fork and not tried & {"os_fork", "env_snapshot"}:
        restore = "os_fork"
    if restore not in tried:
        return replace(attempt, restore=restore)
    if attempt.jobs > 1:
        # Processes that run at the same time may share a file.
        return replace(attempt, restore="reexecute", jobs=1, backend="local")
    return None


def _lost_way(exc: DivergenceError | SnapshotError, restore: RestoreChoice) -> ControlError:
    """Return the error that says that a process did not reach the recorded state of a step."""
    if isinstance(exc, SnapshotError):
        # Snapshots were right where they were chosen, at the first step and in that process.
        way = "snapshot" if restore == "auto" else restore
        text = f"restore={way!r} is not right for this environment: {exc}"
        return ControlError(text, episode_id="", restore=way, start=-1)
    text = f"restore={restore!r} is not right for this environment in several processes"
    return ControlError(
        f"{text}: {exc.what}",
        episode_id=exc.episode_id,
        restore="reexecute" if restore == "auto" else restore,
        start=exc.step,
        step=exc.step,
        field=exc.field,
    )


def _all_failed(failures: list[ControlError]) -> ControlError:
    """Return the error that says that no way of reaching steps is right."""
    last = failures[-1]
    reasons = "; ".join(failure.what for failure in failures)
    return ControlError(
        "no way of reaching its steps is right for this environment, so there is no result: "
        f"{reasons}; `trajrec check-determinism` looks for the cause",
        episode_id=next((one.episode_id for one in reversed(failures) if one.episode_id), ""),
        restore=last.restore,
        start=last.start,
        step=last.step,
        field=last.field,
    )
