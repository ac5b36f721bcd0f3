"""Trajectories of SWE-agent (`.traj`): steps with their commands, and the history beside them.

The two do not pair one to one: the history has demonstrations, and older versions have no calls in
it. The verdict stands in another file, so that the outcome is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator

from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate, Format
from trajrec.exchange.chat_messages import ChatForm, ChatReader
from trajrec.exchange.reading import Place, dicts_of, texts_by_key
from trajrec.exchange.records import Call, Ending, ImportedEpisode, Item, Message, Turn
from trajrec.types import JsonObject, Value

FILE = frozenset(("trajectory", "history", "info", "environment", "replay_config"))
STEP = frozenset(("action", "observation", "response", "thought"))
INFO = frozenset(("exit_status", "model_stats"))
COMMAND = "bash"


def _matches(candidate: Candidate) -> bool:
    fields = candidate.fields
    if "mistake_step" in fields or type(fields.get("history")) is not list:
        return False
    return candidate.path.suffix == ".traj" or {"trajectory", "info"} <= fields.keys()


def _read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    fields = candidate.fields
    place = Place(candidate.path)
    extra = account.take(fields, "file", FILE) or {}
    history = dicts_of(place, fields.get("history"), "history")
    steps = dicts_of(place, fields.get("trajectory"), "trajectory")
    said = [m for m in history if m.get("role") == "assistant" and m.get("is_demo") is not True]
    if not steps:
        items = _of_history(history, place, account)
    elif len(said) == len(steps):
        items = _of_both(history, steps, place, account)
    else:
        account.note("the history and the steps do not pair: the steps stand, beside the history")
        items = _of_both([], steps, place, account)
        extra["history"] = history
        account.keep("message", len(history))
    info = place.optional(dict, fields.get("info"), "info", {})
    info_rest = account.take(info, "info", INFO) if info else None
    if info_rest is not None:
        extra["info"] = info_rest
    status = place.optional(str, info.get("exit_status"), "exit_status", "")
    stats = texts_by_key(info.get("model_stats"))
    if not stats.get("api_calls") and info.get("model_stats") is not None:
        extra["model_stats"] = info["model_stats"]
    env = {name: fields[name] for name in ("environment", "replay_config") if fields.get(name)}
    yield ImportedEpisode(
        position="trajectory",
        task=candidate.name.removesuffix(".traj"),
        interface={"scaffold": {"name": "SWE-agent"}, **({"env": env} if env else {})},
        items=items,
        ending=_ending(status),
        stop_reason=status,
        # "submitted (exit_cost)" and its like: the scaffold has submitted what was there.
        claimed_done=status == "submitted" if status else None,
        # A demonstration counts no calls and no cost: these zeros are unknown.
        reported=stats if stats.get("api_calls") or stats.get("instance_cost") else None,
        extra=extra or None,
    )


def _ending(status: str) -> Ending:
    if status == "submitted":
        return "terminated"
    if "exit_cost" in status or "exit_context" in status or "timeout" in status:
        return "truncated"
    return "error" if "error" in status else "unknown"


def _of_history(history: list[JsonObject], place: Place, account: Account) -> list[Item]:
    """Return the items of a history alone."""
    reader = ChatReader(ChatForm(), account, place)
    for number, message in enumerate(history):
        inner = place.at(f"history[{number}]")
        if message.get("is_demo") is True:
            reader.items.append(_message(message, account))
        else:
            reader.add(_with_id(message), inner)
    return reader.items


def _with_id(message: JsonObject) -> JsonObject:
    """Return a message with the id of its call as the API of chats has it."""
    ids = message.get("tool_call_ids")
    if type(ids) is list and len(ids) == 1 and message.get("tool_call_id") is None:
        return {**message, "tool_call_id": ids[0]}
    return message


def _message(message: JsonObject, account: Account) -> Message:
    account.take(message, "message", frozenset(message))
    value = {name: item for name, item in message.items() if item is not None}
    role = value.get("role")
    if type(role) is not str:
        value |= {"role": "user", "original_role": role}
    value.setdefault("content", None)
    return Message(value=_with_id(value))


def _of_both(
    history: list[JsonObject], steps: list[JsonObject], place: Place, account: Account
) -> list[Item]:
    """Return the items of the steps, with the messages of the history around them."""
    items: list[Item] = []
    waiting = list(enumerate(steps))
    for number, message in enumerate(history):
        inner = place.at(f"history[{number}]")
        if message.get("role") != "assistant" or message.get("is_demo") is True:
            items.append(_message(message, account))
            continue
        index, step = waiting.pop(0)
        reader = ChatReader(ChatForm(), account, inner)
        reader.add(message, inner)
        turn, *calls = reader.items
        items += _step_items(step, place.at(f"trajectory[{index}]"), turn, calls, account)
    for index, step in waiting:
        turn = Turn(message={"role": "assistant", "content": step.get("response")})
        items += _step_items(step, place.at(f"trajectory[{index}]"), turn, [], account)
        result = {"role": "tool", "content": step.get("observation")}
        items.append(Message(value=result))
    return items


def _step_items(
    step: JsonObject, place: Place, turn: Item, calls: list[Item], account: Account
) -> list[Item]:
    """Return the turn of a step and its calls, the first of which gets the observation."""
    extra = account.take(step, "step", STEP) or {}
    assert isinstance(turn, Turn)
    content = texts_by_key(turn.message).get("content")
    for name in ("response", "thought"):
        if step.get(name) is not None and step[name] != content:
            extra[name] = step[name]
    action = place.optional(str, step.get("action"), "action", "")
    if calls:
        extra["action"] = action
    elif action:
        calls = [Call(tool=COMMAND, arguments={"command": action})]
    observation: Value = step.get("observation")
    if not calls:
        turn.extra = {**extra, "observation": observation}
        return [turn]
    first = calls[0]
    assert isinstance(first, Call)
    first.extra = extra or None
    first.has_result = observation is not None
    first.result = observation
    return [turn, *calls]


FORMAT = Format(name="swe-agent", title="a trajectory of SWE-agent", matches=_matches, read=_read)
