"""Gathers the parts of an episode from the chunks of its log, and checks that they fit together.

Each record is checked when it is decoded (`trajrec.log.validation`). Two records that contradict
each other are noticed here: the log's damage names them, and the first one stands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TypeVar, get_args

from trajrec.corpus.episode_rows import EpisodePart, EpisodeRows
from trajrec.errors import DecodeError, LogCorruptError
from trajrec.log.chunk import LogChunk
from trajrec.log.events import AgentEvent
from trajrec.log.frames import CHUNK
from trajrec.log.identity import may_lack_records
from trajrec.log.lost_frames import lost_frames
from trajrec.log.reader import LogReader
from trajrec.log.schema import Check, EpisodeEnd, EpisodeStart, Failure, Fork, Keyframe, Segment
from trajrec.types import Value
from trajrec.values import codec

# The events that an episode has once.
Once = TypeVar("Once", EpisodeStart, EpisodeEnd, Fork)

_AGENT_EVENTS = frozenset(get_args(AgentEvent))


class EpisodeParts:
    """The events and rows of one episode.

    Args:
        reader: The log.
        number: The number of the episode in it.
        chunks: The chunks to look into; by default all.

    Attributes:
        start: Its start; None if the log has lost it.
        fork: Where it was forked; None if it was not.
        end: Its end; None if there is none yet, or if the log has lost it.
        failures: Exceptions, in order.
        keyframes: Whole states of the environment, in order.
        checks: Verdicts, in order.
        agent_events: Events of an agent, in order.
        rows: The rows of its steps.
        frames: The numbers of the chunks that have events of it.
        losses: Numbers of events of the agent behind which others may be lost.
    """

    def __init__(self, reader: LogReader, number: int, chunks: Sequence[int] | None) -> None:
        self._reader = reader
        self._number = number
        self.start: EpisodeStart | None = None
        self.fork: Fork | None = None
        self.end: EpisodeEnd | None = None
        self.failures: list[Failure] = []
        self.keyframes: list[Keyframe] = []
        self.checks: list[Check] = []
        self.agent_events: list[AgentEvent] = []
        self.rows = EpisodeRows([], {})
        self.frames: list[int] = []
        self.losses: list[int] = []
        # For each chunk, the number of agent's events up to its end, and the number of the chunk.
        self._event_bounds: list[tuple[int, int]] = []
        for chunk in _read_chunks(reader, range(reader.n_chunks) if chunks is None else chunks):
            self.add(chunk)
        self.finish()

    @property
    def has_control(self) -> bool | None:
        """Whether controls ran with the fork; None if that is unknown, or the episode is no fork."""
        control = _fork_fact(self.fork, "control")
        return control if isinstance(control, bool) else None

    @property
    def unset_noise(self) -> str | None:
        """From what a fork with fresh noise draws that the noise does not set: a key of JAX, say.

        "" if no step drew from a generator that was seeded. None if one did, if that is unknown, or
        if the noise is not fresh.
        """
        unset = _fork_fact(self.fork, "unset_noise")
        return unset if isinstance(unset, str) else None

    def add(self, chunk: LogChunk) -> None:
        """Add the events and rows of a chunk that follows those before it."""
        self._add_events(chunk)
        if chunk.spans or chunk.record.irregular:
            self._add_rows(chunk)

    def finish(self) -> None:
        """Note contradictions that only all chunks show."""
        self._check_end()
        if self.start is None:
            self._note_missing_start()
        if self.agent_events:
            self._find_losses()

    def report(self, event: AgentEvent | None, reason: str) -> None:
        """Add the frame of an event that contradicts others, or has no value, to the damage."""
        # A log that has lost frames has lost the other halves of some events.
        if may_lack_records(self._reader):
            return
        number = next((k for k, e in enumerate(self.agent_events) if e is event), 0)
        index = next(index for end, index in self._event_bounds if number < end)
        step = getattr(event, "step", None)
        self._note(index, reason if step is None else f"step {step}: {reason}")

    def _add_events(self, chunk: LogChunk) -> None:
        events = chunk.events_of(self._number)
        if events:
            self.frames.append(chunk.index)
        # Nearly all events: this test takes a quarter of the time of those below.
        self.agent_events += [e for e in events if type(e) in _AGENT_EVENTS]  # type: ignore[misc]
        for event in [event for event in events if type(event) not in _AGENT_EVENTS]:
            if isinstance(event, EpisodeStart):
                self.start = self._first(self.start, event, chunk)
            elif isinstance(event, EpisodeEnd):
                self.end = self._first(self.end, event, chunk)
            elif isinstance(event, Fork):
                self.fork = self._first(self.fork, event, chunk)
            elif isinstance(event, Keyframe):
                self.keyframes.append(event)
            elif isinstance(event, Failure):
                self.failures.append(event)
            elif isinstance(event, Check):
                self.checks.append(event)
        self._event_bounds.append((len(self.agent_events), chunk.index))

    def _first(self, first: Once | None, event: Once, chunk: LogChunk) -> Once:
        """Return the first of the events that an episode has once, and note a second one."""
        if first is None:
            return event
        self._note(chunk.index, f"a second {type(event).__name__}")
        return first

    def _add_rows(self, chunk: LogChunk) -> None:
        parts = self.rows.parts
        for span in chunk.spans_of(self._number):
            reason = why_misplaced(
                span.segment,
                0 if self.fork is None else self.fork.step,
                parts[-1].end_step if parts else 0,
                has_rows=bool(parts),
            )
            if reason:
                self._reader.add_damage(chunk, f"episode {self._number}: {reason}")
            else:
                parts.append(EpisodePart(chunk, span))
        for number, step, data in chunk.record.irregular:
            if number == self._number:
                self.rows.irregular[step] = data

    def _find_losses(self) -> None:
        """Note where damage may have taken events of the agent."""
        reader = self._reader
        if self.end is None and reader.footer is not None:
            # Frames behind those that the index knows of, and that are damaged since.
            later = [index for index in reader.chunks_of(self._number) if index > self.frames[-1]]
            for _ in _read_chunks(reader, later):
                pass
        if not reader.has_losses:
            return
        for index in lost_frames(reader, self._number):
            before = [n for n, chunk_index in self._event_bounds if chunk_index < index]
            is_after_end = self.end is not None and index > self.frames[-1]
            if before and not is_after_end:
                self.losses.append(before[-1])

    def _check_end(self) -> None:
        """Note rows behind the episode's end."""
        parts = self.rows.parts
        if parts and self.end is not None and parts[-1].end_step > self.end.n_steps:
            self._note(parts[-1].chunk.index, f"rows behind its end, step {self.end.n_steps}")

    def _note_missing_start(self) -> None:
        """Note that an episode has parts and no start, if nothing of the log can be lost."""
        has_parts = self.end or self.rows.parts or self.failures or self.checks
        if (has_parts or self.agent_events) and not may_lack_records(self._reader):
            self._note(self._event_bounds[0][1], "its start is missing")

    def _note(self, index: int, reason: str) -> None:
        self._reader.note_damage(index, f"episode {self._number}: {reason}")


