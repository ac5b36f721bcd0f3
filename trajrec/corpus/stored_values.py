"""Decodes the values of an agent's events, with the values that the log stores once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from trajrec.errors import LogCorruptError
from trajrec.log.events import AgentEvent
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.codec import Opaque, Plain, Ref
from trajrec.values.extensions import REF
from trajrec.values.json import stored_to_json
from trajrec.values.json_like import NOT_JSON_LIKE, decode_json_like, json_like_text

# The first bytes of a reference: an extension of 16 bytes, and its code.
_REFERENCE = bytes((0xD8, REF))

LOST = "trajrec.LostValue"
"""The type name of the `Opaque` that stands for a value that the log has lost."""

# A value may refer to a value that refers to others: a few bytes could stand for all memory.
MAX_REPEATED_BYTES = 1 << 24
"""The most bytes that a value may refer to beyond the first time."""

MAX_REFERENCES = 64
"""The deepest nesting of references."""

T = TypeVar("T")


class StoredValues:
    """Decodes values of an agent's events.

    Args:
        events: The events of the episode.
        blob: Returns a value that the log stores once, by its digest.
        episode_id: The episode, for errors.
        path: The log, for errors.
        report: Called with the event and the reason if the log contradicts itself.
        is_tolerant: Whether an `Opaque` stands for a value that cannot be decoded; if not, an error
            is raised.
    """

    def __init__(
        self,
        events: Sequence[AgentEvent],
        blob: Callable[[bytes], bytes],
        *,
        episode_id: str = "",
        path: Path = Path(),
        report: Callable[[AgentEvent | None, str], None] = lambda event, reason: None,
        is_tolerant: bool = False,
    ) -> None:
        self._events = events
        self._blob = blob
        self._episode_id = episode_id
        self._path = path
        self.report = report
        self.is_tolerant = is_tolerant
        # The encodings of values that were decoded, and are JSON as they are.
        self._json_like: set[bytes] = set()

    def decode(self, data: bytes | None) -> Value:
        """Return an encoded value, with references replaced by the values that they refer to.

        Raises:
            LogCorruptError: The value, or one that it refers to, is lost or is none.
        """
        if data is None:
            return None
        # Most values have no references, and this search is faster than a look at each item.
        has_references = _REFERENCE in data
        if not has_references:
            try:
                value = decode_json_like(data)
            except NOT_JSON_LIKE:
                pass
            else:
                self._json_like.add(data)
                return value
        try:
            value = codec.decode(data)
            return _Resolver(self._blob).resolve(value, 0) if has_references else value
        except (ValueError, RecursionError) as exc:
            return self._lost(data, str(exc), exc)
        except LogCorruptError as exc:
            return self._lost(data, exc.what, exc)

    def json(self, data: bytes | None, value: Value) -> str:
        """Return a decoded value as JSON, as `to_json` does.

        Args:
            data: Its encoding.
            value: The value.
        """
        return json_like_text(value) if data in self._json_like else stored_to_json(value)

    def decode_as(self, kind: type[T], data: bytes | None, default: T) -> T:
        """Return an encoded value of a type.

        Returns:
            The value; the default if it is lost and the log is read tolerantly.

        Raises:
            LogCorruptError: The value is of another type, or is lost.
        """
        value = self.decode(data)
        if isinstance(value, kind):
            return value
        if not isinstance(value, Opaque):
            self._lost(data, f"a {kind.__name__} should stand here")
        return default

    def _lost(self, data: bytes | None, reason: str, cause: Exception | None = None) -> Opaque:
        event = next((event for event in self._events if _holds(event, data)), None)
        step = getattr(event, "step", None)
        position = "" if step is None else f" step {step}"
        text = f"episode {self._episode_id}{position}: a value cannot be read: {reason}"
        self.report(event, text)
        if not self.is_tolerant:
            raise LogCorruptError(text, path=self._path) from cause
        return Opaque(LOST, reason)


def _holds(event: AgentEvent, data: bytes | None) -> bool:
    """Return whether some bytes are a field of an event, or a message in one."""
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if value is data or (type(value) is list and any(item is data for item in value)):
            return data is not None
    return False


class _Resolver:
    """Replaces the references in one value."""

    def __init__(self, blob: Callable[[bytes], bytes]) -> None:
        self._blob = blob
        self._seen: set[bytes] = set()
        self._n_repeated_bytes = 0

    def resolve(self, value: Value, depth: int) -> Value:
        """Return a value with its references replaced.

        Raises:
            ValueError: They nest too deeply, or repeat too much.
            LogCorruptError: One is lost.
        """
        if isinstance(value, Ref):
            if depth > MAX_REFERENCES:
                raise ValueError("references are nested too deeply")
            data = self._look_up(value.digest)
            inner = codec.decode(data)
            # As in `StoredValues.decode`: the parts of a large state are looked at in C alone.
            return self.resolve(inner, depth + 1) if _REFERENCE in data else inner
        if isinstance(value, dict):
            return {key: self.resolve(item, depth) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.resolve(item, depth) for item in value)
        if isinstance(value, Plain):
            fields = {key: self.resolve(item, depth) for key, item in value.fields.items()}
            return Plain(value.type_name, value.kind, fields)
        return value

    def _look_up(self, digest: bytes) -> bytes:
        data = self._blob(digest)
        if digest in self._seen:
            self._n_repeated_bytes += len(data)
            if self._n_repeated_bytes > MAX_REPEATED_BYTES:
                raise ValueError("references repeat too much")
        self._seen.add(digest)
        return data
