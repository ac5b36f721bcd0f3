"""Grade an execution: compare it with its recording and write the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from trajrec.corpus.episode import Episode
from trajrec.corpus.step import unrecorded_steps
from trajrec.replay.execute.compare import compare
from trajrec.replay.execute.execution import Execution
from trajrec.replay.execute.group_compare import are_certainly_same
from trajrec.replay.execute.handle import EnvHandle
from trajrec.replay.execute.report import Grade, ReplayReport, refusal
from trajrec.replay.execute.resync import ResyncResult, execute_with_resync
from trajrec.replay.execute.run import execute
from trajrec.replay.execute.secrets import redaction_notes
from trajrec.replay.execute.tolerance import Tolerance
from trajrec.values.real_numbers import sum_of

COMPARED = ("observation", "reward", "terminated", "truncated", "info")


class ExecutedEpisode(NamedTuple):
    """An episode and its execution, which has not been compared yet.

    Attributes:
        episode: The episode.
        part: The part that was executed: the episode, or its tail.
        execution: The returned values.
        resync: The result of a replay with `resync`, which compares on the way; else None.
        has_states: Whether states were captured.
        is_fresh: Whether the environment had no other episode before.
        previous: The episode before it on this environment, if there was one.
    """

    episode: Episode
    part: Episode
    execution: Execution
    resync: ResyncResult | None
    has_states: bool
    is_fresh: bool
    previous: Episode | None = None


def execute_on(
    episode: Episode,
    handle: EnvHandle,
    tolerance: Tolerance,
    *,
    resync: bool,
    first: int,
    is_fresh: bool,
    previous: Episode | None = None,
) -> ExecutedEpisode:
    """Execute an episode on an environment."""
    result = None
    if resync:
        part, execution, result = execute_with_resync(episode, handle, tolerance, first)
    else:
        part, execution = execute(episode, handle, first)
    return ExecutedEpisode(
        episode=episode,
        part=part,
        execution=execution,
        resync=result,
        has_states=handle.adapter is not None,
        is_fresh=is_fresh,
        previous=previous,
    )


def are_exact(group: Sequence[ExecutedEpisode]) -> bool:
    """Return whether a look at a whole group of executions proves each of them exact."""
    if any(
        executed.resync is not None
        or executed.part is not executed.episode
        or executed.episode.missing_steps
        for executed in group
    ):
        return False
    return are_certainly_same(
        [executed.episode for executed in group], [executed.execution for executed in group]
    )


def grade_execution(
    executed: ExecutedEpisode, tolerance: Tolerance, *, is_exact: bool = False
) -> ReplayReport:
    """Return the report of an execution.

    Args:
        executed: The execution.
        tolerance: The differences to ignore.
        is_exact: Whether `are_exact` has proved that there are none.
    """
    episode = executed.episode
    part = executed.part
    execution = executed.execution
    resync = executed.resync
    if episode.redacted_action_step == -1:
        return ReplayReport(
            episode_id=episode.id,
            grade="observed-only",
            n_steps=0,
            notes=redaction_notes(episode),
        )
    if execution.problem is not None:
        return refusal(episode.id, execution.problem)
    divergence = None if resync is None else resync.divergence
    if resync is None and not is_exact:
        divergence = compare(part, execution, tolerance)
    grade: Grade = "exact"
    if divergence is not None:
        grade = "diverged"
    elif part.redacted_step is not None:
        grade = "observed-only"
    elif part.missing_steps or part is not episode or unrecorded_steps(part.failures):
        grade = "partial"
    elif execution.ignored:
        grade = "state"
    return ReplayReport(
        episode_id=episode.id,
        grade=grade,
        n_steps=len(execution.rewards) + execution.n_raised,
        divergence=divergence,
        compared=(*COMPARED, "state") if executed.has_states else COMPARED,
        notes=_notes(executed, tolerance),
        differing_steps=() if resync is None else resync.differing_steps,
        # Of a tail, the sum would lack the rewards before it.
        total_reward=_total_reward(execution) if part is episode else None,
        ending=_ending(execution),
    )


def _notes(executed: ExecutedEpisode, tolerance: Tolerance) -> tuple[str, ...]:
    episode = executed.episode
    part = executed.part
    notes: list[str] = []
    if not executed.has_states:
        notes.append(f"state not compared: {_why_no_state(episode.header.state.adapter)}")
    if part.missing_steps:
        first, end = part.missing_steps[0]
        notes.append(f"the log has lost steps {first} to {end - 1}; compared up to there")
    steps = unrecorded_steps(part.failures)
    if steps:
        more = "" if len(steps) == 1 else f", nor {len(steps) - 1} more"
        notes.append(f"not compared: step {steps[0]}, whose result could not be recorded{more}")
    notes += redaction_notes(part)
    if part is not episode:
        notes.append(f"compared from step {part.first_step} on")
    if executed.resync is not None and executed.resync.why_stopped:
        notes.append(executed.resync.why_stopped)
    if executed.execution.ignored:
        notes.append(tolerance.note(executed.execution.ignored))
    return tuple(notes)


def _why_no_state(adapter: str) -> str:
    """Return why states were not captured by the adapter that a log names."""
    if not adapter:
        return "none was recorded"
    # The name of a user's function contains its module: "module:function".
    if ":" in adapter:
        return f"give state=, the function that it was recorded with ({adapter})"
    return f"this environment has no adapter {adapter!r}"


def _total_reward(execution: Execution) -> float | None:
    """Return the sum of the rewards; None if they are not numbers, as rewards by agent are not."""
    total = sum_of(execution.rewards)
    return None if math.isnan(total) else total


def _ending(execution: Execution) -> str:
    if execution.failure is not None and execution.failure.raised is not None:
        return "error"
    if execution.end is None:
        return ""
    return "terminated" if execution.end.terminated else "truncated"
