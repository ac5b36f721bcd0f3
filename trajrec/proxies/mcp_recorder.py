"""Records MCP messages in an episode, and keeps the recorder's faults from the agent."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from trajrec.agents.episode import AgentEpisode
from trajrec.proxies.mcp_messages import Message, read_messages
from trajrec.proxies.mcp_session import KnownTools, McpSession
from trajrec.wire.mcp_names import server_label


class McpRecorder:
    """Records the messages of sessions in an episode.

    Args:
        episode: The episode, already begun.

    Attributes:
        servers: The labels of the servers that were used.
        n_calls: The tool calls.
        n_faults: The messages that were not recorded.
        first_fault: The first reason; "" if there was none.
    """

    def __init__(self, episode: AgentEpisode) -> None:
        self.servers: set[str] = set()
        self.n_calls = 0
        self.n_faults = 0
        self.first_fault = ""
        self._episode = episode
        self._lock = threading.Lock()

    def open(self, server: str, tools: KnownTools | None = None) -> McpSession:
        """Return a new session with a server, whose other sessions may share its tools."""
        label = server_label(server)
        with self._lock:
            self.servers.add(label)
        return McpSession(self._episode, label, tools)

    def take_line(self, session: McpSession, line: bytes, *, is_from_client: bool) -> None:
        """Record a line, b"" in place of one that is too long."""
        if not line:
            self.lose(session, "it was too long")
        for message in read_messages(line):
            self.take(session, message, is_from_client=is_from_client)

    def take(self, session: McpSession, message: Message, *, is_from_client: bool) -> None:
        """Record a message. A fault of the recorder must not reach the agent."""
        try:
            if is_from_client:
                session.from_client(message)
            else:
                session.from_server(message)
        except Exception as exc:
            self._note_fault(exc)

    def lose(self, session: McpSession, reason: str) -> None:
        """Note that a message passed unrecorded, which may be the answer to any call."""
        session.lose()
        self._note_fault(ValueError(reason))

    def fail(self, session: McpSession, asked: Sequence[Message], reason: str) -> None:
        """End those of some requests that have no answer and will get none."""
        try:
            session.fail(asked, reason)
        except Exception as exc:
            self._note_fault(exc)

    def close(self, session: McpSession) -> None:
        """End the calls of a session that have no answer."""
        with self._lock:
            self.n_calls += session.n_calls
        try:
            session.end()
        except Exception as exc:
            self._note_fault(exc)

    def _note_fault(self, exc: Exception) -> None:
        with self._lock:
            self.n_faults += 1
            self.first_fault = self.first_fault or f"{type(exc).__name__}: {exc}"
