"""The place at which the taps of all HTTP libraries report, and ask what to do with a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from trajrec.wire.exchange import Exchange, HttpRequest, is_model_call

Begin: TypeAlias = Callable[[HttpRequest], Exchange | None]


class _Outside(NamedTuple):
    """Who takes the requests of this process outside of it."""

    begin: Begin
    comes_first: bool
    ignored: str


seen_hosts: set[str] = set()
"""The servers to which model calls were reported, as `host_of` names them."""

_LOOPBACK = ("127.0.0.1", "::1", "localhost")

_listeners: list[Begin] = []
_outside: list[_Outside] = []


def listen(begin: Begin) -> None:
    """Name the function that takes each request which is about to be sent."""
    _listeners[:] = [begin]


def listen_outside(begin: Begin, *, comes_first: bool, ignored: str) -> None:
    """Name the function that reports requests to another process, for as long as this one runs.

    Args:
        begin: Takes each request that nobody in this process takes.
        comes_first: Whether it takes them before this process does.
        ignored: What the addresses of requests to that process itself begin with.
    """
    _outside[:] = [_Outside(begin, comes_first, ignored)]


def host_of(url: str) -> str:
    """Return the server of an address.

    >>> host_of("https://me@api.openai.com:443/v1"), host_of("http://localhost:11434/api/chat")
    ('api.openai.com', 'localhost:11434')
    """
    netloc = url.split("/", 3)[2] if url.count("/") > 1 else url
    host, _, port = netloc.rpartition("@")[2].rpartition(":")
    # Without a port, all is behind the colon that there is not; or it is within an IPv6 address.
    if not host or not port.isdigit():
        return host_key(netloc.rpartition("@")[2].strip("[]").lower(), "")
    return host_key(host.strip("[]").lower(), port)


def host_key(host: str, port: object) -> str:
    """Return a server's name. On this machine, several may serve at ports of their own."""
    return f"{host}:{port}" if host in _LOOPBACK else host


def is_wanted(method: str, url: str) -> bool:
    """Return whether a request may be a call of a model, so that it is to be reported.

    The address may be the path alone, which some libraries give much sooner. So this judges the
    path; the host is known to `begin_exchange`.
    """
    return is_model_call(method, url)


def begin_exchange(request: HttpRequest) -> Exchange | None:
    """Report a request that is about to be sent.

    Returns:
        The exchange to report to; None if nobody records it.

    Raises:
        BaseException: A rerun has no such request in its recording. Taps pass it on.
    """
    seen_hosts.add(host_of(request.url))
    if any(name == "content-encoding" for name, _ in request.headers):
        # Late: few requests have one, and the decoders take a while to import.
        from trajrec.wire.encodings import decoded_request

        request = decoded_request(request)
    outside = _outside[0] if _outside else None
    if outside is not None and request.url.startswith(outside.ignored):
        return None
    if outside is not None and outside.comes_first:
        return outside.begin(request)
    exchange = _listeners[0](request) if _listeners else None
    if exchange is None and outside is not None:
        return outside.begin(request)
    return exchange
