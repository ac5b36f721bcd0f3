"""Packs items into a chunk: the rows of steps by column, and the events among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np

from trajrec.log.columns import PackedColumn, Packer
from trajrec.log.directory import Returns, segment_returns
from trajrec.log.items import (
    ACTION,
    INFO,
    OBS,
    REWARD,
    ROW_FIELDS,
    STATE,
    WHOLE_STATE,
    Entry,
    FieldLayout,
    Items,
    Leaf,
    Position,
    Reset,
    RowLayout,
    as_scalars,
    decode_rows,
    is_failed_step,
    is_irregular,
)
from trajrec.log.pixel_changes import PixelItem, PixelPacker, decode_change
from trajrec.log.row_table import LeafValues, RowTable, as_list
from trajrec.log.schema import Chunk, Column, Segment
from trajrec.types import IntArray, Value
from trajrec.values import codec
from trajrec.values.digest import pack_digests

# The digests of states in a row are one leaf.
_DIGEST = FieldLayout(["leaf", 0], [Leaf("state_digest", "scalar")])


class Drained(NamedTuple):
    """Items as a chunk.

    Attributes:
        chunk: The chunk's record. Its events are objects.
        data: The bytes of each of its columns.
        returns: The returns of its rows.
        raw_events: The encoded events of the chunk.
    """

    chunk: Chunk
    data: list[bytes]
    returns: Returns
    raw_events: list[bytes]

    @property
    def last_item(self) -> int:
        """The number of the last item in the chunk."""
        return self.chunk.journal


class ItemPacker:
    """Packs the items of one block, a part after the other.

    Args:
        first_number: The number of the block's first item.
        position: The position before it.
    """

    def __init__(self, first_number: int, position: Position) -> None:
        self.first_number = first_number
        self.position = position
        self._pixels: dict[str, PixelPacker] = {}

    def pack(
        self,
        items: Items,
        layout: RowLayout,
        *,
        start: int,
        stop: int,
        packer: Packer,
        time_ns: int,
    ) -> Drained:
        """Return items [start, stop) of the block as a chunk.

        Args:
            items: The items of the block.
            layout: The layout of their rows.
            start: The first item of the chunk. Large rows are changes of the rows before it.
            stop: The end of its items.
            packer: Compresses columns.
            time_ns: The time of the chunk.
        """
        part = _Part(items, start, stop)
        segments = _segments(part, items.advance(self.position, 0, start))
        columns = _Columns(packer, self._pixels)
        if part.rows.n:
            columns.add_rows(part, layout)
        chunk = Chunk(
            time_ns=time_ns,
            segments=segments,
            columns=columns.columns,
            layouts=columns.layouts,
            events=[entry.event for entry in part.entries],
            irregular=_irregular(part, segments),
            journal=self.first_number + stop - 1,
        )
        returns = _returns(part, segments, layout)
        return Drained(chunk, columns.data, returns, [entry.raw for entry in part.entries])


class _Part:
    """The items of a chunk.

    Attributes:
        items: The items of the block.
        start: The first one of the chunk.
        stop: The end of its items.
        others: The items that are no rows of steps, with their positions in the block.
        entries: The events.
        rows: The rows of steps and resets.
        of_rows: The positions of all rows.
        of_steps: The positions of the rows of steps.
    """

    def __init__(self, items: Items, start: int, stop: int) -> None:
        self.items = items
        self.start = start
        self.stop = stop
        self.others = items.others(start, stop)
        self.entries = [item for _, item in self.others if isinstance(item, Entry)]
        encoded, resets = rows_between(items, start, stop)
        self.rows = RowTable(encoded)
        self.of_rows = np.arange(len(encoded))
        self.of_steps = np.delete(self.of_rows, resets) if resets else self.of_rows


def rows_between(items: Items, start: int, stop: int) -> tuple[list[bytes], list[int]]:
    """Return the encoded rows among some items, and the positions of resets among these rows."""
    rows: list[bytes] = []
    resets: list[int] = []
    previous = start
    for position, item in items.others(start, stop):
        # Items between two others are rows of steps.
        rows += cast(list[bytes], items.all[previous:position])
        previous = position + 1
        if isinstance(item, Reset):
            resets.append(len(rows))
            rows.append(item.row)
    rows += cast(list[bytes], items.all[previous:stop])
    return rows, resets


def _segments(part: _Part, position: Position) -> list[Segment]:
    """Return the steps of a chunk, cut at resets and at steps that failed."""
    segments = []
    episode = position.episode
    step = position.step
    n_steps = 0
    has_reset = False
    previous = part.start
    for index, item in [*part.others, (part.stop, None)]:
        n_steps += index - previous
        previous = index + 1
        is_failed = item is not None and is_failed_step(item)
        if item is not None and not isinstance(item, Reset) and not is_failed:
            continue
        if n_steps or has_reset:
            segments.append(Segment(episode, step, n_steps, has_reset))
        step += n_steps + is_failed
        n_steps = 0
        has_reset = False
        if isinstance(item, Reset):
            has_reset = True
            episode = item.episode
            step = item.first_step
    return segments


def _returns(part: _Part, segments: Sequence[Segment], layout: RowLayout) -> Returns:
    """Return the returns of the segments of a chunk."""
    field = layout.fields.get(ROW_FIELDS[REWARD])
    if field is None or not field.is_single or not len(part.of_steps):
        return segment_returns(segments, None)
    leaf = field.leaves[0]
    (values,) = part.rows.leaves(REWARD, field, part.of_steps)
    rewards: list[Value]
    if leaf.kind == "array":
        dtype = np.dtype(leaf.dtype)
        rewards = [np.frombuffer(row, dtype).reshape(leaf.shape) for row in as_list(values)]
    elif leaf.kind == "value":
        rewards = [codec.decode(row) for row in as_list(values)]
    elif isinstance(values, list):
        rewards = as_scalars(values, leaf.dtype)
    else:
        # A NumPy number has the same value as the Python number in its row.
        rewards = as_list(values)
    return segment_returns(segments, rewards)


def _irregular(part: _Part, segments: Sequence[Segment]) -> list[tuple[int, int, bytes]]:
    """Return the infos that do not fit their layout, as (episode, step, encoded info)."""
    irregular = []
    for position, row in part.rows.others.items():
        if len(row) <= INFO or not is_irregular(row[INFO]):
            continue
        number = int(np.searchsorted(part.of_steps, position))
        for segment in segments:
            if number < segment.n_steps:
                step = segment.first_step + number
                irregular.append((segment.episode, step, bytes(row[INFO].data)))
                break
            number -= segment.n_steps
    return irregular


class _Columns:
    """The columns of a chunk that is being made.

    Args:
        packer: Compresses columns.
        pixels: The packers of large rows, by leaf.
    """

    def __init__(self, packer: Packer, pixels: dict[str, PixelPacker]) -> None:
        self.columns: list[Column] = []
        self.data: list[bytes] = []
        self.layouts: dict[str, Any] = {}
        self._packer = packer
        self._pixels = pixels

    def add_rows(self, part: _Part, layout: RowLayout) -> None:
        """Add the columns of all fields."""
        fields = layout.fields
        if "obs" in fields:
            self._add_field(OBS, fields["obs"], part, part.of_rows)
        if "state" in fields and not layout.digest_bytes:
            self._add_field(STATE, fields["state"], part, part.of_rows)
        if len(part.of_steps):
            self._add_field(ACTION, fields["action"], part, part.of_steps)
            self._add_field(REWARD, fields["reward"], part, part.of_steps)
            self._add_some(INFO, layout, part, part.of_steps)
        if layout.digest_bytes:
            (digests,) = part.rows.leaves(STATE, _DIGEST, part.of_rows)
            self._add(
                self._packer.pack_unfiltered(
                    "state_digest", pack_digests(digests, layout.digest_bytes)
                )
            )
            self._add_some(WHOLE_STATE, layout, part, part.of_rows)

    def _add_some(self, field: int, layout: RowLayout, part: _Part, positions: IntArray) -> None:
        """Add the columns of a field that only some rows have, of those at some positions."""
        fitted = layout.fields.get(ROW_FIELDS[field])
        if fitted is None:
            return
        chosen = part.rows.positions_with(field)
        if len(chosen):
            rows_data = None
            if len(chosen) < len(positions):
                rows_data = _encode_rows(np.searchsorted(positions, chosen))
            self._add_field(field, fitted, part, chosen, rows_data)

    def _add_field(
        self,
        field: int,
        layout: FieldLayout,
        part: _Part,
        positions: IntArray,
        rows_data: bytes | None = None,
    ) -> None:
        """Add the columns of a field.

        Args:
            field: Its position in a row.
            layout: Its layout.
            part: The chunk.
            positions: The positions of the rows.
            rows_data: The numbers of the rows that have a value, None if each has one.
        """
        self.layouts[ROW_FIELDS[field]] = _shifted(layout.layout, len(self.columns))
        for index, values in enumerate(part.rows.leaves(field, layout, positions)):
            leaf = layout.leaves[index]
            if leaf.kind == "pixels":
                leaf_index = None if layout.is_single else index
                self._add(self._pack_pixels(leaf, leaf_index, as_list(values), part))
                continue
            column, data = _pack_leaf(leaf, values, self._packer)
            if rows_data is not None:
                column = msgspec.structs.replace(column, rows_data=rows_data)
            self._add((column, data))

    def _pack_pixels(
        self, leaf: Leaf, index: int | None, values: Sequence[Value], part: _Part
    ) -> PackedColumn:
        """Pack a leaf of observations whose rows are changes of the rows before."""
        dtype = np.dtype(leaf.dtype)
        pixels = self._pixels.get(leaf.path)
        if pixels is None:
            pixels = self._pixels[leaf.path] = PixelPacker(dtype, leaf.shape)

        def items_before() -> list[PixelItem]:
            rows = decode_rows(rows_between(part.items, 0, part.start)[0])
            earlier = [row[OBS] if index is None else row[OBS][index] for row in rows]
            return [decode_change(value, dtype, leaf.shape) for value in earlier]

        others = part.items.others(0, part.start)
        n_before = part.start - sum(isinstance(item, Entry) for _, item in others)
        changes = [decode_change(value, dtype, leaf.shape) for value in values]
        return self._packer.pack_pixels(leaf.path, pixels, changes, n_before, items_before)

    def _add(self, packed: PackedColumn) -> None:
        self.columns.append(packed[0])
        self.data.append(packed[1])


def _pack_leaf(leaf: Leaf, values: LeafValues, packer: Packer) -> PackedColumn:
    if leaf.kind == "array":
        dtype = np.dtype(leaf.dtype)
        if isinstance(values, list):
            return packer.pack_arrays(leaf.path, values, dtype=dtype, shape=leaf.shape)
        return packer.pack_table(leaf.path, values, dtype=dtype, shape=leaf.shape)
    if leaf.kind == "value":
        return packer.pack_values(leaf.path, as_list(values))
    if isinstance(values, list):
        if msgspec.msgpack.Ext in set(map(type, values)):
            return packer.pack_scalars(leaf.path, as_scalars(values, leaf.dtype))
        if not leaf.dtype:
            return packer.pack_scalars(leaf.path, values)
        return packer.pack_numbers(leaf.path, np.array(values, leaf.dtype))
    if leaf.dtype:
        return packer.pack_numbers(leaf.path, values.astype(leaf.dtype))
    if values.ndim == 1 and values.dtype != np.uint64:
        return packer.pack_numbers(leaf.path, values, int if values.dtype == np.int64 else float)
    return packer.pack_scalars(leaf.path, as_list(values))


def _encode_rows(rows: IntArray) -> bytes:
    # Differences: mostly equal small numbers, so they compress well.
    return codec.encode(np.diff(rows.astype(np.uint32), prepend=np.uint32(0)))


def _shifted(layout: list[Any], by: int) -> list[Any]:
    """Return a layout whose columns are counted from `by`."""
    if layout[0] == "leaf":
        return ["leaf", layout[1] + by]
    if layout[0] == "dict":
        return ["dict", layout[1], [_shifted(item, by) for item in layout[2]]]
    return ["tuple", [_shifted(item, by) for item in layout[1]]]
