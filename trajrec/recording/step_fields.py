"""The fields of steps (action, obs, reward, state, info), and how each value becomes rows.

The first value of a field decides how its rows are kept: numbers and arrays in columns of their
own, dicts and tuples item by item, all other values encoded. `put` then adds one value per step. It
is the innermost loop of recording, so each kind of value has a `put` of its own, a closure over
everything that it needs: an attribute read or a test of the kind in each call would cost more than
the append.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from trajrec.log.columns import LARGE_ROW_BYTES, Packer
from trajrec.log.pixels import PixelRows
from trajrec.log.schema import Column
from trajrec.types import Array, Value
from trajrec.values import codec
from trajrec.values.plain import SCALAR_TYPES

VALUES_BYTES = 1 << 20
CHANGES_BYTES = 1 << 19
"""A block is full when the encoded values of one field, or the changes of its frames, take this
much memory. `Block.limit` does not see to it, because their sizes are not known beforehand."""

MAX_DEPTH = 8
"""Dicts and tuples below this depth are encoded whole, which bounds the number of columns."""

OBJECT_ROW_BYTES = 64
"""Memory of a row with one small Python object, about: its header and content, 24 bytes for a float
and 33 and more for bytes, and the reference to it."""

Put = Callable[[Value], None]

Layout = list[Any]
"""How columns make up a value: ["leaf", column], ["dict", keys, layouts] or ["tuple", layouts]."""


class MisfitError(Exception):
    """A value is not of the kind that its field's rows have."""


class Leaf:
    """The rows of one leaf of a field's values: encoded values.

    Attributes:
        name: Path of the leaf in the step, e.g. "obs/position".
        rows: One item per row.
        row_bytes: Memory of a row, about.
    """

    __slots__ = ("name", "row_bytes", "rows")

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: list[Any] = []
        self.row_bytes = OBJECT_ROW_BYTES

    def pack(self, packer: Packer, start: int, stop: int) -> tuple[Column, bytes]:
        """Pack rows [start, stop) into a column."""
        return packer.pack_values(self.name, self.rows[start:stop])


class ScalarLeaf(Leaf):
    """Rows that are single numbers or texts."""

    __slots__ = ()

    def pack(self, packer: Packer, start: int, stop: int) -> tuple[Column, bytes]:
        return packer.pack_scalars(self.name, self.rows[start:stop])


