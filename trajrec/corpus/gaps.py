"""The steps that a damaged log has lost."""

from __future__ import annotations

from collections.abc import Iterable


def find_gaps(
    covered: Iterable[tuple[int, int]], start: int, stop: int | None
) -> list[tuple[int, int]]:
    """Return the ranges of steps that no other range covers; all ranges are half-open.

    Args:
        covered: The ranges that are known, in any order. They may overlap.
        start: The first step.
        stop: The step after the last one; None if it is unknown.

    >>> find_gaps([(5, 7), (0, 3)], 0, 9)
    [(3, 5), (7, 9)]
    """
    gaps = []
    position = start
    for first, last in sorted(covered):
        if first > position:
            gaps.append((position, first))
        position = max(position, last)
    if stop is not None and position < stop:
        gaps.append((position, stop))
    return gaps
