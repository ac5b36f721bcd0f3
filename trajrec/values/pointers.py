"""Places of a value by JSON Pointers. A pointer may lead to several places: keys can look alike."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trajrec.types import Value
from trajrec.values.codec import Plain
from trajrec.values.json import key_text
from trajrec.values.paths import Path, has_text_keys


def pointer_keys(pointer: str) -> tuple[str, ...]:
    """Return the keys of a JSON Pointer (RFC 6901) as texts.

    Raises:
        ValueError: It is neither empty nor begins with "/".

    >>> pointer_keys("/a~1b/0/"), pointer_keys("")
    (('a/b', '0', ''), ())
    """
    if not pointer:
        return ()
    if not pointer.startswith("/"):
        raise ValueError(f"a path is empty or begins with /, got {pointer!r}")
    return tuple(key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:])


def find_places(value: Value, keys: tuple[str, ...]) -> Iterator[tuple[Path, Value]]:
    """Yield each place that keys lead to, as its path with typed keys, and its value.

    >>> list(find_places({7: "a", "7": "b"}, ("7",)))
    [(('7',), 'b'), ((7,), 'a')]
    """
    if not keys:
        yield (), value
        return
    for key, item in _items(value, keys[0]):
        for path, found in find_places(item, keys[1:]):
            yield (key, *path), found


def path_texts(path: Path) -> tuple[str, ...]:
    """Return the keys of a path as the texts that a pointer shows."""
    return tuple(map(key_text, path))


def _items(value: Value, text: str) -> Iterator[tuple[Value, Value]]:
    if isinstance(value, Plain):
        value = value.fields
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        if text in value:
            yield text, value[text]
        if not (has_text_keys(value) and text.isascii()):
            for key, item in value.items():
                if key != text and key_text(key) == text:
                    yield key, item
        return
    has_indices = isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim)
    if has_indices and text.isdecimal() and text == str(int(text)) and int(text) < len(value):
        yield int(text), value[int(text)]
