"""Spans in the words of OpenTelemetry's conventions for generative models (`gen_ai.*`)."""

from __future__ import annotations

from trajrec.errors import ImportFileError
from trajrec.exchange.chat import assistant, tool_call, tool_result, usage_of_counts
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

_REQUEST = "gen_ai.request."
ATTEMPT = "trajrec.attempt"
"""The number of a retry in our own exports: the conventions know none."""
_MODEL = (
    OPERATION,
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.response.model",
    "gen_ai.response.id",
    "gen_ai.response.finish_reasons",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.tool.definitions",
    "error.type",
    ATTEMPT,
)
_TOOL = (
    OPERATION,
    "gen_ai.tool.name",
    "gen_ai.tool.call.id",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "error.type",
    "trajrec.outcome",
)
_OUTCOMES: dict[Value, Outcome] = {
    name: name for name in ("ok", "error", "timeout", "cancelled", "unknown", "open")
}
"""Outcomes that our own exports state: the conventions know only errors."""


def turn_of(span: Span, place: Place) -> Turn:
    """Return the turn of a call of a model."""
    attributes = span.attributes
    requested = {
        name.removeprefix(_REQUEST): value
        for name, value in attributes.items()
        if name.startswith(_REQUEST)
    }
    used = {*_MODEL, *(name for name in attributes if name.startswith(_REQUEST))}
    system = json_value(attributes.get("gen_ai.system_instructions"), place)
    request: list[Value] = []
    if system is not None:
        request.append({"role": "system", "content": _content(system)})
    for message in _list(json_value(attributes.get("gen_ai.input.messages"), place)):
        request += messages_of(message)
    answers = [
        converted
        for message in _list(json_value(attributes.get("gen_ai.output.messages"), place))
        for converted in messages_of(message)
    ]
    reasons = _list(attributes.get("gen_ai.response.finish_reasons"))
    choices = []
    for number, message in enumerate(answers):
        choice: JsonObject = {"index": number, "message": message}
        reason = reasons[number] if number < len(reasons) else message.get("finish_reason")
        if reason is not None:
            choice["finish_reason"] = reason
        choices.append(choice)
    usage = usage_of_counts(
        input_tokens=attributes.get("gen_ai.usage.input_tokens"),
        output_tokens=attributes.get("gen_ai.usage.output_tokens"),
        cached=attributes.get("gen_ai.usage.cache_read.input_tokens"),
    )
    answer: JsonObject = {"choices": choices}
    for name, value in (
        ("id", attributes.get("gen_ai.response.id")),
        ("model", attributes.get("gen_ai.response.model")),
        ("usage", usage),
        ("finish_reasons", reasons[len(choices) :] or None),
    ):
        if value is not None:
            answer[name] = value
    tools = json_value(attributes.get("gen_ai.tool.definitions"), place)
    if tools is not None:
        requested["tools"] = tools
    has_failed = span.error is not None or "error.type" in attributes
    return Turn(
        message=None,
        model=str(requested.pop("model", "")),
        # Content is opt-in: without it the request is unknown, and not empty.
        request=request,
        answer=answer if len(answer) > 1 or choices else None,
        parameters=requested or None,
        start_ns=span.start_ns,
        end_ns=span.end_ns,
        error=span.error or "",
        error_type=span.text("error.type") or ("error" if has_failed else ""),
        attempt=_attempt(attributes.get(ATTEMPT)),
        extra=span.leftovers(used),
    )


def call_of(span: Span, place: Place) -> Call:
    """Return the call of a tool."""
    attributes = span.attributes
    arguments, invalid = parse_arguments(attributes.get("gen_ai.tool.call.arguments"))
    result = attributes.get("gen_ai.tool.call.result")
    name = attributes.get("gen_ai.tool.name")
    has_failed = span.error is not None or "error.type" in attributes
    return Call(
        tool=name if type(name) is str else span.name,
        arguments=arguments,
        call_id=span.text("gen_ai.tool.call.id"),
        invalid=invalid,
        start_ns=span.start_ns,
        end_ns=span.end_ns,
        has_result=result is not None,
        result=result,
        outcome=_outcome(attributes.get("trajrec.outcome"), has_failed=has_failed),
        is_raised=has_failed and result is None,
        origin="tool" if has_failed else "",
        error_type=span.text("error.type") or ("error" if has_failed else ""),
        error=span.error or "",
        extra=span.leftovers(set(_TOOL)),
    )


def _attempt(number: Value) -> int:
    return number if type(number) is int and 0 < number < 1 << 31 else 0


def _outcome(stated: Value, *, has_failed: bool) -> Outcome:
    outcome: Outcome = "error" if has_failed else "ok"
    is_stated = type(stated) is str and stated in _OUTCOMES
    # A span that says that it failed has failed.
    return _OUTCOMES[stated] if is_stated and (stated != "ok" or not has_failed) else outcome


def messages_of(message: Value) -> list[JsonObject]:
    """Return a message with parts as messages of the API of chats: a result becomes its own.

    >>> messages_of({"role": "user", "parts": [{"type": "text", "content": "Hi"}]})
    [{'role': 'user', 'content': 'Hi'}]
    """
    fields = texts_by_key(message)
    parts = [texts_by_key(part) for part in _list(fields.get("parts"))]
    others = {name: value for name, value in fields.items() if name not in ("role", "parts")}
    calls = [_call(part) for part in parts if part.get("type") == "tool_call"]
    results = [
        tool_result(str(part.get("id") or ""), part.get("response", part.get("result")))
        for part in parts
        if part.get("type") == "tool_call_response"
    ]
    rest = [p for p in parts if p.get("type") not in ("tool_call", "tool_call_response")]
    converted: list[JsonObject] = list(results)
    if rest or calls or not results or others:
        role = fields.get("role")
        value = assistant(_content(rest), calls, **others)
        value["role"] = role if type(role) is str else "user"
        if role is not None and type(role) is not str:
            value["original_role"] = role
        converted.append(value)
    return converted


def _call(part: JsonObject) -> JsonObject:
    others = ("type", "id", "name", "arguments")
    call = tool_call(str(part.get("id") or ""), str(part.get("name") or ""), part.get("arguments"))
    return call | {name: value for name, value in part.items() if name not in others}


def _content(parts: Value) -> Value:
    """Return parts as content: a text if they are nothing else."""
    if type(parts) is not list:
        return parts
    texts = [texts_by_key(part) for part in parts]
    if not texts:
        return None
    if len(texts) == 1 and texts[0].keys() == {"type", "content"} and texts[0]["type"] == "text":
        return texts[0]["content"]
    return [
        {"type": "text", "text": part["content"]}
        if part.keys() == {"type", "content"} and part["type"] == "text"
        else part
        for part in texts
    ]


def json_value(value: Value, place: Place) -> Value:
    """Return the value of an attribute that holds JSON as text, or is a value itself."""
    if type(value) is not str:
        return value
    try:
        return parse_json(value, path=place.path)
    except ImportFileError:
        return value


def _list(value: Value) -> list[Value]:
    return value if type(value) is list else []
