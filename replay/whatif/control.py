"""The control of a what-if experiment: recorded calls made again, each compared with its record."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from trajrec.agents.counters import StepCounter
from trajrec.agents.episode import AgentEpisode
from trajrec.agents.tool_wrappers import ToolStream
from trajrec.corpus.attempts import Attempt
from trajrec.corpus.episode import Episode
from trajrec.protocols import Verdict
from trajrec.recording.error_text import message_of
from trajrec.redaction.comparison import differences, redacted_like
from trajrec.redaction.redactor import Redactor
from trajrec.replay.agents.agent_difference import AgentDifference, RequestKind
from trajrec.replay.agents.recorded_answers import as_stored
from trajrec.types import JsonObject, Value
from trajrec.values.recorded import RecordedStream


class Control:
    """Makes recorded calls in the state that was put back, and reports each difference.

    Args:
        recorded: The recorded episode.
        live: The episode that makes the calls.
        steps: Its count of steps, to be set to the recording's before each call.
        redactor: The redactor of the recording.
        report: Called with each difference.

    Attributes:
        live: The episode that makes the calls.
        steps: Its count of steps.
    """

    def __init__(
        self,
        recorded: Episode,
        live: AgentEpisode,
        steps: StepCounter,
        redactor: Redactor,
        report: Callable[[AgentDifference], None],
    ) -> None:
        self.live = live
        self.steps = steps
        self._recorded = recorded
        self._redactor = redactor
        self._report = report
        self._has_all_changes = True

    def execute(
        self,
        attempt: Attempt,
        tool: str,
        arguments: JsonObject,
        *,
        call_id: str,
        run: Callable[[], Value] | None,
    ) -> Value:
        """Make a recorded call again, and compare its result or exception."""
        try:
            result = self.live.execute(tool, arguments, call_id=call_id, run=run)
        except Exception as exc:
            self._compare_error(attempt, exc)
            raise
        if inspect.isawaitable(result):
            return self._compare_awaited(attempt, result)
        return self._compare(attempt, result)

    def open_stream(
        self, attempt: Attempt, tool: str, arguments: JsonObject, *, call_id: str
    ) -> ToolStream:
        """Begin a recorded call of a generator again; its items, or exception, are compared."""
        return _ComparedStream(
            self.live.open_stream(tool, arguments, call_id),
            lambda items: self._compare(attempt, items),
            lambda error: self._compare_error(attempt, error),
        )

    def leave_out(self, attempt: Attempt) -> dict[str, None]:
        """Note a call that is answered from the log; return what a reader of the result must know."""
        if not attempt.changes:
            return {}
        self._has_all_changes = False
        return {
            f"the last state of the controls was not compared: {attempt.tool}, an external tool that "
            "did not run, had changed it": None
        }

    async def _compare_awaited(self, attempt: Attempt, result: Awaitable[Value]) -> Value:
        try:
            value = await result
        except Exception as exc:
            self._compare_error(attempt, exc)
            raise
        return self._compare(attempt, value)

    def _compare(self, attempt: Attempt, result: Value) -> Value:
        end = attempt.end
        before = attempt.result
        if end is not None and end.is_raised:
            before = f"raised {end.error_type}: {end.message}"
        after = redacted_like(before, as_stored(result), self._redactor)
        if end is not None and (end.is_raised or differences(before, after)):
            self._differ(attempt.start.step, "tool result", before, after)
        return result

    def _compare_error(self, attempt: Attempt, error: Exception) -> None:
        end = attempt.end
        if end is None:
            return
        before = f"raised {end.error_type}: {end.message}" if end.is_raised else attempt.result
        name = type(error).__name__
        if end.is_raised and end.error_type.rpartition(".")[2] == name:
            # The module of a program's own class may have another name: `__main__`, say.
            name = end.error_type
        else:
            name = f"{type(error).__module__}.{type(error).__qualname__}"
        actual = f"raised {name}: {message_of(error)}"
        if before != redacted_like(before, actual, self._redactor):
            self._differ(attempt.start.step, "tool result", before, actual)

    def check(self, recorded: Verdict, verifier: Callable[..., Value], *args: Value) -> Verdict:
        """Run a verifier; its verdict must be the recorded one, if there is one."""
        verdict = self.live.check(verifier, *args)
        before = (recorded.passed, recorded.score)
        after = (verdict.passed, verdict.score)
        if recorded.passed is not None and before != after:
            self._differ(self._recorded.end_step, "check", before, after)
        return verdict

    def compare_last_state(self) -> None:
        """Compare the last state with the recorded one, if both are known."""
        before = self._recorded.transcript.state_digest
        after = self.live.state_digest
        are_known = before is not None and after is not None and self._has_all_changes
        if are_known and before != after:
            self._differ(self._recorded.end_step, "state", before, after)

    def _differ(self, step: int, kind: RequestKind, recorded: Value, actual: Value) -> None:
        actual = self._redactor.plain(actual)
        changes = tuple(differences(recorded, actual))
        self._report(AgentDifference(step, kind, recorded, actual, changes))


class _ComparedStream:
    """The call of a generator, whose items are compared with the recorded ones at its end.

    Args:
        stream: The live call.
        compare: Called with the items if the generator ended, or the agent stopped reading.
        compare_error: Called with the exception if it raised.
    """

    recorded: RecordedStream | None = None

    def __init__(
        self,
        stream: ToolStream,
        compare: Callable[[list[Value]], object],
        compare_error: Callable[[Exception], None],
    ) -> None:
        self._stream = stream
        self._compare = compare
        self._compare_error = compare_error
        self._items: list[Value] = []

    def running(self) -> AbstractContextManager[None]:
        """Return the block in which the generator runs up to its next item."""
        return self._stream.running()

    def received(self, item: Value) -> None:
        """Note an item."""
        self._stream.received(item)
        # At once: the program may change it.
        self._items.append(as_stored(item))

    def ended(self, error: BaseException | None) -> None:
        """Note the end, and compare."""
        self._stream.ended(error)
        if isinstance(error, Exception):
            self._compare_error(error)
        else:
            self._compare(self._items)
