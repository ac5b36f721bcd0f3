"""Worker processes: a function applied to many things, results in order, whatever dies on the way."""

from __future__ import annotations

import contextlib
import pickle
import selectors
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import cloudpickle

from trajrec.replay.processes.child import ChildChannel, ChildProcess

A = TypeVar("A")
B = TypeVar("B")

TRIES = 2
PREFETCH = 8
"""Things that may be taken for each worker before the first of them is done."""


class WorkerDied:
    """In the place of a result: the workers that it was given to ended."""

    def __init__(self, why: str) -> None:
        self.why = why


class Worker(ChildProcess):
    """A process that applies a function.

    Args:
        function: Pickled; sent once, so that what it keeps stays with the worker.
    """

    def __init__(self, function: bytes) -> None:
        super().__init__("trajrec.replay.processes.workers:main")
        self.given: list[int] = []
        self.send(function)

    def give(self, number: int, thing: Any) -> None:
        """Send something to work on."""
        self.given.append(number)
        self.send(cloudpickle.dumps((number, thing)))

    def results(self) -> tuple[list[tuple[int, Any]], bool]:
        """Return the results that have come, and whether more may come."""
        found, has_more = self.receive()
        for number, _ in found:
            self.given.remove(number)
        return found, has_more


def map_ordered(
    function: Callable[[A], B], things: Iterable[A], jobs: int
) -> Iterator[B | WorkerDied]:
    """Yield a function's results, in the order of what it is applied to.

    A thing whose worker ends is given to another one; a second end is reported in its place. An exception of the
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
            """Give it one thing, not a second to find when it is done: at the end another worker would wait for that."""
            nonlocal is_over
            if worker.given:
                return
            if again:
                worker.give(again[0], waiting[again.pop(0)])
            elif not is_over and len(waiting) + len(results) < jobs * PREFETCH:
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
                found, is_alive = worker.results()
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
                        results[number] = WorkerDied(f"its worker ended {TRIES} times: {why}")
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
    """Apply a function that the caller sends to what it sends after it, until it sends no more."""
    caller = ChildChannel()
    function = pickle.loads(caller.receive() or b"")
    while (data := caller.receive()) is not None:
        number, thing = pickle.loads(data)
        try:
            result = function(thing)
        except Exception as exc:
            result = exc
        caller.send((number, result), _unsendable(number))


def _unsendable(number: int) -> Callable[[Exception], Any]:
    return lambda exc: (number, TypeError(f"the result cannot be sent back: {exc}"))
