"""Numbers for steps, calls and attempts, from any thread or task; and retries, which make attempts of what would be calls."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from trajrec.schema import RetryBy

Exceptions = type[BaseException] | tuple[type[BaseException], ...]


class Place(NamedTuple):
    """Where a call belongs, and who tries it again."""

    step: int
    call: int
    attempt: int = 0
    by: RetryBy = ""
    backoff_ns: int = 0


class Retries:
    """What several tries have in common: the calls made in one are attempts of those made in the first, in order."""

    def __init__(self, by: RetryBy) -> None:
        self.by, self.attempt, self.backoff_ns = by, 0, 0
        self.calls: list[tuple[int, int]] = []
        self.has_model = self.has_succeeded = False
        self._next = 0

    def begin(self, attempt: int) -> None:
        """Begin a try."""
        self.attempt, self._next = attempt, 0

    def next_call(self) -> tuple[int, int] | None:
        """Return step and call of what the next call of this try repeats, None for a new one."""
        index, self._next = self._next, self._next + 1
        return self.calls[index] if self.attempt and index < len(self.calls) else None


_RETRIES: contextvars.ContextVar[Retries | None] = contextvars.ContextVar("trajrec_retries", default=None)


class Steps:
    """Counts an episode's steps, calls and model calls.

    A model call begins a step, to which the calls after it belong; a call without one is a step of its own.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.step = -1
        self._calls = self._models = 0
        self._is_decided = False

    def begin(self) -> int:
        """Begin a step that takes all calls up to `end`."""
        with self.lock:
            self._next()
            self._is_decided = True
            return self.step

    def end(self) -> None:
        """Let the next call be a step of its own."""
        self._is_decided = False

    def place_call(self) -> Place:
        """Return where the next call belongs."""
        with self.lock:
            retries = _RETRIES.get()
            known = None if retries is None else retries.next_call()
            if retries is not None and known is not None:
                return Place(*known, retries.attempt, retries.by, retries.backoff_ns)
            if not self._is_decided:
                self._next()
            place = Place(self.step, self._calls)
            self._calls += 1
            if retries is not None:
                retries.calls.append(place[:2])
            return place

    def place_model(self) -> tuple[int, int, RetryBy]:
        """Begin a step for a model call; return the model call's number, its attempt, and who tries again."""
        retries = _RETRIES.get()
        attempt, by = 0, ""
        if retries is not None and retries.attempt and retries.has_model:
            attempt, by = retries.attempt, retries.by
        else:
            self.begin()
        if retries is not None:
            retries.has_model = True
        self._models += 1
        return self._models - 1, attempt, by  # type: ignore[return-value]

    def _next(self) -> None:
        self.step, self._calls = self.step + 1, 0


def tries(n: int, wait: float, on: Exceptions) -> Iterator[contextlib.AbstractContextManager[None]]:
    """Yield up to `n` tries of the scaffold, one after each that raised one of `on`; the last one raises it."""
    retries = Retries("scaffold")
    for attempt in range(n):
        retries.begin(attempt)
        yield _one_try(retries, () if attempt == n - 1 else on)
        if retries.has_succeeded:
            return
        begin = time.monotonic_ns()
        if wait:
            time.sleep(wait)
        retries.backoff_ns = time.monotonic_ns() - begin


@contextlib.contextmanager
def _one_try(retries: Retries, on: Exceptions) -> Iterator[None]:
    token = _RETRIES.set(retries)
    try:
        yield
        retries.has_succeeded = True
    except on:
        pass
    finally:
        _RETRIES.reset(token)
