"""Items: the rows of steps and the events that a recorder appends, before they become chunks.

A recorder keeps its items in one list, so that one `append` adds a whole step: no exception can
leave half of it. A row is kept as the bytes that the journal has too. Tuples would cost 0.3 us a
step more, for the garbage collector.

The number of an item is its position among all items of its log. The journal and the chunks count
by it.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np

from trajrec.log.schema import EpisodeEnd, EpisodeStart, Event, Failure
from trajrec.types import Value
from trajrec.values import codec

ACTION = 0
OBS = 1
REWARD = 2
STATE = 3
INFO = 4
WHOLE_STATE = 5
"""The fields of a row by position.

STATE is the state's digest, a check or a key, if states are digested. The last two are missing in most rows: a row
without an info has four items. A field with one leaf is the leaf's value, a field with several
leaves a tuple of their values, and a field that the log does not have is None.
"""

ROW_FIELDS = ("action", "obs", "reward", "state", "info", "state")
"""Position in a row -> name of the field in a chunk."""

# Numbers of the extensions in encoded rows.
ODD = 1
IRREGULAR = 2

LeafKind = Literal["scalar", "array", "pixels", "value"]


class Leaf(msgspec.Struct, frozen=True, array_like=True):
    """One column of a field.

    Attributes:
        path: The path of the leaf in the step, e.g. "obs/position".
        kind: The form of a row. "scalar": a plain value, or an `ODD` extension with an encoded
            value of another type than most. "array": the bytes of an array. "pixels": a whole row
            or a change (`trajrec.log.pixel_changes`). "value": an encoded value.
        dtype: The dtype of arrays, and of scalars that are NumPy's.
        shape: The shape of arrays.
    """

    path: str
    kind: LeafKind
    dtype: str = ""
    shape: tuple[int, ...] = ()


class FieldLayout(msgspec.Struct, frozen=True, array_like=True):
    """The columns of a field.

    Attributes:
        layout: How the leaves make up a value; `trajrec.log.schema.Chunk` describes it.
        leaves: The leaves, in the order of the layout.
    """

    layout: list[Any]
    leaves: list[Leaf]

    @property
    def is_single(self) -> bool:
        """Whether the field is its only leaf, and not a dict or tuple of leaves."""
        return bool(self.layout[0] == "leaf")


class RowLayout(msgspec.Struct, frozen=True, array_like=True):
    """The fields of the rows of a block.

    Attributes:
        fields: The fields by name.
        digest_bytes: The bytes of each state's digest, 0 if states are not digested.
    """

    fields: dict[str, FieldLayout]
    digest_bytes: Literal[0, 3, 8] = 0


MAX_COLUMN_BYTES = 1 << 27
"""Bytes of a column before compression: half of what readers accept (`frames.MAX_PART`)."""


def max_rows(layout: RowLayout) -> int:
    """Return how many rows a chunk may have, so that each column can be read back.

    Rows of pictures are stored as small changes, and count here as the whole pictures they become.
    """
    sizes = [
        math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
        for field in layout.fields.values()
        for leaf in field.leaves
        if leaf.kind in ("array", "pixels")
    ]
    return max(1, MAX_COLUMN_BYTES // max([1, *sizes]))


class Reset(msgspec.Struct, frozen=True):
    """The first observation and state of an episode, or of a fork's steps.

    Attributes:
        row: The encoded row: as the row of a step, with the fields of this record behind it.
        episode: The episode.
        first_step: The number of its next step.
    """

    row: bytes
    episode: int
    first_step: int


class Entry(msgspec.Struct, frozen=True):
    """An event, and its bytes in the log."""

    event: Event
    raw: bytes


Row: TypeAlias = Sequence[Any]
Item: TypeAlias = bytes | Reset | Entry


class Position(NamedTuple):
    """The position of an item in its episode.

    Attributes:
        episode: The episode, -1 before the first.
        step: The number of the next step.
        is_open: Whether the episode has begun and not ended.
    """

    episode: int = -1
    step: int = 0
    is_open: bool = False


class BlockStart(msgspec.Struct, frozen=True, array_like=True):
    """The record before the rows of a block in the journal, and wherever their layout changes.

    Attributes:
        position: The position before the block's first item, None if the block goes on.
        layout: The layout of the rows from here on.
    """

    position: Position | None
    layout: RowLayout


def is_failed_step(item: Item) -> bool:
    """Return whether an item is the failure of a step, which has no row."""
    if not isinstance(item, Entry):
        return False
    return isinstance(item.event, Failure) and item.event.phase == "step"


class Items:
    """The items of a block, which are only appended.

    Attributes:
        all: The items.
        marks: The positions of the items that are no rows of steps, ascending. A position is added
            before its item. If an exception comes in between, it may be that of a row.
    """

    def __init__(self) -> None:
        self.all: list[Item] = []
        self.marks: list[int] = []

    def append_other(self, item: Reset | Entry) -> None:
        """Append an item that is no row of a step."""
        position = len(self.all)
        if not self.marks or self.marks[-1] < position:
            self.marks.append(position)
        self.all.append(item)

    def append_others(self, others: Sequence[Reset | Entry]) -> None:
        """Append items that are no rows of steps: all of them, or none if an exception comes."""
        start = len(self.all)
        first = max(start, self.marks[-1] + 1) if self.marks else start
        self.marks.extend(range(first, start + len(others)))
        self.all.extend(others)

    def others(self, start: int, stop: int) -> list[tuple[int, Reset | Entry]]:
        """Return the items in [start, stop) that are no rows of steps, with their positions."""
        marks = self.marks
        if not marks or marks[-1] < start:
            return []
        if start or marks[-1] >= stop:
            marks = marks[bisect_left(marks, start) : bisect_left(marks, stop)]
        others = []
        for position in marks:
            item = self.all[position]
            if not isinstance(item, bytes):
                others.append((position, item))
        return others

    def advance(self, position: Position, start: int, stop: int) -> Position:
        """Return the position after items [start, stop), given that before them."""
        episode, step, is_open = position
        previous = start
        for index, item in self.others(start, stop):
            step += index - previous
            previous = index + 1
            if isinstance(item, Reset):
                episode = item.episode
                step = item.first_step
            elif isinstance(item.event, EpisodeStart):
                episode = item.event.episode
                step = 0
                is_open = True
            elif isinstance(item.event, EpisodeEnd):
                is_open = False
            elif is_failed_step(item):
                step += 1
        return Position(episode, step + stop - previous, is_open)


def _hook(value: Any) -> Any:
    # Only changes of pixels have arrays, and theirs are contiguous.
    if type(value) is np.ndarray:
        return value.data
    raise TypeError(f"a row cannot have a {type(value).__name__}")


encode = msgspec.msgpack.Encoder(enc_hook=_hook).encode
"""Encodes a row whose values all are msgpack's; `encode_row` encodes any."""

