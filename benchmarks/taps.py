"""`python -m benchmarks.taps`: the cost of the taps in HTTP libraries.

Each figure is the CPU time of this process with a tap beyond the same without, in interleaved
repetitions; the server is another process. The exchange that the taps report to does nothing, so
that the cost of recording is not part of it.
"""

from __future__ import annotations

import asyncio
import functools
import http.client
import multiprocessing
import socketserver
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import httpcore
import httpcore2
import httpx
import httpx2
import requests
from aiohttp.base_protocol import BaseProtocol
from urllib3.response import HTTPResponse

from trajrec.taps import aiohttp_tap, httpx_tap, hub, patching, urllib3_tap
from trajrec.taps.memory_socket import MemorySocket
from trajrec.wire.exchange import Headers, HttpAnswer, HttpRequest, is_model_call

N_CALLS = 50
N_PAIRS = 61
N_CHUNKS = 20_000

CHUNK = b'data: {"choices": [{"index": 0, "delta": {"content": " word"}}]}\n\n'
BODY = {"model": "m", "messages": [{"role": "user", "content": "word " * 60}]}
ANSWER = b'{"id": "c-1", "choices": [{"index": 0, "message": {"content": "Done."}}]}'
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: r-1\r\n"
    b"content-length: %d\r\n\r\n" % len(ANSWER)
)


class Silent:
    """An exchange that keeps nothing."""

    answer: HttpAnswer | None = None
    sent_body: bytes | None = None
    sent_url: str | None = None

    def responded(self, status: int, headers: Headers) -> None:
        """Do nothing."""

    def received(self, data: bytes) -> None:
        """Do nothing."""

    def ended(self, error: BaseException | None) -> None:
        """Do nothing."""


def begin(request: HttpRequest) -> Silent:
    """Return an exchange for every request."""
    return Silent()


class Handler(socketserver.StreamRequestHandler):
    """Answers each request of a connection with the same bytes."""

    def handle(self) -> None:
        """Serve one connection."""
        while line := self.rfile.readline():
            size = 0
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    size = int(line[15:])
            self.rfile.read(size)
            self.wfile.write(HEAD + ANSWER)


def serve(ports: Any) -> None:
    """Serve for ever, and say at which port."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        ports.put(server.server_address[1])
        server.serve_forever()


def pairs(measure: Callable[[], float]) -> tuple[float, float]:
    """Return the median of calls that a tap passes on, and what it adds if it reports them.

    The patches stay in place, because the interpreter specializes its code anew after each change
    of a class, which costs more than a tap. Passing a call on is measured by `measure_others`.
    """
    off = []
    more = []
    for number in range(N_PAIRS):
        cost = {}
        # Now the one first, now the other, since the machine becomes slower or faster meanwhile.
        for is_on in (False, True) if number % 2 else (True, False):
            hub.is_wanted = is_model_call if is_on else is_nothing
            cost[is_on] = measure()
        off.append(cost[False])
        more.append(cost[True] - cost[False])
    # The first imports modules and fills caches.
    return statistics.median(off[1:]), statistics.median(more[1:])


def is_nothing(method: str, url: str) -> bool:
    """Return False: no request is to be reported."""
    return False


def of_calls(call: Callable[[], Any]) -> Callable[[], float]:
    """Return a measurement of the CPU time of one call, in us."""

    def measure() -> float:
        start = time.process_time()
        for _ in range(N_CALLS):
            call()
        return (time.process_time() - start) / N_CALLS * 1e6

    return measure


def say(name: str, bare: float, more: float, goal: float) -> None:
    """Print a line."""
    print(f"{name:44} {bare:9.2f} {more:+9.2f} us   goal {goal:5.1f}   ratio {1 + more / bare:.2f}")


def measure_calls(url: str) -> None:
    """Print the cost of a tap for a call of a model."""
    for module in (httpx, httpx2):
        with module.Client() as client:
            call = of_calls(functools.partial(client.post, url, json=BODY))
            say(f"{module.__name__}, a call", *pairs(call), 30)
    with requests.Session() as session:
        say("requests, a call", *pairs(of_calls(lambda: session.post(url, json=BODY))), 60)
    with asyncio.Runner() as runner:
        session = runner.run(make_session())

        async def call_once() -> None:
            async with session.post(url, json=BODY) as answer:
                await answer.read()

        async def block() -> float:
            start = time.process_time()
            for _ in range(N_CALLS):
                await call_once()
            return (time.process_time() - start) / N_CALLS * 1e6

        say("aiohttp, a call", *pairs(lambda: runner.run(block())), 30)
        runner.run(session.close())


async def make_session() -> Any:
    """Return a session of the running loop."""
    return aiohttp.ClientSession()


def per_chunk(bare: Callable[[], Any], tapped: Callable[[], Any]) -> tuple[float, float]:
    """Return the CPU time of a chunk without a tap, and what a tap adds, in us."""
    costs: dict[Callable[[], Any], list[float]] = {bare: [], tapped: []}
    for _ in range(9):
        for run, times in costs.items():
            start = time.process_time()
            run()
            times.append((time.process_time() - start) / N_CHUNKS * 1e6)
    first = min(costs[bare])
    return first, min(costs[tapped]) - first


def measure_chunks() -> None:
    """Print the cost of a tap for a piece of a streamed body, without any network."""
    chunks = [CHUNK] * N_CHUNKS
    for module in (httpx, httpx2):
        streams = httpx_tap._stream_classes(module)
        # The client reads through one generator more, with and without a tap.
        source: Any = stream_class(module)
        say(
            f"{module.__name__}, a chunk",
            *per_chunk(
                functools.partial(drain_new, source, chunks),
                functools.partial(drain_new, source, chunks, streams.tapped),
            ),
            0.5,
        )
    with asyncio.Runner() as runner:
        runner.run(measure_readers())
    tapped_class = urllib3_tap._tapped_class(HTTPResponse)
    say(
        "urllib3, a chunk",
        *per_chunk(
            lambda: drain(urllib3_response(chunks).stream()),
            lambda: drain(tapped_response(chunks, tapped_class).stream()),
        ),
        0.5,
    )


def stream_class(module: Any) -> Any:
    """Return a module's own class of streams."""
    return __import__(f"{module.__name__}._transports.default", fromlist=["x"]).ResponseStream


