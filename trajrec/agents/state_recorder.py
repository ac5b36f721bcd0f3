"""Records the changes of the watched state, each with the call that made it.

The state is compared after every call, with one exception. A look at a large part costs
milliseconds even if nothing changed, so after a call of a tool that is declared `read` a large part
is assumed to be unchanged. It is compared after one such call in 50, and before anything that
depends on it: a call of any other tool, a check, and the end.

The log says what is assumed: the end of such a call names the parts, and the next comparison is
recorded even if nothing changed, as a change without data that has the digest of before. A
difference may come from each of these calls, and the record of it names them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from trajrec.agents.counters import CallPosition
from trajrec.agents.journal import EVENT_BYTES, Journal
from trajrec.log.assumptions import suspects_data
from trajrec.log.events import StateChange
from trajrec.log.schema import Failure
from trajrec.protocols import Tool
from trajrec.tracking.parts import Part, digest_of_parts, is_large
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.diff import MISSING, Change

MAX_ASSUMED = 50
"""Of so many calls of tools that are declared `read`, the last one is compared."""

CHANGED = "declared read, changed state"
"""The message of the failure of a tool that is declared `read` and changed the state."""

NOT_CAPTURED = "the state could not be captured"


class ReadCall(NamedTuple):
    """A call of a tool that is declared `read`.

    Attributes:
        position: The position of the call.
        tool: The name of the tool.
        assumed: The names of the parts that were not compared after it.
    """

    position: CallPosition
    tool: str
    assumed: frozenset[str] = frozenset()


class StateRecorder:
    """Compares the watched parts of one episode, and records their changes.

    Args:
        journal: The episode's journal.
        lock: Held while a state is compared, so that no call gets the changes of another one that
            ends meanwhile. Reentrant: trackers run code of the world, which may call tools.

    Attributes:
        parts: The watched parts of the state.
        digests: Digest of each part after its last change; "" if it could not be captured.
    """

    def __init__(self, journal: Journal, lock: AbstractContextManager[bool]) -> None:
        self.parts: list[Part] = []
        self.digests: dict[str, str] = {}
        self._journal = journal
        self._lock = lock
        # Calls after which parts were not compared, and have not been since.
        self._assuming: list[ReadCall] = []
        # Calls whose failure is to be recorded.
        self._blamed: dict[CallPosition, ReadCall] = {}
        # Calls of other tools that run: the state may change at any moment.
        self._writing: set[CallPosition] = set()
        # Parts whose changes were read and perhaps not recorded, because an exception came between.
        self._unfinished: set[str] = set()
        # The call whose end is recorded, and whose comparison has not ended.
        self._ending: tuple[CallPosition, Tool | None] | None = None
        # Not a flag: the code of a tracker may call a tool, whose end is compared meanwhile.
        self._n_comparing = 0

    def prepare_call(self, tool: Tool | None) -> None:
        """Compare what the last calls assumed, before the start of a call that may write."""
        self._finish_last()
        if self._assuming and not _is_read(tool):
            self.compare()

    def enter_call(self, position: CallPosition, tool: Tool | None) -> None:
        """Note that a call begins to run."""
        if self.parts and not _is_read(tool):
            with self._lock:
                self._writing.add(position)

    def assume(self, position: CallPosition, tool: Tool | None) -> Collection[str]:
        """Return the names of the parts that will not be compared after a call that ends."""
        self._ending = (position, tool)
        if tool is None or not _is_read(tool) or len(self._assuming) + 1 >= MAX_ASSUMED:
            return ()
        # While another call may be writing, its half-done changes would be taken for this one's.
        assumed = [part.name for part in self.parts if self._writing or is_large(part.tracker)]
        if assumed:
            # Before the end of the call is recorded, since an exception may come between.
            self._assuming.append(ReadCall(position, tool.name, frozenset(assumed)))
        return assumed

    def end_call(self, position: CallPosition, tool: Tool | None, assumed: Collection[str]) -> None:
        """Compare the parts after a call whose end was recorded, but for those that it assumes."""
        caller = None
        if tool is not None and _is_read(tool):
            caller = ReadCall(position, tool.name)
        self._n_comparing += 1
        try:
            self._writing.discard(position)
            for part in self.parts:
                if part.name not in assumed:
                    self._compare(part, position, caller, is_read=caller is not None)
            self._blame(position)
            self._ending = None
        finally:
            self._n_comparing -= 1

    def compare(self) -> None:
        """Compare the parts that were not compared after the last calls."""
        self._finish_last()
        with self._lock:
            for part in self.parts:
                calls = self._calls_assuming(part)
                if calls:
                    self._compare(part, calls[-1].position, None, is_read=True)
            if self._blamed:
                self._blame(max(self._blamed))

    def digest(self) -> str | None:
        """Return the digest of all parts; None if there are none, or one was not captured."""
        self.compare()
        return digest_of_parts(self.digests)

    def end(self) -> None:
        """Compare the parts at the end of the episode. Nothing is recorded after that."""
        try:
            self.compare()
        finally:
            self._assuming.clear()

    def _finish_last(self) -> None:
        """Compare the state after a call again, if an exception ended that comparison."""
        if self._ending is not None and not self._n_comparing:
            with self._lock:
                # Not if another thread had the lock, and has compared the state.
                if self._ending is not None:
                    self.end_call(*self._ending, ())

    def _calls_assuming(self, part: Part) -> list[ReadCall]:
        return [call for call in self._assuming if part.name in call.assumed]

    def _compare(
        self, part: Part, position: CallPosition, caller: ReadCall | None, *, is_read: bool
    ) -> None:
        """Compare a part with its last state, and record its changes as those of a call.

        Args:
            part: The part.
            position: The position of the call.
            caller: The call, if its tool is declared `read` and it is compared at once.
            is_read: Whether only calls of such tools have run since the last comparison.
        """
        # Mostly empty: only large parts are not compared at once.
        calls = self._calls_assuming(part)
        suspects = list(calls)
        if caller is not None:
            suspects.append(caller)
        if not is_read or self._writing:
            suspects = []
        if self._has_changed(part, position, suspects=suspects):
            self._blamed |= {call.position: call for call in suspects}
        elif calls and self.digests[part.name]:
            # Proves that what the calls assumed was right.
            self._add(part, calls[-1].position, digest=self.digests[part.name])
        if calls:
            rest = [call._replace(assumed=call.assumed - {part.name}) for call in self._assuming]
            self._assuming = [call for call in rest if call.assumed]

    def _has_changed(
        self, part: Part, position: CallPosition, *, suspects: Sequence[ReadCall]
    ) -> bool:
        """Compare a part, record its changes, and return whether there are any.

        Args:
            part: The part.
            position: The position of the call that is recorded with them.
            suspects: The calls that made them, if their tools are declared `read`.
        """
        try:
            try:
                changes, digest = self._read_changes(part)
            except Exception:
                # Once more: it may be a signal handler's exception, for instance of a time limit.
                changes, digest = self._read_changes(part)
        except Exception as exc:  # a world may have any data; a failure to see it is recorded
            self._journal.fail(position.step, "state", "env", exc)
            self._add(part, position, digest="", note=NOT_CAPTURED)
            return False
        if not changes and digest == self.digests.get(part.name):
            self._unfinished.discard(part.name)
            return False
        self._add(part, position, digest=digest, changes=changes, suspects=suspects)
        return True

    def _add(
        self,
        part: Part,
        position: CallPosition,
        *,
        digest: str,
        changes: Sequence[Change] = (),
        note: str = "",
        suspects: Sequence[ReadCall] = (),
    ) -> None:
        journal = self._journal
        self.digests[part.name] = digest
        data = None
        if changes:
            redacted = list(map(journal.redactor.change, changes))
            n_hidden = sum(a is not b for a, b in zip(changes, redacted, strict=True))
            journal.note("state", position.step, n_hidden)
            data = journal.noted(list(map(_operation, redacted)), "state", position.step)
        keys = dict.fromkeys(call.position[:3] for call in suspects)
        if keys:
            note = CHANGED if len(keys) == 1 else f"{CHANGED}: one of {len(keys)} calls"
        event = StateChange(
            episode=journal.number,
            step=position.step,
            call=position.call,
            attempt=position.attempt,
            part=part.name,
            digest=digest,
            data=data,
            note=note,
            extra_data=suspects_data(keys) if keys else None,
        )
        journal.add(event, EVENT_BYTES if data is None else len(data))
        self._unfinished.discard(part.name)

    def _blame(self, position: CallPosition) -> None:
        """Add the failure of tools that are declared `read`, if there is one.

        The calls that it may come from are its action.
        """
        if not self._blamed:
            return
        calls = [
            {"step": step, "call": call, "attempt": attempt, "tool": self._blamed[key].tool}
            for key in sorted(self._blamed)
            for step, call, attempt in (key[:3],)
        ]
        event = Failure(
            episode=self._journal.number,
            step=position.step,
            attempt=position.attempt,
            time_ns=time.time_ns(),
            phase="state",
            origin="tool",
            error_type="",
            message=CHANGED,
            traceback="",
            action_data=codec.encode(calls),
        )
        self._journal.add(event)
        self._blamed.clear()

    def _read_changes(self, part: Part) -> tuple[list[Change], str]:
        """Return the changes of a part since the last ones that were recorded, and the digest."""
        if part.name not in self._unfinished:
            self._unfinished.add(part.name)
            return part.tracker.update()
        # The tracker may have seen changes that were not recorded.
        value, digest = part.tracker.begin()
        return [Change((), MISSING, value)], digest


def _is_read(tool: Tool | None) -> bool:
    return tool is not None and tool.access == "read"


def _operation(change: Change) -> list[Value]:
    """Return a change with the names of JSON Patch (RFC 6902), without missing values."""
    path = list(change.path)
    if change.before is MISSING:
        return ["add", path, change.after]
    if change.after is MISSING:
        return ["remove", path, change.before]
    return ["replace", path, change.before, change.after]
