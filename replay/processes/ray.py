"""Apply a function to many items as Ray tasks: near the data, on all machines of a cluster."""

from __future__ import annotations

import collections
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from trajrec.errors import MissingPackageError
from trajrec.replay.processes.registry import register, registered
from trajrec.replay.processes.workers import WorkerDied
from trajrec.types import Value

A = TypeVar("A")
B = TypeVar("B")

# Ray retries a task whose worker ended; as with local workers, an item is tried twice.
RETRIES = 1

# Tasks that are submitted for each that can run, so that a worker never waits for this process.
AHEAD = 4


def map_on_ray(
    function: Callable[[A], B], items: Iterable[A], jobs: int
) -> Iterator[B | WorkerDied]:
    """Yield the results of a function in the order of its items, from Ray tasks of one CPU each.

    Args:
        function: Pickled by name or by value. Its exceptions are raised here.
        items: Read as they are needed.
        jobs: The number of tasks at a time. If this process is connected to no cluster, Ray starts
            one of `jobs` CPUs on this machine.

    Raises:
        MissingPackageError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as exc:
        raise MissingPackageError("ray", "ray") from exc
    is_own = not ray.is_initialized()
    if is_own:
        # The workers on this machine can import what this process can.
        paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}
        ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False, runtime_env=paths)
    specs = registered()
    pending: collections.deque[Value] = collections.deque()
    try:

        @ray.remote(num_cpus=1, max_retries=RETRIES)  # type: ignore[untyped-decorator]
        def task(item: A) -> B:
            register(specs)
            return function(item)

        source = iter(items)
        is_exhausted = False
        while pending or not is_exhausted:
            while not is_exhausted and len(pending) < jobs * AHEAD:
                try:
                    pending.append(task.remote(next(source)))
                except StopIteration:
                    is_exhausted = True
            if not pending:
                continue
            answer: B | WorkerDied
            try:
                answer = ray.get(pending[0])
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as exc:
                answer = WorkerDied(
                    f"its Ray worker ended {RETRIES + 1} times: {type(exc).__name__}"
                )
            except ray.exceptions.RayTaskError as exc:
                # The exception of the function itself, as `map_ordered` raises it.
                raise (exc.cause if exc.cause is not None else exc) from exc
            pending.popleft()
            yield answer
    finally:
        if is_own:
            ray.shutdown()
        else:
            # Those that nobody waits for any more, after an exception or an interrupt.
            for left in pending:
                ray.cancel(left)
