"""Re-execute an agent's episode, and compare only its later steps."""

from __future__ import annotations

from typing import Any

from trajrec.corpus.transcript import Attempt, AttemptKey
from trajrec.errors import StateUnknownError
from trajrec.replay.agents.world_changes import in_part
from trajrec.replay.agents.world_execution import WorldExecution
from trajrec.replay.execute.report import Divergence
from trajrec.values.diff import diff


class LateExecution(WorldExecution):
    """A re-execution of which the steps before `first` are not compared.

    The state in which the first compared step begins is compared whole, if the log tells it.

    Args:
        first: The first step to compare.
        options: See `WorldExecution`.
    """

    def __init__(self, *arguments: Any, first: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._first = first
        self._has_begun = False

    def make(self, attempt: Attempt) -> Divergence | None:
        """Make a recorded call again; return the divergence if it is compared."""
        if self._has_begun or self._first <= self._episode.first_step:
            return super().make(attempt)
        if attempt.start.step < self._first:
            super().make(attempt)
            return None
        return self._begin(attempt.key) or super().make(attempt)

    def attach(self) -> Divergence | None:
        """Take over a world that is in the state before `first` already; compare that state.

        Only calls from there on may be made.
        """
        self._parts = self._comparable_parts()
        return self._compare_begin()

    def _compare_first_state(self) -> Divergence | None:
        divergence = super()._compare_first_state()
        return divergence if self._first <= self._episode.first_step else None

    def _finish(self) -> Divergence | None:
        # No call may follow the first compared step.
        is_late = self._first > self._episode.first_step
        return (self._begin(None) if is_late else None) or super()._finish()

    def _begin(self, next_call: AttemptKey | None) -> Divergence | None:
        """Compare the state before the first compared step, which the program may have changed."""
        if self._has_begun:
            return None
        self._make_program_changes(next_call, lambda change: change.step < self._first)
        return self._compare_begin()

    def _compare_begin(self) -> Divergence | None:
        self._has_begun = True
        # Differences before it say nothing about what follows.
        self._ignored.clear()
        self._loose.clear()
        try:
            recorded = self._transcript.state(self._first) if self._parts else {}
        except StateUnknownError as exc:
            self._note(f"the state before step {self._first} was not compared: {exc.what}")
            recorded = {}
        digests = self._recorded_digests()
        for part in self._parts:
            value, digest = part.tracker.begin()
            self._digests[part.name] = digests.get(part.name, digest)
            if digest == digests.get(part.name):
                continue
            # The recorded digests may be those of another version of the tracker.
            self._loose.add(part.name)
            for change in diff(recorded.get(part.name, value), value):
                divergence = self._judge(self._first - 1, in_part(part.name, change))
                if divergence is not None:
                    return divergence
        return None

    def _recorded_digests(self) -> dict[str, str]:
        """Return the recorded digest of each part before the first compared step."""
        return self._transcript.digests_before(self._first)
