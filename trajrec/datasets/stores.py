"""Columns of many rows, in memory or in files, from which rows are gathered."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from trajrec.datasets.leaves import WHOLE, Leaf
from trajrec.datasets.spares import Spares
from trajrec.log.pixels import PixelStacks
from trajrec.types import Array, IntArray

WriterFactory = Callable[[str], "ColumnWriter"]
"""Makes the writer of the column of a name."""


class ColumnWriter(Protocol):
    """Takes the rows of a column, part by part."""

    def append(self, rows: Array) -> None:
        """Add rows, an array (n, *shape) of the column's dtype."""
        ...

    def finish(self, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Array:
        """Return all rows, an array (N, *shape)."""
        ...


class MemoryWriter:
    """Keeps a column in memory."""

    def __init__(self, name: str) -> None:
        self._parts: list[Array] = []

    def append(self, rows: Array) -> None:
        """Add rows; they are not copied."""
        self._parts.append(rows)

    def finish(self, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Array:
        """Return all rows, an array (N, *shape)."""
        parts = self._parts
        self._parts = []
        # With the dtype, or the byte order would become the machine's.
        return np.concatenate(parts, dtype=dtype) if parts else np.zeros((0, *shape), dtype)


class FileWriter:
    """Writes a column into a file, which `map_column` reads.

    Attributes:
        n_rows: The rows that were written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self.n_rows = 0

    def append(self, rows: Array) -> None:
        """Write rows."""
        # As bytes: dates are no buffer.
        self._file.write(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
        self.n_rows += len(rows)

    def finish(self, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Array:
        """Return all rows, mapped from the file."""
        self._file.close()
        return map_column(self._path, dtype, shape, n_rows=self.n_rows)


def map_column(
    path: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...], *, n_rows: int
) -> Array:
    """Return the rows of a file, an array (N, *shape) that cannot be written.

    Raises:
        ValueError: The file has another size.
    """
    # In Python's integers: a damaged number of rows might be enormous.
    n_bytes = n_rows * dtype.itemsize * math.prod(shape)
    size = path.stat().st_size
    if size != n_bytes:
        raise ValueError(f"{path.name} has {size} bytes of {n_bytes}")
    if not n_bytes:
        return np.zeros((n_rows, *shape), dtype)
    return np.memmap(path, dtype, "r", shape=(n_rows, *shape))


class Store(Protocol):
    """The rows of a column of observations."""

    def take(self, rows: IntArray) -> Array:
        """Return some rows, an array (n, *shape)."""
        ...

    def take_pair(self, before: IntArray, after: IntArray) -> tuple[Array, Array]:
        """Return two rows for each transition."""
        ...


class RowStore:
    """Rows as they are.

    Args:
        rows: The rows, (N, *shape).
    """

    def __init__(self, rows: Array) -> None:
        # A plain array: each index into a memmap makes an object of its class.
        self._rows = np.asarray(rows)
        self._spares = Spares()

    def take(self, rows: IntArray) -> Array:
        """Return some rows, an array (n, *shape)."""
        return self._spares.take(self._rows, rows)

    def take_pair(self, before: IntArray, after: IntArray) -> tuple[Array, Array]:
        """Return two rows for each transition."""
        return self.take(before), self.take(after)


class FrameStore:
    """Rows that are stacks of the last few frames, kept as frames.

    Args:
        frames: The frames, (F, *frame shape).
        ends: For each row, the number of the frame behind its last one, (N,) int64.
        size: The frames of a stack.
        axis: The axis of a row along which its frames lie.
    """

    def __init__(self, frames: Array, ends: IntArray, *, size: int, axis: int) -> None:
        self._frames = np.asarray(frames)
        self._ends = np.asarray(ends)
        self._axis = axis
        self._offsets = np.arange(-size, 0)
        self._spares = Spares()

    def take(self, rows: IntArray) -> Array:
        """Return some rows, an array (n, *shape)."""
        stacks = self._spares.take(self._frames, self._ends[rows][:, None] + self._offsets)
        return np.moveaxis(stacks, 1, self._axis + 1)

    def take_pair(self, before: IntArray, after: IntArray) -> tuple[Array, Array]:
        """Return two rows for each transition: views of one array, which cannot be written."""
        ends = self._ends[before]
        if not (self._ends[after] == ends + 1).all():
            # A reset without an episode's end, or frames that were skipped.
            return self.take(before), self.take(after)
        window = np.append(self._offsets, 0)
        frames = self._spares.take(self._frames, ends[:, None] + window)
        # A change of one would change the other.
        frames.flags.writeable = False
        pair = (frames[:, :-1], frames[:, 1:])
        first, second = (np.moveaxis(stacks, 1, self._axis + 1) for stacks in pair)
        return first, second


class StoreWriter:
    """Takes the rows of a column of observations, part by part.

    Args:
        leaf: The column.
        new_writer: Makes the writers of its parts.

    Attributes:
        takes_stacks: Whether the rows are kept as frames.
    """

    def __init__(self, leaf: Leaf, new_writer: WriterFactory) -> None:
        self._leaf = leaf
        self._rows = new_writer(leaf.name)
        self.takes_stacks = is_framed(leaf)
        self._ends = new_writer(f"{leaf.name}/ends") if self.takes_stacks else None
        self._n_frames = 0
        self._last_frames = np.zeros(0)

    def append(self, rows: Array) -> None:
        """Add rows, an array (n, *shape) of the leaf's dtype."""
        if self._ends is None:
            self._rows.append(rows)
            return
        axis = self._leaf.axis or 0
        self._append_frames(*split_stacks(rows, axis, self._leaf.shape[axis]))

    def append_stacks(self, stacks: PixelStacks) -> None:
        """Add rows that are stored as stacks of frames; for `takes_stacks` alone."""
        self._append_frames(stacks.frames(), stacks.ends)

    def _append_frames(self, frames: Array, ends: IntArray) -> None:
        assert self._ends is not None
        size = self._leaf.shape[self._leaf.axis or 0]
        n_shared = 0
        if len(self._last_frames) and np.array_equal(frames[: size - 1], self._last_frames[1:]):
            # The first row of each chunk brings all its frames, though it goes on from the last
            # one: a transition from one chunk to the next is then a window of frames too.
            n_shared = size - 1
        self._last_frames = frames[-size:]
        self._rows.append(frames[n_shared:])
        self._ends.append(ends + (self._n_frames - n_shared))
        self._n_frames += len(frames) - n_shared

    def finish(self) -> Store:
        """Return the rows."""
        leaf = self._leaf
        if self._ends is None:
            return RowStore(self._rows.finish(leaf.dtype, leaf.shape))
        axis = leaf.axis or 0
        return make_frame_store(
            leaf,
            self._rows.finish(leaf.dtype, leaf.shape[:axis] + leaf.shape[axis + 1 :]),
            self._ends.finish(np.dtype(np.int64), ()),
        )


def make_frame_store(leaf: Leaf, frames: Array, ends: IntArray) -> FrameStore:
    """Return the store of a leaf whose rows are kept as frames."""
    axis = leaf.axis or 0
    return FrameStore(frames, ends, size=leaf.shape[axis], axis=axis)


def is_framed(leaf: Leaf) -> bool:
    """Return whether the rows of a leaf are kept as frames."""
    return leaf.axis is not None and leaf.axis != WHOLE


def split_stacks(stacks: Array, axis: int, size: int) -> tuple[Array, IntArray]:
    """Return the frames of stacks, and for each stack the number behind its last frame.

    A stack that goes on from the one before it brings one frame, each other one brings all.
    """
    moved = np.moveaxis(stacks, axis + 1, 1)
    n = len(moved)
    goes_on = np.zeros(n, np.bool_)
    if n > 1:
        older = moved[:-1, 1:].reshape(n - 1, -1)
        goes_on[1:] = (older == moved[1:, :-1].reshape(n - 1, -1)).all(axis=1)
    n_new = np.where(goes_on, 1, size)
    ends = np.cumsum(n_new)
    frames = np.empty((int(ends[-1]) if n else 0, *moved.shape[2:]), stacks.dtype)
    for offset in range(1, size + 1):
        # Later rows write the same frames again.
        frames[ends - offset] = moved[:, size - offset]
    return frames, ends
