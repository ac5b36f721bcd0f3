"""Conversations in the form of the API of chats: messages become turns, calls, results, messages.

Each message is kept whole as it stands, but its fields that are null.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from trajrec.exchange.account import Account
from trajrec.exchange.chat import tool_call
from trajrec.exchange.reading import (
    Place,
    dicts_of,
    parse_arguments,
    texts_by_key,
)
from trajrec.exchange.records import Call, Item, Message, Outcome, Turn
from trajrec.exchange.times import time_of
from trajrec.types import JsonObject, Value

FindError = Callable[[JsonObject], str | None]
"""Returns the error that the message of a result reports: its text, None if it reports none."""


class ChatForm(msgspec.Struct, kw_only=True, frozen=True):
    """How a format writes conversations.

    Attributes:
        find_error: Finds the error in the message of a result.
        silent: The outcome of a result without an error: "ok" if the format reports every error,
            else "unknown".
        is_model_call: Returns whether a model gave a message of the assistant.
        drops_null_arguments: Whether null arguments are left out: some writers of tables give each
            call the arguments of all others, as null.
        time_field: The field with the time of a message.
    """

    find_error: FindError = lambda message: None
    silent: Outcome = "unknown"
    is_model_call: Callable[[JsonObject], bool] = lambda message: True
    drops_null_arguments: bool = False
    time_field: str = "timestamp"


class ChatReader:
    """Reads one conversation.

    Args:
        form: How the format writes it.
        account: Counts the fields.
        place: The place of the conversation.
        model: The model, "" if unknown.
        tools: The tools on offer, None if unknown.
    """

    def __init__(
        self,
        form: ChatForm,
        account: Account,
        place: Place,
        *,
        model: str = "",
        tools: Value = None,
    ) -> None:
        self._form = form
        self._account = account
        self._place = place
        self._model = model
        self._tools = tools
        self._waiting: list[Call] = []
        self.items: list[Item] = []

    def read(self, messages: Value, name: str = "messages") -> list[Item]:
        """Return the items of a list of messages.

        Raises:
            ImportFileError: It is no list of messages.
        """
        for number, message in enumerate(dicts_of(self._place, messages, name)):
            self.add(message, self._place.at(f"{name}[{number}]"))
        return self.items

    def add(self, message: JsonObject, place: Place) -> None:
        """Add a message."""
        self._account.take(message, "message", frozenset(message))
        value = {name: field for name, field in message.items() if field is not None}
        # One without a text has at least calls: readers tell it by its content.
        value.setdefault("content", None)
        role = place.expect(str, message.get("role"), "role")
        time_ns = time_of(message.get(self._form.time_field))
        calls = self._calls(message, place, "user" if role == "user" else "agent")
        if calls:
            records = message["tool_calls"]
            value["tool_calls"] = [
                _as_chat(call, record) for call, record in zip(calls, records, strict=True)
            ]
        if role == "assistant":
            self.items.append(self._turn(message, value, place, time_ns))
        else:
            if role in ("tool", "function"):
                call = self._add_result(message, place, time_ns)
                if call is not None and call.call_id:
                    # Trainers of chat models pair a result with its call by this id.
                    value.setdefault("tool_call_id", call.call_id)
            self.items.append(Message(value=value))
        for call in calls:
            call.start_ns = time_ns
        self.items += calls
        self._waiting += calls

    def _turn(self, message: JsonObject, value: JsonObject, place: Place, time_ns: int) -> Turn:
        usage = message.get("usage")
        cost = message.get("cost")
        if type(usage) is dict and cost is not None:
            usage = {**usage, "cost": cost}
        model = message.get("model")
        return Turn(
            message=value,
            model=model if type(model) is str else self._model,
            usage=usage if type(usage) is dict else None,
            parameters=None if self._tools is None else {"tools": self._tools},
            end_ns=time_ns,
            is_model_call=self._form.is_model_call(message),
        )

    def _calls(self, message: JsonObject, place: Place, actor: str) -> list[Call]:
        calls = []
        for number, record in enumerate(dicts_of(place, message.get("tool_calls"), "tool_calls")):
            inner = place.at(f"tool_calls[{number}]")
            function = record.get("function")
            fields: JsonObject = function if type(function) is dict else record
            name = fields.get("name", function)
            arguments, invalid = parse_arguments(
                fields.get("arguments", record.get("args", fields.get("args")))
            )
            if self._form.drops_null_arguments:
                arguments = {key: value for key, value in arguments.items() if value is not None}
            call_id = record.get("id")
            calls.append(
                Call(
                    tool=inner.expect(str, name, "the name of a tool"),
                    arguments=arguments,
                    call_id="" if call_id is None else str(call_id),
                    actor="user" if actor == "user" else "agent",
                    invalid=invalid,
                    # A number, of which the text would not say that it was one.
                    extra=None if type(call_id) in (str, type(None)) else {"id": call_id},
                )
            )
        return calls

    def _add_result(self, message: JsonObject, place: Place, time_ns: int) -> Call | None:
        """Add a result to its call, and return the call; None if it names none."""
        call_id = message.get("tool_call_id")
        # Tables have a null for each field that other rows have.
        call_id = message.get("id") if call_id is None else call_id
        requestor = message.get("requestor")
        waiting = self._waiting
        if call_id is None:
            # Without ids, results stand in the order of the calls.
            call = next((c for c in waiting if requestor in (None, _requestor(c))), None)
        else:
            call = next((c for c in waiting if c.call_id == str(call_id)), None)
        if call is None:
            self._account.note("results that name no call stay messages")
            return None
        waiting.remove(call)
        call.has_result = True
        call.result = message.get("content")
        call.end_ns = time_ns
        error = self._form.find_error(message)
        call.outcome = self._form.silent if error is None else "error"
        if error is not None:
            call.origin = "tool"
            call.error_type = "error"
            call.error = error
        return call


def _requestor(call: Call) -> str:
    return "user" if call.actor == "user" else "assistant"


def _as_chat(call: Call, record: JsonObject) -> JsonObject:
    """Return a call in the form of chats, with the fields that the source has beside it."""
    function = record.get("function")
    fields: JsonObject = function if type(function) is dict else record
    arguments = fields.get("arguments", record.get("args", fields.get("args")))
    # A text stays as it was written: its spaces are part of what the model said.
    said = arguments if type(arguments) is str or call.invalid else call.arguments
    value = tool_call(call.call_id, call.tool, said)
    others = ("id", "function", "name", "arguments", "args")
    rest = {key: item for key, item in record.items() if key not in others and item is not None}
    if rest.get("type", "function") != "function":
        rest["original_type"] = rest["type"]
    if type(function) is dict:
        inner = {
            key: item
            for key, item in function.items()
            if key not in ("name", "arguments", "args") and item is not None
        }
        value["function"] |= inner
    return rest | value


def last_text(items: list[Item]) -> str:
    """Return the text of the last message or turn, "" if it has none."""
    for item in reversed(items):
        if isinstance(item, Message):
            content = item.value.get("content")
            return content if type(content) is str else ""
        if isinstance(item, Turn):
            content = texts_by_key(item.message).get("content")
            return content if type(content) is str else ""
    return ""
