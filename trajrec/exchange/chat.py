"""Messages and answers in the form of the API of chats, which most formats are close to."""

from __future__ import annotations

import json

import msgspec

from trajrec.types import JsonObject, Value

# Made once: `json.dumps` makes one for each call.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

_encode_exact = msgspec.json.Encoder().encode

# Types that msgspec writes as `json` does, in a tenth of the time. It writes floats otherwise.
_EXACT = frozenset((str, int, bool, type(None)))
_TEXTS = frozenset((str,))


def tool_call(call_id: str, name: str, arguments: Value) -> JsonObject:
    """Return a call of a tool as a message of the model asks for it, with arguments as JSON text.

    >>> tool_call("c1", "add", {"x": 1})["function"]
    {'name': 'add', 'arguments': '{"x":1}'}
    """
    text = arguments if type(arguments) is str else json_text(arguments)
    call: JsonObject = {"type": "function", "function": {"name": name, "arguments": text}}
    if call_id:
        call["id"] = call_id
    return call


def json_text(value: Value) -> str:
    r"""Return a JSON value as compact JSON text.

    >>> json_text({"x": 1e16, "y": "\u2028"}), json_text({"x": "a"})
    ('{"x":1e+16,"y":"\u2028"}', '{"x":"a"}')
    """
    is_exact = (
        type(value) is dict
        and _EXACT.issuperset(map(type, value.values()))
        and _TEXTS.issuperset(map(type, value))
    )
    if is_exact:
        try:
            return _encode_exact(value).decode()
        except (UnicodeEncodeError, OverflowError):
            # Lone surrogates, and integers of more than 64 bits.
            pass
    return _encode(value)


def assistant(content: Value, calls: list[JsonObject] | None = None, **fields: Value) -> JsonObject:
    """Return a message of the model; fields that are None are left out.

    >>> assistant("Hi", reasoning_content=None)
    {'role': 'assistant', 'content': 'Hi'}
    """
    message: JsonObject = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = calls
    message |= {name: value for name, value in fields.items() if value is not None}
    return message


def tool_result(call_id: str, content: Value, name: str = "") -> JsonObject:
    """Return the message with the result of a call.

    >>> tool_result("c1", "4")
    {'role': 'tool', 'content': '4', 'tool_call_id': 'c1'}
    """
    message: JsonObject = {"role": "tool", "content": content}
    if call_id:
        message["tool_call_id"] = call_id
    if name:
        message["name"] = name
    return message


def usage_of_counts(
    *,
    input_tokens: Value = None,
    output_tokens: Value = None,
    cached: Value = None,
    cache_write: Value = None,
    reasoning: Value = None,
    cost: Value = None,
) -> JsonObject | None:
    """Return counts of tokens by the names of the API of chats; None if there are none."""
    usage: JsonObject = {}
    if input_tokens is not None:
        usage["prompt_tokens"] = input_tokens
    if output_tokens is not None:
        usage["completion_tokens"] = output_tokens
    details = {"cached_tokens": cached, "cache_write_tokens": cache_write}
    if cached is not None or cache_write is not None:
        usage["prompt_tokens_details"] = {k: v for k, v in details.items() if v is not None}
    if reasoning is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    if cost is not None:
        usage["cost"] = cost
    return usage or None
