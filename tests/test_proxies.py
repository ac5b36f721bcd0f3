"""The loopback proxy: what passes through it is recorded, answered, or refused."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import msgspec
import pytest
from conftest import only
from forked import ends_well
from model_server import Call, ModelServer, Turn
from tiers import SEED

import trajrec
from trajrec.cli.recorded_command import told_command
from trajrec.corpus.wire_calls import WireCall
from trajrec.proxies import server as proxy_server
from trajrec.proxies.answering import RerunAnswers
from trajrec.proxies.frames import send_frame
from trajrec.proxies.framing import ChunkedBody
from trajrec.proxies.messages import SocketReader
from trajrec.proxies.recording import CommandRecording
from trajrec.proxies.remote import RemoteTap
from trajrec.proxies.reports import take_reports
from trajrec.proxies.server import ProxyServer
from trajrec.proxies.upstreams import command_environment, make_routes, upstream_of
from trajrec.replay.agents.wire_answers import _beside
from trajrec.wire import encodings
from trajrec.wire.exchange import HttpRequest

KEY = "sk-proj-Zx81kPq0aTeVn4Rw7YbM2c"
JSON = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}


@contextlib.contextmanager
def proxy(
    folder: Path, upstream: str, *, is_one_episode: bool = True, **options: Any
) -> Iterator[str]:
    """Record into a folder; yield the address of the proxy."""
    routes = make_routes({}, {"openai": f"{upstream}/v1", "anthropic": upstream})
    with CommandRecording(folder, options, is_one_episode=is_one_episode) as recording:
        server = ProxyServer(routes, recording.begin)
        server.start()
        try:
            yield server.address
        finally:
            server.close()
            recording.end(0)
    assert not recording.n_faults, recording.first_fault


@contextlib.contextmanager
def answering(folder: Path, *, on_miss: Any = None) -> Iterator[tuple[str, trajrec.rerun]]:
    """Answer from the only episode of a folder; yield the proxy's address and the rerun."""
    # An address that nobody may connect to.
    routes = make_routes({}, {"openai": "http://127.0.0.1:9/v1", "anthropic": "http://127.0.0.1:9"})
    with trajrec.rerun(only(folder), on_difference="report") as rerun:
        answers = RerunAnswers(rerun, on_miss or (lambda: None))
        server = ProxyServer(routes, answers.begin, may_send=lambda: False)
        server.start()
        try:
            yield server.address, rerun
        finally:
            server.close()


class Reply:
    """The answer to a request, as a client sees it."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes, is_whole: bool) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.is_whole = is_whole

    def __repr__(self) -> str:
        return f"{self.status} {self.body!r} {self.is_whole}"


def send(
    connection: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str] = JSON
) -> None:
    """Send a request past the taps, which an earlier test may have left in this process."""
    connection.putrequest("POST", path)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        connection.putheader(name, value)
    connection.endheaders(body)


def post(address: str, path: str, body: bytes, headers: dict[str, str] = JSON) -> Reply:
    """Send a request over a connection of its own, as another process does: past the taps."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        send(connection, parts.path + path, body, headers)
        response = connection.getresponse()
        got = {name.lower(): value for name, value in response.getheaders()}
        try:
            return Reply(response.status, got, response.read(), True)
        except (http.client.IncompleteRead, OSError) as exc:
            data = exc.partial if isinstance(exc, http.client.IncompleteRead) else b""
            return Reply(response.status, got, data, False)
    except (http.client.HTTPException, OSError):
        return Reply(0, {}, b"", False)
    finally:
        connection.close()


def raw(address: str, data: bytes, *, wait_s: float = 10.0) -> bytes:
    """Send bytes to a proxy's port and return all that it answers."""
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), wait_s) as connection:
        connection.sendall(data)
        pieces = []
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                pieces.append(data)
        return b"".join(pieces)


def chat(text: str, *, stream: bool = False, **more: Any) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **more}
    return json.dumps({**body, "stream": True} if stream else body).encode()


