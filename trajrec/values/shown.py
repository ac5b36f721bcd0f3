"""Values as short texts for messages, one alone or two with their first difference."""

from __future__ import annotations

import numpy as np

from trajrec.types import Value
from trajrec.values.arrays import array_bytes

# The longest text of a value in a message.
SHORT_CHARACTERS = 120

# Characters of context before the first difference of two long texts.
CONTEXT_CHARACTERS = 40

_CUT = "..."


def short(value: Value) -> str:
    """Return the text of a value on one line, cut off if it is long."""
    return _cut(_line(repr(value)), SHORT_CHARACTERS)


def short_pair(a: Value, b: Value) -> tuple[str, str]:
    """Return the texts of two different values, each on one line, with their first difference.

    Of long texts, the same window around the first difference is shown, with its place.

    >>> short_pair("a" * 500 + "x", "a" * 500 + "yz")[1][-24:]
    "aaayz' (character 501)"
    """
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return _array_pair(a, b)
    raw_a = repr(a)
    raw_b = repr(b)
    text_a, text_b = short_texts(_line(raw_a), _line(raw_b))
    if text_a == text_b and raw_a != raw_b:
        # They differ in their white space alone.
        text_a, text_b = short_texts(raw_a.replace("\n", "\\n"), raw_b.replace("\n", "\\n"))
    if text_a == text_b and type(a) is not type(b):
        return f"{text_a} ({type(a).__qualname__})", f"{text_b} ({type(b).__qualname__})"
    return text_a, text_b


def short_texts(a: str, b: str, size: int = SHORT_CHARACTERS) -> tuple[str, str]:
    """Return two texts, cut to about `size` characters around their first difference.

    >>> short_texts("same " * 40 + "here", "same " * 40 + "there", size=70)[0]
    '...same same same same same same same same here (character 201)'
    """
    pairs = enumerate(zip(a, b, strict=False))
    n_same = next((k for k, (x, y) in pairs if x != y), min(len(a), len(b)))
    # The cut texts must show the difference, and some of what follows.
    if n_same < size - CONTEXT_CHARACTERS or a == b:
        return _cut(a, size), _cut(b, size)
    start = n_same - CONTEXT_CHARACTERS
    place = f" (character {n_same + 1:,})"
    width = size - len(_CUT)
    return _CUT + _cut(a[start:], width) + place, _CUT + _cut(b[start:], width) + place


def _array_pair(a: np.ndarray, b: np.ndarray) -> tuple[str, str]:
    """Return the texts of two arrays; arrays of many items leave out the middle ones."""
    text_a, text_b = short_texts(_line(repr(a)), _line(repr(b)))
    if text_a != text_b:
        return text_a, text_b
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"an array {a.shape} of {a.dtype}", f"an array {b.shape} of {b.dtype}"
    for index in np.ndindex(a.shape):
        if array_bytes(a[index]) != array_bytes(b[index]):
            item_a, item_b = short_pair(a[index], b[index])
            return f"{item_a} at {index}", f"{item_b} at {index}"
    return text_a, text_b


def _line(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - len(_CUT)] + _CUT


def counted(n: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "model call"), counted(0, "model call")
    ('1 model call', '0 model calls')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
