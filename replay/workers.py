"""Worker processes: a function applied to many things, results in order, whatever dies on the way."""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import cloudpickle

A = TypeVar("A")
B = TypeVar("B")

LENGTH = struct.Struct("<Q")
TRIES = 2
AHEAD = 2
"""Things that a worker is given at once: one to work on, one to find when it is done."""


class Died:
    """In the place of a result: the workers that it was given to ended."""

    def __init__(self, why: str) -> None:
        self.why = why


class Worker:
    """A process that applies a function.

    Args:
        function: Sent once; what it keeps stays with the worker.
    """

    def __init__(self, function: bytes) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from trajrec.replay.workers import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.out = self.process.stdin, self.process.stdout
        self.given: list[int] = []
        self._buffer = bytearray()
        self._send(pickle.dumps(sys.path))
        self._send(function)

    def give(self, number: int, thing: Any) -> None:
        """Send something to work on."""
        self.given.append(number)
        self._send(cloudpickle.dumps((number, thing)))

    def receive(self) -> tuple[list[tuple[int, Any]], bool]:
        """Return the results that have come, and whether more may come."""
        data = os.read(self.out.fileno(), 1 << 20)
        self._buffer += data
        found = []
        while len(self._buffer) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._buffer)
            if len(self._buffer) < LENGTH.size + size:
                break
            number, result = pickle.loads(bytes(self._buffer[LENGTH.size : LENGTH.size + size]))
            del self._buffer[: LENGTH.size + size]
            self.given.remove(number)
            found.append((number, result))
        return found, bool(data)

    def close(self) -> str:
        """End the process; return what it ended of, where it did so by itself."""
        status = self.process.poll()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.input.close()
        self.out.close()
        return _how(self.process.returncode if status is None else status)

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # its end is seen when it is read from
            self.input.write(LENGTH.pack(len(data)) + data)
            self.input.flush()


def map_ordered(function: Callable[[A], B], things: Iterable[A], jobs: int) -> Iterator[B | Died]:
    """Yield a function's results, in the order of what it is applied to.

    A thing whose worker ends is given to another one, alone; a second end is reported in its place. An exception of the
    function is raised here.

    Args:
        function: Picklable by value or by name.
        things: Taken as they are needed.
        jobs: Worker processes.
    """
    sent = cloudpickle.dumps(function)
    source = enumerate(things)
    waiting: dict[int, Any] = {}
    tries: dict[int, int] = {}
    again: list[int] = []
    results: dict[int, Any] = {}
    workers: list[Worker] = []
    next_, is_over = 0, False
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        stack.callback(lambda: [worker.close() for worker in workers])

        def feed(worker: Worker) -> None:
            nonlocal is_over
            # What killed a worker is tried alone: it must not take another thing with it once more.
            while again and not worker.given:
                worker.give(again[0], waiting[again.pop(0)])
                return
            while not again and not is_over and len(worker.given) < AHEAD and len(waiting) + len(results) < jobs * AHEAD * 4:
                found = next(source, None)
                if found is None:
                    is_over = True
                    return
                waiting[found[0]] = found[1]
                worker.give(*found)

        def start() -> None:
            workers.append(Worker(sent))
            selector.register(workers[-1].out, selectors.EVENT_READ, workers[-1])
            feed(workers[-1])

        for _ in range(jobs):
            start()
        while waiting or not is_over:
            for key, _ in selector.select():
                worker: Worker = key.data
                found, is_alive = worker.receive()
                for number, result in found:
                    results[number] = result
                    waiting.pop(number)
                if is_alive:
                    feed(worker)
                    continue
                selector.unregister(worker.out)
                workers.remove(worker)
                why = worker.close()
                for number in worker.given:
                    tries[number] = tries.get(number, 0) + 1
                    if tries[number] < TRIES:
                        again.append(number)
                    else:
                        results[number] = Died(f"its worker ended {TRIES} times: {why}")
                        waiting.pop(number)
                if waiting or not is_over:
                    start()
            while next_ in results:
                result = results.pop(next_)
                next_ += 1
                if isinstance(result, BaseException):
                    raise result
                yield result
            for worker in workers:
                feed(worker)


def main() -> None:
    """Apply a function that stdin brings to what stdin brings after it, until it ends."""
    out = os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source = sys.stdin.buffer
    sys.path[:] = pickle.loads(_read(source) or b"")
    function = pickle.loads(_read(source) or b"")
    while (data := _read(source)) is not None:
        number, thing = pickle.loads(data)
        try:
            result = function(thing)
        except Exception as exc:
            result = exc
        try:
            reply = pickle.dumps((number, result))
        except Exception as exc:
            reply = pickle.dumps((number, TypeError(f"the result cannot be sent back: {exc}")))
        os.write(out, LENGTH.pack(len(reply)))
        while reply:
            reply = reply[os.write(out, reply) :]


def _read(source: Any) -> bytes | None:
    head = source.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    data: bytes = source.read(LENGTH.unpack(head)[0])
    return data


def _how(status: int) -> str:
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
