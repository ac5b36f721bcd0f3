"""Verify that an environment is in the recorded state, step by step."""

from __future__ import annotations

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.errors import DivergenceError, StateUnknownError
from trajrec.log.schema import Failure
from trajrec.redaction.comparison import first_change_of_marked, has_marks
from trajrec.replay.execute.compare import describe
from trajrec.replay.execute.handle import EnvHandle
from trajrec.replay.execute.tolerance import Tolerance
from trajrec.types import Observation, Value
from trajrec.values import codec
from trajrec.values.diff import Change, diff, first_change
from trajrec.values.digest import show_digest
from trajrec.values.foreign_arrays import has_own_dtype
from trajrec.values.json import to_field
from trajrec.values.plain import PLAIN_TYPES
from trajrec.values.shown import short_pair

# Values that a log gives back unchanged; all others are encoded and decoded before a comparison.
_UNCHANGED_TYPES = PLAIN_TYPES | {np.ndarray}


def verify_reward(
    episode: Episode, handle: EnvHandle, step: int, *, expected: Value, reward: Value
) -> None:
    """Verify that the reward of a step is the recorded one.

    Raises:
        DivergenceError: It is another one.
    """
    change = _counting_change("reward", expected, as_recorded(reward), handle.tolerance)
    if change is not None:
        raise diverged(episode, step=step, field="reward", expected=expected, actual=reward)


def verify_failure(
    episode: Episode, step: int, *, recorded: Failure | None, raised: BaseException | None
) -> None:
    """Verify that a step raised what it raised when it was recorded, or nothing.

    The message does not count: it may name a time or an address.

    Args:
        episode: The episode.
        step: The step.
        recorded: The recorded exception. One of the scaffold is the recorder's own: the
            environment has returned.
        raised: The exception that was raised now.

    Raises:
        DivergenceError: It is of another type.
    """
    expected = None if recorded is None or recorded.origin == "scaffold" else recorded
    expected_type = None if expected is None else expected.error_type
    raised_type = None if raised is None else codec.type_name(raised)
    if expected_type != raised_type:
        raise diverged(
            episode,
            step=step,
            field="failure",
            expected=describe(expected),
            actual=describe(raised),
        ) from raised


def verify_step(episode: Episode, handle: EnvHandle, step: int, obs: Observation) -> None:
    """Verify that an environment is at a step, by its observation and the digest of its state.

    Raises:
        DivergenceError: The observation or the state is not the recorded one.
    """
    # A step that raised has no observation to compare with.
    if not episode.has_reset or any(failure.step == step - 1 for failure in episode.failures):
        return
    row = int(np.searchsorted(episode.step_numbers, step))
    recorded = episode.observation_at(row)
    change = _counting_change("observation", recorded, as_recorded(obs), handle.tolerance)
    if change is not None and has_marks(recorded):
        change = first_change_of_marked(recorded, obs)
    if change is not None:
        raise diverged(
            episode,
            step=step - 1,
            field=to_field(("observation", *change.path)),
            expected=change.before,
            actual=change.after,
        )
    verify_state(episode, handle, step)


def as_recorded(value: Value) -> Value:
    """Return a value as a log gives it back: an object of a class becomes plain data."""
    cls = type(value)
    if cls in _UNCHANGED_TYPES and not (cls is np.ndarray and has_own_dtype(value)):
        return value
    return codec.decode(codec.encode(value, opaque=True))


def verify_state(episode: Episode, handle: EnvHandle, step: int) -> None:
    """Verify that an environment is in the recorded state before a step, if its digest is known.

    Raises:
        DivergenceError: The state has another digest.
    """
    digests = None if handle.adapter is None else episode.state_digests
    if handle.adapter is None or digests is None:
        return
    if any(failure.step == step - 1 for failure in episode.failures):
        return
    recorded = int(digests[int(np.searchsorted(episode.step_numbers, step))])
    state = handle.adapter.capture()
    live = episode.digest_state(state)
    if live != recorded and not _is_tolerated(episode, handle, step, state):
        raise diverged(
            episode,
            step=step - 1,
            field="state",
            expected=show_digest(recorded, episode.digest_bytes),
            actual=show_digest(live, episode.digest_bytes),
        )


def _counting_change(
    field: str, recorded: Value, live: Value, tolerance: Tolerance
) -> Change | None:
    """Return the first difference that counts, with its path below the field."""
    if tolerance.is_exact:
        return first_change(recorded, live)
    changes = diff(recorded, live)
    labelled = (change._replace(path=(field, *change.path)) for change in changes)
    pairs = zip(changes, labelled, strict=True)
    return next((change for change, named in pairs if tolerance.label(named) is None), None)


def _is_tolerated(episode: Episode, handle: EnvHandle, step: int, state: Value) -> bool:
    """Return whether a state of another digest differs by what is ignored alone.

    Without the whole state there is no distance: as in a replay, it is then not compared if floats
    may differ.
    """
    tolerance = handle.tolerance
    if tolerance.is_exact:
        return False
    try:
        recorded = episode.state(step)
    except StateUnknownError:
        return tolerance.ignores_digests
    return _counting_change("state", recorded, as_recorded(state), tolerance) is None


def diverged(
    episode: Episode, *, step: int, field: str, expected: Value, actual: Value
) -> DivergenceError:
    """Return the error that says that an environment is not in the recorded state after a step."""
    after = "the reset" if step < 0 else f"step {step}"
    recorded, now = short_pair(expected, actual)
    message = (
        f"the environment is not in the recorded state: after {after}, {field}: "
        f"recorded {recorded}, now {now}"
    )
    return DivergenceError(
        message, episode_id=episode.id, step=step, field=field, expected=expected, actual=actual
    )
