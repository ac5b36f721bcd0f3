"""Streams of Responses, put together to whole ones."""

from __future__ import annotations

from trajrec.types import JsonObject, Value
from trajrec.wire.contents import ApiError
from trajrec.wire.dialects.reading import Assembled, error_of, read_error
from trajrec.wire.dialects.streams import StreamEvent
from trajrec.wire.json_bodies import as_count, as_dict, as_text

# The last events: each holds the whole answer.
_ENDS = frozenset(("response.completed", "response.incomplete", "response.failed"))

# Kind of event -> the member of its item that it continues: a text, or a part of a list by index.
_ITEM_TEXTS = {
    "response.function_call_arguments": "arguments",
    "response.custom_tool_call_input": "input",
    "response.mcp_call_arguments": "arguments",
    "response.code_interpreter_call_code": "code",
}
_PART_TEXTS = {
    "response.output_text": ("content", "content_index", "output_text", "text"),
    "response.refusal": ("content", "content_index", "refusal", "refusal"),
    "response.reasoning_text": ("content", "content_index", "reasoning_text", "text"),
    "response.reasoning_summary_text": ("summary", "summary_index", "summary_text", "text"),
}
_PARTS = {
    "response.content_part": ("content", "content_index"),
    "response.reasoning_summary_part": ("summary", "summary_index"),
}


class _Item:
    """An item of the output while its pieces come."""

    def __init__(self) -> None:
        self.fields: JsonObject = {}
        # Member -> pieces of its text, and list -> index -> part.
        self.texts: dict[str, list[str]] = {}
        self.parts: dict[str, dict[int, _Part]] = {}

    def whole(self) -> JsonObject:
        """Return the item as a whole answer has it."""
        whole = {**self.fields}
        for name, pieces in self.texts.items():
            whole[name] = "".join(pieces)
        for name, parts in self.parts.items():
            whole[name] = [parts[index].whole() for index in sorted(parts)]
        return whole

    def part(self, name: str, index: int) -> _Part:
        """Return a part of one of the item's lists; a new one if it is missing."""
        parts = self.parts.setdefault(name, {})
        part = parts.get(index)
        if part is None:
            part = parts[index] = _Part()
        return part


class _Part:
    """A part of an item while its pieces come."""

    def __init__(self) -> None:
        self.fields: JsonObject = {}
        self.texts: dict[str, list[str]] = {}

    def whole(self) -> JsonObject:
        """Return the part as a whole answer has it."""
        return {**self.fields, **{name: "".join(texts) for name, texts in self.texts.items()}}


class ResponsesStream:
    """The state of one stream while it is read."""

    def __init__(self) -> None:
        self._response: JsonObject = {}
        self._items: dict[int, _Item] = {}
        self._end = ""
        self._error: ApiError | None = None

    def read(self, events: list[StreamEvent]) -> Assembled:
        """Put all events of a stream together."""
        for event in events:
            if type(event.value) is dict:
                # Some servers name the kind of event in the format alone.
                kind = as_text(event.value.get("type")) or event.name
                self._add(kind, event.value)
        is_complete = self._end in ("response.completed", "response.incomplete")
        return Assembled(self._whole(), is_complete, self._error, has_usage=bool(self._end))

    def _whole(self) -> JsonObject:
        items = [self._items[index].whole() for index in sorted(self._items)]
        # The last event repeats the output; some servers leave it out there.
        if items and not (self._end and self._response.get("output")):
            return {**self._response, "output": items}
        return self._response

    def _add(self, kind: str, event: JsonObject) -> None:
        name, _, action = kind.rpartition(".")
        if action == "delta":
            self._add_delta(name, event)
        elif kind == "error":
            # The message stands in the event itself, or in an error as in other responses.
            self._error = read_error(0, event) or error_of({**event, "type": None})
        elif type(event.get("response")) is dict:
            self._response = event["response"]
            if kind in _ENDS:
                self._end = kind
            if kind == "response.failed":
                self._error = read_error(0, self._response) or ApiError(None, None)
        elif name in ("response.output_item", *_PARTS):
            self._set_part(name, event)
        elif action == "done":
            self._set_text(name, event)

    def _item(self, event: JsonObject) -> _Item:
        index = as_count(event.get("output_index")) or 0
        item = self._items.get(index)
        if item is None:
            item = self._items[index] = _Item()
        return item

    def _add_delta(self, name: str, event: JsonObject) -> None:
        """Add a piece of a text."""
        texts = self._texts(name, event)
        delta = event.get("delta")
        if texts is not None and type(delta) is str:
            texts.append(delta)

    def _set_text(self, name: str, event: JsonObject) -> None:
        """Take a text whole, as the event behind its pieces repeats it."""
        texts = self._texts(name, event)
        member = _PART_TEXTS[name][3] if name in _PART_TEXTS else _ITEM_TEXTS.get(name, "")
        text = event.get(member)
        if texts is not None and type(text) is str:
            texts[:] = [text]

    def _texts(self, name: str, event: JsonObject) -> list[str] | None:
        """Return the pieces of the text that an event belongs to, None for other events."""
        if name in _PART_TEXTS:
            holder, index_name, kind, member = _PART_TEXTS[name]
            part = self._item(event).part(holder, as_count(event.get(index_name)) or 0)
            part.fields.setdefault("type", kind)
            return part.texts.setdefault(member, [])
        member = _ITEM_TEXTS.get(name, "")
        return self._item(event).texts.setdefault(member, []) if member else None

    def _set_part(self, name: str, event: JsonObject) -> None:
        """Take an item or a part of one as an event gives it; its texts continue from there."""
        if name == "response.output_item":
            index = as_count(event.get("output_index")) or 0
            self._items[index] = _started_item(as_dict(event.get("item")))
            return
        holder, index_name = _PARTS[name]
        parts = self._item(event).parts.setdefault(holder, {})
        parts[as_count(event.get(index_name)) or 0] = _started_part(event.get("part"))


def _started_item(fields: JsonObject) -> _Item:
    item = _Item()
    item.fields = fields
    item.texts = _begun(fields, *_ITEM_TEXTS.values())
    for name in ("content", "summary"):
        parts = fields.get(name)
        if type(parts) is list and all(type(part) is dict for part in parts):
            item.parts[name] = {index: _started_part(part) for index, part in enumerate(parts)}
    return item


def _started_part(value: Value) -> _Part:
    part = _Part()
    part.fields = as_dict(value)
    part.texts = _begun(part.fields, "text", "refusal")
    return part


def _begun(fields: JsonObject, *names: str) -> dict[str, list[str]]:
    """Return the texts that an object begins with."""
    return {name: [fields[name]] for name in names if type(fields.get(name)) is str}
