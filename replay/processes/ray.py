"""The same work as Ray tasks: near the data, on as many machines as the cluster has."""

from __future__ import annotations

import collections
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from trajrec.errors import MissingPackageError
from trajrec.replay.processes.registry import register, registered
from trajrec.replay.processes.workers import WorkerDied

A = TypeVar("A")
B = TypeVar("B")

RETRIES = 1
AHEAD = 4
"""Tasks in flight for each that runs."""


def map_on_ray(
    function: Callable[[A], B], things: Iterable[A], jobs: int
) -> Iterator[B | WorkerDied]:
    """Yield a function's results, in the order of what it is applied to, as Ray tasks of one processor each.

    Uses the cluster that this process is connected to; where it is to none, Ray starts one of `jobs` processors here.

    Raises:
        MissingPackageError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as exc:
        raise MissingPackageError("ray", "ray") from exc
    is_own = not ray.is_initialized()
    if is_own:
        # What this process can import, its workers here can.
        paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}
        ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False, runtime_env=paths)
    known = registered()
    try:

        @ray.remote(num_cpus=1, max_retries=RETRIES)  # type: ignore[untyped-decorator]
        def task(thing: A) -> B:
            register(known)
            return function(thing)

        waiting: collections.deque[Any] = collections.deque()
        source = iter(things)
        is_over = False
        while waiting or not is_over:
            while not is_over and len(waiting) < jobs * AHEAD:
                try:
                    waiting.append(task.remote(next(source)))
                except StopIteration:
                    is_over = True
            if waiting:
                try:
                    yield ray.get(waiting.popleft())
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as exc:
                    yield WorkerDied(
                        f"its Ray worker ended {RETRIES + 1} times: {type(exc).__name__}"
                    )
                except ray.exceptions.RayTaskError as exc:
                    raise (exc.cause if exc.cause is not None else exc) from exc
    finally:
        if is_own:
            ray.shutdown()
