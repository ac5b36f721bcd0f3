"""One tool call of a framework, as a hook around it records it or answers it from a recording.

The bytes of model calls tell which tools were asked for. A hook adds the time of a call, its
exception and the changes of state to that, and the model's id of the call joins the two. In a rerun
the recorded result is given, and the tool does not run.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Awaitable, Callable
from types import ModuleType

from trajrec.agents.context import in_tool_call
from trajrec.agents.routing import router
from trajrec.agents.tool_wrappers import hooked, is_hooked
from trajrec.taps.patching import Replacement
from trajrec.types import JsonObject, Value


def call(name: str, arguments: JsonObject, call_id: str, run: Callable[[], Value]) -> Value:
    """Run a tool call that a framework makes, recorded in its episode.

    Args:
        name: Name of the tool.
        arguments: The arguments, by name.
        call_id: Id that the model gave the call, "" if the framework does not tell it.
        run: Runs the call.

    Returns:
        The result; the recorded one in a rerun.
    """
    episode = None if is_hooked(name, call_id) else router.of_tool_call(call_id)
    if episode is None:
        return run()

    def marked() -> Value:
        with hooked(name, call_id), in_tool_call(episode):
            return run()

    return episode.execute(name, arguments, call_id=call_id, run=marked)


async def call_async(
    name: str, arguments: JsonObject, call_id: str, run: Callable[[], Awaitable[Value]]
) -> Value:
    """Run a tool call as `call` does, of an async framework."""
    episode = None if is_hooked(name, call_id) else router.of_tool_call(call_id)
    if episode is None:
        return await run()

    async def marked() -> Value:
        with hooked(name, call_id), in_tool_call(episode):
            return await run()

    result = episode.execute(name, arguments, call_id=call_id, run=marked)
    return await result if inspect.isawaitable(result) else result


def around(
    owner: type | ModuleType,
    name: str,
    make: Callable[[Value], Value],
    *,
    package: str,
    tested: str,
) -> Replacement:
    """Return the replacement of a framework's own function by a hook around it.

    Args:
        owner: The class or the module that has the function.
        name: Name of the function.
        make: Returns the hook of the function.
        package: The framework's name in package indexes.
        tested: The versions that the hook was tested with.

    Raises:
        LookupError: This version of the framework has no such function.
    """
    if name not in vars(owner):
        version = importlib.metadata.version(package)
        raise LookupError(
            f"{package} {version} has no {owner.__name__}.{name}: the hook was tested with {tested}"
        )
    return Replacement(owner, name, make)
