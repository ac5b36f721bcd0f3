"""Numbers for steps, calls and model calls, from any thread or task."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from trajrec.agents.retries import TriesMark, current_retries
from trajrec.log.events import RetryBy
from trajrec.log.schema import EpisodeStart, Fork
from trajrec.protocols import World
from trajrec.values.per_process import renew_in_children

CounterMark: TypeAlias = tuple[int, int, int, bool, TriesMark | None]


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
        self._renew_lock()
        renew_in_children(self, StepCounter._renew_lock)
        self.step = -1
        self._n_calls = 0
        self._n_models = 0
        # Whether calls belong to the current step, and do not begin one of their own.
        self._is_decided = False
        # How many blocks of `grouped` are open.
        self._n_groups = 0

    def _renew_lock(self) -> None:
        # Reentrant: trackers run code of the world under it, which may call tools itself.
        self.lock = threading.RLock()

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
        retries = current_retries()
        tries = None if retries is None else retries.of(self).mark()
        return self.step, self._n_calls, self._n_models, self._is_decided, tries

    def rewind(self, mark: CounterMark) -> None:
        """Set the count back to a mark of the same try."""
        self.step, self._n_calls, self._n_models, self._is_decided, tries = mark
        retries = current_retries()
        if retries is not None and tries is not None:
            retries.of(self).rewind(tries)

    def next_call(self) -> CallPosition:
        """Return the position of the next call."""
        with self.lock:
            retries = current_retries()
            tries = None if retries is None else retries.of(self)
            if retries is not None and tries is not None:
                repeated = tries.repeated_call(retries.attempt)
                if repeated is not None:
                    step, call = repeated
                    return CallPosition(
                        step, call, retries.attempt, by=retries.by, backoff_ns=retries.backoff_ns
                    )
            if not self._is_decided:
                self._begin_step()
            position = CallPosition(self.step, self._n_calls)
            self._n_calls += 1
            if tries is not None:
                tries.add_call(*position[:2])
            return position

    def next_model_call(self) -> tuple[int, int, RetryBy]:
        """Begin a step for a model call; return its number, its attempt, and who retries it."""
        attempt, by = self._model_retry()
        if not attempt and not self._n_groups:
            self._begin_decision()
        self._n_models += 1
        return self._n_models - 1, attempt, by

    def repeat_model_call(self) -> tuple[int, RetryBy]:
        """Return number and retrier of a model call that repeats a failed one, in its step."""
        _, by = self._model_retry()
        self._n_models += 1
        return self._n_models - 1, by

    def _model_retry(self) -> tuple[int, RetryBy]:
        """Return which attempt of the program's block a model call is, and who retries it."""
        retries = current_retries()
        if retries is None or not retries.of(self).repeats_model(retries.attempt):
            return 0, ""
        return retries.attempt, retries.by

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
