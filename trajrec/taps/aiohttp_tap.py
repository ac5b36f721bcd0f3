"""The tap in aiohttp: the connection that a request takes, and the response that comes on it.

These are below redirects, middlewares and their retries, so that each attempt is seen by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from trajrec.taps import hub
from trajrec.taps.aiohttp_answers import Answers, answer_class
from trajrec.taps.patching import AnswerFault, Replacement, answering, note_fault
from trajrec.taps.raw_answers import HANG_S
from trajrec.wire.exchange import Exchange, HttpRequest

# The attribute of a connection that carries an attempt from `connect` to `start`.
_MARK = "_trajrec_attempt"


class _Attempt:
    """A request on its way.

    Attributes:
        exchange: Where it is reported.
        is_decoding: Whether aiohttp decodes a compressed body, so that the tap sees it decoded.
        has_response: Whether the head of the response has come.
    """

    def __init__(self, exchange: Exchange, *, is_decoding: bool) -> None:
        self.exchange = exchange
        self.is_decoding = is_decoding
        self.has_response = False

    def released(self) -> None:
        """Note that the connection was given back. Before a response, sending has failed."""
        if not self.has_response:
            self.exchange.ended(sys.exc_info()[1])


def replacements(module: ModuleType) -> list[Replacement]:
    """Return the methods to replace in aiohttp."""
    connector = importlib.import_module(f"{module.__name__}.connector")
    requests = importlib.import_module(f"{module.__name__}.client_reqrep")
    streams = importlib.import_module(f"{module.__name__}.streams")
    payloads = importlib.import_module(f"{module.__name__}.payload")
    exceptions = importlib.import_module(f"{module.__name__}.client_exceptions")
    answers = answer_class(module)
    begin = functools.partial(_begin, payloads.BytesPayload)
    tap = functools.partial(
        _tap, streams.StreamReader, _tapped_class(streams.StreamReader, answers)
    )
    return [
        Replacement(
            connector.BaseConnector,
            "connect",
            _make_connect(begin, connector.Connection, answers, exceptions),
        ),
        Replacement(requests.ClientResponse, "start", _make_start(tap)),
    ]


def _make_connect(
    begin: Callable[[Any], Exchange | None], connection_class: Any, answers: Answers, errors: Any
) -> Callable[[Any], Any]:
    """Return the maker of the wrapper of `connect`."""

    def make(original: Any) -> Any:
        @functools.wraps(original)
        async def connect(self: Any, req: Any, *args: Any, **kw: Any) -> Any:
            send = original.__get__(self, type(self))
            exchange = begin(req)
            if exchange is None:
                return await send(req, *args, **kw)
            try:
                if exchange.answer is None:
                    _set_sent(req, exchange)
                    connection = await send(req, *args, **kw)
                else:
                    with answering("aiohttp"):
                        protocol = answers(self._loop, exchange.answer)
                        connection = connection_class(
                            self, req.connection_key, protocol, self._loop
                        )
            except BaseException as error:
                # The client turns it into this one, once it has left the connector.
                if isinstance(error, TimeoutError) and not isinstance(error, errors.ClientError):
                    exchange.ended(
                        errors.ConnectionTimeoutError(f"Connection timeout to host {req.url}")
                    )
                else:
                    exchange.ended(error)
                raise
            _mark(connection, req, exchange)
            return connection

        return connect

    return make


def _begin(bytes_payload: type, req: Any) -> Exchange | None:
    """Return the exchange that a request begins, None if it is not to be reported."""
    try:
        if req.method != "POST":
            return None
        if not hub.is_wanted(req.method, req.url.raw_path):
            return None
        url = str(req.url)
        body: Any = req.body
        if isinstance(body, bytes_payload):
            body = body._value  # type: ignore[attr-defined]
        data = bytes(body) if isinstance(body, bytes | bytearray | memoryview) else b""
        headers = [(name.lower(), value) for name, value in req.headers.items()]
        return hub.begin_exchange(HttpRequest(req.method, url, headers, data))
    except Exception as error:
        note_fault("aiohttp", error)
        return None


def _set_sent(req: Any, exchange: Exchange) -> None:
    """Have a request send another body, to another address, if there is one."""
    body = exchange.sent_body
    if body is None:
        return
    if exchange.sent_url is not None:
        req.url = type(req.url)(exchange.sent_url, encoded=True)
    req.headers.popall("Content-Length", None)
    req.headers.popall("Transfer-Encoding", None)
    if not req.compress:
        # The old body's own; else aiohttp compresses the other body too.
        req.headers.popall("Content-Encoding", None)
    req.chunked = None
    req.update_body_from_data(body)


def _mark(connection: Any, req: Any, exchange: Exchange) -> None:
    """Have a connection carry its exchange, and its protocol say whether it decodes bodies."""
    try:
        session = getattr(req, "_session", None)
        attempt = _Attempt(exchange, is_decoding=getattr(session, "_auto_decompress", True))
        setattr(connection, _MARK, attempt)
        connection.add_callback(attempt.released)
        protocol = connection.protocol
        set_params = protocol.set_response_params

        def set_response_params(**params: Any) -> None:
            del protocol.set_response_params
            attempt.is_decoding = params.get("auto_decompress", attempt.is_decoding)
            set_params(**params)

        protocol.set_response_params = set_response_params
    except Exception as error:
        note_fault("aiohttp", error)


def _make_start(tap: Callable[[Any, _Attempt], None]) -> Callable[[Any], Any]:
    """Return the maker of the wrapper of `start`."""

    def make(original: Any) -> Any:
        @functools.wraps(original)
        async def start(self: Any, connection: Any) -> Any:
            receive = original.__get__(self, type(self))
            attempt: _Attempt | None = getattr(connection, _MARK, None)
            if attempt is None:
                return await receive(connection)
            attempt.has_response = True
            answer = attempt.exchange.answer
            try:
                if answer is not None and not answer.status:
                    if answer.hangs:
                        await asyncio.sleep(HANG_S)
                    raise answer.error or AnswerFault("the recorded request has no end")
                result = await receive(connection)
            except BaseException as error:
                attempt.exchange.ended(error)
                raise
            tap(self, attempt)
            return result

        return start

    return make


def _tap(reader_class: type, tapped_class: type, response: Any, attempt: _Attempt) -> None:
    """Have a response report its body while it is read."""
    exchange = attempt.exchange
    try:
        headers = [
            (name.lower(), value)
            for name, value in response.headers.items()
            if not (attempt.is_decoding and name.lower() == "content-encoding")
        ]
        exchange.responded(response.status, headers)
        content = response.content
        kind: Any = type(content)
        if kind is reader_class:
            content._timer = _Reporter(content._timer, exchange)
            # The object stays the one that the parser fills; only its methods are other ones.
            content.__class__ = tapped_class
            if content.exception() is not None:
                exchange.ended(content.exception())
            elif content.at_eof():
                exchange.ended(None)
        elif content.at_eof():
            exchange.ended(None)
        else:
            raise TypeError(f"cannot see the body in a {kind.__qualname__}")
    except Exception as error:
        note_fault("aiohttp", error)


class _Reporter:
    """Stands for the timer of a body's reader, which has no other room for its exchange."""

    __slots__ = ("error", "exchange", "is_joining", "timer")

    def __init__(self, timer: Any, exchange: Exchange) -> None:
        self.timer = timer
        self.exchange = exchange
        self.is_joining = False
        # Raised to a reader that may yet read on: the end only if it does not.
        self.error: BaseException | None = None

    def __enter__(self) -> Any:
        return self.timer.__enter__()

    def __exit__(self, *args: Any) -> Any:
        return self.timer.__exit__(*args)

    def assert_timeout(self) -> None:
        """Raise if the time is up."""
        self.timer.assert_timeout()

    def took(self, reader: Any, data: bytes) -> None:
        """Report what a reader took, and the end if there is no more."""
        if data:
            self.error = None
            self.exchange.received(data)
        if reader._eof and not reader._buffer:
            self.exchange.ended(None)


