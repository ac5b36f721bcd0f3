"""The lines of a stream: their JSON, the texts in it, and the form that many of them share."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator
from typing import TypeAlias

import msgspec

from trajrec.types import Value

# Fields of a line that tell which text it continues.
_NUMBERS = ("index", "output_index", "content_index", "summary_index", "item_id")

_NUMBER_NAMES = frozenset(name.encode() for name in _NUMBERS)

_NUMBER = re.compile(rb"-?[0-9][0-9.eE+-]*")
# Without alternatives, which would be tried at each byte.
_TEXT = rb'"([^"\\]*(?:\\.[^"\\]*)*)"'

STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
"""A text in JSON."""

Path: TypeAlias = tuple[Hashable, ...]
"""What a text continues."""


def decoded(data: bytes) -> Value:
    """Return the value of a line of JSON.

    Raises:
        ValueError: It is none.
        RecursionError: It is nested too deeply.
    """
    try:
        return msgspec.json.decode(data)
    except ValueError:
        # NaN, or half of a surrogate pair: Python's own JSON reads and writes both.
        return json.loads(data)


def unquoted(data: bytes) -> str:
    """Return the text of the inside of a JSON string."""
    if b"\\" in data:
        return str(msgspec.json.decode(b'"' + data + b'"', type=str))
    return data.decode()


def form_pattern(line: bytes, tokens: list[tuple[int, int]], grown: set[int]) -> bytes:
    """Return a regular expression for lines that differ in numbers, and in the texts that grow.

    Args:
        line: The line.
        tokens: Start and end of each JSON string in it.
        grown: Which of these are texts that grow.
    """
    parts = []
    at = 0
    # A number that tells which text a line continues is a part of its form.
    is_fixed = False
    for index, (start, end) in enumerate(tokens):
        parts.append(_between(line[at:start], is_fixed=is_fixed))
        token = line[start:end]
        parts.append(_TEXT if index in grown else re.escape(token))
        is_fixed = token[1:-1] in _NUMBER_NAMES
        at = end
    parts.append(_between(line[at:], is_fixed=is_fixed))
    return b"".join(parts)


def _between(data: bytes, *, is_fixed: bool) -> bytes:
    """Return the pattern of the bytes between two strings."""
    if is_fixed:
        return re.escape(data)
    return b"-?[0-9][0-9.eE+-]*".join(map(re.escape, _NUMBER.split(data)))


def json_begin(line: bytes) -> int:
    """Return the first byte of the JSON in a line."""
    if not line.startswith(b"data:"):
        return 0
    return 6 if line[5:6] == b" " else 5


def texts(value: Value, key: Path, name: str) -> Iterator[tuple[Path, str | None, str]]:
    """Yield key, field and text of each string of a value in the order of its bytes.

    The field of a key of an object is None: only values are searched.
    """
    if isinstance(value, str):
        yield (*key, name), name, value
    elif isinstance(value, dict):
        for number in _NUMBERS:
            own = value.get(number)
            if type(own) in (int, str):
                key = (*key, number, own)
        for field, item in value.items():
            yield (), None, field
            yield from texts(item, (*key, name), field)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            # An object with a number of its own may come at any place. Tokens that are listed one by
            # one continue each other.
            is_numbered = isinstance(item, dict) and ("index" in item or "token" in item)
            yield from texts(item, (*key, name) if is_numbered else (*key, name, index), "")
