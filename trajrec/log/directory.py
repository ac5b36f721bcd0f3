"""The directory of a sealed log: the tables in its footer.

A reader lists the episodes of a log, and finds the frames of a step, from the footer alone. A
writer gathers the tables while it writes, and a rewrite from the chunks that it keeps.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from trajrec.log.events import Blob, CallStart, ModelStart, TaskStart
from trajrec.log.frames import Seal
from trajrec.log.schema import (
    BlobTable,
    Chunk,
    EpisodeEnd,
    EpisodeStart,
    EpisodeTable,
    Event,
    Failure,
    Footer,
    Fork,
    FrameTable,
    Header,
    Segment,
    StepTable,
)
from trajrec.types import Value
from trajrec.values.real_numbers import PLAIN_NUMBERS, sum_of

Returns = dict[int, float]
"""Episode -> the sum of the rewards of some of its steps, NaN if they are no numbers."""

Ranges = dict[int, tuple[int, int]]
"""Episode -> its first step in a frame, and its last plus one; an empty range has no place."""


class EpisodeSummary(msgspec.Struct, kw_only=True):
    """An episode, as the footer states it.

    Attributes:
        number: Its number in the log.
        kind: "rollout", "fork" or "nested" (begun inside another episode).
        task: Its task, "" if it has none.
        seed: The seed of its reset, None if it had none.
        started_ns: The time of its reset, ns since 1970 UTC; 0 if unknown.
        ended_ns: The time of its end; 0 if it has none.
        first_step: Its first step: of a fork, the step at which it was forked.
        end_step: The number of its last step plus one.
        ending: Its ending, "" if it has none.
        total_reward: The sum of its rewards, up to rounding; NaN if they are no numbers.
        first_frame: The first frame that has a part of it.
        last_frame: The last one.
        parent_id: The episode that it was forked from, or was begun in; "" if there is none.
    """

    number: int
    kind: str = "rollout"
    task: str = ""
    seed: int | None = None
    started_ns: int = 0
    ended_ns: int = 0
    first_step: int = 0
    end_step: int = 0
    ending: str = ""
    total_reward: float = 0.0
    first_frame: int = 0
    last_frame: int = 0
    parent_id: str = ""


class FrameEntry(NamedTuple):
    """The position of a frame in the file, and its kind."""

    offset: int
    size: int
    kind: int
    sequence: int

    @property
    def end(self) -> int:
        """The offset behind the frame."""
        return self.offset + self.size


class StepRange(NamedTuple):
    """The steps of an episode of which a frame has rows or events; n_steps may be 0."""

    frame: int
    episode: int
    first_step: int
    n_steps: int


class Directory:
    """Gathers the tables of a log, frame by frame, in the order of the file.

    Attributes:
        entries: The frames.
        n_steps: The rows of all chunks.
    """

    def __init__(self) -> None:
        self.entries: list[FrameEntry] = []
        self.n_steps = 0
        self._seal = Seal()
        self._ranges: list[StepRange] = []
        self._episodes: dict[int, EpisodeSummary] = {}
        self._blobs: list[tuple[bytes, int]] = []

    def add_frame(self, header: bytes, entry: FrameEntry) -> None:
        """Add a frame that is no chunk.

        Args:
            header: The bytes of the frame's header.
            entry: Its position.
        """
        self._seal.add(header)
        self.entries.append(entry)

    def add_chunk(self, header: bytes, entry: FrameEntry, chunk: Chunk, returns: Returns) -> None:
        """Add a frame that is a chunk.

        Args:
            header: The bytes of the frame's header.
            entry: Its position.
            chunk: Its record.
            returns: The returns of its rows.
        """
        frame = len(self.entries)
        self.add_frame(header, entry)
        ranges = self._add_segments(chunk.segments)
        of_events = self._add_events(chunk.events, ranges, frame)
        for number, (first, end) in ranges.items():
            episode = self._episodes.get(number)
            if episode is None:
                episode = EpisodeSummary(number=number, first_frame=frame)
                self._episodes[number] = episode
            episode.last_frame = frame
            if end > episode.end_step:
                episode.end_step = end
            if of_events and number in of_events:
                first, end = _union((first, end), of_events[number])
            self._ranges.append(StepRange(frame, number, first, end - first))
        for number, value in returns.items():
            self._episodes[number].total_reward += value
        for event in chunk.events:
            note = _NOTES.get(type(event))
            if note is not None and event.episode >= 0:
                note(self._episodes[event.episode], event)

    def _add_segments(self, segments: Sequence[Segment]) -> Ranges:
        """Count the rows of a chunk; return their steps.

        One pass over many short episodes: a look-up more for each costs 2 % of a recorder's time.
        """
        ranges: Ranges = {}
        for segment in segments:
            number = segment.episode
            first = segment.first_step
            end = first + segment.n_steps
            self.n_steps += segment.n_steps
            ranges[number] = (
                _union(ranges[number], (first, end)) if number in ranges else (first, end)
            )
        return ranges

    def _add_events(self, events: Sequence[Event], ranges: Ranges, frame: int) -> Ranges:
        """Return the steps of events; episodes that have events alone are added to `ranges`."""
        of_events: Ranges = {}
        for event in events:
            number = event.episode
            if number < 0:
                continue
            if number not in ranges:
                ranges[number] = (0, 0)
            kind = type(event)
            if isinstance(event, Blob):
                self._blobs.append((event.digest, frame))
            # The first two are events of no step.
            elif kind is not EpisodeStart and kind is not EpisodeEnd:
                step = getattr(event, "step", -1)
                first, end = of_events.get(number, (0, 0))
                # Most events are of a step that is in the range already.
                if step >= 0 and not first <= step < end:
                    of_events[number] = _union((first, end), (step, step + 1))
        return of_events

    def footer(self, header: Header, generation: int) -> Footer:
        """Return the footer of the frames so far."""
        return Footer(
            header=header,
            generation=generation,
            content=self._seal.digest(),
            n_episodes=len(self._episodes),
            n_steps=self.n_steps,
            frames=FrameTable(
                sizes=[entry.size for entry in self.entries],
                kinds=[entry.kind for entry in self.entries],
            ),
            steps=StepTable(
                frames=_differences([part.frame for part in self._ranges]),
                episodes=_differences([part.episode for part in self._ranges]),
                first_steps=[part.first_step for part in self._ranges],
                n_steps=[part.n_steps for part in self._ranges],
            ),
            episodes=_episode_table([self._episodes[number] for number in sorted(self._episodes)]),
            blobs=BlobTable(
                digests=b"".join(digest for digest, _ in self._blobs),
                frames=_differences([frame for _, frame in self._blobs]),
            ),
        )


def _note_start(episode: EpisodeSummary, event: EpisodeStart) -> None:
    episode.seed = event.seed
    episode.started_ns = event.time_ns


def _note_fork(episode: EpisodeSummary, event: Fork) -> None:
    episode.kind = "fork"
    episode.parent_id = event.parent_id
    episode.first_step = event.step
    episode.end_step = max(episode.end_step, event.step)


def _note_task(episode: EpisodeSummary, event: TaskStart) -> None:
    episode.task = event.task
    if event.caller_id is not None:
        episode.kind = "nested"
        episode.parent_id = event.caller_id


def _note_end(episode: EpisodeSummary, event: EpisodeEnd) -> None:
    episode.ending = event.ending
    episode.ended_ns = event.time_ns
    episode.end_step = event.n_steps


def _note_step(episode: EpisodeSummary, event: CallStart | ModelStart | Failure) -> None:
    # Of an episode that was interrupted. A check has the step behind the last one.
    if not episode.ending:
        episode.end_step = max(episode.end_step, event.step + 1)


_NOTES: dict[type[Event], Callable[[EpisodeSummary, Any], None]] = {
    CallStart: _note_step,
    ModelStart: _note_step,
    Failure: _note_step,
    EpisodeStart: _note_start,
    Fork: _note_fork,
    TaskStart: _note_task,
    EpisodeEnd: _note_end,
}
"""Take over the facts that an event states about its episode."""


def _union(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest range that holds two; an empty one has no place."""
    if one[0] == one[1]:
        return other
    return one if other[0] == other[1] else (min(one[0], other[0]), max(one[1], other[1]))


