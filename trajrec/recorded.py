"""Recorded values as a program knew them: objects with attributes, exceptions of their own type. Nothing is imported for it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from trajrec.codec import Plain
from trajrec.errors import RecordedError


class Recorded(Plain):
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


def as_objects(value: Any) -> Any:
    """Return a decoded value with objects in the place of their plain data.

    An object is of its own class where that is loaded already and holds plain fields (pydantic, dataclasses), made without
    calling its constructor. Otherwise it is a `Recorded`.
    """
    if isinstance(value, Plain):
        return _object(value)
    if isinstance(value, dict):
        return {key: as_objects(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(as_objects(item) for item in value)
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
    fields = {name: as_objects(item) for name, item in value.fields.items()}
    if value.kind == "value" or value.kind == "subclass":
        return value
    cls = _loaded(value.type_name)
    if value.kind == "enum" and isinstance(cls, type) and value.fields["name"] in getattr(cls, "__members__", {}):
        return cls.__members__[value.fields["name"]]  # type: ignore[attr-defined]
    if value.kind == "pydantic" and hasattr(cls, "model_construct"):
        return cls.model_construct(set(fields), **fields)
    if value.kind == "dataclass" and hasattr(cls, "__dataclass_fields__"):
        made = object.__new__(cls)
        for name, item in fields.items():
            object.__setattr__(made, name, item)
        return made
    return Recorded(value.type_name, value.kind, fields)


def _loaded(type_name: str) -> Any:
    """Return a class by module and qualified name, where its module is loaded; a log imports nothing."""
    module, _, name = type_name.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def _dump(value: Any) -> Any:
    if isinstance(value, Recorded):
        return value.model_dump()
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if isinstance(value, dict):
        return {key: _dump(item) for key, item in value.items()}
    return [_dump(item) for item in value] if isinstance(value, (list, tuple)) else value
