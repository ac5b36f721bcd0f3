"""Watch the connections that an environment makes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from trajrec.types import Value


@contextlib.contextmanager
def watched_network() -> Iterator[list[str]]:
    """Collect the addresses that are connected to during a block.

    Yields:
        A list that receives each address: "host:port", or the path of a socket.
    """
    addresses: list[str] = []

    class Watched(socket.socket):
        def connect(self, address: Any) -> None:
            addresses.append(_as_text(address))
            super().connect(address)

        def connect_ex(self, address: Any) -> int:
            addresses.append(_as_text(address))
            return super().connect_ex(address)

    original = socket.socket
    socket.socket = Watched  # type: ignore[misc]
    try:
        yield addresses
    finally:
        socket.socket = original  # type: ignore[misc]


def _as_text(address: Value) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
