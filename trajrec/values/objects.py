"""Objects as plain data, and recorded plain data as objects again."""

from __future__ import annotations

import dataclasses
import enum
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec

from trajrec.errors import RecordedError
from trajrec.values import codec
from trajrec.values.codec import Plain
from trajrec.values.plain import PLAIN_TYPES, STANDARD_VALUES

_BUILTIN = (
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
)
_VALUES = (enum.Enum, *STANDARD_VALUES)

_WITHOUT_FIELDS = PLAIN_TYPES | {dict, list, tuple}


def declared_fields(value: Any) -> Any:
    """Return an object's fields as a dict; anything else as it is."""
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


def all_fields(value: Any) -> Any:
    """Return an object's fields, or the attributes of an object without declared fields, as a dict; anything else as it is.

    Of the standard library's objects (locks, loggers, connections) and of arrays of any library the attributes are not what
    they hold; an object without attributes has none to show.
    """
    fields = declared_fields(value)
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
            place = (
                f"_{base.__name__.lstrip('_')}{name}"
                if name.startswith("__") and not name.endswith("__")
                else name
            )
            if name not in ("__dict__", "__weakref__") and hasattr(value, place):
                found[place] = getattr(value, place)
    found.update(getattr(value, "__dict__", {}))
    return found or value


def to_plain(value: Any) -> Any:
    """Return a value in which objects without declared fields are dicts of their attributes, at any depth.

    Where one comes again, as in a cycle, it is named only. What holds none of them is returned as it is.
    """
    return _opened(value, set())


def _opened(value: Any, seen: set[int]) -> Any:
    cls = type(value)
    if cls is list or cls is tuple:
        items = [_opened(item, seen) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else cls(items)
    inside = value if cls is dict else all_fields(value)
    if type(inside) is not dict:
        return value
    is_declared = cls is dict or declared_fields(value) is not value
    if not is_declared:
        if id(value) in seen:
            return codec.Opaque(codec.type_name(value), "shown elsewhere")
        seen.add(id(value))
    found = {key: _opened(item, seen) for key, item in inside.items()}
    return (
        value if is_declared and all(found[key] is item for key, item in inside.items()) else found
    )


class RecordedObject(Plain):
    """An object of a class that is not loaded here: its fields are attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(f"the recorded {self.type_name} has no field {name!r}") from None

    def model_dump(self) -> dict[str, Any]:
        """Return the fields as plain data, as pydantic's objects do."""
        return {name: _dump(value) for name, value in self.fields.items()}


class RecordedStream:
    """A recorded stream, sync and async: its pieces, then what ended it."""

    def __init__(self, pieces: Iterable[Any], error: BaseException | None) -> None:
        self._pieces, self._error = iter(pieces), error

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        for piece in self._pieces:
            return piece
        raise StopIteration if self._error is None else self._error

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration if self._error is None else self._error

    def __enter__(self) -> RecordedStream:
        return self

    def __exit__(self, *exc: object) -> None:
        """Close nothing."""

    async def __aenter__(self) -> RecordedStream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close nothing."""

    def close(self) -> None:
        """Close nothing."""


def rehydrate(value: Any) -> Any:
    """Return a decoded value with objects in the place of their plain data.

    An object is of its own class where that is loaded already and holds plain fields (pydantic, dataclasses), made without
    calling its constructor. Otherwise it is a `Recorded`.
    """
    if isinstance(value, Plain):
        return _object(value)
    if isinstance(value, dict):
        return {key: rehydrate(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(rehydrate(item) for item in value)
    return value


def as_exception(type_name: str, message: str) -> BaseException:
    """Return an exception as it was recorded: of its own type where that is loaded, else a RecordedError."""
    cls = _loaded(type_name)
    if isinstance(cls, type) and issubclass(cls, BaseException):
        try:
            exc = cls.__new__(cls)
        except TypeError:
            exc = None
        if exc is not None:
            exc.args = (message,)
            return exc
    return RecordedError(type_name, message)


def given(value: Any, is_async: bool) -> Any:
    """Return a value as it was given then: at once, or to be awaited."""

    async def later() -> Any:
        return value

    return later() if is_async else value


def raised(exc: BaseException, is_async: bool) -> Any:
    """Raise an exception as it was raised then: at once, or when it is awaited."""
    if not is_async:
        raise exc

    async def later() -> Any:
        raise exc

    return later()


async def awaited(answer: Any) -> Any:
    """Wait for what a tool or a model gave back, whatever kind of awaitable it is."""
    return await answer


def _object(value: Plain) -> Any:
    fields = {name: rehydrate(item) for name, item in value.fields.items()}
    if value.kind == "value" or value.kind == "subclass":
        return value
    cls = _loaded(value.type_name)
    if (
        value.kind == "enum"
        and isinstance(cls, type)
        and value.fields["name"] in getattr(cls, "__members__", {})
    ):
        return cls.__members__[value.fields["name"]]  # type: ignore[attr-defined]
    if value.kind == "pydantic" and hasattr(cls, "model_construct"):
        return cls.model_construct(set(fields), **fields)
    if value.kind == "dataclass" and hasattr(cls, "__dataclass_fields__"):
        made = object.__new__(cls)
        for name, item in fields.items():
            object.__setattr__(made, name, item)
        return made
    return RecordedObject(value.type_name, value.kind, fields)


def _loaded(type_name: str) -> Any:
    """Return a class by module and qualified name, where its module is loaded; a log imports nothing."""
    module, _, name = type_name.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def _dump(value: Any) -> Any:
    if isinstance(value, RecordedObject):
        return value.model_dump()
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if isinstance(value, dict):
        return {key: _dump(item) for key, item in value.items()}
    return [_dump(item) for item in value] if isinstance(value, (list, tuple)) else value
