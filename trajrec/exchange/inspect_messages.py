"""Messages of Inspect in the form of chats, with the texts and images that a sample stores once."""

from __future__ import annotations

import json
from collections import Counter

import msgspec

from trajrec.exchange.chat import tool_call
from trajrec.exchange.reading import Place, texts_by_key
from trajrec.types import JsonObject, Value

ATTACHMENT = "attachment://"

_CALL = frozenset(("id", "function", "arguments", "type"))

_sorted = msgspec.msgpack.Encoder(order="sorted").encode


class SampleMessages:
    """The messages of one sample.

    Args:
        sample: The sample.
        place: Its place, for errors.

    Attributes:
        rewritten: Results as the last state has them, of which a request had another form.
    """

    def __init__(self, sample: JsonObject, place: Place) -> None:
        self._place = place
        transcript = texts_by_key(sample.get("transcript"))
        self._attachments = {
            **texts_by_key(transcript.get("content")),
            **texts_by_key(sample.get("attachments")),
        }
        pool = texts_by_key(sample.get("events_data")).get("messages")
        self._pool = pool if type(pool) is list else []
        if not self._pool and type(sample.get("message_pool")) is list:
            self._pool = sample["message_pool"]
        self._converted: list[Value] | None = None
        self._said: list[Value] = []
        self._referred: set[str] = set()
        self._pooled_refs: set[int] = set()
        self.rewritten: list[JsonObject] = []

    def resolved(self, value: Value) -> Value:
        """Return a value with the texts that its attachments stand for."""
        if not self._attachments:
            return value
        return self._resolve(value)

    def _resolve(self, value: Value) -> Value:
        if type(value) is str:
            if value.startswith(ATTACHMENT):
                name = value.removeprefix(ATTACHMENT)
                self._referred.add(name)
                return self._attachments.get(name, value)
            return value
        if type(value) is dict:
            return {key: self._resolve(item) for key, item in value.items()}
        if type(value) is list:
            return list(map(self._resolve, value))
        return value

    def unreferred(self) -> JsonObject:
        """Return the attachments and messages of the stores that nothing has stood for."""
        rest: JsonObject = {}
        texts = {
            name: text
            for name, text in self._attachments.items()
            if name not in self._referred and type(text) is str
        }
        if texts:
            rest["unreferred attachments"] = texts
        numbers = set(range(len(self._pool))) - self._pooled_refs
        if numbers:
            rest["unreferred messages"] = [self._pool[number] for number in sorted(numbers)]
        return rest

    def request(self, event: JsonObject) -> list[Value]:
        """Return the messages of the request of a model event.

        Raises:
            ImportFileError: They are no list of messages.
        """
        place = self._place
        refs = place.optional(list, event.get("input_refs"), "input_refs", [])
        messages: list[Value] = []
        for ref in refs:
            is_range = type(ref) is list and len(ref) == 2
            if not is_range or not all(type(bound) is int for bound in ref):
                raise place.error(f"input_refs must be ranges, got {ref!r}")
            first, stop = ref
            if not 0 <= first <= stop <= len(self._pool):
                raise place.error(f"input_refs names messages {ref} of {len(self._pool)}")
            part = self._pooled()[first:stop]
            self._pooled_refs.update(range(first, stop))
            # Mostly there is one part, which may be long.
            messages = messages + part if messages else part
        own = event.get("input")
        if type(own) is str:
            return [*messages, {"role": "user", "content": own}]
        others = list(map(self.message, place.optional(list, own, "input", [])))
        self._said += others
        messages += others
        return messages

    def _pooled(self) -> list[Value]:
        """Return the messages of the pool: requests share their objects."""
        if self._converted is None:
            self._converted = list(map(self.message, self._pool))
            self._said += self._converted
        return self._converted

    def answer(self, value: Value) -> JsonObject:
        """Return the message of an answer in the form of chats.

        Raises:
            ImportFileError: It is no message.
        """
        message = self.message(value)
        self._said.append(message)
        return message

    def unsaid(self, values: list[JsonObject]) -> list[JsonObject]:
        """Return the messages that no request or answer has, in the form of chats.

        For a provider that takes no images in results, Inspect rewrites these results in requests.

        Raises:
            ImportFileError: One is no message.
        """
        if not values:
            return []
        said = set(map(key_of, self._said))
        answered = set(map(_answered_call, self._said)) - {None}
        messages = list(map(self.message, values))
        times = Counter(map(_answered_call, messages))
        unsaid = []
        for message in messages:
            if key_of(message) in said:
                continue
            call_id = _answered_call(message)
            # An id that several results have does not tell which of them was rewritten.
            if call_id in answered and times[call_id] == 1:
                self.rewritten.append(message)
            else:
                unsaid.append(message)
        return unsaid

    def message(self, value: Value) -> JsonObject:
        """Return a message in the form of chats; fields of Inspect's own stay.

        Raises:
            ImportFileError: It is no message.
        """
        message = dict(self._place.expect(dict, self.resolved(value), "a message"))
        calls = message.get("tool_calls")
        if type(calls) is list:
            message["tool_calls"] = [_call(call) for call in calls]
        if message.get("role") == "tool" and type(message.get("function")) is str:
            if message.get("name") is not None:
                message["original_name"] = message["name"]
            message["name"] = message.pop("function")
        return message


