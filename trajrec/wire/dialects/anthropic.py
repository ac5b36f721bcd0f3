"""Anthropic's messages, of its own servers, Bedrock's and Vertex's.

Source:
    https://docs.anthropic.com/en/api/messages, https://docs.anthropic.com/en/api/messages-streaming
"""

from __future__ import annotations

from typing import ClassVar

from trajrec.types import JsonObject, Value
from trajrec.wire.contents import (
    AnswerContent,
    ApiError,
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
    error_of,
    neutral_role,
    read_error,
    result_text,
    separator_of,
    text_of,
)
from trajrec.wire.dialects.streams import StreamEvent
from trajrec.wire.dialects.urls import model_in, path_of
from trajrec.wire.json_bodies import (
    NOT_JSON,
    as_count,
    as_dict,
    as_list,
    as_text,
    dicts_in,
    read_json,
)

_STREAMING_PATHS = ("/invoke-with-response-stream", ":streamRawPredict")


class Anthropic(JsonDialect):
    """Messages: a content is a text, or a list of blocks."""

    name: ClassVar[str] = "anthropic"

    def read_request(self, url: str, value: JsonObject) -> RequestContent:
        """Return the contents of a request from its body."""
        return RequestContent(
            value,
            model=as_text(value.get("model")) or model_in(url),
            parameters=all_but(value, "model", "messages", "system", "tools"),
            system=text_of(value.get("system"), "\n"),
            messages=as_list(value.get("messages")),
            tools=tuple(_offered(tool) for tool in dicts_in(value.get("tools"))),
            is_streamed=value.get("stream") is True or path_of(url).endswith(_STREAMING_PATHS),
        )

    def message(self, message: Value) -> Message:
        """Return one of the messages of a request, see `Dialect.message`."""
        fields = as_dict(message)
        role = neutral_role(fields.get("role"))
        content = fields.get("content")
        blocks = dicts_in(content)
        results = [
            _result(block, index)
            for index, block in enumerate(b for b in blocks if b.get("type") == "tool_result")
        ]
        text = text_of(content, separator_of(role))
        if results and len(results) == len(blocks):
            role = "tool"
            text = "\n".join(result.text for result in results)
        return Message(role, text or "", tuple(_calls(blocks)), tuple(results))

    def assemble(self, events: list[StreamEvent]) -> Assembled:
        """Put a streamed answer together."""
        return _MessageStream().read(events)

    def read_answer(self, value: JsonObject) -> AnswerContent:
        """Return the contents of a whole answer."""
        return AnswerContent(
            value,
            text=text_of(value.get("content"), ""),
            calls=tuple(_calls(dicts_in(value.get("content")))),
            finish_reason=as_text(value.get("stop_reason")),
            response_id=as_text(value.get("id")),
            model=as_text(value.get("model")),
            usage=anthropic_usage(value.get("usage")),
        )


def _calls(blocks: list[JsonObject]) -> list[ToolCall]:
    uses = [block for block in blocks if block.get("type") == "tool_use"]
    return [
        call_of(
            call_id=block.get("id"),
            name=block.get("name"),
            arguments=block.get("input"),
            number=index,
        )
        for index, block in enumerate(uses)
    ]


def _result(block: JsonObject, index: int) -> ToolResult:
    is_error = block.get("is_error")
    content = block.get("content")
    return ToolResult(
        call_id=as_text(block.get("tool_use_id")),
        name=None,
        text=result_text(content),
        content=content,
        # The API's default.
        is_error=is_error if type(is_error) is bool else False,
        number=index,
    )


def _offered(tool: JsonObject) -> OfferedTool:
    name = as_text(tool.get("name")) or as_text(tool.get("type")) or ""
    return OfferedTool(name, as_text(tool.get("description")), tool.get("input_schema"))


