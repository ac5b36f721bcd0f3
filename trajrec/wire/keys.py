"""The keys of requests, by which a rerun finds the recorded answer; and the nearest other request.

Three keys of a request are compared one after the other, each of them weaker:

- `exact`: the bytes of the body.
- `canonical`: its JSON with sorted keys and without members that are null.
- `loose`: without members that say nothing to the model, and with ids in order of appearance.

Each covers the kind of call and the model in the address too, but neither the server nor the
headers. Two requests with one key are the same request; near ones have different keys.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import AnyStr, NamedTuple

import msgspec

from trajrec.types import JsonObject, Value
from trajrec.values.diff import Change, diff
from trajrec.values.json import to_pointer
from trajrec.wire.deltas import common_prefix, common_suffix
from trajrec.wire.dialects.urls import endpoint_of
from trajrec.wire.json_bodies import NOT_JSON, read_json

Patterns = Sequence[re.Pattern[str]]

KEY_BYTES = 16
"""Of a million million requests, two have the same key with probability 1e-15."""

# Members of a body that the model never sees.
_UNSEEN = frozenset(
    ("metadata", "prompt_cache_key", "safety_identifier", "store", "stream_options", "user")
)

# Members of a body that hold the conversation, and so the ids of calls and items.
_CONVERSATION = ("contents", "input", "messages")

# Members that hold the id of a call or item by their name alone; `id` itself does so only in an
# object that has a type or a name beside it.
_IDS = frozenset(("call_id", "item_id", "tool_call_id", "toolUseId", "tool_use_id"))
_BESIDE_ID = ("name", "role", "type")

# Members with values of the agent's own making: an `id` in them may be that of an order.
_OWN = frozenset(("action", "arguments", "args", "json", "operation", "response"))

# Stands for a match of an ignored pattern; no text of a prompt holds it.
_BLANK = "\0"

_encode_sorted = msgspec.json.Encoder(order="deterministic").encode

# Requests that are compared leaf by leaf: a comparison of 200 kB takes 3 ms.
_MAX_COMPARED = 8


class RequestKeys:
    """The keys of one request. The weaker ones are computed when they are asked for.

    Args:
        url: The address.
        body: The body as it was sent.
        ignore: Patterns whose matches in texts do not count, e.g. dates in prompts. They hold for
            `canonical` and `loose`.

    >>> url = "https://example.org/v1/chat/completions"
    >>> one = RequestKeys(url, b'{"model": "m", "n": 1, "user": "me"}')
    >>> two = RequestKeys(url, b'{"n":1,"model":"m","seed":null}')
    >>> one.exact == two.exact, one.canonical == two.canonical, one.loose == two.loose
    (False, False, True)
    """

    def __init__(self, url: str, body: bytes, ignore: Patterns = ()) -> None:
        self._endpoint = endpoint_of(url).encode("utf-8", "surrogatepass")
        self._body = body
        self._ignore = ignore

    @cached_property
    def exact(self) -> bytes:
        """The digest of the bytes."""
        return self._digest(self._body)

    @cached_property
    def canonical(self) -> bytes:
        """The digest of the JSON; that of the bytes if they are none."""
        if self._value is NOT_JSON:
            return self.exact
        return self._digest(_canonical(self._value))

    @cached_property
    def loose(self) -> bytes:
        """The digest of what the model sees, with ids in order of appearance."""
        if type(self._value) is not dict:
            return self.canonical
        return self._digest(_canonical(_loose(self._value)))

    @cached_property
    def _value(self) -> Value:
        return _read(self._body, self._ignore)

    def _digest(self, data: bytes) -> bytes:
        # The length keeps an address and a body from being taken for other ones.
        length = len(self._endpoint).to_bytes(4, "big")
        return hashlib.blake2b(length + self._endpoint + data, digest_size=KEY_BYTES).digest()


class Nearest(NamedTuple):
    """The recorded body that is most like a given one.

    Attributes:
        number: Its number among the recorded bodies.
        changes: The differences from it to the given body, in its order. Empty if only members
            differ that no key looks at, or ids.
    """

    number: int
    changes: tuple[Change, ...]

    @property
    def pointers(self) -> list[str]:
        """The JSON Pointers of the differences; "" is the whole body."""
        return [to_pointer(change.path) for change in self.changes]


def nearest(body: bytes, bodies: Sequence[bytes], ignore: Patterns = ()) -> Nearest | None:
    """Return the recorded body that is most like a given one, None if there is none.

    The fewest characters differ from it; of equally near ones it is the first. Members that the
    model never sees do not count, nor do ids and matches of `ignore`.

    >>> one = nearest(b'{"messages": [{"content": "hi"}]}', [b'{"messages": [{"content": "ho"}]}'])
    >>> one.pointers, one.changes[0].before, one.changes[0].after
    (['/messages/0/content'], 'ho', 'hi')
    """
    given = _comparable(body, ignore)
    likely = sorted(range(len(bodies)), key=lambda index: -_common(body, bodies[index]))
    best: tuple[int, Nearest] | None = None
    for index in sorted(likely[:_MAX_COMPARED]):
        changes = tuple(diff(_comparable(bodies[index], ignore), given))
        weight = sum(_weight(change.before, change.after) for change in changes)
        if best is None or weight < best[0]:
            best = (weight, Nearest(index, changes))
    return best[1] if best else None


def _comparable(body: bytes, ignore: Patterns) -> Value:
    """Return the value of a body without all that no key looks at."""
    value = _read(body, ignore)
    if value is NOT_JSON:
        return body.decode("utf-8", "backslashreplace")
    return _without_nulls(_loose(value) if type(value) is dict else value)


def _common(a: bytes, b: bytes) -> float:
    """Return the share of two bodies that is common to their beginnings and ends."""
    return _n_common(a, b) / (max(len(a), len(b)) or 1)


def _n_common(a: AnyStr, b: AnyStr) -> int:
    """Return the length of the common beginning and end of two texts."""
    start = common_prefix(a, b)
    return start + common_suffix(a, b, min(len(a), len(b)) - start)


def _weight(before: Value, after: Value) -> int:
    """Return the number of characters that differ, so that a long text may change a little."""
    texts = [one if type(one) is str else repr(one) for one in (before, after)]
    return sum(map(len, texts)) - 2 * _n_common(texts[0], texts[1])


def _read(body: bytes, ignore: Patterns) -> Value:
    value = read_json(body)
    return _blanked(value, ignore) if ignore and value is not NOT_JSON else value


def _blanked(value: Value, ignore: Patterns) -> Value:
    """Return a value whose texts have a blank in place of each match."""
    cls = type(value)
    if cls is str:
        for pattern in ignore:
            value = pattern.sub(_BLANK, value)
        return value
    if cls is list:
        return [_blanked(item, ignore) for item in value]
    if cls is dict:
        return {key: _blanked(item, ignore) for key, item in value.items()}
    return value


def _canonical(value: Value) -> bytes:
    """Return a value as JSON with sorted keys, without members that are null."""
    value = _without_nulls(value)
    try:
        data = _encode_sorted(value)
    except (ValueError, OverflowError, msgspec.MsgspecError):
        # A lone surrogate, or a number beyond 64 bits.
        data = b"null"
    # NaN and infinities are null for msgspec, which would make them one.
    if b"null" in data:
        data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return data


def _without_nulls(value: Value) -> Value:
    cls = type(value)
    if cls is list:
        return [_without_nulls(item) for item in value]
    if cls is dict:
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _loose(body: JsonObject) -> JsonObject:
    """Return a body without members that the model never sees, and with ids by their order."""
    numbers: dict[str, str] = {}
    loose = {}
    for key in sorted(body):
        if key in _CONVERSATION:
            loose[key] = _renamed(body[key], numbers)
        elif key == "previous_response_id" and type(body[key]) is str:
            loose[key] = _number(body[key], numbers)
        elif key not in _UNSEEN:
            loose[key] = body[key]
    # In the order of the body, in which differences are listed.
    return {key: loose[key] for key in body if key in loose}


def _renamed(value: Value, numbers: dict[str, str]) -> Value:
    """Return a part of a conversation with ids by their order."""
    cls = type(value)
    if cls is list:
        return [_renamed(item, numbers) for item in value]
    if cls is not dict:
        return value
    has_id = any(name in value for name in _BESIDE_ID)
    renamed = {}
    # Sorted: the order of keys must not decide the order of appearance.
    for key in sorted(value):
        item = value[key]
        if type(item) is str and (key in _IDS or (key == "id" and has_id)):
            renamed[key] = _number(item, numbers)
        elif key in _OWN or (key == "input" and cls is dict):
            renamed[key] = item
        else:
            renamed[key] = _renamed(item, numbers)
    return {key: renamed[key] for key in value}


def _number(text: str, numbers: dict[str, str]) -> str:
    return numbers.setdefault(text, f"id-{len(numbers) + 1}")
