"""MCP servers over streamable HTTP: their exchanges are recorded as sessions, or answered.

Source:
    https://modelcontextprotocol.io/specification, "Streamable HTTP"
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from trajrec.proxies.mcp_messages import Message, read_messages
from trajrec.proxies.mcp_recorder import McpRecorder
from trajrec.proxies.mcp_session import KnownTools, McpSession
from trajrec.wire.encodings import ContentDecoder
from trajrec.wire.exchange import Headers, HttpAnswer, HttpRequest, header
from trajrec.wire.sse import EventSplitter

SESSION_HEADER = "mcp-session-id"

# Those after which a client sends the same request again.
_REDIRECTIONS = (307, 308)

MAX_MESSAGE_BYTES = 1 << 26
"""A longer message passes unrecorded: it must not take all memory."""


class HttpSessions:
    """The sessions with one server, by the ids that it gives them.

    Args:
        recording: Records their messages.
        server: The server's name.
    """

    def __init__(self, recording: McpRecorder, server: str) -> None:
        self._recording = recording
        self._server = server
        self._lock = threading.Lock()
        self._sessions: dict[str, McpSession] = {}
        # By the body of the request, which the client sends again to another path.
        self._redirected: dict[bytes, McpSession] = {}
        self._tools = KnownTools()

    def begin(self, request: HttpRequest) -> McpExchange:
        """Record a request that is about to be sent."""
        session_id = header(request.headers, SESSION_HEADER)
        with self._lock:
            session = self._sessions.get(session_id) if session_id else None
            redirected = self._redirected.pop(request.body, None)
        # A server may give no ids. Each of its answers then comes in the response to its request.
        is_alone = session is None
        session = redirected or session or self._recording.open(self._server, self._tools)
        messages = read_messages(request.body) if request.method == "POST" else []
        if redirected is None:
            for message in messages:
                self._recording.take(session, message, is_from_client=True)
        exchange = McpExchange(self._recording, session, messages, is_alone=is_alone)
        exchange.on_session = self._keep
        exchange.on_redirect = lambda: self._redirect(request.body, session)
        if request.method == "DELETE" and not is_alone:
            exchange.on_end = lambda: self._forget(session_id)
        return exchange

    def close(self) -> None:
        """End all sessions."""
        with self._lock:
            sessions = list(self._sessions.values())
            self._sessions.clear()
            redirected = [each for each in self._redirected.values() if each not in sessions]
            self._redirected.clear()
        for session in [*sessions, *redirected]:
            self._recording.close(session)

    def _redirect(self, body: bytes, session: McpSession) -> None:
        with self._lock:
            self._redirected[body] = session

    def _keep(self, session_id: str, session: McpSession) -> None:
        with self._lock:
            self._sessions[session_id] = session

    def _forget(self, session_id: str) -> None:
        with self._lock:
            session = self._sessions.pop(session_id, None)
        if session is not None:
            self._recording.close(session)


class McpExchange:
    """Records the messages of one response; see `trajrec.wire.exchange.Exchange`.

    Args:
        recording: Records them.
        session: The session.
        asked: The messages of the request.
        is_alone: Whether the session has no id so far.

    Attributes:
        answer: None: the request is to be sent.
        sent_body: None: as it is.
        on_session: Called with the session's id, once the server gives it one.
        on_redirect: Called if the client is to send the request to another path.
        on_end: Called at the end.
    """

    answer: HttpAnswer | None = None
    sent_body: bytes | None = None
    sent_url: str | None = None

    def __init__(
        self, recording: McpRecorder, session: McpSession, asked: list[Message], *, is_alone: bool
    ) -> None:
        self.on_session: Callable[[str, McpSession], None] = lambda _session_id, _session: None
        self.on_redirect: Callable[[], None] = lambda: None
        self.on_end: Callable[[], None] = lambda: None
        self._recording = recording
        self._session = session
        self._asked = asked
        self._is_alone = is_alone
        self._status = 0
        self._decoder = ContentDecoder("")
        self._events: EventSplitter | None = None
        self._pieces: list[bytes] = []
        self._n_bytes = 0
        self._n_waiting = 0
        self._is_lost = False
        self._is_over = False
        self._n_expected = -1

    def responded(self, status: int, headers: Headers) -> None:
        """Note the head of the response."""
        self._status = status
        self._decoder = ContentDecoder(header(headers, "content-encoding"))
        if header(headers, "content-type").startswith("text/event-stream"):
            self._events = EventSplitter()
        length = header(headers, "content-length")
        self._n_expected = int(length) if length.isdecimal() and len(length) < 12 else -1
        session_id = header(headers, SESSION_HEADER)
        if session_id and self._is_alone and status < 400:
            self._is_alone = False
            self.on_session(session_id, self._session)

    def received(self, data: bytes) -> None:
        """Record the messages that end with a piece of the body."""
        if self._is_lost:
            return
        self._n_bytes += len(data)
        try:
            decoded = self._decoder.decode(data)
        except ValueError:
            self._lose()
            return
        self._n_waiting += len(decoded)
        if self._n_waiting > MAX_MESSAGE_BYTES or not self._decoder.is_known:
            self._lose()
        elif self._events is None:
            self._pieces.append(decoded)
            if self._n_bytes == self._n_expected:
                self._take_body()
        elif events := self._events.feed(decoded):
            self._n_waiting = 0
            for event in events:
                self._take(event.data)

    def _lose(self) -> None:
        """Record no more of a body that cannot be read here, though perhaps by the client."""
        self._is_lost = True
        self._events = None
        self._pieces = []
        self._recording.lose(
            self._session, "the body of a response is too long, or in another coding"
        )

    def ended(self, error: BaseException | None) -> None:
        """End the calls of the request that have no answer, unless it may come in another way."""
        # A client that leaves when the last bytes are sent to it ends the exchange again.
        if self._is_over:
            return
        self._is_over = True
        if self._events is not None:
            for event in self._events.finish():
                self._take(event.data)
        self._take_body()
        if self._status in _REDIRECTIONS and error is None:
            self.on_redirect()
            return
        # A stream of a session with an id may break off, and go on in another one.
        is_over = error is not None or self._status >= 400 or self._events is None
        if (self._is_alone or is_over) and not self._is_lost:
            reason = "the request got no response"
            if self._status:
                reason = f"HTTP status {self._status}, without an answer to the call"
            reason = reason if error is None else f"{reason}: {error}"
            self._recording.fail(self._session, self._asked, reason)
        if self._is_alone:
            self._recording.close(self._session)
        self.on_end()

    def _take_body(self) -> None:
        pieces = self._pieces
        self._pieces = []
        if pieces:
            self._take(b"".join(pieces))

    def _take(self, data: bytes) -> None:
        for message in read_messages(data):
            self._recording.take(self._session, message, is_from_client=False)


class AnsweredMcpExchange:
    """An exchange that the recording answers.

    Args:
        answer: The answer.
    """

    sent_body: bytes | None = None
    sent_url: str | None = None

    def __init__(self, answer: HttpAnswer) -> None:
        self.answer: HttpAnswer | None = answer

    def responded(self, status: int, headers: Headers) -> None:
        """Do nothing."""

    def received(self, data: bytes) -> None:
        """Do nothing."""

    def ended(self, error: BaseException | None) -> None:
        """Do nothing."""


def answered(request: HttpRequest, lines: Callable[[bytes], bytes]) -> AnsweredMcpExchange:
    """Return the exchange that answers a request.

    Args:
        request: The request.
        lines: Returns the lines that answer the messages of a body.
    """
    if request.method != "POST":
        # The answer of a server that sends nothing of its own accord, and ends no session.
        return AnsweredMcpExchange(HttpAnswer(405, [], []))
    asks = [message for message in read_messages(request.body) if message.is_request]
    if not asks:
        return AnsweredMcpExchange(HttpAnswer(202, [], []))
    told = [line for line in lines(request.body).split(b"\n") if line]
    if not told:
        # The recorded call got no answer either.
        return AnsweredMcpExchange(HttpAnswer(0, [], [], hangs=True))
    is_batch = request.body.lstrip().startswith(b"[")
    body = b"[" + b",".join(told) + b"]" if is_batch else told[0]
    return AnsweredMcpExchange(HttpAnswer(200, [("content-type", "application/json")], [body]))
