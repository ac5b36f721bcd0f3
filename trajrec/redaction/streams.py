"""Redaction of streams: a secret may be cut into any number of pieces.

The texts at one place of the pieces, such as the content of a message, are put together and
searched as one. Pieces are given back when no secret can begin in them any more, with a mark in the
piece in which its secret begins. All other pieces keep their bytes.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Hashable
from typing import NamedTuple, TypeAlias

from trajrec.redaction.events import EventTrack, may_be_event
from trajrec.redaction.redactor import Redactor
from trajrec.redaction.structure import as_bytes
from trajrec.redaction.survey import NUMBERS
from trajrec.redaction.token_data import without_tokens
from trajrec.redaction.tracks import Track
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.codec import Opaque, Plain

STEP_CHARS = 512
"""New characters after which the texts are searched again."""

STEP_PIECES = 256
"""New pieces after which the texts are searched again."""

MIN_REPEATED_CHARS = 8
"""A text of this length that is the same in each piece is no text that goes on."""

# Fields of a piece that tell which text it continues.
_NUMBERS = ("index", "output_index", "content_index", "summary_index", "item_id", "type")

# Fields with a text of its own in each piece.
_WHOLE_TEXT = """
    id object model type role item_id response_id message_id event system_fingerprint service_tier
    finish_reason stop_reason status name
