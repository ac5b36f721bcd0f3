"""The hook in pydantic-ai: around the execution of a call whose arguments were found to be valid.

A call that is not valid, or put off, executes nothing: the model calls tell of it.
"""

from __future__ import annotations

import copy
import functools
from types import ModuleType

from trajrec.instrument.calls import around, call_async
from trajrec.taps.patching import Replacement
from trajrec.types import JsonObject, Value

TESTED = "2.68"


def replacements(module: ModuleType) -> list[Replacement]:
    """Return the replacement in the module `pydantic_ai.tool_manager`."""
    manager = module.ToolManager
    return [around(manager, "_raw_execute", _hook, package="pydantic-ai-slim", tested=TESTED)]


def _hook(original: Value) -> Value:
    @functools.wraps(original)
    async def raw_execute(self: Value, validated: Value, *args: Value, **kwargs: Value) -> Value:
        # A copy, which shares the counts of retries: parallel calls use the toolset of the other.
        manager = copy.copy(self)
        manager.toolset = _HookedToolset(self.toolset, validated.call.tool_call_id)
        return await original.__get__(manager)(validated, *args, **kwargs)

    return raw_execute


class _HookedToolset:
    """A toolset for one call, so that the framework treats a recorded exception as the tool's own.

    Args:
        toolset: The toolset.
        call_id: Id of the call.
    """

    def __init__(self, toolset: Value, call_id: str) -> None:
        self._toolset = toolset
        self._call_id = call_id

    def __getattr__(self, name: str) -> Value:
        return getattr(self._toolset, name)

    async def call_tool(
        self, name: str, arguments: JsonObject, *args: Value, **kwargs: Value
    ) -> Value:
        """Call the tool, or give its recorded result."""
        has_run = False

        async def run() -> Value:
            nonlocal has_run
            has_run = True
            return await self._toolset.call_tool(name, arguments, *args, **kwargs)

        try:
            return await call_async(name, arguments, self._call_id, run)
        except Exception as exc:
            # A recorded ModelRetry has its text only.
            if not has_run and exc.args and not hasattr(exc, "message"):
                exc.message = exc.args[0]  # type: ignore[attr-defined]
            raise
