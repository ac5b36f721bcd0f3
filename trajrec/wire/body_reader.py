"""Reads the bodies of a conversation, each of which repeats the one before: new parts alone."""

from __future__ import annotations

import msgspec

from trajrec.types import JsonObject, Value
from trajrec.wire.json_bodies import MAX_DEPTH, NOT_JSON, read_json

# Members whose bytes are not read yet: to find their ends takes a tenth of the time of reading.
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class BodyReader:
    """Reads JSON bodies as `read_json` does; equal items of their arrays become one object.

    The values are shared, so nobody may change them. An object that stands in two bodies needs no
    second look: `is` tells that it is the same.

    >>> reader = BodyReader()
    >>> first = reader.read(b'{"messages": [{"role": "user"}]}')
    >>> second = reader.read(b'{"messages": [{"role": "user"}, {"role": "tool"}]}')
    >>> first["messages"][0] is second["messages"][0]
    True
    """

    def __init__(self) -> None:
        self._known: dict[bytes, Value] = {}

    def read(self, data: bytes) -> Value:
        """Return the value of JSON bytes, or `NOT_JSON`."""
        try:
            members = _members(data)
            value = {name: self._member(bytes(raw)) for name, raw in members.items()}
        except (ValueError, RecursionError):
            # Python's own reader takes more, see `read_json`.
            return read_json(data)
        return value

    def _member(self, data: bytes) -> Value:
        """Return the value of a member of a body.

        Raises:
            ValueError: It is no JSON by itself.
        """
        if data[:1] != b"[":
            return self._part(data, MAX_DEPTH - 1)
        return [self._part(bytes(raw), MAX_DEPTH - 2) for raw in _items(data)]

    def _part(self, data: bytes, max_depth: int) -> Value:
        value = self._known.get(data, _UNKNOWN)
        if value is _UNKNOWN:
            value = read_json(data, max_depth)
            if value is NOT_JSON:
                raise ValueError("a part that is no JSON")
            self._known[data] = value
        return value


_UNKNOWN: JsonObject = {}
