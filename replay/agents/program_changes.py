"""Makes the changes of a state again that the agent's own program made between the calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from trajrec.corpus.episode import Episode
from trajrec.corpus.program_changes import ProgramChange
from trajrec.corpus.transcript import AttemptKey
from trajrec.errors import ReplayError, RestoreError, StateUnknownError
from trajrec.tracking.parts import Part
from trajrec.types import Value

FROM_LOG = "changes by the agent's own program between calls were made from the log"
NOT_MADE = "changes by the agent's own program between calls were not made again"


class NotMadeError(ReplayError):
    """The state that the program left is unknown, so that nothing from there on can be proved."""


class MadeChanges(NamedTuple):
    """The result of making changes again.

    Attributes:
        digests: The digests of the parts that have the recorded state now.
        notes: Facts that a reader of the report must know.
    """

    digests: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()


class ProgramChanges:
    """Makes the changes of a recording.

    The program does not run in a replay of the world. Its changes are known from the log alone, so
    that the parts that it changed are put into the recorded state.

    Args:
        episode: The recording.
    """

    def __init__(self, episode: Episode) -> None:
        self._episode_id = episode.id
        self._transcript = episode.transcript

    def make(
        self,
        parts: Sequence[Part],
        next_call: AttemptKey | None,
        *,
        is_made: Callable[[ProgramChange], bool] = lambda change: True,
    ) -> MadeChanges:
        """Make the changes before a call, or those after the last one.

        Args:
            parts: The parts of the world; none if they cannot be compared with the recording.
            next_call: The call; None for the end.
            is_made: Selects the changes, the first of them.

        Raises:
            NotMadeError: The recorded state after the changes is unknown, e.g. because of a secret,
                or the world cannot be put into it.
        """
        changed = [
            change
            for change in self._transcript.program_changes
            if change.next_call == next_call and is_made(change)
        ]
        if not changed:
            return MadeChanges()
        if not parts:
            return MadeChanges(notes=(NOT_MADE,))
        step = changed[-1].step
        try:
            state = self._transcript.state_at(changed[-1].n_changes, step)
        except StateUnknownError as exc:
            raise self._not_made(step, exc.what) from exc
        digests = {change.part: change.digest for change in changed}
        for part in parts:
            if part.name in digests:
                problem = _put(part, state[part.name], digests[part.name])
                if problem:
                    raise self._not_made(step, problem)
        return MadeChanges(digests=digests, notes=(FROM_LOG,))

    def _not_made(self, step: int, reason: str) -> NotMadeError:
        message = f"{NOT_MADE} after step {step}: {reason}; from there, nothing is proved"
        return NotMadeError(message, episode_id=self._episode_id)


def _put(part: Part, value: Value, digest: str) -> str:
    """Put a part into a state, unless it is in it; return why that is impossible, else ""."""
    if part.tracker.update()[1] == digest:
        return ""
    try:
        part.tracker.restore(value)
    except RestoreError as exc:
        return str(exc)
    actual = part.tracker.begin()[1]
    return "" if actual == digest else f"the state has digest {actual}, recorded is {digest}"
