"""Clients that are recorded: `trajrec.openai(client)` and `trajrec.mcp(session)`.

Neither library is imported. Any MCP session with the methods can be wrapped.
"""

from __future__ import annotations

from trajrec.agents.context import current_episode
from trajrec.agents.routing import connect_taps, router
from trajrec.protocols import Tool
from trajrec.types import JsonObject, Value
from trajrec.wire.mcp_results import access_of_hints

_has_taps = False


def openai(client: Value) -> Value:
    """Turn the recording of model calls on, and return the same client.

        client = trajrec.openai(OpenAI())
        with trajrec.episode("runs/") as ep:
            reply = client.chat.completions.create(model="...", messages=messages)

    An episode records the calls of every client by itself, each attempt of a retry as one. This name
    is for episodes with `wire=False`, and for programs that were written before. A client that
    sends no HTTP requests is recorded by `ep.model`.
    """
    global _has_taps
    if not _has_taps:
        # For as long as the process runs: nobody says when the client is done.
        _has_taps = True
        connect_taps(router)
    return client


def mcp(session: Value) -> Value:
    """Return an MCP session whose tool calls the current episode records.

    `list_tools` describes the tools to the episode: the hint `readOnlyHint` makes a tool "read",
    else `openWorldHint` makes it "external", and other hints make it "write".
    """
    return _Session(session)


class _Session:
    """An MCP session."""

    def __init__(self, session: Value) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Value:
        return getattr(self._session, name)

    async def list_tools(self, *args: Value, **kwargs: Value) -> Value:
        """List the tools, and describe them to the episode."""
        listed = await self._session.list_tools(*args, **kwargs)
        episode = current_episode()
        if episode is not None:
            for tool in listed.tools:
                episode.register_tool(_tool(tool))
        return listed

    async def call_tool(
        self, name: str, arguments: JsonObject | None = None, *args: Value, **kwargs: Value
    ) -> Value:
        """Call a tool, recorded."""
        episode = current_episode()
        if episode is None:
            return await self._session.call_tool(name, arguments, *args, **kwargs)
        return await episode.execute(
            name,
            arguments or {},
            run=lambda: self._session.call_tool(name, arguments, *args, **kwargs),
        )


def _tool(tool: Value) -> Tool:
    """Return a tool from its description by MCP, whose field names differ by version."""
    schema = getattr(tool, "input_schema", None) or getattr(tool, "inputSchema", None)
    access = access_of_hints(
        _hint(tool, "read_only_hint", "readOnlyHint"),
        _hint(tool, "open_world_hint", "openWorldHint"),
        has_hints=getattr(tool, "annotations", None) is not None,
    )
    return Tool(tool.name, schema, access, tool.description or "")


def _hint(tool: Value, *names: str) -> bool | None:
    """Return a hint of a tool by the first of its names that is set."""
    for name in names:
        hint = getattr(getattr(tool, "annotations", None), name, None)
        if hint is not None:
            return bool(hint)
    return None
