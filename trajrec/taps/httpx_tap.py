"""The tap in httpx and httpx2: the transports that hand a request to the connection pool."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

from trajrec.taps import hub
from trajrec.taps.exceptions import as_raised_by
from trajrec.taps.patching import AnswerFault, Replacement, answering, note_fault
from trajrec.taps.raw_answers import HANG_S, reason_of
from trajrec.wire.exchange import Exchange, HttpAnswer, HttpRequest


def replacements(module: ModuleType) -> list[Replacement]:
    """Return the methods to replace in a module with the interface of httpx."""
    streams = _stream_classes(module)
    return [
        Replacement(module.HTTPTransport, "handle_request", _make_sync(module, streams)),
        Replacement(
            module.AsyncHTTPTransport, "handle_async_request", _make_async(module, streams)
        ),
    ]


def _make_sync(module: ModuleType, streams: _Streams) -> Callable[[Any], Any]:
    """Return the maker of the wrapper of `handle_request`."""

    def make(original: Any) -> Any:
        @functools.wraps(original)
        def handle_request(self: Any, request: Any) -> Any:
            exchange = _begin(module, request)
            # Bound first: other tools' wrappers take a bound call only.
            send = original.__get__(self, type(self))
            if exchange is None:
                return send(request)
            answer = exchange.answer
            try:
                if answer is None:
                    response = send(_as_sent(module, request, exchange))
                else:
                    if answer.hangs and not answer.status:
                        time.sleep(HANG_S)
                    response = _answer(module, answer, streams.answer)
            except BaseException as error:
                exchange.ended(error)
                raise
            return _tapped(module, response, exchange, streams.tapped)

        return handle_request

    return make


def _make_async(module: ModuleType, streams: _Streams) -> Callable[[Any], Any]:
    """Return the maker of the wrapper of `handle_async_request`."""

    def make(original: Any) -> Any:
        @functools.wraps(original)
        async def handle_async_request(self: Any, request: Any) -> Any:
            exchange = _begin(module, request)
            send = original.__get__(self, type(self))
            if exchange is None:
                return await send(request)
            answer = exchange.answer
            try:
                if answer is None:
                    response = await send(_as_sent(module, request, exchange))
                else:
                    if answer.hangs and not answer.status:
                        await _hang()
                    response = _answer(module, answer, streams.async_answer)
            except BaseException as error:
                exchange.ended(error)
                raise
            return _tapped(module, response, exchange, streams.async_tapped)

        return handle_async_request

    return make


def _begin(module: ModuleType, request: Any) -> Exchange | None:
    """Return the exchange that a request begins, None if it is not to be reported."""
    try:
        # The path alone, because the whole address takes longer than other requests may cost.
        if request.method != "POST":
            return None
        if not hub.is_wanted(request.method, request.url.path):
            return None
        url = str(request.url)
        # Only a body that the request already holds: a stream can be read once.
        body = getattr(request, "_content", b"")
        headers = request.headers.multi_items()
        return hub.begin_exchange(HttpRequest(request.method, url, headers, body))
    except Exception as error:
        note_fault(module.__name__, error)
        return None


def _as_sent(module: ModuleType, request: Any, exchange: Exchange) -> Any:
    """Return a request with the body and the address to send; itself if there is no other body."""
    body = exchange.sent_body
    if body is None:
        return request
    old = ("content-length", "transfer-encoding", "content-encoding")
    headers = [(k, v) for k, v in request.headers.raw if k.decode("latin-1").lower() not in old]
    return module.Request(
        request.method,
        exchange.sent_url or request.url,
        headers=headers,
        content=body,
        extensions=request.extensions,
    )


def _answer(module: ModuleType, answer: HttpAnswer, stream_class: Callable[..., Any]) -> Any:
    """Return the response of a recorded answer.

    Raises:
        BaseException: The recorded exception, if no response came.
        AnswerFault: The answer cannot be delivered.
    """
    if answer.error is not None:
        answer = answer._replace(error=as_raised_by(module, answer.error))
    if not answer.status:
        if answer.error is None:
            raise AnswerFault("the recorded request has neither a response nor an exception")
        raise answer.error
    with answering(module.__name__):
        core = importlib.import_module(module.__name__.replace("httpx", "httpcore"))
        extensions = {
            "http_version": b"HTTP/1.1",
            "reason_phrase": reason_of(answer.status).encode(),
            "network_stream": core.NetworkStream(),
        }
        return module.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=stream_class(answer),
            extensions=extensions,
        )


async def _hang() -> None:
    """Wait until the caller gives up, under asyncio or trio."""
    # httpx needs anyio for its asynchronous clients, so it is there.
    await importlib.import_module("anyio").sleep(HANG_S)


def _tapped(module: ModuleType, response: Any, exchange: Exchange, stream_class: Any) -> Any:
    """Return a response whose body is reported while it is read."""
    try:
        stream = stream_class(response.stream, exchange)
        exchange.responded(response.status_code, response.headers.multi_items())
        response.stream = stream
    except Exception as error:
        note_fault(module.__name__, error)
    return response


class _Streams(NamedTuple):
    """Classes of bodies, for one module: they derive from its own stream classes."""

    tapped: type
    answer: type
    async_tapped: type
    async_answer: type


def _stream_classes(module: ModuleType) -> _Streams:
    """Return the classes of bodies for a module with the interface of httpx."""
    sync_base: Any = module.SyncByteStream
    async_base: Any = module.AsyncByteStream
    return _Streams(
        *_sync_streams(sync_base),
        *_async_streams(async_base),
    )


def _sync_streams(base: Any) -> tuple[type, type]:
    """Return the class that reports a body, and the class that delivers a recorded one."""

    class TappedStream(base):  # type: ignore[misc]
        def __init__(self, stream: Any, exchange: Exchange) -> None:
            self._stream = stream
            self._exchange = exchange

        def __iter__(self) -> Iterator[bytes]:
            received = self._exchange.received
            try:
                for chunk in self._stream:
                    received(chunk)
                    yield chunk
            except GeneratorExit:
                # The reader left: no more can be read.
                self._exchange.ended(None)
                raise
            except BaseException as error:
                self._exchange.ended(error)
                raise
            self._exchange.ended(None)

        def close(self) -> None:
            try:
                self._stream.close()
            finally:
                self._exchange.ended(None)

    class AnswerStream(base):  # type: ignore[misc]
        def __init__(self, answer: HttpAnswer) -> None:
            self._answer = answer

        def __iter__(self) -> Iterator[bytes]:
            yield from self._answer.chunks
            if self._answer.hangs:
                time.sleep(HANG_S)
            if self._answer.error is not None:
                raise self._answer.error

        def close(self) -> None:
            """There is no connection."""

    return TappedStream, AnswerStream


def _async_streams(base: Any) -> tuple[type, type]:
    """Return the same two classes for asynchronous bodies."""

    class TappedStream(base):  # type: ignore[misc]
        def __init__(self, stream: Any, exchange: Exchange) -> None:
            self._stream = stream
            self._exchange = exchange

        async def __aiter__(self) -> AsyncIterator[bytes]:
            received = self._exchange.received
            chunks = self._stream.__aiter__()
            try:
                async for chunk in chunks:
                    received(chunk)
                    yield chunk
            except GeneratorExit:
                self._exchange.ended(None)
                raise
            except BaseException as error:
                self._exchange.ended(error)
                raise
            finally:
                # A generator that is left is closed at once, as the client does without the tap.
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()
            self._exchange.ended(None)

        async def aclose(self) -> None:
            try:
                await self._stream.aclose()
            finally:
                self._exchange.ended(None)

    class AnswerStream(base):  # type: ignore[misc]
        def __init__(self, answer: HttpAnswer) -> None:
            self._answer = answer

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for chunk in self._answer.chunks:
                yield chunk
            if self._answer.hangs:
                await _hang()
            if self._answer.error is not None:
                raise self._answer.error

        async def aclose(self) -> None:
            """There is no connection."""

    return TappedStream, AnswerStream
