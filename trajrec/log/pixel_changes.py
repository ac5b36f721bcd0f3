"""Writes large rows, such as frames of pixels and big arrays, as changes.

Of each row only the words that differ from the row before are kept, and they are found while the
row is in the processor's cache: pixels that stand still cost neither bytes nor memory. Rows that
are stacks of the last few frames (in 84x84x4, three quarters of a row stand in the row before) are
kept as frames. A frame of Breakout takes 9 us and a stack 13 us. Copies that wait for a background
thread took 67 us, and 17 to 86 us, most of it for page faults.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import msgspec
import numpy as np

from trajrec.log.pixels import FRAMES, STACK_SIZES, STACKS, word_type
from trajrec.types import Array, IntArray

# The positions of the words that differ from the frame before, and the new words.
Words: TypeAlias = tuple[IntArray, Array]


class Change(msgspec.Struct, array_like=True, frozen=True):
    """A row as the difference from the row before.

    Attributes:
        axis: The axis along which rows are stacks of frames, -1 if a row is a frame.
        positions: The positions of the words that differ from the newest frame before.
        words: The new words.
    """

    axis: int
    positions: IntArray
    words: Array


class Break(msgspec.Struct, array_like=True, frozen=True):
    """A stack that does not continue the row before: the differences from frame to frame."""

    axis: int
    frames: list[Words]


PixelItem: TypeAlias = bytes | Change | Break
"""A row: the bytes of a whole row, or its difference from the row before."""

# Words of one byte: the words of all changes are joined, and the join is as wide as its widest
# part. Empty words as wide as a row would widen those of a stack's frames, which may be narrower.
_NO_CHANGE = Change(-1, np.zeros(0, np.int64), np.zeros(0, np.uint8))


class PixelDiff:
    """Finds the difference of each row from the row before.

    Attributes:
        take: Returns the item of a row, an array of the column's dtype and shape. The array is not
            kept. The first item is a whole row.
    """

    # Replaced by another method once the form of the rows is known: the hot path has no branches.
    take: Callable[[Array], PixelItem]

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.take = self._take_first
        self._dtype = dtype
        self._shape = shape
        self._first = b""
        self._has_repeats = False
        # The last row, in words.
        self._before: Array
        # Of stacks: the axis, and the last frame.
        self._axis = -1
        self._newest: Array

    def _take_first(self, row: Array) -> PixelItem:
        self._first = row.tobytes()
        word = word_type(len(self._first))
        self._before = np.frombuffer(bytearray(self._first), word)
        self.take = self._take_until_changed
        return self._first

    def _take_until_changed(self, row: Array) -> PixelItem:
        """Take a row. The first row that differs decides whether the rows are stacks."""
        if row.tobytes() == self._first:
            self._has_repeats = True
            return _NO_CHANGE
        self._axis = self._find_axis(row)
        if self._axis < 0:
            self.take = self._take_frame
        else:
            self._begin_stacks(row)
        return self.take(row)

    def _find_axis(self, row: Array) -> int:
        """Return the axis along which a row and the row before are stacks, or -1."""
        # The comparison of stacks along the last axis needs values that fit into a word.
        if row.ndim < 2 or row.itemsize > 8:
            return -1
        for axis in {0, row.ndim - 1}:
            if self._shape[axis] in STACK_SIZES and self._is_stack(row, axis):
                return axis
        return -1

    def _begin_stacks(self, row: Array) -> None:
        self._newest = self._split(self._before.view(self._dtype), self._axis)[-1].copy()
        if self._axis:
            self._before = self._before.view(f"u{row.itemsize}")
            self.take = self._take_stack_of_last_axis
        else:
            self._before = self._before.view(self._newest.dtype).reshape(row.shape[0], -1)
            self.take = self._take_stack_of_first_axis

    def _is_stack(self, row: Array, axis: int) -> bool:
        before = self._split(self._before.view(self._dtype), axis)
        frames = self._split(row, axis)
        # If rows were equal until here, a stack had one frame alone all that time.
        if self._has_repeats and not all((frame == before[0]).all() for frame in before):
            return False
        return all((a == b).all() for a, b in zip(frames, before[1:], strict=False))

    def _split(self, row: Array, axis: int) -> Sequence[Array]:
        return _split(row, self._shape, axis)

    def _take_frame(self, row: Array) -> PixelItem:
        return Change(-1, *_difference(row.reshape(-1).view(self._before.dtype), self._before))

    def _take_stack_of_first_axis(self, row: Array) -> PixelItem:
        words = row.reshape(len(row), -1).view(self._newest.dtype)
        continues = bool((words[:-1] == self._before[1:]).all())
        item = self._stack_item(row, words[-1] if continues else None)
        self._before[:] = words
        return item

    def _take_stack_of_last_axis(self, row: Array) -> PixelItem:
        values = row.reshape(-1).view(self._before.dtype)
        size = row.shape[-1]
        # Each value is compared with its right neighbour in the row before, without regrouping the
        # frames. Only the values of the newest frame may differ.
        differs = values[:-1] != self._before[1:]
        newest = None
        if np.count_nonzero(differs) == np.count_nonzero(differs[size - 1 :: size]):
            newest = np.ascontiguousarray(row[..., -1]).reshape(-1).view(self._newest.dtype)
        item = self._stack_item(row, newest)
        self._before[:] = values
        return item

    def _stack_item(self, row: Array, newest: Array | None) -> PixelItem:
        """Return the item of a stack, of which `newest` is new; None if it breaks the row before."""
        if newest is not None:
            return Change(self._axis, *_difference(newest, self._newest))
        frames = self._split(row, self._axis)
        return Break(self._axis, [_difference(frame, self._newest) for frame in frames])


class PixelPacker:
    """Packs the items of one column, which begin with a whole row.

    It remembers the frames of the last row that it packed. That saves time and changes no result:
    if other rows are asked for, it begins with the first item again.
    """

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.dtype = dtype
        self.shape = shape
        # The number of rows that were packed, and the frames of the last of them.
        self._packed: tuple[int, Sequence[Array]] = (0, ())

    def pack(
        self,
        items: Sequence[PixelItem],
        n_before: int = 0,
        items_before: Callable[[], Sequence[PixelItem]] = tuple,
    ) -> tuple[bytes, tuple[int, ...]]:
        """Return the stored form of some items, and the filter that describes it.

        Args:
            items: The items.
            n_before: The number of items before them in the column.
            items_before: Returns these items, of which the first is whole.
        """
        last = items[-1]
        axis = -1 if isinstance(last, bytes) else last.axis
        if n_before:
            before = self._frames_before(n_before, items_before, axis)
            first = _advance(before, _words_of(items[:1]))
        else:
            first = self._frames_of(items[0], axis)
        later = _words_of(items[1:])
        # One assignment: an exception in between must not leave the number of one row and the
        # frames of another.
        self._packed = (n_before + len(items), _advance(first, later))
        raw = _join_changes(first, later)
        if axis < 0:
            return raw, (FRAMES,)
        breaks = [n for n, item in enumerate(items) if n and type(item) is Break]
        return raw, (STACKS, axis, 0, *breaks)

    def _frames_before(
        self, n_before: int, items_before: Callable[[], Sequence[PixelItem]], axis: int
    ) -> Sequence[Array]:
        """Return the last frames before some items, as many as a stack has."""
        n_packed, frames = self._packed
        if n_packed != n_before:
            items = items_before()
            frames = _advance(self._frames_of(items[0], axis), _words_of(items[1:]))
        elif len(frames) != (1 if axis < 0 else self.shape[axis]):
            # The rows packed before were frames; from here on they are stacks.
            frames = _split(frames[0].view(self.dtype), self.shape, axis)
        return frames

    def _frames_of(self, item: PixelItem, axis: int) -> Sequence[Array]:
        if not isinstance(item, bytes):
            raise ValueError("the first row of a column is not whole")
        return _split(np.frombuffer(item, self.dtype), self.shape, axis)


def decode_change(item: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> PixelItem:
    """Return an item that was encoded as msgpack and decoded without its type.

    Raises:
        ValueError: It is no item of such rows.
    """
    if isinstance(item, bytes):
        if len(item) != dtype.itemsize * math.prod(shape):
            raise ValueError("a whole row has another size than its column")
        return item
    axis = item[0]
    n_bytes = dtype.itemsize * math.prod(shape)
    if axis >= 0:
        n_bytes //= shape[axis]
    word = word_type(n_bytes)
    if len(item) == 2:
        return Break(
            axis, [_decode_words(positions, words, n_bytes, word) for positions, words in item[1]]
        )
    return Change(axis, *_decode_words(item[1], item[2], n_bytes, word))


def _decode_words(positions: bytes, words: bytes, n_bytes: int, word: np.dtype[Any]) -> Words:
    numbers = np.frombuffer(positions, np.int64)
    values = np.frombuffer(words, word)
    if len(numbers) != len(values):
        raise ValueError("a change of a row has more positions than words")
    if not len(numbers):
        return _NO_CHANGE.positions, _NO_CHANGE.words
    if not (numbers[0] >= 0 and numbers[-1] < n_bytes // word.itemsize):
        raise ValueError("a change of a row lies outside of it")
    return numbers, values


def _difference(words: Array, before: Array) -> Words:
    """Return the difference between two frames, and make the older one equal to the newer."""
    differs = words != before
    if differs.all():
        # A film, or noise: no word has to be gathered.
        before[:] = changed = words.copy()
        return np.arange(len(words)), changed
    positions = differs.nonzero()[0]
    before[positions] = changed = words[positions]
    return positions, changed


def _words_of(items: Sequence[PixelItem]) -> list[Words]:
    """Return the changes of all frames of some rows."""
    words: list[Words] = []
    for item in items:
        if isinstance(item, Change):
            words.append((item.positions, item.words))
        elif isinstance(item, Break):
            words += item.frames
        else:
            raise ValueError("a row that is not the first of its column is whole")
    return words


def _split(row: Array, shape: tuple[int, ...], axis: int) -> Sequence[Array]:
    """Return the frames of a row as words; without an axis the row is the only frame."""
    if axis < 0:
        return [row.reshape(-1).view(word_type(row.nbytes))]
    frames = np.moveaxis(row.reshape(shape), axis, 0)
    stack = np.ascontiguousarray(frames).reshape(shape[axis], -1)
    return list(stack.view(word_type(stack[0].nbytes)))


def _advance(frames: Sequence[Array], changes: Sequence[Words]) -> Sequence[Array]:
    """Return the newest frames after some changes, as many as are given."""
    advanced = list(frames)
    if len(frames) == 1 and changes and _are_whole(changes[-1:], len(frames[0])):
        return [changes[-1][1]]
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


def _are_whole(changes: Sequence[Words], size: int) -> bool:
    """Return whether each change has all words of its frame, in order."""
    if any(len(positions) != size for positions, _ in changes):
        return False
    every = np.arange(size)
    return all(np.array_equal(positions, every) for positions, _ in changes)


def _join_changes(frames: Sequence[Array], later: Sequence[Words]) -> bytes:
    """Return the first frame, the positions of all changes as distances, and the new words."""
    first = frames[0]
    changes: list[Words] = [(np.zeros(0, np.int64), first[:0])]
    for before, frame in pairwise(frames):
        positions = np.flatnonzero(frame != before)
        changes.append((positions, frame[positions]))
    changes += later
    words = [new_words for _, new_words in changes]
    if _are_whole(changes[1:], len(first)):
        # All words change in each frame, so each position follows the one before. Memory for
        # positions and distances, which are four times as large as the words, costs more time than
        # all the rest.
        n = len(first) * (len(changes) - 1)
        near = b"\0" + b"\1" * (n - 1) if n else b""
        # The arrays themselves: joining copies each once.
        parts: list[Any] = [first, near, bytes(3 * n), *words]
        return b"".join(parts)
    # Positions count on from frame to frame, from 0 at the second frame.
    lengths = [len(positions) for positions, _ in changes]
    offsets = np.repeat(np.arange(len(changes)) * len(first) - len(first), lengths)
    positions = np.concatenate([positions for positions, _ in changes]) + offsets
    distances = np.diff(positions, prepend=0).astype("<u4")
    planes = distances.view(np.uint8).reshape(-1, 4).T
    return b"".join((first.tobytes(), planes.tobytes(), np.concatenate(words).tobytes()))
