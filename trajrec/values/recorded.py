"""Recorded plain data as objects and streams again.

Nothing is imported for it: only classes whose modules are loaded are used, and no constructor is
called.
"""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from typing import TypeVar

from trajrec.types import JsonObject, Value
from trajrec.values.codec import Plain
from trajrec.values.foreign_arrays import ARRAY, as_given
from trajrec.values.plain import PLAIN_TYPES
from trajrec.values.recorded_errors import loaded_class

T = TypeVar("T")

HANG_S = 30.0
"""How long a call waits that was given up before its result came, if nobody gives it up."""

_ARE_PLAIN = PLAIN_TYPES.issuperset


class RecordedObject(Plain):
    """An object of a class that is not loaded: its fields are attributes."""

    def __getattr__(self, name: str) -> Value:
        # While a copy is made or unpickled it has no fields yet, and asking for `self.fields` here
        # would never end.
        attributes = self.__dict__
        fields = attributes.get("fields", {})
        if name not in fields:
            type_name = attributes.get("type_name", "object")
            raise AttributeError(f"the recorded {type_name} has no field {name!r}")
        return fields[name]

    def model_dump(self) -> JsonObject:
        """Return the fields as plain data, as pydantic's objects do."""
        return {name: _dump(value) for name, value in self.fields.items()}


class RecordedStream:
    """A recorded stream, for synchronous and asynchronous loops.

    Args:
        pieces: The pieces that the stream yielded.
        error: The exception that ended the stream, or None.
        hangs: Whether an asynchronous loop waits at the end until it is cancelled, as the one did
            that was recorded.
    """

    def __init__(
        self, pieces: Iterable[Value], error: BaseException | None, *, hangs: bool = False
    ) -> None:
        self._pieces = iter(pieces)
        self._error = error
        self._hangs = hangs

    def __iter__(self) -> Iterator[Value]:
        return self

    def __next__(self) -> Value:
        for piece in self._pieces:
            return piece
        raise StopIteration if self._error is None else self._error

    def __aiter__(self) -> AsyncIterator[Value]:
        return self

    async def __anext__(self) -> Value:
        for piece in self._pieces:
            return piece
        if self._hangs:
            await _hang()
        raise StopAsyncIteration if self._error is None else self._error

    def __enter__(self) -> RecordedStream:
        return self

    def __exit__(self, *exc: object) -> None:
        """Do nothing: a recorded stream holds no connection."""

    async def __aenter__(self) -> RecordedStream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Do nothing: a recorded stream holds no connection."""

    def close(self) -> None:
        """Do nothing: a recorded stream holds no connection."""


def rehydrate(value: Value) -> Value:
    """Return a decoded value in which plain data of objects is objects again.

    A pydantic object, dataclass or enum has its own class if that class is loaded. Other objects
    are `RecordedObject`.
    """
    if type(value) in PLAIN_TYPES:
        return value
    if isinstance(value, Plain):
        return _to_object(value)
    if (
        type(value) is dict
        and _ARE_PLAIN(map(type, value))
        and _ARE_PLAIN(map(type, value.values()))
    ):
        # Most results are records of numbers and texts.
        return value.copy()
    if isinstance(value, dict):
        return {_key(key): rehydrate(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(rehydrate(item) for item in value)
    return value


def _key(key: Value) -> Value:
    """Return the key of a dict: an enum's member itself, any other object as plain data.

    No other object: its class may compute a hash by code of its own.
    """
    if type(key) is str:
        return key
    if type(key) is tuple:
        return tuple(map(_key, key))
    return _to_object(key) if isinstance(key, Plain) and key.kind == "enum" else key


def deliver(value: T, is_async: bool) -> T | Awaitable[T]:
    """Return a recorded result as it was returned: at once, or as an awaitable."""

    async def result() -> T:
        return value

    return result() if is_async else value


def deliver_error(exc: BaseException, is_async: bool, *, hangs: bool = False) -> Awaitable[None]:
    """Raise a recorded exception as it was raised: at once, or when the result is awaited.

    Args:
        exc: The exception.
        is_async: Whether the result was awaited.
        hangs: Whether the caller had given up waiting: the awaitable waits until it does so again.
    """
    if not is_async:
        raise exc

    async def result() -> None:
        if hangs:
            await _hang()
        raise exc

    return result()


async def _hang() -> None:
    """Wait until the caller gives up."""
    # Late, as in `resolve`.
    import asyncio

    await asyncio.sleep(HANG_S)


def resolve(result: Awaitable[T]) -> T:
    """Run an awaitable in an event loop of its own; return its value."""
    # Late: asyncio takes 12 ms to import, a tenth of the start of a process that replays, and
    # most tools are not async.
    import asyncio

    async def value() -> T:
        return await result

    # Not `result` itself: `asyncio.run` takes coroutines only.
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(value())
    # A notebook runs a loop in its main thread, which can run no other.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        context = contextvars.copy_context()
        return pool.submit(context.run, lambda: asyncio.run(value())).result()


def _to_object(value: Plain) -> Value:
    if value.kind in ("value", "subclass"):
        return value
    if value.kind == ARRAY:
        return as_given(value)
    fields = {name: rehydrate(item) for name, item in value.fields.items()}
    cls = loaded_class(value.type_name)
    members = getattr(cls, "__members__", {})
    if value.kind == "enum" and isinstance(cls, type) and value.fields["name"] in members:
        return members[value.fields["name"]]
    if value.kind == "pydantic" and hasattr(cls, "model_construct"):
        return cls.model_construct(set(fields), **fields)
    if value.kind == "dataclass" and hasattr(cls, "__dataclass_fields__"):
        made = object.__new__(cls)
        # Frozen dataclasses refuse setattr.
        for name, item in fields.items():
            object.__setattr__(made, name, item)
        return made
    return RecordedObject(value.type_name, value.kind, fields)


def _dump(value: Value) -> Value:
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if isinstance(value, dict):
        return {key: _dump(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_dump(item) for item in value]
    return value
