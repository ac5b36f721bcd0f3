"""The loopback server that a command's model calls go to."""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable

from trajrec.errors import RerunStopped
from trajrec.proxies.connections import UpstreamPool
from trajrec.proxies.mcp_sessions import McpProxy, McpRecording, take_session
from trajrec.proxies.mcp_shim import SESSION_PATH
from trajrec.proxies.mcp_sse import SseServer, SseStream
from trajrec.proxies.messages import (
    RefusedError,
    RequestHead,
    SocketReader,
    parse_request,
    written,
)
from trajrec.proxies.relay import ClientLeft, Rewriter, deliver, relay, request_bytes
from trajrec.proxies.reports import MARK_CHARS, MARK_HEADER, Begin, take_reports
from trajrec.proxies.upstreams import Route, Routes, Upstream, upstream_of
from trajrec.taps.raw_answers import reason_of
from trajrec.wire.encodings import decoded_request, readable_codings
from trajrec.wire.exchange import Exchange, Headers, HttpRequest

HEAD_S = 20.0
"""How long the head of a request may take, once its connection is open."""

BODY_S = 120.0
"""How long the body of a request may take."""

IDLE_S = 300.0
"""How long a connection may wait for its next request."""

ENDED_S = 0.5
"""How long the connections of a command that has ended may take to end by themselves."""

BROKEN_S = 2.0
"""How long it may take to note the end of those that were broken off."""

MAX_CONNECTIONS = 512
"""Connections at once; beyond, one that is opened is closed."""

# A request that nobody records or answers must not be tried again.
_NO_RETRY = ("x-should-retry", "false")


