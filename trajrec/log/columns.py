"""Packs rows of one kind into columns: filtered, compressed, and lossless.

`trajrec.log.rows` reads them. Small rows of numbers are stored as planes (`trajrec.log.planes`),
large rows as changes (`trajrec.log.pixels`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import zstandard

from trajrec.log.frames import MAX_PART
from trajrec.log.pixel_changes import PixelDiff, PixelItem, PixelPacker
from trajrec.log.planes import PLANES, pack_planes, to_columns, to_units
from trajrec.log.schema import Column
from trajrec.types import Array, Value
from trajrec.values import codec
from trajrec.values.plain import PLAIN_TYPES

# Small rows are measurements, which all change a little at each step: planes suit them. Most of a
# large row stands still, so only the words that change are stored.
LARGE_ROW_BYTES = 1024

# Kinds of dtypes whose differences and bytes make sense: numbers and times.
NUMBER_KINDS = frozenset("biufcmM")

PackedColumn = tuple[Column, bytes]


class Packer:
    """Turns rows into columns and their bytes.

    Each writer needs one of its own: two threads must not share a compressor.

    Args:
        level: zstd's level. A recorder compresses beside the loop and takes a fast one: 4 makes logs
            1 to 6 % smaller than 3, for 0.03 us a CartPole step.
        search: Whether to try several orders of differences for each number of a row, and to keep
            the smallest result. It takes longer and is meant for compaction.
    """

    def __init__(self, level: int = 4, *, search: bool = False) -> None:
        self._search = search
        # Without zstd's checksum: each frame of the log has one.
        self._compress = zstandard.ZstdCompressor(level=level, write_checksum=False).compress

    def compress(self, data: bytes) -> bytes:
        """Compress bytes into one zstd frame that states the size of its content."""
        return self._compress(data)

    def pack_arrays(
        self, name: str, rows: Sequence[bytes], *, dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> PackedColumn:
        """Pack rows of one dtype and shape.

        Args:
            name: The column's name.
            rows: The C-order bytes of each row.
            dtype: The dtype of the rows.
            shape: The shape of a row.
        """
        if _are_equal(rows):
            value = np.frombuffer(rows[0], dtype).reshape(shape)
            column = Column(name=name, kind="const", n=len(rows), type_name="array")
            return column, codec.encode(value)
        row_bytes = len(rows[0])
        if dtype.kind not in NUMBER_KINDS or row_bytes == 0:
            raw = b"".join(rows)
            return self._pack(name, "array", raw, n=len(rows), dtype=dtype, shape=shape)
        if row_bytes > LARGE_ROW_BYTES:
            pixels = PixelDiff(dtype, shape)
            items = [pixels.take(np.frombuffer(row, dtype).reshape(shape)) for row in rows]
            return self.pack_pixels(name, PixelPacker(dtype, shape), items)
        table = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), row_bytes)
        return self.pack_table(name, table, dtype=dtype, shape=shape)

    def pack_table(
        self, name: str, table: Array, *, dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> PackedColumn:
        """Pack rows of one dtype and shape, given as a table of their bytes, uint8 (n, size)."""
        n, size = table.shape
        if dtype.kind not in NUMBER_KINDS or size > LARGE_ROW_BYTES or size == 0:
            rows = [row.tobytes() for row in table]
            return self.pack_arrays(name, rows, dtype=dtype, shape=shape)
        raw = table.tobytes()
        if n > 1 and raw == raw[:size] * n:
            value = np.frombuffer(raw[:size], dtype).reshape(shape)
            return Column(name=name, kind="const", n=n, type_name="array"), codec.encode(value)
        planes, filter_ = self._planes(to_units(raw, dtype, n), order=1)
        return self._pack(name, "array", planes, n=n, dtype=dtype, shape=shape, filter_=filter_)

    def pack_pixels(
        self,
        name: str,
        pixels: PixelPacker,
        items: Sequence[PixelItem],
        n_before: int = 0,
        items_before: Callable[[], Sequence[PixelItem]] = tuple,
    ) -> PackedColumn:
        """Pack large rows that are kept as changes; see `PixelPacker.pack`."""
        raw, filter_ = pixels.pack(items, n_before, items_before)
        return self._pack(
            name,
            "array",
            raw,
            n=len(items),
            dtype=pixels.dtype,
            shape=pixels.shape,
            filter_=filter_,
        )

    def pack_scalars(self, name: str, rows: Sequence[Value]) -> PackedColumn:
        """Pack Python and NumPy scalars, texts and bytes, with their exact types."""
        kinds = set(map(type, rows))
        kind = kinds.pop() if len(kinds) == 1 else None
        numbers = _numbers(rows, kind)
        if kind is not None and numbers is not None:
            return self.pack_numbers(name, numbers, kind)
        # Of other types == is not enough: it takes 0j for -0j, and 1 s for 1000 ms.
        if kind in PLAIN_TYPES and _are_equal(rows):
            return Column(name=name, kind="const", n=len(rows)), codec.encode(rows[0])
        return self.pack_values(name, [codec.encode(row, where=name) for row in rows])

    def pack_numbers(self, name: str, numbers: Array, kind: type | None = None) -> PackedColumn:
        """Pack scalars of one numeric type.

        Args:
            name: The column's name.
            numbers: The scalars, an array (n,).
            kind: Their type: int, float or bool, or by default NumPy's type for the dtype.
        """
        n = len(numbers)
        bits = numbers.view(np.uint8).reshape(n, -1)
        if n > 1 and (bits == bits[0]).all():
            value = numbers[0] if kind is None else kind(numbers[0])
            return Column(name=name, kind="const", n=n), codec.encode(value)
        stored = _narrow(numbers)
        # Order 0: single numbers, such as rewards, mostly jump between few values.
        raw, filter_ = self._planes(to_units(stored.tobytes(), stored.dtype, n), order=0)
        return self._pack(
            name,
            "scalar",
            raw,
            n=n,
            dtype=stored.dtype,
            shape=(),
            filter_=filter_,
            type_name=_scalar_name(kind, numbers),
        )

    def pack_values(self, name: str, rows: Sequence[bytes]) -> PackedColumn:
        """Pack encoded values."""
        if _are_equal(rows):
            return Column(name=name, kind="const", n=len(rows)), rows[0]
        lengths = np.fromiter(map(len, rows), np.uint32, len(rows))
        raw = lengths.tobytes() + b"".join(rows)
        data = self._compress(raw)
        column = Column(name=name, kind="value", n=len(rows), size=len(data), raw_bytes=len(raw))
        return column, data

    def pack_unfiltered(self, name: str, rows: Array) -> PackedColumn:
        """Pack rows that no filter makes smaller (digests), an array (n, *shape)."""
        shape = rows.shape[1:]
        return self._pack(name, "array", rows.tobytes(), n=len(rows), dtype=rows.dtype, shape=shape)

    def _pack(
        self,
        name: str,
        kind: Literal["array", "scalar"],
        raw: bytes,
        *,
        n: int,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        filter_: tuple[int, ...] = (),
        type_name: str = "",
    ) -> PackedColumn:
        # Readers refuse such a column, however small it is when compressed.
        n_bytes = n * dtype.itemsize * math.prod(shape)
        if n_bytes > MAX_PART:
            raise ValueError(
                f"{n_bytes} bytes in column {name!r}; at most {MAX_PART} are read back"
            )
        data = self._compress(raw)
        column = Column(
            name=name,
            kind=kind,
            n=n,
            dtype=dtype.str,
            shape=shape,
            type_name=type_name,
            filter=filter_,
            size=len(data),
            raw_bytes=len(raw),
        )
        return column, data

    def _planes(self, units: Array, order: int) -> tuple[bytes, tuple[int, ...]]:
        """Return units (n, k) as planes, and the filter with the orders of the differences."""
        columns = to_columns(units)
        if not self._search:
            return pack_planes(columns, order), (PLANES, order)
        raws = []
        orders = []
        for column in columns:
            candidates = [pack_planes(column[None], order) for order in (0, 1, 2)]
            sizes = [len(self._compress(candidate)) for candidate in candidates]
            best = sizes.index(min(sizes))
            raws.append(candidates[best])
            orders.append(best)
        return b"".join(raws), (PLANES, *orders)


def place_columns(
    columns: Sequence[Column], data: Sequence[bytes]
) -> tuple[list[Column], list[bytes]]:
    """Return columns with the positions and checksums of their bytes in a frame, and its data.

    A constant goes into the record of its column: there it is compressed together with the others.
    """
    placed = []
    parts = []
    offset = 0
    for column, part in zip(columns, data, strict=True):
        if column.kind == "const":
            column = msgspec.structs.replace(column, const_data=part, offset=0, size=0)
        else:
            column = msgspec.structs.replace(
                column, offset=offset, size=len(part), checksum=zlib.crc32(part)
            )
            parts.append(part)
            offset += len(part)
        placed.append(column)
    return placed, parts


def _are_equal(rows: Sequence[Value]) -> bool:
    """Return whether there are several rows that are all equal by ==."""
    return len(rows) > 1 and rows.count(rows[0]) == len(rows)


def _numbers(rows: Sequence[Value], kind: type | None) -> Array | None:
    """Return scalars of one numeric type as an array with their exact bits, else None."""
    if kind is float:
        return np.array(rows, np.float64)
    if kind is bool:
        return np.array(rows, np.bool_)
    if kind is int:
        try:
            return np.array(rows, np.int64)
        except OverflowError:
            return None
    if kind is not None and issubclass(kind, np.generic):
        dtype = rows[0].dtype
        if dtype.kind in "biuf" and dtype.itemsize <= 8:
            return np.array(rows, dtype)
    return None


def _narrow(numbers: Array) -> Array:
    """Return integers in the narrowest type that holds them all, and other numbers unchanged."""
    if numbers.dtype.kind == "b":
        return numbers.view(np.uint8)
    if numbers.dtype.kind not in "iu":
        return numbers
    low = int(numbers.min())
    high = int(numbers.max())
    for name in ("i1", "u1", "i2", "u2", "i4", "u4"):
        limits = np.iinfo(name)
        if limits.min <= low and high <= limits.max:
            return numbers.astype(name)
    return numbers


def _scalar_name(kind: type | None, numbers: Array) -> str:
    return kind.__name__ if kind in (int, float, bool) and kind is not None else numbers.dtype.str
