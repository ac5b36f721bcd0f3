"""Columns: many rows of one kind <-> filtered, compressed bytes, losslessly.

Numbers that change little from row to row compress far better as differences whose bytes are regrouped by significance
("planes"): 15.1 bytes a step of 500-step CartPole episodes as rows, 11.5 as planes of first differences. Of large rows only
what changed is kept (`trajrec.log.pixels`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import zstandard

from trajrec.log import pixels
from trajrec.log.frames import MAX_PART
from trajrec.log.pixels import PixelFrames, PixelRows
from trajrec.log.schema import Column
from trajrec.values import codec
from trajrec.values.plain import PLAIN_TYPES

PLANES = 2
PLANES_ROW_BYTES = 1024
"""Rows up to this size are stored by planes; of larger ones only what changes is."""

Array = np.ndarray[Any, Any]
_NUMBERS = "biufcmM"


class Packer:
    """Turns rows into columns and their bytes. One per writer: a compressor must not be shared between threads."""

    def __init__(self, level: int = 3, *, search: bool = False) -> None:
        self.level, self.search = level, search
        self._compress = zstandard.ZstdCompressor(level=level, write_checksum=False).compress

    def compress(self, data: Any) -> bytes:
        """Compress bytes into one zstd frame that states its content's size."""
        return self._compress(data)

    def arrays(
        self, name: str, rows: Sequence[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> tuple[Column, bytes]:
        """Pack rows of one dtype and shape, each given as its C-order bytes."""
        if len(rows) > 1 and rows.count(rows[0]) == len(rows):
            value = np.frombuffer(rows[0], dtype).reshape(shape)
            return Column(
                name=name, kind="const", n=len(rows), rows_data=None, type_name="array"
            ), codec.encode(value)
        row_bytes = len(rows[0])
        if dtype.kind not in _NUMBERS or row_bytes == 0:
            return self._array(name, "array", b"".join(rows), len(rows), dtype, shape, ())
        if row_bytes > PLANES_ROW_BYTES:
            frames = PixelRows(dtype, shape)
            for row in rows:
                frames.add(np.frombuffer(row, dtype).reshape(shape))
            return self.pixels(name, frames, 0, len(rows), dtype, shape)
        units = _units(b"".join(rows), dtype, len(rows))
        raw, chosen = self._planes(units, order=1)
        return self._array(name, "array", raw, len(rows), dtype, shape, chosen)

    def pixels(
        self,
        name: str,
        rows: PixelRows,
        start: int,
        stop: int,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
    ) -> tuple[Column, bytes]:
        """Pack large rows [start, stop), of one dtype and shape, that were kept as changes."""
        raw, chosen = rows.pack(start, stop)
        return self._array(name, "array", raw, stop - start, dtype, shape, chosen)

    def scalars(
        self, name: str, rows: Sequence[Any], *, opaque: bool = False, where: str = ""
    ) -> tuple[Column, bytes]:
        """Pack Python and numpy scalars, texts and bytes, keeping the exact type."""
        types = set(map(type, rows))
        kind = types.pop() if len(types) == 1 else None
        numbers = _numbers(rows, kind)
        if numbers is not None:
            bits = numbers.view(np.uint8).reshape(len(rows), -1)
            if len(rows) > 1 and (bits == bits[0]).all():
                return Column(name=name, kind="const", n=len(rows)), codec.encode(rows[0])
            assert kind is not None
            stored = _narrow(numbers)
            raw, chosen = self._planes(_units(stored.tobytes(), stored.dtype, len(rows)), order=0)
            return self._array(
                name,
                "scalar",
                raw,
                len(rows),
                stored.dtype,
                (),
                chosen,
                type_name=_scalar_name(kind, numbers),
            )
        # Of other types == is not enough: it takes 0j for -0j, and 1 s for 1000 ms.
        is_comparable = kind in PLAIN_TYPES
        if is_comparable and len(rows) > 1 and rows.count(rows[0]) == len(rows):
            return Column(name=name, kind="const", n=len(rows)), codec.encode(rows[0])
        return self.values(
            name, [codec.encode(row, where=where or name, opaque=opaque) for row in rows]
        )

    def values(self, name: str, rows: Sequence[bytes]) -> tuple[Column, bytes]:
        """Pack encoded values."""
        if len(rows) > 1 and rows.count(rows[0]) == len(rows):
            return Column(name=name, kind="const", n=len(rows)), rows[0]
        raw = np.fromiter(map(len, rows), np.uint32, len(rows)).tobytes() + b"".join(rows)
        data = self._compress(raw)
        return Column(
            name=name, kind="value", n=len(rows), size=len(data), raw_bytes=len(raw)
        ), data

    def unit_rows(self, name: str, rows: Array) -> tuple[Column, bytes]:
        """Pack rows of bytes that do not compress (digests)."""
        raw = rows.tobytes()
        return self._array(name, "array", raw, len(rows), rows.dtype, rows.shape[1:], ())

    def _array(
        self,
        name: str,
        kind: Literal["array", "scalar"],
        raw: Any,
        n: int,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        filter_: tuple[int, ...],
        type_name: str = "",
    ) -> tuple[Column, bytes]:
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
            raw_bytes=memoryview(raw).nbytes,
        )
        return column, data

    def _planes(self, units: Array, order: int) -> tuple[bytes, tuple[int, ...]]:
        """Regroup units (n, k) into byte planes of differences; search the best order for each of the k if asked to."""
        columns = np.ascontiguousarray(units.T)
        if not self.search:
            return _plane_bytes(_difference(columns, order)), (PLANES, order)
        raws, orders = [], []
        for column in columns:
            tried = [_plane_bytes(_difference(column[None], k)) for k in (0, 1, 2)]
            best = min(range(3), key=lambda k: len(self._compress(tried[k])))
            raws.append(tried[best])
            orders.append(best)
        return b"".join(raws), (PLANES, *orders)


class Rows:
    """A column's rows, decoded. `place[i]` is the row of the chunk that entry i belongs to, or None where all have one."""

    def __init__(
        self, column: Column, data: bytes | memoryview, decompressor: zstandard.ZstdDecompressor
    ) -> None:
        self.n = column.n
        self.kind = column.kind
        self.type_name = column.type_name
        self.place = (
            None
            if column.rows_data is None
            else np.cumsum(codec.decode(column.rows_data), dtype=np.int64)
        )
        self._const: bytes = b""
        self._shape = column.shape
        self._dense: Array | None = None
        self._frames: PixelFrames | None = None
        self._values: list[bytes] = []
        if column.kind == "const":
            self._const = bytes(data)
            return
        raw = _decompress(data, column.raw_bytes, decompressor)
        if column.kind == "value":
            lengths = np.frombuffer(raw, np.uint32, column.n)
            ends = (4 * column.n + np.cumsum(lengths, dtype=np.int64)).tolist()
            if (ends[-1] if ends else 0) != len(raw):
                raise ValueError("the lengths of a column's values do not add up")
            self._values = [raw[a:b] for a, b in zip([4 * column.n, *ends[:-1]], ends, strict=True)]
            return
        _check_numbers(column)
        if column.filter and column.filter[0] == pixels.FRAMES:
            self._frames, self._dtype = (
                PixelFrames(raw, column.n, row_bytes(column)),
                np.dtype(column.dtype),
            )
        else:
            self._dense = _unfilter(raw, column)

    @property
    def _array(self) -> Array | None:
        if self._dense is None and self._frames is not None:
            self._dense = self._frames.dense().view(self._dtype).reshape(self.n, *self._shape)
        return self._dense

    def views(self, start: int, stop: int) -> Iterator[Array] | None:
        """Return what yields rows [start, stop), each good until the next is asked for; None where they are not of one dtype
        and shape."""
        if self._frames is not None and self._dense is None:
            return (
                frame.view(self._dtype).reshape(self._shape)
                for frame in self._frames.walk(start, stop)
            )
        array = self.array(start, stop)
        return None if array is None else iter(array)

    def array(self, start: int = 0, stop: int | None = None) -> Array | None:
        """Return rows [start, stop) as one array (n, *shape), borrowed; None where rows are not of one dtype and shape."""
        stop = self.n if stop is None else stop
        if self._array is not None:
            return self._array[start:stop]
        if self.kind == "const":
            value = codec.decode(self._const)
            if isinstance(value, (bool, int, float, np.ndarray, np.generic)):
                try:
                    value = np.asarray(value)
                except OverflowError:
                    return None
                if value.dtype.kind != "O":
                    return np.broadcast_to(value, (stop - start, *value.shape))
        return None

    def values(self, start: int = 0, stop: int | None = None) -> list[Any]:
        """Return rows [start, stop) as values of the exact recorded types; arrays are copies."""
        stop = self.n if stop is None else stop
        if self.kind == "const":
            value = codec.decode(self._const)
            if isinstance(value, (np.ndarray, list, dict, set, bytearray)):
                return [codec.decode(self._const) for _ in range(start, stop)]
            return [value] * (stop - start)
        if self._array is None:
            return [codec.decode(value) for value in self._values[start:stop]]
        if self.kind == "array":
            rows = self._array[start:stop].copy()
            return (
                list(rows)
                if rows.ndim > 1
                else [rows[i : i + 1].reshape(()) for i in range(len(rows))]
            )
        rows = self._array[start:stop]
        if self.type_name in ("int", "float"):
            return list(rows.tolist())
        if self.type_name == "bool":
            return list(rows.astype(np.bool_).tolist())
        return list(rows.astype(np.dtype(self.type_name), copy=False))

    def numpy_bytes(self, start: int, stop: int) -> tuple[type, bytes] | None:
        """Return the type and the bytes, joined, of rows [start, stop); None where they are not numpy's scalars of one type."""
        if self.kind == "const":
            value = codec.decode(self._const)
            return (
                (type(value), value.tobytes() * (stop - start))
                if isinstance(value, (np.number, np.bool_))
                else None
            )
        if (
            self.kind != "scalar"
            or self._array is None
            or self.type_name in ("int", "float", "bool")
        ):
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
        """Return the C-order bytes of rows [start, stop) of an "array" column, joined; None for other kinds."""
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
    """Decompress to exactly the stated size: a size is checked before memory is given to it."""
    if zstandard.frame_content_size(bytes(data[:18])) != raw_bytes:
        raise ValueError("a column's size is not the stated one")
    try:
        return decompressor.decompress(data)
    except zstandard.ZstdError as exc:
        raise ValueError(f"a column does not decompress: {exc}") from exc


def _check_numbers(column: Column) -> None:
    """Check what a column says of itself, before memory is given to it.

    Raises:
        ValueError: It is nothing that is written.
    """
    if np.dtype(column.dtype).kind not in _NUMBERS + "SU":
        raise ValueError(f"dtype {column.dtype!r} is not stored in columns")
    if not all(size >= 0 for size in column.shape) or column.n * row_bytes(column) > MAX_PART:
        raise ValueError(
            f"a column of {column.n} rows of shape {column.shape} is larger than any that is written"
        )


def _unfilter(raw: bytes, column: Column) -> Array:
    dtype, n, width = np.dtype(column.dtype), column.n, row_bytes(column)
    if column.filter and column.filter[0] == pixels.STACKS:
        return pixels.unpack(raw, n=n, dtype=dtype, shape=column.shape, filter_=column.filter)
    if n * width != len(raw):
        raise ValueError("a column's rows do not fill its bytes")
    shape = (n, *column.shape)
    if not column.filter or not raw:
        return np.frombuffer(raw, dtype).reshape(shape)
    if column.filter[0] != PLANES or len(column.filter) < 2:
        raise ValueError(f"filter {column.filter} is unknown")
    unit = _unit_type(dtype)
    k = width // unit.itemsize
    orders = column.filter[1:]
    planes = np.frombuffer(raw, np.uint8).reshape(k, unit.itemsize, n)
    units = planes.transpose(2, 0, 1).copy().view(unit).reshape(n, k)
    if len(orders) == 1:
        for _ in range(orders[0]):
            np.cumsum(units, axis=0, dtype=unit, out=units)
    else:
        for part, order in zip(units.T, orders, strict=True):
            for _ in range(order):
                np.cumsum(part, dtype=unit, out=part)
    return units.view(dtype).reshape(shape)


def _unit_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the unsigned integer in which differences are taken: as wide as the dtype, at most 64 bit."""
    size = dtype.itemsize
    return np.dtype(f"<u{size if size in (1, 2, 4) else 8 if size % 8 == 0 else 1}")


def _units(raw: bytes, dtype: np.dtype[Any], n: int) -> Array:
    return np.frombuffer(raw, _unit_type(dtype)).reshape(n, -1)


def _difference(columns: Array, order: int) -> Array:
    for _ in range(order):
        less = columns.copy()
        less[:, 1:] -= columns[:, :-1]
        columns = less
    return columns


def _plane_bytes(columns: Array) -> bytes:
    k, n = columns.shape
    return columns.view(np.uint8).reshape(k, n, columns.itemsize).transpose(0, 2, 1).tobytes()


def _numbers(rows: Sequence[Any], kind: type | None) -> Array | None:
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
    """Store integers in the narrowest type that holds them all."""
    if numbers.dtype.kind == "b":
        return numbers.view(np.uint8)
    if numbers.dtype.kind not in "iu":
        return numbers
    low, high = int(numbers.min()), int(numbers.max())
    for name in ("i1", "u1", "i2", "u2", "i4", "u4"):
        limits = np.iinfo(name)
        if limits.min <= low and high <= limits.max:
            return numbers.astype(name)
    return numbers


def _scalar_name(kind: type, numbers: Array) -> str:
    return kind.__name__ if kind in (int, float, bool) else numbers.dtype.str
