"""Spans in the words of OpenInference, which writes lists as numbered attributes."""

from __future__ import annotations

import re

from trajrec.exchange.chat import assistant, tool_call, usage_of_counts
from trajrec.exchange.otlp_genai import as_text, json_value, odd_names
from trajrec.exchange.otlp_spans import Span
from trajrec.exchange.reading import Place, parse_arguments, texts_by_key
from trajrec.exchange.records import Call, Turn
from trajrec.types import JsonObject, Value

KIND = "openinference.span.kind"
KINDS = {"LLM": "model", "TOOL": "tool", "AGENT": "agent"}
"""Kind -> what it is of an agent."""

_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}")
_PARAMETERS = "llm.invocation_parameters"
_COUNTS = "llm.token_count."


def turn_of(span: Span, place: Place) -> Turn:
    """Return the turn of a call of a model."""
    attributes = span.attributes
    span.take_text(KIND)
    request = [_message(item, "user") for item in _items(span, "llm.input_messages.")]
    outputs = [_message(item, "assistant") for item in _items(span, "llm.output_messages.")]
    tools = [_tool(item, place) for item in _items(span, "llm.tools.")]
    parameters = json_value(attributes.get(_PARAMETERS), place)
    given: JsonObject = parameters if type(parameters) is dict else {}
    if "messages" not in given and not (tools and "tools" in given):
        # Messages and tools among them need not be those of the lists: they stay as they stand.
        span.take(_PARAMETERS)
    if type(parameters) is not dict and parameters is not None:
        given = {"invocation_parameters": parameters}
    model = span.text("llm.model_name")
    if given.get("model") in (None, model):
        # Else it may be that of the answer: the model of the request stands in the parameters.
        span.take_text("llm.model_name")
    if tools:
        given = {**given, "tools": tools}
    usage = usage_of_counts(
        input_tokens=span.take(_COUNTS + "prompt"),
        output_tokens=span.take(_COUNTS + "completion"),
        cached=span.take(_COUNTS + "prompt_details.cache_read"),
        cache_write=span.take(_COUNTS + "prompt_details.cache_write"),
        reasoning=span.take(_COUNTS + "completion_details.reasoning"),
        cost=span.take("llm.cost.total", int, float),
    )
    answer: JsonObject = {"choices": [{"index": 0, "message": _merged(outputs)}]}
    if len(outputs) > 1:
        answer["output_messages"] = outputs
    if usage is not None:
        answer["usage"] = usage
    return Turn(
        message=None,
        model=model,
        # Content is opt-in: without it the request is unknown, and not empty.
        request=list(request) or None,
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


def _items(span: Span, prefix: str) -> list[JsonObject]:
    """Return numbered attributes as a list of nested objects.

    An attribute whose place another one has, or whose number is none, is a leftover.
    """
    items: dict[int, JsonObject] = {}
    for name, value in span.attributes.items():
        if not name.startswith(prefix):
            continue
        first, *path = name.removeprefix(prefix).split(".")
        # A hostile attribute could name any number, and write it in several ways.
        if not _NUMBER.fullmatch(first):
            continue
        at: Value = items.setdefault(int(first), {})
        for key in path[:-1]:
            at = at.setdefault(key, {}) if type(at) is dict else None
        last = path[-1] if path else ""
        if type(at) is dict and last not in at:
            at[last] = value
            span.take(name)
    return [items[number] for number in sorted(items)]


def _tool(item: JsonObject, place: Place) -> Value:
    """Return the schema of a tool; an item that has other fields as it stands."""
    tool = item.get("tool")
    if item.keys() == {"tool"} and type(tool) is dict and tool.keys() == {"json_schema"}:
        return json_value(tool["json_schema"], place)
    return item


def _entries(value: Value, name: str) -> tuple[list[JsonObject], bool]:
    """Return the objects of a numbered list, and whether it holds nothing else.

    Args:
        value: An object whose keys are numbers: of each item, the field `name` is the object.
        name: The name.
    """
    fields = texts_by_key(value)
    keys = sorted(fields, key=lambda key: (len(key), key))
    items = [texts_by_key(fields[key]) for key in keys]
    entries = [texts_by_key(item.get(name)) for item in items]
    is_whole = all(item.keys() == {name} and type(item[name]) is dict for item in items)
    return entries, is_whole and type(value) in (dict, type(None))


def _message(item: JsonObject, default_role: str) -> JsonObject:
    """Return a message in the form of chats; parts of another form stay as they stand."""
    fields = texts_by_key(item.get("message"))
    asked, has_only_calls = _entries(fields.get("tool_calls"), "tool_call")
    calls = list(map(_call, asked))
    content = fields.get("content")
    blocks, has_only_blocks = _entries(fields.get("contents"), "message_content")
    known = ("role", "content", "contents", "tool_calls", "tool_call_id", "name")
    rest = {key: value for key, value in fields.items() if key not in known}
    beside = {key: value for key, value in item.items() if value is not fields}
    if beside:
        rest["original_item"] = beside
    if not has_only_calls:
        rest["original_tool_calls"] = fields["tool_calls"]
    if not has_only_blocks:
        rest["original_contents"] = fields["contents"]
    message = assistant(content if content is not None else blocks or None, calls) | rest
    role = fields.get("role")
    message["role"] = role if type(role) is str else default_role
    if role is not None and type(role) is not str:
        message["original_role"] = role
    for key in ("tool_call_id", "name"):
        if fields.get(key) is not None:
            message[key] = fields[key]
    if content is not None and blocks and blocks != [{"type": "text", "text": content}]:
        message["contents"] = blocks
    return message


def _call(call: JsonObject) -> JsonObject:
    """Return a call in the form of chats."""
    function = texts_by_key(call.get("function"))
    value = tool_call(
        as_text(call.get("id")),
        as_text(function.get("name")),
        function.get("arguments", ""),
    )
    others = {key: field for key, field in call.items() if key not in ("id", "function")}
    inner = {key: f for key, f in function.items() if key not in ("name", "arguments")}
    value["function"] |= inner | odd_names(function)
    if call.get("function") is not None and function is not call["function"]:
        others["original_function"] = call["function"]
    return value | others | odd_names(call)


def _merged(messages: list[JsonObject]) -> JsonObject:
    """Return several messages of one answer as one."""
    if len(messages) == 1:
        return messages[0]
    contents = [message["content"] for message in messages if message.get("content") is not None]
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    if len(contents) < 2:
        return assistant(contents[0] if contents else None, calls)
    if all(type(content) is str for content in contents):
        return assistant("\n".join(contents), calls)
    blocks: list[Value] = []
    for content in contents:
        is_text = type(content) is str
        part = [{"type": "text", "text": content}] if is_text else content
        blocks += part if type(part) is list else [part]
    return assistant(blocks, calls)
