"""The taps of a Python program below `trajrec capture`: they report to the proxy.

So a program whose base addresses stand in its code is recorded as well, or answered. It imports
only the standard library and the taps, and none of the recorder.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import time
from typing import Any
from urllib.parse import urlsplit

from trajrec.proxies.frames import read_exactly, receive_frame, send_frame, split
from trajrec.taps import hub, patching
from trajrec.taps.exceptions import name_of, rebuild_error
from trajrec.taps.patching import AnswerFault
from trajrec.wire.exchange import Exchange, Headers, HttpAnswer, HttpRequest

# A request waits this long for the proxy, which answers in a millisecond.
_WAIT_S = 60.0

# The pieces of a response are sent to the proxy this often, and at its end.
_SEND_EVERY_S = 0.25

# The proxy records the end of an answer in a millisecond. The program goes on without it.
_RECORDED_S = 5.0

_UNKNOWN_CLASS = re.compile(r"([\w.]+): (.*)", re.DOTALL)


class StoppedByRerun(BaseException):
    """Stops a program at a request that it did not make when it was recorded.

    It is no `Exception`, because clients take these for failures of the network and try again.
    """


class RemoteTap:
    """Reports the exchanges of this process to a proxy.

    Args:
        address: The proxy's address, with its token.
        is_rerun: Whether the proxy answers. A request that it cannot be asked about is not sent.
    """

    def __init__(self, address: str, *, is_rerun: bool) -> None:
        parts = urlsplit(address)
        self._place = (parts.hostname or "", parts.port or 0)
        self._path = parts.path
        self._is_rerun = is_rerun

    def begin(self, request: HttpRequest) -> Exchange | None:
        """Report a request; see `trajrec.taps.hub`."""
        try:
            return self._begin(request)
        except OSError as exc:
            if self._is_rerun:
                raise AnswerFault(
                    f"the rerun of this program has ended, so no request is sent: {exc}"
                ) from exc
            return None

    def _begin(self, request: HttpRequest) -> Exchange | None:
        connection = socket.create_connection(self._place, _WAIT_S)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            head = f"POST {self._path}/tap HTTP/1.1\r\nHost: {self._place[0]}\r\n\r\n"
            connection.sendall(head.encode())
            asked = {"method": request.method, "url": request.url, "headers": request.headers}
            send_frame(connection, asked, request.body)
            told, data = receive_frame(functools.partial(read_exactly, connection))
        except BaseException:
            connection.close()
            raise
        if told["kind"] == "record":
            return RemoteExchange(connection, data if told["has_body"] else None, told["url"])
        connection.close()
        if told["kind"] == "miss":
            raise StoppedByRerun(told["message"])
        if told["kind"] == "answer":
            return _AnsweredExchange(_answer_of(told, data))
        return None


def _answer_of(told: dict[str, Any], data: bytes) -> HttpAnswer:
    error = None
    if told["error"] is not None:
        name, message = told["error"]
        error = rebuild_error(name, message)
        found = _UNKNOWN_CLASS.fullmatch(message)
        if name == "builtins.ConnectionError" and found is not None:
            # The proxy has not loaded the client's library; this process has.
            error = rebuild_error(found[1], found[2])
    return HttpAnswer(
        status=told["status"],
        headers=[(name, value) for name, value in told["headers"]],
        chunks=split(data, told["sizes"]),
        error=error,
        hangs=told["hangs"],
    )


class _AnsweredExchange:
    """An exchange that the proxy answers from a recording."""

    sent_body: bytes | None = None
    sent_url: str | None = None

    def __init__(self, answer: HttpAnswer) -> None:
        self.answer: HttpAnswer | None = answer

    def responded(self, status: int, headers: Headers) -> None:
        """Do nothing."""

    def received(self, data: bytes) -> None:
        """Do nothing."""

    def ended(self, error: BaseException | None) -> None:
        """Do nothing."""


class RemoteExchange:
    """An exchange that is reported to the proxy over its own connection.

    Args:
        connection: The connection.
        sent_body: The body to send in place of the request's own, None to send that.
        sent_url: The address to send it to, None for the request's own.

    Attributes:
        answer: None: the request is to be sent.
    """

    answer: HttpAnswer | None = None

    def __init__(
        self, connection: socket.socket, sent_body: bytes | None, sent_url: str | None
    ) -> None:
        self.sent_body = sent_body
        self.sent_url = sent_url
        self._connection = connection
        self._pieces: list[bytes] = []
        self._send_at = 0.0
        self._is_over = False
        self._process_id = os.getpid()

    def responded(self, status: int, headers: Headers) -> None:
        """Report the head of the response."""
        self._send({"kind": "responded", "status": status, "headers": list(headers)})

    def received(self, data: bytes) -> None:
        """Note a piece of the body; it is sent with others."""
        self._pieces.append(data)
        now = time.monotonic()
        if now > self._send_at:
            if self._send_at:
                self._send_pieces("received", None)
            self._send_at = now + _SEND_EVERY_S

    def ended(self, error: BaseException | None) -> None:
        """Report the rest of the body and the end."""
        if self._is_over:
            return
        self._is_over = True
        told = None
        if error is not None:
            told = [name_of(error), str(error), isinstance(error, Exception)]
        self._send_pieces("ended", told)
        if self._is_forked:
            self._connection.close()
            return
        with contextlib.suppress(OSError):
            # The proxy closes the connection when it has recorded the answer. The next request of
            # this program, or of a child, finds its episode by that.
            self._connection.settimeout(_RECORDED_S)
            self._connection.recv(1)
        self._connection.close()

    @property
    def _is_forked(self) -> bool:
        """Whether this is a forked process, which leaves the exchange to its parent."""
        return self._process_id != os.getpid()

    def _send_pieces(self, kind: str, error: list[Any] | None) -> None:
        pieces = self._pieces
        self._pieces = []
        head = {"kind": kind, "sizes": [len(piece) for piece in pieces], "error": error}
        self._send(head, b"".join(pieces))

    def _send(self, head: dict[str, Any], data: bytes = b"") -> None:
        if self._is_forked:
            return
        # The command may have ended, and its proxy with it, while this program goes on.
        with contextlib.suppress(OSError):
            send_frame(self._connection, head, data)


def install(address: str, *, is_rerun: bool) -> None:
    """Turn the taps of this process on, and have them report to a proxy."""
    tap = RemoteTap(address, is_rerun=is_rerun)
    # Requests to the proxy itself are recorded by it.
    hub.listen_outside(tap.begin, comes_first=is_rerun, ignored=address)
    patching.install()
