"""Puts watched objects, databases and folders into a recorded state, and proves that they are."""

from __future__ import annotations

from collections.abc import Collection

from trajrec.corpus.episode import Episode
from trajrec.corpus.transcript import AttemptKey
from trajrec.errors import DivergenceError, ReplayError, StateUnknownError
from trajrec.replay.agents.answered import Answered
from trajrec.replay.agents.world_replay import check_proved
from trajrec.tracking.parts import Part, find_parts
from trajrec.types import Value


def restore_watched(episode: Episode, watch: Value, answered: Answered | None) -> None:
    """Put watched parts into the recorded state to which some requests led.

    Args:
        episode: The recorded episode.
        watch: The parts, as `trajrec.episode` takes them.
        answered: The requests; None for the state in which the episode began.

    Raises:
        DivergenceError: A part does not have the recorded digest after it was restored.
        ReplayError: The recorded state is unknown, or has other parts.
        RestoreError: A part cannot be put into the state.
    """
    places = frozenset() if answered is None else answered.attempts
    parts = find_parts(None, watch)
    _check_parts(episode, parts)
    transcript = episode.transcript
    attempts = transcript.recorded_attempts
    made = [attempt for attempt in attempts if attempt.key in places]
    check_proved(episode, made)
    _check_order(episode, places)
    step = made[-1].start.step if made else -1
    next_call = transcript.first_call_without(places)
    between = [
        change
        for change in transcript.program_changes
        if answered is not None and change.next_call == next_call and answered.has_led_to(change)
    ]
    try:
        if between:
            state = transcript.state_at(between[-1].n_changes, step)
        else:
            state = transcript.state_after(made[-1]) if made else transcript.initial_state
    except StateUnknownError as exc:
        raise ReplayError(
            f"the recorded state after step {step} is unknown: {exc.what}", episode_id=episode.id
        ) from exc
    digests = _digests_after(episode, places)
    digests.update({change.part: change.digest for change in between})
    for part in parts:
        part.tracker.begin()
        part.tracker.restore(state[part.name])
        _, digest = part.tracker.begin()
        if digest != digests[part.name]:
            raise DivergenceError(
                f"{part.name or 'the watched state'} was put back, and still is not as it was "
                "recorded",
                episode_id=episode.id,
                step=step,
                field=f"state/{part.name}",
                expected=digests[part.name],
                actual=digest,
            )


def _check_parts(episode: Episode, parts: list[Part]) -> None:
    task = episode.transcript.task_start
    recorded = [] if task is None else [(*part,) for part in task.parts]
    given = [(part.name, part.tracker.name, part.tracker.version) for part in parts]
    if recorded != given:
        raise ReplayError(
            f"the episode watched {_told(recorded)}, and this run watches {_told(given)}: "
            "the state cannot be put back",
            episode_id=episode.id,
        )


def _told(parts: list[tuple[str, str, int]]) -> str:
    return ", ".join(f"{kind} {name}".strip() for name, kind, _ in parts) or "nothing"


def _check_order(episode: Episode, places: Collection[AttemptKey]) -> None:
    """Refuse calls without one that came before the last of them and changed the state.

    Raises:
        ReplayError: The state without it was never there, so it was not recorded.
    """
    is_past = True
    for attempt in reversed(episode.transcript.recorded_attempts):
        if attempt.key in places:
            is_past = False
        elif not is_past and attempt.changes:
            raise ReplayError(
                f"the state without the call {attempt.tool} of step {attempt.start.step} is "
                "unknown: later calls of the step were made on the state that it changed",
                episode_id=episode.id,
            )


def _digests_after(episode: Episode, places: Collection[AttemptKey]) -> dict[str, str]:
    digests = dict(episode.transcript.initial_digests)
    between = episode.transcript.program_changes
    for attempt in episode.transcript.recorded_attempts:
        if attempt.key in places:
            digests.update({c.part: c.digest for c in between if c.next_call == attempt.key})
            digests.update(attempt.digests)
    return digests
