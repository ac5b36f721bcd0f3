"""Trials under changed conditions: what they show about the cause of a difference."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeAlias, TypeVar

Result = TypeVar("Result")

Condition: TypeAlias = Callable[[], AbstractContextManager[object]]

# Unchanged trials: an environment repeats itself if all are the same. One with few possible
# outcomes (a coin) often gives the same one twice by chance. Slow environments get fewer trials:
# after ENOUGH_S seconds, three are enough.
REPEATS = 6
ENOUGH_S = 5.0

# Trials under one variant of a condition, for instance with the clock stopped at one time. An
# environment that draws one of two values is the same in all trials of two variants, and another in
# each, in one of 100,000 cases.
VARIANT_REPEATS = 9

# All trials of one cause end after this time: no cause is named that there was no time to show.
# The time of other experiments, which start processes, does not count.
MAX_S = 60.0


class Trials(Generic[Result]):
    """Runs trials, and compares their results.

    Args:
        run: Runs one trial.
        is_same: Compares two results.

    Attributes:
        baseline: The result of the unchanged trials; None if they differ.
    """

    def __init__(
        self, run: Callable[[], Result], is_same: Callable[[Result, Result], bool]
    ) -> None:
        self._run = run
        self._is_same = is_same
        self._spent_s = 0.0
        self.baseline = self._run_unchanged()

    def shows(self, variants: Sequence[Condition]) -> bool:
        """Return whether a condition decides the result.

        It does if the result is always the same under each of its variants, and another one under
        another variant, or always another one without the condition. That the result is the same
        under all variants shows nothing: a rare event may only not have happened.

        Args:
            variants: The condition in several forms, for instance with other seeds.
        """
        before = self.baseline
        # Variants of which one trial gave the unchanged result. Most conditions decide nothing, and
        # their other trials count only if another variant is about to show something.
        passed: list[Condition] = []
        for variant in variants:
            first = self._trial(variant)
            if self.baseline is not None and self._is_same(self.baseline, first):
                passed.append(variant)
            elif not self._is_repeated(first, variant):
                return False
            elif before is None:
                before = first
            elif not self._is_same(before, first):
                return all(self._is_repeated(before, other) for other in passed)
            if self._is_late:
                return False
        return False

    @property
    def _is_late(self) -> bool:
        return self._spent_s > MAX_S

    def _run_unchanged(self) -> Result | None:
        first = self._trial(nullcontext)
        for repeat in range(2, REPEATS + 1):
            if not self._is_same(first, self._trial(nullcontext)):
                return None
            if repeat > 2 and self._spent_s > ENOUGH_S:
                break
        return first

    def _is_repeated(self, first: Result, condition: Condition) -> bool:
        """Return whether all further trials under a condition give its first result in time."""
        return not self._is_late and all(
            self._is_same(first, self._trial(condition)) for _ in range(VARIANT_REPEATS - 1)
        )

    def _trial(self, condition: Condition) -> Result:
        start = time.monotonic()
        with condition():
            result = self._run()
        self._spent_s += time.monotonic() - start
        return result
