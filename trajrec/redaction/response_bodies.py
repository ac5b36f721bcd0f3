"""Redaction of a response while it comes: a secret may be cut over many events of a stream.

A stream of server-sent events, or of lines of JSON, is read line by line. The texts at one place of
its lines are searched as one text, and a mark is written into the line in which its secret begins.
Lines without a secret keep their bytes. Any other body is searched whole, at its end.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from trajrec.redaction.lines import (
    STRING,
    Path,
    decoded,
    form_pattern,
    json_begin,
    texts,
    unquoted,
)
from trajrec.redaction.nested import apply_edits, edit_json
from trajrec.redaction.redactor import Redactor
from trajrec.redaction.request_bodies import ByteEdit, apply_byte_edits, edits_in_bytes
from trajrec.redaction.tracks import Track
from trajrec.types import Value

MAX_LINE_BYTES = 1 << 24
"""A longer line is searched by itself, in the pieces in which it came."""

PATIENCE_LINES = 64
"""Lines after which a text that has not grown is over. Events without a text may come in between."""

MAX_FORMS = 16
"""Forms of lines that are remembered: parallel answers and calls take turns."""

MAX_COMPILED = 64
"""Forms that are compiled for one stream, which takes longer than to read a few lines."""

# Fields with a text of its own in each line, never the part of a longer one.
_WHOLE_TEXT = """
    id object model type role item_id response_id message_id event system_fingerprint service_tier
    finish_reason stop_reason status name
"""
_WHOLE = frozenset(_WHOLE_TEXT.split())


class _Leaf(NamedTuple):
    """A text in a line, as a part of a longer text.

    Attributes:
        start: Its first byte in the line, after the quote.
        end: The byte after its last one.
        track: The longer text.
        position: Its first character there.
        size: Number of its characters.
    """

    start: int
    end: int
    track: Track
    position: int
    size: int


class _Line(NamedTuple):
    data: bytes
    leaves: Sequence[_Leaf]
    edits: Sequence[ByteEdit]


_NOTHING: tuple[_Leaf, ...] = ()
_NO_EDITS: tuple[ByteEdit, ...] = ()


class _Form(NamedTuple):
    """The form of a line: all of it but for numbers, and the texts that grow.

    A line of a known form says at all other places what an earlier one said, so that only these
    texts are new.

    Attributes:
        match: Matches a line of the form; each text is a group.
        keys: What each text continues.
    """

    match: Callable[[bytes], re.Match[bytes] | None]
    keys: list[Path]


class LineRedactor:
    """Takes the secrets out of the lines of one stream.

    Args:
        redactor: Finds the secrets.

    Attributes:
        n_secrets: Number of secrets that were replaced so far.
    """

    def __init__(self, redactor: Redactor) -> None:
        self.n_secrets = 0
        self._redactor = redactor
        self._rest = b""
        self._held: deque[_Line] = deque()
        self._tracks: dict[Path, Track] = {}
        # The number of lines when each text last grew.
        self._grown_at: dict[Path, int] = {}
        self._n_lines = 0
        self._forms: deque[_Form] = deque(maxlen=MAX_FORMS)
        # Patterns of forms, and whether they were seen twice.
        self._seen: dict[bytes, bool] = {}
        self._n_compiled = 0
        self._harmless: set[str] = set()
        self._harmless_lines: set[bytes] = {b"\n", b"\r\n"}

    def add(self, data: bytes) -> bytes:
        """Add the next bytes; return the lines in which all secrets are found."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._add_line(line + b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            self._add_line(self._rest)
            self._rest = b""
        return self._search(is_over=False)

    def finish(self) -> bytes:
        """Return the rest, at the end of the stream."""
        if self._rest:
            self._add_line(self._rest)
            self._rest = b""
        return self._search(is_over=True)

    def _add_line(self, line: bytes) -> None:
        self._n_lines += 1
        if line in self._harmless_lines:
            self._held.append(_Line(line, _NOTHING, _NO_EDITS))
            return
        for index, form in enumerate(self._forms):
            match = form.match(line)
            if match is None:
                continue
            leaves = self._leaves(match, form.keys)
            if leaves is None:
                break
            if index:
                # The form of this line is the likeliest one of the next.
                del self._forms[index]
                self._forms.appendleft(form)
            self._held.append(_Line(line, leaves, _NO_EDITS))
            return
        self._read_line(line)

    def _leaves(self, match: re.Match[bytes], keys: list[Path]) -> list[_Leaf] | None:
        """Return the texts of a line of a known form; None if one of them is no text."""
        try:
            texts = [unquoted(data) for data in match.groups()]
        except ValueError:
            return None
        return [
            self._leaf(*match.span(group), key, text)
            for group, (key, text) in enumerate(zip(keys, texts, strict=True), 1)
        ]

    def _read_line(self, line: bytes) -> None:
        """Add a line of a new form."""
        begin = json_begin(line)
        try:
            value = decoded(line[begin:])
            strings = list(texts(value, (), ""))
            n = self._redactor.hide_named(value)[1]
            # Of a line of a known form, nobody looks at the names.
            has_form = not self._redactor.may_hide(value)
        except (ValueError, RecursionError):
            self._add_plain(line)
            return
        tokens = [match.span() for match in STRING.finditer(line, begin)]
        if n or len(tokens) != len(strings) or self._has_secret_key(strings):
            # Rare: the name of a secret, or a key that stands twice. The line is searched by itself.
            self._add_alone(line, begin)
            return
        leaves = []
        edits = []
        grown = []
        for index, (key, name, text) in enumerate(strings):
            # A text that grows may have a piece that is a harmless word elsewhere.
            if name is None or (name in _WHOLE and text in self._harmless):
                continue
            start, end = tokens[index]
            if name not in _WHOLE:
                leaves.append(self._leaf(start + 1, end - 1, key, text))
                grown.append(index)
                continue
            found = self._redactor.edits(text)
            if not found:
                self._harmless.add(text)
                continue
            self.n_secrets += len(found)
            cleaned = json.dumps(apply_edits(text, found), ensure_ascii=False)
            edits.append(ByteEdit(start, end, cleaned.encode("utf-8", "backslashreplace")))
        self._held.append(_Line(line, leaves, edits))
        if has_form and not edits:
            keys = [strings[index][0] for index in grown]
            self._learn(form_pattern(line, tokens, set(grown)), keys)

    def _has_secret_key(self, strings: list[tuple[Path, str | None, str]]) -> bool:
        """Return whether a key of an object has a secret in it."""
        for _, name, text in strings:
            if name is None and text not in self._harmless:
                if self._redactor.edits(text):
                    return True
                self._harmless.add(text)
        return False

    def _learn(self, pattern: bytes, keys: list[Path]) -> None:
        """Remember the form of a line, if it comes for the second time."""
        is_known = pattern in self._seen
        if is_known and not self._seen[pattern] and self._n_compiled < MAX_COMPILED:
            self._n_compiled += 1
            self._forms.appendleft(_Form(re.compile(pattern, re.DOTALL).fullmatch, keys))
        if is_known or len(self._seen) < MAX_COMPILED * MAX_FORMS:
            self._seen[pattern] = is_known

    def _leaf(self, start: int, end: int, key: Path, text: str) -> _Leaf:
        track = self._tracks.get(key)
        if track is None:
            track = self._tracks[key] = Track(self._redactor)
        return _Leaf(start, end, track, track.add(text), len(text))

    def _add_plain(self, line: bytes) -> None:
        """Add a line that is no JSON. An empty one, and the name of an event, have nothing."""
        text = line.decode("utf-8", "surrogateescape")
        edits = self._redactor.edits(text)
        if not edits and len(self._harmless_lines) < MAX_COMPILED:
            self._harmless_lines.add(line)
        self.n_secrets += len(edits)
        self._held.append(_Line(line, [], edits_in_bytes(text, edits)))

    def _add_alone(self, line: bytes, begin: int) -> None:
        text = line[begin:].decode("utf-8", "surrogateescape")
        edits = edit_json(text, self._clean)
        if edits is None:
            edits = self._redactor.edits(text)
        self.n_secrets += len(edits)
        shifted = [
            ByteEdit(begin + edit.start, begin + edit.end, edit.data)
            for edit in edits_in_bytes(text, edits)
        ]
        self._held.append(_Line(line, [], shifted))

    def _clean(self, value: Value) -> Value:
        return self._redactor.clean(value)[0]

    def _search(self, *, is_over: bool) -> bytes:
        """Search the texts; return the lines in which all secrets are found."""
        for key, track in list(self._tracks.items()):
            if track.has_grown:
                self._grown_at[key] = self._n_lines
            # A text that has not grown for a while is over: lines must not wait for it forever.
            is_track_over = is_over or self._n_lines - self._grown_at[key] > PATIENCE_LINES
            if track.has_grown or is_track_over:
                self.n_secrets += track.search(is_over=is_track_over)
            if is_track_over:
                del self._tracks[key], self._grown_at[key]
        done = []
        while self._held and all(
            leaf.position + leaf.size <= leaf.track.n_done for leaf in self._held[0].leaves
        ):
            done.append(_finished(self._held.popleft()))
        return b"".join(done)


