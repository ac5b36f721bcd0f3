"""Makes the changes of a state again that the agent's own program made between the calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from trajrec.corpus.transcript import AttemptKey, Transcript
from trajrec.errors import RestoreError, StateUnknownError
from trajrec.replay.agents.world_changes import in_part
from trajrec.replay.execute.report import Divergence
from trajrec.tracking.parts import Part
from trajrec.types import Value
from trajrec.values.diff import Change
from trajrec.values.json import to_field

FROM_LOG = "changes by the agent's own program between calls were made from the log"
NOT_MADE = "changes by the agent's own program between calls were not made again"


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
        transcript: The recording.
    """

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript

    def make(self, parts: Sequence[Part], next_call: AttemptKey | None) -> MadeChanges:
        """Make the changes before a call, or those after the last one.

        Args:
            parts: The parts of the world; none if they cannot be compared with the recording.
            next_call: The call; None for the end.
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
            return MadeChanges(notes=(f"{NOT_MADE}: {exc.what}",))
        digests = {change.part: change.digest for change in changed}
        for part in parts:
            if part.name in digests:
                actual = _put(part, state[part.name], digests[part.name])
                if actual != digests[part.name]:
                    change = Change((), f"digest {digests[part.name]}", actual)
                    divergence = _divergence(step, in_part(part.name, change))
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


def _divergence(step: int, change: Change) -> Divergence:
    return Divergence(
        step=step,
        field=to_field(change.path),
        path=change.path,
        expected=change.before,
        actual=change.after,
    )