def _episode_table(episodes: Sequence[EpisodeSummary]) -> EpisodeTable:
    return EpisodeTable(
        numbers=_differences([episode.number for episode in episodes]),
        kinds=[episode.kind for episode in episodes],
        tasks=[episode.task for episode in episodes],
        seeds=[episode.seed for episode in episodes],
        started_ns=_differences([episode.started_ns for episode in episodes]),
        durations_ns=[
            episode.ended_ns - episode.started_ns if episode.ending else None
            for episode in episodes
        ],
        first_steps=[episode.first_step for episode in episodes],
        end_steps=[episode.end_step for episode in episodes],
        endings=[episode.ending for episode in episodes],
        # Whole numbers are stored as such: most returns are, and take two bytes then.
        total_rewards=[
            int(value) if value.is_integer() and abs(value) < 2**53 else value
            for value in (episode.total_reward for episode in episodes)
        ],
        first_frames=_differences([episode.first_frame for episode in episodes]),
        n_frames=[episode.last_frame - episode.first_frame + 1 for episode in episodes],
        parent_ids=[episode.parent_id for episode in episodes],
    )


def _differences(values: Sequence[int]) -> list[int]:
    """Return each value minus the one before it; they are small, so they compress well."""
    return [b - a for a, b in pairwise((0, *values))]


def segment_returns(segments: Iterable[Segment], rewards: Sequence[Value] | None) -> Returns:
    """Return the returns of the rows of a chunk.

    Args:
        segments: The segments of the chunk.
        rewards: The reward of each row; None if they are of several parts.
    """
    are_plain = rewards is not None and set(map(type, rewards)) <= PLAIN_NUMBERS
    returns: Returns = {}
    row = 0
    for segment in segments:
        end = row + segment.n_steps
        if end > row:
            part = None if rewards is None else rewards[row:end]
            value = _sum_rewards(part, are_plain)
            returns[segment.episode] = returns.get(segment.episode, 0.0) + value
        row = end
    return returns


def _sum_rewards(rewards: Sequence[Value] | None, are_plain: bool) -> float:
    """Return the sum of some rewards, NaN if one of them is no number."""
    if rewards is None:
        return math.nan
    if are_plain:
        # Most rewards are Python's numbers. As floats: two integers that no float holds may have a
        # sum that one does.
        with contextlib.suppress(OverflowError):
            return sum(map(float, rewards), 0.0)
    return sum_of(rewards)


def add_returns(parts: Iterable[Returns]) -> Returns:
    """Return the sums of the returns of several chunks."""
    total: Returns = {}
    for part in parts:
        for episode, value in part.items():
            total[episode] = total.get(episode, 0.0) + value
    return total
