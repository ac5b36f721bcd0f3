"""Whether a call's arguments fit what the tool says it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trajrec.protocols import Tool


class ArgumentCheck:
    """Checks arguments against the JSON schemas of tools, each compiled once."""

    def __init__(self) -> None:
        self._validators: dict[str, tuple[Tool, Callable[[Any], Any] | None]] = {}

    def misfit(self, tool: Tool, arguments: dict[str, Any]) -> str:
        """Say what does not fit, "" where all does or the tool has no schema that can be read."""
        known = self._validators.get(tool.name)
        if known is None or known[0] is not tool:
            known = self._validators[tool.name] = tool, _compile(tool.schema)
        validate = known[1]
        if validate is None:
            return ""
        try:
            validate(arguments)
        except ValueError as exc:  # what fastjsonschema's errors are
            return str(exc).replace("data.", "", 1)
        return ""


def _compile(schema: dict[str, Any] | None) -> Callable[[Any], Any] | None:
    if not schema:
        return None
    import fastjsonschema  # only where a tool has a schema: it is not needed to import the recorder

    try:
        # Defaults are not filled in: what the agent gave is what is recorded and executed.
        found: Callable[[Any], Any] = fastjsonschema.compile(schema, use_default=False)
    except Exception:  # a broken schema is the tool's affair: nothing can be said of its arguments
        return None
    return found
