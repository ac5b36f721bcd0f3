"""Processes that are spoken to in frames over their stdin and stdout, and that leave nothing behind when they are ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any, BinaryIO

import cloudpickle

from trajrec.replay.processes.registry import register, registered

LENGTH = struct.Struct("<Q")

_NO_RANDOM_ADDRESSES = 0x0040000
_SET_PARENT_DEATH_SIGNAL = 1
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
"""Looked up once: each forked child that did so would copy a hundred pages of its own."""


class SubprocessError(Exception):
    """A function could not be called in another process, or raised there."""


def call_in_subprocess(
    function: Callable[..., Any],
    *arguments: Any,
    settings: dict[str, str] | None = None,
    folder: str | None = None,
    fixed_addresses: bool = False,
) -> Any:
    """Return what a function returns in a fresh process of its own.

    Args:
        function: Sent by name or by value, as its arguments are.
        arguments: Its arguments.
        settings: Environment variables of the process; an empty one is left out.
        folder: Its working folder; by default this one's.
        fixed_addresses: Whether its addresses are not drawn (Linux).

    Raises:
        ElsewhereError: It cannot be sent, or raised there.
    """
    wanted = settings or {}
    variables = {
        name: value
        for name, value in {**os.environ, **wanted}.items()
        if value or name not in wanted
    }
    paths = [os.path.abspath(path) for path in sys.path]
    try:
        sent = (
            pickle.dumps(paths)
            + pickle.dumps(registered())
            + cloudpickle.dumps((function, arguments))
        )
    except Exception as exc:
        raise SubprocessError(f"it cannot be sent to another process: {exc}") from exc
    # Files, not pipes: how much comes at a time would decide where the process puts things, and a pipe that a process of its
    # own inherits stays open for as long as that one runs.
    with (
        tempfile.TemporaryFile() as file,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as errors,
    ):
        file.write(sent)
        file.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-c", "from trajrec.replay.processes.child import answer; answer()"],
            stdin=file,
            stdout=out,
            stderr=errors,
            cwd=folder,
            env=variables,
            start_new_session=True,  # so that what it started can be ended with it
            preexec_fn=_fix_addresses if fixed_addresses and sys.platform == "linux" else None,
        )
        try:
            status = process.wait()
        finally:
            _end(process)
        out.seek(0)
        errors.seek(0)
        answered = out.read()
        if status or not answered:
            lines = errors.read().decode(errors="replace").strip().splitlines()
            raise SubprocessError(
                lines[-1] if lines else f"its process ended with status {status} and no result"
            )
    return pickle.loads(answered)


def answer() -> None:
    """Call the function that stdin brings; write what it returns to stdout."""
    die_with_parent()
    source, out = _take_over_stdio()
    sys.path[:] = pickle.load(source)
    register(pickle.load(source))
    function, arguments = pickle.load(source)
    pickle.dump(function(*arguments), out)
    out.flush()


def die_with_parent() -> None:
    """Have the kernel end this process when the one that started it ends, however busy it is then (Linux)."""
    if _PRCTL is not None:
        _PRCTL(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _take_over_stdio() -> tuple[BinaryIO, BinaryIO]:
    """Return this process's stdin and stdout. From then on the former is empty and the latter is stderr: what an environment
    starts inherits them, and would read what is meant for this process, or wait for it."""
    source, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, out


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that has a session of its own, and all that it started there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
    process.wait()


def _fix_addresses() -> None:
    ctypes.CDLL(None).personality(_NO_RANDOM_ADDRESSES)


class ChildProcess:
    """A Python process of our own.

    Args:
        entry: "module:function" of trajrec that it runs; see `Caller` for its side.
        settings: Environment variables for it.
    """

    def __init__(self, entry: str, settings: dict[str, str] | None = None) -> None:
        module, _, function = entry.partition(":")
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {module} import {function}; {function}()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # so that it and all that it forks can be ended together
            env={**os.environ, **(settings or {})},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._input, self.out = self.process.stdin, self.process.stdout
        self._received = bytearray()
        self.send(pickle.dumps(sys.path))
        self.send(registered())

    def send(self, data: bytes) -> None:
        """Send a frame; where the process is gone, that is seen when it is received from."""
        with contextlib.suppress(BrokenPipeError):
            self._input.write(LENGTH.pack(len(data)) + data)
            self._input.flush()

    def receive(self) -> tuple[list[Any], bool]:
        """Return the objects that have come, and whether more may come. Waits where nothing has."""
        data = os.read(self.out.fileno(), 1 << 20)
        self._received += data
        found = []
        while len(self._received) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._received)
            if len(self._received) < LENGTH.size + size:
                break
            found.append(pickle.loads(bytes(self._received[LENGTH.size : LENGTH.size + size])))
            del self._received[: LENGTH.size + size]
        return found, bool(data)

    def close(self) -> str:
        """End the process and all that it forked; return how it had ended by itself, if it had."""
        status = self.process.poll()
        _end(self.process)
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        self.out.close()
        status = self.process.returncode if status is None else status
        return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"


class ChildChannel:
    """The other side: what a child that `ChildProcess` started says it to. Stdin and stdout are not the environment's."""

    def __init__(self) -> None:
        die_with_parent()
        self._source, self._out = _take_over_stdio()
        if hasattr(os, "register_at_fork"):
            # What an environment forks would hold the pipe open, and the end of this process would not be seen.
            os.register_at_fork(after_in_child=self._let_go)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller decides what an interrupt ends
        sys.path[:] = pickle.loads(self.receive() or b"")
        register(self.receive() or b"")

    def _let_go(self) -> None:
        self._source.close()
        self._out.close()

    def receive(self) -> bytes | None:
        """Return a frame; None where the caller has no more."""
        head = self._source.read(LENGTH.size)
        return None if len(head) < LENGTH.size else self._source.read(LENGTH.unpack(head)[0])

    def send(self, value: Any, instead: Callable[[Exception], Any] = lambda exc: exc) -> None:
        """Send an object; where it cannot be pickled, what `instead` makes of why."""
        try:
            data = pickle.dumps(value)
        except Exception as exc:
            data = pickle.dumps(instead(exc))
        self._out.write(LENGTH.pack(len(data)) + data)
        self._out.flush()
