"""Tool calls: each try recorded when it begins and when it ends, with what it changed."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable
from typing import Any

from trajrec.agents.arguments import ArgumentCheck
from trajrec.agents.counters import Place, Steps
from trajrec.agents.freeze import derive_seed, frozen
from trajrec.agents.journal import Journal
from trajrec.log.events import CallEnd, CallStart, StateChange
from trajrec.protocols import Tool
from trajrec.tracking.parts import Part
from trajrec.values import codec
from trajrec.values.diff import MISSING, Change

IsError = Callable[[Any], "str | None"]


class Calls:
    """Records the tool calls of one episode.

    Args:
        is_error: Says of a result why it is an error, None where it is none.

    Attributes:
        held_seed: Where it is set, each call runs with the clock held at its own time and all else that draws seeded from it.
        tools: The tools by name.
        parts: What of the state is watched.
        digests: Digest of each part, as of its last change.
    """

    def __init__(
        self, journal: Journal, steps: Steps, tools: dict[str, Tool], is_error: IsError
    ) -> None:
        self._journal, self._steps, self.tools, self._is_error = journal, steps, tools, is_error
        self._arguments = ArgumentCheck()
        self.held_seed: int | None = None
        self.parts: list[Part] = []
        self.digests: dict[str, str] = {}

    def execute(
        self,
        name: str,
        arguments: dict[str, Any],
        run: Callable[[], Any],
        call_id: str,
        invalid: str,
    ) -> Any:
        """Run a call as it would have run; return or raise what it does."""
        place, tool, journal = self._steps.place_call(), self.tools.get(name), self._journal
        if tool is not None and not invalid:
            invalid = self._arguments.misfit(tool, arguments)
        data, is_redacted = journal.encode(arguments)
        now = time.time_ns()
        journal.add(
            CallStart(
                episode=journal.number,
                step=place.step,
                call=place.call,
                attempt=place.attempt,
                time_ns=now,
                tool=name,
                call_id=call_id,
                arguments_data=data,
                access="unknown" if tool is None else tool.access,
                invalid=journal.text(invalid),
                retry_by=place.by,
                backoff_ns=place.backoff_ns,
                is_redacted=is_redacted,
            ),
            len(data),
        )
        try:
            with self._hold(now, place):
                result = run()
        except BaseException as exc:
            self._raised(place, tool, exc, "agent" if invalid else "tool")
            raise
        if inspect.isawaitable(result):
            return self._awaited(place, tool, now, result)
        self._returned(place, tool, result)
        return result

    def _hold(self, time_ns: int, place: Place) -> contextlib.AbstractContextManager[None]:
        return (
            _NOT_HELD
            if self.held_seed is None
            else frozen(time_ns, derive_seed(self.held_seed, *place[:3]))
        )

    async def _awaited(self, place: Place, tool: Tool | None, time_ns: int, result: Any) -> Any:
        try:
            with self._hold(time_ns, place):
                value = await result
        except BaseException as exc:
            self._raised(place, tool, exc, "tool", is_async=True)
            raise
        self._returned(place, tool, value, is_async=True)
        return value

    def _returned(
        self, place: Place, tool: Tool | None, result: Any, *, is_async: bool = False
    ) -> None:
        now, why = time.time_ns(), self._is_error(result)
        data, is_redacted = self._journal.encode(result)
        end = CallEnd(
            episode=self._journal.number,
            step=place.step,
            call=place.call,
            attempt=place.attempt,
            time_ns=now,
            outcome="ok" if why is None else "error",
            result_data=data,
            origin="" if why is None else "tool",
            message="" if why is None else self._journal.text(why),
            is_redacted=is_redacted,
            is_async=is_async,
        )
        self._ended(place, tool, end, len(data))

    def _raised(
        self,
        place: Place,
        tool: Tool | None,
        exc: BaseException,
        origin: str,
        *,
        is_async: bool = False,
    ) -> None:
        outcome: Any = (
            "timeout"
            if isinstance(exc, TimeoutError)
            else "error"
            if isinstance(exc, Exception)
            else "cancelled"
        )
        if isinstance(exc, (ConnectionError, TimeoutError)):
            origin = "infra"
        error_type, message, text = self._journal.describe(exc)
        end = CallEnd(
            episode=self._journal.number,
            step=place.step,
            call=place.call,
            attempt=place.attempt,
            time_ns=time.time_ns(),
            outcome=outcome,
            result_data=None,
            is_raised=True,
            origin=origin,
            error_type=error_type,
            message=message,
            traceback=text,
            is_async=is_async,
        )
        self._ended(place, tool, end, len(text))

    def _ended(self, place: Place, tool: Tool | None, end: CallEnd, size: int) -> None:
        with self._steps.lock:
            self._journal.add(end, size)
            for part in self.parts:
                self._see(part, place, tool)
        if end.outcome != "ok":
            self._journal.flush()

    def _see(self, part: Part, place: Place, tool: Tool | None) -> None:
        """Record what a try changed in a part of the state."""
        journal = self._journal
        try:
            changes, digest = part.tracker.update()
        except (
            Exception
        ) as exc:  # the world's own data may be anything; not seeing it is recorded, not hidden
            self.digests[part.name] = ""
            journal.fail(place.step, "state", "env", exc)
            journal.add(
                StateChange(
                    episode=journal.number,
                    step=place.step,
                    call=place.call,
                    attempt=place.attempt,
                    part=part.name,
                    digest="",
                    data=None,
                    note="the state could not be captured",
                )
            )
            return
        if not changes and digest == self.digests.get(part.name):
            return
        self.digests[part.name] = digest
        note = (
            f"{tool.name} is declared to read, and wrote"
            if tool is not None and tool.access == "read"
            else ""
        )
        data = (
            journal.data([_operation(journal.redactor.change(change)) for change in changes])
            if changes
            else None
        )
        journal.add(
            StateChange(
                episode=journal.number,
                step=place.step,
                call=place.call,
                attempt=place.attempt,
                part=part.name,
                digest=digest,
                data=data,
                note=note,
            ),
            200 if data is None else len(data),
        )


_NOT_HELD = contextlib.nullcontext()


def error_of(result: Any) -> str | None:
    """Say why a result is an error by what most tools do: {"error": ...}, or a true isError or is_error (MCP)."""
    if isinstance(result, dict):
        error = result.get("error")
        if error:
            return error if isinstance(error, str) else codec.type_name(error)
        return "isError" if result.get("isError") is True else None
    return next(
        (name for name in ("isError", "is_error") if getattr(result, name, False) is True), None
    )


def _operation(change: Change) -> list[Any]:
    """Return a change as ["add" | "remove" | "replace", path, before, after], without what there was not."""
    if change.before is MISSING:
        return ["add", change.path, change.after]
    if change.after is MISSING:
        return ["remove", change.path, change.before]
    return ["replace", change.path, change.before, change.after]
