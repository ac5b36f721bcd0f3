"""The results of tool calls: those of an answer stand in the request that follows it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

from trajrec.wire.contents import Message, ToolCall, ToolResult


def results_of(calls: Sequence[ToolCall], messages: Sequence[Message]) -> list[ToolResult | None]:
    """Return the result of each call of an answer, as a later request of the conversation tells it.

    A result belongs to the call of its id. Without ids it belongs to the call of its name, and
    equal names are joined in their order; if neither has a name, the order alone decides.

    Args:
        calls: The calls of one answer.
        messages: All messages of the request that follows the answer; of a later one, those up to
            the next answer.

    Returns:
        One item for each call, None if no result belongs to it.

    >>> call = ToolCall("c1", "look", {}, False, 0)
    >>> result = ToolResult("c1", None, "ok", "ok", None, 0)
    >>> results_of([call], [Message("tool", "ok", results=(result,))]) == [result]
    True
    """
    results = [result for message in messages for result in message.results]
    # A provider may give several calls one id: their results stand in the order of the calls.
    by_id: dict[str, deque[ToolResult]] = defaultdict(deque)
    for result in results:
        if result.call_id:
            by_id[result.call_id].append(result)
    # Without ids, those of earlier answers must be left out.
    unnamed: dict[str | None, deque[ToolResult]] = defaultdict(deque)
    for message in messages[first_behind(messages) :]:
        for result in message.results:
            if not result.call_id:
                unnamed[result.name].append(result)
    return [_of_id(by_id, call.call_id) or _next(unnamed, call.name) for call in calls]


def _of_id(by_id: dict[str, deque[ToolResult]], call_id: str | None) -> ToolResult | None:
    """Take the first result of an id."""
    queue = by_id.get(call_id or "")
    return queue.popleft() if queue else None


def _next(unnamed: dict[str | None, deque[ToolResult]], name: str | None) -> ToolResult | None:
    """Take the first result without an id that may belong to a call of this name."""
    queue = unnamed.get(name) or unnamed.get(None)
    return queue.popleft() if queue else None


def first_behind(messages: Sequence[Message]) -> int:
    """Return the number of the first message behind the last one of the assistant.

    >>> first_behind([Message("user", ""), Message("assistant", ""), Message("tool", "")])
    2
    """
    numbers = [number for number, one in enumerate(messages) if one.role == "assistant"]
    return numbers[-1] + 1 if numbers else 0
