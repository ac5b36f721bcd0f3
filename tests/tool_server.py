"""An MCP server over stdio with three tools: one reads, one writes, one fails."""

from __future__ import annotations

from mcp.server import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("notes")
NOTES: list[str] = []


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def read() -> list[str]:
    """Return all notes."""
    return NOTES


@server.tool()
def write(text: str) -> int:
    """Add a note; return the number of notes."""
    NOTES.append(text)
    return len(NOTES)


@server.tool()
def fail() -> None:
    """Fail."""
    raise ValueError("as asked")


if __name__ == "__main__":
    server.run()