CALL = [Call("get_order", '{"order": "O1001"}', "call-1")]
PLAN = [
    Turn(status=500, headers={"x-should-retry": "true"}),
    Turn(status=429, headers={"retry-after-ms": "7"}),
    Turn("a plain answer"),
    Turn("a compressed answer", is_gzipped=True),
    Turn("a stream of some words"),
    Turn("a compressed stream of some words", is_gzipped=True),
    Turn("a stream that breaks off here", broken_after=3),
    Turn("a body that breaks off", broken_after=40),
    Turn(is_dropped=True),
    Turn(calls=CALL),
]
BODIES = [chat(str(k), stream=k in (4, 5, 6)) for k in range(len(PLAN))]


def test_a_client_sees_what_the_server_sent(tmp_path: Path) -> None:
    with ModelServer(PLAN) as server:
        direct = [post(server.url, "/v1/chat/completions", body) for body in BODIES]
    with ModelServer(PLAN) as server, proxy(tmp_path, server.url) as address:
        passed = [post(address, "/openai/v1/chat/completions", body) for body in BODIES]
        attempts = list(server.attempts)
    for k, (bare, through) in enumerate(zip(direct, passed, strict=True)):
        ours = {"date"}
        assert through.status == bare.status, k
        assert through.is_whole == bare.is_whole, k
        assert set(bare.headers) - ours == set(through.headers) - ours, k
        if bare.is_whole:
            assert len(through.body) == len(bare.body)
    exchanges = only(tmp_path).transcript.exchanges
    assert [e.request_body for e in exchanges] == BODIES == [a.body for a in attempts]
    assert [e.status or 0 for e in exchanges] == [a.status for a in attempts]
    assert [e.response_body for e in exchanges] == [a.sent for a in attempts]
    assert [bool(e.end and e.end.error_type) for e in exchanges] == [a.is_cut for a in attempts]
    assert {e.start.url for e in exchanges} == {f"{server.url}/v1/chat/completions"}


def test_no_answer_is_asked_for_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encodings, "_brotli", lambda: None)
    # That of curl --compressed.
    accepted = {"Accept-Encoding": "deflate, gzip, br, zstd"}
    with ModelServer([Turn("fine")] * 2) as server, proxy(tmp_path, server.url) as address:
        post(address, "/openai/v1/chat/completions", chat("a"), JSON | accepted)
        post(address, "/openai/v1/chat/completions", chat("b"), JSON | {"Accept-Encoding": "br"})
        asked = [
            {name.lower(): value for name, value in attempt.headers.items()}["accept-encoding"]
            for attempt in server.attempts
        ]
    assert asked == ["deflate, gzip, zstd", "identity"]


def test_an_offer_of_another_protocol_is_passed_over(tmp_path: Path) -> None:
    # Java's own client makes this one with every request over plain HTTP.
    offer = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": "h2c",
        "HTTP2-Settings": "AAEAAEAAAAIAAAAA",
    }
    with ModelServer([Turn("fine")] * 2) as server, proxy(tmp_path, server.url) as address:
        reply = post(address, "/openai/v1/chat/completions", chat("a"), JSON | offer)
        (attempt,) = server.attempts
    assert reply.status == 200
    assert attempt.body == chat("a")
    assert not {"upgrade", "http2-settings"} & {name.lower() for name in attempt.headers}
    with answering(tmp_path) as (address, rerun):
        assert post(address, "/openai/v1/chat/completions", chat("a"), JSON | offer).status == 200
    assert rerun.difference is None


def test_a_rerun_gives_each_client_the_same_bytes(tmp_path: Path) -> None:
    with ModelServer(PLAN) as server, proxy(tmp_path, server.url) as address:
        passed = [post(address, "/openai/v1/chat/completions", body) for body in BODIES]
        sent = [attempt.sent for attempt in server.attempts]
    with answering(tmp_path) as (address, rerun):
        # In another order: requests are found by their bytes.
        order = random.Random(3).sample(range(len(BODIES)), len(BODIES))
        answers = {k: post(address, "/openai/v1/chat/completions", BODIES[k]) for k in order}
    assert rerun.difference is None
    for k, recorded in enumerate(passed):
        assert answers[k].status == recorded.status, k
        assert answers[k].is_whole == recorded.is_whole, k
        if recorded.is_whole:
            # Decoded; the recorded bytes are those before any compression.
            assert answers[k].body == sent[k], k


