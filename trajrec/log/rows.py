"""Reads the rows of a column. `trajrec.log.columns` packs them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import zstandard

from trajrec.log import pixels
from trajrec.log.columns import NUMBER_KINDS
from trajrec.log.frames import MAX_PART
from trajrec.log.pixels import PixelFrames
from trajrec.log.planes import PLANES, unpack_planes
from trajrec.log.schema import Column
from trajrec.types import Array, IntArray, Value
from trajrec.values import codec
from trajrec.values.plain import IMMUTABLE_TYPES, is_immutable

# zstd states the size of the content within the first 18 bytes of a frame.
_ZSTD_HEADER = 18


class ColumnRows:
    """The decoded rows of a column.

    Args:
        column: The column's record.
        data: Its bytes in the log.
        decompressor: Used here alone, not kept.

    Attributes:
        n: The number of rows.
        kind: The kind of the column: "array", "scalar", "value" or "const".
        type_name: The type of a scalar; "array" for an array in all rows.
        row_numbers: The number of each row in the chunk, int64 (n,), or None if every row of the
            chunk has one here.

    Raises:
        ValueError: The bytes are not the rows that the record states.
    """

    def __init__(
        self, column: Column, data: bytes | memoryview, decompressor: zstandard.ZstdDecompressor
    ) -> None:
        self.n = column.n
        self.kind = column.kind
        self.type_name = column.type_name
        self.row_numbers: IntArray | None = None
        if column.rows_data is not None:
            self.row_numbers = np.cumsum(codec.decode(column.rows_data), dtype=np.int64)
        self._const = b""
        self._shape = column.shape
        self._dense: Array | None = None
        self._frames: PixelFrames | None = None
        self._values: list[bytes] = []
        if column.kind == "const":
            self._const = bytes(data)
            return
        raw = _decompress(data, column.raw_bytes, decompressor)
        if column.kind == "value":
            self._values = _split_values(raw, column.n)
            return
        _check_numbers(column)
        self._dtype = np.dtype(column.dtype)
        if column.filter and column.filter[0] == pixels.FRAMES:
            self._frames = PixelFrames(raw, column.n, row_bytes(column))
        else:
            self._dense = _unfilter(raw, column)

    @property
    def _array(self) -> Array | None:
        """All rows as one array. Frames are unpacked when it is first used."""
        if self._dense is None and self._frames is not None:
            self._dense = self._frames.dense().view(self._dtype).reshape(self.n, *self._shape)
        return self._dense

    def views(self, start: int, stop: int) -> Iterator[Array] | None:
        """Return an iterator over rows [start, stop), or None if `array` returns None.

        Each row is valid only until the next one is asked for: frames are unpacked into one array.
        """
        if self._frames is not None and self._dense is None:
            return (
                frame.view(self._dtype).reshape(self._shape)
                for frame in self._frames.walk(start, stop)
            )
        array = self.array(start, stop)
        return None if array is None else iter(array)

    def array(self, start: int = 0, stop: int | None = None) -> Array | None:
        """Return rows [start, stop) as one borrowed array (n, *shape).

        Returns:
            The array, or None if the rows are not of one dtype and shape.
        """
        stop = self.n if stop is None else stop
        if self._array is not None:
            return self._array[start:stop]
        if self.kind != "const":
            return None
        value = codec.decode(self._const)
        if not isinstance(value, (bool, int, float, np.ndarray, np.generic)):
            return None
        try:
            array = np.asarray(value)
        except OverflowError:
            return None
        if array.dtype.kind == "O":
            return None
        return np.broadcast_to(array, (stop - start, *array.shape))

    def values(self, start: int = 0, stop: int | None = None) -> list[Value]:
        """Return rows [start, stop) as values of the exact recorded types. Arrays are copies."""
        stop = self.n if stop is None else stop
        if self.kind == "const":
            value = codec.decode(self._const)
            # Rows must not share a value that can be changed.
            if type(value) in IMMUTABLE_TYPES or is_immutable(value):
                return [value] * (stop - start)
            return [codec.decode(self._const) for _ in range(start, stop)]
        if self._array is None:
            return [codec.decode(value) for value in self._values[start:stop]]
        rows = self._array[start:stop]
        if self.kind == "array":
            rows = rows.copy()
            if rows.ndim > 1:
                return list(rows)
            # An index would give NumPy scalars, but the rows are arrays without dimensions.
            return [rows[i : i + 1].reshape(()) for i in range(len(rows))]
        if self.type_name in ("int", "float"):
            return list(rows.tolist())
        if self.type_name == "bool":
            return list(rows.astype(np.bool_).tolist())
        return list(rows.astype(np.dtype(self.type_name), copy=False))

    def numpy_bytes(self, start: int, stop: int) -> tuple[type, bytes] | None:
        """Return the type and the joined bytes of rows [start, stop).

        Returns:
            Type and bytes, or None if the rows are not NumPy scalars of one type.
        """
        if self.kind == "const":
            value = codec.decode(self._const)
            if not isinstance(value, (np.number, np.bool_)):
                return None
            return type(value), value.tobytes() * (stop - start)
        if self.kind != "scalar" or self.type_name in ("int", "float", "bool"):
            return None
        if self._array is None:
            return None
        dtype = np.dtype(self.type_name)
        return dtype.type, self._array[start:stop].astype(dtype, copy=False).tobytes()

    def encoded(self, start: int = 0, stop: int | None = None) -> list[bytes]:
        """Return rows [start, stop) as encoded values."""
        stop = self.n if stop is None else stop
        if self.kind == "const":
            return [self._const] * (stop - start)
        if self._array is None:
            return self._values[start:stop]
        return [codec.encode(value) for value in self.values(start, stop)]

    def row_bytes(self, start: int = 0, stop: int | None = None) -> bytes | None:
        """Return the joined C-order bytes of rows [start, stop), or None if they are no arrays."""
        if self.kind == "array" or (self.kind == "const" and self.type_name == "array"):
            array = self.array(start, stop)
            return None if array is None else array.tobytes()
        return None


def row_bytes(column: Column) -> int:
    """Return the bytes of a decoded row of a column of numbers, 0 for other columns."""
    return np.dtype(column.dtype).itemsize * math.prod(column.shape) if column.dtype else 0


def _decompress(
    data: bytes | memoryview, raw_bytes: int, decompressor: zstandard.ZstdDecompressor
) -> bytes:
    """Return bytes decompressed. The stated size is checked before memory is claimed for it."""
    if zstandard.frame_content_size(bytes(data[:_ZSTD_HEADER])) != raw_bytes:
        raise ValueError("a column's size is not the stated one")
    try:
        return decompressor.decompress(data)
    except zstandard.ZstdError as exc:
        raise ValueError(f"a column does not decompress: {exc}") from exc


def _split_values(raw: bytes, n: int) -> list[bytes]:
    """Return the encoded values of n rows: first come their lengths, then their bytes."""
    lengths = np.frombuffer(raw, np.uint32, n)
    start = 4 * n
    ends = (start + np.cumsum(lengths, dtype=np.int64)).tolist()
    if (ends[-1] if ends else 0) != len(raw):
        raise ValueError("the lengths of a column's values do not add up")
    return [raw[a:b] for a, b in zip([start, *ends[:-1]], ends, strict=True)]


def _check_numbers(column: Column) -> None:
    """Check the statements of a column of numbers before memory is claimed for its rows.

    Raises:
        ValueError: No writer writes such a column.
    """
    if np.dtype(column.dtype).kind not in NUMBER_KINDS | {"S", "U"}:
        raise ValueError(f"dtype {column.dtype!r} is not stored in columns")
    if not all(size >= 0 for size in column.shape) or column.n * row_bytes(column) > MAX_PART:
        raise ValueError(
            f"a column of {column.n} rows of shape {column.shape} is larger than writers write"
        )


def _unfilter(raw: bytes, column: Column) -> Array:
    """Return the rows of a column of numbers that are not stored as frames."""
    dtype: np.dtype[Any] = np.dtype(column.dtype)
    if column.filter and column.filter[0] == pixels.STACKS:
        return pixels.unpack(
            raw, n=column.n, dtype=dtype, shape=column.shape, filter_=column.filter
        )
    if column.n * row_bytes(column) != len(raw):
        raise ValueError("a column's rows do not fill its bytes")
    if not column.filter or not raw:
        return np.frombuffer(raw, dtype).reshape(column.n, *column.shape)
    if column.filter[0] != PLANES or len(column.filter) < 2:
        raise ValueError(f"filter {column.filter} is unknown")
    return unpack_planes(raw, n=column.n, dtype=dtype, shape=column.shape, orders=column.filter[1:])
