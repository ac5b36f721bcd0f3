"""Streams of JSON objects: one a line (Ollama), or the items of one array (Gemini)."""

from __future__ import annotations

import re
from collections.abc import Callable

# The bytes that decide where an object ends, and those that decide what is text.
_MARKS = re.compile(rb'[\[\]{}"\\]')
_OPENING = b"[{"
_QUOTE = ord('"')
_BACKSLASH = ord("\\")
_BRACE = ord("{")


class JsonSplitter:
    """Splits a stream into its objects while its pieces come; a piece may begin and end anywhere.

    Objects may stand one after the other, one a line, or in one array. Anything else between them
    is left out.

    >>> splitter = JsonSplitter()
    >>> splitter.feed(b'[{"a": "}"},\\n{"b'), splitter.feed(b'": {}}]')
    ([b'{"a": "}"}'], [b'{"b": {}}'])
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._position = 0
        self._start = -1
        self._depth = 0
        self._is_text = False

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the objects that end with this piece of the stream."""
        data = self._rest
        data += piece
        objects = []
        position = self._position
        while (match := _MARKS.search(data, position)) is not None:
            start = match.start()
            mark = data[start]
            position = start + 1
            if self._start < 0:
                # The array around the objects is none of them.
                if mark == _BRACE:
                    self._start = start
                    self._depth = 1
            elif mark == _BACKSLASH:
                # The byte behind it may be a quote, and may be in the next piece.
                position += 1
            elif mark == _QUOTE:
                self._is_text = not self._is_text
            elif not self._is_text:
                self._depth += 1 if mark in _OPENING else -1
                if self._depth == 0:
                    objects.append(bytes(data[self._start : position]))
                    self._start = -1
        self._forget(max(position, len(data)))
        return objects

    def finish(self) -> list[bytes]:
        """Return the last object, which is cut off, if there is one; the stream is over."""
        rest = bytes(self._rest)
        self._rest.clear()
        self._position = 0
        self._start = -1
        self._is_text = False
        return [rest] if rest else []

    def _forget(self, position: int) -> None:
        """Remove the bytes before the object that is open; `position` is the next one to read."""
        n_read = len(self._rest) if self._start < 0 else self._start
        del self._rest[:n_read]
        self._position = position - n_read
        if self._start > 0:
            self._start = 0


def split_objects(body: bytes) -> list[bytes]:
    """Return the objects of a whole stream; the last one may be cut off.

    >>> split_objects(b'{"a": 1}\\n{"b": 2}\\n{"c')
    [b'{"a": 1}', b'{"b": 2}', b'{"c']
    """
    splitter = JsonSplitter()
    return splitter.feed(body) + splitter.finish()


def with_objects(body: bytes, change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """Return a whole stream with other objects.

    Args:
        body: The stream.
        change: Returns the objects in place of all.

    >>> with_objects(b'[{"a": 1},\\n{"b": 2}]', lambda objects: objects[::-1])
    b'[{"b": 2},\\n{"a": 1}]'
    """
    before = split_objects(body)
    parts = []
    at = 0
    for old, new in zip(before, change(before), strict=True):
        start = body.index(old, at)
        parts += [body[at:start], new]
        at = start + len(old)
    return b"".join([*parts, body[at:]])
