"""Recorded answers with other arguments of a tool call, and other requests to models."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence

from trajrec.corpus.attempts import Attempt
from trajrec.corpus.http_exchanges import HttpExchange
from trajrec.replay.agents.live_fork import FunctionTool
from trajrec.types import JsonObject, Value
from trajrec.wire.contents import AnswerContent
from trajrec.wire.dialects.choose import dialect_of
from trajrec.wire.edits import (
    AnswerBody,
    EditError,
    RequestEdit,
    edit_arguments,
    edit_value,
    edited_copies,
)
from trajrec.wire.exchange import HttpAnswer, header


def with_arguments(
    exchange: HttpExchange, answer: HttpAnswer, attempt: Attempt, arguments: JsonObject
) -> HttpAnswer | None:
    """Return an HTTP answer with other arguments; None if it does not ask for the call.

    Args:
        exchange: The recorded exchange.
        answer: Its answer.
        attempt: The recorded call.
        arguments: The arguments that the call is to have.

    Raises:
        EditError: The answer asks for the call, and cannot be changed.
    """
    dialect = dialect_of(exchange.start.url, exchange.request_body or b"")
    body = AnswerBody(
        answer.status, header(answer.headers, "content-type"), b"".join(answer.chunks)
    )
    number = _number_of(dialect.answer(*body), attempt)
    if number is None:
        return None
    return answer._replace(chunks=[edit_arguments(dialect, body, number, arguments)])


def _number_of(content: AnswerContent, attempt: Attempt) -> int | None:
    """Return the number of a call in an answer: by its id, or else by its place."""
    call_id = attempt.start.call_id
    for call in content.calls:
        if call_id and call.call_id == call_id:
            return call.number
    same = [call for call in content.calls if call.name == attempt.tool]
    exact = [call for call in same if call.arguments == attempt.arguments]
    if len(exact) == 1:
        return exact[0].number
    by_place = [call for call in exact or same if call.number == attempt.start.call]
    return by_place[0].number if by_place else None


def with_edit(arguments: dict[str, Value], edit: RequestEdit) -> dict[str, Value]:
    """Return a copy of the keyword arguments of a client's function with a change.

    Raises:
        EditError: They have no such place.
    """
    changed = copy.deepcopy(arguments)
    if edit.system is not None or edit.message is not None:
        messages = changed.get("messages", ())
        if not isinstance(messages, (list, tuple)) or any(
            type(one) is not dict for one in messages
        ):
            raise EditError(
                "the messages of the request are no plain data, so they cannot be changed: record "
                "the client's own requests, without ep.model"
            )
        if isinstance(messages, tuple) and messages:
            changed["messages"] = [*messages]
    # Nothing else tells the function's dialect.
    members = {"instructions": "responses", "input": "responses", "system": "anthropic"}
    dialect = next((name for member, name in members.items() if member in changed), "chat")
    edit_value(changed, edit, dialect)
    return changed


def with_arguments_in(answer: Value, attempt: Attempt, arguments: JsonObject) -> Value:
    """Return a recorded answer, as plain data, with other arguments; None if it has no such call.

    The call is found by its arguments, which must stand in one place alone.
    """
    found: list[Value] = []
    for changed in edited_copies([answer], attempt.arguments, arguments):
        found.append(changed[0])
    return found[0] if len(found) == 1 else None


def call_with(
    tool: str,
    arguments: JsonObject,
    run: Callable[[], Value] | None,
    functions: Sequence[FunctionTool],
) -> Callable[[], Value] | None:
    """Return the function that makes a call with other arguments than its caller has bound.

    Args:
        tool: Name of the tool.
        arguments: The arguments.
        run: Makes the call with the arguments that its caller has bound; None if the world does.
        functions: The tools that are functions.

    Raises:
        EditError: Nothing tells the function.
    """
    if run is None:
        return None
    for known in functions:
        if known.name == tool:
            return functools.partial(known.function, **arguments)
    raise EditError(
        f"the arguments of {tool} cannot be changed: a framework makes the call; record the tool "
        "by ep.tool"
    )