def drain(pieces: Any) -> None:
    """Read an iterable to its end."""
    iterator: Iterator[bytes] = iter(pieces)
    for _ in iterator:
        pass


def drain_new(source: Any, chunks: list[bytes], tapped: Any = None) -> None:
    """Read a new stream of chunks to its end, behind a tap if its class is given."""
    stream = source(chunks)
    drain(stream if tapped is None else tapped(stream, Silent()))


def urllib3_response(chunks: list[bytes]) -> Any:
    """Return urllib3's response to a recorded answer."""
    raw = http.client.HTTPResponse(
        MemorySocket(HttpAnswer(200, [], chunks)),  # type: ignore[arg-type]
        method="POST",
    )
    raw.begin()
    return HTTPResponse(
        body=raw, headers=dict(raw.headers), preload_content=False, original_response=raw
    )


def tapped_response(chunks: list[bytes], tapped_class: type) -> Any:
    """Return the same with a tap."""
    response = urllib3_response(chunks)
    urllib3_tap._tap(response, Silent(), HTTPResponse, tapped_class)
    return response


async def measure_readers() -> None:
    """Print the cost of a chunk that aiohttp reads."""
    loop = asyncio.get_running_loop()

    def reader() -> Any:
        return aiohttp.StreamReader(BaseProtocol(loop), 2**16, loop=loop)

    async def read(body: Any) -> None:
        for _ in range(N_CHUNKS):
            body.feed_data(CHUNK)
            await body.readany()

    tapped_class = aiohttp_tap._tapped_class(aiohttp.StreamReader, Silent)
    best = {"bare": 1e9, "tapped": 1e9}
    for _ in range(9):
        for name in best:
            body = reader()
            if name == "tapped":
                body._timer = aiohttp_tap._Reporter(body._timer, Silent())
                body.__class__ = tapped_class
            start = time.process_time()
            await read(body)
            best[name] = min(best[name], (time.process_time() - start) / N_CHUNKS * 1e6)
    say("aiohttp, a chunk", best["bare"], best["tapped"] - best["bare"], 0.5)


def measure_others() -> None:
    """Print what the wrapper itself adds to a request that is no call of a model."""
    request = httpx2.Request("GET", "https://example.org/v1/files?a=1")
    post = httpx2.Request("POST", "https://example.org/v1/files?a=1", json=BODY)
    transport: Any = object.__new__(httpx2.HTTPTransport)

    def original(_self: Any, _request: Any) -> None:
        pass

    streams = httpx_tap._stream_classes(httpx2)
    wrapper = httpx_tap._make_sync(httpx2, streams)(original)
    for name, asked in (("GET", request), ("POST", post)):
        str(asked.url)
        bare = best_of(functools.partial(original, transport, asked))
        say(
            f"httpx2, another {name}",
            bare,
            best_of(functools.partial(wrapper, transport, asked)) - bare,
            1,
        )


def measure_code() -> None:
    """Print the CPU time of a tap's own code for a call, with a connection pool that answers at once.

    Calls by a network are measured as well, but differ by more than this from run to run.
    """
    headers = [(b"content-type", b"application/json"), (b"x-request-id", b"r-1")]
    for module, core in ((httpx, httpcore), (httpx2, httpcore2)):

        class Pool:
            def handle_request(self, _request: Any, core: Any = core) -> Any:
                return core.Response(200, headers=headers, content=ANSWER)

        transport: Any = object.__new__(module.HTTPTransport)
        transport._pool = Pool()
        request = module.Request("POST", "https://example.org/v1/chat/completions", json=BODY)

        def call(transport: Any = transport, request: Any = request) -> None:
            response = transport.handle_request(request)
            drain(response.stream)
            response.stream.close()

        hub.is_wanted = is_nothing
        bare = best_of(call)
        hub.is_wanted = is_model_call
        say(f"{module.__name__}, a call without network", bare, best_of(call) - bare, 30)


def best_of(call: Callable[[], Any]) -> float:
    """Return the least CPU time of a call, in us."""
    times = []
    for _ in range(20):
        start = time.process_time()
        for _ in range(5000):
            call()
        times.append((time.process_time() - start) / 5000 * 1e6)
    return min(times)


def main() -> None:
    """Measure, and print."""
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    server = context.Process(target=serve, args=(ports,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ports.get()}/v1/chat/completions"
    hub.begin_exchange = begin
    patching.install()
    print(f"{'':44} {'bare':>9} {'tap':>9}")
    measure_others()
    measure_chunks()
    measure_code()
    measure_calls(url)
    server.kill()
    assert not patching.capture_faults


if __name__ == "__main__":
    main()
