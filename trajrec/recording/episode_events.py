"""The records of a recorder's failures and checks."""

from __future__ import annotations

import traceback
from typing import Literal

from trajrec.log.schema import Check, Failure
from trajrec.protocols import Verifier
from trajrec.values import codec
from trajrec.verifiers import CheckResult, code_digest, identify

TRACEBACK_CHARACTERS = 20_000
"""Of a longer traceback the end is stored: the error stands there, and a recursion fills the rest."""


def failure_event(
    exc: BaseException,
    *,
    episode: int,
    step: int,
    time_ns: int,
    phase: Literal["reset", "step", "state", "check"],
    origin: Literal["env", "scaffold", "verifier"],
    action_data: bytes | None = None,
) -> Failure:
    """Return an exception as a record."""
    text = "".join(traceback.format_exception(exc))[-TRACEBACK_CHARACTERS:]
    return Failure(
        episode=episode,
        step=step,
        attempt=0,
        time_ns=time_ns,
        phase=phase,
        origin=origin,
        error_type=codec.type_name(exc),
        message=_storable(str(exc)),
        traceback=_storable(text),
        action_data=action_data,
    )


def check_event(
    verifier: Verifier,
    result: CheckResult,
    *,
    episode: int,
    step: int,
    time_ns: int,
    state_digest: str | None,
) -> Check:
    """Return a verifier's result on the last state of an episode as a record."""
    identity = identify(verifier)
    has_evidence = result.evidence is not None
    return Check(
        episode=episode,
        step=step,
        time_ns=time_ns,
        check_id=identity.id,
        version=identity.version,
        family=identity.family,
        phase="terminal",
        status=result.status,
        verdict=result.passed,
        score=result.score,
        evidence_data=codec.encode(result.evidence, opaque=True) if has_evidence else None,
        code_digest=code_digest(verifier),
        state_digest=state_digest,
    )


def _storable(text: str) -> str:
    """Return a text without lone surrogates, which a log cannot store."""
    return text.encode("utf-8", "backslashreplace").decode()
