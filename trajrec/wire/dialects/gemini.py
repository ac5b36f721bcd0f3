"""Google's Gemini, of its own servers and Vertex's.

Source:
    https://ai.google.dev/api/generate-content

The servers take each name in two spellings, `systemInstruction` and `system_instruction`.
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
from trajrec.wire.dialects.gemini_stream import GeminiStream
from trajrec.wire.dialects.reading import (
    Assembled,
    JsonDialect,
    all_but,
    call_of,
    has_media,
    neutral_role,
    result_text,
    separator_of,
)
from trajrec.wire.dialects.streams import StreamEvent
from trajrec.wire.dialects.urls import model_in, path_of
from trajrec.wire.json_bodies import (
    as_count,
    as_dict,
    as_list,
    as_text,
    dicts_in,
    first_of,
    to_text,
)

_SYSTEM = ("systemInstruction", "system_instruction")
_CONFIG = ("generationConfig", "generation_config")
_CALL = ("functionCall", "function_call")
_RESPONSE = ("functionResponse", "function_response")
_DECLARATIONS = ("functionDeclarations", "function_declarations")
_SCHEMA = ("parameters", "parametersJsonSchema", "parameters_json_schema")


class Gemini(JsonDialect):
    """Contents of parts. Calls have no ids, mostly: the order of equal names joins their results."""

    name: ClassVar[str] = "gemini"

    def read_request(self, url: str, value: JsonObject) -> RequestContent:
        """Return the contents of a request from its body."""
        # A single content may stand without a list.
        contents = value.get("contents")
        return RequestContent(
            value,
            model=model_in(url) or as_text(value.get("model")),
            parameters=all_but(value, "contents", "model", "tools", *_SYSTEM, flat=_CONFIG),
            system=_text(_parts(first_of(value, *_SYSTEM)), "\n"),
            messages=[contents] if type(contents) is dict else as_list(contents),
            tools=tuple(tool for group in dicts_in(value.get("tools")) for tool in _offered(group)),
            is_streamed=path_of(url).endswith(":streamGenerateContent"),
        )

    def message(self, message: Value) -> Message:
        """Return one of the messages of a request, see `Dialect.message`."""
        parts = _parts(message)
        # Without a role it is the user's.
        role = neutral_role(as_dict(message).get("role")) or "user"
        given = [first_of(part, *_RESPONSE) for part in parts]
        responses = [as_dict(response) for response in given if response is not None]
        results = [_result(response, index) for index, response in enumerate(responses)]
        text = _text(parts, separator_of(role)) or ""
        if results and len(results) == len(parts):
            role = "tool"
            text = "\n".join(result.text for result in results)
        return Message(role, text, tuple(_calls(parts, 0, 0)), tuple(results))

    def assemble(self, events: list[StreamEvent]) -> Assembled:
        """Put a streamed answer together."""
        return GeminiStream().read(events)

    def read_answer(self, value: JsonObject) -> AnswerContent:
        """Return the contents of a whole answer."""
        candidates = dicts_in(value.get("candidates"))
        first = candidates[0] if candidates else {}
        calls: list[ToolCall] = []
        for number, candidate in enumerate(candidates):
            calls += _calls(_parts(candidate.get("content")), len(calls), number)
        # A prompt that is refused has no candidates.
        refusal = as_dict(value.get("promptFeedback")).get("blockReason")
        return AnswerContent(
            value,
            text=_text(_parts(first.get("content")), ""),
            calls=tuple(calls),
            finish_reason=as_text(first.get("finishReason")) or as_text(refusal),
            response_id=as_text(value.get("responseId")),
            model=as_text(value.get("modelVersion")),
            usage=gemini_usage(value.get("usageMetadata")),
        )


def _parts(content: Value) -> list[JsonObject]:
    """Return the parts of a content, which may be a text or one part alone."""
    if type(content) is str:
        return [{"text": content}]
    parts = as_dict(content).get("parts")
    return [parts] if type(parts) is dict else dicts_in(parts)


def _text(parts: list[JsonObject], separator: str) -> str | None:
    """Return the texts of some parts, without those of reasoning; None if there are none."""
    texts = [
        part["text"]
        for part in parts
        if type(part.get("text")) is str and part.get("thought") is not True
    ]
    return separator.join(texts) if texts else None


def _calls(parts: list[JsonObject], first: int, choice: int) -> list[ToolCall]:
    given = [first_of(part, *_CALL) for part in parts]
    calls: list[ToolCall] = []
    for call in (as_dict(call) for call in given if call is not None):
        arguments = call.get("args")
        # Pieces that could not be put together: said as they came, which are no arguments.
        pieces = first_of(call, "partialArgs", "partial_args")
        is_open = pieces is not None or call.get("willContinue") is True
        done = call_of(
            call_id=call.get("id"),
            name=call.get("name"),
            arguments=arguments,
            number=first + len(calls),
            choice=choice,
        )
        if is_open:
            raw = to_text(arguments if pieces is None else pieces)
            done = done._replace(arguments=raw, is_malformed=True)
        calls.append(done)
    return calls


def _result(response: JsonObject, index: int) -> ToolResult:
    content = response.get("response")
    fields = as_dict(content)
    # The API names these two members; a result without them is all output. The SDK says `result`.
    told = first_of(fields, "output", "result")
    text = told if len(fields) == 1 and told is not None else content
    is_error = True if "error" in fields and "output" not in fields else None
    if is_error and len(fields) == 1:
        text = fields["error"]
    return ToolResult(
        call_id=as_text(response.get("id")),
        name=as_text(response.get("name")),
        # A value of the tool, and no parts: nothing of it is a picture to the model.
        text=to_text(text) if has_media(text) else result_text(text),
        content=content,
        is_error=is_error,
        number=index,
        # Pictures of a result stand beside its value.
        is_partial=bool(response.get("parts")),
    )


def _offered(group: JsonObject) -> list[OfferedTool]:
    """Return the tools of a group: functions, or a tool that Google runs."""
    tools = []
    for name, member in group.items():
        if name not in _DECLARATIONS:
            tools.append(OfferedTool(name, None, None))
            continue
        tools += [
            OfferedTool(
                as_text(function.get("name")) or "",
                as_text(function.get("description")),
                first_of(function, *_SCHEMA),
            )
            for function in dicts_in(member)
        ]
    return tools


def gemini_usage(value: Value) -> Usage:
    """Return the tokens of an answer by Google's names, which count reasoning apart.

    They count apart, too, what the results of tools that Google ran have added to the prompt.

    >>> gemini_usage({"promptTokenCount": 7, "candidatesTokenCount": 2, "thoughtsTokenCount": 30})
    Usage(input=7, output=32, cached=None, cache_write=None, reasoning=30)
    """
    usage = as_dict(value)
    said = as_count(usage.get("candidatesTokenCount"))
    thoughts = as_count(usage.get("thoughtsTokenCount"))
    # Google leaves counts of 0 out, so one of the two stands for both.
    output = None if said is None and thoughts is None else (said or 0) + (thoughts or 0)
    prompt = as_count(usage.get("promptTokenCount"))
    results = as_count(usage.get("toolUsePromptTokenCount"))
    return Usage(
        input=None if prompt is None else prompt + (results or 0),
        output=output,
        cached=as_count(usage.get("cachedContentTokenCount")),
        reasoning=thoughts,
    )
