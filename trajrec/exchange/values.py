"""Encodes the values of imported episodes: without secrets, and large ones once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from trajrec.log.events import Blob
from trajrec.log.schema import Event
from trajrec.recording.event_log import REFERRED_BYTES
from trajrec.redaction.redactor import Redactor
from trajrec.types import JsonObject, Value
from trajrec.values import codec
from trajrec.values.extensions import REF

_pack = msgspec.msgpack.Encoder().encode

SINGLE_BYTES = 1 << 14
"""Values larger than this are stored by themselves though nothing repeats them: a reader may need
the events around them alone."""

_LEAVES = frozenset((str, int, float, bool, type(None), msgspec.msgpack.Ext))
_TEXTS = frozenset((str,))
_NUMBERS = frozenset((int, float, bool, type(None)))

_SHORT_CHARS = REFERRED_BYTES // 4 - 2
"""Texts that are never large: a character has at most four bytes, and their number at most five."""

_REFERENCE_SIZE = 18
_REFERENCE_HEAD = 0xD8
"""A reference is an extension of msgpack with 16 bytes; no text has its first byte."""

MAX_DEPTH = 50
"""The deepest nesting of values that msgpack encodes directly. The codec takes 100 levels, and says
where a value is nested deeper."""

MAX_BYTES = 1 << 20
"""The largest encoding that is taken without the codec, which refuses too many items."""


def is_json_like(value: Value) -> bool:
    """Return whether a value is of JSON's types and flat enough for msgpack to encode it directly.

    >>> is_json_like({"x": [1, "a"]}), is_json_like({"x": (1,)}), is_json_like(b"")
    (True, False, False)
    """
    if type(value) in _LEAVES:
        return True
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        nested = []
        for container in level:
            items = container
            if type(container) is dict:
                if not _TEXTS.issuperset(map(type, container)):
                    return False
                items = container.values()
            elif type(container) is not list:
                return False
            # All types at once: most objects have leaves alone.
            if not _LEAVES.issuperset(map(type, items)):
                for item in items:
                    if type(item) not in _LEAVES:
                        nested.append(item)
        if not nested:
            return True
        level = nested
    return False


class ValueEncoder:
    """Encodes values for the events of one log.

    Args:
        add: Adds an event to the log.
        redactor: Removes secrets; None leaves values as they are.

    Attributes:
        n_redacted: The number of values from which secrets were removed.
    """

    def __init__(self, add: Callable[[Event], None], redactor: Redactor | None) -> None:
        self._add = add
        self._redactor = redactor
        self._digests: set[bytes] = set()
        # A text often stands twice: as a result, and in the message with it.
        self._last: tuple[str, bytes] = ("", b"")
        self.n_redacted = 0

    def data(self, episode: int, value: Value) -> bytes:
        """Return an encoded value, or a reference to a large one.

        Raises:
            EncodeError: It nests too deeply.
        """
        is_text = type(value) is str and len(value) > _SHORT_CHARS
        if is_text and value == self._last[0]:
            return self._last[1]
        data = self._store(episode, self._encode(value), REFERRED_BYTES)
        if is_text:
            self._last = (value, data)
        return data

    def single(self, episode: int, value: Value) -> bytes:
        """Return an encoded value that nothing repeats: only a very large one is a reference."""
        return self._store(episode, self._encode(value), SINGLE_BYTES)

    def data_or_none(self, episode: int, value: Value) -> bytes | None:
        """Return the same, None for None."""
        return None if value is None else self.data(episode, value)

    def shared(self, episode: int, text: str) -> Value:
        """Return a text, or a reference to it if it is large, for use inside of another value."""
        if len(text) <= REFERRED_BYTES:
            return text
        data = self.data(episode, text)
        # After the removal of a secret, a text may be short.
        is_reference = len(data) == _REFERENCE_SIZE and data[0] == _REFERENCE_HEAD
        # As msgpack takes it.
        return msgspec.msgpack.Ext(REF, data[2:]) if is_reference else codec.decode(data)

    def inner(self, episode: int, value: Value) -> Value:
        """Return a value as another one holds it: without secrets, or a reference to a large one.

        Raises:
            EncodeError: It nests too deeply.
        """
        kind = type(value)
        if kind in _NUMBERS or (
            kind is str and self._redactor is None and len(value) <= _SHORT_CHARS
        ):
            return value
        return codec.decode(self.data(episode, value))

    def lightened(self, episode: int, message: JsonObject) -> JsonObject:
        """Return a message of which a large text is a reference: it is stored once."""
        content = message.get("content")
        if type(content) is str and len(content) > REFERRED_BYTES:
            return {**message, "content": self.shared(episode, content)}
        return message

    def message(self, episode: int, message: JsonObject) -> bytes:
        """Return an encoded message."""
        return self.single(episode, self.lightened(episode, message))

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        if self._redactor is None or not text:
            return text
        cleaned = self._redactor.text(text)
        self.n_redacted += cleaned != text
        return cleaned

    def _encode(self, value: Value) -> bytes:
        if self._redactor is not None:
            data, is_redacted = self._redactor.encode(_with_references(value), opaque=False)
            self.n_redacted += is_redacted
            return data
        # In a tenth of the time of the codec, which makes the same bytes of such values.
        if is_json_like(value):
            try:
                data = _pack(value)
            except (UnicodeEncodeError, OverflowError):
                pass
            else:
                if len(data) < MAX_BYTES:
                    return data
        return codec.encode(_with_references(value))

    def _store(self, episode: int, data: bytes, limit: int) -> bytes:
        if len(data) <= limit:
            return data
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if digest not in self._digests:
            self._add(Blob(episode, digest, data))
            self._digests.add(digest)
        return _pack(msgspec.msgpack.Ext(REF, digest))


def _with_references(value: Value) -> Value:
    """Return a value with references as the codec takes them."""
    if type(value) is msgspec.msgpack.Ext:
        return codec.Ref(bytes(value.data))
    if type(value) is dict:
        return {key: _with_references(item) for key, item in value.items()}
    return list(map(_with_references, value)) if type(value) is list else value
