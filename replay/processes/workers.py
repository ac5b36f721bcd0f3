"""Apply a function to many items in worker processes; results keep their order."""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from trajrec.errors import RecordedError, is_of_user_code
from trajrec.replay.processes.child import ChildChannel, ChildProcess, dumps
from trajrec.replay.processes.pickles import by_value
from trajrec.types import Value
from trajrec.values import codec

A = TypeVar("A")
B = TypeVar("B")

# An item whose worker ended gets a second chance: another item of that worker may have been the
# cause, or another program that took the memory.
TRIES = 2

# Items that may be taken for each worker before the first of them is done: enough that a slow item
# does not stop the other workers, and few, because items and results are held in memory.
PREFETCH = 8


def thread_limits(jobs: int) -> dict[str, str]:
    """Return the environment variables that share this machine's cores among processes.

    Numerical libraries start a thread for each core in each process, which then wait for each
    other: two processes with a network of PyTorch were ten times slower than one. Variables that
    the caller has set stay.

    Args:
        jobs: The number of processes.
    """
    n_threads = str(max(1, (os.cpu_count() or 1) // jobs))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {name: n_threads for name in names if name not in os.environ}


class WorkerDied:
    """Stands for the result of an item if each worker that had it ended.

    Attributes:
        why: How the last worker ended.
    """

    def __init__(self, why: str) -> None:
        self.why = why


class Worker(ChildProcess):
    """A process that applies a function to items.

    Args:
        function: The function, pickled. It is sent once, so its own caches stay with the worker.
        settings: Environment variables of the process in addition to those of this one.

    Attributes:
        numbers: The numbers of the items that the worker has and did not return.
    """

    def __init__(self, function: bytes, settings: dict[str, str] | None = None) -> None:
        super().__init__("trajrec.replay.processes.workers:main", settings)
        self.numbers: list[int] = []
        self.send(function)

    def give(self, number: int, item: Value) -> None:
        """Send an item."""
        self.numbers.append(number)
        # The item apart, so that one that cannot be unpickled has a number still.
        self.send(pickle.dumps((number, by_value(item))))

    def results(self) -> tuple[list[tuple[int, Value]], bool]:
        """Wait for data.

        Returns:
            The results that have arrived, each with the number of its item, and whether the worker
            is alive.
        """
        results, is_alive = self.receive()
        for number, _ in results:
            self.numbers.remove(number)
        return results, is_alive


def map_ordered(
    function: Callable[[A], B],
    items: Iterable[A],
    jobs: int,
    *,
    settings: dict[str, str] | None = None,
) -> Iterator[B | WorkerDied]:
    """Yield the results of a function in the order of its items.

    If a worker ends, its item is given to another worker; if that one ends too, a `WorkerDied` is
    yielded in the place of the result.

    Args:
        function: Pickled by name or by value. Its exceptions are raised here.
        items: Read as they are needed.
        jobs: The number of worker processes.
        settings: Environment variables of the workers in addition to those of this process.
    """
    with contextlib.closing(WorkerPool[A, B](function, jobs, settings=settings)) as pool:
        yield from pool.map(items)


class WorkerPool(Generic[A, B]):
    """Workers that stay for several rounds of items. They start with the first round.

    Args:
        function: See `map_ordered`.
        jobs: See `map_ordered`.
        settings: See `map_ordered`.
    """

    def __init__(
        self, function: Callable[[A], B], jobs: int, *, settings: dict[str, str] | None = None
    ) -> None:
        self._function = by_value(function)
        self._settings = settings
        self._jobs = jobs
        self._source: Iterator[tuple[int, A]] = iter(())
        self._is_exhausted = True
        self._max_items = jobs * PREFETCH
        self._unfinished: dict[int, A] = {}
        self._tries: dict[int, int] = {}
        self._retries: list[int] = []
        self._results: dict[int, B | WorkerDied | BaseException] = {}
        self._n_yielded = 0
        self._workers: list[Worker] = []
        self._selector = selectors.DefaultSelector()

    def map(self, items: Iterable[A]) -> Iterator[B | WorkerDied]:
        """Yield the results of one round; see `map_ordered`.

        The round before must have ended: by its last result, an exception, or `close` of its
        iterator.
        """
        self._source = enumerate(items, self._n_yielded)
        self._is_exhausted = False
        try:
            self._feed_all()
            while len(self._workers) < self._jobs:
                self._start_worker()
            while self._has_work:
                self._wait()
                yield from self._take_results()
                # The caller may have taken its time with the results.
                self._feed_all()
        finally:
            if self._has_work or self._results:
                self._abandon()

    def close(self) -> None:
        """End the workers. Closing twice is harmless."""
        self._end_workers()
        self._selector.close()

    def _abandon(self) -> None:
        """Forget the items of a round that was broken off: their workers may still be busy."""
        self._end_workers()
        self._n_yielded += len(self._unfinished) + len(self._results)
        self._is_exhausted = True
        for items in (self._unfinished, self._results, self._tries):
            items.clear()
        self._retries.clear()

    def _end_workers(self) -> None:
        for worker in self._workers:
            # A forked process shares what the selector waits for with its parent.
            if worker.is_own:
                # One whose start or end an exception has broken off is not there.
                with contextlib.suppress(KeyError):
                    self._selector.unregister(worker.out)
            worker.close()
        self._workers.clear()

    @property
    def _has_work(self) -> bool:
        """Whether an item is not finished or not read."""
        return bool(self._unfinished) or not self._is_exhausted

    def _wait(self) -> None:
        """Wait until a worker sends something or ends; give it, or a new worker, more work."""
        for started in self._workers:
            started.check_own()
        for key, _ in self._selector.select():
            worker: Worker = key.data
            results, is_alive = worker.results()
            for number, result in results:
                self._finish(number, result)
            if is_alive:
                self._feed(worker)
            else:
                self._replace(worker)

    def _take_results(self) -> Iterator[B | WorkerDied]:
        """Yield the results that are next in the order of items; raise an exception among them."""
        while self._n_yielded in self._results:
            result = self._results.pop(self._n_yielded)
            self._n_yielded += 1
            if isinstance(result, BaseException):
                raise result
            yield result

    def _feed_all(self) -> None:
        """Give each idle worker an item."""
        for worker in self._workers:
            self._feed(worker)

    def _feed(self, worker: Worker) -> None:
        """Give an idle worker one item.

        It gets no second one in advance: at the end another worker would wait for that item.
        """
        if worker.numbers:
            return
        if self._retries:
            number = self._retries.pop(0)
            worker.give(number, self._unfinished[number])
        elif not self._is_exhausted and self._n_held < self._max_items:
            numbered = next(self._source, None)
            if numbered is None:
                self._is_exhausted = True
                return
            number, item = numbered
            self._unfinished[number] = item
            worker.give(number, item)

    @property
    def _n_held(self) -> int:
        """The number of items and results in memory."""
        return len(self._unfinished) + len(self._results)

    def _finish(self, number: int, result: B | WorkerDied | BaseException) -> None:
        self._results[number] = result
        self._unfinished.pop(number)

    def _replace(self, worker: Worker) -> None:
        """Replace a worker that ended, and try its item again."""
        self._selector.unregister(worker.out)
        self._workers.remove(worker)
        ending = worker.close()
        for number in worker.numbers:
            self._tries[number] = self._tries.get(number, 0) + 1
            if self._tries[number] < TRIES:
                self._retries.append(number)
            else:
                self._finish(number, WorkerDied(f"its worker ended {TRIES} times: {ending}"))
        if self._has_work:
            self._start_worker()

    def _start_worker(self) -> None:
        worker = Worker(self._function, self._settings)
        self._workers.append(worker)
        self._selector.register(worker.out, selectors.EVENT_READ, worker)
        self._feed(worker)


def main() -> None:
    """Apply the function that the caller sends to the items that it sends afterwards.

    This is the main function of a `Worker`.
    """
    channel = ChildChannel()
    sent = channel.receive() or b""
    function: Callable[[Value], Value] | None = None
    while (data := channel.receive()) is not None:
        number, sent_item = pickle.loads(data)
        try:
            if function is None:
                function = _received(sent)
            result = function(_received(sent_item))
        except Exception as exc:
            if is_of_user_code(exc):
                # A pickle keeps no traceback, and its author looks for the line.
                exc.add_note(f"In another process:\n{''.join(traceback.format_exception(exc))}")
            result = _sendable(exc)
        channel.send((number, result), _unsendable(number))


def _received(data: bytes) -> Value:
    """Return what the caller sent.

    Raises:
        TypeError: It cannot be made here, e.g. since its module cannot be imported.
    """
    try:
        return pickle.loads(data)
    except Exception as exc:
        raise TypeError(
            f"a function or value cannot be unpickled in a worker process: {type(exc).__name__}: {exc}; "
            "define its class in a module that the worker can import, or use jobs=1"
        ) from exc


def _sendable(exc: Exception) -> Exception:
    """Return an exception that can be made again from its pickle.

    One whose constructor takes other arguments than it passes on cannot, which shows only in the
    process that reads the pickle.
    """
    try:
        pickle.loads(dumps(exc))
    except Exception:
        name = codec.type_name(exc)
        try:
            message = str(exc)
        except Exception:
            message = "<exception str() failed>"
        told = RecordedError(name, message)
        told.add_note(f"Raised as {name}, which cannot be made again from its pickle.")
        for note in getattr(exc, "__notes__", ()):
            told.add_note(note)
        return told
    return exc


def _unsendable(number: int) -> Callable[[Exception], tuple[int, TypeError]]:
    """Return a function, bound to this number, that makes the result of a failed pickling."""
    return lambda exc: (number, TypeError(f"the result cannot be sent back: {exc}"))
