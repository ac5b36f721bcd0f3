"""Reads the rows of a column. `trajrec.log.columns` packs them."""

from __future__ import annotations

import array
import math
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard

from trajrec.errors import LogCorruptError
from trajrec.log import pixels
from trajrec.log.columns import NUMBER_KINDS
from trajrec.log.frames import MAX_PART
from trajrec.log.pixels import PixelFrames, PixelStacks
from trajrec.log.planes import PLANES, unpack_planes
from trajrec.log.schema import Column
from trajrec.types import Array, IntArray, Value
from trajrec.values import codec
from trajrec.values.plain import IMMUTABLE_TYPES, is_immutable

# zstd states the size of the content within the first 18 bytes of a frame.
_ZSTD_HEADER = 18

_COLUMN_KINDS = NUMBER_KINDS | {"S", "U"}


_UNREAD = object()
"""Stands for a constant that was not decoded yet. None is a constant."""


class Origin(NamedTuple):
    """The chunk that columns come from. It does not refer to it: a cycle would keep each chunk.

    Attributes:
        path: The log.
        offset: The position of the frame.
        report: Called with the reason if a column contradicts itself.
    """

    path: Path
    offset: int
    report: Callable[[str], None]

    def corrupt(self, column: str, reason: str) -> LogCorruptError:
        """Report that a column contradicts itself; return it as an error."""
        text = f"column {column!r}: {reason}"
        self.report(text)
        return LogCorruptError(text, path=self.path, offset=self.offset)


NOWHERE = Origin(Path(), 0, lambda reason: None)


class ColumnRows:
    """The decoded rows of a column.

    Args:
        column: The column's record.
        data: Its bytes in the log.
        decompressor: Used here alone, not kept.
        origin: For the error that is raised if a value that is read later contradicts itself.

    Attributes:
        n: The number of rows.
        kind: The kind of the column: "array", "scalar", "value" or "const".
        type_name: The type of a scalar; "array" for an array in all rows.
        row_numbers: The number of each row in the chunk, int64 (n,), or None if every row of the
            chunk has one here.
        stacks: The rows as frames, if they are stored as stacks of frames.

    Raises:
        ValueError: The bytes are not the rows that the record states.
    """

    def __init__(
        self,
        column: Column,
        data: bytes | memoryview,
        decompressor: zstandard.ZstdDecompressor,
        *,
        origin: Origin = NOWHERE,
    ) -> None:
        self._origin = origin
        self._name = column.name
        self.n = column.n
        self.kind = column.kind
        self.type_name = column.type_name
        self.row_numbers: IntArray | None = None
        if column.rows_data is not None:
            self.row_numbers = _read_row_numbers(column.rows_data, column.n)
        self._const = b""
        self._const_value: Value = _UNREAD
        self._shape = column.shape
        self._dense: Array | None = None
        self._frames: PixelFrames | None = None
        self.stacks: PixelStacks | None = None
        self._values: list[bytes] = []
        if column.kind == "const":
            self._const = bytes(data)
            _check_size(column, len(data))
            return
        raw = _decompress(data, column.raw_bytes, decompressor)
        if column.kind == "value":
            self._values = _split_values(raw, column.n)
            return
        is_scalar = column.kind == "scalar"
        if is_scalar and column.shape:
            raise ValueError(f"scalars of shape {column.shape}")
        dtype = self._dtype = _check_type(column.dtype, column.type_name if is_scalar else None)
        width = dtype.itemsize * math.prod(column.shape)
        _check_size(column, width)
        if column.filter == (pixels.FRAMES,):
            self._frames = PixelFrames(raw, column.n, width)
        elif column.filter and column.filter[0] == pixels.STACKS:
            self.stacks = PixelStacks(
                raw, n=column.n, dtype=dtype, shape=column.shape, filter_=column.filter
            )
        else:
            self._dense = _unfilter(raw, column, dtype, width)

    @property
    def _array(self) -> Array | None:
        """All rows as one array. Frames and stacks are unpacked when it is first used."""
        if self._dense is None and self._frames is not None:
            self._dense = self._frames.dense().view(self._dtype).reshape(self.n, *self._shape)
        elif self._dense is None and self.stacks is not None:
            self._dense = self.stacks.dense()
        return self._dense

    @property
    def holds_arrays(self) -> bool:
        """Whether the rows are arrays of one dtype and shape."""
        return self.kind == "array" or (self.kind == "const" and self.type_name == "array")

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
        value = self._decode(self._const)
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
            value = self._decode(self._const)
            # Rows must not share a value that can be changed.
            if type(value) in IMMUTABLE_TYPES or is_immutable(value):
                return [value] * (stop - start)
            return [self._decode(self._const) for _ in range(start, stop)]
        if self._array is None:
            return [self._decode(value) for value in self._values[start:stop]]
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

    def holds(self, live: list[Value], kind: type, start: int) -> bool | None:
        """Return whether some numbers are those of the rows from a row on, by type and bits.

        Args:
            live: The numbers, at least one.
            kind: The type of all of them: int, float or bool.
            start: The first row.

        Returns:
            None if the rows are not a column of such numbers.
        """
        if self.kind == "const":
            if self._const_value is _UNREAD:
                self._const_value = self._decode(self._const)
            value = self._const_value
            if type(value) is not kind:
                return None
            if kind is float:
                return array.array("d", live).tobytes() == struct.pack("d", value) * len(live)
            return live.count(value) == len(live)
        if self.kind != "scalar" or self.type_name != kind.__name__ or self._array is None:
            return None
        rows = self._array[start : start + len(live)]
        if kind is float:
            return array.array("d", live).tobytes() == rows.tobytes()
        return bool(rows.tolist() == live)

    def numpy_bytes(self, start: int, stop: int) -> tuple[type, bytes] | None:
        """Return the type and the joined bytes of rows [start, stop).

        Returns:
            Type and bytes, or None if the rows are not NumPy scalars of one type.
        """
        if self.kind == "const":
            value = self._decode(self._const)
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

    def _decode(self, data: bytes) -> Value:
        try:
            return codec.decode(data)
        except ValueError as exc:
            raise self._origin.corrupt(self._name, str(exc)) from exc

    def row_bytes(self, start: int = 0, stop: int | None = None) -> bytes | None:
        """Return the joined C-order bytes of rows [start, stop), or None if they are no arrays."""
        if self.holds_arrays:
            array = self.array(start, stop)
            return None if array is None else array.tobytes()
        return None


