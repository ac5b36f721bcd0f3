"""Amazon Bedrock's Converse.

Source:
    https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html,
    https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
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
from trajrec.wire.dialects.chat_stream import merged
from trajrec.wire.dialects.reading import (
    Assembled,
    JsonDialect,
    all_but,
    call_of,
    error_of,
    neutral_role,
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
    to_text,
)


class Bedrock(JsonDialect):
    """Converse: the member of a block tells its kind."""

    name: ClassVar[str] = "bedrock"

    def read_request(self, url: str, value: JsonObject) -> RequestContent:
        """Return the contents of a request from its body."""
        tools = dicts_in(as_dict(value.get("toolConfig")).get("tools"))
        return RequestContent(
            value,
            model=model_in(url),
            parameters=all_but(
                value, "messages", "system", "toolConfig", flat=("inferenceConfig",)
            ),
            system=text_of(value.get("system"), "\n"),
            messages=as_list(value.get("messages")),
            tools=tuple(
                _offered(as_dict(tool["toolSpec"])) for tool in tools if "toolSpec" in tool
            ),
            is_streamed=path_of(url).endswith("/converse-stream"),
        )

    def message(self, message: Value) -> Message:
        """Return one of the messages of a request, see `Dialect.message`."""
        fields = as_dict(message)
        role = neutral_role(fields.get("role"))
        blocks = dicts_in(fields.get("content"))
        given = [as_dict(block["toolResult"]) for block in blocks if "toolResult" in block]
        results = [_result(result, index) for index, result in enumerate(given)]
        text = text_of(blocks, separator_of(role)) or ""
        if results and len(results) == len(blocks):
            role = "tool"
            text = "\n".join(result.text for result in results)
        return Message(role, text, tuple(_calls(blocks)), tuple(results))

    def assemble(self, events: list[StreamEvent]) -> Assembled:
        """Put a streamed answer together."""
        return _ConverseStream().read(events)

    def read_answer(self, value: JsonObject) -> AnswerContent:
        """Return the contents of a whole answer."""
        content = as_dict(as_dict(value.get("output")).get("message")).get("content")
        return AnswerContent(
            value,
            text=text_of(dicts_in(content), ""),
            calls=tuple(_calls(dicts_in(content))),
            finish_reason=as_text(value.get("stopReason")),
            usage=bedrock_usage(value.get("usage")),
        )


def _calls(blocks: list[JsonObject]) -> list[ToolCall]:
    uses = [as_dict(block["toolUse"]) for block in blocks if "toolUse" in block]
    return [
        call_of(
            call_id=use.get("toolUseId"),
            name=use.get("name"),
            arguments=use.get("input"),
            number=index,
        )
        for index, use in enumerate(uses)
    ]


def _result(result: JsonObject, index: int) -> ToolResult:
    content = result.get("content")
    texts = [
        as_text(block.get("text")) or (to_text(block["json"]) if "json" in block else "")
        for block in dicts_in(content)
    ]
    return ToolResult(
        call_id=as_text(result.get("toolUseId")),
        name=None,
        text="\n".join(filter(None, texts)),
        content=content,
        is_error=result.get("status") == "error",
        number=index,
    )


def _offered(tool: JsonObject) -> OfferedTool:
    schema = as_dict(tool.get("inputSchema")).get("json")
    return OfferedTool(as_text(tool.get("name")) or "", as_text(tool.get("description")), schema)


def bedrock_usage(value: Value) -> Usage:
    """Return the tokens of an answer by Amazon's names, which count cached input apart.

    >>> bedrock_usage({"inputTokens": 3, "outputTokens": 5, "cacheReadInputTokens": 90}).input
    93
    """
    usage = as_dict(value)
    fresh = as_count(usage.get("inputTokens"))
    cached = as_count(usage.get("cacheReadInputTokens"))
    written = as_count(usage.get("cacheWriteInputTokens"))
    return Usage(
        input=None if fresh is None else fresh + (cached or 0) + (written or 0),
        output=as_count(usage.get("outputTokens")),
        cached=cached,
        cache_write=written,
    )


class _ConverseStream:
    """The state of one stream while it is read."""

    def __init__(self) -> None:
        self._fields: JsonObject = {}
        self._role: Value = None
        self._blocks: dict[int, _Block] = {}
        self._is_done = False
        self._has_usage = False
        self._error: ApiError | None = None

    def read(self, events: list[StreamEvent]) -> Assembled:
        """Put all events of a stream together."""
        for event in events:
            fields = as_dict(event.value)
            if event.is_exception:
                self._error = error_of({"type": event.name, **fields})
            else:
                self._add(event.name, fields)
        whole = self._fields
        if self._role is not None or self._blocks:
            content = [self._blocks[index].whole() for index in sorted(self._blocks)]
            whole = {"output": {"message": {"role": self._role, "content": content}}, **whole}
        # The counts come behind the end.
        return Assembled(whole, self._is_done, self._error, self._has_usage)

    def _add(self, kind: str, event: JsonObject) -> None:
        if kind == "contentBlockDelta":
            self._block(event).add(as_dict(event.get("delta")))
        elif kind == "contentBlockStart":
            self._block(event).start(as_dict(event.get("start")))
        elif kind == "messageStart":
            self._role = event.get("role")
        elif kind == "messageStop":
            self._is_done = True
            self._fields.update({k: v for k, v in event.items() if k != "p"})
        elif kind == "metadata":
            self._has_usage = "usage" in event
            self._fields.update({k: v for k, v in event.items() if k != "p"})

    def _block(self, event: JsonObject) -> _Block:
        index = as_count(event.get("contentBlockIndex")) or 0
        block = self._blocks.get(index)
        if block is None:
            block = self._blocks[index] = _Block()
        return block


class _Block:
    """A block of the content while its pieces come."""

    def __init__(self) -> None:
        self._fields: JsonObject = {}
        self._texts: list[str] = []
        self._input: list[str] = []

    def start(self, fields: JsonObject) -> None:
        """Take the fields that the block begins with."""
        self._fields.update(fields)

    def add(self, delta: JsonObject) -> None:
        """Add a piece."""
        for name, value in delta.items():
            if name == "text" and type(value) is str:
                self._texts.append(value)
            elif name == "toolUse":
                self._input.append(as_text(as_dict(value).get("input")) or "")
            elif name == "reasoningContent":
                self._add_reasoning(as_dict(value))
            else:
                self._fields[name] = merged(self._fields.get(name), value)

    def _add_reasoning(self, delta: JsonObject) -> None:
        content = self._fields.setdefault("reasoningContent", {})
        # A whole answer has the text and its signature one level deeper.
        texts = {name: delta[name] for name in ("text", "signature") if name in delta}
        others = {name: value for name, value in delta.items() if name not in texts}
        grown = merged(content, {**others, **({"reasoningText": texts} if texts else {})})
        self._fields["reasoningContent"] = grown

    def whole(self) -> JsonObject:
        """Return the block as a whole answer has it; an input that is no JSON stays a text."""
        whole = {**self._fields}
        if self._texts:
            whole["text"] = "".join(self._texts)
        text = "".join(self._input)
        if text or "toolUse" in whole:
            value = read_json(text.encode("utf-8", "surrogatepass")) if text else {}
            use = as_dict(whole.get("toolUse"))
            whole["toolUse"] = {**use, "input": text if value is NOT_JSON else value}
        return whole
