"""Paths: the keys that lead from a value to a part of it, with their types.

A key is the key of a dict, the index of a list, tuple or array (an array has one for each
dimension), or the name of an object's field. Python takes 1, 1.0 and True for one key of a dict;
two keys are the same here only if they have the same type and bits. A dict of Python cannot hold
two keys that it takes for one, but a dict may exchange one for the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeAlias

from trajrec.types import Value
from trajrec.values import codec

Path: TypeAlias = tuple[Value, ...]
"""The keys from the outermost value to a part; () is the value itself."""

_TEXT = frozenset((str,))

# Keys of these types have the same bits if they are equal and of one type. Floats do not: 0.0 and
# -0.0 are equal, and NaN is not equal to itself.
_EQUAL_BY_TYPE = frozenset((int, bool, type(None)))


def key_id(key: Value) -> Hashable:
    """Return a hashable value that is equal for keys of the same type and bits, and no others.

    >>> key_id(7) == key_id("7"), key_id(1) == key_id(True), key_id(0.0) == key_id(-0.0)
    (False, False, False)
    """
    cls = type(key)
    if cls is str:
        text: Hashable = key
        return text
    if cls in _EQUAL_BY_TYPE:
        return cls, key
    # Encodings are bytes, which no key_id of the types above is.
    return codec.encode(key, opaque=True, canonical=True)


def path_id(path: Path) -> tuple[Hashable, ...]:
    """Return a hashable value that is equal for paths of the same keys, and no others."""
    return tuple(map(key_id, path))


def has_text_keys(mapping: Mapping[Value, Value]) -> bool:
    """Return whether all keys of a dict are texts, so that equal keys are the same keys."""
    return _TEXT.issuperset(map(type, mapping))


def keys_by_id(mapping: Mapping[Value, Value]) -> dict[Hashable, Value] | None:
    """Return the keys of a dict by their ids; None if two of its keys have the same id.

    Python keeps two NaN in one dict, and two objects that compare by identity.
    """
    keys = {key_id(key): key for key in mapping}
    return keys if len(keys) == len(mapping) else None
