"""Writes the items of a recorder's blocks into the journal, and makes room for them there."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from trajrec.log.items import BlockStart, Entry, Item, Reset
from trajrec.log.journal import (
    EVENT,
    LAYOUT,
    MAX_HALF_BYTES,
    MAX_PIXEL_HALF_BYTES,
    ROW,
    Journal,
)
from trajrec.log.writer import LogWriter
from trajrec.recording.blocks import Block

# Chunks of fewer rows compress badly: a half that is full with fewer is made larger.
_ROWS_PER_HALF = 1024

# Before a half grows, the items so far are written as a chunk of their own: it grows seldom.
_GROWTH = 4

# Room of a half, in rows like the largest so far.
_LARGEST_ROWS = 4

_encode_start = msgspec.msgpack.Encoder().encode


class BlockSource(Protocol):
    """The buffer, as its journal sees it.

    Attributes:
        block: The block that is being filled.
        limit: The block ends with the item that has this number.
    """

    block: Block
    limit: int

    @property
    def has_pixels(self) -> bool:
        """Whether rows are changes of the rows before. Such a row cannot begin a half."""
        ...

    def begin_block(self) -> None:
        """Begin the next block."""
        ...

    def check_writer(self) -> bool:
        """Return whether the log can be written. If not, nothing more is recorded."""
        ...


class ItemJournal:
    """Writes the items of blocks into the journal, in order.

    Args:
        source: The buffer.
        writer: The log's writer, which has the journal.

    Attributes:
        position: The offset of the next record.
        row_end: A row that ends at most there may be written into `target` by the buffer itself.
        target: The journal's map, None if it has none.
    """

    def __init__(self, source: BlockSource, writer: LogWriter) -> None:
        self._source = source
        self._writer = writer
        self._journal: Journal = writer.journal
        self.position = self._journal.start
        self.row_end = 0
        self.target: Any = self._journal.target
        # Whether the half has the layout of the rows that come next.
        self._has_layout = False
        # The block whose start the half has, and the first item of the half.
        self._started: Block | None = None
        self._half_start = 0
        # Bytes of the largest item so far that needed this module.
        self._largest = 0

    def put(self, number: int, kind: int, content: bytes) -> bool:
        """Write an item, and return whether that was possible without further work."""
        if not self._has_layout:
            return False
        end = self._journal.put(self.position, number, kind, content)
        if end:
            self.position = end
        return end > 0

    def write_items(self, number: int) -> None:
        """Write the items from `number` on; those before it are in the journal.

        Raises:
            LogWriteError: There was no room, the log cannot be written, and `on_full` is "raise".
        """
        while True:
            block = self._source.block
            index = number - block.first_number
            if index == len(block.rows):
                self._set_row_end()
                return
            if self._write_item(block, index, number):
                number += 1
            elif not self._switch(number):
                self.write_through()
                return

    def write_through(self) -> None:
        """Write all items into the log in this thread, and begin a block and the journal anew.

        Raises:
            LogWriteError: The log cannot be written, and `on_full` is "raise".
        """
        source = self._source
        self._writer.flush()
        if not source.check_writer():
            return
        source.begin_block()
        number = source.block.first_number
        half_bytes = self._journal.half_bytes
        if self._can_grow(number):
            grown = max(_GROWTH * half_bytes, _LARGEST_ROWS * self._largest)
            half_bytes = min(self._max_half_bytes, grown)
        self._started = None
        self.position = self._writer.restart_journal(number, half_bytes)
        self.target = self._journal.target
        self._half_start = number

    def layout_changed(self) -> None:
        """Write the layout again before the next row."""
        self.row_end = 0
        self._has_layout = False

    def end_block(self) -> None:
        """Begin the other half if the next block would not fit into this one.

        Raises:
            LogWriteError: As for `write_items`.
        """
        if 2 * self._used_bytes > self._journal.half_bytes:
            number = self._source.block.first_number
            if self._can_grow(number):
                self.write_through()
            else:
                self._switch(number)

    @property
    def _used_bytes(self) -> int:
        return self.position - self._journal.start

    def _set_row_end(self) -> None:
        """Let the buffer write rows itself, up to the end of the half or to most of it."""
        journal = self._journal
        end = journal.end
        if self._source.has_pixels:
            # The next block begins in the other half, with a whole row: before this one is full.
            end = journal.start + journal.half_bytes * 3 // 4
            if self.position > end:
                self._source.limit = 0
        self.row_end = end if self._has_layout and self.target is not None else 0

    def _write_item(self, block: Block, index: int, number: int) -> bool:
        """Write an item, and return whether there was room."""
        # An event needs no layout, but the position of the block.
        if not self._write_start(block, index, number):
            return False
        kind, content = encode_item(block.rows[index])
        self._largest = max(self._largest, len(content))
        return self.put(number, kind, content)

    def _write_start(self, block: Block, index: int, number: int) -> bool:
        """Write the layout of the rows if it is missing, and return whether there was room."""
        if self._has_layout:
            return True
        position = None
        if self._started is not block:
            position = block.position_at(index)
        content = _encode_start(BlockStart(position, block.layout))
        end = self._journal.put(self.position, number, LAYOUT, content)
        if end:
            self.position = end
            self._started = block
            self._has_layout = True
        return end > 0

    def _can_grow(self, number: int) -> bool:
        is_short = number - self._half_start < _ROWS_PER_HALF
        return is_short and self._journal.half_bytes < self._max_half_bytes

    @property
    def _max_half_bytes(self) -> int:
        if not self._source.has_pixels:
            return MAX_HALF_BYTES
        return max(MAX_HALF_BYTES, min(MAX_PIXEL_HALF_BYTES, _LARGEST_ROWS * self._largest))

    def _switch(self, number: int) -> bool:
        """Begin the other half, and return whether that was possible."""
        source = self._source
        is_inside_block = number > source.block.first_number
        if (
            (source.has_pixels and is_inside_block)
            # The half has no item yet: the other half has no room for this item either.
            or number == self._half_start
            or self._can_grow(number)
            or not self._journal.can_switch(self._writer.last_written)
        ):
            return False
        self.layout_changed()
        self._started = None
        self.position = self._journal.switch(number)
        self._half_start = number
        if is_inside_block:
            # The half has the rest of this block as a block of its own.
            source.limit = 0
        return True


def encode_item(item: Item) -> tuple[int, bytes]:
    """Return the kind and the content of an item's record."""
    if isinstance(item, Entry):
        return EVENT, item.raw
    return ROW, item.row if isinstance(item, Reset) else item
