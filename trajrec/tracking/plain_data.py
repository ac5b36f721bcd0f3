"""Plain data: the form in which a tracked tree is stored, compared and digested.

It is what msgpack gives back for a value: dicts, lists, texts, numbers, bytes and None. Objects
become dicts of their fields, enums their values, tuples lists, and dates texts. Values that msgpack
cannot hold without a loss raise TypeError here or another error of msgpack; such a value is tracked
by the codec instead.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from typing import Literal

import msgspec

from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.objects import all_fields
from trajrec.values.plain import PLAIN_TYPES

NOT_PLAIN = (OverflowError, UnicodeEncodeError, TypeError, ValueError, RecursionError)
"""Exceptions for a value that is no plain data; the last for objects in a cycle."""

ContainerKind = Literal["dict", "list"]

KeyKind = Literal["text", "distinct", "mixed"]
"""The keys of a container. text: indices, or texts alone. distinct: equal keys have the same type.
mixed: all others, for instance 1 and True."""

_TEXT = frozenset((str,))

# Equal keys of these types have the same type. Bools and floats may equal an integer.
_DISTINCT = frozenset((str, int, bytes, type(None)))
_DISTINCT_OR_TUPLE = _DISTINCT | {tuple}

_CONTAINERS = frozenset((dict, list, tuple))


def kind_of(value: Value) -> ContainerKind | None:
    """Return the kind of a container; None for any other value."""
    if isinstance(value, dict):
        return "dict"
    return "list" if isinstance(value, (list, tuple)) else None


def opened(value: Value) -> Value:
    """Return an object as the container that stands for it in plain data, any other value itself.

    Raises:
        TypeError: The object itself loses something by it, see `check_plain`.
    """
    cls = type(value)
    if cls in _CONTAINERS or cls in PLAIN_TYPES:
        return value
    attributes = getattr(cls, "__attrs_attrs__", ())
    if any(attribute.name.startswith("_") for attribute in attributes):
        raise TypeError(f"{codec.type_name(value)} has private attributes")
    fields = all_fields(value)
    # msgpack gives these a form of their own, with other names perhaps.
    if fields is value and isinstance(value, (msgspec.Struct, enum.Enum)):
        check_plain([value])
        return plain_copy(value)
    return fields


def plain_copy(value: Value) -> Value:
    """Return a value as plain data of its own."""
    return decode(encode(value))


def key_kind(value: Value) -> KeyKind:
    """Return the kind of a container's keys.

    Raises:
        TypeError: A key is no plain data, so that paths could not name it.
    """
    if not isinstance(value, dict):
        return "text"
    types = set(map(type, value))
    if types <= _TEXT:
        return "text"
    if types <= _DISTINCT:
        return "distinct"
    if types <= _DISTINCT_OR_TUPLE and all(map(_is_distinct, value)):
        return "distinct"
    _check_keys(value)
    return "mixed"


def check_plain(values: Iterable[Value]) -> None:
    """Check that values that msgpack can hold lose nothing by it.

    Raises:
        TypeError: A set, whose order in a list would be an accident; private attributes of an attrs
            class, which msgpack leaves out; or a key of a dict that is no plain data.
    """
    waiting = list(values)
    is_plain = PLAIN_TYPES.issuperset
    has_texts = _TEXT.issuperset
    while waiting:
        value = waiting.pop()
        cls = type(value)
        # Nearly all containers are dicts and lists of plain values.
        if cls in PLAIN_TYPES or (cls is list and is_plain(map(type, value))):
            continue
        if cls is dict and has_texts(map(type, value)) and is_plain(map(type, value.values())):
            continue
        if isinstance(value, (set, frozenset)):
            raise TypeError(f"{codec.type_name(value)} is no plain data")
        if isinstance(value, enum.Enum):
            waiting.append(value.value)
            continue
        if isinstance(value, msgspec.Struct):
            waiting += [getattr(value, name) for name in value.__struct_fields__]
            continue
        container = opened(value)
        if isinstance(container, dict):
            if key_kind(container) != "text":
                _check_keys(container)
            waiting += [item for item in container.values() if type(item) not in PLAIN_TYPES]
        elif isinstance(container, (list, tuple)):
            waiting += [item for item in container if type(item) not in PLAIN_TYPES]


def _is_distinct(key: Value) -> bool:
    return type(key) is not tuple or _DISTINCT.issuperset(map(type, key))


def _check_keys(keys: Iterable[Value]) -> None:
    for key in keys:
        if type(key) is tuple:
            _check_keys(key)
        elif type(key) not in PLAIN_TYPES or (type(key) is float and math.isnan(key)):
            raise TypeError(f"a key of type {codec.type_name(key)} is no plain data")


def _to_msgpack(value: Value) -> Value:
    """Return the fields of an object that msgpack does not know."""
    fields = all_fields(value)
    if fields is value:
        raise TypeError(f"{codec.type_name(value)} is no plain data")
    return fields


# Made once: an encoder costs more than the encoding of a small value.
ENCODER = msgspec.msgpack.Encoder(enc_hook=_to_msgpack)
encode = ENCODER.encode
encode_sorted = msgspec.msgpack.Encoder(enc_hook=_to_msgpack, order="deterministic").encode
decode = msgspec.msgpack.Decoder(strict=False).decode
