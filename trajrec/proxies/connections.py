"""Connections from the proxy to its upstreams, which are used again while they are fresh."""

from __future__ import annotations

import base64
import contextlib
import http.client
import select
import socket
import ssl
import threading
import time
import urllib.request
from collections import defaultdict
from functools import cached_property
from urllib.parse import unquote, urlsplit

from trajrec.proxies.messages import ResponseHead, SocketReader, parse_response
from trajrec.proxies.upstreams import Upstream
from trajrec.taps import hub

CONNECT_S = 30.0
"""How long a connection to an upstream may take."""

# Servers close idle connections after 5 seconds and more; one that closes while a request is on
# its way has lost it.
_FRESH_S = 3.0


class UpstreamConnection:
    """A connection to an upstream.

    Args:
        connection: The socket.

    Attributes:
        socket: The same.
        reader: Reads responses.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.reader = SocketReader(connection)
        self.idle_since = 0.0

    def response_head(self, seconds: float) -> ResponseHead:
        """Return the head of the response, without those that only announce one.

        Raises:
            OSError: The server sent none.
        """
        deadline = time.monotonic() + seconds
        while True:
            data = self.reader.head(deadline)
            if not data:
                raise ConnectionResetError("the server closed the connection without an answer")
            head = parse_response(data)
            if head.status >= 200:
                return head

    def is_fresh(self) -> bool:
        """Return whether a request may go over this connection."""
        if time.monotonic() - self.idle_since > _FRESH_S:
            return False
        # Whatever comes without a request is the end of the connection.
        return not select.select([self.socket], [], [], 0)[0]

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self.socket.close()


class UpstreamPool:
    """Opens connections, and keeps those that wait for the next request."""

    def __init__(self) -> None:
        self._idle: defaultdict[Upstream, list[UpstreamConnection]] = defaultdict(list)
        self._lock = threading.Lock()

    def take(self, upstream: Upstream) -> UpstreamConnection:
        """Return a connection to an upstream.

        Raises:
            OSError: It cannot be reached.
        """
        while True:
            with self._lock:
                connections = self._idle[upstream]
                connection = connections.pop() if connections else None
            if connection is None:
                return UpstreamConnection(self._open(upstream))
            # A number above 1023 cannot be asked for by select.
            if connection.socket.fileno() < 1024 and connection.is_fresh():
                return connection
            connection.close()

    def give(self, upstream: Upstream, connection: UpstreamConnection) -> None:
        """Take a connection back, after a whole response."""
        connection.idle_since = time.monotonic()
        with self._lock:
            self._idle[upstream].append(connection)

    def close(self) -> None:
        """Close all connections that wait."""
        with self._lock:
            idle = [connection for group in self._idle.values() for connection in group]
            self._idle.clear()
        for connection in idle:
            connection.close()

    @cached_property
    def _context(self) -> ssl.SSLContext:
        # When it is first needed: reading the certificates takes 20 ms.
        return ssl.create_default_context()

    def _open(self, upstream: Upstream) -> socket.socket:
        is_https = upstream.scheme == "https"
        # Looked up in this process by the proxy, which records what it sends.
        hub.seen_hosts.add(hub.host_key(upstream.host.lower(), upstream.port))
        connection = _connect(upstream, _system_proxy(upstream) if is_https else "")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not is_https:
            return connection
        try:
            return self._context.wrap_socket(connection, server_hostname=upstream.host)
        except BaseException:
            connection.close()
            raise


def _system_proxy(upstream: Upstream) -> str:
    """Return the address of the system's proxy for an upstream, "" if there is none."""
    if urllib.request.proxy_bypass(upstream.netloc):
        return ""
    proxies = urllib.request.getproxies()
    return proxies.get("https", "") or proxies.get("all", "")


def _connect(upstream: Upstream, proxy: str) -> socket.socket:
    """Return a connection to an upstream, by a proxy of the system if there is one."""
    if not proxy:
        return socket.create_connection((upstream.host, upstream.port), CONNECT_S)
    parts = urlsplit(proxy)
    client = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=CONNECT_S)
    headers = {}
    if parts.username:
        person = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(person).decode()}"
    client.set_tunnel(upstream.host, upstream.port, headers)
    client.connect()
    connection: socket.socket = client.sock
    return connection
