"""MCP servers of the older transport: a stream of events, and an address for messages.

The client opens a stream. Its first event, `endpoint`, names the address to which the client sends
its messages, and the answers come as events of the stream. Behind the recorder that address is the
recorder's own, so that the client's messages pass it.

Source:
    https://modelcontextprotocol.io/specification/2024-11-05/basic/transports, "HTTP with SSE"
"""

from __future__ import annotations

import secrets
import threading
from typing import NamedTuple
from urllib.parse import urljoin

from trajrec.proxies.mcp_messages import Message, read_messages
from trajrec.proxies.mcp_recorder import McpRecorder
from trajrec.proxies.mcp_session import McpSession
from trajrec.proxies.upstreams import Upstream, upstream_of
from trajrec.wire.exchange import Headers, HttpAnswer, header
from trajrec.wire.sse import EventSplitter, split_events

SSE_TYPE = "sse"
"""The type of such servers in a configuration."""

MAX_BEGIN_BYTES = 1 << 16
"""The event with the address comes first; so much may come before it."""

MAX_MESSAGE_BYTES = 1 << 26
"""A longer message passes unrecorded: it must not take all memory."""


_MESSAGES = "/messages/"


class EndpointError(ConnectionError):
    """The stream of a server does not begin as it must, so that it is broken off."""


class Place(NamedTuple):
    """The place that a request is for.

    Attributes:
        session: The session whose messages it takes; None for a new stream.
        upstream: The server.
        path: The rest of the address, with its query.
    """

    session: McpSession | None
    upstream: Upstream
    path: str


class SseServer:
    """One server of this kind, as the proxy serves it.

    Args:
        recorder: Records the messages.
        name: The server's name.
        url: The address of its streams.
        local: The path of the proxy that leads to it, with the token.

    Raises:
        ValueError: The address is no plain one of http or https.
    """

    def __init__(self, recorder: McpRecorder, name: str, url: str, local: str) -> None:
        self.upstream = upstream_of(url)
        self._url = url
        self._recorder = recorder
        self._name = name
        self._local = local
        self._lock = threading.Lock()
        self._addresses: dict[str, Place] = {}

    def keep(self, session: McpSession, endpoint: str) -> str:
        """Keep the address that a stream names; return the one that the client gets instead.

        Raises:
            EndpointError: It is on another server, to which no client would send its messages.
        """
        own = self.upstream._replace(path="").url("")
        address = urljoin(self._url, endpoint.strip())
        if not address.startswith(f"{own}/"):
            raise EndpointError("the address for messages is on another server than the stream")
        key = secrets.token_urlsafe(12)
        kept = Place(session, self.upstream._replace(path=""), address[len(own) :])
        with self._lock:
            self._addresses[key] = kept
        return f"{self._local}{_MESSAGES}{key}"

    def forget(self, session: McpSession) -> None:
        """Forget the address of a stream that has ended."""
        with self._lock:
            ended = [key for key, kept in self._addresses.items() if kept.session is session]
            for key in ended:
                del self._addresses[key]

    def place_of(self, method: str, path: str) -> Place | None:
        """Return the place for which a path of the proxy stands; None if there is none."""
        if method == "GET" and path.partition("?")[0] in ("", "/"):
            return Place(None, self.upstream, path.removeprefix("/"))
        with self._lock:
            place = self._addresses.get(path.removeprefix(_MESSAGES))
        return place if method == "POST" else None

    def exchange(self, place: Place, body: bytes) -> SseStream | SsePost:
        """Record a request that is about to be sent."""
        if place.session is None:
            return SseStream(self, self._recorder, self._recorder.open(self._name))
        messages = read_messages(body)
        for message in messages:
            self._recorder.take(place.session, message, is_from_client=True)
        return SsePost(self._recorder, place.session, messages)


class SseStream:
    """Records the messages of a stream; see `trajrec.wire.exchange.Exchange`.

    Args:
        server: The server.
        recorder: Records the messages.
        session: The session of the stream.

    Attributes:
        answer: None: the request is to be sent.
        rewrites: Whether the response is a stream, whose first event is written anew.
    """

    answer: HttpAnswer | None = None
    sent_body: bytes | None = None
    sent_url: str | None = None

    def __init__(self, server: SseServer, recorder: McpRecorder, session: McpSession) -> None:
        self.rewrites = False
        self._server = server
        self._recorder = recorder
        self._session = session
        self._events = EventSplitter()
        self._begin: bytes | None = b""
        self._n_waiting = 0
        self._is_over = False

    def responded(self, status: int, headers: Headers) -> None:
        """Note the head of the response."""
        kind = header(headers, "content-type")
        coding = header(headers, "content-encoding")
        self.rewrites = status == 200 and kind.startswith("text/event-stream") and not coding

    def received(self, data: bytes) -> None:
        """Record the messages that end with a piece of the stream."""
        if not self.rewrites:
            return
        events = self._events.feed(data)
        self._n_waiting = 0 if events else self._n_waiting + len(data)
        if self._n_waiting > MAX_MESSAGE_BYTES:
            self._events = EventSplitter()
            self._n_waiting = 0
            self._recorder.lose(self._session, "an event of a stream is too long")
        for event in events:
            if event.name in ("message", ""):
                for message in read_messages(event.data):
                    self._recorder.take(self._session, message, is_from_client=False)

    def rewritten(self, data: bytes) -> bytes:
        """Return a piece of the stream as the client gets it, b"" if more must come first.

        Raises:
            EndpointError: The stream does not begin with an address for messages.
        """
        if self._begin is None:
            return data
        self._begin += data
        if self._begin.endswith(b"\r"):
            # It may be the first half of a CRLF.
            return b""
        plain = self._begin.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        told = b""
        while (end := plain.find(b"\n\n")) >= 0:
            block = plain[: end + 2]
            plain = plain[end + 2 :]
            endpoints = [e.data for e in split_events(block) if e.name == "endpoint"]
            if not endpoints:
                told += block
                self._begin = plain
                continue
            address = self._server.keep(self._session, endpoints[0].decode("utf-8", "replace"))
            self._begin = None
            return told + f"event: endpoint\ndata: {address}\n\n".encode() + plain
        if len(self._begin) > MAX_BEGIN_BYTES:
            raise EndpointError("the stream does not begin with an address for messages")
        return told

    def ended(self, error: BaseException | None) -> None:
        """End the session: its calls get no answer any more."""
        if not self._is_over:
            self._is_over = True
            self._server.forget(self._session)
            self._recorder.close(self._session)


class SsePost:
    """Notes whether a server took some messages; see `trajrec.wire.exchange.Exchange`.

    Args:
        recorder: Records the messages.
        session: Their session.
        asked: The messages.
    """

    answer: HttpAnswer | None = None
    sent_body: bytes | None = None
    sent_url: str | None = None

    def __init__(self, recorder: McpRecorder, session: McpSession, asked: list[Message]) -> None:
        self._recorder = recorder
        self._session = session
        self._asked = asked
        self._status = 0
        self._is_over = False

    def responded(self, status: int, headers: Headers) -> None:
        """Note the head of the response."""
        self._status = status

    def received(self, data: bytes) -> None:
        """Do nothing: the answers come as events of the stream."""

    def ended(self, error: BaseException | None) -> None:
        """End the calls that the server has not taken."""
        # A client that leaves when the last bytes are sent to it ends the exchange again.
        if self._is_over:
            return
        self._is_over = True
        if error is None and self._status < 400:
            return
        reason = f"HTTP status {self._status}" if self._status else "the request got no response"
        self._recorder.fail(self._session, self._asked, reason)
