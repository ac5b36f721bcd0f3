"""What leads to a step of an episode: the actions before it, those of what it was forked from, the episodes before; and what
comes after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from trajrec.corpus.episode import Episode, failed_action
from trajrec.corpus.transcript import Attempt, ModelCall, Transcript
from trajrec.log.chunk import LogChunk, Span
from trajrec.log.events import EffectValue
from trajrec.log.fields import field_values
from trajrec.values import codec


def to_env_action(action: Any) -> Any:
    """Return what an environment is given for a recorded action: of an enum, or of a subclass of a plain type, its value."""
    if isinstance(action, codec.Plain) and action.kind in ("enum", "subclass"):
        return action.fields["value"]
    if type(action) is dict:
        return {key: to_env_action(item) for key, item in action.items()}
    return tuple(map(to_env_action, action)) if type(action) is tuple else action


def path_between(episode: Episode, first: int, last: int) -> list[tuple[Any, bool]]:
    """Return the actions of the steps [first, last) as an environment is given them, each with whether it raised; read from the
    chunks that have them.

    Steps before a fork are its parent's.
    """
    parent = episode.parent if first < episode.first_step else None
    before = [] if parent is None else path_between(parent, first, min(last, episode.first_step))
    own = [
        (number, value, False) for number, value in _values_between(episode, "action", first, last)
    ]
    raised = [
        failure
        for failure in episode.failures
        if failure.phase == "step" and first <= failure.step < last
    ]
    own += [(failure.step, failed_action(failure), True) for failure in raised]
    return before + [
        (to_env_action(action), has_raised)
        for _, action, has_raised in sorted(own, key=lambda row: row[0])
    ]


def rewards_between(episode: Episode, first: int, last: int) -> dict[int, Any]:
    """Return the rewards of the steps [first, last) that are the episode's own, by step."""
    return dict(_values_between(episode, "reward", first, last))


def _values_between(
    episode: Episode, field: str, first: int, last: int
) -> Iterator[tuple[int, Any]]:
    """Yield the steps [first, last) that are the episode's own and did not raise, each with its value of a field."""
    for chunk, span in episode.parts:
        segment = span.segment
        start, stop = (
            max(first, segment.first_step),
            min(last, segment.first_step + segment.n_steps),
        )
        if start < stop:
            shift = span.start - segment.first_step
            yield from zip(
                range(start, stop),
                field_values(chunk, chunk.layout(field), start + shift, stop + shift),
                strict=True,
            )


def recorded_requests(
    episode: Episode,
) -> tuple[list[ModelCall], list[Attempt], list[tuple[EffectValue, Transcript]]]:
    """Return what an agent asked in an episode, from the very beginning: model calls, tool calls, and side effects, each with
    the transcript that knows its values.

    Of a fork that is what led to it in its parent, and then its own.
    """
    transcript = episode.transcript
    own = (
        list(transcript.model_calls),
        list(transcript.attempts),
        [(event, transcript) for event in transcript.side_effects],
    )
    if episode.fork is None or episode.fork.metadata_data is None or episode.parent is None:
        return own
    led = codec.decode(episode.fork.metadata_data)
    models, attempts, effects = recorded_requests(episode.parent)
    places = {tuple(place) for place in led["attempts"]}
    before = [attempt for attempt in attempts if attempt.place in places]
    return (
        models[: led["models"]] + own[0],
        before + own[1],
        effects[: led["effects"]] + own[2],
    )


def preceding_episodes(episode: Episode) -> Iterator[Episode]:
    """Yield the episodes that the same environment object had before one (before what it was forked from), in order."""
    root = episode
    while root.parent is not None:
        root = root.parent
    for number in range(root.number):
        yield Episode(root.reader, number, root.reader.chunks_of(number))


class EpisodeTail(Episode):
    """The steps of an episode from one on, as an episode; of what lies before them nothing is read.

    The last observation and state before the step take the places of those of a reset.

    Args:
        episode: The episode.
        step: Its first step here, in [first_step, end_step].
    """

    def __init__(self, episode: Episode, step: int) -> None:
        super().__init__(episode.reader, episode.number, ())
        self.start, self.end, self.fork, self.find_parent = (
            episode.start,
            episode.end,
            episode.fork,
            episode.find_parent,
        )
        self.failures = [failure for failure in episode.failures if failure.step >= step]
        self.keyframes = [keyframe for keyframe in episode.keyframes if keyframe.step >= step]
        self.checks, self.irregular, self._step = episode.checks, episode.irregular, step
        self.parts = list(_cut(episode.parts, step))

    @property
    def first_step(self) -> int:
        """Number of the first step here."""
        return self._step


def _cut(parts: list[tuple[LogChunk, Span]], step: int) -> Iterator[tuple[LogChunk, Span]]:
    """Yield the parts from a step on, and before them the last row of observations that precedes it."""
    before: tuple[LogChunk, Span] | None = None
    has_begun = False
    for chunk, span in parts:
        segment = span.segment
        skipped = max(0, min(step - segment.first_step, segment.n_steps))
        if skipped or (segment.has_reset and segment.first_step <= step):
            # The row before the step is of this span: what follows in it, if anything, comes with that row in front.
            begun = msgspec.structs.replace(
                segment,
                first_step=segment.first_step + skipped,
                n_steps=segment.n_steps - skipped,
                has_reset=True,
            )
            before = (
                chunk,
                Span(begun, span.start + skipped, span.obs_start + segment.has_reset + skipped - 1),
            )
            continue
        if before is not None and not has_begun:
            yield before
        has_begun = True
        yield chunk, span
    if before is not None and not has_begun:
        yield before
