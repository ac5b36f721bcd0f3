"""Objects as dicts of their fields or attributes.

`trajrec.values.recorded` is the way back.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
from types import SimpleNamespace

import msgspec

from trajrec.types import JsonObject, Value
from trajrec.values import codec
from trajrec.values.plain import PLAIN_TYPES, STANDARD_VALUES

# Base classes of values whose attributes are not their content.
_WITHOUT_ATTRIBUTES = (
    dict,
    list,
    str,
    int,
    float,
    complex,
    bytes,
    bytearray,
    tuple,
    set,
    frozenset,
    type,
    BaseException,
    msgspec.Struct,
    enum.Enum,
    *STANDARD_VALUES,
)

# Most values are of these types; this look-up spares them the slower tests below.
_WITHOUT_FIELDS = PLAIN_TYPES | {dict, list, tuple}


def declared_fields(value: Value) -> Value:
    """Return the declared fields of an object as a dict, and any other value unchanged.

    Dataclasses, pydantic and attrs classes declare fields.
    """
    cls = type(value)
    if cls in _WITHOUT_FIELDS:
        return value
    if dataclasses.is_dataclass(cls):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(cls, "__pydantic_core_schema__") and hasattr(cls, "model_fields"):
        return {**value.__dict__, **(value.__pydantic_extra__ or {})}
    if hasattr(cls, "__attrs_attrs__"):
        return {field.name: getattr(value, field.name) for field in cls.__attrs_attrs__}
    return value


def all_fields(value: Value) -> Value:
    """Return the declared fields or else the attributes of an object as a dict.

    Other values are returned unchanged: builtins, objects of the standard library (locks, loggers,
    connections) and arrays of any library, since attributes do not show their content; and objects
    without attributes.
    """
    fields = declared_fields(value)
    cls = type(value)
    if fields is not value or cls.__module__ == "builtins":
        return fields
    if isinstance(value, _WITHOUT_ATTRIBUTES) or hasattr(cls, "__array__"):
        return value
    is_standard = cls.__module__.partition(".")[0] in sys.stdlib_module_names
    if is_standard and cls is not SimpleNamespace:
        return value
    return _attributes(value) or value


def _attributes(value: object) -> JsonObject:
    """Return the attributes in the slots of all base classes, then those in the `__dict__`."""
    attributes: JsonObject = {}
    for base in reversed(type(value).__mro__):
        slots = base.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            name = _mangle(base, slot)
            if slot not in ("__dict__", "__weakref__") and hasattr(value, name):
                attributes[name] = getattr(value, name)
    attributes.update(getattr(value, "__dict__", {}))
    return attributes


def _mangle(cls: type, name: str) -> str:
    """Return the name under which Python stores a class's attribute: __x becomes _Class__x."""
    is_private = name.startswith("__") and not name.endswith("__")
    return f"_{cls.__name__.lstrip('_')}{name}" if is_private else name


def to_plain(value: Value) -> Value:
    """Return a value in which objects without declared fields are dicts of their attributes.

    Objects at any depth are converted. An object that comes twice, for instance in a cycle, is
    `Opaque` the second time. A value without such objects is returned itself, not copied.
    """
    return _to_plain(value, set())


def _to_plain(value: Value, seen: set[int]) -> Value:
    cls = type(value)
    if cls is list or cls is tuple:
        items = [_to_plain(item, seen) for item in value]
        is_unchanged = all(a is b for a, b in zip(items, value, strict=True))
        return value if is_unchanged else cls(items)
    fields = value if cls is dict else all_fields(value)
    if type(fields) is not dict:
        return value
    is_declared = cls is dict or declared_fields(value) is not value
    if not is_declared:
        if id(value) in seen:
            return codec.Opaque(codec.type_name(value), "shown elsewhere")
        seen.add(id(value))
    plain = {key: _to_plain(item, seen) for key, item in fields.items()}
    if is_declared and all(plain[key] is item for key, item in fields.items()):
        return value
    return plain