def row_bytes(column: Column) -> int:
    """Return the bytes of a decoded row of a column of numbers, 0 for other columns."""
    return np.dtype(column.dtype).itemsize * math.prod(column.shape) if column.dtype else 0


def _read_row_numbers(data: bytes, n: int) -> IntArray:
    """Return the numbers of the n rows that have a value, in ascending order."""
    distances = codec.decode(data)
    if type(distances) is not np.ndarray or distances.dtype != np.uint32 or distances.shape != (n,):
        raise ValueError(f"its row numbers are no {n} numbers")
    if not distances[1:].all():
        raise ValueError("its row numbers do not ascend")
    return distances.cumsum(dtype=np.int64)


def _decompress(
    data: bytes | memoryview, raw_bytes: int, decompressor: zstandard.ZstdDecompressor
) -> bytes:
    """Return bytes decompressed. The stated size is checked before memory is claimed for it."""
    try:
        size = zstandard.frame_content_size(bytes(data[:_ZSTD_HEADER]))
        if size != raw_bytes or size > MAX_PART:
            raise ValueError(f"it has {size} bytes, and {raw_bytes} are stated")
        return decompressor.decompress(data)
    except zstandard.ZstdError as exc:
        raise ValueError(f"it does not decompress: {exc}") from exc


def _split_values(raw: bytes, n: int) -> list[bytes]:
    """Return the encoded values of n rows: first come their lengths, then their bytes."""
    lengths = np.frombuffer(raw, np.uint32, n)
    start = 4 * n
    ends = (start + np.cumsum(lengths, dtype=np.int64)).tolist()
    if (ends[-1] if ends else 0) != len(raw):
        raise ValueError("the lengths of its values do not add up")
    return [raw[a:b] for a, b in zip([start, *ends[:-1]], ends, strict=True)]


def _check_size(column: Column, width: int) -> None:
    """Check the memory of a column's rows before it is claimed.

    Raises:
        ValueError: No writer writes such a column.
    """
    if column.n * width > MAX_PART:
        raise ValueError(f"{column.n} rows of {width} bytes; at most {MAX_PART} bytes are read")


# Columns have few types: the cache is faster than NumPy's look at a text.
@lru_cache(maxsize=256)
def _check_type(text: str, scalar_type: str | None) -> np.dtype[Any]:
    """Return the dtype of a column of numbers.

    Args:
        text: The dtype as the record states it.
        scalar_type: The type that the numbers are widened to; None if they are arrays.

    Raises:
        ValueError: No writer stores such numbers.
    """
    dtype = np.dtype(text)
    if dtype.kind not in _COLUMN_KINDS:
        raise ValueError(f"dtype {text!r} is not stored in columns")
    if scalar_type is None:
        return dtype
    if scalar_type in ("bool", "|b1"):
        is_fitting = dtype.str == "|u1"
    elif scalar_type == "int":
        is_fitting = dtype.kind in "iu"
    elif scalar_type == "float":
        is_fitting = dtype.str == "<f8"
    else:
        wide = np.dtype(scalar_type)
        is_fitting = dtype.str == wide.str or (wide.kind in "iu" and dtype.kind in "iu")
    if not is_fitting:
        raise ValueError(f"scalars of type {scalar_type!r} are not stored as {text!r}")
    return dtype


def _unfilter(raw: bytes, column: Column, dtype: np.dtype[Any], width: int) -> Array:
    """Return the rows of a column of numbers that are not stored as frames."""
    if column.n * width != len(raw):
        raise ValueError("its rows do not fill its bytes")
    if column.filter and (column.filter[0] != PLANES or len(column.filter) < 2):
        raise ValueError(f"filter {column.filter} is unknown")
    if not column.filter or not raw:
        return np.frombuffer(raw, dtype).reshape(column.n, *column.shape)
    return unpack_planes(raw, n=column.n, dtype=dtype, shape=column.shape, orders=column.filter[1:])
