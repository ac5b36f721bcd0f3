"""Whether a run that has ended says something about the change."""

from __future__ import annotations

from trajrec.corpus.history import RecordedRequests
from trajrec.replay.whatif.plan import Plan


def why_incomplete(plan: Plan, recorded: RecordedRequests, *, n_asked: int, is_made: bool) -> str:
    """Return why a run that went live and ended says nothing; "" if it does.

    Args:
        plan: The run.
        recorded: The requests of the recording.
        n_asked: How many requests of it went to a model.
        is_made: Whether the change was made.
    """
    if plan.arm == "unchanged" and not n_asked and _must_ask(plan, recorded):
        return (
            f"the agent asked no model after step {plan.at}, though it did when it was recorded: "
            "does it keep answers between runs, in a cache? Empty it, or run the agent as a command"
        )
    if plan.is_changed and not is_made:
        return f"the change was never made: the agent did not come to it after step {plan.at}"
    return ""


def _must_ask(plan: Plan, recorded: RecordedRequests) -> bool:
    """Return whether an unchanged run must ask a model after it went live.

    Up to its next request it does as recorded, as the controls do, unless a tool does otherwise.
    """
    if plan.stubs or plan.runs_external:
        return False
    first = plan.at if plan.change.start == "request" else plan.at + 1
    steps = [call.start.step for call in recorded.model_calls]
    steps += [e.start.step for e in recorded.exchanges if e.start.model_call >= 0]
    return any(step >= first for step in steps)
