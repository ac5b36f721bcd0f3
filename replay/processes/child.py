"""Start Python processes, exchange frames with them, and end them with all that they started.

Frames travel over the stdin and stdout of a process: the length (8 bytes, little end first), then
the data. The environment in the process gets an empty stdin, and stderr as its stdout: programs
that it starts inherit both, and would otherwise read or write frames.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import functools
import os
import pickle
import queue
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import BinaryIO, TypeAlias

from trajrec.replay.processes.pickles import by_value
from trajrec.replay.processes.registry import register, registered
from trajrec.types import Value

LENGTH = struct.Struct("<Q")

# The most that is read from a pipe at once. A pipe of Linux holds 64 KiB unless it was enlarged.
READ_BYTES = 1 << 20

# ADDR_NO_RANDOMIZE of <sys/personality.h> and PR_SET_PDEATHSIG of <sys/prctl.h>.
_NO_RANDOM_ADDRESSES = 0x0040000
_SET_PARENT_DEATH_SIGNAL = 1

# Looked up once, before forking: each forked child that did so would copy a hundred pages of memory.
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def readable(pipes: Iterable[int], wait_s: float) -> list[int]:
    """Return the pipes that have data or have ended, as soon as one has, or none after a time.

    Unlike `select.select` it takes descriptors above 1023, of which a training run may have many.
    """
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ)
        return [key.fd for key, _ in selector.select(wait_s)]


class SubprocessError(Exception):
    """A function could not be sent to another process, or raised there."""


def call_in_subprocess(
    function: Callable[..., Value],
    *arguments: Value,
    settings: Mapping[str, str | None] | None = None,
    folder: str | None = None,
    fixed_addresses: bool = False,
) -> Value:
    """Call a function in a fresh process and return its result.

    Args:
        function: The function; pickled by name or by value, as its arguments are.
        arguments: The arguments of the function.
        settings: Environment variables of the process in addition to those of this one. None
            removes a variable.
        folder: The working folder of the process; None for the folder of this process.
        fixed_addresses: Whether the process gets the same memory addresses each time (Linux only).

    Raises:
        SubprocessError: The function cannot be pickled, raised, or ended the process. The message
            has the last line of the process's stderr.
    """
    variables = {
        name: value
        for name, value in {**os.environ, **(settings or {})}.items()
        if value is not None
    }
    # Absolute: the process may have another working folder.
    paths = [os.path.abspath(path) for path in sys.path]
    try:
        call = by_value((function, arguments))
    except Exception as exc:
        raise SubprocessError(f"it cannot be sent to another process: {exc}") from exc
    # Files and no pipes. The sizes in which a pipe delivers its data would decide the memory
    # addresses in the process, and a program that the environment starts would hold a pipe open
    # for as long as it runs.
    with (
        tempfile.TemporaryFile() as request,
        tempfile.TemporaryFile() as reply,
        tempfile.TemporaryFile() as errors,
    ):
        # Of a fixed size: other sizes would be other memory addresses.
        own_id = LENGTH.pack(os.getpid())
        request.write(own_id + pickle.dumps(paths) + pickle.dumps(registered()) + call)
        request.seek(0)
        process = subprocess.Popen(
            _command(fixed_addresses=fixed_addresses),
            stdin=request,
            stdout=reply,
            stderr=errors,
            cwd=folder,
            env=variables,
            # A session of its own, so that all that it started can be ended with it.
            start_new_session=True,
        )
        try:
            status = process.wait()
        finally:
            _end(process)
        reply.seek(0)
        result = reply.read()
        if status or not result:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            raise SubprocessError(
                lines[-1] if lines else f"its process ended with status {status} and no result"
            )
    return pickle.loads(result)


def dumps(value: Value) -> bytes:
    """Return the pickle of a value for the process that started this one."""
    try:
        return pickle.dumps(value)
    except Exception:
        # A class of the script that the caller runs came here by value, and has no name here.
        return by_value(value)


def answer() -> None:
    """Call the function that stdin contains, and write its result to stdout.

    This is the main function of a process of `call_in_subprocess`.
    """
    die_with_parent()
    source, out = _take_over_stdio()
    end_if_orphan(*LENGTH.unpack(source.read(LENGTH.size)))
    # In this order: the paths find the modules of the registered environments, which the function
    # may need when it is unpickled.
    sys.path[:] = pickle.load(source)
    register(pickle.load(source))
    function, arguments = pickle.load(source)
    out.write(dumps(function(*arguments)))
    out.flush()


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends, even if it is busy (Linux only).

    To the kernel the parent is a thread: the one that started this process.
    """
    if _PRCTL is not None:
        _PRCTL(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def end_if_orphan(parent_id: int) -> None:
    """End this process if its parent had ended before `die_with_parent` (Linux only).

    Args:
        parent_id: The id of the process that started this one.
    """
    if _PRCTL is not None and os.getppid() != parent_id:
        os.kill(os.getpid(), signal.SIGKILL)


def _take_over_stdio() -> tuple[BinaryIO, BinaryIO]:
    """Return this process's stdin and stdout; leave an empty stdin, and stderr as stdout.

    Programs that an environment starts inherit those: they would read frames that are meant for
    this process, or wait for one.
    """
    source = os.fdopen(os.dup(0), "rb")
    out = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return source, out


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that has a session of its own, with all that it started there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _command(*, fixed_addresses: bool) -> list[str]:
    """Return the command of a process that runs `answer`."""
    code = "from trajrec.replay.processes.child import answer; answer()"
    if fixed_addresses and sys.platform == "linux":
        # Not by `preexec_fn`, which runs Python in a fork of this process: JAX warns of that, and
        # any thread may hold a lock in it.
        fix = f"ctypes.CDLL(None).personality({_NO_RANDOM_ADDRESSES})"
        again = "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
        return [sys.executable, "-c", f"import ctypes, os, sys; {fix}; {again}", code]
    return [sys.executable, "-c", code]


_Start: TypeAlias = Callable[[], "subprocess.Popen[bytes]"]


def _start_for_all_threads(start: _Start) -> subprocess.Popen[bytes]:
    """Start a process that does not end with the thread that asks for it; see `die_with_parent`."""
    if _PRCTL is None or threading.current_thread() is threading.main_thread():
        return start()
    started: Future[subprocess.Popen[bytes]] = Future()
    _starts(os.getpid()).put((start, started))
    return started.result()


@functools.cache
def _starts(_process_id: int) -> queue.SimpleQueue[tuple[_Start, Future[subprocess.Popen[bytes]]]]:
    """Return the queue of a thread that starts processes, and lasts as long as this process."""
    starts: queue.SimpleQueue[tuple[_Start, Future[subprocess.Popen[bytes]]]] = queue.SimpleQueue()

    def answer_one(start: _Start, started: Future[subprocess.Popen[bytes]]) -> None:
        try:
            started.set_result(start())
        except BaseException as exc:
            started.set_exception(exc)

    def run() -> None:
        while True:
            # In a function, so that this thread keeps no process that nobody else needs.
            answer_one(*starts.get())

    # Not by `threading`, to which it would be one of the program's threads, which may still record.
    _thread.start_new_thread(run, ())
    return starts


class ChildProcess:
    """A Python process that this process started and exchanges frames with.

    Args:
        entry: The main function of the process, "module:function"; it talks to this process
            through a `ChildChannel`.
        settings: Environment variables in addition to those of this process.

    Attributes:
        process: The process.
        out: The end of its stdout that this process reads; a selector can wait for it.
    """

    def __init__(self, entry: str, settings: dict[str, str] | None = None) -> None:
        self._owner = os.getpid()
        module, _, function = entry.partition(":")
        self.process = _start_for_all_threads(
            lambda: subprocess.Popen(
                [sys.executable, "-c", f"from {module} import {function}; {function}()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # A session of its own, so that all that it forked can be ended with it.
                start_new_session=True,
                env={**os.environ, **(settings or {})},
            )
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._input = self.process.stdin
        self.out = self.process.stdout
        self._received = bytearray()
        self.send(pickle.dumps(self._owner))
        self.send(pickle.dumps(sys.path))
        self.send(registered())

    @property
    def is_own(self) -> bool:
        """Whether this process has started it, and not one that this process was forked from."""
        return self._owner == os.getpid()

    def check_own(self) -> None:
        """Raise an error in a forked process: what it read would be missing in its parent.

        Raises:
            RuntimeError: This process has not started it.
        """
        if not self.is_own:
            raise RuntimeError(
                "the worker processes belong to the process that this one was forked from: "
                "begin anew in this one"
            )

    def send(self, data: bytes) -> None:
        """Send a frame. If the process has ended, `receive` tells it."""
        self.check_own()
        with contextlib.suppress(BrokenPipeError):
            self._input.write(LENGTH.pack(len(data)) + data)
            self._input.flush()

    def receive(self) -> tuple[list[Value], bool]:
        """Wait for data.

        Returns:
            The objects that have arrived whole, and whether the process can send more.
        """
        self.check_own()
        data = os.read(self.out.fileno(), READ_BYTES)
        self._received += data
        objects = []
        while len(self._received) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._received)
            end = LENGTH.size + size
            if len(self._received) < end:
                break
            objects.append(pickle.loads(bytes(self._received[LENGTH.size : end])))
            del self._received[:end]
        return objects, bool(data)

    def close(self) -> str:
        """End the process and all that it forked; return how it ended.

        A forked process closes its copies of the pipes alone.
        """
        if not self.is_own:
            self._input.close()
            self.out.close()
            return "in the process that started it"
        status = self.process.poll()
        _end(self.process)
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        self.out.close()
        # The status from before the kill, if the process had ended by itself.
        status = self.process.returncode if status is None else status
        return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"


class ChildChannel:
    """The child's side of a `ChildProcess`: receives and sends frames.

    Creating it takes over stdin and stdout, so that the environment cannot use them.
    """

    def __init__(self) -> None:
        die_with_parent()
        self._source, self._out = _take_over_stdio()
        if hasattr(os, "register_at_fork"):
            # A process that the environment forks would hold the pipe open, and the caller would
            # not notice the end of this process.
            os.register_at_fork(after_in_child=self._close)
        # The caller decides which processes an interrupt ends.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_if_orphan(pickle.loads(self.receive() or b""))
        sys.path[:] = pickle.loads(self.receive() or b"")
        register(self.receive() or b"")

    def _close(self) -> None:
        self._source.close()
        self._out.close()

    def receive(self) -> bytes | None:
        """Return the next frame; None if the caller sends no more."""
        head = self._source.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return None
        return self._source.read(LENGTH.unpack(head)[0])

    def send(self, value: Value, instead: Callable[[Exception], Value] = lambda exc: exc) -> None:
        """Send an object.

        Args:
            value: The object.
            instead: Makes the object to send if `value` cannot be pickled, from the exception.
        """
        try:
            data = dumps(value)
        except Exception as exc:
            data = pickle.dumps(instead(exc))
        self._out.write(LENGTH.pack(len(data)) + data)
        self._out.flush()
