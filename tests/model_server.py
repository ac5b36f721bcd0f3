"""A model server with scripted answers, for the APIs that people use.

`ModelServer` serves chat completions, Responses, Anthropic's messages, Gemini and Ollama on a loopback
port, follows a plan of `Turn`s, and logs the bytes of every attempt: its log is the truth that a
recording is compared with.

`python model_server.py` prints its port and serves until it is killed, without a plan. Then it
answers a message of the user with a call of `get_order`, another message with a text, and the
message "fail" with status 400.
"""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from model_answers import Call, Turn, dialect_of, error_body, stream_pieces, whole_answer

__all__ = ["Attempt", "Call", "ModelServer", "Turn"]


@dataclass
class Attempt:
    """One request that reached the server, and the bytes that it sent in return.

    Attributes:
        path: The path with its query.
        headers: The request's headers, in lower case.
        body: The request's body.
        status: The status that was sent; 0 if the connection was closed without an answer.
        sent: The body that was sent, before any compression.
        is_cut: Whether the connection broke before the end of the answer.
    """

    path: str
    headers: dict[str, str]
    body: bytes
    status: int = 0
    sent: bytes = b""
    is_cut: bool = False


@dataclass
class _Shared:
    """What the handler threads of a server share."""

    plan: Callable[[dict[str, Any], int], Turn]
    attempts: list[Attempt] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class ModelServer:
    """A loopback server that follows a plan.

    Args:
        plan: Answers in the order of the attempts, or a function of the request's JSON and the
            attempt's number.

    Attributes:
        attempts: The requests that came, in order.
        url: "http://127.0.0.1:PORT".
    """

    def __init__(
        self, plan: Iterable[Turn] | Callable[[dict[str, Any], int], Turn] | None = None
    ) -> None:
        if plan is None:
            turns: Callable[[dict[str, Any], int], Turn] = unplanned
        elif callable(plan):
            turns = plan
        else:
            listed = list(plan)
            turns = lambda _request, number: listed[number]  # noqa: E731
        self._shared = _Shared(turns)
        self.attempts = self._shared.attempts
        handler = type("Handler", (_Handler,), {"shared": self._shared})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> ModelServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve_forever(self) -> None:
        """Serve in this thread."""
        self._server.serve_forever()


def unplanned(request: dict[str, Any], _number: int) -> Turn:
    """Return the answer of a server that has no plan."""
    messages = request.get("messages") or [{"role": "user", "content": ""}]
    last = messages[-1]
    if last["content"] == "fail":
        return Turn(status=400, error="the script says so")
    usage = (7 * len(messages), 5)
    if last["role"] == "user":
        return Turn(calls=[Call("get_order", '{"order": "O1001"}', "call-1")], usage=usage)
    return Turn(f"I have read {len(last['content'])} characters.", usage=usage)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """Print nothing: clients hang up on purpose."""


class _Handler(BaseHTTPRequestHandler):
    """Serves one connection."""

    protocol_version = "HTTP/1.1"
    # A chunk leaves at once, and not together with the next.
    disable_nagle_algorithm = True
    shared: _Shared

    def do_POST(self) -> None:
        body = self._request_body()
        attempt = Attempt(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        is_gzipped = self.headers.get("Content-Encoding") == "gzip"
        request = json.loads((gzip.decompress(body) if is_gzipped else body) or b"{}")
        shared = self.shared
        with shared.lock:
            number = len(shared.attempts)
            shared.attempts.append(attempt)
            turn = shared.plan(request, number)
        options = request.get("stream_options") or {}
        turn = replace(turn, tells_usage=options.get("include_usage") is True)
        time.sleep(turn.delay_s)
        if turn.is_dropped:
            self._drop(attempt)
            return
        dialect = dialect_of(self.path)
        if turn.status != 200:
            self._send_whole(attempt, turn, error_body(dialect, turn))
        elif is_streamed(self.path, request):
            self._send_stream(attempt, turn, dialect)
        else:
            self._send_whole(attempt, turn, whole_answer(dialect, turn))

    def _request_body(self) -> bytes:
        """Read the body, plain or in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _send_whole(self, attempt: Attempt, turn: Turn, answer: dict[str, Any]) -> None:
        plain = json.dumps(answer).encode()
        data = gzip.compress(plain) if turn.is_gzipped else plain
        self.send_response(turn.status)
        attempt.status = turn.status
        self.send_header("Content-Type", "application/json")
        self._send_extra_headers(turn)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if turn.broken_after is None:
            attempt.sent = plain
            self.wfile.write(data)
            return
        attempt.sent = plain[: turn.broken_after]
        self.wfile.write(data[: turn.broken_after])
        self._drop(attempt)

    def _send_stream(self, attempt: Attempt, turn: Turn, dialect: str) -> None:
        self.send_response(200)
        attempt.status = 200
        kind = "application/x-ndjson" if dialect == "ollama" else "text/event-stream"
        self.send_header("Content-Type", kind)
        self._send_extra_headers(turn)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        packer = gzip_packer() if turn.is_gzipped else None
        for number, piece in enumerate(stream_pieces(dialect, turn)):
            if number == turn.broken_after:
                self._drop(attempt)
                return
            if turn.stalls_at in (None, number):
                time.sleep(turn.pause_s)
            data = piece if packer is None else packer(piece)
            # Before it is written, since the client may be done before this thread goes on.
            attempt.sent += piece
            try:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            except OSError:
                attempt.is_cut = True
                return
        if packer is not None:
            data = packer(None)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def _send_extra_headers(self, turn: Turn) -> None:
        for name, value in turn.headers.items():
            self.send_header(name, value)
        if turn.is_gzipped:
            self.send_header("Content-Encoding", "gzip")

    def _drop(self, attempt: Attempt) -> None:
        """Break the connection, with the bytes sent so far delivered first."""
        attempt.is_cut = True
        self.close_connection = True
        self.wfile.flush()
        if not attempt.status:
            # No answer at all: a reset, as from a server that crashed.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *_: Any) -> None:
        """Print nothing: the port is the only output."""


def is_streamed(path: str, request: dict[str, Any]) -> bool:
    """Return whether a request asks for a stream."""
    if "generateContent" in path:
        return False
    # Ollama streams unless it is told not to.
    return "streamGenerateContent" in path or bool(request.get("stream", "/api/" in path))


def gzip_packer() -> Callable[[bytes | None], bytes]:
    """Return a function that compresses a piece so that it can be read at once; None ends."""
    import zlib

    packer = zlib.compressobj(wbits=31)

    def pack(piece: bytes | None) -> bytes:
        if piece is None:
            return packer.flush()
        return packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)

    return pack


if __name__ == "__main__":
    server = ModelServer()
    print(server.port, flush=True)
    server.serve_forever()
