"""Ollama's own API: chats and completions, streamed as one object a line.

Source:
    https://docs.ollama.com/api
"""

from __future__ import annotations

from typing import ClassVar

from trajrec.types import JsonObject, Value
from trajrec.wire.contents import AnswerContent, ApiError, Message, RequestContent, Usage
from trajrec.wire.dialects.chat import Chat, message_calls, offered_tools
from trajrec.wire.dialects.reading import Assembled, JsonDialect, all_but, read_error, system_of
from trajrec.wire.dialects.streams import StreamEvent
from trajrec.wire.json_bodies import as_count, as_dict, as_list, as_text

_chat = Chat()

# The members whose texts come in pieces, of a chat's message and of a completion.
_TEXTS = ("content", "response", "thinking")


class Ollama(JsonDialect):
    """Chats of Ollama. A completion has a prompt in place of messages, which counts as one."""

    name: ClassVar[str] = "ollama"

    def read_request(self, url: str, value: JsonObject) -> RequestContent:
        """Return the contents of a request from its body."""
        messages = as_list(value.get("messages"))
        if type(value.get("prompt")) is str:
            messages = [value["prompt"]]
        names = ("model", "messages", "prompt", "system", "tools")
        system = as_text(value.get("system"))
        return RequestContent(
            value,
            model=as_text(value.get("model")),
            parameters=all_but(value, *names, flat=("options",)),
            system=system_of(map(self.message, messages)) if system is None else system,
            messages=messages,
            tools=tuple(offered_tools(value)),
            # The API's default.
            is_streamed=value.get("stream") is not False,
        )

    def message(self, message: Value) -> Message:
        """Return one of the messages of a request, see `Dialect.message`."""
        return Message("user", message) if type(message) is str else _chat.message(message)

    def assemble(self, events: list[StreamEvent]) -> Assembled:
        """Put a streamed answer together."""
        return _OllamaStream().read(events)

    def read_answer(self, value: JsonObject) -> AnswerContent:
        """Return the contents of a whole answer."""
        message = as_dict(value.get("message"))
        text = as_text(message.get("content"))
        return AnswerContent(
            value,
            text=text if text is not None else as_text(value.get("response")),
            calls=tuple(message_calls(message)),
            finish_reason=as_text(value.get("done_reason")),
            model=as_text(value.get("model")),
            usage=Usage(
                input=as_count(value.get("prompt_eval_count")),
                output=as_count(value.get("eval_count")),
            ),
        )


class _OllamaStream:
    """The state of one stream while it is read."""

    def __init__(self) -> None:
        self._fields: JsonObject = {}
        self._message: JsonObject = {}
        self._calls: list[Value] = []
        # Each piece tells of its own tokens.
        self._logprobs: list[Value] = []
        # The pieces of texts: those of a completion, and those of a chat's message.
        self._texts: dict[str, list[str]] = {}
        self._message_texts: dict[str, list[str]] = {}
        self._error: ApiError | None = None

    def read(self, events: list[StreamEvent]) -> Assembled:
        """Put all events of a stream together."""
        for event in events:
            if type(event.value) is dict:
                self._add(event.value)
        whole = {**self._fields, **_joined(self._texts)}
        if self._logprobs:
            whole["logprobs"] = self._logprobs
        if self._message:
            whole["message"] = {**self._message, **_joined(self._message_texts)}
            if self._calls:
                whole["message"]["tool_calls"] = self._calls
        is_complete = whole.get("done") is True
        return Assembled(whole, is_complete, self._error, has_usage=is_complete)

    def _add(self, piece: JsonObject) -> None:
        self._fields.update(piece)
        _add_texts(self._texts, piece)
        message = as_dict(piece.get("message"))
        self._message.update(message)
        _add_texts(self._message_texts, message)
        self._calls += as_list(message.get("tool_calls"))
        self._logprobs += as_list(piece.get("logprobs"))
        if piece.get("error"):
            self._error = read_error(0, piece)


def _add_texts(texts: dict[str, list[str]], piece: JsonObject) -> None:
    for name in _TEXTS:
        text = piece.get(name)
        if type(text) is str:
            texts.setdefault(name, []).append(text)


def _joined(texts: dict[str, list[str]]) -> dict[str, str]:
    return {name: "".join(pieces) for name, pieces in texts.items()}
