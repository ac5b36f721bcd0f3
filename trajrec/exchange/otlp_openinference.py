"""Spans in the words of OpenInference, which writes lists as numbered attributes."""

from __future__ import annotations

from trajrec.exchange.chat import assistant, tool_call, usage_of_counts
from trajrec.exchange.otlp_genai import as_text, json_value, odd_names
from trajrec.exchange.otlp_spans import Span
from trajrec.exchange.reading import Place, parse_arguments, texts_by_key
from trajrec.exchange.records import Call, Turn
from trajrec.types import JsonObject, Value

KIND = "openinference.span.kind"
KINDS = {"LLM": "model", "TOOL": "tool", "AGENT": "agent"}
"""Kind -> what it is of an agent."""

MAX_ITEMS = 100_000
"""The largest number of an item: a hostile attribute could name any."""

_PREFIXES = ("llm.input_messages.", "llm.output_messages.", "llm.tools.")
_COUNTS = "llm.token_count."


def turn_of(span: Span, place: Place) -> Turn:
    """Return the turn of a call of a model."""
    attributes = span.attributes
    lists = {prefix: _items(attributes, prefix) for prefix in _PREFIXES}
    span.take_text(KIND)
    span.taken |= {name for name in attributes if name.startswith(_PREFIXES)}
    request = [_message(item, "llm.input_messages.") for item in lists["llm.input_messages."]]
    outputs = [_message(item, "llm.output_messages.") for item in lists["llm.output_messages."]]
    tools = [
        json_value(texts_by_key(item.get("tool")).get("json_schema"), place)
        for item in lists["llm.tools."]
    ]
    parameters = json_value(span.take("llm.invocation_parameters"), place)
    given: JsonObject = parameters if type(parameters) is dict else {}
    if type(parameters) is not dict and parameters is not None:
        given = {"invocation_parameters": parameters}
    if tools:
        given = {**given, "tools": tools}
    usage = usage_of_counts(
        input_tokens=span.take(_COUNTS + "prompt"),
        output_tokens=span.take(_COUNTS + "completion"),
        cached=span.take(_COUNTS + "prompt_details.cache_read"),
        cache_write=span.take(_COUNTS + "prompt_details.cache_write"),
        reasoning=span.take(_COUNTS + "completion_details.reasoning"),
    )
    answer: JsonObject = {"choices": [{"index": 0, "message": _merged(outputs)}]}
    if len(outputs) > 1:
        answer["output_messages"] = outputs
    if usage is not None:
        answer["usage"] = usage
    return Turn(
        message=None,
        model=span.take_text("llm.model_name"),
        request=list(request),
        answer=answer if outputs or usage else None,
        parameters={key: value for key, value in given.items() if key != "messages"} or None,
        start_ns=span.start_ns,
        end_ns=span.end_ns,
        error=span.error or "",
        error_type="error" if span.error is not None else "",
        extra=span.leftovers(),
    )


def call_of(span: Span, place: Place) -> Call:
    """Return the call of a tool."""
    span.take_text(KIND)
    given = span.take("input.value")
    arguments, invalid = parse_arguments(given)
    if invalid:
        # A tool may take a text that is no call of a model.
        arguments = {"input": given}
    result = span.take("output.value")
    return Call(
        tool=span.take_text("tool.name") or span.name,
        arguments=arguments,
        call_id=span.take_text("tool_call.id") or span.take_text("tool.id"),
        start_ns=span.start_ns,
        end_ns=span.end_ns,
        has_result=result is not None,
        result=result,
        outcome="error" if span.error is not None else "ok",
        is_raised=span.error is not None and result is None,
        origin="" if span.error is None else "tool",
        error_type="" if span.error is None else "error",
        error=span.error or "",
        extra=span.leftovers(),
    )


def _items(attributes: JsonObject, prefix: str) -> list[JsonObject]:
    """Return numbered attributes as a list of nested objects."""
    items: dict[int, JsonObject] = {}
    for name, value in attributes.items():
        if not name.startswith(prefix):
            continue
        first, *path = name.removeprefix(prefix).split(".")
        number = int(first) if first.isascii() and first.isdigit() and len(first) < 6 else -1
        at: JsonObject = items.setdefault(number, {})
        for key in path[:-1]:
            inner = at.get(key)
            if type(inner) is not dict:
                inner = at[key] = {} if inner is None else {"": inner}
            at = inner
        at[path[-1] if path else ""] = value
    return [items[number] for number in sorted(items)]


def _numbered(value: Value) -> list[Value]:
    """Return the items of an object whose keys are numbers."""
    fields = texts_by_key(value)
    keys = sorted(fields, key=lambda key: (len(key), key))
    return [fields[key] for key in keys]


def _message(item: JsonObject, prefix: str) -> JsonObject:
    fields = texts_by_key(item.get("message"))
    calls = []
    for entry in _numbered(fields.get("tool_calls")):
        call = texts_by_key(texts_by_key(entry).get("tool_call"))
        function = texts_by_key(call.get("function"))
        value = tool_call(
            as_text(call.get("id")),
            as_text(function.get("name")),
            function.get("arguments", ""),
        )
        others = {key: field for key, field in call.items() if key not in ("id", "function")}
        inner = {key: f for key, f in function.items() if key not in ("name", "arguments")}
        value["function"] |= inner | odd_names(function)
        calls.append(value | others | odd_names(call))
    content = fields.get("content")
    blocks = [
        {
            key: texts_by_key(texts_by_key(entry).get("message_content"))[key]
            for key in texts_by_key(texts_by_key(entry).get("message_content"))
        }
        for entry in _numbered(fields.get("contents"))
    ]
    known = ("role", "content", "contents", "tool_calls", "tool_call_id", "name")
    rest = {key: value for key, value in fields.items() if key not in known}
    rest |= {key: value for key, value in item.items() if key != "message"}
    message = assistant(content if content is not None else blocks or None, calls, **rest)
    role = fields.get("role")
    message["role"] = role if type(role) is str else "user"
    if role is not None and type(role) is not str:
        message["original_role"] = role
    for key in ("tool_call_id", "name"):
        if fields.get(key) is not None:
            message[key] = fields[key]
    if content is not None and blocks and blocks != [{"type": "text", "text": content}]:
        message["contents"] = blocks
    return message


def _merged(messages: list[JsonObject]) -> JsonObject:
    """Return several messages of one answer as one."""
    if len(messages) == 1:
        return messages[0]
    contents = [message["content"] for message in messages if message.get("content") is not None]
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    only = contents[0] if len(contents) == 1 else None
    return assistant(only if len(contents) < 2 else "\n".join(map(str, contents)), calls)
