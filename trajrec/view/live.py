"""Episodes that are still being recorded: what is known of their writer, and what is new in them."""

from __future__ import annotations

import datetime
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from trajrec.corpus.episode import Episode
from trajrec.view.rows import MAX_LISTED, WINDOW, StepRow

State = Literal["recording", "interrupted", "unknown"]


class Growth(NamedTuple):
    """How far an episode was recorded when it was read; equal ones have the same steps.

    Attributes:
        n_frames: Frames of its log.
        last_item: The last item of its log's journal.
        ending: As the column of that name.
    """

    n_frames: int
    last_item: int
    ending: str

    @property
    def version(self) -> str:
        """The same as a word, for an address."""
        return f"{self.n_frames}.{self.last_item}.{self.ending}"


@dataclass(frozen=True, kw_only=True)
class Recording:
    """An episode without an end.

    Attributes:
        state: "recording" if a living process holds its log, "interrupted" if none does, "unknown"
            if the file system cannot tell.
        started: Time of its start; "" if it is unknown.
        last: Time of its newest record; "" if its records have no times.
        last_ms: The same, in milliseconds since 1970; None if it is unknown.
    """

    state: State
    started: str
    last: str
    last_ms: int | None


def growth_of(episode: Episode) -> Growth:
    """Return how far an episode is recorded now."""
    reader = episode.reader
    return Growth(len(reader.frames), reader.last_item, episode.ending)


def recording_of(episode: Episode) -> Recording | None:
    """Return what is known of the writer of an episode; None if the episode has ended."""
    if episode.end is not None:
        return None
    states: dict[bool | None, State] = {True: "recording", False: "interrupted", None: "unknown"}
    # The steps of an environment have no times.
    times = [event.time_ns for event in episode.agent_events if hasattr(event, "time_ns")]
    last = max(times, default=None)
    start = episode.start
    return Recording(
        state=states[episode.reader.is_being_written()],
        started="" if start is None else _time_text(start.time_ns),
        last="" if last is None else _time_text(last),
        last_ms=None if last is None else last // 1_000_000,
    )


def _time_text(time_ns: int) -> str:
    time = datetime.datetime.fromtimestamp(time_ns / 1e9, datetime.UTC)
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True)
class Listed:
    """The part of an episode's list that a page shows.

    Attributes:
        first: Its first step.
        last: Its last step.
        is_tail: Whether no step followed when the page got it.
        follows: Whether the page follows the newest step.
    """

    first: int
    last: int
    is_tail: bool
    follows: bool


def places(steps: Sequence[int], listed: Listed) -> tuple[int, int]:
    """Return the places of the first and last step that a list shows when its episode has grown.

    >>> places(range(30), Listed(0, 9, is_tail=True, follows=False))
    (0, 30)
    >>> places(range(5000), Listed(0, 9, is_tail=True, follows=False))
    (0, 2000)
    >>> places(range(5000), Listed(0, 9, is_tail=True, follows=True))
    (4500, 5000)
    >>> places(range(5000), Listed(500, 999, is_tail=False, follows=False))
    (500, 1000)
    """
    end = len(steps)
    start = min(bisect_left(steps, listed.first), end)
    if not listed.is_tail and not listed.follows:
        return start, bisect_right(steps, listed.last)
    if end - start <= MAX_LISTED:
        return start, end
    return (end - WINDOW, end) if listed.follows else (start, start + MAX_LISTED)


def new_rows(rows: Sequence[StepRow], before: Sequence[StepRow] | None) -> list[StepRow]:
    """Return the lines that differ from those of an earlier version, or all without one.

    The newest line of the earlier version is always among them: its step may have been under way,
    and have more to show than its line says.
    """
    if not before:
        return list(rows)
    old = {row.step: row for row in before}
    newest = before[-1].step
    return [row for row in rows if row.step == newest or old.get(row.step) != row]
