"""Retries: the calls of a retried block become attempts of the calls of its first try."""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from trajrec.log.events import RetryBy

Exceptions: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]

# tenacity's Retrying yields context managers, its AsyncRetrying does so asynchronously.
RetryPlan: TypeAlias = (
    int | Iterable[AbstractContextManager[Any]] | AsyncIterable[AbstractContextManager[Any]]
)

TriesMark: TypeAlias = tuple[int, int, int, int | None]


class Tries:
    """The calls of one episode in the tries of a block, which may call several.

    Call k of a try repeats call k of the try in which the episode made its first one there.

    Args:
        attempt: Number of that try.
    """

    def __init__(self, attempt: int) -> None:
        self._first = attempt
        self._calls: list[tuple[int, int]] = []
        self._try = attempt
        self._n_calls = 0
        self._first_model: int | None = None

    def mark(self) -> TriesMark:
        """Return the count, for `rewind`."""
        return self._try, self._n_calls, len(self._calls), self._first_model

    def rewind(self, mark: TriesMark) -> None:
        """Set the count back to a mark."""
        self._try, self._n_calls, n_first, self._first_model = mark
        del self._calls[n_first:]

    def repeated_call(self, attempt: int) -> tuple[int, int] | None:
        """Return step and number of the call that the next one repeats; None if it repeats none."""
        if self._try != attempt:
            self._try = attempt
            self._n_calls = 0
        index = self._n_calls
        self._n_calls += 1
        is_repeated = attempt > self._first and index < len(self._calls)
        return self._calls[index] if is_repeated else None

    def add_call(self, step: int, call: int) -> None:
        """Note a call that repeats none."""
        self._calls.append((step, call))

    def repeats_model(self, attempt: int) -> bool:
        """Return whether a model call of a try repeats that of an earlier one; note it."""
        if self._first_model is None:
            self._first_model = attempt
        return attempt > self._first_model


class RetryState:
    """The tries of one block.

    Attributes:
        by: Who retries.
        attempt: Number of the current try, from 0.
        backoff_ns: Wait before it.
        ended_ns: Monotonic time at which the last try ended.
        has_succeeded: Whether a try ended without an exception.
    """

    def __init__(self, by: RetryBy) -> None:
        self.by = by
        self.attempt = 0
        self.backoff_ns = 0
        self.ended_ns = 0
        self.has_succeeded = False
        # By the counter of the episode: an episode that begins in a try repeats nothing.
        self._tries: dict[object, Tries] = {}

    def begin(self, attempt: int) -> None:
        """Begin a try."""
        self.attempt = attempt
        self.backoff_ns = time.monotonic_ns() - self.ended_ns if attempt else 0

    def of(self, counter: object) -> Tries:
        """Return the calls that a counter has counted."""
        tries = self._tries.get(counter)
        if tries is None:
            tries = self._tries[counter] = Tries(self.attempt)
        return tries


# A context variable, so that each task and each thread has retries of its own.
_STATE: contextvars.ContextVar[RetryState | None] = contextvars.ContextVar(
    "trajrec_retries", default=None
)


def current_retries() -> RetryState | None:
    """Return the retries that this task or thread is in; None outside of `AttemptLoop`."""
    return _STATE.get()


class AttemptLoop:
    """Tries of a block, for `for` or `async for`: one more after each try that failed.

    Args:
        plan: Number of tries, or tenacity's Retrying or AsyncRetrying, which then decides.
        wait: Seconds between two tries.
        on: Exceptions that are retried. The last try raises them.
    """

    def __init__(self, plan: RetryPlan, wait: float, on: Exceptions) -> None:
        self._plan = plan
        self._wait = wait
        self._on = on if isinstance(on, tuple) else (on,)
        self._state = RetryState("scaffold")

    def __iter__(self) -> Iterator[AbstractContextManager[None]]:
        plan = self._plan
        if isinstance(plan, int):
            for number in range(plan):
                if number:
                    time.sleep(self._wait)
                yield self._begin(number, self._suppress(number, plan))
                if self._state.has_succeeded:
                    return
        elif isinstance(plan, Iterable):
            for number, attempt in enumerate(plan):
                yield self._begin(number, attempt)
        else:
            raise TypeError(f"plan must be iterable for `for`, got {plan!r}; use `async for`")

    async def __aiter__(self) -> AsyncIterator[AbstractContextManager[None]]:
        plan = self._plan
        if isinstance(plan, int):
            for number in range(plan):
                if number:
                    # Late: whoever awaits has loaded asyncio, and others need not wait 12 ms for it.
                    import asyncio

                    await asyncio.sleep(self._wait)
                yield self._begin(number, self._suppress(number, plan))
                if self._state.has_succeeded:
                    return
        elif isinstance(plan, AsyncIterable):
            number = 0
            async for attempt in plan:
                yield self._begin(number, attempt)
                number += 1
        else:
            raise TypeError(f"plan must be async iterable for `async for`, got {plan!r}; use `for`")

    def _begin(
        self, number: int, attempt: AbstractContextManager[Any]
    ) -> AbstractContextManager[None]:
        self._state.begin(number)
        return _one_try(self._state, attempt)

    def _suppress(self, number: int, n_tries: int) -> AbstractContextManager[None]:
        # The last try suppresses nothing, so its exception reaches the caller as it was.
        is_last = number == n_tries - 1
        return contextlib.suppress(*(() if is_last else self._on))


@contextlib.contextmanager
def _one_try(state: RetryState, attempt: AbstractContextManager[Any]) -> Iterator[None]:
    token = _STATE.set(state)
    try:
        with attempt:
            yield
            # Inside the block of the attempt, which ends without an exception only then.
            state.has_succeeded = True
    finally:
        # A coroutine that is dropped is closed in another context, which has no such token.
        with contextlib.suppress(ValueError):
            _STATE.reset(token)
        state.ended_ns = time.monotonic_ns()
