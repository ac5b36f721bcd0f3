"""The history of a step: the actions and episodes that led to it, and the steps from it on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from trajrec.corpus.episode import Episode
from trajrec.corpus.episode_rows import EpisodePart, EpisodeRows
from trajrec.corpus.http_exchanges import HttpExchange
from trajrec.corpus.step import failed_action
from trajrec.corpus.transcript import Attempt, ModelCall, Transcript
from trajrec.log.chunk import Span
from trajrec.log.events import SideEffect
from trajrec.log.fields import field_values
from trajrec.log.schema import Failure
from trajrec.types import Action, Value
from trajrec.values import codec
from trajrec.values.foreign_arrays import ARRAY, as_given


class RecordedRequests(NamedTuple):
    """The requests of an agent, from the very beginning.

    Attributes:
        model_calls: The calls by `ep.model`.
        attempts: The attempts at tool calls.
        side_effects: Values from outside, each with the transcript that can decode it.
        exchanges: The HTTP exchanges that are no part of a model call by `ep.model`.
    """

    model_calls: list[ModelCall]
    attempts: list[Attempt]
    side_effects: list[tuple[SideEffect, Transcript]]
    exchanges: list[HttpExchange]


def to_env_action(action: Value) -> Action:
    """Return a recorded action as an environment takes it.

    The log keeps the type of an enum, or of a subclass of a plain type; an environment gets its
    value. It gets tensors as such if their library is imported.
    """
    if isinstance(action, codec.Plain) and action.kind in ("enum", "subclass"):
        return action.fields["value"]
    if isinstance(action, codec.Plain) and action.kind == ARRAY:
        return as_given(action)
    if type(action) is dict:
        return {key: to_env_action(item) for key, item in action.items()}
    return tuple(map(to_env_action, action)) if type(action) is tuple else action


def path_between(episode: Episode, first: int, last: int) -> list[tuple[Action, Failure | None]]:
    """Return the actions of the steps [first, last), each with the exception that it raised.

    Only the chunks that hold these steps are read. Steps before a fork are its parent's.
    """
    parent = episode.parent if first < episode.first_step else None
    before = [] if parent is None else path_between(parent, first, min(last, episode.first_step))
    own: list[tuple[int, Value, Failure | None]] = [
        (step, action, None) for step, action in _values_between(episode, "action", first, last)
    ]
    own += [
        (failure.step, failed_action(failure), failure)
        for failure in episode.failures
        if failure.phase == "step" and first <= failure.step < last
    ]
    own.sort(key=lambda row: row[0])
    return before + [(to_env_action(action), failure) for _, action, failure in own]


def rewards_between(episode: Episode, first: int, last: int) -> dict[int, Value]:
    """Return the rewards of the episode's own steps in [first, last), by step."""
    return dict(_values_between(episode, "reward", first, last))


def _values_between(
    episode: Episode, field: str, first: int, last: int
) -> Iterator[tuple[int, Value]]:
    """Yield step and value of the episode's own steps in [first, last) that did not raise."""
    for part in episode.rows.parts:
        segment = part.segment
        start = max(first, segment.first_step)
        stop = min(last, segment.first_step + segment.n_steps)
        if start < stop:
            shift = part.span.start - segment.first_step
            values = field_values(part.chunk, part.chunk.layout(field), start + shift, stop + shift)
            yield from zip(range(start, stop), values, strict=True)


def recorded_requests(episode: Episode) -> RecordedRequests:
    """Return the requests of an agent's episode.

    A fork begins with the requests of its parent that led to it.
    """
    own = recorded_requests_of(episode.transcript)
    if episode.fork is None or episode.fork.metadata_data is None or episode.parent is None:
        return own
    before = recorded_requests(episode.parent)
    led: Any = episode.value(episode.fork.metadata_data)
    keys = {tuple(key) for key in led["attempts"]}
    attempts = [attempt for attempt in before.attempts if attempt.key in keys]
    return RecordedRequests(
        model_calls=before.model_calls[: led["models"]] + own.model_calls,
        attempts=attempts + own.attempts,
        side_effects=before.side_effects[: led["effects"]] + own.side_effects,
        # Forks of older logs have none.
        exchanges=[before.exchanges[place] for place in led.get("exchanges", ())] + own.exchanges,
    )


def recorded_requests_of(transcript: Transcript) -> RecordedRequests:
    """Return the requests of an episode itself, without those of a parent."""
    model_calls = [call for call in transcript.model_calls if call.wire is None]
    by_function = {call.start.number for call in model_calls}
    return RecordedRequests(
        model_calls=model_calls,
        attempts=list(transcript.recorded_attempts),
        side_effects=[(event, transcript) for event in transcript.side_effects],
        exchanges=[e for e in transcript.exchanges if e.start.model_call not in by_function],
    )


def preceding_episodes(episode: Episode) -> Iterator[Episode]:
    """Yield the earlier episodes of the same environment object, in order.

    A fork's are those of the episode that it was forked from in the first place.
    """
    root = episode
    while root.parent is not None:
        root = root.parent
    for number in range(root.number):
        yield Episode(root.reader, number, root.reader.chunks_of(number))


class EpisodeTail(Episode):
    """The steps of an episode from one step on, as an episode. Earlier chunks are not read.

    The last observation and state before the step stand in the place of a reset's.

    Args:
        episode: The episode.
        step: The first step of the tail, in [first_step, end_step].
    """

    def __init__(self, episode: Episode, step: int) -> None:
        super().__init__(episode.reader, episode.number, ())
        self.start = episode.start
        self.end = episode.end
        self.fork = episode.fork
        self.find_parent = episode.find_parent
        self.failures = [failure for failure in episode.failures if failure.step >= step]
        self.keyframes = [keyframe for keyframe in episode.keyframes if keyframe.step >= step]
        self.checks = episode.checks
        self.agent_events = episode.agent_events
        self._step = step
        parts = list(_cut(episode.rows.parts, step))
        self.rows = EpisodeRows(parts, episode.rows.irregular)

    @property
    def first_step(self) -> int:
        """Number of the first step of the tail."""
        return self._step


def _cut(parts: list[EpisodePart], step: int) -> Iterator[EpisodePart]:
    """Yield the parts from a step on, preceded by the last observation before the step."""
    before: EpisodePart | None = None
    has_begun = False
    for chunk, span in parts:
        segment = span.segment
        skipped = max(0, min(step - segment.first_step, segment.n_steps))
        if skipped or (segment.has_reset and segment.first_step <= step):
            # The observation before the step lies in this span; it replaces the reset's.
            cut = msgspec.structs.replace(
                segment,
                first_step=segment.first_step + skipped,
                n_steps=segment.n_steps - skipped,
                has_reset=True,
            )
            obs_start = span.obs_start + segment.has_reset + skipped - 1
            before = EpisodePart(chunk, Span(cut, span.start + skipped, obs_start))
            continue
        if before is not None and not has_begun:
            yield before
        has_begun = True
        yield EpisodePart(chunk, span)
    if before is not None and not has_begun:
        yield before
