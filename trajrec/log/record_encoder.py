"""Encodes records, whatever characters their texts hold."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from trajrec.types import Value

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode


def storable(text: str) -> str:
    r"""Return a text with lone surrogates written as escapes: UTF-8 has no bytes for them.

    >>> storable("a\ud800b")
    'a\\ud800b'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def encode_record(record: msgspec.Struct) -> bytes:
    """Encode a record.

    An agent may name a tool, and an environment its space, with lone surrogates. Values are stored
    with them; the texts of a record have them as escapes, so that the log can still be written.
    """
    try:
        return _encode(record)
    except UnicodeEncodeError:
        return _encode(_with_storable_texts(record))


def _with_storable_texts(value: T) -> T:
    """Return a record, or a part of one, with all its texts storable."""
    changed: Value = value
    if isinstance(value, str):
        changed = storable(value)
    elif isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        changed = msgspec.structs.replace(value, **_with_storable_texts(fields))
    elif isinstance(value, dict):
        changed = {
            _with_storable_texts(key): _with_storable_texts(item) for key, item in value.items()
        }
    elif isinstance(value, (list, tuple)):
        changed = type(value)(map(_with_storable_texts, value))
    return changed  # type: ignore[no-any-return]
