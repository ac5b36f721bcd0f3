"""The tools of an episode: their descriptions, and the functions that run some of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from trajrec.agents.tool_wrappers import NamedGenerators
from trajrec.errors import UnknownToolError
from trajrec.protocols import Access, Tool, World
from trajrec.types import JsonObject, Value


class Toolbox:
    """The tools that an agent can call by name.

    Attributes:
        tools: Name -> description.
        generators: The functions that are generators.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self._functions: dict[str, Callable[..., Value]] = {}
        self.generators = NamedGenerators()

    def add_function(
        self,
        function: Callable[..., Value],
        name: str,
        schema: JsonObject | None,
        access: Access,
    ) -> None:
        """Make a function a tool."""
        self._functions[name] = function
        self.generators.add(name, function)
        self.tools[name] = Tool(name, schema, access, inspect.getdoc(function) or "")

    def find(
        self, tool: str, arguments: JsonObject, world: World | None
    ) -> Callable[[], Value] | None:
        """Return a function that runs a call; None if there is no such tool."""
        function = self._functions.get(tool)
        if function is not None:
            return lambda: function(**arguments)
        if world is not None and tool in self.tools:
            return lambda: world.call(tool, arguments)
        return None

    def refuse(self, tool: str) -> Value:
        """Run a call of a tool that does not exist.

        Raises:
            UnknownToolError: Always.
        """
        names = ", ".join(sorted(self.tools)) or "none"
        raise UnknownToolError(f"no tool {tool!r}; the tools of this episode are: {names}")
