"""What calls and model calls are asked with, and whether a call's arguments fit what the tool says it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from trajrec.protocols import Tool


def tool_name(function: Callable[..., Any]) -> str:
    """Return what a function is called as a tool."""
    return str(getattr(function, "__name__", type(function).__name__))


def arguments_of(
    function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call of a function by name."""
    return {**inspect.signature(function).bind(*args, **kwargs).arguments} if args else kwargs


def request_of(args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a model call's request as transcripts have it: the messages, and the other arguments by name."""
    messages = kwargs.get("messages")
    is_list = isinstance(messages, (list, tuple))
    fields = {key: value for key, value in kwargs.items() if key != "messages" or not is_list}
    return {
        "messages": [*messages] if is_list else [],  # type: ignore[misc]
        **fields,
        **({"args": list(args)} if args else {}),
    }


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
