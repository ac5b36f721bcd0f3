"""Marks for a rewritten log where damage may have taken changes of an agent's state.

A reader of the damaged log sees where frames are missing. In a log without them nothing would show
it, and the state before the damage would pass for that behind it.
"""

from __future__ import annotations

from trajrec.log.chunk import LogChunk
from trajrec.log.events import PROGRAM, StateChange, step_of_request
from trajrec.log.reader import LogReader
from trajrec.log.schema import Chunk, EpisodeEnd

NOTE = "damage of the log may have taken changes of it"


class LostChanges:
    """The parts of the states of the episodes that are open, while the frames of a log are copied.

    Args:
        reader: The damaged log.
    """

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        # Episode -> its parts, and its last step.
        self._parts: dict[int, set[str]] = {}
        self._steps: dict[int, int] = {}
        self._lost: set[int] = set()
        self._last: Chunk | None = None

    def lose(self, index: int) -> None:
        """Note that frames[index], or one before it, is lost."""
        for episode in self._parts:
            # Only a footer tells which episodes a lost frame had.
            if self._reader.footer is None or index in self._reader.chunks_of(episode):
                self._lost.add(episode)

    def marks(self) -> Chunk | None:
        """Return a chunk with the marks of what was lost since the last call, if anything was."""
        lost, self._lost = self._lost, set()
        if not lost or self._last is None:
            return None
        events = [
            StateChange(
                episode=episode,
                step=self._steps.get(episode, -1),
                call=0,
                attempt=0,
                part=part,
                digest="",
                data=None,
                note=NOTE,
                actor=PROGRAM,
            )
            for episode in sorted(lost)
            for part in sorted(self._parts[episode])
        ]
        return Chunk(
            time_ns=self._last.time_ns,
            segments=[],
            columns=[],
            layouts={},
            events=list(events),
            journal=self._last.journal,
        )

    def take(self, chunk: LogChunk) -> None:
        """Take in a chunk that is kept."""
        self._last = chunk.record
        for event in chunk.record.events:
            if isinstance(event, StateChange):
                self._parts.setdefault(event.episode, set()).add(event.part)
            elif isinstance(event, EpisodeEnd):
                self._parts.pop(event.episode, None)
            elif (step := step_of_request(event)) >= 0:
                self._steps[event.episode] = step
