"""Clients that record by themselves: `trajrec.openai(client)` and `trajrec.mcp(session)`.

Neither library is imported. Any object with the methods can be wrapped, and calls that are not
recorded go to it unchanged.
"""

from __future__ import annotations

from trajrec.agents.context import current_episode
from trajrec.protocols import Access, Tool
from trajrec.types import JsonObject, Value

# Methods of an OpenAI-compatible client that are model calls.
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

# The resources that lead to these methods, such as "chat" and "chat.completions".
_RESOURCES = frozenset(
    ".".join(name.split(".")[:k]) for name in MODEL_METHODS for k in range(1, name.count(".") + 1)
)


def openai(client: Value) -> Value:
    """Return an OpenAI-compatible client whose model calls the current episode records.

        client = trajrec.openai(OpenAI())
        with trajrec.episode("runs/") as ep:
            reply = client.chat.completions.create(model="...", messages=messages)

    Sync and async clients are supported. Outside of an episode the client works as before. Retries
    that the client makes by itself are part of one recorded call.
    """
    return _Resource(client, "")


def mcp(session: Value) -> Value:
    """Return an MCP session whose tool calls the current episode records.

    `list_tools` describes the tools to the episode: the hint `readOnlyHint` makes a tool "read",
    and `openWorldHint` makes it "external".
    """
    return _Session(session)


class _Resource:
    """A client or one of its resources; `path` is the resource's name within the client."""

    def __init__(self, target: Value, path: str) -> None:
        self._target = target
        self._path = path

    def __getattr__(self, name: str) -> Value:
        value = getattr(self._target, name)
        path = f"{self._path}.{name}" if self._path else name
        if path in _RESOURCES:
            return _Resource(value, path)
        if path not in MODEL_METHODS:
            return value

        def recorded(*args: Value, **kwargs: Value) -> Value:
            episode = current_episode()
            # Asked at each call: one client may serve many episodes, and code outside of them.
            if episode is None:
                return value(*args, **kwargs)
            return episode.model(value, *args, **kwargs)

        return recorded

    def __enter__(self) -> _Resource:
        self._target.__enter__()
        return self

    def __exit__(self, *exc: Value) -> Value:
        return self._target.__exit__(*exc)

    async def __aenter__(self) -> _Resource:
        await self._target.__aenter__()
        return self

    async def __aexit__(self, *exc: Value) -> Value:
        return await self._target.__aexit__(*exc)


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
    access: Access = "unknown"
    if _hint(tool, "open_world_hint", "openWorldHint"):
        access = "external"
    elif _hint(tool, "read_only_hint", "readOnlyHint"):
        access = "read"
    return Tool(tool.name, schema, access, tool.description or "")


def _hint(tool: Value, *names: str) -> bool:
    """Return a hint of a tool by the first of its names that is set."""
    for name in names:
        hint = getattr(tool.annotations, name, None)
        if hint is not None:
            return bool(hint)
    return False
