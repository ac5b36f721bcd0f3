"""The steps of an episode that a replay cannot prove, since the log lacks a secret of theirs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from trajrec.log.events import AgentEvent, CallStart, Redaction

ACTION_FIELDS = ("action", "options")
"""Fields without which a step cannot be executed again."""

LOST_FIELDS = (*ACTION_FIELDS, "state")
"""The same, and the field without which a step cannot be verified."""


def first_redacted_step(events: Sequence[AgentEvent], fields: Collection[str]) -> int | None:
    """Return the first step of which one of some fields had a secret; None if none had."""
    if not events:
        return None
    steps = [
        event.step
        for event in events
        # By type: an index asks each event.
        if (type(event) is Redaction and event.field in fields)
        or (type(event) is CallStart and event.is_redacted and "action" in fields)
    ]
    return min(steps, default=None)
