"""OpenAI's Responses.

Source:
    https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from typing import ClassVar

from trajrec.types import JsonObject, Value
from trajrec.wire.contents import (
    AnswerContent,
    Message,
    OfferedTool,
    RequestContent,
    ToolCall,
    ToolResult,
    Usage,
)
from trajrec.wire.dialects.reading import (
    Assembled,
    JsonDialect,
    all_but,
    call_of,
    neutral_role,
    result_text,
    separator_of,
    system_of,
    text_of,
)
from trajrec.wire.dialects.responses_stream import ResponsesStream
from trajrec.wire.dialects.streams import StreamEvent
from trajrec.wire.json_bodies import as_count, as_dict, as_list, as_text, dicts_in, first_of

# Calls of OpenAI's own tools that the client runs, and the members that hold their arguments.
_OWN_CALLS = {
    "apply_patch_call": "operation",
    "computer_call": "action",
    "local_shell_call": "action",
    "shell_call": "action",
}

# The members of a request that stand in other places of its contents.
_CONTENTS = ("model", "input", "instructions", "tools", "previous_response_id")

_UNFINISHED = ("queued", "in_progress")

RESULTS = frozenset(
    (
        "function_call_output",
        "custom_tool_call_output",
        *(f"{kind}_output" for kind in _OWN_CALLS),
    )
)
"""The types of items that are results of tools."""


class Responses(JsonDialect):
    """Responses: the items of `input` are the messages, those of `output` the answer."""

    name: ClassVar[str] = "responses"

    def read_request(self, url: str, value: JsonObject) -> RequestContent:
        """Return the contents of a request from its body."""
        given = value.get("input")
        messages = [given] if type(given) is str else as_list(given)
        system = as_text(value.get("instructions"))
        return RequestContent(
            value,
            model=as_text(value.get("model")),
            parameters=all_but(value, *_CONTENTS),
            system=system_of(map(self.message, messages)) if system is None else system,
            messages=messages,
            tools=tuple(tool for given in dicts_in(value.get("tools")) for tool in _offered(given)),
            previous_response_id=as_text(value.get("previous_response_id")),
            is_streamed=value.get("stream") is True,
        )

    def message(self, message: Value) -> Message:
        """Return one of the items of a request, see `Dialect.message`."""
        if type(message) is str:
            return Message("user", message)
        item = as_dict(message)
        kind = item.get("type")
        if type(kind) is str and kind in RESULTS:
            result = _result(item)
            return Message("tool", result.text, results=(result,))
        call = item_call(item, 0)
        if call is not None:
            return Message("assistant", "", calls=(call,))
        role = neutral_role(item.get("role"))
        if not role and kind is not None and kind != "message":
            # Reasoning and calls that the provider ran: the model's own, without a text.
            return Message("assistant", "")
        return Message(role, text_of(item.get("content"), separator_of(role)) or "")

    def assemble(self, events: list[StreamEvent]) -> Assembled:
        """Put a streamed answer together."""
        return ResponsesStream().read(events)

    def read_answer(self, value: JsonObject) -> AnswerContent:
        """Return the contents of a whole answer."""
        output = dicts_in(value.get("output"))
        texts = [
            text
            for item in output
            if item.get("type") == "message"
            and (text := text_of(item.get("content"), "")) is not None
        ]
        reason = as_text(as_dict(value.get("incomplete_details")).get("reason"))
        return AnswerContent(
            value,
            text="".join(texts) if texts else None,
            calls=tuple(_calls(output)),
            finish_reason=reason or as_text(value.get("status")),
            response_id=as_text(value.get("id")),
            model=as_text(value.get("model")),
            usage=responses_usage(value.get("usage")),
            # In the background: the client asks for the answer later, by another address.
            is_complete=False if value.get("status") in _UNFINISHED else None,
        )


def _calls(output: list[JsonObject]) -> list[ToolCall]:
    """Return the calls that the client is to run: the provider gives the others' outputs too."""
    done = {
        item["call_id"]
        for item in output
        if type(item.get("type")) is str
        and item["type"].endswith("_output")
        and type(item.get("call_id")) is str
    }
    calls: list[ToolCall] = []
    for item in output:
        call = item_call(item, len(calls))
        if call is not None and call.call_id not in done:
            calls.append(call)
    return calls


def item_call(item: JsonObject, index: int) -> ToolCall | None:
    """Return the tool call of an item, None if it is another item."""
    kind = item.get("type")
    call_id = item.get("call_id")
    if kind == "function_call":
        return call_of(
            call_id=call_id, name=item.get("name"), arguments=item.get("arguments"), number=index
        )
    if kind == "custom_tool_call":
        # The input of a custom tool is free text.
        text = as_text(item.get("input")) or ""
        return ToolCall(as_text(call_id), as_text(item.get("name")), text, False, index)
    if type(kind) is str and kind in _OWN_CALLS:
        arguments = first_of(item, _OWN_CALLS[kind], "actions")
        name = kind.removesuffix("_call")
        return call_of(call_id=call_id, name=name, arguments=arguments, number=index)
    return None


def _result(item: JsonObject) -> ToolResult:
    output = item.get("output")
    # Only patches tell whether they failed.
    is_error = item.get("status") == "failed" if item["type"] == "apply_patch_call_output" else None
    return ToolResult(
        call_id=as_text(first_of(item, "call_id", "id")),
        name=as_text(item.get("name")),
        text=result_text(output),
        content=output,
        is_error=is_error,
        number=0,
    )


def _offered(tool: JsonObject) -> list[OfferedTool]:
    """Return the tool of a description, or the tools of a namespace."""
    if tool.get("type") == "namespace":
        return [offered for inner in dicts_in(tool.get("tools")) for offered in _flat(inner)]
    return _flat(tool)


def _flat(tool: JsonObject) -> list[OfferedTool]:
    kind = as_text(tool.get("type")) or ""
    name = as_text(first_of(tool, "name", "server_label")) or kind
    return [OfferedTool(name, as_text(tool.get("description")), tool.get("parameters"))]


def responses_usage(value: Value) -> Usage:
    """Return the tokens of an answer by the names of Responses.

    >>> responses_usage({"input_tokens": 9, "output_tokens": 3}).input
    9
    """
    usage = as_dict(value)
    details = as_dict(usage.get("input_tokens_details"))
    return Usage(
        input=as_count(usage.get("input_tokens")),
        output=as_count(usage.get("output_tokens")),
        cached=as_count(details.get("cached_tokens")),
        cache_write=as_count(details.get("cache_write_tokens")),
        reasoning=as_count(as_dict(usage.get("output_tokens_details")).get("reasoning_tokens")),
    )
