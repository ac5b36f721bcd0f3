"""`python -m benchmarks.proxies`: the cost of the loopback proxy of `trajrec capture`.

Server, proxy and client are three processes. Direct and passed requests take turns; the figures are
medians of the differences of pairs.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

from trajrec.proxies.recording import CommandRecording
from trajrec.proxies.server import ProxyServer
from trajrec.proxies.upstreams import make_routes

N_CALLS = 200
N_STREAMS = 30
N_CHUNKS = 1_000

# Time between chunks for the first one's delay and for the load of a fast model.
PAUSE_S = 0.0002

BODY = b'{"model": "m", "messages": [{"role": "user", "content": "%s"}]}' % (b"word " * 400)
ANSWER = b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "fine"}}]}'
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": " word"}}]}\n\n'


def serve(pipe: Connection) -> None:
    """Answer requests: a path with "stream" gets a stream, another one gets JSON."""
    listener = socket.create_server(("127.0.0.1", 0))
    pipe.send(listener.getsockname()[1])
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve_connection, args=(connection,), daemon=True).start()


def serve_connection(connection: socket.socket) -> None:
    """Answer the requests of one connection."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while head := read_message(connection):
        if b"stream" in head.partition(b"\r\n")[0]:
            send_stream(connection)
        else:
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)
            )
    connection.close()


def send_stream(connection: socket.socket) -> None:
    """Send a stream of events, each as a chunk."""
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    connection.sendall(head)
    for _ in range(N_CHUNKS):
        connection.sendall(b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
        # Not a busy loop, which would keep a core from the proxy.
        time.sleep(PAUSE_S)
    connection.sendall(b"0\r\n\r\n")


def read_message(connection: socket.socket) -> bytes:
    """Read a request with its body; return its head."""
    data = b""
    while b"\r\n\r\n" not in data:
        got = connection.recv(65536)
        if not got:
            return b""
        data += got
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return head


def run_proxy(pipe: Connection, port: int, folder: str) -> None:
    """Record the requests to the server until told to end; return the CPU time when asked."""
    url = f"http://127.0.0.1:{port}"
    with CommandRecording(Path(folder), {}, is_one_episode=True) as recording:
        server = ProxyServer(make_routes({}, {"anthropic": url}), recording.begin)
        server.start()
        pipe.send(server.address)
        while pipe.recv() == "time":
            pipe.send(os.times()[:2])
        server.close()
        recording.end(0)


class Client:
    """A connection to a server or a proxy."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._path = parts.path
        self._socket = socket.create_connection((parts.hostname, parts.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, path: str, end: bytes) -> tuple[float, float]:
        """Send a request; return the seconds to its first bytes of content and to its end."""
        began = time.perf_counter()
        head = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        head %= f"{self._path}{path}".encode()
        self._socket.sendall(head + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY))
        data = b""
        first = 0.0
        while not data.endswith(end):
            data = data[-16:] + self._socket.recv(65536)
            first = first or (b"{" in data and time.perf_counter() - began) or 0.0
        return first, time.perf_counter() - began


def main() -> None:
    """Print all figures."""
    context = multiprocessing.get_context("spawn")
    server_pipe, pipe = context.Pipe()
    server = context.Process(target=serve, args=(pipe,), daemon=True)
    server.start()
    port = server_pipe.recv()
    with tempfile.TemporaryDirectory() as folder:
        proxy_pipe, pipe = context.Pipe()
        proxy = context.Process(target=run_proxy, args=(pipe, port, folder), daemon=True)
        proxy.start()
        passed_address = proxy_pipe.recv() + "/anthropic"
        print_calls(f"http://127.0.0.1:{port}", passed_address)
        print_streams(f"http://127.0.0.1:{port}", passed_address, proxy_pipe)
        proxy_pipe.send("end")
        proxy.join()
    server.terminate()


def print_calls(direct: str, passed: str) -> None:
    """Print the cost of a call over connections that are open."""
    bare = Client(direct)
    through = Client(passed)
    costs = []
    for _ in range(N_CALLS):
        _, bare_s = bare.ask("/v1/messages", b"}]}")
        _, through_s = through.ask("/v1/messages", b"}]}")
        costs.append(through_s - bare_s)
    print(f"a call: +{statistics.median(costs) * 1e3:.2f} ms (goal: 2)")


def print_streams(direct: str, passed: str, pipe: Connection) -> None:
    """Print the cost of a streamed chunk, and the delay of the first one."""
    bare_client = Client(direct)
    client = Client(passed)
    firsts = []
    wholes = []
    pipe.send("time")
    before = pipe.recv()
    for _ in range(N_STREAMS):
        bare = bare_client.ask("/stream/v1/messages", b"\r\n0\r\n\r\n")
        through = client.ask("/stream/v1/messages", b"\r\n0\r\n\r\n")
        firsts.append(through[0] - bare[0])
        wholes.append((through[1] - bare[1]) / N_CHUNKS)
    pipe.send("time")
    after = pipe.recv()
    n = N_STREAMS * N_CHUNKS
    user_us, system_us = ((b - a) / n * 1e6 for a, b in zip(before, after, strict=True))
    print(f"the first chunk: +{statistics.median(firsts) * 1e3:.2f} ms (goal: 8)")
    print(
        f"a streamed chunk: +{statistics.median(wholes) * 1e6:.1f} us until the end, "
        f"{user_us:.1f} us of CPU time (goal: 20) and {system_us:.1f} us of the kernel"
    )


if __name__ == "__main__":
    main()