def test_a_miss_is_refused_with_its_difference(tmp_path: Path) -> None:
    with ModelServer([Turn("fine")]) as server, proxy(tmp_path, server.url) as address:
        post(address, "/openai/v1/chat/completions", chat("Where is the lamp?"))
    misses = []
    with answering(tmp_path, on_miss=lambda: misses.append(1)) as (address, rerun):
        reply = post(address, "/openai/v1/chat/completions", chat("Where is the door?"))
        again = post(address, "/openai/v1/chat/completions", chat("Where is the lamp?"))
        other = post(address, "/openai/v1/files", b"{}")
    assert reply.status == 422
    assert reply.headers["x-should-retry"] == "false"
    assert b'recorded \\"Where is the lamp?\\", now \\"Where is the door?\\"' in reply.body
    assert misses == [1]
    assert "/messages/0/content" in str(rerun.difference)
    assert again.status == 200
    assert other.status == 422


def test_a_stream_arrives_while_the_server_still_sends(tmp_path: Path) -> None:
    plan = [Turn("one two three four five six", pause_s=0.1)]
    with ModelServer(plan) as server, proxy(tmp_path, server.url) as address:
        parts = urlsplit(address)
        connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=30)
        path = f"{parts.path}/openai/v1/chat/completions"
        send(connection, path, chat("go", stream=True))
        response = connection.getresponse()
        began = time.monotonic()
        times = []
        while response.read1(65536):
            times.append(time.monotonic() - began)
        connection.close()
    # As in pieces: the first long before the last.
    assert len(times) >= 6
    assert times[-1] - times[0] > 0.3


def test_every_header_passes_and_no_key_is_stored(tmp_path: Path) -> None:
    headers = {**JSON, "x-api-key": f"{KEY}2", "anthropic-version": "2023-06-01", "X-Odd": "a  b"}
    with ModelServer([Turn("fine")]) as server, proxy(tmp_path, server.url) as address:
        post(address, f"/anthropic/v1/messages?beta=true&key={KEY}3", chat("a"), headers)
        (attempt,) = server.attempts
    assert attempt.path == f"/v1/messages?beta=true&key={KEY}3"
    for name, value in headers.items():
        assert attempt.headers[name.lower()] == value
    assert attempt.headers["host"] == urlsplit(server.url).netloc
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in stored
    (exchange,) = only(tmp_path).transcript.exchanges
    assert KEY not in repr(exchange)


def test_a_connection_serves_one_request_after_another(tmp_path: Path) -> None:
    with ModelServer() as server, proxy(tmp_path, server.url) as address:
        parts = urlsplit(address)
        connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=30)
        first = None
        for k in range(5):
            path = f"{parts.path}/openai/v1/chat/completions"
            # A body in chunks, from an iterator.
            pieces = iter([chat(str(k), stream=k % 2 == 1)])
            connection.request("POST", path, pieces, JSON, encode_chunked=True)
            assert connection.getresponse().read()
            first = first or connection.sock
            assert connection.sock is first
        connection.close()
        assert len(server.attempts) == 5
    assert len(only(tmp_path).transcript.model_calls) == 5


def test_each_conversation_becomes_an_episode(tmp_path: Path) -> None:
    def converse(k: int) -> list[bytes]:
        messages: list[Any] = [{"role": "user", "content": f"task {k % 4}"}]
        sent = []
        for turn in range(3):
            body = json.dumps({"model": "m", "messages": messages}).encode()
            post(address, "/openai/v1/chat/completions", body)
            sent.append(body)
            messages.append({"role": "assistant", "content": f"{k}: {turn}"})
            messages.append({"role": "user", "content": f"go on {k}, {turn}"})
        return sent

    plan = lambda _request, _number: Turn("done")  # noqa: E731
    with ModelServer(plan) as server, proxy(tmp_path, server.url, is_one_episode=False) as address:
        with ThreadPoolExecutor(8) as pool:
            sent = list(pool.map(converse, range(4)))
        n_attempts = len(server.attempts)
    assert n_attempts == 12
    with trajrec.open(tmp_path) as corpus:
        found = sorted(
            [exchange.request_body for exchange in episode.transcript.exchanges]
            for episode in corpus.episodes()
        )
    assert found == sorted(sent)