_decode = msgspec.msgpack.Decoder().decode

_LARGE_ROW_BYTES = 1 << 14
"""Rows of this size are decoded one by one."""

# The head of an array in msgpack: the code for 32 bits, and the number of its items.
_ARRAY = struct.Struct(">BI")


def encode_row(row: Row) -> bytes:
    """Return a row as msgpack, with integers beyond 64 bits and lone surrogates as extensions."""
    try:
        return encode(row)
    except (OverflowError, UnicodeEncodeError):
        return encode(_with_extensions(row))


def _with_extensions(value: Any) -> Any:
    """Return a row in which plain values that msgpack does not have are extensions."""
    if isinstance(value, tuple):
        return tuple(map(_with_extensions, value))
    try:
        encode(value)
    except (OverflowError, UnicodeEncodeError):
        return msgspec.msgpack.Ext(ODD, codec.encode(value))
    return value


def make_reset(row: Row, episode: int, first_step: int) -> Reset:
    """Return the first observation and state of an episode, a row of six fields, as an item."""
    return Reset(encode_row((*row, episode, first_step)), episode, first_step)


def decode_item(data: bytes) -> bytes | Reset:
    """Return the row of a step or of a reset as an item.

    Raises:
        ValueError: The bytes are no row.
    """
    row = _decode(data)
    if not isinstance(row, list) or len(row) not in (4, 6, 8):
        raise ValueError("not a row of a step")
    return Reset(data, int(row[6]), int(row[7])) if len(row) == 8 else data


def decode_rows(rows: Sequence[bytes]) -> list[list[Any]]:
    """Return encoded rows as lists of their fields."""
    if rows and len(rows[0]) > _LARGE_ROW_BYTES:
        # Joining them would take longer.
        return list(map(_decode, rows))
    # One array of all rows, as msgpack has it: one call is faster than one for each row.
    decoded: list[list[Any]] = _decode(b"".join((_ARRAY.pack(0xDD, len(rows)), *rows)))
    return decoded


def is_irregular(info: Any) -> bool:
    """Return whether an info's part of a row is the encoded info, which does not fit its layout."""
    return type(info) is msgspec.msgpack.Ext and info.code == IRREGULAR


def as_scalars(rows: Sequence[Value], dtype: str) -> list[Value]:
    """Return the values of a leaf of scalars with their types, if some are extensions."""
    scalar_type = np.dtype(dtype).type if dtype else None
    values = []
    for row in rows:
        if type(row) is msgspec.msgpack.Ext:
            values.append(codec.decode(bytes(row.data)))
        else:
            values.append(row if scalar_type is None else scalar_type(row))
    return values


def encoded_field(field: FieldLayout, part: Any) -> bytes:
    """Return a field's part of a row as the encoded value. No leaf of the field may be of pixels."""
    if field.is_single and field.leaves[0].kind == "value":
        return bytes(part)
    parts = iter([part] if field.is_single else part)
    return codec.encode(_value(field.layout, iter(field.leaves), parts))


def _value(layout: list[Any], leaves: Iterator[Leaf], parts: Iterator[Any]) -> Value:
    kind = layout[0]
    if kind == "dict":
        return {key: _value(item, leaves, parts) for key, item in zip(*layout[1:], strict=True)}
    if kind == "tuple":
        return tuple([_value(item, leaves, parts) for item in layout[1]])
    leaf = next(leaves)
    part = next(parts)
    if leaf.kind == "value":
        return codec.decode(part)
    if leaf.kind == "array":
        return np.frombuffer(part, leaf.dtype).reshape(leaf.shape)
    return as_scalars([part], leaf.dtype)[0]
