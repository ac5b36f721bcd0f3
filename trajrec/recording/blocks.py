"""Blocks: the recorder's buffers, each with consecutive items.

A block holds one list of items. The recorder appends to it, and another thread packs its first
items without a lock: items never change, and a step is one item. When a block is full, the recorder
begins the next one.
"""

from __future__ import annotations

from trajrec.log.columns import Packer
from trajrec.log.items import Items, Position, RowLayout
from trajrec.log.packing import Drained, ItemPacker

BLOCK_ROWS = 1536
"""A block is full with so many items: small enough to bound memory, large enough to compress well.
Blocks of 8192 rows would take 3 % fewer bytes for CartPole (14.5 instead of 14.9 a step) and twice
the memory: waiting rows are most of the memory that recording takes."""


class Block:
    """Consecutive items. Filled in the recording thread, packed in any.

    Args:
        first_number: The number of its first item.
        position: The position before it.
        layout: The layout of its rows.

    Attributes:
        first_number: The number of its first item.
        items: Its items.
        rows: The list of its items, to which rows are appended.
        layout: The layout of its rows. Fields may be added to it.
    """

    def __init__(self, first_number: int, position: Position, layout: RowLayout) -> None:
        self.first_number = first_number
        self.items = Items()
        self.rows = self.items.all
        self.layout = layout
        self._position = position
        self._packer = ItemPacker(first_number, position)
        # The position after so many items: counting goes on from there.
        self._counted: tuple[int, Position] = (0, position)

    @property
    def next_number(self) -> int:
        """The number after the block's last item."""
        return self.first_number + len(self.rows)

    def position(self) -> Position:
        """Return the position after the last item. Only the recording thread may call."""
        n_counted, position = self._counted
        n_items = len(self.rows)
        if n_items > n_counted:
            position = self.items.advance(position, n_counted, n_items)
            self._counted = (n_items, position)
        return position

    def position_at(self, index: int) -> Position:
        """Return the position before an item."""
        return self.items.advance(self._position, 0, index)

    def drain(
        self, packer: Packer, last_written: int, time_ns: int, max_items: int
    ) -> Drained | None:
        """Return the first items after `last_written` as a chunk, or None if there are none."""
        start = max(0, last_written + 1 - self.first_number)
        stop = min(len(self.rows), start + max_items)
        if start >= stop:
            return None
        return self._packer.pack(
            self.items, self.layout, start=start, stop=stop, packer=packer, time_ns=time_ns
        )
