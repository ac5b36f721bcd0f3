"""Records of an agent's episode beside its calls: side effects, checks, and the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from trajrec.agents.journal import Journal
from trajrec.log.events import SideEffect
from trajrec.log.schema import Check, EpisodeEnd
from trajrec.log.unseen_ways import unseen_data
from trajrec.protocols import Verdict
from trajrec.recording.faults import Fault
from trajrec.types import Value
from trajrec.verifiers import code_digest, identify, run_check, warn_if_error

AgentEnding: TypeAlias = Literal["terminated", "truncated", "error", "unknown"]


def record_side_effect(
    journal: Journal,
    step: int,
    *,
    name: str,
    function: Callable[..., Value],
    args: tuple[Value, ...],
) -> Value:
    """Call a function that reads a value from outside, and record the value or the exception.

    Args:
        journal: The episode's journal.
        step: Number of the last step.
        name: The program's name for the value.
        function: Returns the value.
        args: Arguments of the function.
    """
    if not isinstance(name, str):
        raise TypeError(f"a side effect has a name, got {name!r}")
    # Both before the call, which may change its arguments and take long.
    time_ns = time.time_ns()
    arguments, were_redacted = journal.encode(list(args))
    try:
        value = function(*args)
    except Exception as exc:
        error = journal.describe(exc)
        journal.add(
            SideEffect(
                episode=journal.number,
                step=step,
                time_ns=time_ns,
                name=name,
                arguments_data=arguments,
                value_data=None,
                error_type=error.error_type,
                message=error.message,
                is_redacted=were_redacted or error.is_redacted,
            )
        )
        raise
    data, is_redacted = journal.encode(value)
    event = SideEffect(
        episode=journal.number,
        step=step,
        time_ns=time_ns,
        name=name,
        arguments_data=arguments,
        value_data=data,
        is_redacted=were_redacted or is_redacted,
    )
    journal.add(event, len(data))
    return value


def record_check(
    journal: Journal,
    step: int,
    *,
    verifier: Callable[..., Value],
    args: tuple[Value, ...],
    state_digest: str | None,
    primary: str,
) -> Verdict:
    """Run a verifier and record its verdict; an exception is recorded as the verifier's failure.

    Args:
        journal: The episode's journal.
        step: Number of the last step.
        verifier: The verifier.
        args: Arguments of the verifier.
        state_digest: Digest of the state that it judges, None if unknown.
        primary: Id of the check that decides the outcome.
    """
    try:
        result = run_check(verifier, *args)
    except BaseException as exc:  # Ctrl-C, say
        journal.fail(step, "check", "verifier", exc)
        raise
    if result.error is not None:
        journal.fail(step, "check", "verifier", result.error)
    identity = identify(verifier)
    journal.add(
        Check(
            episode=journal.number,
            step=step + 1,
            time_ns=time.time_ns(),
            check_id=identity.id,
            version=identity.version,
            family=identity.family,
            phase="terminal",
            status=result.status,
            verdict=result.passed,
            score=result.score,
            evidence_data=None if result.evidence is None else journal.data(result.evidence),
            code_digest=code_digest(verifier),
            state_digest=state_digest,
            is_primary=identity.id == primary,
        )
    )
    warn_if_error(identity.id, result)
    return result.verdict


def record_end(
    journal: Journal,
    step: int,
    *,
    ending: AgentEnding,
    stop_reason: str,
    claimed_done: bool | None,
    fault: Fault,
    unseen: Sequence[str],
) -> None:
    """Record the end of an episode.

    Args:
        journal: The episode's journal.
        step: Number of the last step.
        ending: How the episode ended; "unknown" if nobody told.
        stop_reason: The agent's own reason, "" if it gave none.
        claimed_done: Whether the agent claims to be done, None if it did not say.
        fault: The component whose fault ended it, "" if none is known.
        unseen: The ways by which model calls may have gone past the taps.

    Raises:
        LogWriteError: The log cannot be written, and the episode did not end by an error.
    """
    journal.add(
        EpisodeEnd(
            episode=journal.number,
            time_ns=time.time_ns(),
            n_steps=step + 1,
            ending="abandoned" if ending == "unknown" else ending,
            terminated=ending == "terminated",
            truncated=ending == "truncated",
            stop_reason=stop_reason,
            claimed_done=claimed_done,
            fault=fault,
            extra_data=unseen_data(unseen, is_unknown=ending == "unknown"),
        )
    )
    if journal.log.writer.durability == "machine":
        journal.flush()
    if ending != "error":
        # Else the agent's exception is on its way: an error of the log must not replace it.
        journal.log.writer.raise_error()
