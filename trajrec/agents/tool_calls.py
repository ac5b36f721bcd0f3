"""Tool calls: an attempt is recorded when it begins and when it ends, with its state changes."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from trajrec.agents.arguments import ArgumentCheck
from trajrec.agents.awaitables import of_same_kind
from trajrec.agents.counters import CallPosition, StepCounter
from trajrec.agents.freeze import derive_seed, frozen
from trajrec.agents.journal import Journal
from trajrec.agents.state_recorder import StateRecorder
from trajrec.agents.tool_streams import RecordedToolStream
from trajrec.log.assumptions import assumed_data
from trajrec.log.events import CallEnd, CallStart
from trajrec.log.open_ends import open_data
from trajrec.protocols import Tool
from trajrec.recording.faults import is_infra
from trajrec.types import JsonObject, Value
from trajrec.values import codec
from trajrec.wire.mcp_results import told_error

IsError: TypeAlias = Callable[[Value], str | None]

# One object for all calls, because a null context has no state.
_NOT_FROZEN = contextlib.nullcontext()


class ToolCallRecorder:
    """Records the tool calls of one episode.

    Args:
        journal: The episode's journal.
        steps: The episode's counter.
        tools: The tools by name. Tools may be added later.
        is_error: Returns why a result is an error, None if it is none.

    Attributes:
        frozen_seed: If set, each call runs with the clock frozen at its own time, and all other
            randomness seeded from this seed.
        tools: The tools by name.
        states: Compares and records the watched state.
    """

    def __init__(
        self, journal: Journal, steps: StepCounter, tools: dict[str, Tool], is_error: IsError
    ) -> None:
        self.tools = tools
        self.frozen_seed: int | None = None
        self.states = StateRecorder(journal, steps)
        self._journal = journal
        self._steps = steps
        self._is_error = is_error
        self._arguments = ArgumentCheck()
        # If it ends the episode, the world is to blame and not the agent.
        self.last_raised: BaseException | None = None
        self._streams: dict[CallPosition, RecordedToolStream] = {}

    def execute(
        self,
        name: str,
        arguments: JsonObject,
        run: Callable[[], Value],
        *,
        call_id: str = "",
        invalid: str = "",
    ) -> Value:
        """Run a call, and return its result or raise its exception.

        Args:
            name: Name of the tool.
            arguments: Its arguments.
            run: Runs the call.
            call_id: Id that the model gave the call.
            invalid: Why the call is invalid, "" if it is not known to be so.
        """
        position, tool, time_ns, is_valid = self._begin(name, arguments, call_id, invalid)
        try:
            self.states.enter_call(position, tool)
            self.states.running.enter(position)
            with self._freeze(time_ns, position):
                result = run()
        except BaseException as exc:
            self._add_exception(position, tool, exc, origin="tool" if is_valid else "agent")
            raise
        if inspect.isawaitable(result):
            self.states.running.leave(position)
            return of_same_kind(result, self._await(position, tool, time_ns, result))
        self._add_result(position, tool, result)
        return result

    def open_stream(
        self, name: str, arguments: JsonObject, call_id: str = ""
    ) -> RecordedToolStream:
        """Begin a call whose result is the items of a generator; return what notes them."""
        position, tool, time_ns, _ = self._begin(name, arguments, call_id, "")
        self.states.enter_call(position, tool)
        on_end = functools.partial(self._add_stream, position, tool)
        freeze = functools.partial(self._freeze, time_ns, position)
        stream = RecordedToolStream(self._journal, on_end, freeze)
        self._streams[position] = stream
        return stream

    def leave_open(self) -> None:
        """Record of each generator that has no end its items, at the end of the episode."""
        for position, stream in list(self._streams.items()):
            data, is_redacted = self._journal.encode(stream.kept)
            end = CallEnd(
                episode=self._journal.number,
                step=position.step,
                call=position.call,
                attempt=position.attempt,
                time_ns=time.time_ns(),
                # For readers that do not know of provisional ends.
                outcome="cancelled",
                result_data=data,
                is_redacted=is_redacted,
                extra_data=open_data(),
            )
            self._journal.add(end, len(data))
            stream.was_left = True

    def open_call(self, name: str, arguments: JsonObject, *, invalid: str) -> OpenToolCall:
        """Begin a call that runs in another process; return what notes its end."""
        position, tool, _, _ = self._begin(name, arguments, "", invalid)
        self.states.enter_call(position, tool)
        return OpenToolCall(self, position, tool)

    def end_call(
        self, position: CallPosition, tool: Tool | None, result: Value, error: BaseException | None
    ) -> None:
        """Record the end of a call that ran in another process.

        Args:
            position: The position of the call.
            tool: The tool, if it is known.
            result: The result; with an exception, the error as the other process told it.
            error: The exception, None if the call returned.
        """
        if error is None:
            self._add_result(position, tool, result)
        else:
            # What is no `Exception` is a call that the agent's program has given up.
            origin: Literal["agent", "tool"] = "tool" if isinstance(error, Exception) else "agent"
            self._add_exception(position, tool, error, origin=origin, result=result)

    def _begin(self, name: str, arguments: JsonObject, call_id: str, invalid: str) -> _OpenCall:
        """Record the start of a call."""
        tool = self.tools.get(name)
        # Before the call has a step: what changed until now belongs to the step before it.
        self.states.prepare_call(tool)
        # Of any mapping, as a log holds arguments.
        given = dict(arguments)
        position = self._steps.next_call()
        self.last_raised = None
        journal = self._journal
        if tool is not None and not invalid:
            invalid = self._arguments.find_mismatch(tool, given)
        data, is_redacted = journal.encode(given)
        # A model may call a tool that does not exist, by any text.
        shown_name = name if tool is not None else journal.text(name)
        time_ns = time.time_ns()
        # Before the tool runs: a call that ends the process has its start in the log.
        journal.add(
            CallStart(
                episode=journal.number,
                step=position.step,
                call=position.call,
                attempt=position.attempt,
                time_ns=time_ns,
                tool=shown_name,
                # Some models give their calls no ids.
                call_id=call_id or "",
                arguments_data=data,
                access="unknown" if tool is None else tool.access,
                invalid=journal.text(invalid),
                retry_by=position.by,
                backoff_ns=position.backoff_ns,
                is_redacted=is_redacted,
            ),
            len(data),
        )
        return _OpenCall(position, tool, time_ns, not invalid)

    def _freeze(
        self, time_ns: int, position: CallPosition, *part: int
    ) -> contextlib.AbstractContextManager[None]:
        if self.frozen_seed is None:
            return _NOT_FROZEN
        return frozen(time_ns, derive_seed(self.frozen_seed, *position[:3], *part))

    async def _await(
        self, position: CallPosition, tool: Tool | None, time_ns: int, result: Awaitable[Value]
    ) -> Value:
        self.states.running.enter(position)
        try:
            with self._freeze(time_ns, position):
                value = await result
        except BaseException as exc:
            self._add_exception(position, tool, exc, origin="tool", is_async=True)
            raise
        self._add_result(position, tool, value, is_async=True)
        return value

    def _add_stream(
        self, position: CallPosition, tool: Tool | None, error: BaseException | None
    ) -> None:
        """Add the end of a generator. Its items are the result, also before an exception."""
        stream = self._streams.pop(position)
        if stream.was_left and self._journal.is_closed:
            # Its record says that it was open when the episode ended.
            return
        # A generator that is closed early gave what the agent wanted of it.
        if error is None or isinstance(error, GeneratorExit):
            self._add_result(position, tool, stream.items, kept=stream.kept)
        else:
            self._add_exception(position, tool, error, origin="tool", result=stream.kept)

    def _add_result(
        self,
        position: CallPosition,
        tool: Tool | None,
        result: Value,
        *,
        kept: Value = None,
        is_async: bool = False,
    ) -> None:
        time_ns = time.time_ns()
        failed: Exception | None = None
        try:
            error = _reason(self._is_error(result))
        except Exception as exc:
            # The program sees that its own function raised, and the log has the result all the same.
            failed = exc
            error = None
        data, is_redacted = self._journal.encode(result if kept is None else kept)
        end = CallEnd(
            episode=self._journal.number,
            step=position.step,
            call=position.call,
            attempt=position.attempt,
            time_ns=time_ns,
            outcome="ok" if error is None else "error",
            result_data=data,
            origin="" if error is None else "tool",
            message="" if error is None else self._journal.text(error),
            is_redacted=is_redacted,
            is_async=is_async,
        )
        self._add_end(position, tool, end, len(data))
        if failed is not None:
            raise failed

    def _add_exception(
        self,
        position: CallPosition,
        tool: Tool | None,
        exc: BaseException,
        *,
        origin: Literal["agent", "tool"],
        is_async: bool = False,
        result: Value = None,
    ) -> None:
        if _is_cancelled(exc):
            # Its own program ended the call, which has no fault.
            origin = "agent"
        if origin == "tool":
            self.last_raised = exc
        error = self._journal.describe(exc)
        data = None
        is_redacted = error.is_redacted
        if result is not None:
            data, has_secrets = self._journal.encode(result)
            is_redacted = is_redacted or has_secrets
        end = CallEnd(
            episode=self._journal.number,
            step=position.step,
            call=position.call,
            attempt=position.attempt,
            time_ns=time.time_ns(),
            outcome=_outcome(exc),
            result_data=data,
            is_raised=True,
            origin="infra" if is_infra(exc) else origin,
            error_type=error.error_type,
            message=error.message,
            traceback=error.traceback,
            is_redacted=is_redacted,
            is_async=is_async,
        )
        self._add_end(position, tool, end, len(error.traceback))

    def _add_end(self, position: CallPosition, tool: Tool | None, end: CallEnd, size: int) -> None:
        """Add the end of an attempt, and the changes since the last end of one."""
        # Under the lock, so that no attempt gets the changes of another that ends meanwhile.
        with self._steps.lock:
            if not self.states.parts:
                self._journal.add(end, size)
                return
            assumed = self.states.assume(position, tool)
            if assumed:
                end = msgspec.structs.replace(end, extra_data=assumed_data(tuple(assumed)))
            self._journal.add(end, size)
            self.states.end_call(position, tool, assumed)


class _OpenCall(NamedTuple):
    """A call whose start is recorded."""

    position: CallPosition
    tool: Tool | None
    time_ns: int
    is_valid: bool


class OpenToolCall:
    """A call that runs in another process, and whose start is recorded.

    Args:
        recorder: Records its end.
        position: The position of the call.
        tool: The tool, if it is known.
    """

    def __init__(
        self, recorder: ToolCallRecorder, position: CallPosition, tool: Tool | None
    ) -> None:
        self._recorder = recorder
        self._position = position
        self._tool = tool

    def returned(self, result: Value) -> None:
        """Record its result."""
        self._recorder.end_call(self._position, self._tool, result, None)

    def failed(self, error: BaseException, result: Value = None) -> None:
        """Record its exception, with the error as the other process told it."""
        self._recorder.end_call(self._position, self._tool, result, error)


def _reason(told: Value) -> str | None:
    """Return why a result is an error; a program's own function may say only that it is one."""
    if told is None or told is False:
        return None
    return told if isinstance(told, str) else codec.type_name(told)


def find_error(result: Value) -> str | None:
    """Return why a tool's result is an error, None if it is none.

    Most tools report an error as {"error": ...} or, as MCP does, by a true isError or is_error.

    >>> find_error({"error": "no such order"})
    'no such order'
    >>> find_error({"isError": True, "content": [{"type": "text", "text": "sold out"}]})
    'sold out'
    """
    try:
        if isinstance(result, dict):
            error = result.get("error")
            if error:
                return error if isinstance(error, str) else codec.type_name(error)
            return told_error(result.get("content")) if result.get("isError") is True else None
        for name in ("isError", "is_error"):
            if getattr(result, name, False) is True:
                return told_error(getattr(result, "content", None))
    except Exception:  # an object's own code, say the truth of an array: it reports no error
        return None
    return None


def _is_cancelled(exc: BaseException) -> bool:
    """Return whether the task that runs was cancelled from outside, and not by the tool."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or not isinstance(exc, asyncio.CancelledError):
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop: a sync tool raised it
        return False
    return task is not None and task.cancelling() > 0


def _outcome(exc: BaseException) -> Literal["timeout", "error", "cancelled"]:
    if isinstance(exc, TimeoutError):
        return "timeout"
    return "error" if isinstance(exc, Exception) else "cancelled"
