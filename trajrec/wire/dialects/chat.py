"""OpenAI's chat completions, which most other servers speak too.

Source:
    https://platform.openai.com/docs/api-reference/chat
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
from trajrec.wire.dialects.chat_stream import ChatStream
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
from trajrec.wire.dialects.streams import StreamEvent
from trajrec.wire.dialects.urls import model_in
from trajrec.wire.json_bodies import as_count, as_dict, as_list, as_text, dicts_in, first_of


class Chat(JsonDialect):
    """Chat completions."""

    name: ClassVar[str] = "chat"

    def read_request(self, url: str, value: JsonObject) -> RequestContent:
        """Return the contents of a request from its body."""
        messages = as_list(value.get("messages"))
        return RequestContent(
            value,
            model=as_text(value.get("model")) or model_in(url),
            parameters=all_but(value, "model", "messages", "tools", "functions"),
            system=system_of(map(self.message, messages)),
            messages=messages,
            tools=tuple(offered_tools(value)),
            is_streamed=value.get("stream") is True,
        )

    def message(self, message: Value) -> Message:
        """Return one of the messages of a request, see `Dialect.message`."""
        fields = as_dict(message)
        role = neutral_role(fields.get("role"))
        text = text_of(fields.get("content"), separator_of(role)) or ""
        if role != "tool":
            return Message(role, text, calls=tuple(message_calls(fields)))
        content = fields.get("content")
        # Ollama and the older form of OpenAI name the tool.
        name = as_text(first_of(fields, "name", "tool_name"))
        call_id = as_text(fields.get("tool_call_id"))
        result = ToolResult(call_id, name, result_text(content), content, None, 0)
        return Message(role, text, results=(result,))

    def assemble(self, events: list[StreamEvent]) -> Assembled:
        """Put a streamed answer together."""
        return ChatStream().read(events)

    def read_answer(self, value: JsonObject) -> AnswerContent:
        """Return the contents of a whole answer."""
        choices = dicts_in(value.get("choices"))
        first = choices[0] if choices else {}
        calls: list[ToolCall] = []
        for number, choice in enumerate(choices):
            message = as_dict(choice.get("message"))
            calls += message_calls(message, first=len(calls), choice=number)
        text = text_of(as_dict(first.get("message")).get("content"), "")
        return AnswerContent(
            value,
            # Legacy completions have their text there.
            text=text if text is not None else as_text(first.get("text")),
            calls=tuple(calls),
            finish_reason=as_text(first.get("finish_reason")),
            response_id=as_text(value.get("id")),
            model=as_text(value.get("model")),
            usage=chat_usage(value.get("usage")),
        )


def message_calls(message: JsonObject, first: int = 0, choice: int = 0) -> list[ToolCall]:
    """Return the tool calls of a message of an assistant; their numbers begin with `first`."""
    calls: list[ToolCall] = []
    for call in dicts_in(message.get("tool_calls")):
        index = first + len(calls)
        if type(call.get("custom")) is dict:
            custom = call["custom"]
            # The input of a custom tool is free text.
            text = as_text(custom.get("input")) or ""
            call_id = as_text(call.get("id"))
            calls.append(ToolCall(call_id, as_text(custom.get("name")), text, False, index, choice))
            continue
        calls.append(_function_call(call.get("id"), call.get("function"), index, choice))
    if type(message.get("function_call")) is dict:
        # The form before tools: one call without an id.
        index = first + len(calls)
        calls.append(_function_call(None, message["function_call"], index, choice))
    return calls


def _function_call(call_id: Value, function: Value, index: int, choice: int) -> ToolCall:
    fields = as_dict(function)
    return call_of(
        call_id=call_id,
        name=fields.get("name"),
        arguments=fields.get("arguments"),
        number=index,
        choice=choice,
    )


def offered_tools(value: JsonObject) -> list[OfferedTool]:
    """Return the tools that a request offers, `functions` of the older form too."""
    tools = [_offered(tool) for tool in dicts_in(value.get("tools"))]
    return tools + [_offered({"function": tool}) for tool in dicts_in(value.get("functions"))]


def _offered(tool: JsonObject) -> OfferedTool:
    fields = as_dict(first_of(tool, "function", "custom"))
    name = as_text(fields.get("name")) or as_text(tool.get("type")) or ""
    return OfferedTool(name, as_text(fields.get("description")), fields.get("parameters"))


def chat_usage(value: Value) -> Usage:
    """Return the tokens of an answer by OpenAI's names.

    >>> chat_usage({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12})
    Usage(input=9, output=3, cached=None, cache_write=None, reasoning=None)
    """
    usage = as_dict(value)
    details = as_dict(usage.get("prompt_tokens_details"))
    return Usage(
        input=as_count(usage.get("prompt_tokens")),
        output=as_count(usage.get("completion_tokens")),
        cached=as_count(details.get("cached_tokens")),
        cache_write=as_count(details.get("cache_write_tokens")),
        reasoning=as_count(as_dict(usage.get("completion_tokens_details")).get("reasoning_tokens")),
    )
