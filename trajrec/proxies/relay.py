"""One request of a client: passed on to its upstream and recorded, or answered from a recording."""

from __future__ import annotations

import os
import selectors
import socket
import ssl
import struct
from typing import NamedTuple, Protocol

from trajrec.proxies.connections import UpstreamConnection, UpstreamPool
from trajrec.proxies.framing import Body, ChunkedBody, OpenBody, body_of
from trajrec.proxies.messages import (
    READ_BYTES,
    RequestHead,
    ResponseHead,
    passed_headers,
    written,
)
from trajrec.proxies.upstreams import Upstream
from trajrec.taps.raw_answers import HANG_S, head_of, pieces_of
from trajrec.wire.exchange import Exchange, HttpAnswer, header

SILENCE_S = 3600.0
"""How long an upstream may be silent. Clients have shorter limits of their own."""

SEND_S = 300.0
"""How long a client may take no more bytes of its answer."""

# These are written anew, for the upstream's connection.
_REWRITTEN = frozenset(
    {"host", "content-length", "transfer-encoding", "expect", "x-trajrec-episode"}
)


class ClientLeft(Exception):
    """The client has closed its connection before the end of the answer."""


class Rewriter(Protocol):
    """Writes a stream anew that names an address, which must not lead past the proxy."""

    @property
    def rewrites(self) -> bool:
        """Whether the response is such a stream; known once its head is noted."""
        ...

    def rewritten(self, data: bytes) -> bytes:
        """Return a piece as the client gets it.

        Raises:
            OSError: The stream cannot be passed on.
        """
        ...


class _Sent(NamedTuple):
    """A request that is on its way.

    Attributes:
        client: The client's connection.
        upstream: The upstream's.
        exchange: Notes the response.
        place: The upstream's address, and the path of the proxy that leads there.
        notes_first: Whether a piece is noted before the client gets it.
        rewriter: Writes the response anew, if it is a stream.
    """

    client: socket.socket
    upstream: UpstreamConnection
    exchange: Exchange | None
    place: tuple[Upstream, str]
    notes_first: bool
    rewriter: Rewriter | None


def request_bytes(head: RequestHead, upstream: Upstream, path: str, body: bytes) -> bytes:
    """Return a client's request as it is sent to an upstream: with all of its headers."""
    headers = passed_headers(head.headers, _REWRITTEN)
    headers.insert(0, ("Host", upstream.netloc))
    if body or head.value("content-length") or head.value("transfer-encoding"):
        headers.append(("Content-Length", str(len(body))))
    target = f"{upstream.path}{path}"
    first = f"{head.method} {target if target.startswith('/') else f'/{target}'} HTTP/1.1"
    return written(first, headers) + body


def relay(
    client: socket.socket,
    pool: UpstreamPool,
    upstream: Upstream,
    request: bytes,
    *,
    method: str,
    local: str,
    exchange: Exchange | None,
    notes_first: bool = False,
    rewriter: Rewriter | None = None,
) -> bool:
    """Send a request to its upstream and pass the response on, piece by piece as it comes.

    Args:
        client: The client's connection.
        pool: Connections to upstreams.
        upstream: The upstream.
        request: The request, from `request_bytes`.
        method: Its method.
        local: The path of the proxy that leads to the upstream.
        exchange: Notes the response; None if nobody records it.
        notes_first: Whether a piece is noted before the client gets it. Noting one may wait, so
            that it comes last where nothing depends on it.
        rewriter: Writes the response anew, if it is a stream.

    Returns:
        Whether the client's connection can take another request.

    Raises:
        OSError: The upstream could not be reached, or broke the response off. The client can only
            be told by closing its connection.
        ClientLeft: The client closed its connection.
    """
    connection: UpstreamConnection | None = None
    try:
        connection = pool.take(upstream)
        connection.socket.settimeout(SEND_S)
        connection.socket.sendall(request)
        is_reusable, keeps_client = _pass_response(
            _Sent(client, connection, exchange, (upstream, local), notes_first, rewriter),
            method=method,
        )
    except BaseException as exc:
        if connection is not None:
            connection.close()
        if exchange is not None:
            # To a client that has left, the answer is like a generator that was closed.
            exchange.ended(GeneratorExit() if isinstance(exc, ClientLeft) else exc)
        raise
    if is_reusable:
        pool.give(upstream, connection)
    else:
        connection.close()
    return keeps_client


def _pass_response(sent: _Sent, *, method: str) -> tuple[bool, bool]:
    """Pass a response on; return whether the upstream's and the client's connections are good."""
    _without_polls(sent.client)
    with selectors.DefaultSelector() as selector:
        selector.register(sent.upstream.socket, selectors.EVENT_READ)
        selector.register(sent.client, selectors.EVENT_READ)
        _wait_for_upstream(sent, selector)
        head = sent.upstream.response_head(SILENCE_S)
        body = body_of(head, method)
        if sent.exchange is not None:
            sent.exchange.responded(head.status, head.lower_headers)
        first = sent.upstream.reader.take_rest()
        _pass_on(sent, body, first, head=_client_head(head, body, sent.place))
        _without_polls(sent.upstream.socket)
        while not body.is_complete:
            _wait_for_upstream(sent, selector)
            data = sent.upstream.socket.recv(READ_BYTES)
            if not data:
                break
            _pass_on(sent, body, data)
    if not body.is_complete and not body.ends_with_connection:
        raise ConnectionResetError("the server broke its answer off")
    if sent.exchange is not None and not body.is_complete:
        sent.exchange.ended(None)
    closes = header(head.lower_headers, "connection").lower() == "close"
    is_reusable = not (closes or body.ends_with_connection or head.version == "HTTP/1.0")
    return is_reusable, not body.ends_with_connection