class ProxyServer:
    """Serves the paths of its routes on a port of this machine, behind a random token.

    Args:
        routes: The upstreams. No other server is ever connected to.
        begin: Takes each request; see `trajrec.proxies.reports.Begin`.
        may_send: Returns whether a request without an exchange may go to its upstream. In a rerun
            it may not.
        mcp: Takes the sessions of the command's MCP servers, if they are recorded or answered.

    Attributes:
        address: "http://127.0.0.1:PORT/TOKEN".
        n_unsent: Requests whose upstream could not be reached, or broke off.
        first_failure: The first reason, in one line.
        n_refused: Requests that were answered by an error of the proxy itself.
        first_refusal: The first reason.
    """

    def __init__(
        self,
        routes: Routes,
        begin: Begin,
        *,
        may_send: Callable[[], bool] = lambda: True,
        mcp: McpProxy | None = None,
    ) -> None:
        self._routes = routes
        self._begin = begin
        self._may_send = may_send
        self._mcp = mcp
        self._servers: dict[str, tuple[str, Routes]] = {}
        self._stream_servers: dict[str, SseServer] = {}
        self._token = secrets.token_urlsafe(24)
        self._pool = UpstreamPool()
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._is_closed = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}/{self._token}"
        self.n_unsent = 0
        self.first_failure = ""
        self.n_refused = 0
        self.first_refusal = ""

    def start(self) -> None:
        """Serve, in threads of this process."""
        threading.Thread(target=self._accept, name="trajrec-proxy", daemon=True).start()

    def close(self) -> None:
        """Stop serving. What a client has received is noted; what is still open is broken off."""
        self._join(ENDED_S)
        self._is_closed = True
        with contextlib.suppress(OSError):
            # Wakes the thread that accepts.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            still_open = list(self._open)
        for connection in still_open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._join(BROKEN_S)
        self._pool.close()

    def _join(self, seconds: float) -> None:
        """Wait until no connection is open."""
        deadline = time.monotonic() + seconds
        with self._lock:
            threads = list(self._open.values())
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if not self._is_closed:
                    # Too many open files, say; the connections that end will free some.
                    time.sleep(0.05)
                continue
            with self._lock:
                if self._is_closed or len(self._open) >= MAX_CONNECTIONS:
                    connection.close()
                    continue
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                try:
                    # With the lock: `close` cannot wait for a thread that has not started.
                    thread.start()
                except RuntimeError:
                    # Too many threads; those that end will make room.
                    connection.close()
                    continue
                self._open[connection] = thread

    def _serve(self, connection: socket.socket) -> None:
        """Serve one connection until its end."""
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = SocketReader(connection)
            seconds = HEAD_S
            while self._serve_request(reader, seconds):
                seconds = IDLE_S
        except RefusedError as exc:
            with self._lock:
                self.n_refused += 1
                self.first_refusal = self.first_refusal or str(exc)
            with contextlib.suppress(OSError):
                connection.sendall(_error(exc.status, str(exc)))
        except (OSError, ClientLeft, LookupError, TypeError, ValueError):
            # A client that left, or sent garbage. Its connection is closed.
            pass
        finally:
            with self._lock:
                self._open.pop(connection, None)
            connection.close()

    def _serve_request(self, reader: SocketReader, seconds: float) -> bool:
        """Serve one request; return whether the connection can take another.

        Raises:
            RefusedError: The request is not taken.
            OSError: The client or the upstream broke off.
        """
        data = reader.head(time.monotonic() + seconds)
        if not data:
            return False
        head = parse_request(data)
        path = self._without_token(head.target)
        if path == "/tap":
            # What follows is no HTTP, but the messages of `frames`.
            take_reports(reader, self._begin)
            return False
        if path == SESSION_PATH and self._mcp is not None:
            take_session(reader, self._mcp)
            return False
        if _asks_for_websocket(head):
            raise RefusedError(501, "trajrec does not record websockets")
        streaming = self._stream_server(path)
        if streaming is not None:
            return self._serve_streaming(reader, head, *streaming)
        mark, path = _episode_mark(head, path)
        server, route = self._route(path)
        if route is None or _has_dots(path):
            raise RefusedError(404, "there is no such path here")
        if head.value("expect").lower() == "100-continue":
            reader.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = reader.body(head, time.monotonic() + BODY_S)
        upstream, rest = route
        lower = [(name.lower(), value) for name, value in head.headers]
        request = decoded_request(HttpRequest(head.method, upstream.url(rest), lower, body))
        if server and self._mcp is not None:
            exchange: Exchange | None = self._mcp.exchange(server, request)
        else:
            exchange = self._exchange(request, mark)
        if exchange is not None and exchange.sent_body is not None:
            body = exchange.sent_body
            plain = [pair for pair in head.headers if pair[0].lower() != "content-encoding"]
            head = head._replace(headers=plain)
        if exchange is not None:
            head = head._replace(headers=_with_readable_codings(head.headers))
        sent_rest = rest
        if exchange is not None and exchange.sent_url is not None:
            sent_rest = exchange.sent_url.removeprefix(upstream.url(""))
        keeps_client = self._answer(
            reader.connection,
            request_bytes(head, upstream, sent_rest, body),
            upstream=upstream,
            method=head.method,
            local=head.target[: len(head.target) - len(rest)],
            exchange=exchange,
            notes_first=bool(server),
        )
        return keeps_client and head.value("connection").lower() != "close"

    def _serve_streaming(
        self, reader: SocketReader, head: RequestHead, server: SseServer, path: str
    ) -> bool:
        """Serve a request to an MCP server of the older transport."""
        body = reader.body(head, time.monotonic() + BODY_S)
        place = server.place_of(head.method, path)
        if place is None:
            raise RefusedError(404, "there is no such path here")
        # A coded stream could not be written anew.
        headers = [pair for pair in head.headers if pair[0].lower() != "accept-encoding"]
        exchange = server.exchange(place, body)
        keeps_client = self._answer(
            reader.connection,
            request_bytes(head._replace(headers=headers), place.upstream, place.path, body),
            upstream=place.upstream,
            method=head.method,
            local="",
            exchange=exchange,
            notes_first=True,
            rewriter=exchange if isinstance(exchange, SseStream) else None,
        )
        return keeps_client and head.value("connection").lower() != "close"

    def _answer(
        self,
        client: socket.socket,
        request: bytes,
        *,
        upstream: Upstream,
        method: str,
        local: str,
        exchange: Exchange | None,
        notes_first: bool,
        rewriter: Rewriter | None = None,
    ) -> bool:
        """Answer a request from its recording, or by its upstream; see `relay`."""
        if exchange is not None and exchange.answer is not None:
            return deliver(client, exchange.answer)
        if exchange is None and not self._may_send():
            raise RefusedError(422, "the recording has no such request, and a rerun sends none")
        try:
            return relay(
                client,
                self._pool,
                upstream,
                request,
                method=method,
                local=local,
                exchange=exchange,
                notes_first=notes_first,
                rewriter=rewriter,
            )
        except OSError as exc:
            self._note_failure(upstream.netloc, exc)
            raise

    def add_server(self, name: str, url: str) -> str:
        """Serve an MCP server over HTTP; return the address by which the command reaches it.

        Args:
            name: Its name.
            url: Its address.

        Raises:
            ValueError: It is no plain address of http or https.
        """
        prefix = f"/mcp/{len(self._servers)}"
        self._servers[prefix] = (name, Routes((Route(prefix, upstream_of(url)),), {}))
        return self.address + prefix

    def add_stream_server(self, name: str, url: str) -> str:
        """Serve an MCP server of the older transport; return the address of its streams.

        Raises:
            ValueError: It is no plain address of http or https, or nothing is recorded.
        """
        if not isinstance(self._mcp, McpRecording):
            raise ValueError("only a recording passes requests on to a server")
        prefix = f"/mcp-stream/{len(self._stream_servers)}"
        local = f"/{self._token}{prefix}"
        self._stream_servers[prefix] = SseServer(self._mcp, name, url, local)
        return self.address + prefix

    def _stream_server(self, path: str) -> tuple[SseServer, str] | None:
        """Return the server of the older transport that has a path, and the rest of the path."""
        for prefix, server in self._stream_servers.items():
            if path == prefix or path.startswith((f"{prefix}/", f"{prefix}?")):
                return server, path[len(prefix) :]
        return None

    def _route(self, path: str) -> tuple[str, tuple[Upstream, str] | None]:
        """Return the MCP server of a path, "" if it leads to none, and the upstream of the path."""
        for name, routes in self._servers.values():
            route = routes.find(path)
            if route is not None:
                return name, route
        return "", self._routes.find(path)

    def _exchange(self, request: HttpRequest, mark: str) -> Exchange | None:
        try:
            return self._begin(request, mark)
        except RerunStopped as exc:
            raise RefusedError(422, str(exc)) from exc

    def _without_token(self, target: str) -> str:
        """Return the path behind the token.

        Raises:
            RefusedError: The token is missing or wrong.
        """
        _, token, rest = [*target.split("/", 2), "", ""][:3]
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            raise RefusedError(404, "there is no such path here")
        return f"/{rest}"

    def _note_failure(self, place: str, exc: OSError) -> None:
        if self._is_closed:
            return
        with self._lock:
            self.n_unsent += 1
            text = " ".join(str(exc).split())
            self.first_failure = self.first_failure or f"{place}: {type(exc).__name__}: {text}"


