"""JSON inside of texts: redacted as the values that it stands for, and otherwise left as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from trajrec.types import Value

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)

MAX_JSON_CHARS = 1 << 24
"""Longer texts are searched as plain text."""


class Edit(NamedTuple):
    """A part of a text, and the text in place of it.

    Attributes:
        start: Its first character.
        end: The character after its last one.
        text: The text in place of it.
    """

    start: int
    end: int
    text: str


def may_be_json(text: str) -> bool:
    """Return whether a text begins as a JSON object or list does."""
    return text.lstrip()[:1] in ("{", "[") and len(text) <= MAX_JSON_CHARS


def edit_json(text: str, clean: Callable[[Value], Value]) -> list[Edit] | None:
    """Return the changes that take the secrets out of a JSON document, in order.

    Args:
        text: The document.
        clean: Returns a value without its secrets.

    Returns:
        The changes; None if the text is no JSON document.
    """
    try:
        value = json.loads(text)
        cleaned = clean(value)
        strings = list(_strings(cleaned))
    except (ValueError, RecursionError):
        # Also one that is nested too deeply.
        return None
    tokens = list(_STRING.finditer(text))
    if len(strings) != len(tokens):
        # A key stands twice in one object, so the strings cannot be told apart.
        return [Edit(0, len(text), json.dumps(cleaned, ensure_ascii=False))]
    return [
        Edit(token.start(), token.end(), json.dumps(string, ensure_ascii=False))
        for string, token in zip(strings, tokens, strict=True)
        if json.loads(token[0]) != string
    ]


def _strings(value: Value) -> Iterator[str]:
    """Yield the keys and strings of a JSON value in the order of its text."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def apply_edits(text: str, edits: list[Edit]) -> str:
    """Return a text with edits made."""
    parts = []
    position = 0
    for edit in edits:
        parts += [text[position : edit.start], edit.text]
        position = edit.end
    return "".join([*parts, text[position:]])
