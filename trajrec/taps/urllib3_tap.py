"""The tap in urllib3, which requests and botocore use: one attempt of a connection pool.

`HTTPConnectionPool.urlopen` calls itself for each retry, so the outer call ends with the status of
the inner one. `_make_request` is one attempt.
"""

from __future__ import annotations

import functools
import http.client
import importlib
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from trajrec.taps import hub
from trajrec.taps.memory_socket import MemorySocket, require_response
from trajrec.taps.patching import Replacement, answering, note_fault
from trajrec.wire.exchange import Exchange, HttpAnswer, HttpRequest

_DEFAULT_PORTS = {"http": 80, "https": 443}


def replacements(module: ModuleType) -> list[Replacement]:
    """Return the methods to replace in urllib3.

    Raises:
        AttributeError: It is not urllib3 2.
    """
    pools = importlib.import_module(f"{module.__name__}.connectionpool")
    response_class = importlib.import_module(f"{module.__name__}.response").HTTPResponse
    for name in ("_raw_read", "read_chunked"):
        getattr(response_class, name)
    make = _make_wrapper(response_class, _tapped_class(response_class))
    return [
        Replacement(pools.HTTPConnectionPool, "_make_request", make),
        Replacement(pools.HTTPSConnectionPool, "_prepare_proxy", _make_deferred),
    ]


def _make_deferred(original: Any) -> Any:
    """Return a wrapper that tells a connection its proxy, and leaves connecting to the attempt.

    urllib3 connects before the attempt, so that a failure would not be seen, and a recorded answer
    would need the network. An attempt connects if its connection is closed.
    """

    @functools.wraps(original)
    def _prepare_proxy(self: Any, conn: Any) -> None:
        conn.connect = _do_nothing
        try:
            original.__get__(self, type(self))(conn)
        finally:
            del conn.connect

    return _prepare_proxy


def _do_nothing() -> None:
    """Stand for `connect`."""


def _make_wrapper(response_class: Any, tapped_class: type) -> Callable[[Any], Any]:
    """Return the maker of the wrapper of `_make_request`."""

    def make(original: Any) -> Any:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def _make_request(
            self: Any, conn: Any, method: str, url: str, *args: Any, **kw: Any
        ) -> Any:
            send = original.__get__(self, type(self))
            if method != "POST":
                return send(conn, method, url, *args, **kw)
            if args:
                # urllib3 itself gives all of them by name.
                kw = signature.bind(self, conn, method, url, *args, **kw).arguments
                kw = {name: kw[name] for name in list(kw)[4:]}
            exchange = _begin(self, method, url, kw)
            if exchange is None:
                return send(conn, method, url, **kw)
            is_preloaded = kw.pop("preload_content", True)
            try:
                if exchange.answer is None:
                    _set_body(self, kw, exchange.sent_body)
                    sent_to = _target(self, url, exchange.sent_url)
                    response = send(conn, method, sent_to, preload_content=False, **kw)
                else:
                    response = _answer(self, exchange.answer, response_class, method, url, kw)
            except BaseException as error:
                exchange.ended(error)
                raise
            _tap(response, exchange, response_class, tapped_class)
            if is_preloaded:
                _preload(response, kw)
            return response

        return _make_request

    return make


def _begin(pool: Any, method: str, url: str, kw: dict[str, Any]) -> Exchange | None:
    """Return the exchange that a request begins, None if it is not to be reported."""
    try:
        if not hub.is_wanted(method, url):
            return None
        whole = url if "://" in url else f"{_origin(pool)}{url}"
        body = kw.get("body")
        if isinstance(body, str):
            body = body.encode("utf-8")
        elif not isinstance(body, bytes):
            body = bytes(body) if isinstance(body, bytearray) else b""
        headers = kw.get("headers")
        pairs = (pool.headers if headers is None else headers).items()
        listed = [(_text(name).lower(), _text(value)) for name, value in pairs]
        return hub.begin_exchange(HttpRequest(method, whole, listed, body))
    except Exception as error:
        note_fault("urllib3", error)
        return None


def _set_body(pool: Any, kw: dict[str, Any], body: bytes | None) -> None:
    """Have a request send another body, if there is one."""
    if body is None:
        return
    headers = kw.get("headers")
    pairs = (pool.headers if headers is None else headers).items()
    old = ("content-length", "transfer-encoding", "content-encoding")
    kw["headers"] = {name: v for name, v in pairs if _text(name).lower() not in old} | {
        "Content-Length": str(len(body))
    }
    kw["body"] = body
    kw["chunked"] = False


def _target(pool: Any, url: str, sent_url: str | None) -> str:
    """Return the target that a request is sent to: like its own, a path or a whole address."""
    if sent_url is None:
        return url
    return sent_url if "://" in url else sent_url.removeprefix(_origin(pool))


