"""Answers an MCP client from a recorded session, without a server."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from trajrec.proxies.mcp_http import answered
from trajrec.proxies.mcp_messages import (
    CALL,
    Message,
    error_line,
    read_messages,
    request_key,
    response_line,
    told_error_line,
)
from trajrec.redaction.comparison import redacted_like
from trajrec.redaction.redactor import Redactor
from trajrec.types import JsonObject, Value
from trajrec.wire.exchange import Exchange, HttpRequest
from trajrec.wire.json_bodies import as_dict, as_text
from trajrec.wire.mcp_names import server_label, tool_name

INTERNAL_ERROR = -32603


class RecordedCall(NamedTuple):
    """A tool call of a session.

    Attributes:
        tool: The tool.
        arguments: Its arguments.
        result: The result; of an error, the error as the server told it, None if it is not known.
        error: The message of that error, "" if there was none.
        is_given_up: Whether the client gave it up, so that no answer comes.
        is_open: Whether its answer is not recorded.
    """

    tool: str
    arguments: Value
    result: Value
    error: str
    is_given_up: bool = False
    is_open: bool = False

    def line(self, message_id: Value) -> bytes:
        """Return the line that answers it, b"" if none does."""
        if self.is_given_up:
            return b""
        if not self.error:
            return response_line(message_id, self.result)
        if isinstance(self.result, dict) and self.result:
            return told_error_line(message_id, self.result)
        return error_line(message_id, INTERNAL_ERROR, self.error)


class RecordedRequest(NamedTuple):
    """Another request of a session than a tool call.

    Attributes:
        server: The label of the server; "" if the session was recorded by itself.
        method: The method.
        params: The parameters.
        result: The result, or the error.
        is_error: Whether it is an error.
    """

    server: str
    method: str
    params: Value
    result: Value
    is_error: bool


class Calls(Protocol):
    """Answers tool calls."""

    def take(self, tool: str, arguments: JsonObject) -> RecordedCall | None:
        """Return the call that answers one, and use it up; None if there is none."""
        ...


class RecordedCalls:
    """Answers each call by an equal one; equal calls get their answers in the recorded order.

    Args:
        calls: The tool calls, in order.
    """

    def __init__(self, calls: Sequence[RecordedCall]) -> None:
        self._calls: defaultdict[bytes, deque[RecordedCall]] = defaultdict(deque)
        self._recorded = list(calls)
        for call in calls:
            self._calls[_call_key(call.tool, call.arguments)].append(call)

    @property
    def n_left(self) -> int:
        """Recorded calls that the client has not made, but for those that it gave up."""
        return sum(not call.is_given_up for group in self._calls.values() for call in group)

    def take(self, tool: str, arguments: JsonObject) -> RecordedCall | None:
        """Return the call that answers one; see `Calls`."""
        equal = self._calls.get(_call_key(tool, arguments)) or self._redacted(tool, arguments)
        return equal.popleft() if equal else None

    def _redacted(self, tool: str, arguments: JsonObject) -> deque[RecordedCall] | None:
        """Return the calls that are equal when the secrets are taken out of these arguments."""
        for call in self._recorded:
            if call.tool == tool and redacted_like(call.arguments, arguments) == call.arguments:
                equal = self._calls.get(_call_key(call.tool, call.arguments))
                if equal:
                    return equal
        return None


class SessionAnswers:
    """The recorded answers of a session.

    Args:
        calls: Answers the tool calls.
        others: The other requests.
        server: The label of the server.

    Attributes:
        misses: The requests that the recording does not have.
        n_answered: The tool calls that were answered.
    """

    def __init__(self, calls: Calls, others: Sequence[RecordedRequest], server: str = "") -> None:
        self.misses: list[str] = []
        self.n_answered = 0
        self._server = server
        self._calls = calls
        self._others: defaultdict[bytes, deque[RecordedRequest]] = defaultdict(deque)
        for other in others:
            if other.server == server:
                self._others[request_key(other.method, other.params)].append(other)

    def answer(self, request: Message) -> bytes:
        """Return the line that answers a request; an error if the recording has no such request."""
        if request.method != CALL:
            return self._answer_other(request)
        name = as_text(request.params.get("name")) or ""
        arguments = as_dict(request.params.get("arguments"))
        call = self._calls.take(tool_name(self._server, name), arguments)
        if call is None:
            return self._miss(request, _told(name, arguments))
        if call.is_open:
            return self._miss(request, f"answer to {_told(name, arguments)}")
        self.n_answered += 1
        return call.line(request.id)

    def _answer_other(self, request: Message) -> bytes:
        equal = self._others.get(request_key(request.method, request.params))
        if not equal:
            if request.method == "ping":
                return response_line(request.id, {})
            return self._miss(request, request.method)
        # The last one answers again: a client may list the tools as often as it likes.
        other = equal.popleft() if len(equal) > 1 else equal[0]
        if other.is_error:
            return told_error_line(request.id, as_dict(other.result))
        return response_line(request.id, other.result)

    def _miss(self, request: Message, text: str) -> bytes:
        self.misses.append(text)
        return error_line(request.id, INTERNAL_ERROR, f"trajrec: the recording has no {text}")


class McpAnswers:
    """Answers the sessions of a command from its recording; see `trajrec.proxies.mcp_sessions`.

    Args:
        calls: Answers the tool calls of all servers.
        others: The other requests of all servers.

    Attributes:
        kind: No server is started.
    """

    kind = "answer"

    def __init__(self, calls: Calls, others: Sequence[RecordedRequest]) -> None:
        self._calls = calls
        self._others = others
        self._lock = threading.Lock()
        self._servers: dict[str, SessionAnswers] = {}

    @property
    def misses(self) -> list[str]:
        """The requests that the recording does not have."""
        return [miss for answers in self._servers.values() for miss in answers.misses]

    @property
    def n_answered(self) -> int:
        """The tool calls that were answered."""
        return sum(answers.n_answered for answers in self._servers.values())

    def begin(self, server: str) -> Callable[[str, bytes], bytes]:
        """Begin a session with a server; see `McpProxy`."""
        session = self._of(server)

        def take(_side: str, line: bytes) -> bytes:
            with self._lock:
                asked = [message for message in read_messages(line) if message.is_request]
                return b"".join(map(session.answer, asked))

        return take

    def exchange(self, server: str, request: HttpRequest) -> Exchange:
        """Answer a request to a server over HTTP; see `McpProxy`."""
        take = self.begin(server)
        return answered(request, lambda body: take("client", body))

    def _of(self, server: str) -> SessionAnswers:
        label = server_label(server)
        with self._lock:
            answers = self._servers.get(label)
            if answers is None:
                answers = SessionAnswers(self._calls, self._others, label)
                self._servers[label] = answers
            return answers

    def end(self, session: Callable[[str, bytes], bytes]) -> None:
        """End a session."""


def _told(tool: str, arguments: JsonObject) -> str:
    """Return a call as it is printed: without its secrets."""
    return f"{tool}({Redactor().plain(arguments)})"


def _call_key(tool: Value, arguments: Value) -> bytes:
    return request_key(CALL, {"name": tool, "arguments": arguments})
