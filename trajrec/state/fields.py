"""What objects hold: dataclasses, pydantic and attrs objects as dicts of their fields, others as dicts of their attributes."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import pathlib
import sys
import uuid
from types import SimpleNamespace
from typing import Any

import msgspec

from trajrec import codec

_BUILTIN = (dict, list, str, int, float, complex, bytes, bytearray, tuple, set, frozenset, type, BaseException, msgspec.Struct)
_VALUES = (enum.Enum, datetime.date, datetime.time, decimal.Decimal, uuid.UUID, pathlib.PurePath)


def fields_of(value: Any) -> Any:
    """Return an object's fields as a dict; anything else as it is."""
    cls = type(value)
    if cls in (dict, list, str, int, float, bool, type(None), bytes, tuple):
        return value
    if dataclasses.is_dataclass(cls):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(cls, "__pydantic_core_schema__") and hasattr(cls, "model_fields"):
        return {**value.__dict__, **(value.__pydantic_extra__ or {})}
    if hasattr(cls, "__attrs_attrs__"):
        return {field.name: getattr(value, field.name) for field in cls.__attrs_attrs__}
    return value


def attributes_of(value: Any) -> Any:
    """Return an object's fields, or the attributes of an object without declared fields, as a dict; anything else as it is.

    Of the standard library's objects (locks, loggers, connections) and of arrays of any library the attributes are not what
    they hold; an object without attributes has none to show.
    """
    fields = fields_of(value)
    cls = type(value)
    if fields is not value or cls.__module__ == "builtins":
        return fields
    if isinstance(value, _BUILTIN + _VALUES) or hasattr(cls, "__array__"):
        return value
    if cls.__module__.partition(".")[0] in sys.stdlib_module_names and cls is not SimpleNamespace:
        return value
    found = {}
    for base in reversed(cls.__mro__):
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            place = f"_{base.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
            if name not in ("__dict__", "__weakref__") and hasattr(value, place):
                found[place] = getattr(value, place)
    found.update(getattr(value, "__dict__", {}))
    return found or value


def opened(value: Any) -> Any:
    """Return a value in which objects without declared fields are dicts of their attributes, at any depth.

    Where one comes again, as in a cycle, it is named only. What holds none of them is returned as it is.
    """
    return _opened(value, set())


def _opened(value: Any, seen: set[int]) -> Any:
    cls = type(value)
    if cls is list or cls is tuple:
        items = [_opened(item, seen) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else cls(items)
    inside = value if cls is dict else attributes_of(value)
    if type(inside) is not dict:
        return value
    is_declared = cls is dict or fields_of(value) is not value
    if not is_declared:
        if id(value) in seen:
            return codec.Opaque(codec.type_name(value), "shown elsewhere")
        seen.add(id(value))
    found = {key: _opened(item, seen) for key, item in inside.items()}
    return value if is_declared and all(found[key] is item for key, item in inside.items()) else found
