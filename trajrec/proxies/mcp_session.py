"""Records a session of an MCP client with a server from its messages, in whatever way they come."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import NamedTuple

from trajrec.agents.episode import AgentEpisode
from trajrec.agents.tool_calls import OpenToolCall
from trajrec.proxies.mcp_messages import (
    CALL,
    CANCELLED,
    LIST,
    LIST_CHANGED,
    Message,
    RpcError,
    tools_of,
)
from trajrec.types import Value
from trajrec.wire.json_bodies import as_dict, as_text
from trajrec.wire.mcp_names import tool_name

SIDE_EFFECT_PREFIX = "mcp "
"""Other requests than tool calls are recorded as values from outside, by this and their method."""

IS_ERROR = "error"
"""The second argument of such a value, if it is an error."""

MAX_OPEN = 10_000
"""Requests without an answer; a client that asks more without end is recorded no further."""


class McpCancelled(BaseException):
    """The client gave a call up. No `Exception`: the call is then cancelled, and has not failed."""


class _Request(NamedTuple):
    """A request that the server has not answered."""

    message: Message
    call: OpenToolCall | None


class KnownTools:
    """The tools that a server has listed.

    Attributes:
        names: Their names.
        is_whole: Whether the list is whole. It may come in pages, and change; until it is whole, no
            tool is unknown.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.is_whole = False


class McpSession:
    """Records one session.

    Its methods are called before a message is passed on: a call is in the log before the server
    gets it, and its result, with the changes of the watched state, before the client gets that.

    Args:
        episode: The episode, already begun.
        server: The label of the server; "" if the session is recorded by itself.
        tools: The tools of the server, if other sessions share them.

    Attributes:
        n_calls: The tool calls so far.
    """

    def __init__(
        self, episode: AgentEpisode, server: str = "", tools: KnownTools | None = None
    ) -> None:
        self.n_calls = 0
        self._episode = episode
        self._server = server
        self._lock = threading.RLock()
        self._open: dict[Value, _Request] = {}
        self._is_whole = True
        self._tools = tools or KnownTools()

    def lose(self) -> None:
        """Note that a message was too long to be recorded: it may be the answer to any call."""
        with self._lock:
            self._is_whole = False

    def from_client(self, message: Message) -> None:
        """Record a message of the client."""
        with self._lock:
            if message.method == CANCELLED:
                self._end(message.params.get("requestId"), McpCancelled("cancelled by the client"))
            elif message.is_request and len(self._open) < MAX_OPEN:
                self._end(message.id, ConnectionError("the id of the request was used again"))
                is_call = message.method == CALL
                self._open[message.id] = _Request(
                    message, self._begin(message) if is_call else None
                )

    def from_server(self, message: Message) -> None:
        """Record a message of the server."""
        with self._lock:
            if message.method == LIST_CHANGED:
                self._tools.is_whole = False
            request = self._open.pop(message.id, None) if message.is_response else None
            if request is None:
                return
            if request.call is None:
                self._record_other(request.message, message)
                return
            try:
                result = message.result()
            except RpcError as exc:
                request.call.failed(exc, exc.error)
            else:
                request.call.returned(result)

    def fail(self, asked: Sequence[Message], reason: str) -> None:
        """End those of some requests that have no answer and will get none."""
        with self._lock:
            for message in asked:
                request = self._open.get(message.id) if message.is_request else None
                # Not a later request that has the same id.
                if request is not None and request.message == message:
                    self._end(message.id, ConnectionError(reason))

    def end(self, reason: str = "the MCP server ended before its answer") -> None:
        """End the calls that have no answer; they stay open if one may have come unrecorded."""
        with self._lock:
            if not self._is_whole:
                self._open.clear()
            for message_id in list(self._open):
                self._end(message_id, ConnectionError(reason))

    def _begin(self, message: Message) -> OpenToolCall:
        name = as_text(message.params.get("name")) or ""
        arguments = as_dict(message.params.get("arguments"))
        is_unknown = self._tools.is_whole and name not in self._tools.names
        self.n_calls += 1
        tool = tool_name(self._server, name)
        return self._episode.open_call(tool, arguments, "unknown tool" if is_unknown else "")

    def _end(self, message_id: Value, error: BaseException) -> None:
        """End a request, if it is open."""
        if type(message_id) not in (str, int):
            return
        request = self._open.pop(message_id, None)
        if request is not None and request.call is not None:
            request.call.failed(error)

    def _record_other(self, asked: Message, answer: Message) -> None:
        name = " ".join([SIDE_EFFECT_PREFIX.strip(), *filter(None, [self._server]), asked.method])
        try:
            result = answer.result()
        except RpcError as exc:
            error = exc.error
            self._episode.side_effect(name, lambda _params, _kind: error, asked.params, IS_ERROR)
            return
        if asked.method == LIST:
            self._register_tools(asked, result)
        self._episode.side_effect(name, lambda _params: result, asked.params)

    def _register_tools(self, asked: Message, result: Value) -> None:
        if not asked.params.get("cursor"):
            self._tools.names.clear()
        for tool in tools_of(result):
            self._tools.names.add(tool.name)
            recorded = tool_name(self._server, tool.name)
            self._episode.register_tool(dataclasses.replace(tool, name=recorded))
        self._tools.is_whole = not as_dict(result).get("nextCursor")
