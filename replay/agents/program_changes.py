"""Makes the changes of a state again that the agent's own program made between the calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from trajrec.corpus.episode import Episode
from trajrec.corpus.transcript import AttemptKey
from trajrec.errors import ReplayError, RestoreError, StateUnknownError
from trajrec.replay.agents.world_changes import in_part
from trajrec.replay.execute.report import Divergence, divergence_of
from trajrec.tracking.parts import Part
from trajrec.types import Value
from trajrec.values.diff import Change

FROM_LOG = "changes by the agent's own program between calls were made from the log"
NOT_MADE = "changes by the agent's own program between calls were not made again"


class NotMadeError(ReplayError):
    """The state that the program left is unknown, so that nothing from there on can be proved."""


class MadeChanges(NamedTuple):
    """The result of making changes again.

    Attributes:
        digests: The digests of the parts that have the recorded state now.
        notes: Facts that a reader of the report must know.
        divergence: Set if a part could not be put into the recorded state.
    """

    digests: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()
    divergence: Divergence | None = None


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

    def make(self, parts: Sequence[Part], next_call: AttemptKey | None) -> MadeChanges:
        """Make the changes before a call, or those after the last one.

        Args:
            parts: The parts of the world; none if they cannot be compared with the recording.
            next_call: The call; None for the end.

        Raises:
            NotMadeError: The recorded state after the changes is unknown, e.g. a secret in it.
        """
        changed = [
            change for change in self._transcript.program_changes if change.next_call == next_call
        ]
        if not changed:
            return MadeChanges()
        if not parts:
            return MadeChanges(notes=(NOT_MADE,))
        step = changed[-1].step
        try:
            state = self._transcript.state_at(changed[-1].n_changes, step)
        except StateUnknownError as exc:
            message = f"{NOT_MADE} after step {step}: {exc.what}; from there, nothing is proved"
            raise NotMadeError(message, episode_id=self._episode_id) from exc
        digests = {change.part: change.digest for change in changed}
        for part in parts:
            if part.name in digests:
                actual = _put(part, state[part.name], digests[part.name])
                if actual != digests[part.name]:
                    change = Change((), f"digest {digests[part.name]}", actual)
                    divergence = divergence_of(step, in_part(part.name, change))
                    return MadeChanges(notes=(FROM_LOG,), divergence=divergence)
        return MadeChanges(digests=digests, notes=(FROM_LOG,))


def _put(part: Part, value: Value, digest: str) -> str:
    """Put a part into a state, unless it is in it; return its digest, or why that is impossible."""
    actual = part.tracker.update()[1]
    if actual == digest:
        return digest
    try:
        part.tracker.restore(value)
    except RestoreError as exc:
        return f"not put into it: {exc}"
    actual = part.tracker.begin()[1]
    return actual if actual == digest else f"digest {actual}"