def _without_polls(connection: socket.socket) -> None:
    """Leave the time limit of sends to the kernel: Python's own asks it once more for each call."""
    if os.name != "posix":
        connection.settimeout(SEND_S)
        return
    connection.settimeout(None)
    limit = struct.pack("ll", int(SEND_S), 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


def _client_head(head: ResponseHead, body: Body, place: tuple[Upstream, str]) -> bytes:
    """Return the head for the client. A redirection must not lead past the proxy."""
    headers = [
        (name, _moved(value, *place) if name.lower() == "location" else value)
        for name, value in passed_headers(head.headers)
    ]
    if body.ends_with_connection:
        headers.append(("Connection", "close"))
    return written(f"HTTP/1.1 {head.status} {head.reason}", headers)


def _moved(location: str, upstream: Upstream, local: str) -> str:
    """Return the place of a redirection as a path of the proxy, if it is on the same upstream."""
    path = location.removeprefix(f"{upstream.scheme}://{upstream.netloc}")
    if path.startswith(f"{upstream.path}/") and not path.startswith("//"):
        return local + path[len(upstream.path) :]
    return location


def _pass_on(sent: _Sent, body: Body, data: bytes, *, head: bytes = b"") -> None:
    """Send bytes of the body to the client, and note them.

    The last ones are noted first: with them the client may make its next request, whose episode is
    found by the answer.
    """
    pieces = body.add(data)
    data = _rewritten(sent, body, data, pieces)
    if sent.notes_first or body.is_complete:
        _note(sent, pieces)
        if sent.exchange is not None and body.is_complete:
            sent.exchange.ended(None)
        _send(sent.client, head + data)
        return
    _send(sent.client, head + data)
    _note(sent, pieces)


def _rewritten(sent: _Sent, body: Body, data: bytes, pieces: list[bytes]) -> bytes:
    """Return bytes of the body as the client gets them."""
    if sent.rewriter is None or not sent.rewriter.rewrites:
        return data
    told = sent.rewriter.rewritten(b"".join(pieces))
    if isinstance(body, OpenBody):
        return told
    if not isinstance(body, ChunkedBody):
        raise ConnectionError("the server sent a stream of events with a size")
    chunk = b"%x\r\n%s\r\n" % (len(told), told) if told else b""
    return chunk + b"0\r\n\r\n" if body.is_complete else chunk


def _note(sent: _Sent, pieces: list[bytes]) -> None:
    if sent.exchange is not None:
        for piece in pieces:
            sent.exchange.received(piece)


def _send(client: socket.socket, data: bytes) -> None:
    """Send bytes to the client.

    Raises:
        ClientLeft: The client takes no more.
    """
    try:
        client.sendall(data)
    except OSError as exc:
        raise ClientLeft from exc


def _wait_for_upstream(sent: _Sent, selector: selectors.BaseSelector) -> None:
    """Wait until the upstream has sent something.

    Raises:
        ClientLeft: The client closed its connection before.
        TimeoutError: The upstream was silent too long.
    """
    connection = sent.upstream.socket
    if isinstance(connection, ssl.SSLSocket) and connection.pending():
        return
    while ready := selector.select(SILENCE_S):
        # The upstream first: a client that left is noticed when the next bytes are sent to it.
        if any(key.fileobj is connection for key, _ in ready):
            return
        _check_client(sent.client)
        # It has sent its next request already, which is read after this one.
        selector.unregister(sent.client)
    raise TimeoutError("the server was silent for an hour")


def _check_client(client: socket.socket) -> None:
    """Raise `ClientLeft` if the client has closed its connection."""
    try:
        if client.recv(1, socket.MSG_PEEK):
            return
    except OSError as exc:
        raise ClientLeft from exc
    raise ClientLeft


def deliver(client: socket.socket, answer: HttpAnswer, *, stop_after_s: float = HANG_S) -> bool:
    """Send a recorded answer to the client, in the pieces in which it came.

    Args:
        client: The client's connection.
        answer: The answer.
        stop_after_s: How long to wait for a client that gave up when it was recorded.

    Returns:
        Whether the client's connection can take another request. If it cannot, closing it tells
        the client that the answer was broken off, as the recorded one was.
    """
    client.settimeout(SEND_S)
    if answer.status:
        _send(client, head_of(answer))
        for piece in pieces_of(answer):
            _send(client, piece)
    if answer.hangs:
        _wait_for_end(client, stop_after_s)
    return bool(answer.status) and answer.error is None and not answer.hangs


def _wait_for_end(client: socket.socket, seconds: float) -> None:
    client.settimeout(seconds)
    try:
        client.recv(1)
    except OSError:
        return
