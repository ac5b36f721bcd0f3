"""Arguments of tool calls and model calls, and their check against the schemas of tools."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from trajrec.protocols import Tool
from trajrec.types import JsonObject, Value

Validate: TypeAlias = Callable[[Value], Value]


def tool_name(function: Callable[..., Value]) -> str:
    """Return the name of a function as a tool."""
    if isinstance(function, functools.partial):
        return tool_name(function.func)
    return str(getattr(function, "__name__", type(function).__name__))


def arguments_of(
    function: Callable[..., Value], args: Sequence[Value], kwargs: JsonObject
) -> JsonObject:
    """Return the arguments of a function's call, by name, as a call by names alone has them.

    Arguments that do not fit the function, which will refuse them, stand under "args" as they are.
    """
    # Without positional arguments nothing needs a name, and a signature is slow to read.
    if not args:
        return kwargs
    try:
        signature = inspect.signature(function)
        arguments = {**signature.bind(*args, **kwargs).arguments}
    except (TypeError, ValueError):
        # Some functions that are written in C have no signature.
        return {**kwargs, "args": list(args)}
    # Those that `**kwargs` takes have names of their own.
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            more = arguments.pop(name, {})
            # One may have the name of an argument that is given by its position alone.
            return {**arguments, name: more} if more.keys() & arguments.keys() else arguments | more
    return arguments


def check_call(tool: object, arguments: object) -> None:
    """Refuse what is no call of a tool by its name.

    Raises:
        TypeError: The tool is no text, or the arguments are no mapping.
    """
    if not isinstance(tool, str):
        raise TypeError(
            f"a tool is called by its name, got {tool!r}; "
            "a function is called as `ep.tool(function)(...)`"
        )
    if not isinstance(arguments, Mapping):
        raise TypeError(
            f"the arguments of {tool} must be a dict, got {arguments!r}; read JSON text before"
        )


def request_of(args: Sequence[Value], kwargs: JsonObject) -> JsonObject:
    """Return a model call's request as transcripts have it: messages, other arguments by name."""
    messages = kwargs.get("messages")
    # "messages" of another type is an argument like any other: it is no conversation.
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
        # By name, with the tool itself: a tool that is described again has another schema.
        self._validators: dict[str, tuple[Tool, Validate | None]] = {}

    def find_mismatch(self, tool: Tool, arguments: JsonObject) -> str:
        """Return why arguments do not fit a tool's schema; "" if they do, or without a schema."""
        compiled = self._validators.get(tool.name)
        if compiled is None or compiled[0] is not tool:
            compiled = self._validators[tool.name] = (tool, _compile(tool.schema))
        _, validate = compiled
        if validate is None:
            return ""
        try:
            validate(arguments)
        except Exception as exc:
            # Here, as in `_compile`; it is loaded by now.
            from fastjsonschema import JsonSchemaValueException

            # Others come of a broken schema (a multiple of 0), or of values that no JSON has: these
            # say nothing of the arguments, and must not reach the agent.
            if not isinstance(exc, JsonSchemaValueException):
                return ""
            # fastjsonschema calls the arguments "data".
            return str(exc).replace("data.", "", 1)
        return ""


def _compile(schema: JsonObject | None) -> Validate | None:
    if not schema:
        return None
    import fastjsonschema  # here, because the recorder does without it if no tool has a schema

    try:
        # Without defaults: the agent's own arguments are recorded and executed.
        validate: Validate = fastjsonschema.compile(schema, use_default=False)
    except Exception:  # a broken schema is the tool's fault, and checks no arguments
        return None
    return validate
