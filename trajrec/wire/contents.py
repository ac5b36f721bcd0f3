"""The contents of a model call in words that all dialects share: messages, tools, usage, errors.

Texts stand as the bodies hold them; one may hold a lone surrogate, which no database takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, NamedTuple, Protocol, TypeAlias

from trajrec.types import Value
from trajrec.wire.json_bodies import read_json, to_text

Read: TypeAlias = Callable[[bytes], Value]
"""Returns the value of JSON bytes, or `NOT_JSON`."""


class ToolCall(NamedTuple):
    """A call of a tool that a model asks for. Calls that the provider runs itself are none.

    Attributes:
        call_id: The id that its result names; None in dialects without ids.
        name: The name of the tool; None if it is missing.
        arguments: The arguments as JSON values, mostly an object; no text at all counts as no
            arguments, {}. Their raw text if it is no JSON.
        is_malformed: Whether the arguments are no JSON. In an answer that is not complete, they may
            only be cut off.
        number: The number of the call among all of its answer or message, from 0.
        choice: The number of the answer's alternative, mostly 0.
        text: The text of the arguments as it was written; None if it is no JSON, and in dialects
            that write JSON values.
    """

    call_id: str | None
    name: str | None
    arguments: Value
    is_malformed: bool
    number: int
    choice: int = 0
    text: str | None = None


class ToolResult(NamedTuple):
    """The result of a tool call, as a request tells it to the model.

    Attributes:
        call_id: The id of the call; None in dialects without ids.
        name: The name of the tool; None if the dialect does not repeat it.
        text: The texts of the result, without its pictures and files; JSON of one that has neither.
        content: The result as the dialect writes it.
        is_error: Whether the request calls it an error; None if the dialect cannot say.
        number: The number of the result among all of its message, from 0.
        is_partial: Whether there are pictures or files that neither `text` nor `content` has.
    """

    call_id: str | None
    name: str | None
    text: str
    content: Value
    is_error: bool | None
    number: int
    is_partial: bool = False

    @property
    def said(self) -> str:
        """A text that is equal for results that say the same, also if they are pictures alone."""
        return self.text or to_text(self.content)


class Message(NamedTuple):
    """A message of a request, in words that all dialects share.

    Attributes:
        role: "system", "user", "assistant" or "tool"; another one stands as it is. "" if missing.
            A message of a user that holds only results of tools is one of "tool".
        text: Its texts. Those of an assistant follow each other as they came, those of others are
            joined by newlines. Images, files and reasoning are left out.
        calls: The tool calls that it repeats.
        results: The results of tools that it holds.
    """

    role: str
    text: str
    calls: tuple[ToolCall, ...] = ()
    results: tuple[ToolResult, ...] = ()


class OfferedTool(NamedTuple):
    """A tool that a request offers to the model.

    Attributes:
        name: Its name; of a tool that the provider runs, its type if it has no name.
        description: Its description, None if it has none.
        schema: The JSON Schema of its arguments, None if it has none.
    """

    name: str
    description: str | None
    schema: Value


class RequestContent(NamedTuple):
    """The contents of a request.

    Attributes:
        value: The body as JSON values, or `NOT_JSON`.
        model: The name of the model, from the body or the address; None if neither says it.
        parameters: All members of the body but the model, the messages, the system prompt, the
            tools and the answer that it continues. Members of `generationConfig` and its like stand beside the others.
        system: The system prompt, None if there is none.
        messages: The messages as the dialect writes them. `Dialect.message` reads one: a request
            repeats the messages of the one before it, and its reader needs the new ones only.
        tools: The tools on offer.
        previous_response_id: The answer that this request continues, None if it names none.
        is_streamed: Whether it asks for a stream.
    """

    value: Value
    model: str | None = None
    parameters: Mapping[str, Value] = MappingProxyType({})
    system: str | None = None
    messages: Sequence[Value] = ()
    tools: tuple[OfferedTool, ...] = ()
    previous_response_id: str | None = None
    is_streamed: bool = False


class Usage(NamedTuple):
    """The tokens of a model call, by its server's count. None is unknown, and never 0.

    Attributes:
        input: All tokens of the request, those from a cache included.
        output: All tokens of the answer, reasoning included.
        cached: The tokens of the request that came from a cache.
        cache_write: The tokens of the request that were written to a cache.
        reasoning: The tokens of the answer that are reasoning.
    """

    input: int | None = None
    output: int | None = None
    cached: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None


class ApiError(NamedTuple):
    """An error as the server tells it.

    Attributes:
        kind: The type of the error by the server's name; None if it has none.
        message: The message; the beginning of the body if it has no known form.
        code: The code, which some servers give beside the type; None if there is none.
    """

    kind: str | None
    message: str | None
    code: str | None = None


_STOPPED = frozenset(
    (
        "length",
        "max_tokens",
        "max_output_tokens",
        "model_length",
        "model_context_window_exceeded",
        "content_filter",
        "content_filtered",
        "guardrail_intervened",
        "safety",
        "recitation",
        "blocklist",
        "prohibited_content",
        "spii",
    )
)
"""Reasons for the end of an answer that its model did not end itself, in lower case."""


def is_stopped(finish_reason: Value) -> bool:
    """Return whether a limit of tokens or a filter ended an answer, by the reason for its end.

    >>> is_stopped("MAX_TOKENS"), is_stopped("end_turn"), is_stopped(None)
    (True, False, False)
    """
    return type(finish_reason) is str and finish_reason.lower() in _STOPPED


class AnswerContent(NamedTuple):
    """The contents of an answer.

    Attributes:
        value: The answer as JSON values. Of a stream, the answer that the same API would have given
            without streaming, as far as it came. `NOT_JSON` if it is none.
        text: The text of its first alternative, None if it has none. Reasoning is left out.
        calls: The tool calls, of all alternatives.
        finish_reason: The reason for its end by the dialect's name, None if it is missing.
        response_id: The id of the answer, None if it has none.
        model: The model that answered by its own word, None if it does not say.
        usage: The tokens.
        is_streamed: Whether it came as a stream.
        is_complete: Whether the whole answer came: a stream with the mark of its end, or a body
            that is JSON. False of an error. None if the dialect is unknown.
        error: The error that the body tells, None if it tells none.
    """

    value: Value
    text: str | None = None
    calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    response_id: str | None = None
    model: str | None = None
    usage: Usage = Usage()
    is_streamed: bool = False
    is_complete: bool | None = None
    error: ApiError | None = None


class Dialect(Protocol):
    """One form of model calls. No method raises, whatever the bytes are.

    Attributes:
        name: Its name, for example "chat".
    """

    name: ClassVar[str]

    def request(self, url: str, body: bytes, read: Read = read_json) -> RequestContent:
        """Return the contents of a request.

        Args:
            url: The address; some dialects name the model there.
            body: The body as it was sent.
            read: Returns the value of JSON bytes; for many requests of a conversation, see
                `trajrec.wire.body_reader.BodyReader`.
        """

    def message(self, message: Value) -> Message:
        """Return one of the messages of a request in the words that all dialects share."""

    def answer(self, status: int, content_type: str, body: bytes) -> AnswerContent:
        """Return the contents of an answer.

        Args:
            status: The HTTP status.
            content_type: The header of this name, "" if it is missing.
            body: The decoded body, whole or as far as it came.
        """
