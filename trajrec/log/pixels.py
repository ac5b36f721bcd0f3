"""Reads large rows, such as frames of pixels and big arrays, which are stored as changes.

Of each row only the words that differ from the row before are kept. Rows that are stacks of the
last few frames are stored as frames. `trajrec.log.pixel_changes` writes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from trajrec.types import Array

# Filters: each row is a frame, or a stack of the last frames along an axis.
FRAMES = 1
STACKS = 3

# A longer axis is taken for a height or a width, along which no stack needs to be looked for.
STACK_SIZES = range(2, 17)


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
        word = word_type(width)
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


def word_type(n_bytes: int) -> np.dtype[Any]:
    """Return the widest unsigned integer that divides a frame of so many bytes."""
    return np.dtype(f"<u{next(width for width in (8, 4, 2, 1) if n_bytes % width == 0)}")