def _text(value: Any) -> str:
    """Return a header's name or value as text."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _origin(pool: Any) -> str:
    """Return the scheme, host and port of a pool."""
    is_usual = pool.port in (None, _DEFAULT_PORTS.get(pool.scheme))
    host = f"[{pool.host}]" if ":" in pool.host else pool.host
    return f"{pool.scheme}://{host}" + ("" if is_usual else f":{pool.port}")


def _tap(response: Any, exchange: Exchange, response_class: type, tapped_class: type) -> None:
    """Have a response report its body while it is read."""
    try:
        headers = [(name.lower(), value) for name, value in response.headers.items()]
        exchange.responded(response.status, headers)
        kind: Any = type(response)
        if kind is not response_class:
            raise TypeError(f"cannot see the body of a {kind.__qualname__}")
        # The object stays the one that urllib3 made; only its methods are other ones.
        response.__class__ = tapped_class
        response._trajrec_exchange = exchange
    except Exception as error:
        note_fault("urllib3", error)


def _preload(response: Any, kw: dict[str, Any]) -> None:
    """Read a body at once, as urllib3 does when it makes a response, before it has a pool."""
    pool = response._pool
    connection = response._connection
    response._pool = None
    response._connection = None
    try:
        response._body = response.read(decode_content=kw.get("decode_content", True))
    finally:
        response._pool = pool
        response._connection = connection


def _answer(
    pool: Any, answer: HttpAnswer, response_class: Any, method: str, url: str, kw: dict[str, Any]
) -> Any:
    """Return the response of a recorded answer, parsed by the standard library as a real one.

    Raises:
        BaseException: The recorded exception, if no response came.
        AnswerFault: The answer cannot be delivered.
    """
    require_response(answer)
    with answering("urllib3"):
        pool.num_requests += 1
        raw = http.client.HTTPResponse(MemorySocket(answer), method=method)  # type: ignore[arg-type]
        raw.begin()
        response = response_class(
            body=raw,
            headers=raw.headers.items(),
            status=raw.status,
            version=raw.version,
            reason=raw.reason,
            preload_content=False,
            decode_content=kw.get("decode_content", True),
            original_response=raw,
            enforce_content_length=kw.get("enforce_content_length", True),
            request_method=method,
            request_url=url,
        )
        response.version_string = "HTTP/1.1"
        response.retries = kw.get("retries")
        response._connection = kw.get("response_conn")
        response._pool = pool
        return response


def _tapped_class(base: Any) -> type:
    """Return the class of responses that report their bodies; it has the name of urllib3's own."""
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (_Reporting, base), names)


class _Reporting:
    """The methods of urllib3's response that take bytes from the connection, with a report."""

    isclosed: Callable[[], bool]
    _trajrec_exchange: Exchange
    # While a chunk is awaited, `close` belongs to an error that is about to be raised.
    _trajrec_is_reading = False
    # The pieces of the `read` in progress. It hands them out together, or raises and drops them.
    _trajrec_taken: list[bytes] | None = None

    def read(self, *args: Any, **kw: Any) -> Any:
        self._trajrec_taken = []
        try:
            return super().read(*args, **kw)  # type: ignore[misc]
        finally:
            taken = self._trajrec_taken or []
            self._trajrec_taken = None
            self._trajrec_took(b"".join(taken))

    def _raw_read(self, *args: Any, **kw: Any) -> bytes:
        self._trajrec_is_reading = True
        try:
            data: bytes = super()._raw_read(*args, **kw)  # type: ignore[misc]
        except BaseException as error:
            if self._trajrec_taken is not None:
                self._trajrec_taken = []
            self._trajrec_exchange.ended(error)
            raise
        finally:
            self._trajrec_is_reading = False
        if self._trajrec_taken is None:
            self._trajrec_took(data)
        else:
            self._trajrec_taken.append(data)
        return data

    def _trajrec_took(self, data: bytes) -> None:
        if data:
            self._trajrec_exchange.received(data)
        if self.isclosed():
            self._trajrec_exchange.ended(None)

    def _handle_chunk(self, amt: int | None) -> bytes:
        chunk: bytes = super()._handle_chunk(amt)  # type: ignore[misc]
        self._trajrec_exchange.received(chunk)
        return chunk

    def read_chunked(self, *args: Any, **kw: Any) -> Iterator[bytes]:
        exchange = self._trajrec_exchange
        chunks = super().read_chunked(*args, **kw)  # type: ignore[misc]
        while True:
            self._trajrec_is_reading = True
            try:
                chunk = next(chunks, None)
            except BaseException as error:
                exchange.ended(error)
                raise
            finally:
                self._trajrec_is_reading = False
            if chunk is None:
                break
            yield chunk
        exchange.ended(None)

    def close(self) -> None:
        try:
            super().close()  # type: ignore[misc]
        finally:
            if not self._trajrec_is_reading:
                self._trajrec_exchange.ended(None)
