"""Logs of agents to rows, in one pass.

Only a whole episode shows which attempt retries which one, and at which step a failure was
overcome. So the rows of an episode are made when its end was read, and of those without an end
behind the last chunk. An episode that began in a frame that was read before, or that has more
events after its rows were made, is read whole again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import TypeAlias

from trajrec.corpus.episode import Episode
from trajrec.corpus.episode_parts import EpisodeParts
from trajrec.corpus.index.agent_episode import episode_rows
from trajrec.corpus.index.credit import add_credit
from trajrec.corpus.index.import_rows import import_row
from trajrec.corpus.index.label_rows import label_row, removal_rows
from trajrec.corpus.index.row_batch import Rows
from trajrec.corpus.index.rows import EpisodeRow, check_row, replay_row
from trajrec.errors import DecodeError, LogError
from trajrec.log.annotations import (
    CreditRun,
    ImportRecord,
    Label,
    PostHocCheck,
    ReplayVerdict,
    Tombstone,
)
from trajrec.log.chunk import LogChunk
from trajrec.log.reader import LogReader
from trajrec.log.schema import Check, EpisodeStart, Failure

# Ended episodes are held until there are so many events: a verdict that follows the end, as those
# of graders do, mostly comes before the rows are made.
HELD_EVENTS = 20_000

FrameSpan: TypeAlias = tuple[int, int]
"""The first and the last frame of a log that hold a part of an episode."""


def frame_spans(open_rows: Mapping[int, EpisodeRow] | None) -> dict[int, FrameSpan] | None:
    """Return the frames of each episode that has a row, None if there are no rows."""
    if open_rows is None:
        return None
    return {number: (row.first_frame, row.last_frame) for number, row in open_rows.items()}


class AgentRows:
    """Turns a log of agents into rows.

    Args:
        reader: The log.
        open_frames: The frames of each episode without an end that has rows from an earlier
            reading; None if no row of the log was inserted before.
        only: The episodes to make rows of; None for all, and for the annotations.
    """

    def __init__(
        self,
        reader: LogReader,
        open_frames: Mapping[int, FrameSpan] | None = None,
        *,
        only: Collection[int] | None = None,
    ) -> None:
        self._reader = reader
        self._only = only
        self._is_first = open_frames is None
        self._open_frames = open_frames or {}
        # Episodes that began in this reading. Those that have ended are held in order.
        self._open: dict[int, EpisodeParts] = {}
        self._ended: dict[int, EpisodeParts] = {}
        self._n_held = 0
        # The frames of episodes whose rows were made; and those of episodes that are read again,
        # as far as this reading saw them.
        self._made: dict[int, FrameSpan] = {}
        self._last_span: FrameSpan = (0, 0)
        self._again: dict[int, dict[int, None]] = {}

    def add(self, chunk: LogChunk, rows: Rows) -> None:
        """Read a chunk, and add the rows of episodes that have ended."""
        for number, events in chunk.events_by_episode.items():
            if self._only is not None and number not in self._only:
                continue
            if number < 0:
                self._add_annotations(chunk, rows)
                continue
            parts = self._open.get(number) or self._ended.get(number)
            if parts is None:
                is_new = number not in self._made and number not in self._again
                if not is_new or not (self._is_first or isinstance(events[0], EpisodeStart)):
                    self._again.setdefault(number, {})[chunk.index] = None
                    continue
                parts = self._open[number] = EpisodeParts(self._reader, number, ())
            parts.add(chunk)
            self._n_held += len(events)
            if parts.end is not None and number in self._open:
                self._ended[number] = self._open.pop(number)
        for span in chunk.spans:
            # A log of agents has no rows of steps, unless it is damaged.
            self._again.setdefault(span.segment.episode, {})
        if self._n_held > HELD_EVENTS:
            for of_episode in self._make(self._ended):
                rows.extend(of_episode)
            self._n_held = sum(len(parts.agent_events) for parts in self._open.values())

    def finish(self) -> Iterator[Rows]:
        """Yield the rows of all other episodes, one by one.

        An episode that is in `replaced` may have rows that were given before.
        """
        yield from self._make(self._ended)
        yield from self._make(self._open)
        if self._may_lack_frames:
            self._find_lost_parts()
        for number, seen in self._again.items():
            if seen or number in self._made:
                yield self._read_again(number, seen)

    @property
    def _may_lack_frames(self) -> bool:
        """Whether the footer may list frames of an episode that cannot be read."""
        # Not of all logs: the frames of 250,000 episodes take 80 MB.
        return self._reader.footer is not None and bool(self._reader.damage)

    def _find_lost_parts(self) -> None:
        """Have episodes read again whose other parts are in frames that cannot be read."""
        for number, (first, last) in self._made.items():
            frames = self._reader.chunks_of(number)
            if frames and (frames[0] < first or frames[-1] > last):
                self._again.setdefault(number, {})

    def _add_annotations(self, chunk: LogChunk, rows: Rows) -> None:
        """Add the annotations of a chunk, which are about episodes of other logs."""
        for event in chunk.events_of(-1):
            try:
                if isinstance(event, PostHocCheck):
                    rows.checks.append(check_row(event.target, None, event))
                elif isinstance(event, CreditRun):
                    add_credit(event, rows)
                elif isinstance(event, ReplayVerdict):
                    rows.replays.append(replay_row(event))
                elif isinstance(event, ImportRecord):
                    rows.imports.append(import_row(event))
                elif isinstance(event, Label):
                    rows.labels.append(label_row(event))
                elif isinstance(event, Tombstone):
                    rows.removals += removal_rows(event)
            except DecodeError as exc:
                self._reader.note_damage(chunk.index, f"an annotation: {exc}")

    def _make(self, held: dict[int, EpisodeParts]) -> Iterator[Rows]:
        """Yield the rows of episodes, and let them go."""
        for number in list(held):
            parts = held.pop(number)
            frames = parts.frames
            if self._may_lack_frames:
                frames = sorted({*self._reader.chunks_of(number), *frames})
            span = (frames[0], frames[-1])
            # Neighbours mostly have the same frames: one object serves all of them.
            self._last_span = span if span != self._last_span else self._last_span
            self._made[number] = self._last_span
            parts.finish()
            yield self._rows(Episode(self._reader, number, parts), frames)

    def _read_again(self, number: int, seen: dict[int, None]) -> Rows:
        """Return the rows of an episode that is read whole, which replace earlier ones."""
        known = self._made.get(number) or self._open_frames.get(number)
        if known is None or self._reader.footer is not None:
            # Without a footer, all frames are read for it.
            # A hostile footer may list none of the frames that were read.
            frames = sorted({*self._reader.chunks_of(number), *seen, *(known or ())})
            parts = EpisodeParts(self._reader, number, frames)
        else:
            candidates = sorted({*range(known[0], known[1] + 1), *seen})
            parts = EpisodeParts(self._reader, number, candidates)
            frames = sorted({*parts.frames, *seen})
        rows = self._rows(Episode(self._reader, number, parts), frames)
        if not self._is_first or number in self._made:
            rows.replaced.update(rows.episodes)
        return rows

    def _rows(self, episode: Episode, frames: list[int]) -> Rows:
        def noting(event: Failure | Check) -> contextlib.AbstractContextManager[None]:
            return self._noting(event, frames)

        try:
            transcript = episode.transcribe()
            return episode_rows(episode, transcript, frames, noting)
        except (LogError, DecodeError):
            # Noted in the damage. Each value that can be read is shown.
            transcript = episode.transcribe(is_tolerant=True)
            return episode_rows(episode, transcript, frames, noting)

    @contextlib.contextmanager
    def _noting(self, event: Failure | Check, frames: list[int]) -> Iterator[None]:
        """Add the frame of an event to the damage if a value of it cannot be decoded."""
        try:
            yield
        except DecodeError as exc:
            for index in frames:
                with contextlib.suppress(LogError):
                    if event in self._reader.cached_chunk(index).record.events:
                        self._reader.note_damage(index, f"episode {event.episode}: {exc}")
