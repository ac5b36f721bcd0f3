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


class RetryState:
    """The calls that the tries of one block share: call k of a try repeats call k of the first try.

    Attributes:
        by: Who retries.
        attempt: Number of the current try, from 0.
        backoff_ns: Wait before it.
        ended_ns: Monotonic time at which the last try ended.
        calls: Step and number of each call of the first try.
        has_model: Whether the first try called a model.
        has_succeeded: Whether a try ended without an exception.
    """

    def __init__(self, by: RetryBy) -> None:
        self.by = by
        self.attempt = 0
        self.backoff_ns = 0
        self.ended_ns = 0
        self.calls: list[tuple[int, int]] = []
        self.has_model = False
        self.has_succeeded = False
        self._next = 0

    def begin(self, attempt: int) -> None:
        """Begin a try."""
        self.attempt = attempt
        self._next = 0
        self.backoff_ns = time.monotonic_ns() - self.ended_ns if attempt else 0

    def repeated_call(self) -> tuple[int, int] | None:
        """Return step and number of the call that the next one repeats; None if it repeats none."""
        index = self._next
        self._next += 1
        return self.calls[index] if self.attempt and index < len(self.calls) else None


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
        _STATE.reset(token)
        state.ended_ns = time.monotonic_ns()