def test_a_mark_names_the_episode_of_a_request(tmp_path: Path) -> None:
    plan = lambda _request, _number: Turn("done")  # noqa: E731
    with ModelServer(plan) as server, proxy(tmp_path, server.url, is_one_episode=False) as address:
        for k, mark in enumerate("abab"):
            post(address, f"/e/{mark}/openai/v1/chat/completions", chat(f"{k}"))
        for k, mark in enumerate("abc"):
            headers = {**JSON, "x-trajrec-episode": mark}
            post(address, "/openai/v1/chat/completions", chat(f"more {k}"), headers)
        assert all("x-trajrec-episode" not in attempt.headers for attempt in server.attempts)
    with trajrec.open(tmp_path) as corpus:
        n_calls = sorted(len(episode.transcript.model_calls) for episode in corpus.episodes())
    assert n_calls == [1, 3, 3]


def test_a_mark_names_the_episode_of_a_tapped_request(tmp_path: Path) -> None:
    url = "https://api.example.com/v1/chat/completions"
    with ModelServer([]) as server, proxy(tmp_path, server.url, is_one_episode=False) as address:
        tap = RemoteTap(address, is_rerun=False)
        for k, mark in enumerate("abab"):
            headers = [("x-trajrec-episode", mark)]
            exchange = tap.begin(HttpRequest("POST", url, headers, chat(f"{k}")))
            assert exchange is not None
            exchange.responded(200, [])
            exchange.ended(None)
    with trajrec.open(tmp_path) as corpus:
        n_calls = [len(episode.transcript.model_calls) for episode in corpus.episodes()]
    assert n_calls == [2, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork processes")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_forked_process_does_not_end_its_parents_request(tmp_path: Path) -> None:
    url = "https://api.example.com/v1/chat/completions"
    with ModelServer([]) as server, proxy(tmp_path, server.url) as address:
        exchange = RemoteTap(address, is_rerun=False).begin(HttpRequest("POST", url, [], chat("x")))
        assert exchange is not None
        exchange.responded(200, [])
        exchange.received(b"begin")

        def leave() -> None:
            exchange.received(b" otherwise")
            exchange.ended(None)

        assert ends_well(leave)
        exchange.received(b" and end")
        exchange.ended(None)
    (call,) = only(tmp_path).transcript.exchanges
    assert call.response_body == b"begin and end"


@pytest.mark.slow
def test_a_client_that_leaves_ends_its_request(tmp_path: Path) -> None:
    plan = [Turn("word " * 200, pause_s=0.05), Turn("late", delay_s=1.0)]
    with ModelServer(plan) as server, proxy(tmp_path, server.url) as address:
        parts = urlsplit(address)
        for k, n_bytes in enumerate((200, 0)):
            connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=30)
            body = chat(str(k), stream=True)
            send(connection, f"{parts.path}/openai/v1/chat/completions", body)
            if n_bytes:
                response = connection.getresponse()
                response.read(n_bytes)
                response.close()
            else:
                time.sleep(0.1)
            connection.close()
        wait_for(lambda: server.attempts[0].is_cut)
    exchanges = only(tmp_path).transcript.exchanges
    assert [e.end.error_type if e.end else None for e in exchanges] == [
        "builtins.GeneratorExit"
    ] * 2
    assert [e.status for e in exchanges] == [200, None]
    assert exchanges[0].response_body
    assert [c.outcome for c in only(tmp_path).transcript.model_calls] == ["cancelled"] * 2


def test_a_program_that_dies_as_its_request_is_taken_ends_it(tmp_path: Path) -> None:
    program, connection = socket.socketpair()
    url = "https://api.example.com/v1/chat/completions"
    with connection, trajrec.episode(tmp_path, wire=False) as episode:

        def begin(request: HttpRequest, mark: str) -> Any:
            exchange = episode.begin_exchange(request)
            program.close()
            return exchange

        asked = {"method": "POST", "url": url, "headers": []}
        send_frame(program, asked, chat("x"))
        take_reports(SocketReader(connection), begin)
    (call,) = only(tmp_path).transcript.model_calls
    assert call.outcome == "error"


