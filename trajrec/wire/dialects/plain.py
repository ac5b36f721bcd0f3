"""Calls without a conversation: legacy completions, embeddings, and dialects that are unknown."""

from __future__ import annotations

from typing import ClassVar

from trajrec.types import JsonObject, Value
from trajrec.wire.contents import AnswerContent, Message, Read, RequestContent
from trajrec.wire.dialects.chat import Chat, chat_usage
from trajrec.wire.dialects.reading import Assembled, JsonDialect, all_but, read_error, text_of
from trajrec.wire.dialects.streams import DONE, StreamEvent, read_stream
from trajrec.wire.dialects.urls import model_in
from trajrec.wire.json_bodies import as_text, read_json


class Completions(Chat):
    """OpenAI's legacy completions: a prompt counts as a message of the user."""

    name: ClassVar[str] = "completions"

    def read_request(self, url: str, value: JsonObject) -> RequestContent:
        """Return the contents of a request from its body."""
        prompt = value.get("prompt")
        return RequestContent(
            value,
            model=as_text(value.get("model")) or model_in(url),
            parameters=all_but(value, "model", "prompt"),
            messages=prompt if type(prompt) is list else [prompt],
            is_streamed=value.get("stream") is True,
        )

    def message(self, message: Value) -> Message:
        """Return a prompt; one of token numbers has no text."""
        return Message("user", as_text(message) or "")


class Embeddings(JsonDialect):
    """OpenAI's embeddings: each input counts as a message of the user."""

    name: ClassVar[str] = "embeddings"

    def read_request(self, url: str, value: JsonObject) -> RequestContent:
        """Return the contents of a request from its body."""
        given = value.get("input")
        return RequestContent(
            value,
            model=as_text(value.get("model")) or model_in(url),
            parameters=all_but(value, "model", "input"),
            messages=given if type(given) is list else [given],
        )

    def message(self, message: Value) -> Message:
        """Return an input; one of token numbers has no text."""
        return Message("user", text_of(message, "\n") or "")

    def assemble(self, events: list[StreamEvent]) -> Assembled:
        """Return the events as they are: embeddings are not streamed."""
        return Assembled({}, False, None, has_usage=False)

    def read_answer(self, value: JsonObject) -> AnswerContent:
        """Return the contents of a whole answer."""
        model = as_text(value.get("model"))
        return AnswerContent(value, model=model, usage=chat_usage(value.get("usage")))


class Neutral:
    """Any other dialect: bodies as JSON values, and nothing that would be a guess."""

    name: ClassVar[str] = "unknown"

    def request(self, url: str, body: bytes, read: Read = read_json) -> RequestContent:
        """Return the body as JSON values."""
        return RequestContent(read(body))

    def message(self, message: Value) -> Message:
        """Return an empty message."""
        return Message("", "")

    def answer(self, status: int, content_type: str, body: bytes) -> AnswerContent:
        """Return the body as JSON values, of a stream as a list of them; and an error."""
        events = read_stream(content_type, body)
        value = read_json(body) if events is None else _values(events)
        return AnswerContent(
            value, is_streamed=events is not None, error=read_error(status, value, body)
        )


def _values(events: list[StreamEvent]) -> list[Value]:
    return [event.value for event in events if event.value is not DONE]
