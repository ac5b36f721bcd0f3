"""Redaction of the bodies of requests, of which each repeats most of the one before.

Only the new elements of the conversation are searched; an element is searched whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from trajrec.errors import EncodeError
from trajrec.redaction.nested import Edit, edit_json
from trajrec.redaction.redactor import Redactor
from trajrec.types import Value

REMEMBERED = 4
"""Bodies that a new one is compared with."""

# The list of a request that grows from call to call. A quote in a text is escaped, so that none of
# these is found inside of one.
_GROWING = re.compile(rb'"(?:messages|input|contents)"\s*:\s*\[')

_SPACE = re.compile(r"[ \t\r\n]*")


def _unique(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    value = dict(pairs)
    if len(value) < len(pairs):
        # Only one of its values would be searched.
        raise ValueError("a key stands twice")
    return value


# As strict as the search of a whole body: an element that it refuses must be searched as a text.
_decode_at = json.JSONDecoder(object_pairs_hook=_unique).raw_decode


class ByteEdit(NamedTuple):
    """A part of a body, and the bytes in place of it."""

    start: int
    end: int
    data: bytes


class _Seen(NamedTuple):
    """A body that was searched.

    Attributes:
        body: The body, as it was sent.
        edits: The changes that take the secrets out of it, in order.
        ends: The end of each element of the list that grows; the first is the begin of the list.
        close: Position of the bracket that closes the list.
    """

    body: bytes
    edits: list[ByteEdit]
    ends: list[int]
    close: int


class BodyRedactor:
    """Takes the secrets out of the bodies of one episode's requests.

    Args:
        redactor: Finds the secrets.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._seen: list[_Seen] = []

    def redact(self, body: bytes) -> tuple[bytes, int]:
        """Return a body without secrets, and their number."""
        if not self._redactor.is_on or not body:
            return body, 0
        seen = self._continued(body)
        if seen is None:
            try:
                text = body.decode()
            except UnicodeDecodeError:
                cleaned, n = self._redactor.clean(body)
                return cleaned, n
            edits = edits_in_bytes(text, self._redactor.edits(text))
            seen = _Seen(body, edits, *_elements(body))
        self._seen = [*self._seen[1 - REMEMBERED :], seen]
        return apply_byte_edits(body, seen.edits), len(seen.edits)

    def _continued(self, body: bytes) -> _Seen | None:
        """Search a body that goes on from an earlier one; return None if it does not."""
        for earlier in reversed(self._seen):
            # The elements that are the same: the list of both begins alike, up to one of the ends.
            n_same = next((n for n in _tried(len(earlier.ends)) if _begins(body, earlier, n)), None)
            if n_same is not None:
                return self._continue(body, earlier, n_same)
        return None

    def _continue(self, body: bytes, earlier: _Seen, n_same: int) -> _Seen | None:
        begin = earlier.ends[n_same]
        edits = [edit for edit in earlier.edits if edit.end <= begin]
        try:
            tail = body[begin:].decode()
            spans, close = _read_elements(tail, is_first=n_same == 0)
        except ValueError:
            return None
        ends = earlier.ends[: n_same + 1]
        position = begin
        at = 0
        for start, end, value in spans:
            # In bytes: a character may have several.
            position += len(tail[at:start].encode())
            element = tail[start:end]
            found = self._edits_of(element, value)
            if found is None:
                return None
            edits += [ByteEdit(position + a, position + b, data) for a, b, data in found]
            position += len(element.encode())
            ends.append(position)
            at = end
        position += len(tail[at:close].encode())
        # The rest, with the model and the tools, is mostly the same too.
        if body[position:] != earlier.body[earlier.close :]:
            return None
        shift = position - earlier.close
        edits += [
            ByteEdit(edit.start + shift, edit.end + shift, edit.data)
            for edit in earlier.edits
            if edit.start >= earlier.close
        ]
        return _Seen(body, edits, ends, position)

    def _edits_of(self, element: str, value: Value) -> list[ByteEdit] | None:
        """Return the changes of an element; None if it must be searched as a text."""
        try:
            cleaned, n = self._redactor.redacted(value)
        except EncodeError:
            # Nested deeper than a value of a log may be.
            return None
        if not n:
            return []
        edits = edit_json(element, lambda _: cleaned)
        return None if edits is None else edits_in_bytes(element, edits)


def _tried(n_ends: int) -> Iterator[int]:
    """Yield numbers of elements that a body may share with an earlier one: all, or fewer."""
    n = n_ends - 1
    step = 1
    while n > 0:
        yield n
        n -= step
        step *= 2


def _begins(body: bytes, earlier: _Seen, n: int) -> bool:
    end = earlier.ends[n]
    return body.startswith(earlier.body[:end])


def _elements(body: bytes) -> tuple[list[int], int]:
    """Return the ends of the elements of the list that grows, and its close; ([], 0) without."""
    match = _GROWING.search(body)
    if match is None:
        return [], 0
    begin = match.end()
    try:
        tail = body[begin:].decode()
        spans, close = _read_elements(tail, is_first=True)
    except ValueError:
        return [], 0
    ends = [begin]
    at = 0
    position = begin
    for _, end, _ in spans:
        position += len(tail[at:end].encode())
        ends.append(position)
        at = end
    return ends, position + len(tail[at:close].encode())


def _read_elements(tail: str, *, is_first: bool) -> tuple[list[tuple[int, int, Value]], int]:
    """Return start, end and value of the elements up to the close of their list, and the close.

    Raises:
        ValueError: The text is no list of elements.
    """
    spans: list[tuple[int, int, Value]] = []
    at = 0
    while True:
        at = _after_space(tail, at)
        sign = tail[at : at + 1]
        if sign == "]":
            return spans, at
        if not (is_first and not spans):
            if sign != ",":
                raise ValueError(f"an element ends with {sign!r}")
            at = _after_space(tail, at + 1)
        try:
            value, end = _decode_at(tail, at)
        except RecursionError as exc:
            raise ValueError("nested too deeply") from exc
        spans.append((at, end, value))
        at = end


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()


def edits_in_bytes(text: str, edits: list[Edit]) -> list[ByteEdit]:
    """Return edits of a decoded text as those of its bytes."""
    converted = []
    at = 0
    position = 0
    for edit in edits:
        start = position + len(text[at : edit.start].encode("utf-8", "surrogateescape"))
        position = start + len(text[edit.start : edit.end].encode("utf-8", "surrogateescape"))
        at = edit.end
        # Half of a surrogate pair is an escape in JSON, and no character of UTF-8.
        data = edit.text.encode("utf-8", "backslashreplace")
        converted.append(ByteEdit(start, position, data))
    return converted


def apply_byte_edits(body: bytes, edits: list[ByteEdit]) -> bytes:
    """Return a body with edits made."""
    if not edits:
        return body
    parts = []
    position = 0
    for edit in edits:
        parts += [body[position : edit.start], edit.data]
        position = edit.end
    return b"".join([*parts, body[position:]])
