"""Whether a fork and its parent differ in one action alone, so that both make a pair."""

from __future__ import annotations

import json

from trajrec.corpus.episode import Episode
from trajrec.redaction.comparison import differences
from trajrec.replay.credit.forms import Form
from trajrec.types import JsonObject, Value

# Changes of an experiment that the agent is told: what it does next answers another context.
_TOLD = frozenset(("result", "error", "prompt", "message", "tool"))

# A server gives each call another id.
_IDS = frozenset(("id", "tool_call_id"))


def has_same_context(form: Form, parent: Episode, branch: Episode, step: int) -> bool:
    """Return whether a fork was told the same before its first step as its parent.

    Args:
        form: How prompts are written.
        parent: The parent.
        branch: The fork.
        step: The step of the fork.
    """
    if _is_told_a_change(branch):
        return False
    return says_the_same(form.prompt(parent, step), form.prompt(branch, step))


def untold_action(form: Form, recorded: Value, branch: Episode) -> Value:
    """Return what a fork did at its first step if its log has no call of that step.

    An experiment changes the arguments in the recorded answer of the model. A tool that nothing
    holds then makes the changed call, which no log has.

    Args:
        form: How steps are written.
        recorded: What its parent did.
        branch: The fork.

    Returns:
        The parent's action with the arguments that the experiment gave; None if it gave none.
    """
    what_if = _changed_arm(branch)
    change = what_if.get("change")
    arguments = change.get("arguments") if isinstance(change, dict) else None
    call = what_if.get("call")
    if not isinstance(arguments, dict) or type(call) is not int or call < 0:
        return None
    return form.changed(recorded, call, arguments)


def tells_action(episode: Episode, step: int) -> bool:
    """Return whether an agent's log has a call of a model or of a tool at a step."""
    transcript = episode.transcript
    return any(call.start.step == step for call in transcript.model_calls) or any(
        attempt.start.step == step for attempt in transcript.attempts
    )


def says_the_same(a: Value, b: Value) -> bool:
    """Return whether two texts or lists of messages differ by ids and digests of secrets at most."""
    return not differences(_without_ids(a), _without_ids(b))


def _is_told_a_change(branch: Episode) -> bool:
    change = _changed_arm(branch).get("change")
    return isinstance(change, dict) and str(change.get("name")) in _TOLD


def _changed_arm(branch: Episode) -> JsonObject:
    """Return what a fork says of its experiment; {} if it is no run with the change of one."""
    about = None if branch.fork is None else branch.value(branch.fork.metadata_data)
    # Anybody may have written the metadata of a log.
    what_if = about.get("what_if") if isinstance(about, dict) else None
    if not isinstance(what_if, dict) or what_if.get("arm") != "changed":
        return {}
    return what_if


def _without_ids(value: Value) -> Value:
    if isinstance(value, str):
        # Arguments and texts of actions are JSON, whose spaces and order of keys say nothing.
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, list):
        return [_without_ids(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_ids(item) for key, item in value.items() if key not in _IDS}
    return value
