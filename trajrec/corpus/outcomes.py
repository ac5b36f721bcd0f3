"""The outcome of an episode, and the component whose fault ended it."""

from __future__ import annotations

from collections.abc import Sequence

from trajrec.corpus.attempts import Attempt
from trajrec.corpus.model_calls import ModelCall
from trajrec.log.schema import Check, EpisodeEnd
from trajrec.recording.faults import INFRA_STATUSES


def primary_id(checks: Sequence[Check]) -> str | None:
    """Return the id of the primary check, None without checks.

    A log that was written before checks were marked has its first one.
    """
    marked = (check.check_id for check in checks if check.is_primary)
    return next(marked, checks[0].check_id if checks else None)


def outcome_of(checks: Sequence[Check]) -> str | None:
    """Return "success" or "failure" by the last verdict of the primary check, None without one."""
    own = primary_id(checks)
    verdicts = [
        check.verdict for check in checks if check.check_id == own and check.verdict is not None
    ]
    if not verdicts:
        return None
    return "success" if verdicts[-1] else "failure"


def find_fault(end: EpisodeEnd | None, checks: Sequence[Check]) -> str | None:
    """Return the component whose fault ended an episode, or left it without a verdict.

    None if there is none, or if the log does not say: logs of format 1 do not.
    """
    if end is not None and end.fault:
        return end.fault
    own = primary_id(checks)
    is_ungraded = outcome_of(checks) is None
    if is_ungraded and any(c.check_id == own and c.status == "error" for c in checks):
        return "verifier"
    return None


def find_agents_fault(
    end: EpisodeEnd | None,
    checks: Sequence[Check],
    calls: Sequence[ModelCall],
    attempts: Sequence[Attempt],
) -> str | None:
    """Return `find_fault`, or "infra" if an agent asked models in vain, and so called no tool.

    A program may catch the exception of its client, and end its episode as if nothing had happened.
    """
    fault = find_fault(end, checks)
    if fault is not None or end is None or not calls or attempts:
        return fault
    return "infra" if all(map(_is_outage, calls)) else None


def _is_outage(call: ModelCall) -> bool:
    """Return whether no server answered a model call, or one that failed by itself."""
    if call.wire is None or call.end is None or call.outcome != "error":
        return False
    status = call.wire.exchange.status
    return status is None or status in INFRA_STATUSES
