"""Texts of server-sent events, and of lines of JSON, from the pieces of a stream.

A client that reads the response of a model itself gets its lines or bytes: `data: {"delta": ...}`.
A secret that is cut over several events is whole in none of these texts. So the values of the
events are searched as a stream of their own.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from trajrec.redaction.nested import Edit, edit_json
from trajrec.redaction.redactor import Redactor
from trajrec.redaction.tracks import MAX_HELD_CHARS, Track
from trajrec.types import Value
from trajrec.values import codec

_FIELDS = ("data:", "event:", "id:", "retry:")
_STARTS = (*_FIELDS, ":", "{")
_JSON_LINE = re.compile(r"(?:\s*data:)?\s*([\[{].*[\]}])\s*", re.DOTALL)


class ValueStream(Protocol):
    """Takes the secrets out of values of one stream, as `StreamRedactor` does."""

    n_secrets: int

    def add(self, piece: Value) -> list[bytes]:
        """Add a value; return the encoded values in which all secrets are found."""

    def finish(self) -> list[bytes]:
        """Return the rest of the encoded values."""


class _Line(NamedTuple):
    """A line that was passed on.

    Attributes:
        start: Its first character.
        end: The character after it.
        json_start: The first character of its JSON, -1 if it has none.
        json_end: The character after its JSON.
    """

    start: int
    end: int
    json_start: int
    json_end: int


def may_be_event(text: str) -> bool:
    """Return whether a text may begin a stream of events or of lines of JSON."""
    begin = text[:6]
    if begin.startswith("{"):
        # Of other JSON documents, a piece is not whole.
        return _read_json(text.partition("\n")[0]) is not None
    return bool(begin) and (
        begin.startswith(_FIELDS) or any(field.startswith(begin) for field in _FIELDS)
    )


class EventTrack(Track):
    """A text of events or lines that grows.

    Args:
        redactor: Finds the secrets.
        values: Finds the secrets in the values of the events.
    """

    def __init__(self, redactor: Redactor, values: ValueStream) -> None:
        super().__init__(redactor)
        self._values = values
        self._lines: deque[_Line] = deque()
        self._n_read = 0
        self._n_reported = 0

    def add(self, text: str) -> int:
        # The lines of some clients have no end of a line.
        self._read(is_line_over=text.startswith(_FIELDS))
        start = super().add(text)
        self._read(is_line_over=False)
        return start

    def search(self, *, is_over: bool) -> int:
        self.has_grown = False
        if is_over:
            self._read(is_line_over=True)
            self._add_done(self._values.finish())
            self.n_done = len(self._text)
        n = self._values.n_secrets - self._n_reported
        self._n_reported += n
        return n

    def _read(self, *, is_line_over: bool) -> None:
        """Pass on the lines that are whole."""
        while self._n_read < len(self._text):
            end = self._text.find("\n", self._n_read) + 1
            tail = self._text[self._n_read : end or len(self._text)]
            json_part = _read_json(tail)
            if not (end or is_line_over or json_part or not _may_go_on(tail)):
                return
            start = self._n_read
            self._n_read += len(tail)
            if json_part is None:
                self._lines.append(_Line(start, self._n_read, -1, -1))
                self._add_done(self._values.add(tail))
            else:
                value, json_start, json_end = json_part
                line = _Line(start, self._n_read, start + json_start, start + json_end)
                self._lines.append(line)
                self._add_done(self._values.add(value))

    def _add_done(self, pieces: list[bytes]) -> None:
        """Note the changes of the lines that are searched, of which these are the values."""
        for data in pieces:
            line = self._lines.popleft()
            self.n_done = line.end
            if not self._values.n_secrets:
                continue
            value = codec.decode(data)
            if line.json_start < 0:
                if value != self._text[line.start : line.end]:
                    self._edits.append(Edit(line.start, line.end, value))
                continue
            text = self._text[line.json_start : line.json_end]
            shift = line.json_start
            for edit in edit_json(text, _always(value)) or ():
                self._edits.append(Edit(shift + edit.start, shift + edit.end, edit.text))


def _always(value: Value) -> Callable[[Value], Value]:
    return lambda _: value


def _may_go_on(tail: str) -> bool:
    """Return whether a line without an end may be a part of an event."""
    if len(tail) > MAX_HELD_CHARS:
        return False
    return tail.startswith(_STARTS) or any(start.startswith(tail) for start in _STARTS)


def _read_json(line: str) -> tuple[Value, int, int] | None:
    """Return the JSON object or list of a line, with its start and end; None if it has none."""
    match = _JSON_LINE.fullmatch(line)
    if match is None:
        return None
    try:
        value = json.loads(match[1])
    except (ValueError, RecursionError):
        return None
    return value, match.start(1), match.end(1)
