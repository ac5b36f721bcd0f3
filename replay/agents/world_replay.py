"""Replay an agent's episode in its world: the recorded calls are made again and compared.

Invalid calls and errors are replayed like all others. A call that a world cannot make again, of an
external tool for instance, is answered from the log.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

from trajrec.corpus.episode import Episode
from trajrec.corpus.transcript import Attempt
from trajrec.errors import DivergenceError, ReplayError
from trajrec.protocols import Verifier, World
from trajrec.replay.agents.answered import Answered, answered_before_fork
from trajrec.replay.agents.execution_result import ExecutionResult
from trajrec.replay.agents.late_execution import LateExecution
from trajrec.replay.diagnose.cause import TrialResult, find_cause
from trajrec.replay.execute.report import Divergence, Grade, ReplayReport, refusal
from trajrec.replay.execute.secrets import redacted_error, redaction_notes
from trajrec.replay.execute.tolerance import Tolerance

COMPARED = ("result", "error", "state", "check")

NOT_COMPARED = (
    "state not compared after the last calls: their tools are declared `read`, and the recording "
    "ends before it was compared again"
)


def replay_in_world(
    episode: Episode,
    make: Callable[[], World],
    *,
    checks: Sequence[Verifier] = (),
    tolerance: Tolerance,
    resync: bool = False,
    first: int = 0,
    explain: bool = True,
) -> ReplayReport:
    """Re-execute an agent's calls in a world and compare each of them with the log.

    Args:
        episode: An episode of an agent, recorded with a world.
        make: Returns the world of an execution, which resets that world. A diverged episode is
            executed several times if `explain` is true.
        checks: Verifiers to run at the end. Each verdict is compared with the recorded one of the
            same id.
        tolerance: The differences to ignore.
        resync: After each call that differs, restore the recorded state and go on.
        first: The first step to compare. The calls before it are made and not compared; the state
            that they lead to is.
        explain: Execute a diverged episode again to find the likely cause.

    Returns:
        A report. Its divergence names a step and a field: "result/...", "error", "state/..." or
        "check/...".
    """

    def execute() -> ExecutionResult:
        execution = _execution(
            episode, make(), checks=checks, tolerance=tolerance, resync=resync, first=first
        )
        return execution.run()

    if first > episode.end_step:
        return refusal(episode.id, f"the episode ends before step {first}")
    result = execute()
    divergence = result.divergence
    if divergence is not None and explain and not divergence.cause:
        cause = find_cause(episode, divergence, lambda: TrialResult(execute().divergence))
        divergence = dataclasses.replace(divergence, cause=cause)
    notes = list(result.notes)
    if episode.transcript.assumed_at_end:
        notes.append(NOT_COMPARED)
    grade: Grade = "exact"
    if result.ignored:
        notes.append(tolerance.note(result.ignored))
        grade = "state"
    if episode.redacted_step is not None:
        notes += redaction_notes(episode)
        grade = "observed-only"
    elif not result.is_proved:
        grade = "observed-only"
    elif divergence is None:
        history = episode.transcript.history
        # If the changes are the live ones, an error in them stays until the last state.
        unknown = history.last_unknown() if result.has_same_changes else history.first_unknown()
        if unknown is not None:
            notes.append(f"a recorded state could not be compared by its values: {unknown}")
            grade = "state"
    if first > episode.first_step:
        notes.append(f"compared from step {first} on")
        grade = "observed-only" if grade == "observed-only" else "partial"
    if divergence is not None:
        grade = "diverged"
    return ReplayReport(
        episode_id=episode.id,
        grade=grade,
        n_steps=result.n_steps,
        divergence=divergence,
        compared=COMPARED,
        notes=tuple(notes),
        differing_steps=result.differing_steps,
    )


def bring_world(episode: Episode, world: World, answered: Answered) -> None:
    """Reset a world as recorded and bring it to where some requests led, verified.

    Args:
        episode: The recorded episode.
        world: The world.
        answered: The requests; their calls are made again.

    Raises:
        DivergenceError: A call or state is not the recorded one.
        ReplayError: The log has lost the episode's reset, or the state after the last of the calls
            is unknown.
    """
    _check_start(episode)
    made = [
        attempt
        for attempt in episode.transcript.recorded_attempts
        if attempt.key in answered.attempts
    ]
    check_proved(episode, made)
    _raise_if_diverged(_execution(episode, world).bring(answered), episode)


def check_proved(episode: Episode, attempts: Sequence[Attempt]) -> None:
    """Refuse the state after some attempts, if the recording only assumes it.

    Raises:
        ReplayError: The state after the last one is unknown.
    """
    if attempts and attempts[-1].unproved:
        step = attempts[-1].start.step
        raise ReplayError(
            f"the recorded state after step {step} is unknown: it was assumed to be unchanged, "
            "because the tools that were called are declared `read`, and was not",
            episode_id=episode.id,
        )


def walk_world(episode: Episode, world: World, tolerance: Tolerance | None = None) -> Iterator[int]:
    """Reset a world as recorded and make all calls of the episode again, verified.

    Args:
        episode: The recorded episode.
        world: The world.
        tolerance: The differences from the recording that are ignored; none by default.

    Yields:
        Each step before its calls are made, and the number after the last step at the end.

    Raises:
        DivergenceError: A call or state is not the recorded one.
        ReplayError: The log has lost the episode's reset.
    """
    _check_start(episode)
    execution = _execution(episode, world, tolerance=tolerance)
    _raise_if_diverged(
        execution.bring(Answered(attempts=frozenset(), n_models=0, exchanges=())), episode
    )
    attempts = episode.transcript.recorded_attempts
    for step in range(episode.first_step, episode.end_step):
        if episode.redacted_step is not None and episode.redacted_step < step:
            raise redacted_error(episode, f"step {step} cannot be reached and verified")
        yield step
        for attempt in attempts:
            if attempt.start.step == step:
                _raise_if_diverged(execution.make(attempt), episode)
    yield episode.end_step


def continue_world(
    episode: Episode, world: World, first: int, last: int, tolerance: Tolerance | None = None
) -> DivergenceError | None:
    """Make the recorded calls of the steps [first, last) in a world that was brought to `first`.

    Returns:
        The first difference from the recording, None if there is none.
    """
    execution = _execution(episode, world, tolerance=tolerance, first=first)
    divergence = execution.attach()
    for attempt in episode.transcript.recorded_attempts:
        if divergence is not None:
            break
        if first <= attempt.start.step < last:
            divergence = execution.make(attempt)
    try:
        _raise_if_diverged(divergence, episode)
    except DivergenceError as exc:
        return exc
    return None


def _check_start(episode: Episode) -> None:
    if episode.start is None:
        raise ReplayError("the log has lost this episode's reset", episode_id=episode.id)


def _execution(
    episode: Episode,
    world: World,
    *,
    checks: Sequence[Verifier] = (),
    tolerance: Tolerance | None = None,
    resync: bool = False,
    first: int = 0,
) -> LateExecution:
    def prepare_fork() -> None:
        assert episode.fork is not None
        assert episode.parent is not None
        # The execution compares the state at the fork's step itself.
        with contextlib.suppress(DivergenceError):
            bring_world(episode.parent, world, answered_before_fork(episode))

    return LateExecution(
        episode,
        world,
        first=first,
        checks=checks,
        tolerance=Tolerance() if tolerance is None else tolerance,
        prepare_fork=prepare_fork,
        resync=resync,
    )


def _raise_if_diverged(divergence: Divergence | None, episode: Episode) -> None:
    if divergence is not None:
        raise DivergenceError(
            f"the world is not in the recorded state: {divergence}",
            episode_id=episode.id,
            step=divergence.step,
            field=divergence.field,
            expected=divergence.expected,
            actual=divergence.actual,
        )
