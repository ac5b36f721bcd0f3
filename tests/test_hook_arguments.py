"""Hooks hand on what another version of a framework may add to its calls."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from conftest import only

import trajrec
from trajrec.instrument import openai_agents, pydantic_ai, smolagents
from trajrec.taps.patching import Replacement


def patched(hook: Any, module: ModuleType) -> Any:
    """Return the function that a hook puts into a module that stands for a framework's."""
    made: list[Replacement] = hook.replacements(module)
    return made[0].make(vars(made[0].owner)[made[0].name])


def check_recorded(folder: Path) -> None:
    trajrec.close_logs()
    (attempt,) = only(folder).transcript.attempts
    assert (attempt.tool, attempt.arguments, attempt.result) == ("look", {"x": 1}, "seen")


def test_pydantic_ai_may_name_its_arguments(tmp_path: Path) -> None:
    class ToolManager:
        toolset: Any = None

        async def _raw_execute(self, validated: Any, *, more: int) -> Any:
            assert more == 3
            return await self.toolset.call_tool("look", {"x": 1}, ctx=2, tool=4)

    class Toolset:
        async def call_tool(self, name: str, arguments: Any, *, ctx: int, tool: int) -> str:
            assert (ctx, tool) == (2, 4)
            return "seen"

    module = ModuleType("tool_manager")
    module.ToolManager = ToolManager  # type: ignore[attr-defined]
    execute = patched(pydantic_ai, module)
    manager = ToolManager()
    manager.toolset = Toolset()
    validated = SimpleNamespace(call=SimpleNamespace(tool_call_id="c-1"))
    with trajrec.episode(tmp_path):
        assert asyncio.run(execute(manager, validated, more=3)) == "seen"
    check_recorded(tmp_path)


def test_openai_agents_may_give_more_arguments(tmp_path: Path) -> None:
    class Invoked:
        output = "seen"
        is_sdk_generated_error = False

        def __init__(self, output: Any, is_error: bool) -> None:
            assert (output, is_error) == ("seen", False)

    async def invoke(*, function_tool: Any, context: Any, arguments: str, more: int) -> Any:
        assert more == 3
        return Invoked("seen", False)

    module = ModuleType("tool_execution")
    module._invoke_function_tool_with_metadata = invoke  # type: ignore[attr-defined]
    tool = SimpleNamespace(name="look")
    hooked = patched(openai_agents, module)
    with trajrec.episode(tmp_path):
        asked = hooked(function_tool=tool, context=None, arguments='{"x": 1}', more=3)
        assert asyncio.run(asked).output == "seen"
    check_recorded(tmp_path)


def test_smolagents_may_give_more_arguments(tmp_path: Path) -> None:
    class ToolCallingAgent:
        tools = ("look",)
        managed_agents = ()

        def execute_tool_call(self, name: str, arguments: Any, more: int, *, other: int) -> str:
            assert (more, other) == (3, 4)
            return "seen"

    module = ModuleType("agents")
    module.ToolCallingAgent = ToolCallingAgent  # type: ignore[attr-defined]
    execute = patched(smolagents, module)
    with trajrec.episode(tmp_path):
        assert execute(ToolCallingAgent(), "look", {"x": 1}, 3, other=4) == "seen"
    check_recorded(tmp_path)
