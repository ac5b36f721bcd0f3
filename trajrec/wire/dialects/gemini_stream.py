"""Streams of Gemini, put together to whole answers."""

from __future__ import annotations

import itertools
import re

from trajrec.types import JsonObject, Value
from trajrec.wire.contents import ApiError
from trajrec.wire.dialects.chat_stream import merged
from trajrec.wire.dialects.reading import Assembled, read_error
from trajrec.wire.dialects.streams import StreamEvent
from trajrec.wire.json_bodies import as_dict, as_text, dicts_in

# One step of a path of arguments that come in pieces: `$.items[0].name`.
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\['([^']*)'\]")

# A longer path would nest deeper than bodies may.
_MAX_STEPS = 32

_PIECES = ("stringValue", "numberValue", "boolValue")


class GeminiStream:
    """The state of one stream while it is read."""

    def __init__(self) -> None:
        self._fields: JsonObject = {}
        self._candidates: dict[int, _Candidate] = {}
        self._error: ApiError | None = None

    def read(self, events: list[StreamEvent]) -> Assembled:
        """Put all events of a stream together."""
        for event in events:
            if type(event.value) is dict:
                self._add(event.value)
        order = sorted(self._candidates)
        whole = {**self._fields}
        if order:
            whole["candidates"] = [self._candidates[index].whole() for index in order]
        is_refused = bool(as_dict(self._fields.get("promptFeedback")).get("blockReason"))
        is_complete = is_refused or (
            bool(order) and all(self._candidates[index].is_ended for index in order)
        )
        # Each piece counts the tokens so far.
        return Assembled(whole, is_complete, self._error, has_usage=is_complete)

    def _add(self, piece: JsonObject) -> None:
        for name, value in piece.items():
            if name != "candidates" and value is not None:
                self._fields[name] = value
        for delta in dicts_in(piece.get("candidates")):
            index = delta.get("index")
            number = index if type(index) is int else 0
            candidate = self._candidates.get(number)
            if candidate is None:
                candidate = self._candidates[number] = _Candidate()
            candidate.add(delta)
        if piece.get("error"):
            self._error = read_error(0, piece)


class _Candidate:
    """One alternative of the answer."""

    def __init__(self) -> None:
        self.is_ended = False
        self._fields: JsonObject = {}
        self._role: Value = None
        self._parts: list[JsonObject] = []
        # The pieces of the text of the last part.
        self._texts: list[str] = []

    def add(self, delta: JsonObject) -> None:
        """Add the piece of this alternative."""
        for name, value in delta.items():
            if name == "content":
                content = as_dict(value)
                self._role = content.get("role") or self._role
                for part in dicts_in(content.get("parts")):
                    self._add_part(part)
            elif name == "logprobsResult":
                # Each piece tells of its own tokens.
                self._fields[name] = merged(self._fields.get(name), value)
            elif value is not None:
                self._fields[name] = value
        self.is_ended = self.is_ended or bool(delta.get("finishReason"))

    def whole(self) -> JsonObject:
        """Return the alternative as a whole answer has it."""
        self._close_text()
        content: JsonObject = {"parts": self._parts} if self._parts else {}
        if self._role is not None:
            content["role"] = self._role
        return {"content": content, **self._fields} if content else self._fields

    def _add_part(self, part: JsonObject) -> None:
        last = self._parts[-1] if self._parts else {}
        text = part.get("text")
        if type(text) is str:
            if self._texts and last.get("thought") == part.get("thought"):
                self._texts.append(text)
                last.update({k: v for k, v in part.items() if k != "text"})
                return
            self._close_text()
            self._texts = [text]
        else:
            self._close_text()
            call = as_dict(part.get("functionCall"))
            open_call = as_dict(last.get("functionCall"))
            if "name" not in call and open_call.get("willContinue") is True:
                _continue_call(open_call, call)
                return
            if "partialArgs" in call:
                _continue_call(call, {**call, "partialArgs": call.pop("partialArgs")})
        self._parts.append(part)

    def _close_text(self) -> None:
        """Give the last part its whole text."""
        if self._texts:
            self._parts[-1]["text"] = "".join(self._texts)
            self._texts = []


def _continue_call(call: JsonObject, delta: JsonObject) -> None:
    """Add pieces of arguments to a call; pieces of an unknown form stay as they are."""
    unread = [
        *dicts_in(call.get("partialArgs")),
        *(one for one in dicts_in(delta.get("partialArgs")) if not _set_argument(call, one)),
    ]
    if unread:
        call["partialArgs"] = unread
    if delta.get("willContinue") is not True:
        call.pop("willContinue", None)


def _set_argument(call: JsonObject, piece: JsonObject) -> bool:
    """Put one piece into the arguments of a call; return whether its form is known."""
    path = as_text(piece.get("jsonPath")) or ""
    steps = _STEP.findall(path)
    name = next((name for name in _PIECES if name in piece), "")
    is_read = path.startswith("$") and "".join(_written(step) for step in steps) == path[1:]
    if not is_read or not name or len(steps) > _MAX_STEPS:
        return False
    keys = [int(number) if number else member or quoted for member, number, quoted in steps]
    holder: Value = call.setdefault("args", {})
    for key, following in itertools.pairwise(keys):
        holder = _child(holder, key, [] if type(following) is int else {})
    if not keys or not _fits(holder, keys[-1]):
        return False
    value = piece[name]
    before = _child(holder, keys[-1], None)
    is_text = type(before) is str and type(value) is str
    holder[keys[-1]] = before + value if is_text else value
    return True


def _written(step: tuple[str, str, str]) -> str:
    member, number, quoted = step
    if number:
        return f"[{number}]"
    return f".{member}" if member else f"['{quoted}']"


def _fits(holder: Value, key: Value) -> bool:
    """Return whether a key may stand in a holder: an index at most one behind the end."""
    if type(holder) is list:
        return type(key) is int and key <= len(holder)
    return type(holder) is dict and type(key) is str


def _child(holder: Value, key: Value, new: Value) -> Value:
    """Return the member of a holder, a new one if it is missing; None if the key does not fit."""
    if not _fits(holder, key):
        return None
    if type(holder) is list and key == len(holder):
        holder.append(new)
    if type(holder) is dict and key not in holder:
        holder[key] = new
    return holder[key]