def test_a_failure_that_its_client_leaves_is_one(tmp_path: Path) -> None:
    failing = Turn(status=529, headers={"x-should-retry": "true"})
    with ModelServer([failing, Turn("done")]) as server, proxy(tmp_path, server.url) as address:
        post(address, "/openai/v1/chat/completions", chat("hello"))
        post(address, "/openai/v1/chat/completions", chat("hello"))
    first = only(tmp_path).transcript.exchanges[0]
    assert first.end is not None
    # The client closes its connection as soon as it has the status.
    first.end = msgspec.structs.replace(first.end, error_type="builtins.GeneratorExit")
    end = WireCall(first, json.loads).end_event()
    assert end is not None
    assert (end.outcome, end.error_type) == ("error", "http.529")


def wait_for(is_true: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def hostile(token: str, port: int) -> dict[str, bytes]:
    """Return requests that a proxy must not pass on."""
    path = f"/{token}/openai/v1/chat/completions"
    post = f"POST {path} HTTP/1.1\r\nHost: a\r\n"
    return {
        "no token": b"POST /openai/v1/chat/completions HTTP/1.1\r\n\r\n",
        "wrong token": f"POST /{token[:-1]}./openai/v1/models HTTP/1.1\r\n\r\n".encode(),
        "token that is not ascii": "POST /tokén/openai/v1/models HTTP/1.1\r\n\r\n".encode(
            "latin-1"
        ),
        "a whole address": f"GET http://127.0.0.1:{port}/v1/x HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        "a tunnel": f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        "another host": f"POST /{token}/evil.example/v1/messages HTTP/1.1\r\n\r\n".encode(),
        "out of the route": f"POST /{token}/openai/v1/../../messages HTTP/1.1\r\n\r\n".encode(),
        "out, encoded": f"POST /{token}/openai/v1/%2E%2e/messages HTTP/1.1\r\n\r\n".encode(),
        "out, with backslashes": f"POST /{token}/openai/v1/a%5c..%5cb HTTP/1.1\r\n\r\n".encode(),
        "a neighbour of a route": f"POST /{token}/openai/v1evil/messages HTTP/1.1\r\n\r\n".encode(),
        "two lengths": f"{post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}".encode(),
        "length and chunks": (
            f"{post}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode()
        ),
        "another coding": f"{post}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".encode(),
        "a length that is none": f"{post}Content-Length: -2\r\n\r\n".encode(),
        "a huge length": f"{post}Content-Length: {'9' * 5000}\r\n\r\n".encode(),
        "a huge chunk": f"{post}Transfer-Encoding: chunked\r\n\r\nfffffff1\r\n".encode(),
        "a chunk without a size": f"{post}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode(),
        "a long line of a chunk": (
            f"{post}Transfer-Encoding: chunked\r\n\r\n{'1' * 200_000}".encode()
        ),
        "a line break in a header": f"{post}X-A: 1\nX-B: 2\r\n\r\n".encode(),
        "a folded header": f"{post}X-A: 1\r\n X-B: 2\r\n\r\n".encode(),
        "a space before the colon": f"{post}Content-Length : 2\r\n\r\n{{}}".encode(),
        "a long head": f"{post}X-A: {'a' * 200_000}\r\n\r\n".encode(),
        "an old version": f"POST {path} HTTP/1.0\r\n\r\n".encode(),
        "a websocket": f"GET {path} HTTP/1.1\r\nUpgrade: websocket\r\n\r\n".encode(),
        "a websocket among others": (
            f"GET {path} HTTP/1.1\r\nUpgrade: h2c, WebSocket/13\r\n\r\n".encode()
        ),
        "bytes": random.Random(1).randbytes(3000) + b"\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500 + b"\r\n\r\n",
        "a report that is none": f"POST /{token}/tap HTTP/1.1\r\n\r\n".encode() + b"\xff" * 64,
        "a report of nothing": (
            f"POST /{token}/tap HTTP/1.1\r\n\r\n".encode() + b"\0\0\0\2\0\0\0\0{}"
        ),
    }


def test_hostile_requests_reach_no_server(tmp_path: Path) -> None:
    with ModelServer() as server, proxy(tmp_path, server.url) as address:
        token = urlsplit(address).path[1:]
        for name, data in hostile(token, server.port).items():
            answer = raw(address, data)
            status = answer.split(b" ", 2)[1:2]
            assert not answer or status[0][:1] in (b"4", b"5"), f"{name}: {answer[:200]!r}"
            assert token.encode() not in answer, name
        assert server.attempts == []
        assert post(address, "/openai/v1/chat/completions", chat("still here")).status == 200
    assert len(only(tmp_path).transcript.exchanges) == 1


def test_slow_and_many_connections_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_server, "HEAD_S", 0.2)
    monkeypatch.setattr(proxy_server, "MAX_CONNECTIONS", 4)
    with ModelServer() as server, proxy(tmp_path, server.url) as address:
        parts = urlsplit(address)
        place = (parts.hostname, parts.port)
        idle = [socket.create_connection(place, 10) for _ in range(12)]
        idle[0].sendall(b"POST /")
        began = time.monotonic()
        for connection in idle:
            with contextlib.suppress(OSError):
                assert connection.recv(1) == b""
            connection.close()
        assert time.monotonic() - began < 5
        wait_for(lambda: post(address, "/openai/v1/chat/completions", chat("x")).status == 200)


