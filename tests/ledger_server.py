"""An MCP server whose state is a SQLite database: `python ledger_server.py FILE [PORT [OPTION...]]`.

Over stdio; with a port, over streamable HTTP with the options json_response and stateless_http.
"""

from __future__ import annotations

import sqlite3
import sys

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


if __name__ == "__main__":
    if len(sys.argv) == 2:
        server.run()
    else:
        options = dict.fromkeys(sys.argv[3:], True)
        server.run("streamable-http", port=int(sys.argv[2]), **options)