def _tapped_class(base: Any, answers: Answers) -> type:
    """Return the class of readers that report their bodies, and take answers piece by piece."""

    class StreamReader(base):  # type: ignore[misc]
        # With slots of its own, the class of a reader could not be changed to it.
        __slots__ = ()

        def _read_nowait(self, n: int) -> bytes:
            # One read may join several pieces of the buffer; it counts as one, as its reader sees it.
            reporter = self._timer
            reporter.is_joining = True
            try:
                data: bytes = super()._read_nowait(n)
            except BaseException as error:
                reporter.error = error
                raise
            finally:
                reporter.is_joining = False
            reporter.took(self, data)
            return data

        def _read_nowait_chunk(self, n: int) -> bytes:
            data: bytes = super()._read_nowait_chunk(n)
            reporter = self._timer
            if not reporter.is_joining:
                reporter.took(self, data)
            return data

        async def _wait(self, func_name: str) -> None:
            protocol = self._protocol
            try:
                if isinstance(protocol, answers):
                    await protocol.deliver(self)
                else:
                    await super()._wait(func_name)
            except BaseException as error:
                self._timer.error = error
                raise

        def feed_eof(self) -> None:
            super().feed_eof()
            if not self._buffer:
                self._timer.exchange.ended(None)

        def set_exception(self, exc: BaseException, *args: Any) -> None:
            super().set_exception(exc, *args)
            reporter = self._timer
            # Leaving a response puts this into its body.
            was_left = str(exc) == "Connection closed"
            reporter.exchange.ended(reporter.error if was_left else exc)

    StreamReader.__qualname__ = base.__qualname__
    StreamReader.__module__ = base.__module__
    with contextlib.suppress(AttributeError):
        StreamReader.__doc__ = base.__doc__
    return StreamReader
