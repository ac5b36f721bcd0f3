"""Steps whose action or state had a secret: the log does not have it, so they prove nothing."""

from __future__ import annotations

from trajrec.corpus.episode import Episode
from trajrec.errors import RedactedError


def redacted_error(episode: Episode, consequence: str) -> RedactedError:
    """Return the error of an episode of which a step behind a redacted one is needed.

    Args:
        episode: The episode.
        consequence: The part of the message that says what cannot be done.
    """
    step = episode.redacted_step
    assert step is not None
    return RedactedError(
        f"{consequence}: the action or state of {_place(step)} had a secret, which was redacted; "
        "record with redact=False if there are no secrets, or else with data that has none, such as "
        "that of a test system, or watch only the parts without them",
        episode_id=episode.id,
        step=step,
    )


def redaction_notes(episode: Episode) -> tuple[str, ...]:
    """Return the notes of a report about redacted steps."""
    notes = []
    if episode.redacted_step is not None:
        place = _place(episode.redacted_step)
        notes.append(f"a secret was redacted in {place}: from there, nothing is proved")
    if episode.redacted_action_step is not None:
        place = _place(episode.redacted_action_step)
        notes.append(f"the action of {place} had a secret: from there, nothing was executed")
    return tuple(notes)


def _place(step: int) -> str:
    return "the reset" if step < 0 else f"step {step}"
