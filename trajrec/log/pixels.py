"""Large rows <-> what of them changed: frames of pixels, big arrays.

Of each frame only the words that differ from the frame before are kept, at once, while the frame is in the processor's cache:
what stands still costs neither bytes nor memory. Rows that are stacks of the last few frames (84x84x4: three quarters of a row
stand in the row before) are kept as frames. Measured: 9 us for a frame of Breakout and 13 us for a stack, where keeping copies
for later costs 67 and 17 to 86 us, most of it page faults.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

FRAMES, STACKS = 1, 3
"""Filters: each row is a frame; each row is a stack of the last frames along an axis."""

STACK_SIZES = range(2, 17)
CHANGE_BYTES = 400
"""What Python and NumPy need for a change besides its numbers."""

Array = np.ndarray[Any, Any]
Change = tuple[Array, Array]
"""Places and words: what makes a frame of the one before."""

# Words of one byte: the words of all changes are joined, and the join is as wide as its widest
# part. Empty words as wide as a row would widen those of a stack's frames, which may be narrower.
_NO_CHANGE: Change = (np.zeros(0, np.int64), np.zeros(0, np.uint8))


class Pixels:
    """The rows of a column, kept as changes. One thread adds, another may pack rows that are complete.

    Attributes:
        add: Adds a row, an array of the column's dtype and shape, which is not kept.
        n_bytes: The memory that the changes take, about.
    """

    add: Callable[[Array], None]

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.n_bytes = 0
        self.add = self._add_first
        self._dtype, self._shape = dtype, shape
        self._unit = _unit(dtype.itemsize * math.prod(shape))
        self._first = b""
        self._changes: list[Change] = []
        self._before: Array
        self._packed: Sequence[Array] = ()
        # Of stacks: along which axis, from which row on, the last frame, and the rows that do not go on from the row before.
        self._axis: int | None = None
        self._stacked_from = 0
        self._newest: Array
        self._breaks: list[int] = []

    def pack(self, start: int, stop: int) -> tuple[bytes, tuple[int, ...]]:
        """Return what is stored of rows [start, stop) and the filter that says how. Rows are packed once and in order."""
        axis = self._axis if stop > self._stacked_from else None
        size = 1 if axis is None else self._shape[axis]
        breaks = self._breaks if axis is not None else []

        def changes_before(row: int) -> int:
            return max(0, row - 1) + (size - 1) * bisect_left(breaks, row)

        if start == 0:
            first: Sequence[Array] = self._frames(np.frombuffer(self._first, self._dtype), axis)
        else:
            if len(self._packed) != size:  # as stacks from here on
                self._packed = self._frames(self._packed[0].view(self._dtype), axis)
            first = _advance(
                self._packed, self._changes[changes_before(start) : changes_before(start + 1)]
            )
        later = self._changes[changes_before(start + 1) : changes_before(stop)]
        self._packed = _advance(first, later)
        if axis is None:
            return _sparse(first, later), (FRAMES,)
        here = breaks[bisect_left(breaks, start + 1) : bisect_left(breaks, stop)]
        return _sparse(first, later), (STACKS, axis, 0, *(row - start for row in here))

    def _frames(self, row: Array, axis: int | None) -> Sequence[Array]:
        """Return the frames of a row as words."""
        if axis is None:
            return [row.reshape(-1).view(self._unit)]
        stack = np.ascontiguousarray(np.moveaxis(row.reshape(self._shape), axis, 0)).reshape(
            self._shape[axis], -1
        )
        return list(stack.view(_unit(stack[0].nbytes)))

    def _add_first(self, row: Array) -> None:
        self._first = row.tobytes()
        self._before = np.frombuffer(bytearray(self._first), self._unit)
        self.n_bytes = 2 * len(self._first)
        self.add = self._add_until_changed

    def _add_until_changed(self, row: Array) -> None:
        """Add a row; the first one that differs decides whether the rows are stacks."""
        if row.tobytes() != self._first:
            self.add = self._add_frame
            for axis in {0, row.ndim - 1} if row.ndim > 1 and row.itemsize <= 8 else ():
                if self._shape[axis] in STACK_SIZES and self._is_stack(row, axis):
                    self._newest = self._frames(self._before.view(self._dtype), axis)[-1].copy()
                    if axis:
                        self._before = self._before.view(f"u{row.itemsize}")
                        self.add = self._add_stack_of_last_axis
                    else:
                        self._before = self._before.view(self._newest.dtype).reshape(
                            row.shape[0], -1
                        )
                        self.add = self._add_stack_of_first_axis
                    self._stacked_from, self._axis = len(self._changes) + 1, axis
                    break
            self.add(row)
            return
        self._changes.append(_NO_CHANGE)
        self.n_bytes += CHANGE_BYTES

    def _is_stack(self, row: Array, axis: int) -> bool:
        before = self._frames(self._before.view(self._dtype), axis)
        frames = self._frames(row, axis)
        # Where nothing changed until now, all frames of a stack are one.
        still = not self._changes or all((frame == before[0]).all() for frame in before)
        return still and all((a == b).all() for a, b in zip(frames, before[1:], strict=False))

    def _add_frame(self, row: Array) -> None:
        self._add_change(row.reshape(-1).view(self._unit), self._before)

    def _add_change(self, words: Array, before: Array) -> None:
        places = (words != before).nonzero()[0]
        before[places] = changed = words[places]
        self._changes.append((places, changed))
        self.n_bytes += CHANGE_BYTES + 16 * len(places)

    def _add_stack_of_first_axis(self, row: Array) -> None:
        words = row.reshape(len(row), -1).view(self._newest.dtype)
        if (words[:-1] == self._before[1:]).all():
            self._add_change(words[-1], self._newest)
        else:
            self._add_break(row, 0)
        self._before[:] = words

    def _add_stack_of_last_axis(self, row: Array) -> None:
        values, size = row.reshape(-1).view(self._before.dtype), row.shape[-1]
        # Each value against its right neighbour in the row before; only at the newest frame's values it may differ.
        differs = values[:-1] != self._before[1:]
        if np.count_nonzero(differs) == np.count_nonzero(differs[size - 1 :: size]):
            newest = np.ascontiguousarray(row[..., -1])
            self._add_change(newest.reshape(-1).view(self._newest.dtype), self._newest)
        else:
            self._add_break(row, row.ndim - 1)
        self._before[:] = values

    def _add_break(self, row: Array, axis: int) -> None:
        self._breaks.append(len(self._changes) + 1 - (self._shape[axis] - 1) * len(self._breaks))
        for frame in self._frames(row, axis):
            self._add_change(frame, self._newest)


class Frames:
    """Frames as they are stored: the first, and what changed in each later one.

    Args:
        raw: What `Pixels.pack` returned for rows that are frames.
        n: Frames.
        width: Bytes of a frame.

    Raises:
        ValueError: The bytes are not such frames.
    """

    def __init__(self, raw: bytes, n: int, width: int) -> None:
        unit = _unit(width)
        changes, rest = divmod(len(raw) - width, 4 + unit.itemsize)
        if rest or changes < 0 or n < 1:
            raise ValueError("the changes of a column's frames are not whole")
        self._words = np.frombuffer(raw, unit, changes, offset=width + 4 * changes)
        planes = np.frombuffer(raw, np.uint8, 4 * changes, offset=width).reshape(4, changes)
        places = np.cumsum(planes.T.copy().view("<u4"), dtype=np.int64)
        size = width // unit.itemsize
        if changes and (places[-1] >= (n - 1) * size or (np.diff(places) <= 0).any()):
            raise ValueError("the changes of a column's frames lie outside of them")
        self._first = np.frombuffer(raw, unit, size)
        self._ends = np.searchsorted(places, np.arange(n) * size).tolist()
        self._places = places % size

    def dense(self) -> Array:
        """Return all frames, as bytes (n, width)."""
        frames = np.empty((len(self._ends), len(self._first)), self._first.dtype)
        for k, frame in enumerate(self.walk(0, len(frames))):
            frames[k] = frame
        return frames.view(np.uint8)

    def walk(self, start: int, stop: int) -> Iterator[Array]:
        """Yield frames [start, stop) as words, in one array that becomes the next frame when that is asked for: it stays in the
        processor's cache."""
        if start >= stop:
            return
        frame, end = self._first.copy(), 0
        for k in range(start, stop):
            begin, end = (
                end,
                self._ends[k],
            )  # of the first one, the changes of all before it: what comes last stays
            frame[self._places[begin:end]] = self._words[begin:end]
            yield frame


