"""The conversation of a sample of Inspect that has no events, and the results of its calls."""

from __future__ import annotations

from trajrec.exchange.account import Account
from trajrec.exchange.inspect_messages import SampleMessages
from trajrec.exchange.reading import Place, dicts_of, parse_arguments
from trajrec.exchange.records import Call, Item, Message, Outcome, Turn
from trajrec.types import JsonObject, Value

MESSAGE = frozenset(("role", "content", "tool_calls", "tool_call_id", "function", "error"))

_KINDS: dict[str, Outcome] = {"timeout": "timeout", "cancelled": "cancelled"}
_ORIGINS = {"parsing": "agent", "approval": "user", "limit": "scaffold"}


def set_result(call: Call, result: Value, error: Value, place: Place) -> None:
    """Set the result of a call, or its error; Inspect says which of the two it is."""
    if error is None:
        call.outcome = "ok"
        call.has_result = True
        call.result = result
        return
    fields = place.expect(dict, error, "the error of a tool")
    kind = place.optional(str, fields.get("type"), "the type of an error", "unknown")
    call.outcome = _KINDS.get(kind, "error")
    call.origin = _ORIGINS.get(kind, "tool")
    call.error_type = kind
    call.error = place.optional(str, fields.get("message"), "the message of an error", "")
    # Beside an error, Inspect writes an empty text in place of no result.
    call.has_result = result not in (None, "")
    call.is_raised = not call.has_result
    call.result = result
    rest = {name: value for name, value in fields.items() if name not in ("type", "message")}
    if rest:
        call.result_extra = {"error": rest}
    if kind == "parsing" and not call.invalid:
        call.invalid = "unknown tool" if "not found" in call.error else "arguments"


def read_conversation(
    sample: JsonObject,
    messages: SampleMessages,
    items: list[Item],
    account: Account,
    place: Place,
) -> None:
    """Read the conversation of a sample that has no events."""
    waiting: list[Call] = []
    for number, value in enumerate(dicts_of(place, sample.get("messages"), "messages")):
        inner = place.at(f"messages[{number}]")
        account.take(value, "message", MESSAGE)
        message = messages.message(value)
        role = value.get("role")
        if role == "assistant":
            model = inner.optional(str, value.get("model"), "model", "")
            items.append(Turn(message=message, model=model))
            waiting += _calls_of(value, items, inner)
            continue
        items.append(Message(value=message))
        if role == "tool":
            call_id = inner.optional(str, value.get("tool_call_id"), "tool_call_id", "")
            call = next((call for call in waiting if call.call_id == call_id), None)
            if call is None:
                account.note("results whose calls are not in the log stand for calls without them")
                tool = inner.optional(str, value.get("function"), "function", "")
                call = Call(tool=tool, arguments={}, call_id=call_id)
                call.extra = {"unknown": "arguments"}
                items.append(call)
            else:
                waiting.remove(call)
            set_result(call, message.get("content"), value.get("error"), inner)


def _calls_of(value: JsonObject, items: list[Item], place: Place) -> list[Call]:
    calls = []
    for record in dicts_of(place, value.get("tool_calls"), "tool_calls"):
        arguments, invalid = parse_arguments(record.get("arguments"))
        calls.append(
            Call(
                tool=place.expect(str, record.get("function"), "function"),
                arguments=arguments,
                call_id=place.optional(str, record.get("id"), "id", ""),
                invalid=invalid,
            )
        )
    items += calls
    return calls
