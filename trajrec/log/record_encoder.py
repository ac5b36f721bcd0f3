"""Encodes records, whatever characters their texts hold."""

from __future__ import annotations

from typing import TypeVar

import msgspec
import numpy as np

from trajrec.log.events import Blob
from trajrec.log.schema import Event
from trajrec.types import Value

T = TypeVar("T")


def _as_plain(value: Value) -> Value:
    """Return a text or number of another class as one of Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"a record cannot hold a {type(value).__qualname__}: {value!r}")


_encode = msgspec.msgpack.Encoder(enc_hook=_as_plain).encode

_decode_event = msgspec.msgpack.Decoder(Event).decode


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


def encode_event(event: Event) -> bytes:
    """Encode an event of which a program gave some values, such as a seed or an id.

    Raises:
        TypeError: A value is of another type than its field, so that no reader would take the
            event, nor the others that are in its frame.
    """
    try:
        data = encode_record(event)
        if type(event) is not Blob:
            _decode_event(data)
    except (msgspec.ValidationError, OverflowError) as exc:
        kind = type(event).__name__
        raise TypeError(f"{kind} cannot be recorded: {_named(event, str(exc))}") from exc
    return data


def _named(event: Event, problem: str) -> str:
    """Return a problem with the name of the field, of which the decoder gives the place."""
    text, _, place = problem.partition(" - at `$[")
    number = place.partition("]")[0]
    if not number.isdecimal():
        return problem
    # The kind of the event comes first.
    name = event.__struct_fields__[int(number) - 1]
    return f"{name}={getattr(event, name)!r}: {text}"


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
