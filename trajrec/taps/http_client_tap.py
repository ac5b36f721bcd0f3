"""The tap in the standard library's http.client, which urllib.request uses too.

urllib3 has a method `request` of its own, so that its requests do not come here as well.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
from collections.abc import Callable
from types import ModuleType
from typing import Any

from trajrec.taps import hub, unseen
from trajrec.taps.memory_socket import MemorySocket, require_response
from trajrec.taps.patching import Replacement, answering, note_fault
from trajrec.wire.exchange import Exchange, HttpAnswer, HttpRequest

# The attribute of a connection that carries an exchange from the request to the response.
_MARK = "_trajrec_exchange"

# Set while `request` runs, which calls `putrequest`.
_WITHIN = "_trajrec_within_request"

_OLD_HEADERS = ("content-length", "transfer-encoding", "content-encoding")


def replacements(module: ModuleType) -> list[Replacement]:
    """Return the methods to replace in http.client."""
    connection = module.HTTPConnection
    make = _make_getresponse(module.HTTPResponse, _tapped_class(module.HTTPResponse))
    return [
        Replacement(connection, "request", _make_request),
        Replacement(connection, "putrequest", _make_putrequest),
        Replacement(connection, "getresponse", make),
    ]


def _make_request(original: Any) -> Any:
    """Return the wrapper of `request`."""

    @functools.wraps(original)
    def request(self: Any, method: str, url: str, *args: Any, **kw: Any) -> Any:
        send = functools.partial(_within, self, original.__get__(self, type(self)))
        given = dict(zip(("body", "headers"), args, strict=False)) | kw
        exchange = _begin(self, method, url, given)
        if exchange is None:
            return send(method, url, *args, **kw)
        try:
            if exchange.answer is None:
                result = _send(self, exchange, method, url, given, send)
            else:
                _raise_unsent(exchange.answer)
                result = None
        except BaseException as error:
            exchange.ended(error)
            raise
        setattr(self, _MARK, exchange)
        return result

    return request


def _within(connection: Any, send: Callable[..., Any], *args: Any, **kw: Any) -> Any:
    """Send a request by `request`, whose own steps are no requests of the program."""
    vars(connection)[_WITHIN] = True
    try:
        return send(*args, **kw)
    finally:
        vars(connection).pop(_WITHIN, None)


def _make_putrequest(original: Any) -> Any:
    """Return the wrapper of `putrequest`: the body follows in pieces, so none is reported."""

    @functools.wraps(original)
    def putrequest(self: Any, method: str, url: str, *args: Any, **kw: Any) -> Any:
        # Other libraries have classes of their own, and call this one too.
        if type(self).__module__ == "http.client" and _WITHIN not in vars(self):
            with contextlib.suppress(Exception):
                if method == "POST" and hub.is_wanted(method, url):
                    host = getattr(self, "_tunnel_host", None) or self.host
                    port = getattr(self, "_tunnel_port", None) or self.port
                    unseen.note_way("http.client.putrequest", host, port)
        return original(self, method, url, *args, **kw)

    return putrequest


def _begin(connection: Any, method: str, url: str, given: dict[str, Any]) -> Exchange | None:
    """Return the exchange that a request begins, None if it is not to be reported."""
    try:
        if method != "POST" or not hub.is_wanted(method, url):
            return None
        whole = url if "://" in url else f"{_origin(connection)}{url}"
        body = given.get("body")
        if isinstance(body, str):
            # As http.client encodes it.
            body = body.encode("iso-8859-1")
        data = bytes(body) if isinstance(body, (bytes, bytearray, memoryview)) else b""
        pairs = dict(given.get("headers") or {}).items()
        headers = [(_text(name).lower(), _text(value)) for name, value in pairs]
        return hub.begin_exchange(HttpRequest(method, whole, headers, data))
    except Exception as error:
        note_fault("http.client", error)
        return None


def _send(
    connection: Any,
    exchange: Exchange,
    method: str,
    url: str,
    given: dict[str, Any],
    send: Callable[..., Any],
) -> Any:
    """Send a request, with another body and to another address if the exchange has them."""
    body = exchange.sent_body
    if body is None:
        return send(method, url, **given)
    pairs = dict(given.get("headers") or {}).items()
    headers = {name: v for name, v in pairs if _text(name).lower() not in _OLD_HEADERS}
    headers["Content-Length"] = str(len(body))
    target = url
    if exchange.sent_url is not None:
        origin = "" if "://" in url else _origin(connection)
        target = exchange.sent_url.removeprefix(origin)
    return send(method, target, body, headers)


def _text(value: Any) -> str:
    """Return a header's name or value as text."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _origin(connection: Any) -> str:
    """Return the scheme, host and port that a connection leads to."""
    host = getattr(connection, "_tunnel_host", None) or connection.host
    port = getattr(connection, "_tunnel_port", None) or connection.port
    scheme = "https" if connection.default_port == http.client.HTTPS_PORT else "http"
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" + ("" if port == connection.default_port else f":{port}")


