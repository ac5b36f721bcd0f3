"""Messages of the Model Context Protocol, as far as a recorder must read them.

Source:
    https://modelcontextprotocol.io/specification
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from trajrec.protocols import Access, Tool
from trajrec.types import JsonObject, Value
from trajrec.wire.json_bodies import as_dict, as_text, dicts_in, read_json, to_bytes
from trajrec.wire.mcp_results import access_of_hints, told_error

CALL = "tools/call"
LIST = "tools/list"
LIST_CHANGED = "notifications/tools/list_changed"
CANCELLED = "notifications/cancelled"

# Requests that are alike whatever their parameters: a client names itself and its version there.
_BY_METHOD_ALONE = frozenset({"initialize", LIST, "ping"})


class RpcError(Exception):
    """A server answered a request with an error.

    Attributes:
        error: The error as the server told it.
    """

    def __init__(self, error: JsonObject) -> None:
        self.error = error
        super().__init__(as_text(error.get("message")) or "error")


class Message(NamedTuple):
    """A line of a session.

    Attributes:
        line: The bytes, as they came.
        value: The message; empty if the line is no JSON object.
    """

    line: bytes
    value: JsonObject

    @property
    def method(self) -> str:
        """The method of a request or notification, "" of a response."""
        return as_text(self.value.get("method")) or ""

    @property
    def id(self) -> Value:
        """The id of a request or response, None of a notification."""
        found = self.value.get("id")
        return found if type(found) in (str, int) else None

    @property
    def params(self) -> JsonObject:
        """The parameters of a request."""
        return as_dict(self.value.get("params"))

    @property
    def is_request(self) -> bool:
        """Whether it asks for a response."""
        return bool(self.method) and self.id is not None

    @property
    def is_response(self) -> bool:
        """Whether it is the response to a request."""
        return not self.method and self.id is not None

    def result(self) -> Value:
        """Return the result of a response.

        Raises:
            RpcError: It is an error.
        """
        if "error" not in self.value:
            return self.value.get("result")
        raise RpcError(as_dict(self.value["error"]))


def read_message(line: bytes) -> Message:
    """Return a line as a message. A line that is none is passed on all the same."""
    value = read_json(line)
    return Message(line, value if isinstance(value, dict) else {})


def read_messages(data: bytes) -> list[Message]:
    """Return the messages of a line or body: one, or the batch that older clients send."""
    value = read_json(data)
    if isinstance(value, list):
        return [Message(data, item) for item in dicts_in(value)]
    return [Message(data, value if isinstance(value, dict) else {})]


def tools_of(result: Value) -> list[Tool]:
    """Return the tools of the result of `tools/list`."""
    tools = []
    for entry in dicts_in(as_dict(result).get("tools")):
        name = as_text(entry.get("name"))
        if name is None:
            continue
        schema = entry.get("inputSchema")
        tools.append(
            Tool(
                name,
                schema if isinstance(schema, dict) else None,
                access_of(entry.get("annotations")),
                as_text(entry.get("description")) or "",
            )
        )
    return tools


def access_of(annotations: Value) -> Access:
    """Return the access of a tool by its annotations, which are hints of the server.

    >>> access_of({"readOnlyHint": True}), access_of({"title": "Write"}), access_of(None)
    ('read', 'write', 'unknown')
    """
    hints = as_dict(annotations)
    return access_of_hints(
        hints.get("readOnlyHint"), hints.get("openWorldHint"), has_hints=bool(hints)
    )


def find_tool_error(result: Value) -> str | None:
    """Return the texts of a result that reports an error, None if it reports none.

    >>> find_tool_error({"isError": True, "content": [{"type": "text", "text": "no such order"}]})
    'no such order'
    """
    fields = as_dict(result)
    if fields.get("isError") is not True:
        return None
    return told_error(fields.get("content"))


def request_key(method: str, params: Value) -> bytes:
    """Return the bytes by which a request is found in a recording."""
    kept = {name: item for name, item in as_dict(params).items() if name != "_meta"}
    if method in _BY_METHOD_ALONE:
        # The page of a long list.
        kept = {name: item for name, item in kept.items() if name == "cursor"}
    return method.encode("utf-8", "surrogatepass") + b" " + _encoded(kept, order="deterministic")


def response_line(message_id: Value, result: Value) -> bytes:
    """Return the line of a response."""
    return _line({"jsonrpc": "2.0", "id": message_id, "result": result})


def error_line(message_id: Value, code: int, text: str) -> bytes:
    """Return the line of an error."""
    return told_error_line(message_id, {"code": code, "message": text})


def told_error_line(message_id: Value, error: JsonObject) -> bytes:
    """Return the line of an error that a server told."""
    return _line({"jsonrpc": "2.0", "id": message_id, "error": error})


def _line(value: JsonObject) -> bytes:
    return _encoded(value) + b"\n"


def _encoded(value: JsonObject, order: Literal["deterministic"] | None = None) -> bytes:
    try:
        return msgspec.json.encode(value, order=order)
    except UnicodeEncodeError:
        # A lone surrogate, of a text that the server has cut.
        return to_bytes(value if order is None else _sorted(value))


def _sorted(value: Value) -> Value:
    """Return a value whose objects have their keys in order."""
    if type(value) is dict:
        return {key: _sorted(value[key]) for key in sorted(value)}
    return list(map(_sorted, value)) if type(value) is list else value
