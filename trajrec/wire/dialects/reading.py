"""Reading that the dialects share: texts, arguments of calls, errors, and the course of reading."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

from trajrec.types import JsonObject, Value
from trajrec.wire.contents import (
    AnswerContent,
    ApiError,
    Message,
    Read,
    RequestContent,
    ToolCall,
)
from trajrec.wire.dialects.streams import StreamEvent, read_stream
from trajrec.wire.json_bodies import (
    NOT_JSON,
    as_dict,
    as_list,
    as_text,
    first_of,
    read_json,
    to_text,
)

# Enough of an error page to tell what it is.
_MAX_MESSAGE = 4_000

_ROLES = {"developer": "system", "function": "tool", "model": "assistant"}

# The types of parts that hold a text; parts without a type do so too.
_TEXT_PARTS = (None, "text", "input_text", "output_text")

# The types of parts that are pictures, sounds, films and files, in the words of all dialects.
_MEDIA_PARTS = frozenset(
    (
        "audio",
        "computer_screenshot",
        "document",
        "file",
        "image",
        "image_url",
        "input_audio",
        "input_file",
        "input_image",
        "video",
        "video_url",
    )
)

IS_ERROR = 400
"""The HTTP status from which on a response is an error."""


class Assembled(NamedTuple):
    """A streamed answer, put together.

    Attributes:
        value: The answer that the same API would have given without streaming, as far as it came.
        is_complete: Whether the mark of the end came.
        error: The error that the stream told, None if it told none.
        has_usage: Whether the count of the answer's tokens is the final one.
    """

    value: Value
    is_complete: bool
    error: ApiError | None
    has_usage: bool


class JsonDialect(ABC):
    """A dialect whose bodies are JSON objects: the course of reading that all of them share.

    A streamed answer is put together first, and then read as a whole one is, so that the two
    cannot differ.
    """

    name: ClassVar[str]

    def request(self, url: str, body: bytes, read: Read = read_json) -> RequestContent:
        """Return the contents of a request, see `Dialect.request`."""
        value = read(body)
        return self.read_request(url, value) if type(value) is dict else RequestContent(value)

    def answer(self, status: int, content_type: str, body: bytes) -> AnswerContent:
        """Return the contents of an answer, see `Dialect.answer`."""
        events = read_stream(content_type, body)
        if events is None:
            return self._whole(status, body)
        done = self.assemble(events)
        # An event of an unknown form may tell the error of a response that failed as a whole.
        told = events[0].value if len(events) == 1 else NOT_JSON
        error = done.error or read_error(status, told, body)
        content = self.read_answer(done.value)
        usage = content.usage
        if not done.has_usage:
            usage = usage._replace(output=None, reasoning=None)
        return content._replace(
            usage=usage,
            is_streamed=True,
            is_complete=done.is_complete and error is None,
            error=error,
        )

    def _whole(self, status: int, body: bytes) -> AnswerContent:
        value = read_json(body)
        error = read_error(status, value, body)
        if type(value) is not dict:
            return AnswerContent(value, is_complete=False, error=error)
        content = self.read_answer(value)
        # A dialect may say itself that the answer is not whole.
        is_complete = content.is_complete is not False and error is None
        return content._replace(is_complete=is_complete, error=error)

    @abstractmethod
    def read_request(self, url: str, value: JsonObject) -> RequestContent:
        """Return the contents of a request from its body."""

    @abstractmethod
    def message(self, message: Value) -> Message:
        """Return one of the messages of a request, see `Dialect.message`."""

    @abstractmethod
    def assemble(self, events: list[StreamEvent]) -> Assembled:
        """Put a streamed answer together."""

    @abstractmethod
    def read_answer(self, value: JsonObject) -> AnswerContent:
        """Return the contents of a whole answer."""


def read_error(status: int, value: Value, body: bytes = b"") -> ApiError | None:
    """Return the error that an answer tells, None if it tells none and its status is none.

    >>> read_error(429, {"error": {"message": "slow down", "type": "tokens", "code": "limit"}})
    ApiError(kind='tokens', message='slow down', code='limit')
    >>> read_error(200, {"id": "x", "error": None})
    """
    if type(value) is list and value:
        value = value[0]
    error = as_dict(value).get("error")
    if type(error) is dict and error:
        return error_of(error)
    if type(error) is str and error:
        return ApiError(None, error)
    if status < IS_ERROR:
        return None
    if type(value) is dict:
        return error_of(value)
    return ApiError(
        None, body[: 4 * _MAX_MESSAGE].decode("utf-8", "replace")[:_MAX_MESSAGE] or None
    )


def error_of(error: JsonObject) -> ApiError:
    """Return an error object by the names of OpenAI, Anthropic, Google and Amazon.

    >>> error_of({"code": 400, "message": "no such model", "status": "NOT_FOUND"})
    ApiError(kind='NOT_FOUND', message='no such model', code='400')
    """
    message = first_of(error, "message", "Message", "detail")
    kind = first_of(error, "type", "status", "__type")
    code = error.get("code")
    return ApiError(
        kind=as_text(kind),
        message=message if message is None or type(message) is str else to_text(message),
        code=str(code) if type(code) in (str, int) and code != "" else None,
    )


def neutral_role(role: Value) -> str:
    """Return a role in the words that all dialects share.

    >>> neutral_role("model"), neutral_role("user"), neutral_role(7)
    ('assistant', 'user', '')
    """
    text = as_text(role) or ""
    return _ROLES.get(text, text)


def text_of(content: Value, separator: str) -> str | None:
    """Return the texts of a message's content, a text or parts; None if it has none.

    >>> text_of([{"type": "text", "text": "a"}, {"type": "image"}, {"text": "b"}], "-")
    'a-b'
    """
    if type(content) is str:
        return content
    parts = content if type(content) is list else [content]
    texts = [text for part in parts if (text := _part_text(part)) is not None]
    return separator.join(texts) if texts else None


def _part_text(part: Value) -> str | None:
    if type(part) is dict:
        return as_text(part.get("text")) if part.get("type") in _TEXT_PARTS else None
    return as_text(part)


def separator_of(role: str) -> str:
    """Return the separator of a message's texts, see `Message.text`."""
    return "" if role == "assistant" else "\n"