"""
_WHOLE = frozenset(_WHOLE_TEXT.split())

_WITH_TEXT = frozenset((str, bytes, dict, list, tuple, Plain, Opaque))

# A text in the repr of an object.
_LITERAL = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")

Path: TypeAlias = tuple[Hashable, ...]
"""Keys and indices that lead to a text in a piece."""


class _Leaf(NamedTuple):
    """A text in a piece, as a part of a longer text."""

    path: Path
    track: Track
    start: int
    size: int


class _Piece(NamedTuple):
    """A piece that is held back.

    Attributes:
        data: Its encoding.
        value: Its decoded value.
        leaves: Its texts.
    """

    data: bytes
    value: Value
    leaves: list[_Leaf]


class StreamRedactor:
    """Takes the secrets out of the pieces of one stream.

    Args:
        redactor: Finds the secrets.
        has_events: Whether a piece that is a text may be a part of server-sent events.

    Attributes:
        n_secrets: Number of secrets that were replaced so far.
    """

    def __init__(self, redactor: Redactor, *, has_events: bool = True) -> None:
        self.n_secrets = 0
        self._has_events = has_events
        self._redactor = redactor
        self._held: deque[_Piece] = deque()
        self._tracks: dict[Path, Track] = {}
        self._last: dict[Path, str] = {}
        self._harmless: set[str] = set()
        self._n_chars = 0
        self._n_pieces = 0

    def add(self, piece: Value) -> list[bytes]:
        """Add a piece; return the encoded pieces in which all secrets are found."""
        data = codec.encode(piece, opaque=True)
        n_before = self.n_secrets
        value, n = self._redactor.hide_named(self._clean_rest(codec.decode(data)))
        self.n_secrets += n
        if self.n_secrets > n_before:
            data = codec.encode(value, opaque=True)
        leaves: list[_Leaf] = []
        self._add_texts(value, (), (), leaves)
        self._held.append(_Piece(data, value, leaves))
        self._n_pieces += 1
        if self._n_chars < STEP_CHARS and self._n_pieces < STEP_PIECES:
            return []
        return self._search(is_over=False)

    def finish(self) -> list[bytes]:
        """Return the rest of the encoded pieces, at the end of the stream."""
        return self._search(is_over=True)

    def _clean_rest(self, value: Value) -> Value:
        """Return a piece without the secrets that no other piece continues: in keys, sets, arrays."""
        cls = type(value)
        if cls is dict:
            return {self._clean_key(key): self._clean_rest(item) for key, item in value.items()}
        if cls is list or cls is tuple:
            return cls(map(self._clean_rest, value))
        if cls is Plain:
            fields = {key: self._clean_rest(item) for key, item in value.fields.items()}
            return Plain(value.type_name, value.kind, fields)
        if cls in _WITH_TEXT or cls in NUMBERS:
            return value
        cleaned, n = self._redactor.clean(value)
        self.n_secrets += n
        return cleaned

    def _clean_key(self, key: Value) -> Value:
        """Return a key of a dict without secrets. The pieces of a stream mostly have the same keys."""
        is_text = type(key) is str
        if is_text and key in self._harmless:
            return key
        cleaned, n = self._redactor.clean(key)
        self.n_secrets += n
        if is_text and not n:
            self._harmless.add(key)
        return cleaned

    def _add_texts(self, value: Value, path: Path, key: Path, leaves: list[_Leaf]) -> None:
        """Add the texts in a piece to the longer texts that they are parts of.

        Args:
            value: The piece, or a part of it.
            path: The path of the part.
            key: The same without that which differs between pieces of one text.
            leaves: Gets the texts.
        """
        cls = type(value)
        if cls is str or cls is bytes:
            self._add_leaf(path, key, value if cls is str else value.decode("latin-1"), leaves)
        elif cls is dict or cls is Plain:
            fields = value if cls is dict else value.fields
            for name in _NUMBERS:
                number = fields.get(name)
                if type(number) in (int, str):
                    key = (*key, number)
            for name, item in fields.items():
                if type(item) in _WITH_TEXT:
                    self._add_texts(item, (*path, name), (*key, name), leaves)
        elif cls is list or cls is tuple:
            for index, item in enumerate(value):
                # A dict with a number of its own may come at any place.
                fields = item.fields if type(item) is Plain else item
                is_numbered = type(fields) is dict and "index" in fields
                own_key = key if is_numbered else (*key, index)
                self._add_texts(item, (*path, index), own_key, leaves)
        elif cls is Opaque:
            self._add_repr(value.text, path, key, leaves)

    def _add_repr(self, text: str, path: Path, key: Path, leaves: list[_Leaf]) -> None:
        """Add the repr of an object: it may have a secret, or parts of one in its literals."""
        whole = Track(self._redactor)
        whole.add(text)
        n = whole.search(is_over=True)
        if n:
            self.n_secrets += n
            leaves.append(_Leaf(path, whole, 0, len(text)))
            return
        for index, part in enumerate(_LITERAL.split(text)):
            if index % 2:
                self._add_leaf((*path, index), (*key, index), part[1:-1], leaves)

    def _add_leaf(self, path: Path, key: Path, text: str, leaves: list[_Leaf]) -> None:
        """Add a text in a piece to the longer text that it is a part of."""
        self._n_chars += len(text)
        found = self._tracks.get(key)
        is_repeated = (
            bool(path)
            and len(text) >= MIN_REPEATED_CHARS
            and self._last.get(key) == text
            and (found is None or found.is_only(text))
        )
        self._last[key] = text
        if is_repeated or (path and path[-1] in _WHOLE):
            # Most pieces repeat such a text, so it is searched once.
            if text in self._harmless:
                return
            track = Track(self._redactor)
            track.add(text)
            n = track.search(is_over=True)
            if n == 0:
                self._harmless.add(text)
                return
            self.n_secrets += n
            leaves.append(_Leaf(path, track, 0, len(text)))
            return
        if found is None:
            found = self._tracks[key] = self._new_track(path, text)
        leaves.append(_Leaf(path, found, found.add(text), len(text)))

    def _new_track(self, path: Path, text: str) -> Track:
        """Return a track for texts of which this is the first."""
        if path or not self._has_events or not may_be_event(text):
            return Track(self._redactor)
        return EventTrack(self._redactor, StreamRedactor(self._redactor, has_events=False))

    def _search(self, *, is_over: bool) -> list[bytes]:
        """Search the texts; return the encoded pieces in which all secrets are found."""
        self._n_chars = 0
        self._n_pieces = 0
        for key, track in list(self._tracks.items()):
            # A text that did not grow is over: others, which come after it, must not wait for it.
            is_track_over = is_over or not track.has_grown
            self.n_secrets += track.search(is_over=is_track_over)
            if is_track_over:
                del self._tracks[key]
        done = []
        while self._held and all(
            leaf.start + leaf.size <= leaf.track.n_done for leaf in self._held[0].leaves
        ):
            done.append(_finished(self._held.popleft()))
        return done


def join_pieces(pieces: list[bytes]) -> bytes:
    """Return encoded pieces as the encoding of their list.

    >>> codec.decode(join_pieces([codec.encode("a"), codec.encode(1)]))
    ['a', 1]
    """
    return _LIST.pack(0xDD, len(pieces)) + b"".join(pieces)


# The head of a list in msgpack, with a count of 32 bits.
_LIST = struct.Struct(">BI")


def _finished(piece: _Piece) -> bytes:
    """Return the encoding of a piece without its secrets."""
    value = piece.value
    is_changed = False
    for path, track, start, size in piece.leaves:
        text = track.take(start, size)
        if text is not None:
            value = _with_text(value, path, text)
            is_changed = True
    return codec.encode(without_tokens(value), opaque=True) if is_changed else piece.data


def _with_text(value: Value, path: Path, text: str) -> Value:
    """Return a copy of a value with another text at a path."""
    if not path:
        if isinstance(value, Opaque):
            return Opaque(value.type_name, text)
        return as_bytes(text) if isinstance(value, bytes) else text
    key = path[0]
    if isinstance(value, Opaque):
        assert isinstance(key, int)
        parts = _LITERAL.split(value.text)
        parts[key] = f"{parts[key][0]}{text}{parts[key][-1]}"
        return Opaque(value.type_name, "".join(parts))
    if isinstance(value, Plain):
        fields = value.fields | {str(key): _with_text(value.fields[str(key)], path[1:], text)}
        return Plain(value.type_name, value.kind, fields)
    if isinstance(value, dict):
        return value | {key: _with_text(value[key], path[1:], text)}
    items = list(value)
    assert isinstance(key, int)
    items[key] = _with_text(items[key], path[1:], text)
    return type(value)(items)
