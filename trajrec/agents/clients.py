"""Clients that record by themselves: `trajrec.openai(client)` and `trajrec.mcp(session)`. Neither library is imported: what has
the methods is wrapped, and what is not recorded goes through untouched."""

from __future__ import annotations

from typing import Any

from trajrec.agents.context import current_episode
from trajrec.protocols import Tool

MODEL_METHODS = frozenset(
    {
        "chat.completions.create",
        "chat.completions.parse",
        "beta.chat.completions.parse",
        "completions.create",
        "embeddings.create",
        "responses.create",
        "responses.parse",
    }
)
"""Methods of an OpenAI-compatible client that are model calls."""

_RESOURCES = frozenset(
    ".".join(name.split(".")[:k]) for name in MODEL_METHODS for k in range(1, name.count(".") + 1)
)


def openai(client: Any) -> Any:
    """Return an OpenAI-compatible client, sync or async, whose model calls are recorded by the episode that they happen in.

        client = trajrec.openai(OpenAI())
        with trajrec.episode("runs/") as ep:
            reply = client.chat.completions.create(model="...", messages=messages)

    Outside of an episode it is the client as it is. Its own retries are within one recorded call.
    """
    return _Resource(client, "")


def mcp(session: Any) -> Any:
    """Return an MCP session whose tool calls are recorded by the episode that they happen in; `list_tools` tells it the tools.

    A tool with the hint that it only reads is taken at its word, one with the hint of an open world is external.
    """
    return _Session(session)


class _Resource:
    """A client or one of its resources; `path` is where in the client."""

    def __init__(self, target: Any, path: str) -> None:
        self._target, self._path = target, path

    def __getattr__(self, name: str) -> Any:
        value, path = getattr(self._target, name), f"{self._path}.{name}" if self._path else name
        if path in _RESOURCES:
            return _Resource(value, path)
        if path not in MODEL_METHODS:
            return value

        def recorded(*args: Any, **kwargs: Any) -> Any:
            episode = current_episode.get()
            return (
                value(*args, **kwargs) if episode is None else episode.model(value, *args, **kwargs)
            )

        return recorded

    def __enter__(self) -> _Resource:
        self._target.__enter__()
        return self

    def __exit__(self, *exc: Any) -> Any:
        return self._target.__exit__(*exc)

    async def __aenter__(self) -> _Resource:
        await self._target.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> Any:
        return await self._target.__aexit__(*exc)


class _Session:
    """An MCP session."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def list_tools(self, *args: Any, **kwargs: Any) -> Any:
        """List the tools, and tell the episode of them."""
        found, episode = await self._session.list_tools(*args, **kwargs), current_episode.get()
        if episode is not None:
            for tool in found.tools:
                episode.register_tool(_tool(tool))
        return found

    async def call_tool(
        self, name: str, arguments: dict[str, Any] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Call a tool, recorded."""
        episode = current_episode.get()
        if episode is None:
            return await self._session.call_tool(name, arguments, *args, **kwargs)
        return await episode.execute(
            name,
            arguments or {},
            run=lambda: self._session.call_tool(name, arguments, *args, **kwargs),
        )


def _tool(tool: Any) -> Tool:
    """Return a tool as MCP describes it; the names of its fields have changed over time."""
    hints = tool.annotations
    reads, is_open = (
        next((found for name in names if (found := getattr(hints, name, None)) is not None), None)
        for names in (("read_only_hint", "readOnlyHint"), ("open_world_hint", "openWorldHint"))
    )
    schema = getattr(tool, "input_schema", None) or getattr(tool, "inputSchema", None)
    access = "external" if is_open else "read" if reads else "unknown"
    return Tool(tool.name, schema, access, tool.description or "")  # type: ignore[arg-type]
