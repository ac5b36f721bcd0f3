"""Messages between the proxy and the taps in Python programs: some JSON, and bytes after it.

A program below the command reports an exchange over one connection. It imports this module, so
nothing but the standard library is imported here.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from typing import Any

MAX_HEAD_BYTES = 1024 * 1024
MAX_DATA_BYTES = 256 * 1024 * 1024

_SIZES = struct.Struct(">II")


def send_frame(connection: socket.socket, head: dict[str, Any], data: bytes = b"") -> None:
    """Send a message."""
    text = json.dumps(head).encode()
    connection.sendall(_SIZES.pack(len(text), len(data)) + text + data)


def receive_frame(read: Callable[[int], bytes]) -> tuple[dict[str, Any], bytes]:
    """Return the next message.

    Args:
        read: Returns the next n bytes.

    Raises:
        ConnectionError: The connection was closed, or this is no message.
    """
    n_head, n_data = _SIZES.unpack(read(_SIZES.size))
    if n_head > MAX_HEAD_BYTES or n_data > MAX_DATA_BYTES:
        raise ConnectionError("a message is too long")
    try:
        head = json.loads(read(n_head))
    except (ValueError, RecursionError) as exc:
        raise ConnectionError("a message is no JSON") from exc
    if not isinstance(head, dict):
        raise ConnectionError("a message is no JSON object")
    return head, read(n_data)


def split(data: bytes, sizes: list[int]) -> list[bytes]:
    """Return data in pieces of these sizes.

    >>> split(b"abc", [1, 2])
    [b'a', b'bc']
    """
    pieces = []
    at = 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return pieces


def read_exactly(connection: socket.socket, n: int) -> bytes:
    """Return the next n bytes of a connection.

    Raises:
        ConnectionError: It was closed before.
    """
    pieces = []
    while n:
        data = connection.recv(min(n, 1 << 20))
        if not data:
            raise ConnectionError("the connection was closed within a message")
        pieces.append(data)
        n -= len(data)
    return b"".join(pieces)
