"""Streams of chat completions, put together to whole ones."""

from __future__ import annotations

from trajrec.types import JsonObject, Value
from trajrec.wire.contents import ApiError
from trajrec.wire.dialects.reading import Assembled, read_error
from trajrec.wire.dialects.streams import DONE, StreamEvent
from trajrec.wire.json_bodies import as_dict, as_text, dicts_in

# Members of a chunk that its whole answer does not have, or has with another content.
_OF_CHUNKS = frozenset(("choices", "object", "obfuscation"))

_OBJECTS = {"chat.completion.chunk": "chat.completion"}

# Members of deltas that come once, and are not continued: some servers repeat them in each chunk.
_SAID_ONCE = frozenset(("id", "type", "role", "index", "format", "expires_at"))

# Deltas do not nest deeper; anything deeper replaces the value before it.
_MAX_DEPTH = 6


class ChatStream:
    """The state of one stream while it is read."""

    def __init__(self) -> None:
        self._fields: JsonObject = {}
        self._choices: dict[Value, _Choice] = {}
        self._is_done = False
        self._has_usage = False
        self._error: ApiError | None = None

    def read(self, events: list[StreamEvent]) -> Assembled:
        """Put all events of a stream together."""
        for event in events:
            value = event.value
            if type(value) is dict:
                self._add(value)
            elif value == DONE:
                self._is_done = True
        choices = [choice.whole() for choice in self._choices.values()]
        choices.sort(key=lambda choice: choice["index"])
        whole = {**self._fields, "choices": choices} if self._fields or choices else {}
        return Assembled(whole, self._is_done, self._error, self._has_usage)

    def _add(self, chunk: JsonObject) -> None:
        for name, value in chunk.items():
            if value is not None and name not in _OF_CHUNKS:
                self._fields[name] = value
        kind = chunk.get("object")
        if type(kind) is str:
            self._fields.setdefault("object", _OBJECTS.get(kind, kind))
        choices = dicts_in(chunk.get("choices"))
        for delta in choices:
            index = delta.get("index")
            # A server of one answer may leave the number out.
            number = index if type(index) is int else 0
            choice = self._choices.get(number)
            if choice is None:
                choice = self._choices[number] = _Choice(number)
            choice.add(delta)
        if chunk.get("usage") is not None:
            # Some servers count in each chunk: the count is the final one behind the last piece.
            self._has_usage = all(choice.is_ended for choice in self._choices.values())
        if chunk.get("error"):
            self._error = read_error(0, chunk)


class _Choice:
    """One alternative of the answer."""

    def __init__(self, index: int) -> None:
        self.is_ended = False
        self._fields: JsonObject = {"index": index}
        self._message: JsonObject = {}
        # Texts as their pieces: adding to a long text copies it each time.
        self._texts: dict[str, list[str]] = {}
        self._calls: list[JsonObject] = []
        self._by_index: dict[Value, JsonObject] = {}

    def add(self, choice: JsonObject) -> None:
        """Add the part of a chunk that belongs to this alternative."""
        for name, value in choice.items():
            if value is None or name == "index":
                continue
            if name == "delta" or name == "message":
                self._add_delta(as_dict(value))
            elif name == "text" and type(value) is str:
                self._add_text("text", value)
            elif name == "finish_reason":
                self._fields[name] = value
                self.is_ended = True
            else:
                self._fields[name] = merged(self._fields.get(name), value)

    def whole(self) -> JsonObject:
        """Return the alternative as a whole answer has it."""
        texts: JsonObject = {name: "".join(pieces) for name, pieces in self._texts.items()}
        fields = {**self._fields}
        fields.setdefault("finish_reason", None)
        if "text" in texts:
            # A legacy completion has a text in place of a message.
            fields["text"] = texts["text"]
            return fields
        # Some servers begin with parts, of reasoning, and go on with text.
        for name, text in texts.items():
            if type(self._message.get(name)) is list:
                texts[name] = [*self._message[name], {"type": "text", "text": text}]
        message = {"role": "assistant", "content": None, **self._message, **texts}
        if self._calls:
            message["tool_calls"] = [whole_call(call) for call in self._calls]
        return {**fields, "message": message}

    def _add_delta(self, delta: JsonObject) -> None:
        for name, value in delta.items():
            if type(value) is str:
                if name in _SAID_ONCE:
                    self._message[name] = value
                else:
                    self._add_text(name, value)
            elif name == "tool_calls":
                for call in dicts_in(value):
                    self._add_call(call)
            elif value is not None:
                self._message[name] = merged(self._message.get(name), value)

    def _add_text(self, name: str, text: str) -> None:
        pieces = self._texts.get(name)
        if pieces is None:
            self._texts[name] = [text]
        else:
            pieces.append(text)

    def _add_call(self, delta: JsonObject) -> None:
        """Add a piece of a tool call, to the call that it continues."""
        index = delta.get("index")
        call_id = as_text(delta.get("id"))
        if type(index) is not int:
            index = None
        call = self._by_index.get(index)
        # Some servers number all calls 0, or none: then another id begins another call.
        if call is None or (call_id and call["id"] and call_id != call["id"]):
            call = {"id": call_id, "type": "function", "pieces": {}}
            self._calls.append(call)
            self._by_index[index] = call
        if call_id and not call["id"]:
            call["id"] = call_id
        for name, value in delta.items():
            if name in ("function", "custom"):
                _add_pieces(call["pieces"].setdefault(name, {}), as_dict(value))
            elif name not in ("index", "id") and value is not None:
                call[name] = value if name == "type" else merged(call.get(name), value)


def _add_pieces(pieces: JsonObject, delta: JsonObject) -> None:
    """Add a piece of the function of a tool call."""
    for name, value in delta.items():
        if type(value) is str:
            texts = pieces.setdefault(name, [])
            # Some servers repeat the name in each piece.
            if name != "name" or texts[:1] != [value]:
                texts.append(value)
        elif value is not None:
            # Some servers send arguments as JSON values, at once.
            pieces[name] = [value]


def whole_call(call: JsonObject) -> JsonObject:
    """Return a tool call as a whole answer has it, from its pieces."""
    whole = {name: value for name, value in call.items() if name != "pieces"}
    for name, pieces in call["pieces"].items():
        whole[name] = {field: _joined(values) for field, values in pieces.items()}
    return whole


def _joined(values: list[Value]) -> Value:
    if all(type(value) is str for value in values):
        return "".join(values)
    return values[-1]


def merged(before: Value, delta: Value, depth: int = 0) -> Value:
    """Return a value with a delta added: texts and lists grow, objects merge, others are replaced.

    Lists and objects of `before` are changed in place.

    >>> merged({"text": "a", "n": [1]}, {"text": "b", "n": [2]})
    {'text': 'ab', 'n': [1, 2]}
    """
    if type(before) is not type(delta) or depth == _MAX_DEPTH:
        return delta
    if type(delta) is str:
        return before + delta
    if type(delta) is list:
        before += delta
        return before
    if type(delta) is not dict:
        return delta
    for name, value in delta.items():
        if value is None and name in before:
            continue
        is_once = name in _SAID_ONCE
        before[name] = value if is_once else merged(before.get(name), value, depth + 1)
    return before