def result_text(content: Value) -> str:
    """Return the text of a tool's result: its texts, or JSON if it has none.

    >>> result_text("ok"), result_text([{"type": "text", "text": "ok"}]), result_text({"n": 1})
    ('ok', 'ok', '{"n":1}')

    Pictures and files are no text, also if there is nothing else:

    >>> result_text([{"type": "image", "source": {"data": "iVBORw0KGgo="}}])
    ''
    """
    text = text_of(content, "\n")
    if text is not None:
        return text
    if has_media(content):
        others = [part for part in as_list(content) if not is_media(part)]
        return to_text(others) if others else ""
    return "" if content is None else to_text(content)


def has_media(content: Value) -> bool:
    """Return whether a tool's result, a part or a list of parts, has pictures or files.

    >>> has_media({"type": "computer_screenshot", "image_url": "data:"}), has_media({"n": 1})
    (True, False)
    """
    return any(map(is_media, content if type(content) is list else [content]))


def is_media(part: Value) -> bool:
    """Return whether a part of a content is a picture, a sound, a film or a file."""
    kind = part.get("type") if type(part) is dict else None
    return type(kind) is str and kind in _MEDIA_PARTS


def system_of(messages: Iterable[Message]) -> str | None:
    """Return the system prompt: the texts of the messages that stand before all others."""
    texts = []
    for message in messages:
        if message.role != "system":
            break
        texts.append(message.text)
    return "\n".join(texts) if texts else None


def call_of(
    *, call_id: Value, name: Value, arguments: Value, number: int, choice: int = 0
) -> ToolCall:
    """Return a tool call whose arguments are JSON text, as OpenAI writes them, or JSON values.

    >>> call_of(call_id="c1", name="look", arguments='{"x": ', number=0).is_malformed
    True
    """
    is_malformed = False
    text = None
    if type(arguments) is str:
        value = read_json(arguments.encode("utf-8", "surrogatepass")) if arguments.strip() else {}
        is_malformed = value is NOT_JSON
        text = None if is_malformed else arguments
        arguments = arguments if is_malformed else value
    elif arguments is None:
        arguments = {}
    return ToolCall(as_text(call_id), as_text(name), arguments, is_malformed, number, choice, text)


def all_but(value: JsonObject, *names: str, flat: tuple[str, ...] = ()) -> JsonObject:
    """Return the members of an object but some; those of the objects in `flat` stand beside them.

    >>> all_but({"a": 1, "b": 2, "options": {"c": 3}}, "a", flat=("options",))
    {'b': 2, 'c': 3}
    """
    others: JsonObject = {}
    for name, member in value.items():
        if name in flat and type(member) is dict:
            others.update(member)
        elif name not in names:
            others[name] = member
    return others
