"""A relay between an MCP client and a server over stdio, which tells of each line.

All lines are passed on byte by byte. It runs as a process of its own below the client, so nothing
but the standard library is imported here.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import IO, Literal, TypeAlias

MAX_LINE_BYTES = 1 << 26
"""Longer lines are passed on in pieces and not recorded: they must not take all memory."""

Side: TypeAlias = Literal["client", "server"]

Tell: TypeAlias = Callable[[Side, bytes], object]
"""Takes each line before it is passed on, and the side that it comes from. It never raises.

Of a line that is too long, it takes b"" in place of the line."""

NOT_STARTED = 127


class Relay:
    """Relays one session.

    Args:
        command: The server and its arguments.
        tell: Takes each line.
        environment: The environment of the server; None for that of this process.

    Attributes:
        n_long: Lines that were too long to be recorded.
    """

    def __init__(
        self,
        command: Sequence[str],
        tell: Tell,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.n_long = 0
        self._command = list(command)
        self._tell = tell
        self._environment = environment

    def run(self, client_in: int, client_out: IO[bytes]) -> int:
        """Relay until the server ends.

        Args:
            client_in: The number of the file that the client writes to.
            client_out: The file that the client reads.

        Returns:
            The exit status of the server; 128 and the number of the signal that ended it.
        """
        try:
            server = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._environment,
            )
        except OSError as exc:
            print(f"trajrec: {self._command[0]}: {exc.strerror}", file=sys.stderr)
            return NOT_STARTED
        assert server.stdin is not None
        assert server.stdout is not None
        _pass_signals(server)
        threading.Thread(
            target=self._pass_requests, args=(client_in, server.stdin), daemon=True
        ).start()
        try:
            self._pass(server.stdout, client_out, "server")
        except OSError:
            # The client reads no more.
            server.terminate()
        status = server.wait()
        return status if status >= 0 else 128 - status

    def _pass_requests(self, client_in: int, server_in: IO[bytes]) -> None:
        # Not Python's own reader of stdin: at its end, Python would wait for this thread to be done.
        source = open(client_in, "rb", closefd=False)  # noqa: SIM115
        # A server that has ended takes no more; its end is noticed in the thread of its lines.
        with contextlib.suppress(OSError, ValueError):
            self._pass(source, server_in, "client")
        with contextlib.suppress(OSError):
            server_in.close()

    def _pass(self, source: IO[bytes], target: IO[bytes], side: Side) -> None:
        """Pass lines on until there are no more."""
        is_rest = False
        while line := source.readline(MAX_LINE_BYTES):
            is_whole = line.endswith(b"\n") or len(line) < MAX_LINE_BYTES
            if is_whole and not is_rest:
                self._tell(side, line)
            elif not is_rest:
                self.n_long += 1
                self._tell(side, b"")
            is_rest = not is_whole
            target.write(line)
            target.flush()


def _pass_signals(server: subprocess.Popen[bytes]) -> None:
    """Have the signals that end this process end the server, which then ends this process."""

    def handle(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            server.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        # What this process ignores, the server ignores as well.
        if signal.getsignal(number) == signal.SIG_IGN:
            continue
        # Another thread than the main one may not handle signals.
        with contextlib.suppress(ValueError, OSError):
            signal.signal(number, handle)
