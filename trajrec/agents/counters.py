"""Numbers for steps, calls and model calls, from any thread or task."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from trajrec.agents.retries import current_retries
from trajrec.log.events import RetryBy
from trajrec.log.schema import EpisodeStart, Fork
from trajrec.protocols import World

CounterMark: TypeAlias = tuple[int, int, int, bool]


class CallPosition(NamedTuple):
    """The position of an attempt in its episode, and who retries it.

    Attributes:
        step: Number of the step.
        call: Number of the call in its step.
        attempt: Number of the attempt at the call.
        by: Who retries; "" for a first attempt.
        backoff_ns: Wait before the attempt.
    """

    step: int
    call: int
    attempt: int = 0
    by: RetryBy = ""
    backoff_ns: int = 0


class StepCounter:
    """Counts the steps, calls and model calls of an episode.

    A model call begins a step, and the calls after it belong to that step. A call without a model
    call is a step of its own.

    Attributes:
        lock: Held while a number is given and the event with it is added, so that events are in the
            order of their numbers.
        step: Number of the last step; -1 before the first.
    """

    def __init__(self) -> None:
        # Reentrant: trackers run code of the world under it, which may call tools itself.
        self.lock = threading.RLock()
        self.step = -1
        self._n_calls = 0
        self._n_models = 0
        # Whether calls belong to the current step, and do not begin one of their own.
        self._is_decided = False
        # How many blocks of `grouped` are open.
        self._n_groups = 0

    @contextlib.contextmanager
    def grouped(self) -> Iterator[int]:
        """Make all calls of a block one step, those of models too."""
        try:
            with self.lock:
                self._begin_decision()
                self._n_groups += 1
            yield self.step
        finally:
            self._n_groups = max(0, self._n_groups - 1)
            self._is_decided = False

    def mark(self) -> CounterMark:
        """Return the count, for `rewind`."""
        return self.step, self._n_calls, self._n_models, self._is_decided

    def rewind(self, mark: CounterMark) -> None:
        """Set the count back to a mark."""
        self.step, self._n_calls, self._n_models, self._is_decided = mark

    def next_call(self) -> CallPosition:
        """Return the position of the next call."""
        with self.lock:
            retries = current_retries()
            if retries is not None:
                repeated = retries.repeated_call()
                if repeated is not None:
                    step, call = repeated
                    return CallPosition(
                        step, call, retries.attempt, by=retries.by, backoff_ns=retries.backoff_ns
                    )
            if not self._is_decided:
                self._begin_step()
            position = CallPosition(self.step, self._n_calls)
            self._n_calls += 1
            if retries is not None:
                retries.calls.append(position[:2])
            return position

    def next_model_call(self) -> tuple[int, int, RetryBy]:
        """Begin a step for a model call; return its number, its attempt, and who retries it."""
        retries = current_retries()
        attempt = 0
        by: RetryBy = ""
        if retries is not None and retries.attempt and retries.has_model:
            attempt = retries.attempt
            by = retries.by
        elif not self._n_groups:
            self._begin_decision()
        if retries is not None:
            retries.has_model = True
        self._n_models += 1
        return self._n_models - 1, attempt, by

    def repeat_model_call(self) -> tuple[int, int, RetryBy]:
        """Return the same for a model call that repeats a failed one, in the step of that."""
        retries = current_retries()
        by: RetryBy = ""
        attempt = 0
        if retries is not None and retries.attempt:
            attempt = retries.attempt
            by = retries.by
        self._n_models += 1
        return self._n_models - 1, attempt, by

    def enter(self, step: int) -> None:
        """Go to a step that a recorded model call began: the next calls belong to it."""
        self.step = step
        self._n_calls = 0
        self._is_decided = True

    def _begin_decision(self) -> None:
        """Begin a step to which all calls belong until the next decision."""
        self._begin_step()
        self._is_decided = True

    def _begin_step(self) -> None:
        self.step += 1
        self._n_calls = 0


class ForkOrigin(NamedTuple):
    """The point at which a forked episode of an agent begins; see `trajrec.rerun`.

    Attributes:
        fork: The parent and the step.
        start: The parent's reset.
        steps: The parent's count, which the fork continues.
        prepare: Brings the world, which was just reset, to the point.
    """

    fork: Fork
    start: EpisodeStart
    steps: StepCounter
    prepare: Callable[[World | None], None]
