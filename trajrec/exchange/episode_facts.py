"""Facts of an agent's episode that formats of conversations have no place for."""

from __future__ import annotations

from collections.abc import Sequence

from trajrec.corpus.attempts import Attempt
from trajrec.corpus.call_contents import content_of, plain
from trajrec.corpus.episode import Episode
from trajrec.corpus.model_calls import ModelCall
from trajrec.exchange.account import Account
from trajrec.exchange.conversation import LoggedTurn, has_places, leftovers
from trajrec.log.events import ExchangeStart, SideEffect, StateChange, StepValues, is_at_reset
from trajrec.types import JsonObject, Value
from trajrec.values.diff import MISSING
from trajrec.values.json import to_pointer
from trajrec.wire.json_bodies import as_dict, dicts_in

# Arguments of a request that stand elsewhere.
_KNOWN_ARGUMENTS = frozenset(
    ("args", "input", "instructions", "messages", "model", "reasoning_effort", "system", "tools")
)


def known(fields: JsonObject) -> JsonObject:
    """Return the fields that say something."""
    return {name: value for name, value in fields.items() if value not in (None, "", [], {})}


def facts_of_episode(episode: Episode, account: Account, *, is_atif: bool) -> JsonObject:
    """Return the facts of an episode; without those that follow from its conversation.

    Args:
        episode: The episode.
        account: Counts them, and what is left in the log.
        is_atif: Whether it was imported from a document of ATIF, which says who it is itself.
    """
    task = episode.task_start
    start = episode.start
    end = episode.end
    facts: JsonObject = {}
    if not is_atif:
        facts = {
            "episode_id": episode.id,
            "source": episode.source,
            "interface": plain(episode.value(None if task is None else task.interface_data)),
        }
    facts |= {
        "task": None if task is None else task.task,
        "task_revision": None if task is None else task.task_revision,
        "metadata": plain(episode.value(None if task is None else task.metadata_data)),
        "seed": None if start is None else start.seed,
        "start_ns": (None if start is None else start.time_ns) or None,
        "end_ns": (None if end is None else end.time_ns) or None,
        "ending": None if episode.ending == "unknown" else episode.ending,
        "stop_reason": None if end is None else end.stop_reason,
        "claimed_done": None if end is None else end.claimed_done,
        "fault": episode.fault,
        "checks": [_check(episode, check) for check in episode.checks],
        "failures": [_failure(episode, failure) for failure in episode.failures],
    }
    facts = known(facts)
    for name in ("checks", "failures"):
        account.records[name[:-1]] += len(facts.get(name, ()))
    for name in facts:
        account.extra[f"episode.{name}"] += 1
        account.found += 1
    n_exchanges = sum(type(event) is ExchangeStart for event in episode.agent_events)
    if n_exchanges:
        account.drop("the bytes of HTTP exchanges stay in the log", n_exchanges)
    n_states = sum(
        type(event) is StateChange and is_at_reset(event) and event.data is not None
        for event in episode.agent_events
    )
    if n_states:
        account.drop("whole states at the reset stay in the log", n_states)
    n_between = len(episode.transcript.program_changes)
    if n_between:
        account.drop("changes of the state between calls stay in the log", n_between)
    return facts


def _check(episode: Episode, check: Value) -> JsonObject:
    names = (
        "check_id",
        "version",
        "family",
        "phase",
        "status",
        "verdict",
        "score",
        "step",
        "is_primary",
    )
    record = {name: getattr(check, name) for name in names}
    record["evidence"] = plain(episode.value(check.evidence_data))
    record["extra"] = leftovers(episode, check.extra_data)
    return known(record)


def _failure(episode: Episode, failure: Value) -> JsonObject:
    names = ("phase", "origin", "error_type", "message", "traceback", "step")
    record = {name: getattr(failure, name) for name in names}
    record["extra"] = leftovers(episode, failure.extra_data)
    return known(record)


def facts_of_step(
    episode: Episode, turn: LoggedTurn, events: Sequence[object], account: Account
) -> JsonObject:
    """Return the facts of a step.

    Args:
        episode: The episode.
        turn: The step.
        events: The events of the step.
        account: Counts the facts.
    """
    answered = turn.answered
    others = [call for call in turn.model_calls if call is not answered]
    if answered is not None:
        count_choices(answered, account)
    facts = facts_of_events(episode, events)
    facts |= known(
        {
            "model_call": None if answered is None else facts_of_model_call(answered),
            "other_model_calls": [_other_call(call) for call in others],
        }
    )
    for name in facts:
        account.extra[f"step.{name}"] += 1
        account.found += 1
    return facts


