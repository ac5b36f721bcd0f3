"""The hook in LangChain, which LangGraph uses too: around the run of a tool."""

from __future__ import annotations

import functools
from types import ModuleType

from trajrec.instrument.calls import around, call, call_async
from trajrec.taps.patching import Replacement
from trajrec.types import JsonObject, Value

TESTED = "1.8"


def replacements(module: ModuleType) -> list[Replacement]:
    """Return the replacements in the module `langchain_core.tools.base`."""
    tool = module.BaseTool
    package = "langchain-core"
    return [
        around(tool, "run", _hook, package=package, tested=TESTED),
        around(tool, "arun", _async_hook, package=package, tested=TESTED),
    ]


def _hook(original: Value) -> Value:
    @functools.wraps(original)
    def run(self: Value, tool_input: Value, *args: Value, **kwargs: Value) -> Value:
        return call(
            self.name,
            _arguments(tool_input),
            kwargs.get("tool_call_id") or "",
            lambda: original.__get__(self)(tool_input, *args, **kwargs),
        )

    return run


def _async_hook(original: Value) -> Value:
    @functools.wraps(original)
    async def arun(self: Value, tool_input: Value, *args: Value, **kwargs: Value) -> Value:
        return await call_async(
            self.name,
            _arguments(tool_input),
            kwargs.get("tool_call_id") or "",
            lambda: original.__get__(self)(tool_input, *args, **kwargs),
        )

    return arun


def _arguments(tool_input: Value) -> JsonObject:
    """Return the model's arguments: without what the framework has injected, such as its state."""
    if not isinstance(tool_input, dict):
        return {"input": tool_input}
    return {name: value for name, value in tool_input.items() if _is_plain(value)}


def _is_plain(value: Value) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, dict))