def anthropic_usage(value: Value) -> Usage:
    """Return the tokens of an answer by Anthropic's names, which count cached input apart.

    >>> anthropic_usage({"input_tokens": 3, "cache_read_input_tokens": 90, "output_tokens": 5})
    Usage(input=93, output=5, cached=90, cache_write=None, reasoning=None)
    """
    usage = as_dict(value)
    fresh = as_count(usage.get("input_tokens"))
    cached = as_count(usage.get("cache_read_input_tokens"))
    written = as_count(usage.get("cache_creation_input_tokens"))
    thinking = as_dict(usage.get("output_tokens_details")).get("thinking_tokens")
    return Usage(
        input=None if fresh is None else fresh + (cached or 0) + (written or 0),
        output=as_count(usage.get("output_tokens")),
        cached=cached,
        cache_write=written,
        reasoning=as_count(thinking),
    )


class _MessageStream:
    """The state of one stream while it is read."""

    def __init__(self) -> None:
        self._message: JsonObject = {}
        self._blocks: dict[Value, _Block] = {}
        self._is_done = False
        self._has_usage = False
        self._error: ApiError | None = None

    def read(self, events: list[StreamEvent]) -> Assembled:
        """Put all events of a stream together."""
        for event in events:
            value = event.value
            if event.is_exception:
                self._error = error_of({"type": event.name, **as_dict(value)})
            elif type(value) is dict:
                self._add(as_text(value.get("type")) or event.name, value)
        whole = self._message
        if self._blocks:
            content = [self._blocks[index].whole() for index in sorted(self._blocks)]
            whole = {**whole, "content": content}
        return Assembled(whole, self._is_done, self._error, self._has_usage)

    def _add(self, kind: str, event: JsonObject) -> None:
        if kind == "content_block_delta":
            index = as_count(event.get("index")) or 0
            block = self._blocks.get(index)
            if block is None:
                block = self._blocks[index] = _Block({})
            block.add(as_dict(event.get("delta")))
        elif kind == "content_block_start":
            index = as_count(event.get("index")) or 0
            self._blocks[index] = _Block(as_dict(event.get("content_block")))
        elif kind == "message_start":
            self._message = as_dict(event.get("message"))
        elif kind == "message_delta":
            self._end_message(event)
        elif kind == "message_stop":
            self._is_done = True
        elif kind == "error":
            self._error = read_error(0, event) or error_of(event)

    def _end_message(self, event: JsonObject) -> None:
        """Take the reason for the end, and the counts, which are totals and not increments."""
        self._message.update(as_dict(event.get("delta")))
        counts = {k: v for k, v in as_dict(event.get("usage")).items() if v is not None}
        self._has_usage = self._has_usage or "output_tokens" in counts
        self._message["usage"] = {**as_dict(self._message.get("usage")), **counts}


class _Block:
    """A block of the content while its pieces come."""

    def __init__(self, fields: JsonObject) -> None:
        self._fields = fields
        self._texts: dict[str, list[str]] = {}
        self._input: list[str] = []

    def add(self, delta: JsonObject) -> None:
        """Add a piece."""
        kind = delta.get("type")
        if kind == "input_json_delta":
            self._input.append(as_text(delta.get("partial_json")) or "")
        elif kind == "citations_delta":
            if type(self._fields.get("citations")) is not list:
                self._fields["citations"] = []
            self._fields["citations"].append(delta.get("citation"))
        elif kind == "signature_delta":
            self._fields["signature"] = delta.get("signature")
        else:
            self._add_texts(delta)

    def _add_texts(self, delta: JsonObject) -> None:
        for name, value in delta.items():
            if type(value) is str and name != "type":
                pieces = self._texts.get(name)
                if pieces is None:
                    begun = as_text(self._fields.get(name)) or ""
                    pieces = self._texts[name] = [begun]
                pieces.append(value)

    def whole(self) -> JsonObject:
        """Return the block as a whole answer has it; an input that is no JSON stays a text."""
        whole = {**self._fields, **{name: "".join(texts) for name, texts in self._texts.items()}}
        text = "".join(self._input)
        if text:
            value = read_json(text.encode("utf-8", "surrogatepass"))
            whole["input"] = text if value is NOT_JSON else value
        return whole