def facts_of_events(episode: Episode, events: Sequence[object]) -> JsonObject:
    """Return the facts of named values, side effects and reported changes."""
    values: list[JsonObject] = []
    effects: list[JsonObject] = []
    changes: list[JsonObject] = []
    for event in events:
        if isinstance(event, StepValues):
            named = plain(episode.value(event.values_data))
            is_placed = "turn" in named or ("message_number" in named and has_places(episode))
            if not is_placed:
                extra = leftovers(episode, event.extra_data)
                values.append(known({"values": named, "extra": extra}))
        elif isinstance(event, SideEffect):
            record = {
                "name": event.name,
                "arguments": plain(episode.value(event.arguments_data)),
                "value": plain(episode.value(event.value_data)),
                "error": event.message,
                "extra": leftovers(episode, event.extra_data),
            }
            effects.append(known(record))
        elif isinstance(event, StateChange) and event.origin == "reported":
            value = plain(episode.value(event.data))
            changes.append({"part": event.part, "value": value})
    return known(
        {
            "values": [value for value in values if value],
            "side_effects": effects,
            "reported_changes": changes,
        }
    )


def facts_of_model_call(call: ModelCall) -> JsonObject:
    """Return the facts of a model call: parameters of the request, time, error, reason of the end."""
    request = call.request if call.wire is None else dict(call.wire.request.parameters)
    start_ns = call.start.time_ns
    end = call.end
    answer = content_of(call).answer
    parameters = {
        name: plain(value) for name, value in request.items() if name not in _KNOWN_ARGUMENTS
    }
    return known(
        {
            "start_ns": start_ns or None,
            "parameters": parameters,
            "outcome": None if call.outcome == "ok" else call.outcome,
            "error_type": None if end is None else end.error_type,
            "error": None if end is None else end.message,
            "finish_reason": None if answer is None else answer.finish_reason,
            "response_id": None if answer is None else answer.response_id,
        }
    )


def count_choices(call: ModelCall, account: Account) -> None:
    """Count as dropped the choices of an answer behind the first, which is its message."""
    answer = content_of(call).answer
    value = as_dict(None if answer is None else plain(answer.value))
    n_more = max(len(dicts_in(value.get(name))) for name in ("choices", "candidates")) - 1
    if n_more > 0:
        account.drop("further choices of an answer stay in the log", n_more)


def _other_call(call: ModelCall) -> JsonObject:
    answer = content_of(call).answer
    return known(
        {
            **facts_of_model_call(call),
            "attempt": call.start.attempt,
            "answer": None if answer is None else plain(answer.value),
        }
    )


def facts_of_call(attempts: Sequence[Attempt]) -> JsonObject:
    """Return the facts of a tool call: the attempts before the last one, times and changes."""
    *earlier, last = attempts
    start = last.start
    return known(
        {
            "access": None if start.access == "unknown" else start.access,
            "actor": None if start.actor == "agent" else start.actor,
            "invalid": start.invalid,
            "start_ns": start.time_ns or None,
            "latency_ms": last.latency_ms,
            "outcome": last.outcome if last.outcome in ("ok", "open") else None,
            "changes": _changes(last),
            "attempts": [_attempt(attempt) for attempt in earlier],
            "retry_of": None if last.retry_of is None else list(last.retry_of),
            "retry_by": last.retry_by,
        }
    )


def _attempt(attempt: Attempt) -> JsonObject:
    end = attempt.end
    return known(
        {
            "arguments": plain(attempt.arguments),
            "outcome": attempt.outcome,
            "result": plain(attempt.result),
            "error_type": None if end is None else end.error_type,
            "message": None if end is None else end.message,
            "start_ns": attempt.start.time_ns or None,
            "latency_ms": attempt.latency_ms,
            "changes": _changes(attempt),
        }
    )


def _changes(attempt: Attempt) -> list[JsonObject]:
    changes: list[JsonObject] = []
    for part, of_part in attempt.changes.items():
        for change in of_part:
            record: JsonObject = {"part": part, "path": to_pointer(change.path)}
            for name, value in (("before", change.before), ("after", change.after)):
                if value is not MISSING:
                    record[name] = plain(value)
            changes.append(record)
    return changes
