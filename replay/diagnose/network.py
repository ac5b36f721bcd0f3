"""Watch the connections that an environment makes, and answer them as another run was answered."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from trajrec.types import Value

# Bytes of real answers that are dropped at once, so that who sends them does not wait.
_DROPPED_BYTES = 1 << 20


class Answers:
    """The bytes that sockets received during a run, connection by connection.

    Attributes:
        addresses: The addresses that were connected to: "host:port", or the path of a socket.
        received: The pieces that each connection received, in order.
    """

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.received: list[list[bytes]] = []

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record the connections and the received bytes of a block."""
        answers = self

        class Watched(_Connecting):
            def connected(self, address: Any) -> None:
                answers.addresses.append(_as_text(address))
                answers.received.append([])
                self.pieces = answers.received[-1]

            def received(self, pieces: list[bytes], size: int) -> bytes:
                pieces.append(socket.SocketType.recv(self, size))
                return pieces[-1]

        with _replaced(Watched):
            yield

    @contextlib.contextmanager
    def repeated(self) -> Iterator[None]:
        """Answer the connections of a block with the recorded bytes, as far as there are any."""
        waiting = [list(pieces) for pieces in self.received]

        class Canned(_Connecting):
            def connected(self, address: Any) -> None:
                self.pieces = waiting.pop(0) if waiting else []

            def received(self, pieces: list[bytes], size: int) -> bytes:
                if not pieces:
                    return socket.SocketType.recv(self, size)
                _drop_waiting(self)
                piece = pieces.pop(0)
                if len(piece) > size:
                    # The program reads in other pieces than it did.
                    pieces.insert(0, piece[size:])
                return piece[:size]

        with _replaced(Canned):
            yield


class _Connecting(socket.socket):
    """A socket that reports its connection and the bytes that it receives."""

    pieces: list[bytes] | None = None

    def connected(self, address: Any) -> None:
        """Note the address that is connected to."""
        raise NotImplementedError

    def received(self, pieces: list[bytes], size: int) -> bytes:
        """Return up to `size` bytes that are received; `pieces` are those of the connection."""
        raise NotImplementedError

    def connect(self, address: Any) -> None:
        """Connect, and note the address."""
        self.connected(address)
        super().connect(address)

    def connect_ex(self, address: Any) -> int:
        """Connect, and note the address."""
        self.connected(address)
        return super().connect_ex(address)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive bytes."""
        if self.pieces is None or flags:
            return super().recv(size, flags)
        return self.received(self.pieces, size)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receive bytes into a buffer."""
        if self.pieces is None or flags:
            return super().recv_into(buffer, nbytes, flags)
        piece = self.recv(nbytes or memoryview(buffer).nbytes)
        memoryview(buffer).cast("B")[: len(piece)] = piece
        return len(piece)


def _drop_waiting(connection: socket.socket) -> None:
    """Drop the bytes that have come in, without waiting for others."""
    timeout = connection.gettimeout()
    # Not by MSG_DONTWAIT, which Windows does not have.
    connection.settimeout(0.0)
    try:
        socket.SocketType.recv(connection, _DROPPED_BYTES)
    except OSError:
        pass  # nothing has come, or the connection is closed
    finally:
        connection.settimeout(timeout)


@contextlib.contextmanager
def _replaced(cls: type[socket.socket]) -> Iterator[None]:
    original = socket.socket
    socket.socket = cls  # type: ignore[misc]
    try:
        yield
    finally:
        socket.socket = original  # type: ignore[misc]


def _as_text(address: Value) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
