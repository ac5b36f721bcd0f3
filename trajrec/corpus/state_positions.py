"""The positions of an agent's states among the recorded changes, and the states that are assumed.

A large part of the state is not compared after each call of a tool that is declared `read`. Until
the next comparison it is assumed to be unchanged. If that comparison finds no difference, it was.
If it finds one, or if the log ends before it, the part is unknown after these calls.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from trajrec.corpus.attempts import Attempt, AttemptKey
from trajrec.log.assumptions import assumed_parts, suspects
from trajrec.log.events import PROGRAM, AgentEvent, CallEnd, StateChange, step_of_request


@dataclass
class Assumption:
    """Calls in a row after which a part was assumed to be unchanged.

    Attributes:
        part: The name of the part.
        first_step: The step of the first call.
        result: The result of the next comparison; "open" if the log ends before it.
        is_lost: Whether damage of the log may have taken changes of the part instead.
        compared_after: The call whose state was compared: its own is known in any case.
    """

    part: str
    first_step: int
    result: Literal["open", "same", "changed"] = "open"
    compared_after: AttemptKey | None = None
    is_lost: bool = False

    @property
    def reason(self) -> str:
        """Why the part is unknown."""
        if self.is_lost:
            return (
                f"the log is damaged after step {self.first_step}, and changes of this part may be "
                "lost there"
            )
        assumed = (
            f"since step {self.first_step} it was assumed to be unchanged, because the tools that "
            "were called are declared `read`"
        )
        if self.result == "open":
            return f"{assumed}; the log ends before it was compared again"
        return f"{assumed}; the next comparison found a difference"


class StatePosition(NamedTuple):
    """The position of a state.

    Attributes:
        n_changes: The number of recorded changes that lead to it.
        assumptions: The assumptions that hold there.
    """

    n_changes: int
    assumptions: Sequence[Assumption] = ()

    def unproved(self) -> Assumption | None:
        """Return the first assumption that no comparison proved, if there is one."""
        return next((item for item in self.assumptions if item.result != "same"), None)


class StatePositions:
    """The positions of the states of an episode.

    Args:
        events: The episode's events, in order.
        losses: Numbers of events behind which the log may have lost others.
    """

    def __init__(self, events: Sequence[AgentEvent], losses: Collection[int] = ()) -> None:
        # Steps in ascending order, the number of changes before each, and the assumptions that hold
        # there, if any do. A retry is of an earlier step.
        self._steps: list[int] = []
        self._counts: list[int] = []
        self._held: dict[int, tuple[Assumption, ...]] = {}
        self._after: dict[AttemptKey, int] = {}
        self._assumptions: dict[AttemptKey, list[Assumption]] = {}
        # The calls that each change of a tool that is declared `read` may come from.
        self._suspects: list[tuple[AttemptKey, list[AttemptKey]]] = []
        self._n_changes = 0
        self._open: dict[str, Assumption] = {}
        self._digests: dict[str, str] = {}
        last_step = -1
        for number, event in enumerate(events):
            if number in losses:
                self._lose(last_step)
            if isinstance(event, StateChange):
                self._add_change(event)
            elif isinstance(event, CallEnd):
                key = (event.step, event.call, event.attempt)
                self._after[key] = self._n_changes
                if losses:
                    self._assume(key, [part for part, a in self._open.items() if a.is_lost])
                if event.extra_data is not None:
                    self._assume(key, assumed_parts(event))
            elif (step := step_of_request(event)) > last_step:
                last_step = step
                if self._open:
                    self._held[len(self._steps)] = tuple(self._open.values())
                self._steps.append(last_step)
                self._counts.append(self._n_changes)
        if len(events) in losses:
            self._lose(last_step)

    @property
    def last(self) -> StatePosition:
        """The position of the last state."""
        return StatePosition(self._n_changes, tuple(self._open.values()))

    def before(self, step: int) -> StatePosition | None:
        """Return the position when a step began; None behind the last step."""
        index = bisect_left(self._steps, step)
        if index == len(self._steps):
            return None
        return StatePosition(self._counts[index], self._held.get(index, ()))

    def after(self, key: AttemptKey) -> StatePosition:
        """Return the position at the end of an attempt, or the last one if it has no end."""
        assumptions = [
            item for item in self._assumptions.get(key, ()) if item.compared_after != key
        ]
        return StatePosition(self._after.get(key, self._n_changes), assumptions)

    def mark(self, attempts: Collection[Attempt]) -> None:
        """Mark the attempts whose states are unknown, and those that may have changed a state."""
        by_key = {attempt.key: attempt for attempt in attempts}
        for key in self._assumptions:
            assumptions = self.after(key).assumptions
            unproved = frozenset(item.part for item in assumptions if item.result != "same")
            if unproved and key in by_key:
                by_key[key].unproved = unproved
                by_key[key].state_digest = None
        for found_after, keys in self._suspects:
            for key in keys:
                if key != found_after and key in by_key:
                    by_key[key].notes.append(
                        f"declared read; it or another of {len(keys)} calls changed state, as was "
                        f"found after step {found_after[0]} call {found_after[1]}"
                    )

    def _assume(self, key: AttemptKey, parts: Sequence[str]) -> None:
        for part in parts:
            assumption = self._open.setdefault(part, Assumption(part, key[0]))
            self._assumptions.setdefault(key, []).append(assumption)

    def _lose(self, step: int) -> None:
        """Take each part for unknown until its next digest: the log may have lost changes."""
        for part in self._digests:
            self._open[part] = Assumption(part, step, is_lost=True)

    def _add_change(self, event: StateChange) -> None:
        self._n_changes += 1
        part = event.part
        key = None if event.actor == PROGRAM else (event.step, event.call, event.attempt)
        is_same = self._digests.get(part) == event.digest
        self._digests[part] = event.digest
        assumption = self._open.pop(part, None) if self._open else None
        if assumption is not None:
            assumption.compared_after = key
            if is_same and event.digest and event.data is None and not assumption.is_lost:
                # No change, but the proof that there was none.
                assumption.result = "same"
                return
            assumption.result = "changed"
        if key is None:
            return
        if key in self._after:
            self._after[key] = self._n_changes
        keys = [] if event.extra_data is None else suspects(event)
        if len(keys) > 1:
            self._suspects.append((key, keys))
