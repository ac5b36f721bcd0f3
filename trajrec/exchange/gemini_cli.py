"""Sessions of Gemini CLI: an object with messages, or a line with its head and one for each message.

Sessions hold personal data, so secrets are removed from them by default.
"""

from __future__ import annotations

from collections.abc import Iterator

from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate, Format, records_of
from trajrec.exchange.chat import assistant, tool_call, tool_result, usage_of_counts
from trajrec.exchange.reading import Place, dicts_of, object_parts, texts_by_key
from trajrec.exchange.records import Call, ImportedEpisode, Item, Message, Outcome, Turn
from trajrec.types import JsonObject, Value

HEAD = frozenset(("startTime", "lastUpdated", "messages"))
MESSAGE = frozenset(("timestamp", "type", "content"))
ANSWER = MESSAGE | {"model", "tokens", "toolCalls"}
TOKENS = frozenset(("input", "output", "cached", "thoughts"))
CALL = frozenset(("id", "name", "args", "result", "status", "timestamp"))

_OUTCOMES: dict[str, Outcome] = {
    "success": "ok",
    "error": "error",
    "cancelled": "cancelled",
    "executing": "open",
    "awaiting_approval": "open",
}


def _matches(candidate: Candidate) -> bool:
    return "projectHash" in candidate.first_record


def _read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    place = Place(candidate.path)
    # The head may hold the messages, or a record each follows it.
    (_, head), *records = records_of(candidate, account, "a record")
    messages = [*object_parts(place, head.get("messages"), "messages", account), *records]
    rest = account.take(head, "session", HEAD)
    episode = ImportedEpisode(
        position="session",
        start_ns=account.time(head.get("startTime")),
        end_ns=account.time(head.get("lastUpdated")),
        interface={"scaffold": {"name": "gemini-cli"}},
        extra=rest,
    )
    for position, message in messages:
        with account.attempt(position):
            episode.items += _items_of(message, place.at(position), account)
        if episode.goal is None and message.get("type") == "user":
            episode.goal = message.get("content")
    yield episode


def _items_of(message: JsonObject, place: Place, account: Account) -> list[Item]:
    kind = message.get("type")
    rest = account.take(message, "message", ANSWER if kind == "gemini" else MESSAGE)
    time_ns = account.time(message.get("timestamp"))
    content = message.get("content")
    if kind != "gemini":
        role = kind if kind in ("user", "system") else "system"
        if role != kind:
            rest = {**(rest or {}), "type": kind}
        return [Message(value={"role": role, "content": content}, time_ns=time_ns, extra=rest)]
    tokens = place.optional(dict, message.get("tokens"), "tokens", {})
    tokens_rest = account.take(tokens, "tokens", TOKENS) if tokens else None
    if tokens_rest is not None:
        rest = {**(rest or {}), "tokens": tokens_rest}
    calls = [
        _call(record, place.at(f"toolCalls[{number}]"), account)
        for number, record in enumerate(dicts_of(place, message.get("toolCalls"), "toolCalls"))
    ]
    turn = Turn(
        message=assistant(content, [tool_call(c.call_id, c.tool, c.arguments) for c in calls]),
        model=place.optional(str, message.get("model"), "model", ""),
        usage=usage_of_counts(
            # Google counts apart what its own tools have added to the prompt, and reasoning.
            input_tokens=_sum(tokens.get("input"), tokens.get("tool")),
            output_tokens=_sum(tokens.get("output"), tokens.get("thoughts")),
            cached=tokens.get("cached"),
            reasoning=tokens.get("thoughts"),
        ),
        end_ns=time_ns,
        extra=rest,
    )
    results = [
        Message(value=tool_result(call.call_id, call.result, call.tool))
        for call in calls
        if call.has_result
    ]
    return [turn, *calls, *results]


def _sum(count: Value, more: Value) -> Value:
    """Return two counts as one; the first alone if the second is none."""
    return count + more if type(count) is int and type(more) is int else count


def _call(record: JsonObject, place: Place, account: Account) -> Call:
    rest = account.take(record, "call", CALL)
    status = record.get("status")
    call = Call(
        tool=place.expect(str, record.get("name"), "name"),
        arguments=place.optional(dict, record.get("args"), "args", {}),
        call_id=place.optional(str, record.get("id"), "id", ""),
        outcome=_OUTCOMES.get(status, "unknown") if type(status) is str else "unknown",
        end_ns=account.time(record.get("timestamp")),
        has_result="result" in record,
        result=record.get("result"),
        extra=rest,
    )
    if status is not None and (type(status) is not str or status not in _OUTCOMES):
        call.extra = {**(rest or {}), "status": status}
    if call.outcome == "error":
        call.origin = "tool"
        call.error_type = "error"
        results = record.get("result")
        first = texts_by_key(results[0]) if type(results) is list and results else {}
        response = texts_by_key(texts_by_key(first.get("functionResponse")).get("response"))
        error = response.get("error")
        call.error = error if type(error) is str else ""
    return call


FORMAT = Format(
    name="gemini-cli",
    title="a session of Gemini CLI",
    matches=_matches,
    read=_read,
    is_session=True,
)