class ArrayLeaf(Leaf):
    """Rows that are the bytes of arrays of one dtype and shape."""

    __slots__ = ("dtype", "shape")

    def __init__(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        super().__init__(name)
        self.dtype = dtype
        self.shape = shape
        self.row_bytes = max(OBJECT_ROW_BYTES, math.prod(shape) * dtype.itemsize)

    def pack(self, packer: Packer, start: int, stop: int) -> tuple[Column, bytes]:
        return packer.pack_arrays(
            self.name, self.rows[start:stop], dtype=self.dtype, shape=self.shape
        )


class PixelLeaf(ArrayLeaf):
    """Rows that are large arrays, kept as changes of the row before."""

    __slots__ = ("pixels",)

    def __init__(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        super().__init__(name, dtype, shape)
        self.pixels = PixelRows(dtype, shape)
        # The least that a change takes; `PixelRows.n_bytes` says when they take much.
        self.row_bytes = OBJECT_ROW_BYTES

    def pack(self, packer: Packer, start: int, stop: int) -> tuple[Column, bytes]:
        return packer.pack_pixels(self.name, self.pixels, start, stop)


class Field:
    """One field of the steps in a block, as leaves.

    Args:
        name: The field's name.
        value: Its first value, which is not put yet.
        whole: Whether each value is encoded as a whole, without looking at its kind.
        on_full: Called when the rows take so much memory that the block must end.

    Attributes:
        leaves: The leaves, in the order of the layout.
        layout: How the leaves make up a value.
        put: Adds a row. Raises MisfitError if the value is of another kind than the first one; the
            rows of this step are then incomplete.
        row_bytes: Memory of a row, about.
    """

    def __init__(
        self,
        name: str,
        value: Value,
        *,
        whole: bool = False,
        on_full: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._on_full = on_full
        self.leaves: list[Leaf] = []
        self.put: Put
        self.layout: Layout
        self.put, self.layout = self._object(name) if whole else self._fit(name, value, 0)
        if not self.leaves:
            # Empty dicts and tuples alone have no columns, and a column says which rows have a
            # value: an info {"a": {}} would be read of steps that had none.
            self.put, self.layout = self._object(name)
        self.row_bytes = sum(leaf.row_bytes for leaf in self.leaves)

    def _fit(self, path: str, value: Value, depth: int) -> tuple[Put, Layout]:
        cls = type(value)
        if cls in SCALAR_TYPES:
            return self._scalar(path)
        if cls is np.ndarray and value.dtype.kind in "biufcmM" and value.size:
            # Only observations: rows of other fields may be taken back, and changes cannot be.
            is_large = self.name == "obs" and value.nbytes > LARGE_ROW_BYTES
            return self._pixels(path, value) if is_large else self._array(path, value)
        if cls is dict and depth < MAX_DEPTH and all(map(_is_plain_key, value)):
            return self._dict(path, value, depth)
        if cls is tuple and depth < MAX_DEPTH:
            return self._tuple(path, value, depth)
        return self._object(path)

    def _add_leaf(self, leaf: Leaf) -> Layout:
        self.leaves.append(leaf)
        return ["leaf", len(self.leaves) - 1]

    def _scalar(self, path: str) -> tuple[Put, Layout]:
        leaf = ScalarLeaf(path)
        append = leaf.rows.append
        scalar_types = SCALAR_TYPES

        def put(value: Value) -> None:
            if type(value) not in scalar_types:
                raise MisfitError
            append(value)

        return put, self._add_leaf(leaf)

    def _array(self, path: str, first: Array) -> tuple[Put, Layout]:
        dtype = first.dtype
        shape = first.shape
        ndarray = np.ndarray
        leaf = ArrayLeaf(path, dtype, shape)
        append = leaf.rows.append

        def put(value: Value) -> None:
            # `is` before `!=`: NumPy's comparison of dtypes is slow, and most are one object.
            if (
                type(value) is not ndarray
                or value.shape != shape
                or (value.dtype is not dtype and value.dtype != dtype)
            ):
                raise MisfitError
            # Bytes, not the array: environments write their next observation into the same array.
            append(value.tobytes())

        return put, self._add_leaf(leaf)

    def _pixels(self, path: str, first: Array) -> tuple[Put, Layout]:
        dtype = first.dtype
        shape = first.shape
        ndarray = np.ndarray
        on_full = self._on_full
        leaf = PixelLeaf(path, dtype, shape)
        pixels = leaf.pixels

        def put(value: Value) -> None:
            if (
                type(value) is not ndarray
                or value.shape != shape
                or (value.dtype is not dtype and value.dtype != dtype)
            ):
                raise MisfitError
            pixels.add(value)
            if pixels.n_bytes > CHANGES_BYTES:
                on_full()

        return put, self._add_leaf(leaf)

    def _object(self, path: str) -> tuple[Put, Layout]:
        leaf = Leaf(path)
        append = leaf.rows.append
        encode = codec.encode
        # An info may hold anything; a part that cannot be stored is named in its place.
        opaque = self.name == "info"
        on_full = self._on_full
        n_bytes = 0

        def put(value: Value) -> None:
            nonlocal n_bytes
            data = encode(value, where=path, opaque=opaque)
            append(data)
            # Counted at each row, because later values may be much larger than the first.
            n_bytes += len(data)
            if n_bytes > VALUES_BYTES:
                on_full()

        return put, self._add_leaf(leaf)

    def _dict(self, path: str, first: dict[str, Value], depth: int) -> tuple[Put, Layout]:
        keys = tuple(first)
        fitted = [self._fit(f"{path}/{key}", item, depth + 1) for key, item in first.items()]
        puts = [put for put, _ in fitted]

        def put(value: Value) -> None:
            if type(value) is not dict or tuple(value) != keys:
                raise MisfitError
            for put_item, item in zip(puts, value.values(), strict=True):
                put_item(item)

        return put, ["dict", list(keys), [layout for _, layout in fitted]]

    def _tuple(self, path: str, first: tuple[Value, ...], depth: int) -> tuple[Put, Layout]:
        fitted = [self._fit(f"{path}/{index}", item, depth + 1) for index, item in enumerate(first)]
        puts = [put for put, _ in fitted]
        n_items = len(first)

        def put(value: Value) -> None:
            if type(value) is not tuple or len(value) != n_items:
                raise MisfitError
            for put_item, item in zip(puts, value, strict=True):
                put_item(item)

        return put, ["tuple", [layout for _, layout in fitted]]


def _is_plain_key(key: Value) -> bool:
    """Return whether a key can stand in a layout: layouts hold texts, without lone surrogates."""
    if type(key) is not str:
        return False
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_fitting(put: Put, value: Value) -> bool:
    """Return whether a field's `put` takes a value.

    It is tried on a block that is done: rows beyond the block's last step are never read.
    """
    try:
        put(value)
    except MisfitError:
        return False
    return True