def key_of(message: Value) -> bytes | str:
    """Return a key that is equal for equal messages, and for no others."""
    try:
        # In a fifth of the time of `json`, which takes lone surrogates and large integers too.
        return _sorted(message)
    except (UnicodeEncodeError, OverflowError):
        return json.dumps(message, sort_keys=True)


def _answered_call(message: Value) -> str | None:
    """Return the id of the call that a result answers; None if it is no result."""
    fields = texts_by_key(message)
    call_id = fields.get("tool_call_id")
    return call_id if fields.get("role") == "tool" and type(call_id) is str else None


def _call(value: Value) -> Value:
    if type(value) is not dict or type(value.get("function")) is not str:
        return value
    call_id = value.get("id")
    call = tool_call(
        call_id if type(call_id) is str else "", value["function"], value.get("arguments")
    )
    if type(call_id) not in (str, type(None)):
        call["original_id"] = call_id
    if value.get("type") not in ("function", None):
        call["original_type"] = value["type"]
    if _CALL.issuperset(value):
        return call
    return call | {name: item for name, item in value.items() if name not in _CALL}


def odd_stores(sample: JsonObject) -> JsonObject:
    """Return the parts of a sample's stores of texts and messages that no message is made of."""
    odd: JsonObject = {
        name: sample[name]
        for name in ("attachments", "events_data", "transcript")
        if type(sample.get(name)) not in (dict, type(None))
    }
    transcript = texts_by_key(sample.get("transcript"))
    stored = texts_by_key(sample.get("events_data"))
    for name, texts in (
        ("attachments", sample.get("attachments")),
        ("transcript.content", transcript.get("content")),
    ):
        if type(texts) is dict:
            others = {k: v for k, v in texts.items() if type(v) not in (str, type(None))}
            odd |= {name: others} if others else {}
        elif texts is not None:
            odd[name] = texts
    # Of two lists, the first that is not empty is read.
    events = sample.get("events")
    pool = stored.get("messages")
    is_read = {
        "transcript.content": True,
        "transcript.events": not events,
        "events_data.messages": type(pool) is list,
        "message_pool": type(sample.get("message_pool")) is list and not pool,
    }
    parts = {f"transcript.{name}": value for name, value in transcript.items()}
    parts |= {f"events_data.{name}": value for name, value in stored.items()}
    parts["message_pool"] = sample.get("message_pool")
    odd |= {
        name: value
        for name, value in parts.items()
        if value not in (None, "", [], {}) and not is_read.get(name)
    }
    return odd
