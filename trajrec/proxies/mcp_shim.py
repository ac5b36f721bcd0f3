"""Stands for an MCP server below `trajrec capture --mcp`: `NAME -- SERVER ARGUMENTS`.

The client starts it in place of the server. It starts the server itself, and tells the proxy of
each line before it passes the line on; in a rerun it starts none, and the proxy answers. The proxy
holds the recording, so if it has ended, the session goes on unrecorded.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trajrec.proxies.frames import read_exactly, receive_frame, send_frame
from trajrec.proxies.mcp_relay import MAX_LINE_BYTES, Relay, Side

VARIABLE = "TRAJREC_MCP"
"""The address of the proxy, for this process alone."""

SESSION_PATH = "/mcp-session"
"""The path of the proxy at which a session is told."""

_WAIT_S = 60.0

_START = """
import sys
sys.path.insert(0, {root!r})
import trajrec
del sys.path[0]
from trajrec.proxies.mcp_shim import main
sys.exit(main(sys.argv[1:]))
"""


def shim_command(name: str, command: list[str]) -> list[str]:
    """Return the command that stands for a server in a configuration.

    Args:
        name: The server's name there.
        command: Its own command.
    """
    # The package of this process, and nothing of the folder that the client runs in.
    root = str(Path(__file__).parents[2])
    return [sys.executable, "-P", "-c", _START.format(root=root), name, "--", *command]


class _Proxy:
    """The connection to the proxy.

    Args:
        address: The proxy's address, with its token.
        name: The server's name.
    """

    def __init__(self, address: str, name: str) -> None:
        parts = urlsplit(address)
        self._lock = threading.Lock()
        self._connection = socket.create_connection(
            (parts.hostname or "", parts.port or 0), _WAIT_S
        )
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = f"POST {parts.path}{SESSION_PATH} HTTP/1.1\r\nHost: {parts.hostname}\r\n\r\n"
        self._connection.sendall(head.encode())
        self._is_lost = False
        told, _ = self._ask({"server": name})
        self.is_answering = told.get("kind") == "answer"

    def _ask(self, head: dict[str, Any], data: bytes = b"") -> tuple[dict[str, Any], bytes]:
        with self._lock:
            send_frame(self._connection, head, data)
            return receive_frame(functools.partial(read_exactly, self._connection))

    def tell(self, side: Side, line: bytes) -> bytes:
        """Tell a line, and return the lines that answer it."""
        if self._is_lost:
            return b""
        try:
            return self._ask({"from": side}, line)[1]
        except OSError as exc:
            self._is_lost = True
            print(f"trajrec: this MCP session is recorded no further: {exc}", file=sys.stderr)
            return b""

    @property
    def is_lost(self) -> bool:
        """Whether the proxy has ended."""
        return self._is_lost


def main(words: list[str]) -> int:
    """Run a session; return its exit status."""
    name, _, *command = words
    environment = dict(os.environ)
    address = environment.pop(VARIABLE, "")
    is_rerun = environment.pop(f"{VARIABLE}_MODE", "record") != "record"
    try:
        proxy = _Proxy(address, name)
    except OSError as exc:
        print(
            f"trajrec: MCP server {name!r}: its recorder cannot be reached: {exc}", file=sys.stderr
        )
        if is_rerun:
            return 1
        return Relay(command, lambda _side, _line: None, environment).run(
            sys.stdin.fileno(), sys.stdout.buffer
        )
    if proxy.is_answering:
        return _answer(proxy)
    relay = Relay(command, proxy.tell, environment)
    status = relay.run(sys.stdin.fileno(), sys.stdout.buffer)
    if relay.n_long:
        print(
            f"trajrec: MCP server {name!r}: {relay.n_long} lines of more than {MAX_LINE_BYTES} bytes "
            "passed unrecorded",
            file=sys.stderr,
        )
    return status


def _answer(proxy: _Proxy) -> int:
    """Answer a client from the recording, which the proxy holds."""
    while line := sys.stdin.buffer.readline(MAX_LINE_BYTES):
        sys.stdout.buffer.write(proxy.tell("client", line))
        sys.stdout.buffer.flush()
        if proxy.is_lost:
            return 1
    return 0
