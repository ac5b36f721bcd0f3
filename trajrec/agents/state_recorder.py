"""Records the changes of the watched state, each with the call that made it.

The state is compared before and after every call, before every model call and check, and at the
end. A difference that is found while no call runs is a change by the agent's own program, or by
anything else outside of the recorded calls; one that is found while a single call runs is its own.

There is one exception. A look at a large part costs milliseconds even if nothing changed, so around
a call of a tool that is declared `read` a large part is assumed to be unchanged. It is compared
after one such call in 50, and before anything that depends on it: a call of any other tool, a
check, and the end.

The log says what is assumed: the end of such a call names the parts, and the next comparison is
recorded even if nothing changed, as a change without data that has the digest of before. A
difference may come from each of these calls, and the record of it names them; or from the program
between them, and the record says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from typing import NamedTuple

from trajrec.agents.counters import CallPosition, StepCounter
from trajrec.agents.journal import EVENT_BYTES, Journal
from trajrec.agents.running_calls import RunningCalls, is_read
from trajrec.log.assumptions import suspects_data
from trajrec.log.events import PROGRAM, Actor, StateChange
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

OR_PROGRAM = "or the program between the calls"
"""The end of that message, if the state was not compared between the end of a call and the change."""

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
        steps: The episode's counter. Its lock is held while a state is compared, so that no call
            gets the changes of another one that ends meanwhile. It is reentrant: trackers run code
            of the world, which may call tools.

    Attributes:
        parts: The watched parts of the state.
        digests: Digest of each part after its last change; "" if it could not be captured.
        running: The calls that run.
    """

    def __init__(self, journal: Journal, steps: StepCounter) -> None:
        self.parts: list[Part] = []
        self.digests: dict[str, str] = {}
        self._journal = journal
        self._steps = steps
        self._lock = steps.lock
        # Calls after which parts were not compared, and have not been since.
        self._assuming: list[ReadCall] = []
        # Calls whose failure is to be recorded, and its message.
        self._blamed: dict[CallPosition, ReadCall] = {}
        self._blame_message = CHANGED
        self.running = RunningCalls()
        # Parts whose changes were read and perhaps not recorded, because an exception came between.
        self._unfinished: set[str] = set()
        # The call whose end is recorded, and whose comparison has not ended.
        self._ending: tuple[CallPosition, Tool | None] | None = None
        # Not a flag: the code of a tracker may call a tool, whose end is compared meanwhile.
        self._n_comparing = 0
        self._comparing_thread = 0
        self._has_ended = False

    def prepare_call(self, tool: Tool | None) -> None:
        """Compare the state before the start of a call, which did not make the changes until then.

        If the tool is declared `read`, large parts are not compared.
        """
        if self.parts:
            self._find_earlier_changes(with_large=not is_read(tool))

    def prepare_model_call(self) -> None:
        """Compare the state before a model call, but for the parts that are assumed to be the same."""
        if self.parts:
            self._find_earlier_changes(with_assumed=False)

    def enter_call(self, position: CallPosition, tool: Tool | None) -> None:
        """Note that a call begins to run."""
        if self.parts:
            with self._lock:
                self.running.begin(position, tool)

    def assume(self, position: CallPosition, tool: Tool | None) -> Collection[str]:
        """Return the names of the parts that will not be compared after a call that ends."""
        self._ending = (position, tool)
        if tool is None or not is_read(tool) or len(self._assuming) + 1 >= MAX_ASSUMED:
            return ()
        # While another call may be writing, its half-done changes would be taken for this one's.
        assumed = [
            part.name for part in self.parts if self.running.is_writing or is_large(part.tracker)
        ]
        if assumed:
            # Before the end of the call is recorded, since an exception may come between.
            self._assuming.append(ReadCall(position, tool.name, frozenset(assumed)))
        return assumed

    def end_call(self, position: CallPosition, tool: Tool | None, assumed: Collection[str]) -> None:
        """Compare the parts after a call whose end was recorded, but for those that it assumes."""
        caller = None
        if tool is not None and is_read(tool):
            caller = ReadCall(position, tool.name)
        self._n_comparing += 1
        self._comparing_thread = threading.get_ident()
        try:
            self.running.end(position)
            for part in self.parts:
                if part.name not in assumed:
                    self._compare(part, position, caller, is_read=caller is not None)
            self._blame(position)
            self._ending = None
        finally:
            self._n_comparing -= 1

    def digest(self) -> str | None:
        """Return the digest of all parts; None if there are none, or one was not captured."""
        if self.parts:
            self._find_earlier_changes()
        return digest_of_parts(self.digests)

    def end(self) -> None:
        """Compare the parts at the end of the episode. Nothing is recorded after that."""
        try:
            if self.parts:
                self._find_earlier_changes(is_last=True)
        finally:
            self._has_ended = True
            self._assuming.clear()

    def _find_earlier_changes(
        self, *, with_large: bool = True, with_assumed: bool = True, is_last: bool = False
    ) -> None:
        """Record the changes since the last comparison, before anything else happens.

        Args:
            with_large: Whether large parts are compared.
            with_assumed: Whether parts are compared that were not after the last calls.
            is_last: Whether the episode ends. A part that cannot be read any more then, such as a
                database that the program has closed, has the state of the last comparison.
        """
        # Trackers run code of the world, which may call a tool.
        if self._has_ended or self._is_comparing_here():
            return
        self._finish_last()
        with self._lock:
            self._n_comparing += 1
            self._comparing_thread = threading.get_ident()
            try:
                assumed = {name for call in self._assuming for name in call.assumed}
                if assumed and with_assumed and with_large:
                    self._compare_assumed()
                self._compare_others(assumed, with_large=with_large, is_last=is_last)
            finally:
                self._n_comparing -= 1

    def _compare_assumed(self) -> None:
        """Compare the parts that were not compared after the last calls."""
        for part in self.parts:
            calls = self._calls_assuming(part)
            if calls:
                self._compare(part, calls[-1].position, None, is_read=True)
        if self._blamed:
            self._blame(max(self._blamed))

    def _compare_others(self, assumed: Collection[str], *, with_large: bool, is_last: bool) -> None:
        """Record changes of the other parts as those of the program, or of the one call that runs."""
        position = CallPosition(self._steps.step, 0)
        actor: Actor = PROGRAM
        suspects: list[ReadCall] = []
        if self.running:
            call = self.running.innermost()
            if call is None:
                # It cannot be told which of the calls made a change, or if the program did.
                return
            position = call.position
            actor = "agent"
            if call.is_read:
                suspects = [ReadCall(position, call.tool)]
        for part in self.parts:
            # A part that could not be captured is tried again after the next call.
            is_known = bool(self.digests.get(part.name))
            if is_known and part.name not in assumed and (with_large or not is_large(part.tracker)):
                note = CHANGED if suspects else ""
                if self._has_changed(
                    part, position, note=note, suspects=suspects, actor=actor, is_last=is_last
                ):
                    self._blamed |= {call.position: call for call in suspects}
        if self._blamed:
            self._blame(position)

    def _is_comparing_here(self) -> bool:
        """Return whether this thread compares: a tracker's code called a tool. Others wait."""
        return self._n_comparing > 0 and self._comparing_thread == threading.get_ident()

    def _finish_last(self) -> None:
        """Compare the state after a call again, if an exception ended that comparison."""
        if self._ending is not None and not self._is_comparing_here():
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
        suspects = list(calls) if caller is None else [*calls, caller]
        # What changed while the part could not be read may be the work of an earlier call.
        if not is_read or self.running.is_writing or not self.digests.get(part.name):
            suspects = []
        message = f"{CHANGED}: {_one_of(suspects)}, {OR_PROGRAM}" if calls else CHANGED
        if self._has_changed(part, position, suspects=suspects, note=message if suspects else ""):
            self._blamed |= {call.position: call for call in suspects}
            self._blame_message = max(message, self._blame_message, key=len)
        elif calls and self.digests[part.name]:
            # Proves that what the calls assumed was right.
            self._add(part, calls[-1].position, digest=self.digests[part.name])
        if calls:
            rest = [call._replace(assumed=call.assumed - {part.name}) for call in self._assuming]
            self._assuming = [call for call in rest if call.assumed]

    def _has_changed(
        self,
        part: Part,
        position: CallPosition,
        *,
        note: str = "",
        suspects: Sequence[ReadCall] = (),
        actor: Actor = "agent",
        is_last: bool = False,
    ) -> bool:
        """Compare a part, record its changes, and return whether there are any.

        Args:
            part: The part.
            position: The position of the call that is recorded with them.
            note: The finding that is recorded with them.
            suspects: The calls that made them, if their tools are declared `read`.
            actor: Who made them.
            is_last: Whether a part that cannot be read has the state of before.
        """
        # Twice: it may be a signal handler's exception, for instance of a time limit. Not as one
        # block in another: an exception between their beginnings would count as the second one.
        for is_again in (False, True):
            try:
                changes, digest = self._read_changes(part)
                break
            except Exception as exc:  # a world may have any data; a failure to see it is recorded
                if is_again:
                    if not is_last:
                        self._journal.fail(position.step, "state", "env", exc)
                        self._add(part, position, digest="", note=NOT_CAPTURED, actor=actor)
                    return False
        if not changes and digest == self.digests.get(part.name):
            self._unfinished.discard(part.name)
            return False
        self._add(
            part,
            position,
            digest=digest,
            changes=changes,
            note=note,
            suspects=suspects,
            actor=actor,
        )
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
        actor: Actor = "agent",
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
        event = StateChange(
            episode=journal.number,
            step=position.step,
            call=position.call,
            attempt=position.attempt,
            part=part.name,
            digest=digest,
            data=data,
            note=note,
            actor=actor,
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
            message=self._blame_message,
            traceback="",
            action_data=codec.encode(calls),
        )
        self._journal.add(event)
        self._blamed.clear()
        self._blame_message = CHANGED

    def _read_changes(self, part: Part) -> tuple[list[Change], str]:
        """Return the changes of a part since the last ones that were recorded, and the digest."""
        if part.name not in self._unfinished:
            self._unfinished.add(part.name)
            return part.tracker.update()
        # The tracker may have seen changes that were not recorded.
        value, digest = part.tracker.begin()
        return [Change((), MISSING, value)], digest


def _one_of(calls: Sequence[ReadCall]) -> str:
    n_calls = len({call.position[:3] for call in calls})
    return "the call" if n_calls == 1 else f"one of {n_calls} calls"


def _operation(change: Change) -> list[Value]:
    """Return a change with the names of JSON Patch (RFC 6902), without missing values."""
    path = list(change.path)
    if change.before is MISSING:
        return ["add", path, change.after]
    if change.after is MISSING:
        return ["remove", path, change.before]
    return ["replace", path, change.before, change.after]