def why_misplaced(segment: Segment, first_step: int, end_step: int, *, has_rows: bool) -> str:
    """Return why the rows of a segment cannot follow an episode's earlier rows.

    Args:
        segment: The steps of the rows.
        first_step: The number of the episode's first step.
        end_step: The number behind its last step so far.
        has_rows: Whether it has earlier rows.

    Returns:
        The reason; "" if they can.
    """
    first = segment.first_step
    if first < end_step:
        return f"rows of step {first} behind those of step {end_step - 1}"
    if not segment.has_reset:
        return ""
    if has_rows:
        return f"a reset at step {first}, behind other steps"
    return "" if first == first_step else f"it begins with step {first_step}, its rows with {first}"


def _read_chunks(reader: LogReader, wanted: Sequence[int]) -> Iterator[LogChunk]:
    frames = reader.frames
    for index in wanted:
        is_chunk = index >= len(frames) or frames[index].kind == CHUNK
        if 0 <= index < reader.n_chunks and is_chunk:
            try:
                yield reader.cached_chunk(index)
            except LogCorruptError:
                # `reader.damage` lists the chunk, and `missing_steps` shows the loss.
                continue


def _fork_fact(fork: Fork | None, name: str) -> Value:
    """Return one of the facts in the extra data of a fork; None if it is not there."""
    if fork is None or fork.extra_data is None:
        return None
    with contextlib.suppress(DecodeError):
        facts = codec.decode(fork.extra_data)
        if isinstance(facts, dict):
            return facts.get(name)
    return None
