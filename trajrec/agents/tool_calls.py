"""Tool calls: an attempt is recorded when it begins and when it ends, with its state changes."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

import msgspec

from trajrec.agents.arguments import ArgumentCheck
from trajrec.agents.counters import CallPosition, StepCounter
from trajrec.agents.freeze import derive_seed, frozen
from trajrec.agents.journal import Journal
from trajrec.agents.state_recorder import StateRecorder
from trajrec.log.assumptions import assumed_data
from trajrec.log.events import CallEnd, CallStart
from trajrec.protocols import Tool
from trajrec.recording.faults import is_infra
from trajrec.types import JsonObject, Value
from trajrec.values import codec

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
        self.states = StateRecorder(journal, steps.lock)
        self._journal = journal
        self._steps = steps
        self._is_error = is_error
        self._arguments = ArgumentCheck()
        # If it ends the episode, the world is to blame and not the agent.
        self.last_raised: BaseException | None = None

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
        position = self._steps.next_call()
        self.last_raised = None
        tool = self.tools.get(name)
        journal = self._journal
        if tool is not None and not invalid:
            invalid = self._arguments.find_mismatch(tool, arguments)
        data, is_redacted = journal.encode(arguments)
        # A model may call a tool that does not exist, by any text.
        shown_name = name if tool is not None else journal.text(name)
        self.states.prepare_call(tool)
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
                call_id=call_id,
                arguments_data=data,
                access="unknown" if tool is None else tool.access,
                invalid=journal.text(invalid),
                retry_by=position.by,
                backoff_ns=position.backoff_ns,
                is_redacted=is_redacted,
            ),
            len(data),
        )
        try:
            self.states.enter_call(position, tool)
            with self._freeze(time_ns, position):
                result = run()
        except BaseException as exc:
            self._add_exception(position, tool, exc, origin="agent" if invalid else "tool")
            raise
        if inspect.isawaitable(result):
            return self._await(position, tool, time_ns, result)
        self._add_result(position, tool, result)
        return result

    def _freeze(
        self, time_ns: int, position: CallPosition
    ) -> contextlib.AbstractContextManager[None]:
        if self.frozen_seed is None:
            return _NOT_FROZEN
        return frozen(time_ns, derive_seed(self.frozen_seed, *position[:3]))

    async def _await(
        self, position: CallPosition, tool: Tool | None, time_ns: int, result: Awaitable[Value]
    ) -> Value:
        try:
            with self._freeze(time_ns, position):
                value = await result
        except BaseException as exc:
            self._add_exception(position, tool, exc, origin="tool", is_async=True)
            raise
        self._add_result(position, tool, value, is_async=True)
        return value

    def _add_result(
        self, position: CallPosition, tool: Tool | None, result: Value, *, is_async: bool = False
    ) -> None:
        time_ns = time.time_ns()
        error = self._is_error(result)
        data, is_redacted = self._journal.encode(result)
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

    def _add_exception(
        self,
        position: CallPosition,
        tool: Tool | None,
        exc: BaseException,
        *,
        origin: Literal["agent", "tool"],
        is_async: bool = False,
    ) -> None:
        if origin == "tool":
            self.last_raised = exc
        error = self._journal.describe(exc)
        end = CallEnd(
            episode=self._journal.number,
            step=position.step,
            call=position.call,
            attempt=position.attempt,
            time_ns=time.time_ns(),
            outcome=_outcome(exc),
            result_data=None,
            is_raised=True,
            origin="infra" if is_infra(exc) else origin,
            error_type=error.error_type,
            message=error.message,
            traceback=error.traceback,
            is_redacted=error.is_redacted,
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


def find_error(result: Value) -> str | None:
    """Return why a tool's result is an error, None if it is none.

    Most tools report an error as {"error": ...} or, as MCP does, by a true isError or is_error.

    >>> find_error({"error": "no such order"})
    'no such order'
    """
    if isinstance(result, dict):
        error = result.get("error")
        if error:
            return error if isinstance(error, str) else codec.type_name(error)
        return "isError" if result.get("isError") is True else None
    for name in ("isError", "is_error"):
        if getattr(result, name, False) is True:
            return name
    return None


def _outcome(exc: BaseException) -> Literal["timeout", "error", "cancelled"]:
    if isinstance(exc, TimeoutError):
        return "timeout"
    return "error" if isinstance(exc, Exception) else "cancelled"
