"""Awaitables that a tool or a model returned, in the kind in which the program gets them."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any

from trajrec.types import Value


def of_same_kind(given: Awaitable[Value], recorded: Coroutine[Any, Any, Value]) -> Awaitable[Value]:
    """Return a coroutine that awaits another awaitable; as a task, if that is a future.

    A program may cancel a future, wait for several of them, or await one twice. It runs also if
    nobody awaits it. Any other object stays what it is but for its first `await`.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio.isfuture(given):
        future: Any = given
        task: Awaitable[Value] = asyncio.ensure_future(recorded, loop=future.get_loop())
        return task
    if isinstance(given, (Coroutine, Generator)):
        return recorded
    return _AwaitedOnce(given, recorded)


class _AwaitedOnce:
    """An awaitable object with attributes of its own, whose first `await` is recorded.

    Args:
        given: The object.
        recorded: Awaits it, and records the result.
    """

    def __init__(self, given: Awaitable[Value], recorded: Coroutine[Any, Any, Value]) -> None:
        self._given = given
        self._recorded: Coroutine[Any, Any, Value] | None = recorded

    def __await__(self) -> Generator[Any, Any, Value]:
        recorded = self._recorded
        if recorded is None:
            return self._given.__await__()
        self._recorded = None
        return recorded.__await__()

    def __getattr__(self, name: str) -> Value:
        return getattr(self.__dict__["_given"], name)

    def __del__(self) -> None:
        # Nobody awaited it, of which Python warns for a coroutine alone.
        if self._recorded is not None:
            self._recorded.close()
