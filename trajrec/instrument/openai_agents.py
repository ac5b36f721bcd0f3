"""The hook in the OpenAI Agents SDK: around the invocation of a function tool."""

from __future__ import annotations

import functools
import sys
from types import ModuleType

from trajrec.instrument.calls import around, call_async
from trajrec.taps.patching import Replacement
from trajrec.types import Value
from trajrec.wire.json_bodies import read_json

TESTED = "0.24"

# No tool gives a result with this name, by which an error of the SDK is told from results.
_ERROR = "trajrec: sdk error"

_NAME = "_invoke_function_tool_with_metadata"


def replacements(module: ModuleType) -> list[Replacement]:
    """Return the replacements of the function, in each of its modules that has it by name."""
    holders = [module, *(m for m in [sys.modules.get("agents.tool")] if m is not None)]
    return [around(m, _NAME, _hook, package="openai-agents", tested=TESTED) for m in holders]


def _hook(original: Value) -> Value:
    @functools.wraps(original)
    async def invoke(
        *, function_tool: Value, context: Value, arguments: str, **kwargs: Value
    ) -> Value:
        result_class = None

        async def run() -> Value:
            return await original(
                function_tool=function_tool, context=context, arguments=arguments, **kwargs
            )

        async def run_plain() -> Value:
            nonlocal result_class
            result = await run()
            result_class = type(result)
            # As a result that reports an error: the SDK has turned an exception into a text.
            is_error = result.is_sdk_generated_error
            if not is_error:
                return result.output
            return {_ERROR: True, "error": str(result.output), "output": result.output}

        given = read_json(arguments.encode("utf-8", "replace")) if arguments else {}
        if not isinstance(given, dict):
            # Malformed: the tool does not run, and the model calls tell of it.
            return await run()
        call_id = getattr(context, "tool_call_id", "") or ""
        output = await call_async(function_tool.name, given, call_id, run_plain)
        is_error = isinstance(output, dict) and output.get(_ERROR) is True
        cls = result_class or original.__globals__["_FunctionToolInvocationResult"]
        return cls(output["output"] if is_error else output, is_error)

    return invoke
