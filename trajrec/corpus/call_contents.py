"""The contents of model calls: as their bytes tell them, or as the values of `ep.model` do.

`ep.model` records Python values and not the bytes of an API, so that each value is read in the
dialect that it looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from trajrec.corpus.model_calls import ModelCall
from trajrec.types import JsonObject, Value
from trajrec.values.codec import Opaque, Plain
from trajrec.values.json import key_text, to_json_value
from trajrec.values.real_numbers import real_number
from trajrec.wire.alternatives import Alternative, alternatives_in
from trajrec.wire.contents import AnswerContent, Message, OfferedTool, Usage
from trajrec.wire.dialects.anthropic import anthropic_usage
from trajrec.wire.dialects.chat import chat_usage
from trajrec.wire.dialects.choose import dialect_named
from trajrec.wire.dialects.reading import JsonDialect
from trajrec.wire.dialects.responses import responses_usage
from trajrec.wire.dialects.streams import StreamEvent
from trajrec.wire.json_bodies import as_count, as_dict, as_list, as_text, dicts_in, first_of

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

# Arguments that hold the messages, in the order in which they are looked for.
_MESSAGES = ("messages", "input", "contents", "prompt")
_SYSTEM = ("system", "instructions", "system_instruction", "systemInstruction")

# The first letters of the types of a stream's events.
_EVENTS = {"response.": "responses", "message_": "anthropic", "content_block": "anthropic"}

# Members that only answers of one dialect have, the clearest first.
_ANSWERS = (
    ("choices", "chat"),
    ("candidates", "gemini"),
    ("output", "responses"),
    ("stop_reason", "anthropic"),
    ("done", "ollama"),
)

# Each names the place of the message in a whole answer.
_PLACES: dict[str, tuple[str | int, ...]] = {
    "anthropic": ("content",),
    "bedrock": ("output", "message"),
    "chat": ("choices", 0, "message"),
    "completions": ("choices", 0, "text"),
    "gemini": ("candidates", 0, "content"),
    "ollama": ("message",),
    "responses": ("output",),
}


CONVERSATION = "(a conversation)"


def plain(value: Value) -> Value:
    """Return a decoded value as JSON values; an object of a class becomes its fields.

    >>> plain(Plain("openai.Message", "model", {"role": "user", "parts": ("a",)}))
    {'role': 'user', 'parts': ['a']}
    """
    # Most values are JSON values, which msgspec shows in a tenth of the time of a walk.
    try:
        if _decode(_encode(value)) == value:
            return value
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass
    return _plain(value)


def _plain(value: Value) -> Value:
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, Plain):
        return _plain(value.fields)
    if isinstance(value, Opaque):
        # Its text is a repr, which nobody said.
        return {"opaque": value.text}
    if isinstance(value, dict):
        return {key_text(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return to_json_value(value)


class CallContent(NamedTuple):
    """The contents of a model call.

    Attributes:
        dialect: The name of its dialect, "" if each message is read in the one that it looks like.
        messages: The messages as they were recorded.
        system: The system prompt, if it stands apart from the messages.
        continues: The earlier answer that the request continues, by its id; `CONVERSATION` if the
            server keeps the conversation.
        answer: The answer, None if there is none. Of several alternatives, its text and its calls
            are those of the first one that the agent went on from, or of the first.
        choice: The number of that alternative.
    """

    dialect: str
    messages: Sequence[Value]
    system: str | None
    continues: str | None
    answer: AnswerContent | None
    choice: int = 0

    def message(self, message: Value) -> tuple[Message, Value]:
        """Return a message in the words that all dialects share, and as JSON values."""
        if self.dialect:
            return dialect_named(self.dialect).message(message), message
        value = plain(message)
        if type(value) is str:
            return Message("user", value), value
        return dialect_named(_dialect_of_message(as_dict(value))).message(value), value

    def answered(self) -> Value:
        """Return the message of the answer as the dialect writes it."""
        answer = self.answer
        value = None if answer is None else answer.value
        for step in _PLACES.get(self.dialect or _dialect_of_answer(value), ()):
            # The only numbers are those of alternatives.
            key = self.choice if step == 0 else step
            inner = None
            if type(key) is int and type(value) is list and key < len(value):
                inner = value[key]
            inner = value.get(key) if type(value) is dict else inner
            if inner is None:
                break
            value = inner
        return value


def content_of(call: ModelCall) -> CallContent:
    """Return the contents of a model call."""
    content = _whole_content(call)
    others = alternatives_of(content)
    if not others or content.answer is None:
        return content
    choice = call.taken[0] if call.taken else 0
    message, _, reason = others[choice]
    if not call.taken and any(other.finish_reason != reason for other in others):
        reason = None
    calls = tuple(asked._replace(number=i, choice=0) for i, asked in enumerate(message.calls))
    text = message.text if choice or calls else content.answer.text
    answer = content.answer._replace(text=text or None, calls=calls, finish_reason=reason)
    return content._replace(answer=answer, choice=choice)


def alternatives_of(content: CallContent) -> list[Alternative]:
    """Return the alternatives of an answer; none if it has only one."""
    if content.answer is None:
        return []
    return alternatives_in(content.answer.value, content.message)


def _whole_content(call: ModelCall) -> CallContent:
    """Return the contents of a model call, with the calls of all alternatives of its answer."""
    wire = call.wire
    if wire is None:
        return _recorded(call)
    request = wire.request
    value = as_dict(request.value)
    is_apart = first_of(value, *_SYSTEM) is not None
    conversation = value.get("conversation")
    return CallContent(
        dialect=wire.dialect.name,
        messages=request.messages,
        system=request.system if is_apart else None,
        continues=request.previous_response_id or (CONVERSATION if conversation else None),
        answer=wire.answer,
    )


def offered_tools(call: ModelCall) -> Sequence[OfferedTool]:
    """Return the tools that a request offers."""
    if call.wire is not None:
        return call.wire.request.tools
    given = as_list(_listed(call.request.get("tools")))
    given = [plain(tool) for tool in given if not isinstance(tool, Opaque)]
    tools: list[OfferedTool] = []
    for tool in given:
        fields = as_dict(tool)
        name = "anthropic" if "input_schema" in fields else "responses"
        name = "chat" if "function" in fields or "custom" in fields else name
        is_group = "functionDeclarations" in fields or "function_declarations" in fields
        tools += (
            _json_dialect("gemini" if is_group else name).read_request("", {"tools": [tool]}).tools
        )
    return tools


_INSPECT = ("input_tokens_cache_read", "input_tokens_cache_write", "reasoning_tokens")
_INSPECT_COUNTS = ("total_tokens", *_INSPECT)


def usage_of(value: Value) -> Usage:
    """Return the tokens that an answer counts, by the names of OpenAI, Anthropic or Inspect.

    >>> usage_of({"input_tokens": 3, "cache_read_input_tokens": 90}).input
    93
    """
    usage = as_dict(plain(value))
    if "prompt_tokens" in usage or "completion_tokens" in usage:
        return chat_usage(usage)
    if "cache_read_input_tokens" in usage or "cache_creation_input_tokens" in usage:
        return anthropic_usage(usage)
    if any(name in usage for name in _INSPECT):
        return _inspect_usage(usage)
    return responses_usage(usage)


def cost_of(value: Value) -> float | None:
    """Return the price that the usage of an answer states; Inspect names it `total_cost`.

    >>> cost_of({"input_tokens": 3, "total_cost": 0.25})
    0.25
    """
    usage = as_dict(value.fields if isinstance(value, Plain) else value)
    cost = first_of(usage, "cost", "total_cost")
    return real_number(cost) if type(cost) in (int, float) else None


def _inspect_usage(usage: JsonObject) -> Usage:
    """Return the tokens of Inspect, which holds those of each provider in the provider's way.

    With a cache, the input is that beside it or all of it, and only the sum may tell which. Google's
    output is without reasoning.
    """
    fresh, output, total, cached, written, reasoning = (
        as_count(usage.get(name)) for name in ("input_tokens", "output_tokens", *_INSPECT_COUNTS)
    )
    if fresh is None or output is None:
        return Usage(fresh, output, cached, written, reasoning)
    of_cache = (cached or 0) + (written or 0)
    is_apart = of_cache > fresh or total == fresh + of_cache + output
    if reasoning and total == fresh + output + reasoning:
        return Usage(fresh, output + reasoning, cached, written, reasoning)
    is_known = is_apart or not of_cache
    return Usage(fresh + of_cache if is_known else None, output, cached, written, reasoning)


def _recorded(call: ModelCall) -> CallContent:
    """Return the contents of a call by `ep.model`."""
    request = call.request
    messages: Sequence[Value] = call.messages
    if not messages:
        args = request.get("args")
        first = args[0] if isinstance(args, (list, tuple)) and args else None
        given = _listed(first_of(request, *_MESSAGES) or first)
        # A text, or a single content of Gemini, may stand without a list.
        messages = [given] if isinstance(given, (str, dict, Plain)) else as_list(given)
        messages = list(filter(_looks_like_message, messages))
    system = system_of(request)
    previous = as_text(request.get("previous_response_id"))
    answer = _recorded_answer(call) if call.has_answer else None
    text = None if system is None else _system_text(plain(system))
    return CallContent("", messages, text, previous, answer)


def _recorded_answer(call: ModelCall) -> AnswerContent:
    value = plain(call.answer)
    if call.is_streamed and type(value) is list:
        return _streamed(value)
    if type(value) is str:
        return AnswerContent(value, text=value)
    if type(value) is not dict:
        return AnswerContent(value)
    dialect = _json_dialect(_dialect_of_answer(value))
    content = dialect.read_answer(value)
    if content.text is None and not content.calls:
        # A function may return the message alone.
        message = dialect_named(_dialect_of_message(value)).message({"role": "assistant", **value})
        has_text = bool(message.text) or "content" in value
        content = content._replace(text=message.text if has_text else None, calls=message.calls)
    if content.usage == Usage():
        # Another API's form, whose counts have the names of a third one: Inspect's, for instance.
        content = content._replace(usage=usage_of(value.get("usage")))
    return content


def _streamed(pieces: list[Value]) -> AnswerContent:
    if all(type(piece) is str for piece in pieces):
        return AnswerContent(pieces, text="".join(pieces) if pieces else None)
    first = next((piece for piece in pieces if type(piece) is dict), {})
    dialect = _json_dialect(_dialect_of_answer(first))
    done = dialect.assemble([StreamEvent("", piece) for piece in pieces])
    return dialect.read_answer(as_dict(done.value))


def _dialect_of_answer(value: Value) -> str:
    """Return the dialect that an answer or an event of a stream looks like."""
    fields = as_dict(value)
    kind = as_text(fields.get("type")) or ""
    by_event = next((name for start, name in _EVENTS.items() if kind.startswith(start)), None)
    by_member = next((name for member, name in _ANSWERS if member in fields), "chat")
    return by_event or by_member


def _dialect_of_message(fields: JsonObject) -> str:
    """Return the dialect that a message looks like: where dialects are alike, any of them."""
    kinds = [block.get("type") for block in dicts_in(fields.get("content"))]
    if "tool_use" in kinds or "tool_result" in kinds:
        return "anthropic"
    if "parts" in fields:
        return "gemini"
    return "responses" if "type" in fields and "tool_calls" not in fields else "chat"


def _json_dialect(name: str) -> JsonDialect:
    dialect = dialect_named(name)
    assert isinstance(dialect, JsonDialect)
    return dialect


def _looks_like_message(value: Value) -> bool:
    fields = value.fields if isinstance(value, Plain) else as_dict(value)
    return isinstance(value, str) or not fields.keys().isdisjoint(("role", "type", "parts"))


def _listed(value: Value) -> Value:
    return list(value) if isinstance(value, tuple) else value


def system_of(request: JsonObject) -> Value:
    """Return the system prompt of a call by `ep.model` that stands apart from the messages.

    Google's SDK takes it in the argument `config`.
    """
    system = first_of(request, *_SYSTEM)
    config = request.get("config")
    fields = config.fields if isinstance(config, Plain) else as_dict(config)
    return first_of(fields, *_SYSTEM) if system is None else system


def _system_text(value: Value) -> str:
    name, field = ("gemini", _SYSTEM[-1]) if "parts" in as_dict(value) else ("anthropic", "system")
    return _json_dialect(name).read_request("", {field: value}).system or ""
