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


class PixelStacks:
    """Rows that are stacks of the last few frames, as they are stored: as frames.

    Args:
        raw: The result of `PixelRows.pack`.
        n: The number of rows.
        dtype: The dtype of the rows.
        shape: The shape of a row.
        filter_: The filter: `STACKS`, the axis of the frames, and the rows that share no frame with
            the row before them.

    Attributes:
        axis: The axis of a row along which its frames lie.
        ends: For each row, the number of the frame behind its last one, int64 (n,).

    Raises:
        ValueError: The bytes are not such rows.
    """

    def __init__(
        self,
        raw: bytes,
        *,
        n: int,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        filter_: tuple[int, ...],
    ) -> None:
        is_fitting = len(filter_) > 2 and 0 <= filter_[1] < len(shape)
        if not is_fitting or shape[filter_[1]] not in STACK_SIZES:
            raise ValueError(f"filter {filter_} does not fit rows of shape {shape}")
        breaks = list(filter_[2:])
        if breaks[0] != 0 or any(a >= b for a, b in pairwise(breaks)) or breaks[-1] >= n:
            raise ValueError(f"the breaks {breaks} of a stack are not rows in order")
        self.axis = filter_[1]
        self._size = shape[self.axis]
        self._shape = shape
        self._dtype = dtype
        n_new_frames = np.ones(n, np.int64)
        n_new_frames[breaks] = self._size
        self.ends = np.cumsum(n_new_frames)
        width = dtype.itemsize * math.prod(shape)
        self._frames = PixelFrames(raw, int(self.ends[-1]), width // self._size)

    def frames(self) -> Array:
        """Return all frames, an array (number of frames, *shape of a frame)."""
        shape = self._shape[: self.axis] + self._shape[self.axis + 1 :]
        return self._frames.dense().view(self._dtype).reshape(-1, *shape)

    def dense(self) -> Array:
        """Return all rows, an array (n, *shape)."""
        frames = self.frames()
        rows = np.empty((len(self.ends), *self._shape), self._dtype)
        stacks = np.moveaxis(rows, self.axis + 1, 1)
        for index in range(self._size):
            stacks[:, index] = frames[self.ends - self._size + index]
        return rows


def word_type(n_bytes: int) -> np.dtype[Any]:
    """Return the widest unsigned integer that divides a frame of so many bytes."""
    return np.dtype(f"<u{next(width for width in (8, 4, 2, 1) if n_bytes % width == 0)}")
