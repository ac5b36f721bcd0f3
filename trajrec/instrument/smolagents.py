"""The hook in smolagents: around a call of a tool. The framework gives it no id."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

from trajrec.instrument.calls import around, call
from trajrec.taps.patching import Replacement
from trajrec.types import Value

TESTED = "1.26"


def replacements(module: ModuleType) -> list[Replacement]:
    """Return the replacement in the module `smolagents.agents`."""
    agent = module.ToolCallingAgent
    return [around(agent, "execute_tool_call", _hook, package="smolagents", tested=TESTED)]


def _hook(original: Value) -> Value:
    @functools.wraps(original)
    def execute_tool_call(self: Value, tool_name: str, arguments: Value) -> Value:
        if tool_name not in self.tools and tool_name not in self.managed_agents:
            # No tool runs: the model calls tell of the call.
            return original.__get__(self)(tool_name, arguments)
        results: list[Value] = []

        def run() -> Value:
            result = original.__get__(self)(tool_name, arguments)
            results.append(result)
            # The framework wraps texts in a class of its own.
            return str(result) if isinstance(result, str) else result

        # A tool runs even with malformed arguments, if it takes a single text.
        given = arguments if isinstance(arguments, dict) else {"raw": arguments}
        result = call(tool_name, given, "", run)
        return results[0] if results else _wrapped(result)

    return execute_tool_call


def _wrapped(result: Value) -> Value:
    """Return a recorded result as the framework hands it on."""
    return importlib.import_module("smolagents.agent_types").handle_agent_output_types(result)
