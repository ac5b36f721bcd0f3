"""Names of the tools of MCP servers: as they are recorded, and as models call them."""

from __future__ import annotations

import re

PREFIX = "mcp__"
"""The first part of the recorded name of a tool of a server that a command's configuration names."""


def server_label(name: str) -> str:
    """Return the name of a server as it stands in the names of its tools.

    >>> server_label("my notes")
    'my_notes'
    """
    return re.sub(r"[^A-Za-z0-9-]+", "_", name).strip("_") or "server"


def tool_name(server: str, tool: str) -> str:
    """Return the recorded name of a server's tool, in the form that many clients give to a model.

    Args:
        server: The label of the server, from `server_label`; "" for a session recorded by itself.
        tool: The server's name of the tool.

    >>> tool_name("notes", "write")
    'mcp__notes__write'
    """
    return f"{PREFIX}{server}__{tool}" if server else tool


def is_called_by(recorded: str, asked: str) -> bool:
    """Return whether a model's name of a tool may stand for a recorded one.

    Clients give models the server's own name of a tool, or put the name of the server before it.

    >>> [is_called_by("mcp__notes__write", asked) for asked in ("write", "notes.write", "rite")]
    [True, True, False]
    """
    if recorded == asked:
        return True
    if not recorded.startswith(PREFIX):
        return False
    server, _, tool = recorded.removeprefix(PREFIX).partition("__")
    return asked == tool or _plain(asked) in (_plain(f"{server}_{tool}"), _plain(recorded))


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", name)