def _asks_for_websocket(head: RequestHead) -> bool:
    """Return whether a request wants to go on as a websocket.

    Any other offer may be passed over: Java's client offers HTTP/2 with every request.
    """
    offers = ",".join(value for name, value in head.headers if name.lower() == "upgrade")
    return any(offer.strip().lower().startswith("websocket") for offer in offers.split(","))


def _with_readable_codings(headers: Headers) -> Headers:
    """Return headers that ask for no coding in which the answer could not be read."""
    return [
        (name, readable_codings(value) if name.lower() == "accept-encoding" else value)
        for name, value in headers
    ]


def _episode_mark(head: RequestHead, path: str) -> tuple[str, str]:
    """Return the mark of the episode that a request names, and its path without the mark."""
    mark = head.value(MARK_HEADER)
    if path.startswith("/e/"):
        name, slash, rest = path[3:].partition("/")
        mark = name
        path = slash + rest
    return mark[:MARK_CHARS], path


def _has_dots(path: str) -> bool:
    """Return whether a path leads out of its route, once an upstream resolves it."""
    plain = path.partition("?")[0].lower().replace("%2e", ".").replace("%2f", "/")
    parts = plain.replace("\\", "/").replace("%5c", "/").split("/")
    return ".." in parts or "." in parts


def _error(status: int, reason: str) -> bytes:
    """Return an answer of the proxy itself, in the form of errors that model clients print."""
    body = json.dumps({"error": {"type": "trajrec", "message": f"trajrec: {reason}"}}).encode()
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        _NO_RETRY,
        ("Connection", "close"),
    ]
    return written(f"HTTP/1.1 {status} {reason_of(status)}", headers) + body
