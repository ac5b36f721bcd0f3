"""JSON that comes from others: read without ever raising, whatever its bytes are.

A body of a model call is written by a stranger. Each reader asks for the type that it needs, and
gets an empty value if the body holds another one, so no place needs a check of its own.
"""

from __future__ import annotations

import json
from typing import Final

import msgspec

from trajrec.types import JsonObject, Value

MAX_DEPTH = 128
"""Bodies that nest deeper are no JSON for us: comparing or encoding them would exhaust the stack."""


class _NotJson:
    __slots__ = ()

    def __repr__(self) -> str:
        return "(not JSON)"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        # By name: a copy must be NOT_JSON itself, since it is compared by `is`.
        return "NOT_JSON"


NOT_JSON: Final = _NotJson()
"""Stands for the value of bytes that are no JSON."""

_decode = msgspec.json.Decoder().decode

# All bytes but those that open and close arrays and objects.
_OTHERS = bytes(byte for byte in range(256) if byte not in b"[]{}")

# SQL's BIGINT ends there; no model has counted that far.
_MAX_COUNT = 1 << 63


def read_json(data: bytes, max_depth: int = MAX_DEPTH) -> Value:
    """Return the value of JSON bytes, or `NOT_JSON`.

    Like Python's own reader, this takes NaN, infinities, lone surrogates and a byte order mark,
    and of two equal keys the last one.

    Args:
        data: The bytes.
        max_depth: The most arrays and objects that may stand within each other.

    >>> read_json(b'{"a": 1, "a": [2]}'), read_json(b'{"a": '), read_json(b'"\\xff"')
    ({'a': [2]}, (not JSON), (not JSON))
    """
    try:
        value = _decode(data)
    except (ValueError, RecursionError):
        # The standard library takes more, in ten times the time.
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return NOT_JSON
    if len(data) > 2 * max_depth and _is_deep(data, value, max_depth):
        return NOT_JSON
    return value


def _is_deep(data: bytes, value: Value, max_depth: int) -> bool:
    """Return whether a value nests deeper than `max_depth`."""
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return False
    # Almost all bodies are known to be flat without a walk over their items: each round removes
    # the innermost pairs. Brackets in texts may be left over, which proves nothing.
    brackets = data.translate(None, _OTHERS)
    for _ in range(16):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(brackets) <= max_depth:
            return False
    level = [value]
    for _ in range(max_depth):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return False
    return True


def _inner(value: Value) -> list[Value]:
    """Return the arrays and objects that stand directly in an array or object."""
    values = value.values() if type(value) is dict else value if type(value) is list else ()
    return [inner for inner in values if type(inner) is dict or type(inner) is list]


def as_dict(value: Value) -> JsonObject:
    """Return a value if it is an object, else an empty one."""
    return value if type(value) is dict else {}


def as_list(value: Value) -> list[Value]:
    """Return a value if it is an array, else an empty one."""
    return value if type(value) is list else []


def as_text(value: Value) -> str | None:
    """Return a value if it is a text, else None."""
    return value if type(value) is str else None


def as_count(value: Value) -> int | None:
    """Return a value if it is a number of things, else None: no negative and no huge number."""
    return value if type(value) is int and 0 <= value < _MAX_COUNT else None


def dicts_in(value: Value) -> list[JsonObject]:
    """Return the objects in an array, in their order; none if the value is no array."""
    return [item for item in as_list(value) if type(item) is dict]


def first_of(holder: JsonObject, *names: str) -> Value:
    """Return the first member of an object that is there and not null, by one of its names.

    >>> first_of({"system_instruction": 7}, "systemInstruction", "system_instruction")
    7
    """
    for name in names:
        value = holder.get(name)
        if value is not None:
            return value
    return None


def to_text(value: Value) -> str:
    """Return a value as compact JSON text, with its keys in their order.

    >>> to_text({"b": [1], "a": "é"})
    '{"b":[1],"a":"é"}'
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def to_bytes(value: Value) -> bytes:
    """Return the bytes of `to_text`, in which a lone surrogate stands as its escape.

    A model or a tool that cuts a text between the halves of a pair sends one. In UTF-8 it has no
    bytes, and a server refuses those that Python would give it.

    >>> to_bytes({"a": "\\ud83d"})
    b'{"a":"\\\\ud83d"}'
    """
    return to_text(value).encode("utf-8", "backslashreplace")