def serves(thread: Any) -> bool:
    """Return whether a thread serves a connection of the proxy."""
    return getattr(thread._target, "__func__", None) is ProxyServer._serve


def test_a_connection_without_a_thread_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_failed = 0

    class Scarce(threading.Thread):
        def start(self) -> None:
            nonlocal n_failed
            if serves(self) and n_failed < 2:
                n_failed += 1
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr(threading, "Thread", Scarce)
    with ModelServer() as server, proxy(tmp_path, server.url) as address:
        statuses = [
            post(address, "/openai/v1/chat/completions", chat("x")).status for _ in range(3)
        ]
    assert statuses == [0, 0, 200]


def test_a_proxy_is_closed_while_a_connection_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_starting = threading.Event()

    class Slow(threading.Thread):
        def start(self) -> None:
            if serves(self):
                is_starting.set()
                time.sleep(0.2)
            super().start()

    with ModelServer() as server, proxy(tmp_path, server.url) as address:
        monkeypatch.setattr(threading, "Thread", Slow)
        parts = urlsplit(address)
        client = socket.create_connection((parts.hostname, parts.port), 10)
        assert is_starting.wait(10)
    client.close()


def is_reachable(place: str, port: int | None) -> bool:
    try:
        with socket.create_connection((place, port), 2):
            return True
    except OSError:
        return False


def test_only_this_machine_can_connect(tmp_path: Path) -> None:
    with ModelServer() as server, proxy(tmp_path, server.url) as address:
        assert urlsplit(address).hostname == "127.0.0.1"
        # A random token of at least 128 bits.
        assert len(urlsplit(address).path) > 30
        port = urlsplit(address).port
        for place in ("::1", socket.gethostbyname(socket.gethostname())):
            if not place.startswith("127."):
                assert not is_reachable(place, port)


