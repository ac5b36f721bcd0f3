"""Large rows, such as frames of pixels and big arrays, stored as changes.

Of each row only the words that differ from the row before are kept, and they are found while the
row is in the processor's cache: pixels that stand still cost neither bytes nor memory. Rows that
are stacks of the last few frames (in 84x84x4, three quarters of a row stand in the row before) are
kept as frames. A frame of Breakout takes 9 us and a stack 13 us. Copies that wait for a background
thread took 67 us, and 17 to 86 us, most of it for page faults.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from trajrec.types import Array, IntArray

# Filters: each row is a frame, or a stack of the last frames along an axis.
FRAMES = 1
STACKS = 3

# A longer axis is taken for a height or a width, along which no stack needs to be looked for.
STACK_SIZES = range(2, 17)

# The memory of a change besides its numbers: two NumPy arrays and a tuple.
CHANGE_BYTES = 400

# The positions of the words that differ from the frame before, and the new words.
Change: TypeAlias = tuple[IntArray, Array]

# Words of one byte: the words of all changes are joined, and the join is as wide as its widest
# part. Empty words as wide as a row would widen those of a stack's frames, which may be narrower.
_NO_CHANGE: Change = (np.zeros(0, np.int64), np.zeros(0, np.uint8))


class PixelRows:
    """The rows of a column, kept as changes.

    One thread adds rows. Another may pack them meanwhile, if they are complete.

    Attributes:
        dtype: The dtype of the rows.
        shape: The shape of a row.
        add: Adds a row, an array of the column's dtype and shape. The array is not kept.
        n_bytes: About the memory of the changes.
    """

    # Replaced by another method once the form of the rows is known: the hot path has no branches.
    add: Callable[[Array], None]

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.n_bytes = 0
        self.add = self._add_first
        self.dtype = dtype
        self.shape = shape
        self._word = _word_type(dtype.itemsize * math.prod(shape))
        self._first = b""
        self._changes: list[Change] = []
        # The last row that was added, in words.
        self._before: Array
        # The frames of the last row that was packed.
        self._packed: Sequence[Array] = ()
        # Of stacks: the axis, the first row that is one, the last frame that was added, and the
        # rows that do not continue the row before.
        self._axis: int | None = None
        self._stacked_from = 0
        self._newest: Array
        self._breaks: list[int] = []

    def pack(self, start: int, stop: int) -> tuple[bytes, tuple[int, ...]]:
        """Return the stored form of rows [start, stop), and the filter that describes it.

        Rows must be packed once and in order.
        """
        axis = self._axis if stop > self._stacked_from else None
        size = 1 if axis is None else self.shape[axis]
        breaks = self._breaks if axis is not None else []

        def n_changes_before(row: int) -> int:
            """Return the number of changes of rows [1, row): a break has one for each frame."""
            return max(0, row - 1) + (size - 1) * bisect_left(breaks, row)

        if start == 0:
            first = self._split(np.frombuffer(self._first, self.dtype), axis)
        else:
            if len(self._packed) != size:
                # The rows packed before were frames; from here on they are stacks.
                self._packed = self._split(self._packed[0].view(self.dtype), axis)
            changes = self._changes[n_changes_before(start) : n_changes_before(start + 1)]
            first = _advance(self._packed, changes)
        later = self._changes[n_changes_before(start + 1) : n_changes_before(stop)]
        self._packed = _advance(first, later)
        if axis is None:
            return _join_changes(first, later), (FRAMES,)
        packed_breaks = breaks[bisect_left(breaks, start + 1) : bisect_left(breaks, stop)]
        filter_ = (STACKS, axis, 0, *(row - start for row in packed_breaks))
        return _join_changes(first, later), filter_

    def _split(self, row: Array, axis: int | None) -> Sequence[Array]:
        """Return the frames of a row as words; without an axis the row is the only frame."""
        if axis is None:
            return [row.reshape(-1).view(self._word)]
        frames = np.moveaxis(row.reshape(self.shape), axis, 0)
        stack = np.ascontiguousarray(frames).reshape(self.shape[axis], -1)
        return list(stack.view(_word_type(stack[0].nbytes)))

    def _add_first(self, row: Array) -> None:
        self._first = row.tobytes()
        self._before = np.frombuffer(bytearray(self._first), self._word)
        self.n_bytes = 2 * len(self._first)
        self.add = self._add_until_changed

    def _add_until_changed(self, row: Array) -> None:
        """Add a row. The first row that differs decides whether the rows are stacks."""
        if row.tobytes() == self._first:
            self._changes.append(_NO_CHANGE)
            self.n_bytes += CHANGE_BYTES
            return
        axis = self._find_axis(row)
        if axis is None:
            self.add = self._add_frame
        else:
            self._begin_stacks(row, axis)
        self.add(row)

    def _find_axis(self, row: Array) -> int | None:
        """Return the axis along which a row and the row before are stacks, or None."""
        # The comparison of stacks along the last axis needs values that fit into a word.
        if row.ndim < 2 or row.itemsize > 8:
            return None
        for axis in {0, row.ndim - 1}:
            if self.shape[axis] in STACK_SIZES and self._is_stack(row, axis):
                return axis
        return None

    def _begin_stacks(self, row: Array, axis: int) -> None:
        self._newest = self._split(self._before.view(self.dtype), axis)[-1].copy()
        if axis:
            self._before = self._before.view(f"u{row.itemsize}")
            self.add = self._add_stack_of_last_axis
        else:
            self._before = self._before.view(self._newest.dtype).reshape(row.shape[0], -1)
            self.add = self._add_stack_of_first_axis
        # The axis last: a thread that packs meanwhile takes rows for stacks as soon as it is set.
        self._stacked_from = len(self._changes) + 1
        self._axis = axis

    def _is_stack(self, row: Array, axis: int) -> bool:
        before = self._split(self._before.view(self.dtype), axis)
        frames = self._split(row, axis)
        # If rows were equal until here, a stack had one frame alone all that time.
        if self._changes and not all((frame == before[0]).all() for frame in before):
            return False
        return all((a == b).all() for a, b in zip(frames, before[1:], strict=False))

    def _add_frame(self, row: Array) -> None:
        self._add_change(row.reshape(-1).view(self._word), self._before)

    def _add_change(self, words: Array, before: Array) -> None:
        """Add the difference between two frames, and make the older one equal to the newer."""
        positions = (words != before).nonzero()[0]
        before[positions] = changed = words[positions]
        self._changes.append((positions, changed))
        self.n_bytes += CHANGE_BYTES + 16 * len(positions)

    def _add_stack_of_first_axis(self, row: Array) -> None:
        words = row.reshape(len(row), -1).view(self._newest.dtype)
        if (words[:-1] == self._before[1:]).all():
            self._add_change(words[-1], self._newest)
        else:
            self._add_break(row, 0)
        self._before[:] = words

    def _add_stack_of_last_axis(self, row: Array) -> None:
        values = row.reshape(-1).view(self._before.dtype)
        size = row.shape[-1]
        # Each value is compared with its right neighbour in the row before, without regrouping the
        # frames. Only the values of the newest frame may differ.
        differs = values[:-1] != self._before[1:]
        if np.count_nonzero(differs) == np.count_nonzero(differs[size - 1 :: size]):
            newest = np.ascontiguousarray(row[..., -1])
            self._add_change(newest.reshape(-1).view(self._newest.dtype), self._newest)
        else:
            self._add_break(row, row.ndim - 1)
        self._before[:] = values

    def _add_break(self, row: Array, axis: int) -> None:
        """Add a row that does not continue the row before, with all its frames."""
        n_extra_changes = (self.shape[axis] - 1) * len(self._breaks)
        self._breaks.append(len(self._changes) + 1 - n_extra_changes)
        for frame in self._split(row, axis):
            self._add_change(frame, self._newest)


class PixelFrames:
    """Frames as they are stored: the first one, and the changes of each later one.

    Args:
        raw: The result of `PixelRows.pack` for rows that are frames.
        n: The number of frames.
        width: The bytes of a frame.

    Raises:
        ValueError: The bytes are not such frames.
    """

    def __init__(self, raw: bytes, n: int, width: int) -> None:
        word = _word_type(width)
        n_changes, rest = divmod(len(raw) - width, 4 + word.itemsize)
        if rest or n_changes < 0 or n < 1:
            raise ValueError("the changes of a column's frames are not whole")
        self._words = np.frombuffer(raw, word, n_changes, offset=width + 4 * n_changes)
        planes = np.frombuffer(raw, np.uint8, 4 * n_changes, offset=width).reshape(4, n_changes)
        positions = np.cumsum(planes.T.copy().view("<u4"), dtype=np.int64)
        size = width // word.itemsize
        if n_changes and (positions[-1] >= (n - 1) * size or (np.diff(positions) <= 0).any()):
            raise ValueError("the changes of a column's frames lie outside of them")
        self._first = np.frombuffer(raw, word, size)
        self._ends = np.searchsorted(positions, np.arange(n) * size).tolist()
        self._positions = positions % size

    def dense(self) -> Array:
        """Return all frames as bytes, uint8 (n, width)."""
        frames = np.empty((len(self._ends), len(self._first)), self._first.dtype)
        for index, frame in enumerate(self.walk(0, len(frames))):
            frames[index] = frame
        return frames.view(np.uint8)

    def walk(self, start: int, stop: int) -> Iterator[Array]:
        """Yield frames [start, stop) as words, in one array that becomes the next frame.

        One array stays in the processor's cache: a step of Breakout costs 30 us less than with all
        frames of a chunk unpacked at once.
        """
        if start >= stop:
            return
        frame = self._first.copy()
        begin = 0
        for end in self._ends[start:stop]:
            # The first time these are the changes of all frames before as well. Of several words
            # for one position NumPy keeps the last.
            frame[self._positions[begin:end]] = self._words[begin:end]
            yield frame
            begin = end


def unpack(
    raw: bytes, *, n: int, dtype: np.dtype[Any], shape: tuple[int, ...], filter_: tuple[int, ...]
) -> Array:
    """Return the rows that `PixelRows.pack` stored, an array (n, *shape) of the dtype.

    Raises:
        ValueError: The bytes are not such rows.
    """
    width = dtype.itemsize * math.prod(shape)
    if filter_[0] == FRAMES:
        return PixelFrames(raw, n, width).dense().view(dtype).reshape(n, *shape)
    if len(filter_) < 3 or not 0 <= filter_[1] < len(shape) or shape[filter_[1]] not in STACK_SIZES:
        raise ValueError(f"filter {filter_} does not fit rows of shape {shape}")
    axis = filter_[1]
    size = shape[axis]
    breaks = list(filter_[2:])
    if breaks[0] != 0 or any(a >= b for a, b in pairwise(breaks)) or breaks[-1] >= n:
        raise ValueError(f"the breaks {breaks} of a stack are not rows in order")
    n_new_frames = np.ones(n, np.int64)
    n_new_frames[breaks] = size
    ends = np.cumsum(n_new_frames)
    frame_shape = shape[:axis] + shape[axis + 1 :]
    dense = PixelFrames(raw, int(ends[-1]), width // size).dense()
    frames = dense.view(dtype).reshape(-1, *frame_shape)
    rows = np.empty((n, *shape), dtype)
    stacks = np.moveaxis(rows, axis + 1, 1)
    for index in range(size):
        stacks[:, index] = frames[ends - size + index]
    return rows


def _word_type(n_bytes: int) -> np.dtype[Any]:
    """Return the widest unsigned integer that divides a frame of so many bytes."""
    return np.dtype(f"<u{next(width for width in (8, 4, 2, 1) if n_bytes % width == 0)}")


def _advance(frames: Sequence[Array], changes: Sequence[Change]) -> Sequence[Array]:
    """Return the newest frames after some changes, as many as are given."""
    advanced = list(frames)
    if len(changes) > len(frames):
        # The frames in between are not needed: their changes are made at once.
        early = changes[: -len(frames)]
        changes = changes[-len(frames) :]
        frame = advanced[-1].copy()
        positions = np.concatenate([positions for positions, _ in early])
        frame[positions] = np.concatenate([words for _, words in early])
        advanced.append(frame)
    for positions, words in changes:
        frame = advanced[-1].copy()
        frame[positions] = words
        advanced.append(frame)
    return advanced[-len(frames) :]


def _join_changes(frames: Sequence[Array], later: Sequence[Change]) -> bytes:
    """Return the first frame, the positions of all changes as distances, and the new words."""
    first = frames[0]
    changes: list[Change] = [(np.zeros(0, np.int64), first[:0])]
    for before, frame in pairwise(frames):
        positions = np.flatnonzero(frame != before)
        changes.append((positions, frame[positions]))
    changes += later
    # Positions count on from frame to frame, from 0 at the second frame.
    lengths = [len(positions) for positions, _ in changes]
    offsets = np.repeat(np.arange(len(changes)) * len(first) - len(first), lengths)
    positions = np.concatenate([positions for positions, _ in changes]) + offsets
    distances = np.diff(positions, prepend=0).astype("<u4")
    planes = distances.view(np.uint8).reshape(-1, 4).T
    words = np.concatenate([words for _, words in changes])
    return b"".join((first.tobytes(), planes.tobytes(), words.tobytes()))
