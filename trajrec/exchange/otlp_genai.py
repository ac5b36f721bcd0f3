"""Spans in the words of OpenTelemetry's conventions for generative models (`gen_ai.*`)."""

from __future__ import annotations

from trajrec.errors import ImportFileError
from trajrec.exchange.chat import assistant, json_text, tool_call, tool_result, usage_of_counts
from trajrec.exchange.otlp_spans import Span
from trajrec.exchange.reading import Place, parse_arguments, parse_json, texts_by_key
from trajrec.exchange.records import Call, Outcome, Turn
from trajrec.types import JsonObject, Value

OPERATION = "gen_ai.operation.name"
KINDS = {
    "chat": "model",
    "generate_content": "model",
    "text_completion": "model",
    "execute_tool": "tool",
    "invoke_agent": "agent",
    "create_agent": "agent",
    "invoke_workflow": "agent",
}
"""Operation -> what it is of an agent."""

_DICTS = frozenset((dict,))
_REQUEST = "gen_ai.request."
_INPUT = "gen_ai.input.messages"
# As our own exports, those of OpenLIT, and those of pydantic-ai name it.
_COST = ("gen_ai.usage.cost", "operation.cost")
ATTEMPT = "trajrec.attempt"
"""The number of a retry in our own exports: the conventions know none."""
_OUTCOMES: dict[Value, Outcome] = {
    name: name for name in ("ok", "error", "timeout", "cancelled", "unknown", "open")
}
"""Outcomes that our own exports state: the conventions know only errors."""


def turn_of(span: Span, place: Place) -> Turn:
    """Return the turn of a call of a model."""
    span.take_text(OPERATION)
    requested = {
        name.removeprefix(_REQUEST): span.take(name)
        for name in span.attributes
        if name.startswith(_REQUEST)
    }
    system = json_value(span.take("gen_ai.system_instructions"), place)
    request: list[Value] = []
    if system is not None:
        request.append({"role": "system", "content": _content(system)})
    request += _messages(span, _INPUT, place)
    answers = _messages(span, "gen_ai.output.messages", place, "assistant")
    reasons = span.take("gen_ai.response.finish_reasons", list) or []
    choices = []
    for number, message in enumerate(answers):
        choice: JsonObject = {"index": number, "message": message}
        reason = reasons[number] if number < len(reasons) else message.get("finish_reason")
        if reason is not None:
            choice["finish_reason"] = reason
        choices.append(choice)
    usage = usage_of_counts(
        input_tokens=span.take("gen_ai.usage.input_tokens"),
        output_tokens=span.take("gen_ai.usage.output_tokens"),
        cached=span.take("gen_ai.usage.cache_read.input_tokens"),
        cache_write=span.take("gen_ai.usage.cache_creation.input_tokens"),
        reasoning=span.take("gen_ai.usage.reasoning.output_tokens"),
        cost=_cost(span),
    )
    answer: JsonObject = {"choices": choices}
    for name, value in (
        ("id", span.take("gen_ai.response.id")),
        ("model", span.take("gen_ai.response.model")),
        ("usage", usage),
        ("finish_reasons", reasons[len(choices) :] or None),
    ):
        if value is not None:
            answer[name] = value
    tools = json_value(span.take("gen_ai.tool.definitions"), place)
    if tools is not None:
        requested["tools"] = tools
    # A model of another type stays among the parameters.
    model = requested.pop("model") if type(requested.get("model")) is str else ""
    has_failed = span.error is not None or "error.type" in span.attributes
    return Turn(
        message=None,
        model=model,
        # Content is opt-in: without it the request is unknown, and not empty.
        request=request if request or _INPUT in span.taken else None,
        answer=answer if len(answer) > 1 or choices else None,
        parameters=requested or None,
        start_ns=span.start_ns,
        end_ns=span.end_ns,
        error=span.error or "",
        error_type=span.take_text("error.type") or ("error" if has_failed else ""),
        attempt=_attempt(span),
        extra=span.leftovers(),
    )


def _cost(span: Span) -> Value:
    """Return the price that a span states, for which the conventions have no name of their own."""
    for name in _COST:
        cost = span.take(name, int, float)
        if cost is not None:
            return cost
    return None


