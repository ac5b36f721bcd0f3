"""Paths as texts, as logs of format 1 hold them: "stock/1".

The types of keys are lost in them: "8" is the text, the integer, or the index. The value that a
path leads into has most of its keys, and narrows the choice.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import numpy as np

from trajrec.types import Value
from trajrec.values.codec import Plain
from trajrec.values.paths import Path, has_text_keys

# Longer texts are no literals of keys; parsing megabytes of source would take seconds.
_MAX_LITERAL = 100


def to_text(path: Path) -> str:
    """Return a path as format 1 writes it: without a first slash, and an empty key as "~2".

    >>> to_text(("stock", 1)), to_text(("a/b", "~", ""))
    ('stock/1', 'a~1b/~0/~2')
    """
    return "/".join(str(key).replace("~", "~0").replace("/", "~1") or "~2" for key in path)


def text_keys(text: str) -> Path:
    """Return the keys of a path as texts.

    >>> text_keys("a~1b/~0/~2"), text_keys("")
    (('a/b', '~', ''), ())
    """
    return tuple(map(_unescape, text.split("/"))) if text else ()


def possible_paths(value: Value, text: str, *, is_addition: bool) -> Iterator[Path]:
    """Yield the typed paths that a text may stand for.

    Args:
        value: The value that the path leads into.
        text: The path.
        is_addition: Whether the last key is new in its dict or list; all others must be there.
    """
    yield from _paths(value, text_keys(text), (), is_addition)


def _paths(value: Value, texts: Path, path: Path, is_addition: bool) -> Iterator[Path]:
    if not texts:
        if not (is_addition and path):
            yield path
        return
    if is_addition and len(texts) == 1:
        for key in _new_keys(value, texts[0]):
            yield (*path, key)
        return
    for key, item in _items(value, texts[0]):
        yield from _paths(item, texts[1:], (*path, key), is_addition)


def _items(value: Value, text: str) -> Iterator[tuple[Value, Value]]:
    """Yield the items of a value whose key has a text, with the key."""
    if isinstance(value, Plain):
        value = value.fields
    if isinstance(value, dict):
        if text in value:
            yield text, value[text]
        if not has_text_keys(value):
            for key, item in value.items():
                if type(key) is not str and str(key) == text:
                    yield key, item
        return
    has_indices = isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim)
    if has_indices and text.isdecimal() and int(text) < len(value):
        yield int(text), value[int(text)]


def _new_keys(value: Value, text: str) -> Iterator[Value]:
    """Yield the keys with a text that a dict does not have, or the index after a list's end."""
    if isinstance(value, (list, tuple)):
        if text.isdecimal():
            yield int(text)
    elif isinstance(value, dict):
        yield text
        # Even if the dict has it: True takes the place of a 1 that is removed.
        if text == "None":
            yield None
        elif (key := _literal(text)) is not None:
            yield key


def _literal(text: str) -> Value:
    """Return the number, bytes or tuple that a text is the `str` of; None if there is none."""
    if len(text) > _MAX_LITERAL:
        return None
    try:
        key = ast.literal_eval(text)
        hash(key)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return key if type(key) is not str and str(key) == text else None


def _unescape(part: str) -> str:
    return "" if part == "~2" else part.replace("~1", "/").replace("~0", "~")