def _finished(line: _Line) -> bytes:
    """Return a line without its secrets."""
    if not line.leaves and not line.edits:
        return line.data
    edits = list(line.edits)
    for leaf in line.leaves:
        text = leaf.track.take(leaf.position, leaf.size)
        if text is not None:
            data = json.dumps(text, ensure_ascii=False)[1:-1]
            edits.append(ByteEdit(leaf.start, leaf.end, data.encode("utf-8", "backslashreplace")))
    return apply_byte_edits(line.data, sorted(edits)) if edits else line.data


class HeldBody:
    """Holds a body back until its end.

    Args:
        redactor: Finds the secrets.

    Attributes:
        n_secrets: Number of secrets that were replaced.
    """

    def __init__(self, redactor: Redactor) -> None:
        self.n_secrets = 0
        self._redactor = redactor
        self._parts: list[bytes] = []

    def add(self, data: bytes) -> bytes:
        """Add the next bytes; nothing is returned before the end."""
        self._parts.append(data)
        return b""

    def _take(self) -> bytes:
        """Return all that was added, and forget it."""
        body = b"".join(self._parts)
        self._parts = []
        return body


class WholeRedactor(HeldBody):
    """Holds a body back until its end, and takes the secrets out of it as a whole: see `HeldBody`."""

    def finish(self) -> bytes:
        """Return the body."""
        body = self._take()
        try:
            text = body.decode()
        except UnicodeDecodeError:
            cleaned, self.n_secrets = self._redactor.clean(body)
            return bytes(cleaned)
        edits = self._redactor.edits(text)
        self.n_secrets = len(edits)
        return apply_byte_edits(body, edits_in_bytes(text, edits))


def response_redactor(redactor: Redactor, content_type: str) -> LineRedactor | WholeRedactor:
    """Return the redactor of a response of a content type."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind in ("text/event-stream", "application/x-ndjson", "application/jsonl"):
        return LineRedactor(redactor)
    return WholeRedactor(redactor)