def call_of(span: Span, place: Place) -> Call:
    """Return the call of a tool."""
    span.take_text(OPERATION)
    arguments, invalid = parse_arguments(span.take("gen_ai.tool.call.arguments"))
    result = span.take("gen_ai.tool.call.result")
    name = span.take("gen_ai.tool.name", str)
    has_failed = span.error is not None or "error.type" in span.attributes
    return Call(
        tool=span.name if name is None else name,
        arguments=arguments,
        call_id=span.take_text("gen_ai.tool.call.id"),
        invalid=invalid,
        start_ns=span.start_ns,
        end_ns=span.end_ns,
        has_result=result is not None,
        result=result,
        outcome=_outcome(span, has_failed=has_failed),
        is_raised=has_failed and result is None,
        origin="tool" if has_failed else "",
        error_type=span.take_text("error.type") or ("error" if has_failed else ""),
        error=span.error or "",
        extra=span.leftovers(),
    )


def _attempt(span: Span) -> int:
    number = span.attributes.get(ATTEMPT)
    if type(number) is not int or not 0 <= number < 1 << 31:
        return 0
    span.take(ATTEMPT)
    return number


def _outcome(span: Span, *, has_failed: bool) -> Outcome:
    stated = _OUTCOMES.get(span.text("trajrec.outcome"))
    # A span that says that it failed has failed.
    if stated is None or (stated == "ok" and has_failed):
        return "error" if has_failed else "ok"
    span.take("trajrec.outcome")
    return stated


def _messages(span: Span, name: str, place: Place, default_role: str = "user") -> list[JsonObject]:
    """Return the messages of an attribute; one that is no list is a leftover."""
    messages = json_value(span.attributes.get(name), place)
    if type(messages) is not list:
        return []
    span.take(name)
    return [converted for message in messages for converted in messages_of(message, default_role)]


def messages_of(message: Value, default_role: str = "user") -> list[JsonObject]:
    """Return a message with parts as messages of the API of chats: a result becomes its own.

    >>> messages_of({"role": "user", "parts": [{"type": "text", "content": "Hi"}]})
    [{'role': 'user', 'content': 'Hi'}]
    """
    fields = texts_by_key(message)
    parts = [] if fields.get("parts") is None else fields["parts"]
    if fields is not message or type(parts) is not list or not _DICTS.issuperset(map(type, parts)):
        # Of another form: as it stands.
        return [{"role": default_role, "content": message}]
    others = {name: value for name, value in fields.items() if name not in ("role", "parts")}
    calls = [_call(part) for part in parts if part.get("type") == "tool_call"]
    results = [_result(part) for part in parts if part.get("type") == "tool_call_response"]
    rest = [p for p in parts if p.get("type") not in ("tool_call", "tool_call_response")]
    converted: list[JsonObject] = list(results)
    if rest or calls or not results or others:
        role = fields.get("role")
        value = assistant(_content(rest), calls, **others)
        value["role"] = role if type(role) is str else default_role
        if role is not None and type(role) is not str:
            value["original_role"] = role
        converted.append(value)
    return converted


def _call(part: JsonObject) -> JsonObject:
    others = ("type", "id", "name", "arguments")
    call = tool_call(as_text(part.get("id")), as_text(part.get("name")), part.get("arguments"))
    return (
        call | {name: value for name, value in part.items() if name not in others} | odd_names(part)
    )


def _result(part: JsonObject) -> JsonObject:
    name = "response" if "response" in part else "result"
    others = {key: value for key, value in part.items() if key not in ("type", "id", name)}
    return others | tool_result(as_text(part.get("id")), part.get(name)) | odd_names(part)


def as_text(value: Value) -> str:
    """Return a text, or the JSON text of another value; "" for None."""
    return "" if value is None else value if type(value) is str else json_text(value)


def odd_names(part: JsonObject) -> JsonObject:
    """Return the id, name and arguments of a call as they stand, if text would change their type."""
    texts = (str, type(None))
    kinds = {"id": texts, "name": texts, "arguments": (*texts, dict, list)}
    return {f"original_{key}": part[key] for key in kinds if type(part.get(key)) not in kinds[key]}


def _content(parts: Value) -> Value:
    """Return parts as content: a text if they are nothing else."""
    if type(parts) is not list:
        return parts
    if len(parts) == 1 and _is_text(parts[0]):
        return parts[0]["content"]
    return [
        {"type": "text", "text": part["content"]} if _is_text(part) else part for part in parts
    ] or None


def _is_text(part: Value) -> bool:
    is_plain = type(part) is dict and part.keys() == {"type", "content"}
    return is_plain and part["type"] == "text"


def json_value(value: Value, place: Place) -> Value:
    """Return the value of an attribute that holds JSON as text, or is a value itself."""
    if type(value) is not str:
        return value
    try:
        return parse_json(value, path=place.path)
    except ImportFileError:
        return value
