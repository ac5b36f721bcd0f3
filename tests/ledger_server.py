"""An MCP server whose state is a SQLite database: `python ledger_server.py FILE [PORT [OPTION...]]`.

Over stdio; with a port, over streamable HTTP with the options json_response and stateless_http, or
over the older transport with the option sse. With an option token=TOKEN, it asks for that.
"""

from __future__ import annotations

import sqlite3
import sys
from typing import Any

import uvicorn
from mcp.server import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("ledger")


def connect() -> sqlite3.Connection:
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    connection.execute("CREATE TABLE IF NOT EXISTS entries (cents INTEGER)")
    return connection


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def total() -> int:
    """Return the sum of all entries."""
    return int(connect().execute("SELECT coalesce(sum(cents), 0) FROM entries").fetchone()[0])


@server.tool(annotations=ToolAnnotations(open_world_hint=False))
def book(cents: int) -> int:
    """Add an entry; return the sum."""
    connect().execute("INSERT INTO entries VALUES (?)", (cents,))
    return total()


def guarded(app: Any, token: str) -> Any:
    """Return an app that refuses requests without a token."""

    async def guard(scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", []))
        if scope["type"] != "http" or headers.get(b"authorization") == f"Bearer {token}".encode():
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return guard


def serve(port: int, options: list[str]) -> None:
    token = next((o.removeprefix("token=") for o in options if o.startswith("token=")), "")
    flags = {option: True for option in options if option in ("json_response", "stateless_http")}
    app = server.sse_app() if "sse" in options else server.streamable_http_app(**flags)
    uvicorn.run(guarded(app, token) if token else app, port=port, log_level="error")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        server.run()
    else:
        serve(int(sys.argv[2]), sys.argv[3:])
