"""Tool calls as model calls tell them: asked for by an answer, and answered by a later request.

No hook sees all calls of a framework; the bytes do. They say which tools the model asked for, with
which arguments, and what it was told; not how long a call took, and mostly not whether it failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import msgspec

from trajrec.agents.arguments import ArgumentCheck
from trajrec.corpus.attempts import Attempt
from trajrec.corpus.model_calls import ModelCall
from trajrec.corpus.wire_calls import WireCall
from trajrec.log.events import CallEnd, CallStart
from trajrec.protocols import Tool
from trajrec.types import JsonObject
from trajrec.values import codec
from trajrec.values.diff import is_same
from trajrec.wire.contents import Message, OfferedTool, ToolCall, ToolResult
from trajrec.wire.mcp_names import is_called_by
from trajrec.wire.results import results_of

MALFORMED = "malformed arguments"
UNKNOWN_TOOL = "unknown tool"

RAW = "raw"
"""The name under which arguments stand that are no JSON object."""


def add_wire_attempts(attempts: list[Attempt], calls: Sequence[ModelCall]) -> list[Attempt]:
    """Return recorded attempts with the ids of their calls, and the calls that nobody recorded.

    Args:
        attempts: The attempts that were recorded, in order.
        calls: The model calls.
    """
    by_step: dict[int, list[Attempt]] = {}
    for attempt in attempts:
        by_step.setdefault(attempt.start.step, []).append(attempt)
    added = []
    check = ArgumentCheck()
    wires = [call.wire for call in calls if call.wire is not None]
    ids = _asked_ids(calls)
    n_wires = 0
    for call in calls:
        wire = call.wire
        if wire is None:
            continue
        n_wires += 1
        if wire.answer is None or not wire.answer.calls or call.outcome != "ok":
            continue
        recorded = by_step.setdefault(call.start.step, [])
        joined: set[int] = set()
        # Of several alternatives, the agent made the calls of those that it went on from.
        for choice in call.taken:
            calls_asked = [asked for asked in wire.answer.calls if asked.choice == choice]
            told = results_of(*_told_after(wire, calls_asked, wires[n_wires:], ids))
            for asked, result in zip(calls_asked, told, strict=True):
                if _join(recorded, asked, joined):
                    continue
                tools = wire.request.tools
                attempt = _attempt(call, asked, _next_call(recorded), tools, check)
                if result is not None:
                    _add_result(attempt, result)
                recorded.append(attempt)
                joined.add(attempt.start.call)
                added.append(attempt)
    if not added:
        return attempts
    return sorted([*attempts, *added], key=lambda attempt: attempt.key)


def _next_call(recorded: list[Attempt]) -> int:
    return max((attempt.start.call for attempt in recorded), default=-1) + 1


def _join(recorded: list[Attempt], asked: ToolCall, joined: set[int]) -> bool:
    """Return whether a call was recorded as it ran, and give the record its id.

    Args:
        recorded: The attempts of the step.
        asked: The call.
        joined: Numbers of the calls that others were recorded as; this one is added.
    """
    free = [attempt for attempt in recorded if attempt.start.call not in joined]
    found = next(
        (attempt for attempt in free if asked.call_id and attempt.start.call_id == asked.call_id),
        None,
    )
    found = found or next(
        (
            attempt
            for attempt in free
            if not attempt.start.call_id
            and is_called_by(attempt.start.tool, asked.name or "")
            and (
                is_same(attempt.arguments, asked.arguments)
                or is_same(attempt.arguments, {RAW: asked.arguments})
            )
        ),
        None,
    )
    if found is None:
        return False
    number = found.start.call
    joined.add(number)
    for attempt in recorded:
        # Its retries have the number of the call too.
        if attempt.start.call == number and asked.call_id and not attempt.start.call_id:
            attempt.start = msgspec.structs.replace(attempt.start, call_id=asked.call_id)
    return True


def _attempt(
    call: ModelCall,
    asked: ToolCall,
    number: int,
    tools: Sequence[OfferedTool],
    check: ArgumentCheck,
) -> Attempt:
    """Return an attempt at a call that nobody recorded."""
    is_object = isinstance(asked.arguments, dict) and not asked.is_malformed
    arguments: JsonObject = asked.arguments if is_object else {RAW: asked.arguments}
    end = call.end
    start = CallStart(
        episode=call.start.episode,
        step=call.start.step,
        call=number,
        attempt=0,
        # The answer's end: the call can have begun no earlier.
        time_ns=0 if end is None else end.time_ns,
        tool=asked.name or "",
        call_id=asked.call_id or "",
        arguments_data=codec.encode(arguments, opaque=True),
        access="unknown",
        invalid=_why_invalid(asked, arguments, tools, check),
        is_redacted=end is not None and end.is_redacted,
    )
    return Attempt(start=start, end=None, arguments=arguments, is_from_wire=True)


def _why_invalid(
    asked: ToolCall, arguments: JsonObject, tools: Sequence[OfferedTool], check: ArgumentCheck
) -> str:
    """Return why a call cannot be meant, "" if it can."""
    if asked.is_malformed:
        return MALFORMED
    if not tools:
        # A request may refer to tools that an earlier one has named.
        return ""
    offered = next((tool for tool in tools if tool.name == asked.name), None)
    if offered is None:
        return UNKNOWN_TOOL
    if not isinstance(offered.schema, dict):
        return ""
    return check.find_mismatch(Tool(offered.name, offered.schema), arguments)


def _add_result(attempt: Attempt, told: ToolResult) -> None:
    """Add the result of a call, as a request tells it."""
    start = attempt.start
    # What has no arguments or no tool has failed. Arguments that do not fit the schema may have been
    # converted, "5" to 5, say: only the request tells.
    is_error = True if start.invalid in (MALFORMED, UNKNOWN_TOOL) else told.is_error
    attempt.result = told.content
    attempt.is_outcome_known = is_error is not None
    attempt.end = CallEnd(
        episode=start.episode,
        step=start.step,
        call=start.call,
        attempt=0,
        # Unknown: the request came after the model's other calls too.
        time_ns=0,
        outcome="error" if is_error else "ok",
        result_data=codec.encode(told.content, opaque=True),
        origin=("agent" if start.invalid else "tool") if is_error else "",
        message=told.text if is_error else "",
    )


def is_gone_on_from(wire: WireCall, later: Sequence[WireCall]) -> bool:
    """Return whether a later request goes on from the messages of a call."""
    own = list(wire.request.messages)
    return any(
        len(other.request.messages) > len(own) and list(other.request.messages[: len(own)]) == own
        for other in later
    )


def _asked_ids(calls: Sequence[ModelCall]) -> frozenset[str]:
    """Return the ids of all tool calls that answers ask for."""
    answers = (call.wire.answer for call in calls if call.wire is not None)
    return frozenset(
        asked.call_id
        for answer in answers
        if answer is not None
        for asked in answer.calls
        if asked.call_id
    )


def _told_after(
    wire: WireCall, calls: Sequence[ToolCall], later: Sequence[WireCall], all_ids: frozenset[str]
) -> tuple[Sequence[ToolCall], list[Message]]:
    """Return an answer's calls, and the messages in which a later request tells their results.

    With ids it is the first request that has one of them: a program may have shortened the history.
    Without, it is the first that goes on from the messages of this one. If a program gave the calls
    ids of its own, they are returned with those.

    Args:
        wire: The call with the answer.
        calls: The calls of the answer that the agent made.
        later: The calls after it.
        all_ids: The ids of the tool calls in all answers.
    """
    call_ids = {asked.call_id for asked in calls if asked.call_id}
    own = wire.request.messages
    renamed: tuple[Sequence[ToolCall], list[Message]] | None = None
    for other in later:
        request = other.request
        n_own = len(own)
        goes_on = len(request.messages) > n_own and list(request.messages[:n_own]) == list(own)
        if not goes_on and not call_ids:
            continue
        new = request.messages[n_own:] if goes_on else request.messages
        messages = [other.dialect.message(message) for message in new]
        ids = {result.call_id for message in messages for result in message.results}
        # Another conversation may begin with the same messages, and has calls of its own.
        if not call_ids or not call_ids.isdisjoint(ids):
            return calls, messages
        if goes_on and renamed is None:
            repeated = _repeated(calls, messages)
            if all_ids.isdisjoint(call.call_id for call in repeated):
                renamed = (repeated, messages) if repeated else None
    return renamed or (calls, [])


def _repeated(calls: Sequence[ToolCall], messages: Sequence[Message]) -> list[ToolCall]:
    """Return the calls of an answer as the next request repeats them; none if it has other calls."""
    repeated = [
        call
        for message in takewhile(lambda message: message.role == "assistant", messages)
        for call in message.calls
    ]
    pairs = [[(call.name, call.arguments) for call in some] for some in (calls, repeated)]
    return repeated if is_same(*pairs) else []
