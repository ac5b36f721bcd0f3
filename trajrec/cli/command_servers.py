"""The MCP servers of a command of `trajrec capture` or `trajrec rerun`."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from trajrec.cli.mcp import recorded_call, recorded_requests
from trajrec.cli.output import say
from trajrec.errors import AgentDivergedError

if TYPE_CHECKING:
    from trajrec.corpus.attempts import Attempt
    from trajrec.corpus.episode import Episode
    from trajrec.proxies.mcp_answers import McpAnswers, RecordedCall
    from trajrec.proxies.server import ProxyServer
    from trajrec.replay.agents.rerun import Rerun
    from trajrec.types import JsonObject


@contextlib.contextmanager
def wrapped_command(
    arguments: argparse.Namespace,
    environment: dict[str, str],
    server: ProxyServer,
    *,
    has_servers: bool,
) -> Iterator[list[str]]:
    """Yield a command, with servers the one whose configuration names the recorder in their place.

    Args:
        arguments: The command line.
        environment: The environment of the command, which gets variables of its own.
        server: The proxy.
        has_servers: Whether the servers are recorded, or answered.
    """
    if not has_servers:
        yield arguments.command
        return
    from trajrec.proxies.mcp_config import recorders, wrapped_servers
    from trajrec.proxies.upstreams import MODE_VARIABLE

    replace = recorders(
        server.address,
        environment[MODE_VARIABLE],
        server.add_server,
        server.add_stream_server,
    )
    with wrapped_servers(arguments.command, environment, replace) as wrapped:
        environment.update(wrapped.variables)
        if wrapped.left:
            say(f"trajrec: these MCP servers are not recorded: {', '.join(wrapped.left)}")
        yield wrapped.command


def require_servers(command: Sequence[str]) -> None:
    """Refuse a command whose MCP servers cannot be recorded, before its episode is begun.

    Raises:
        ValueError: See `trajrec.proxies.mcp_config.wrapped_servers`.
    """
    from trajrec.proxies.mcp_config import recorders, wrapped_servers
    from trajrec.proxies.upstreams import upstream_of

    def serve(_name: str, url: str) -> str:
        upstream_of(url)
        return url

    with wrapped_servers(command, os.environ, recorders("", "record", serve, serve)):
        pass


def mcp_calls(episode: Episode) -> list[Attempt]:
    """Return the recorded calls of the MCP servers of a command."""
    from trajrec.wire.mcp_names import PREFIX

    if not has_sessions(episode):
        return []
    attempts = episode.transcript.recorded_attempts
    return [attempt for attempt in attempts if attempt.tool.startswith(PREFIX)]


def has_sessions(episode: Episode) -> bool:
    """Return whether the MCP servers of a command were recorded in an episode."""
    return any(request.server for request in recorded_requests(episode.transcript))


def mcp_answers(rerun: Rerun, on_miss: Callable[[], object]) -> McpAnswers | None:
    """Return the answers of the MCP servers of a recorded command; None if it had none.

    Args:
        rerun: The rerun.
        on_miss: Called at a call that the recording does not have.
    """
    if not has_sessions(rerun.episode):
        return None
    from trajrec.proxies.mcp_answers import McpAnswers

    class Calls:
        """The calls of the rerun."""

        def take(self, tool: str, arguments: JsonObject) -> RecordedCall | None:
            """Return the recorded call that answers one."""
            try:
                return recorded_call(rerun.answer_call(tool, arguments))
            except AgentDivergedError:
                on_miss()
                return None

    return McpAnswers(Calls(), recorded_requests(rerun.episode.transcript))
