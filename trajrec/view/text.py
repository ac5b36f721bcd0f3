"""Recorded values as text for pages: nothing in it steers a browser, a terminal or a reader."""

from __future__ import annotations

import json
from typing import NamedTuple

from trajrec.corpus.said_messages import SaidMessage
from trajrec.types import Value
from trajrec.values.json import to_json, to_json_value, with_named_arrays
from trajrec.values.pictures import EncodedPicture, with_named_pictures

MAX_CHARACTERS = 4_000
"""Characters of a value that a page shows; a longer one is cut, and the page says by how much."""

MAX_PICTURES = 8
"""Pictures in a value that a page shows; the text names all."""

# A value up to this length stands on one line.
LINE_CHARACTERS = 72


class Shown(NamedTuple):
    """A value as a page shows it.

    Attributes:
        text: The text, not yet escaped.
        n_more: Characters that were cut off.
        is_long: Whether it needs a block of its own.
        pictures: The first pictures in it, which the text names.
    """

    text: str
    n_more: int
    is_long: bool
    pictures: tuple[EncodedPicture, ...] = ()


def json_text(value: Value) -> str:
    """Return a value as JSON text on one line; of one that nests too deeply, a remark."""
    try:
        return to_json(value)
    except (RecursionError, ValueError):
        return "(nested too deeply to show)"


def cell(value: Value, length: int) -> str:
    """Return a value as JSON text of at most a number of characters.

    >>> cell({"order": "O1001"}, 12)
    '{"order":"O…'
    """
    named = with_named_pictures(_named(value))
    text = named if isinstance(named, str) else json_text(named)
    # The escapes of a page make it longer, which is harmless; a list of cells must stay small.
    return text if len(text) <= length else text[: length - 1] + "…"


def shown(value: Value, limit: int = MAX_CHARACTERS) -> Shown:
    """Return a value as a page shows it: a text of several lines as it is, all else as JSON.

    >>> shown({"stock": 54})
    Shown(text='{"stock":54}', n_more=0, is_long=False, pictures=())
    """
    value = _named(value)
    if isinstance(value, _Array):
        return Shown(value, 0, False)
    pictures: list[EncodedPicture] = []
    value = with_named_pictures(value, pictures)
    return _shown(value, limit)._replace(pictures=tuple(pictures[:MAX_PICTURES]))


def _shown(value: Value, limit: int) -> Shown:
    if isinstance(value, str) and ("\n" in value or len(value) > LINE_CHARACTERS):
        return _cut(value, limit)
    text = json_text(value)
    if LINE_CHARACTERS < len(text) <= limit and isinstance(value, (dict, list, tuple)):
        text = json.dumps(to_json_value(value), indent=2, ensure_ascii=False)
    return _cut(text, limit)


def shown_text(text: str, limit: int = MAX_CHARACTERS) -> Shown:
    """Return a text as a page shows it, without quotes."""
    pictures: list[EncodedPicture] = []
    named = with_named_pictures(text, pictures)
    return _cut(named, limit)._replace(pictures=tuple(pictures[:MAX_PICTURES]))


def shown_message(message: SaidMessage) -> Shown:
    """Return the text of a message, with the pictures that stand beside its text."""
    pictures: list[EncodedPicture] = []
    try:
        with_named_pictures(message.value, pictures)
    except RecursionError:
        pictures.clear()
    return shown_text(message.text)._replace(pictures=tuple(pictures[:MAX_PICTURES]))


def _cut(text: str, limit: int) -> Shown:
    is_long = len(text) > LINE_CHARACTERS or "\n" in text
    return Shown(text[:limit], max(0, len(text) - limit), is_long)


class _Array(str):
    """The dtype and shape of an array, which is shown without quotes."""


def _named(value: Value) -> Value:
    """Return a value with its large arrays, which JSON has no place for, by dtype and shape."""
    try:
        named = with_named_arrays(value)
    except (RecursionError, ValueError):
        return value
    return _Array(named) if isinstance(named, str) and not isinstance(value, str) else named


class Difference(NamedTuple):
    """Two texts, cut into the parts that they share and those that differ."""

    before: str
    left: str
    right: str
    after: str


def difference(left: str, right: str) -> Difference:
    """Return the common beginning and end of two texts, and their parts that differ.

    The common end begins with a whole word or number.

    >>> difference('{"cents":5400,"to":1}', '{"cents":5300,"to":1}')
    Difference(before='{"cents":5', left='400', right='300', after=',"to":1}')
    """
    shortest = min(len(left), len(right))
    start = next((i for i in range(shortest) if left[i] != right[i]), shortest)
    rest = shortest - start
    n_end = next((i for i in range(rest) if left[-1 - i] != right[-1 - i]), rest)
    while n_end and left[-n_end].isalnum():
        n_end -= 1
    end_left = len(left) - n_end
    end_right = len(right) - n_end
    return Difference(left[:start], left[start:end_left], right[start:end_right], left[end_left:])
