"""The MCP sessions of a command, as its proxy takes them from `trajrec.proxies.mcp_shim`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from trajrec.agents.episode import AgentEpisode
from trajrec.proxies.frames import receive_frame, send_frame
from trajrec.proxies.mcp_http import HttpSessions
from trajrec.proxies.mcp_recorder import McpRecorder
from trajrec.proxies.mcp_session import McpSession
from trajrec.proxies.messages import SocketReader
from trajrec.wire.exchange import Exchange, HttpRequest

IDLE_S = 7 * 24 * 3600.0
"""How long a session may have no message. Agents wait for people."""

BEGIN_S = 30.0
"""How long a process may take to say which server it stands for."""


class McpProxy(Protocol):
    """Takes the sessions of a command.

    Attributes:
        kind: "record", or "answer" if no server is to be started.
    """

    kind: str

    def begin(self, server: str) -> Callable[[str, bytes], bytes]:
        """Begin a session with a server.

        Returns:
            A function that takes each line and the side that it comes from, and returns the lines
            that answer it.
        """
        ...

    def end(self, session: Callable[[str, bytes], bytes]) -> None:
        """End a session."""
        ...

    def exchange(self, server: str, request: HttpRequest) -> Exchange:
        """Take a request to a server over HTTP."""
        ...


def take_session(reader: SocketReader, proxy: McpProxy) -> None:
    """Take the lines of one session, until it ends or its process does."""
    asked, _ = receive_frame(lambda n: reader.exactly(n, time.monotonic() + BEGIN_S))
    session = proxy.begin(str(asked["server"]))
    try:
        send_frame(reader.connection, {"kind": proxy.kind})
        while True:
            head, line = receive_frame(lambda n: reader.exactly(n, time.monotonic() + IDLE_S))
            answer = session(str(head["from"]), line)
            send_frame(reader.connection, {"kind": "told"}, answer)
    finally:
        proxy.end(session)


class McpRecording(McpRecorder):
    """Records the sessions of a command in its episode.

    Args:
        episode: The episode, already begun.

    Attributes:
        kind: See `McpProxy`.
    """

    kind = "record"

    def __init__(self, episode: AgentEpisode) -> None:
        super().__init__(episode)
        self._sessions: dict[Callable[[str, bytes], bytes], McpSession] = {}
        self._http: dict[str, HttpSessions] = {}

    def begin(self, server: str) -> Callable[[str, bytes], bytes]:
        """Begin a session with a server; see `McpProxy`."""
        session = self.open(server)

        def take(side: str, line: bytes) -> bytes:
            self.take_line(session, line, is_from_client=side == "client")
            return b""

        with self._lock:
            self._sessions[take] = session
        return take

    def end(self, session: Callable[[str, bytes], bytes]) -> None:
        """End a session."""
        with self._lock:
            ended = self._sessions.pop(session, None)
        if ended is not None:
            self.close(ended)

    def exchange(self, server: str, request: HttpRequest) -> Exchange:
        """Record a request to a server over HTTP; see `McpProxy`."""
        with self._lock:
            sessions = self._http.setdefault(server, HttpSessions(self, server))
        return sessions.begin(request)

    def close_all(self) -> None:
        """End the sessions that are still open."""
        for session in list(self._sessions):
            self.end(session)
        for sessions in self._http.values():
            sessions.close()
