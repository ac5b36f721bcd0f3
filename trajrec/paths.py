"""What leads to a step of an episode: the actions before it, those of what it was forked from, the episodes before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trajrec.episodes import Episode, failed_action
from trajrec.log.fields import field_values


def path_between(episode: Episode, first: int, last: int) -> list[tuple[Any, bool]]:
    """Return the actions of the steps [first, last), each with whether it raised; read from the chunks that have them.

    Steps before a fork are its parent's.
    """
    parent = episode.parent if first < episode.first_step else None
    before = [] if parent is None else path_between(parent, first, min(last, episode.first_step))
    own: list[tuple[int, Any, bool]] = []
    for chunk, span in episode.parts:
        segment = span.segment
        start, stop = max(first, segment.first_step), min(last, segment.first_step + segment.n_steps)
        if start < stop:
            shift = span.start - segment.first_step
            values = field_values(chunk, chunk.layout("action"), start + shift, stop + shift)
            own += [(number, value, False) for number, value in zip(range(start, stop), values, strict=True)]
    raised = [failure for failure in episode.failures if failure.phase == "step" and first <= failure.step < last]
    own += [(failure.step, failed_action(failure), True) for failure in raised]
    return before + [(action, has_raised) for _, action, has_raised in sorted(own, key=lambda row: row[0])]


def earlier(episode: Episode) -> Iterator[Episode]:
    """Yield the episodes that the same environment object had before one (before what it was forked from), in order."""
    root = episode
    while root.parent is not None:
        root = root.parent
    for number in range(root.number):
        yield Episode(root.reader, number, root.reader.chunks_of(number))