def _raise_unsent(answer: HttpAnswer) -> None:
    """Raise the recorded exception of a request for which no connection could be made."""
    error = answer.error
    if answer.status or answer.hangs or not isinstance(error, OSError):
        return
    # Those that come while the response is awaited.
    late = (http.client.HTTPException, ConnectionResetError, ConnectionAbortedError)
    is_late = isinstance(error, late) or (isinstance(error, TimeoutError) and not error.errno)
    if not is_late:
        raise error


def _make_getresponse(response_class: type, tapped_class: type) -> Callable[[Any], Any]:
    """Return the maker of the wrapper of `getresponse`."""

    def make(original: Any) -> Any:
        @functools.wraps(original)
        def getresponse(self: Any) -> Any:
            exchange: Exchange | None = vars(self).pop(_MARK, None)
            receive = original.__get__(self, type(self))
            if exchange is None:
                return receive()
            answer = exchange.answer
            try:
                response = receive() if answer is None else _answer(self, answer)
            except BaseException as error:
                exchange.ended(error)
                raise
            _tap(response, exchange, response_class, tapped_class)
            return response

        return getresponse

    return make


def _answer(connection: Any, answer: HttpAnswer) -> Any:
    """Return the response of a recorded answer, parsed as a real one.

    Raises:
        BaseException: The recorded exception, if no response came.
        AnswerFault: The answer cannot be delivered.
    """
    require_response(answer)
    with answering("http.client"):
        response = connection.response_class(MemorySocket(answer), method="POST")
        response.begin()
        return response


def _tap(response: Any, exchange: Exchange, response_class: type, tapped_class: type) -> None:
    """Have a response report its body while it is read."""
    try:
        headers = [(name.lower(), value) for name, value in response.headers.items()]
        exchange.responded(response.status, headers)
        kind: Any = type(response)
        if kind is not response_class:
            raise TypeError(f"cannot see the body of a {kind.__qualname__}")
        # The object stays the one that http.client made; only its methods are other ones.
        response.__class__ = tapped_class
        response._trajrec_exchange = exchange
        if response.isclosed():
            exchange.ended(None)
    except Exception as error:
        note_fault("http.client", error)


def _tapped_class(base: Any) -> type:
    """Return the class of responses that report their bodies; it has the name of the base."""
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (_Reporting, base), names)


class _Reporting:
    """The methods of a response that take bytes of its body, with a report."""

    isclosed: Callable[[], bool]
    _trajrec_exchange: Exchange
    # Some of these methods call others, which must not report the same bytes.
    _trajrec_depth = 0

    def _trajrec_take(self, take: Callable[[], Any], buffer: Any = None) -> Any:
        self._trajrec_depth += 1
        try:
            taken = take()
        except BaseException as error:
            if self._trajrec_depth == 1:
                self._trajrec_fail(error)
            raise
        finally:
            self._trajrec_depth -= 1
        if not self._trajrec_depth:
            data = taken if buffer is None else bytes(buffer[:taken])
            if data:
                self._trajrec_exchange.received(data)
            if self.isclosed():
                self._trajrec_exchange.ended(None)
        return taken

    def _trajrec_fail(self, error: BaseException) -> None:
        """Report an exception; raise the recorded one in place of one that it has caused."""
        exchange = self._trajrec_exchange
        partial = error.partial if isinstance(error, http.client.IncompleteRead) else b""
        if partial:
            exchange.received(partial)
        recorded = None if exchange.answer is None else exchange.answer.error
        if recorded is not None and error.__cause__ is recorded:
            recorded.partial = partial  # type: ignore[attr-defined]
            error = recorded
        exchange.ended(error)
        raise error

    def read(self, *args: Any) -> Any:
        return self._trajrec_take(functools.partial(super().read, *args))  # type: ignore[misc]

    def read1(self, *args: Any) -> Any:
        return self._trajrec_take(functools.partial(super().read1, *args))  # type: ignore[misc]

    def readline(self, *args: Any) -> Any:
        return self._trajrec_take(functools.partial(super().readline, *args))  # type: ignore[misc]

    def readinto(self, buffer: Any) -> Any:
        take = functools.partial(super().readinto, buffer)  # type: ignore[misc]
        return self._trajrec_take(take, memoryview(buffer).cast("B"))

    def close(self) -> None:
        try:
            super().close()  # type: ignore[misc]
        finally:
            # Within a read, an error is about to be raised.
            if not self._trajrec_depth:
                self._trajrec_exchange.ended(None)