def test_an_unreachable_server_is_recorded_as_such(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with proxy(tmp_path, f"http://127.0.0.1:{port}") as address:
        assert post(address, "/openai/v1/chat/completions", chat("x")).status == 0
    (exchange,) = only(tmp_path).transcript.exchanges
    assert exchange.end is not None
    assert exchange.end.error_type == "builtins.ConnectionRefusedError"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_chunks_are_found_however_they_are_cut(size: int) -> None:
    pieces = [b"a", b"bc" * 300, b"\r\n0\r\n\r\n", b"d"]
    data = b"".join(b"%x;name=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    data += b"0\r\nx-trailer: 1\r\n\r\n"
    body = ChunkedBody()
    found = []
    for k in range(0, len(data), size):
        assert not body.is_complete
        found += body.add(data[k : k + size])
    assert body.is_complete
    assert b"".join(found) == b"".join(pieces)


def test_addresses_of_the_user_are_the_upstreams() -> None:
    environ = {
        "OPENAI_BASE_URL": "http://localhost:8000/v1/",
        "ANTHROPIC_API_BASE": "https://proxy.example/anthropic",
        "GEMINI_API_BASE": "https://one.example",
        "GOOGLE_GEMINI_BASE_URL": "https://two.example",
        "NO_PROXY": "intern.example",
        "PYTHONPATH": "/mine",
    }
    routes = make_routes(environ, {})
    own = command_environment(environ, "http://127.0.0.1:1/token", routes, mode="record")

    def upstream(variable: str) -> str:
        found = routes.find(own[variable].removeprefix("http://127.0.0.1:1/token") + "/x")
        assert found is not None
        return found[0].url(found[1])

    assert own["OPENAI_BASE_URL"].endswith("/openai/v1")
    assert upstream("OPENAI_BASE_URL") == "http://localhost:8000/v1/x"
    assert upstream("OPENAI_API_BASE") == "http://localhost:8000/v1/x"
    assert upstream("ANTHROPIC_BASE_URL") == "https://proxy.example/anthropic/x"
    assert upstream("GEMINI_API_BASE") == "https://one.example/x"
    assert upstream("GOOGLE_GEMINI_BASE_URL") == "https://two.example/x"
    assert own["NO_PROXY"] == "intern.example,127.0.0.1,localhost"
    assert own["PYTHONPATH"].endswith(f"python_children{os.pathsep}/mine")
    assert "OPENAI_API_KEY" not in own
    with pytest.raises(ValueError, match="OPENAI_BASE_URL must be an address"):
        make_routes({"OPENAI_BASE_URL": "localhost:8000"}, {})
    assert upstream_of("https://[::1]:8443/a").netloc == "[::1]:8443"


def test_a_slow_answer_delays_no_other(tmp_path: Path) -> None:
    plan = lambda _request, number: Turn("done", delay_s=0.0 if number else 0.4)  # noqa: E731
    with (
        ModelServer(plan) as server,
        proxy(tmp_path, server.url) as address,
        ThreadPoolExecutor(1) as pool,
    ):
        slow = pool.submit(post, address, "/openai/v1/chat/completions", chat("slow"))
        wait_for(lambda: server.attempts)
        for k in range(5):
            assert post(address, "/openai/v1/chat/completions", chat(f"{k}")).status == 200
        assert not slow.done()
        assert slow.result(20).status == 200


def test_a_redirection_does_not_lead_past_the_proxy(tmp_path: Path) -> None:
    moved = {"Location": ""}
    plan = [Turn(status=307, headers=moved), Turn(status=307, headers={"Location": "/v1/b?c=1"})]
    plan.append(Turn(status=307, headers={"Location": "https://other.example/v1/b"}))
    with ModelServer(plan) as server, proxy(tmp_path, server.url) as address:
        moved["Location"] = f"{server.url}/v1/chat/completions/"
        places = [
            post(address, "/openai/v1/chat/completions", chat(f"{k}")).headers["location"]
            for k in range(3)
        ]
    path = urlsplit(address).path
    assert places == [
        f"{path}/openai/v1/chat/completions/",
        f"{path}/openai/v1/b?c=1",
        "https://other.example/v1/b",
    ]


def test_a_rerun_leads_along_the_recorded_redirection(tmp_path: Path) -> None:
    moved = {"Location": ""}
    plan = [Turn(status=307, headers=moved), Turn("done")]
    with ModelServer(plan) as server:
        moved["Location"] = f"{server.url}/v1/b/chat/completions?c=1"
        with proxy(tmp_path, server.url) as address:
            for path in ("/openai/v1/chat/completions", "/openai/v1/b/chat/completions"):
                post(address, path, chat("go"))
    with answering(tmp_path) as (address, rerun):
        first = post(address, "/openai/v1/chat/completions", chat("go"))
        place = urljoin(f"{address}/openai/v1/chat/completions", first.headers["location"])
        assert post(address, place.removeprefix(address), chat("go")).status == 200
    assert rerun.difference is None
    assert place == f"{address}/openai/v1/b/chat/completions"


@pytest.mark.parametrize(
    ("asked", "moved"),
    [
        ("/v1/models/a", "/v1/models/gemini:generate"),
        ("/v1/messages/", "/v1/messages"),
        ("/v1/messages", "/v1/messages/"),
        ("/v1/a/b:c/", "/v1/a"),
        ("/v1/a", "/"),
    ],
)
@pytest.mark.parametrize("server", ["http://a.example", "http://127.0.0.1:9/openai"])
def test_recorded_redirection_leads_there_from_any_server(
    asked: str, moved: str, server: str
) -> None:
    place = _beside(f"http://a.example{moved}", f"http://a.example{asked}")
    assert urljoin(f"{server}{asked}", place) == f"{server}{moved}"


def test_a_compressed_request_is_recorded_plain(tmp_path: Path) -> None:
    data = gzip.compress(chat("my key is sk-proj-" + "abcdEFGH1234ijkl" * 2))
    headers = {**JSON, "content-encoding": "gzip"}
    with ModelServer([Turn("done")]) as server, proxy(tmp_path, server.url) as address:
        assert post(address, "/openai/v1/chat/completions", data, headers).status == 200
        assert server.attempts[0].body == data
    (exchange,) = only(tmp_path).transcript.exchanges
    assert b"my key is [redacted" in (exchange.request_body or b"")
    with answering(tmp_path) as (address, rerun):
        assert post(address, "/openai/v1/chat/completions", data, headers).status == 200
    assert rerun.difference is None


def random_plan(draw: random.Random, n: int) -> list[Turn]:
    turns = []
    for _ in range(n):
        text = " ".join(f"wörd{draw.randrange(999)}" for _ in range(draw.randrange(1, 30)))
        broken_after = draw.choice([None, None, None, draw.randrange(20)])
        turn = Turn(text, is_gzipped=draw.random() < 0.3, broken_after=broken_after)
        if draw.random() < 0.2:
            turn = Turn(status=draw.choice([400, 429, 500, 503]))
        turns.append(Turn(is_dropped=True) if draw.random() < 0.1 else turn)
    return turns


@pytest.mark.slow
def test_the_servers_log_equals_the_recording(tmp_path: Path) -> None:
    draw = random.Random(SEED)
    n = 300
    plan = random_plan(draw, n)
    paths = ["/openai/v1/chat/completions", "/openai/v1/responses", "/anthropic/v1/messages"]
    # Some requests are equal, as those of agents with the same prompt.
    asked = [
        (draw.choice(paths), chat(f"{draw.randrange(n // 2)}", stream=draw.random() < 0.5))
        for _ in range(n)
    ]
    with ModelServer(plan) as server, proxy(tmp_path, server.url) as address:
        with ThreadPoolExecutor(8) as pool:
            passed = list(pool.map(lambda one: post(address, *one), asked))
        attempts = list(server.attempts)
    exchanges = only(tmp_path).transcript.exchanges

    def by_request(items: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return sorted(items, key=repr)

    assert len(attempts) == n
    assert by_request([(a.body, a.status, a.is_cut) for a in attempts]) == by_request(
        [(e.request_body, e.status or 0, bool(e.end and e.end.error_type)) for e in exchanges]
    )
    whole = [(a.body, a.sent) for a in attempts if not a.is_cut]
    assert by_request(whole) == by_request(
        [(e.request_body, e.response_body) for e in exchanges if e.end and not e.end.error_type]
    )
    with answering(tmp_path) as (address, rerun), ThreadPoolExecutor(8) as pool:
        again = list(pool.map(lambda one: post(address, *one), asked))
    assert rerun.difference is None

    def seen(replies: list[Reply]) -> list[tuple[Any, ...]]:
        pairs = zip(asked, replies, strict=True)
        return by_request([(one, reply.status, reply.is_whole) for one, reply in pairs])

    assert seen(again) == seen(passed)


def test_a_recorded_command_has_no_secrets() -> None:
    command = ["env", "OPENAI_API_KEY=qwertyuiop12", "node", "a.js", "--api-key=hunter2secretvalue"]
    command += ["--password", "correcthorse1", f"--header=Bearer {KEY}"]
    command += [f"{KEY}=a", "--x=", "=a", "--n=3", "x=y=z"]
    told = told_command(command)
    for secret in ("qwertyuiop12", "hunter2secretvalue", "correcthorse1", KEY):
        assert secret not in repr(told)
    assert told[2:4] == ["node", "a.js"]
    assert told[-2:] == ["--n=3", "x=y=z"]
