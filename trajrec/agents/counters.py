"""Numbers for steps, calls and attempts, from any thread or task; and retries, which make attempts of what would be calls."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

from trajrec.log.events import RetryBy
from trajrec.log.schema import EpisodeStart, Fork

Exceptions = type[BaseException] | tuple[type[BaseException], ...]


class Place(NamedTuple):
    """Where a call belongs, and who tries it again."""

    step: int
    call: int
    attempt: int = 0
    by: RetryBy = ""
    backoff_ns: int = 0


class Origin(NamedTuple):
    """Where an episode goes on from: see `trajrec.rerun`.

    Attributes:
        fork: Its parent and step.
        start: The parent's reset.
        steps: The count, which goes on.
        prepare: Brings the world, which was just reset, there.
    """

    fork: Fork
    start: EpisodeStart
    steps: Steps
    prepare: Callable[[Any], None]


class Retries:
    """What several tries have in common: the calls made in one are attempts of those made in the first, in order."""

    def __init__(self, by: RetryBy) -> None:
        self.by, self.attempt, self.backoff_ns = by, 0, 0
        self.ended_ns = 0
        self.calls: list[tuple[int, int]] = []
        self.has_model = self.has_succeeded = False
        self._next = 0

    def begin(self, attempt: int) -> None:
        """Begin a try."""
        self.attempt, self._next = attempt, 0
        self.backoff_ns = time.monotonic_ns() - self.ended_ns if attempt else 0

    def next_call(self) -> tuple[int, int] | None:
        """Return step and call of what the next call of this try repeats, None for a new one."""
        index, self._next = self._next, self._next + 1
        return self.calls[index] if self.attempt and index < len(self.calls) else None


_RETRIES: contextvars.ContextVar[Retries | None] = contextvars.ContextVar(
    "trajrec_retries", default=None
)


class Steps:
    """Counts an episode's steps, calls and model calls.

    A model call begins a step, to which the calls after it belong; a call without one is a step of its own.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.step = -1
        self._calls = self._models = 0
        self._is_decided = False

    @contextlib.contextmanager
    def grouped(self) -> Iterator[int]:
        """Let all calls within be one step."""
        try:
            with self.lock:
                self._decide()
            yield self.step
        finally:
            self._is_decided = False

    def mark(self) -> tuple[int, int, int, bool]:
        """Return where the count stands, for `back_to`."""
        return self.step, self._calls, self._models, self._is_decided

    def back_to(self, mark: tuple[int, int, int, bool]) -> None:
        """Count on from where the count stood."""
        self.step, self._calls, self._models, self._is_decided = mark

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
            self._decide()
        if retries is not None:
            retries.has_model = True
        self._models += 1
        return self._models - 1, attempt, by  # type: ignore[return-value]

    def _decide(self) -> None:
        self._next()
        self._is_decided = True

    def _next(self) -> None:
        self.step, self._calls = self.step + 1, 0


class Tries:
    """Tries of the scaffold, to iterate over, with `for` or `async for`: one more after each that failed.

    Args:
        plan: How many in all, or tenacity's Retrying or AsyncRetrying, which then decides.
        wait: Seconds between them.
        on: What is tried again; the last try raises it.
    """

    def __init__(self, plan: Any, wait: float, on: Exceptions) -> None:
        self._plan, self._wait, self._on = plan, wait, on
        self._retries = Retries("scaffold")

    def __iter__(self) -> Iterator[contextlib.AbstractContextManager[None]]:
        if not isinstance(self._plan, int):
            for number, attempt in enumerate(self._plan):
                yield self._begin(number, attempt)
            return
        for number in range(self._plan):
            if number:
                time.sleep(self._wait)
            yield self._begin(number, self._suppressing(number))
            if self._retries.has_succeeded:
                return

    async def __aiter__(self) -> AsyncIterator[contextlib.AbstractContextManager[None]]:
        if not isinstance(self._plan, int):
            number = 0
            async for attempt in self._plan:
                yield self._begin(number, attempt)
                number += 1
            return
        for number in range(self._plan):
            if number:
                await asyncio.sleep(self._wait)
            yield self._begin(number, self._suppressing(number))
            if self._retries.has_succeeded:
                return

    def _begin(
        self, number: int, attempt: contextlib.AbstractContextManager[Any]
    ) -> contextlib.AbstractContextManager[None]:
        self._retries.begin(number)
        return _one_try(self._retries, attempt)

    def _suppressing(self, number: int) -> contextlib.AbstractContextManager[None]:
        is_last = number == self._plan - 1
        return contextlib.suppress(
            *(() if is_last else self._on if isinstance(self._on, tuple) else (self._on,))
        )


@contextlib.contextmanager
def _one_try(retries: Retries, attempt: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    token = _RETRIES.set(retries)
    try:
        with attempt:
            yield
            retries.has_succeeded = True
    finally:
        _RETRIES.reset(token)
        retries.ended_ns = time.monotonic_ns()