def unpack(
    raw: bytes, n: int, dtype: np.dtype[Any], shape: tuple[int, ...], filter_: tuple[int, ...]
) -> Array:
    """Return the rows (n, *shape) that were packed.

    Raises:
        ValueError: The bytes are not such rows.
    """
    width = dtype.itemsize * math.prod(shape)
    if filter_[0] == FRAMES:
        return Frames(raw, n, width).dense().view(dtype).reshape(n, *shape)
    if len(filter_) < 3 or not 0 <= filter_[1] < len(shape) or shape[filter_[1]] not in STACK_SIZES:
        raise ValueError(f"filter {filter_} does not fit rows of shape {shape}")
    axis, size = filter_[1], shape[filter_[1]]
    lengths = np.ones(n, np.int64)
    breaks = list(filter_[2:])
    if breaks[0] != 0 or any(a >= b for a, b in pairwise(breaks)) or breaks[-1] >= n:
        raise ValueError(f"the breaks {breaks} of a stack are not rows in order")
    lengths[breaks] = size
    ends = np.cumsum(lengths)
    frame_shape = shape[:axis] + shape[axis + 1 :]
    frames = Frames(raw, int(ends[-1]), width // size).dense().view(dtype).reshape(-1, *frame_shape)
    out = np.empty((n, *shape), dtype)
    stacks = np.moveaxis(out, axis + 1, 1)
    for k in range(size):
        stacks[:, k] = frames[ends - size + k]
    return out


def _unit(size: int) -> np.dtype[Any]:
    """Return the widest word that a frame of so many bytes divides into."""
    return np.dtype(f"<u{next(width for width in (8, 4, 2, 1) if size % width == 0)}")


def _advance(frames: Sequence[Array], changes: Sequence[Change]) -> Sequence[Array]:
    """Return the last frames, as many as are given, after these changes."""
    kept = list(frames)
    if len(changes) > len(kept):
        early, changes = changes[: -len(kept)], changes[-len(kept) :]
        frame = kept[-1].copy()
        frame[np.concatenate([places for places, _ in early])] = np.concatenate(
            [words for _, words in early]
        )
        kept.append(frame)
    for places, words in changes:
        frame = kept[-1].copy()
        frame[places] = words
        kept.append(frame)
    return kept[-len(frames) :]


def _sparse(frames: Sequence[Array], later: Sequence[Change]) -> bytes:
    """Return the first frame, then where later ones differ from the one before (as distances), then the words there."""
    within: list[Change] = []
    for before, frame in pairwise(frames):
        places = np.flatnonzero(frame != before)
        within.append((places, frame[places]))
    changes = [(frames[0][:0].astype(np.int64), frames[0][:0]), *within, *later]
    width = len(frames[0])
    lengths = [len(places) for places, _ in changes]
    starts = np.repeat(np.arange(len(changes)) * width - width, lengths)
    distances = np.diff(
        np.concatenate([places for places, _ in changes]) + starts, prepend=0
    ).astype("<u4")
    planes = distances.view(np.uint8).reshape(-1, 4).T
    return b"".join(
        (
            frames[0].tobytes(),
            planes.tobytes(),
            np.concatenate([words for _, words in changes]).tobytes(),
        )
    )
