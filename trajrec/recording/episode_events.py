"""The records of a recorder's failures and checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from trajrec.log.schema import Check, Event, Failure
from trajrec.protocols import Verifier
from trajrec.recording.error_text import describe_error
from trajrec.redaction.redactor import Redactor
from trajrec.types import AnyEnv, Value
from trajrec.values import codec
from trajrec.verifiers import code_digest, identify, run_check, warn_if_error


def failure_event(
    exc: BaseException,
    *,
    episode: int,
    step: int,
    time_ns: int,
    phase: Literal["reset", "step", "state", "check"],
    origin: Literal["env", "scaffold", "verifier"],
    redactor: Redactor,
    action_data: bytes | None = None,
) -> Failure:
    """Return an exception as a record without secrets."""
    error = describe_error(exc, redactor)
    return Failure(
        episode=episode,
        step=step,
        attempt=0,
        time_ns=time_ns,
        phase=phase,
        origin=origin,
        error_type=error.error_type,
        message=error.message,
        traceback=error.traceback,
        action_data=action_data,
    )


def check_events(
    verifiers: Iterable[Verifier],
    env: AnyEnv,
    *,
    episode: int,
    step: int,
    clock_ns: Callable[[], int],
    capture: Callable[[], Value] | None,
    redactor: Redactor,
    primary: str,
) -> Iterator[Event]:
    """Run verifiers on the last state of an episode; yield their results as records.

    Args:
        verifiers: The verifiers.
        env: The environment, in its last state.
        episode: Number of the episode.
        step: Number of its steps.
        clock_ns: Returns the wall-clock time in ns.
        capture: Returns the state; None if no state is recorded.
        redactor: Takes the secrets out of evidence and exceptions.
        primary: Id of the check that decides the outcome.
    """
    for verifier in verifiers:
        result = run_check(verifier, env)
        if result.error is not None:
            yield failure_event(
                result.error,
                episode=episode,
                step=step,
                time_ns=clock_ns(),
                phase="check",
                origin="verifier",
                redactor=redactor,
            )
        identity = identify(verifier)
        has_evidence = result.evidence is not None
        yield Check(
            episode=episode,
            step=step,
            time_ns=clock_ns(),
            check_id=identity.id,
            version=identity.version,
            family=identity.family,
            phase="terminal",
            status=result.status,
            verdict=result.passed,
            score=result.score,
            evidence_data=redactor.encode(result.evidence)[0] if has_evidence else None,
            code_digest=code_digest(verifier),
            state_digest=None if capture is None else codec.digest(capture()),
            is_primary=identity.id == primary,
        )
        warn_if_error(identity.id, result)
