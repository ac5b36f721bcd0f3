"""Awaitables that a tool or a model returned, in the kind in which the program gets them."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Coroutine
from typing import Any

from trajrec.types import Value


def of_same_kind(given: Awaitable[Value], recorded: Coroutine[Any, Any, Value]) -> Awaitable[Value]:
    """Return a coroutine that awaits another awaitable; as a task, if that is a future.

    A program may cancel a future, wait for several of them, or await one twice. It runs also if
    nobody awaits it.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or not asyncio.isfuture(given):
        return recorded
    future: Any = given
    task: Awaitable[Value] = asyncio.ensure_future(recorded, loop=future.get_loop())
    return task
