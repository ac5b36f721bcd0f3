"""The columns of a chunk, read slowly: each row as a typed value.

Written from docs/reference/log-format.md alone, as `slow_values` was.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import zstandard
from slow_values import DamageError, Typed, float_bits, numpy_dtype, unpack

Struct = dict[str, Any]


def decompress(data: bytes) -> bytes:
    """Return the contents of one zstd frame that states their size."""
    return zstandard.ZstdDecompressor().decompress(data)


def ungrouped(data: bytes, size: int, n: int) -> list[int]:
    """Return n integers of some size whose bytes stand as [byte of the integer][row]."""
    if len(data) != size * n:
        raise DamageError(f"{len(data)} bytes are not {n} integers of {size} bytes")
    return [int.from_bytes(data[row::n], "little") for row in range(n)]


def summed(numbers: list[int], bits: int) -> list[int]:
    """Undo differences, modulo 2^bits."""
    total = 0
    sums = []
    for number in numbers:
        total = (total + number) % (1 << bits)
        sums.append(total)
    return sums


def unplaned(data: bytes, row_size: int, item_size: int, orders: list[int]) -> list[bytes]:
    """Undo the filter "planes"."""
    size = item_size if item_size in (1, 2, 4, 8) else 8 if item_size % 8 == 0 else 1
    k = row_size // size
    n = len(data) // row_size
    if len(orders) == 1:
        orders = orders * k
    series = []
    for number in range(k):
        column = ungrouped(data[number * size * n : (number + 1) * size * n], size, n)
        for _ in range(orders[number]):
            column = summed(column, 8 * size)
        series.append(column)
    return [b"".join(column[row].to_bytes(size, "little") for column in series) for row in range(n)]


def unframed(data: bytes, row_size: int, n: int) -> list[bytes]:
    """Undo the filter "frames": the changes from row to row."""
    if n == 0:
        return []
    width = next(size for size in (8, 4, 2, 1) if row_size % size == 0)
    words = row_size // width
    changes, rest = divmod(len(data) - row_size, 4 + width)
    if rest or changes < 0:
        raise DamageError("the changes of frames have a wrong size")
    distances = ungrouped(data[row_size : row_size + 4 * changes], 4, changes)
    positions = summed(distances, 64)
    new = data[row_size + 4 * changes :]
    rows = [bytearray(data[:row_size])]
    number = 0
    for row in range(n - 1):
        frame = bytearray(rows[-1])
        while number < changes and positions[number] // words == row:
            place = positions[number] % words * width
            frame[place : place + width] = new[number * width : (number + 1) * width]
            number += 1
        rows.append(frame)
    if number != changes:
        raise DamageError("a change of frames has no row")
    return [bytes(row) for row in rows]


def unstacked(
    data: bytes, n: int, shape: list[int], item_size: int, spec: list[int]
) -> list[bytes]:
    """Undo the filter "stacks": each row is a stack of the last frames."""
    axis, *whole = spec
    depth = shape[axis]
    row_size = math.prod(shape) * item_size
    n_frames = n + (depth - 1) * len(whole)
    frames = unframed(data, row_size // depth, n_frames)
    stack: list[bytes] = []
    rows = []
    at = 0
    for row in range(n):
        size = depth if row in whole else 1
        stack = [*stack, *frames[at : at + size]][-depth:]
        at += size
        if len(stack) != depth:
            raise DamageError("the first row of stacks is not listed")
        rows.append(interleaved(stack, item_size) if axis else b"".join(stack))
    return rows


def interleaved(frames: list[bytes], size: int) -> bytes:
    """Stack frames along the last axis."""
    return b"".join(
        frame[at : at + size] for at in range(0, len(frames[0]), size) for frame in frames
    )


def stored_rows(data: bytes, column: Struct) -> list[bytes]:
    """Return the bytes of each row of an `array` or `scalar` column."""
    item_size = numpy_dtype(column["dtype"]).itemsize
    row_size = math.prod(column["shape"]) * item_size
    n = column["n"]
    match column["filter"]:
        case []:
            rows = [data[row * row_size : (row + 1) * row_size] for row in range(n)]
            if len(data) != n * row_size:
                raise DamageError(f"column {column['name']} has a wrong size")
            return rows
        case [1]:
            return unframed(data, row_size, n)
        case [2, *orders]:
            rows = unplaned(data, row_size, item_size, orders)
        case [3, *spec]:
            rows = unstacked(data, n, column["shape"], item_size, spec)
        case unknown:
            raise DamageError(f"unknown filter {unknown}")
    if len(rows) != n:
        raise DamageError(f"column {column['name']} has {len(rows)} rows, not {n}")
    return rows


def scalar(row: bytes, stored: str, type_name: str) -> Typed:
    """Return a row of a `scalar` column in its own type."""
    number = np.frombuffer(row, numpy_dtype(stored))[0]
    match type_name:
        case "int":
            return int(number)
        case "float":
            return float_bits(float(number))
        case "bool":
            return bool(number)
    dtype = np.dtype(type_name)
    return {"scalar": [type_name, np.asarray(number).astype(dtype).tobytes()]}


def column_values(data: bytes, column: Struct) -> list[Typed]:
    """Return the values of a column, one for each row that has one.

    Args:
        data: The bytes of the column, as stored.
        column: Its record.
    """
    n = column["n"]
    if column["kind"] == "const":
        return [unpack(column["const_data"])] * n
    content = decompress(data)
    if len(content) != column["raw_bytes"]:
        raise DamageError(f"column {column['name']} has {len(content)} bytes")
    if column["kind"] == "value":
        lengths = struct.unpack_from(f"<{n}I", content)
        at = 4 * n
        values = []
        for length in lengths:
            values.append(unpack(content[at : at + length]))
            at += length
        if at != len(content):
            raise DamageError(f"column {column['name']} has bytes behind its values")
        return values
    rows = stored_rows(content, column)
    if column["kind"] == "scalar":
        return [scalar(row, column["dtype"], column["type_name"]) for row in rows]
    if column["kind"] == "array":
        return [{"array": [column["dtype"], column["shape"], row]} for row in rows]
    raise DamageError(f"unknown kind of column {column['kind']!r}")


def row_numbers(column: Struct, n_rows: int) -> list[int]:
    """Return the row of each value of a column."""
    if column["rows_data"] is None:
        if column["n"] != n_rows:
            raise DamageError(f"column {column['name']} has {column['n']} of {n_rows} rows")
        return list(range(n_rows))
    _, _, data = unpack(column["rows_data"])["array"]
    rows = summed(list(struct.unpack(f"<{len(data) // 4}I", data)), 32)
    if len(rows) != column["n"]:
        raise DamageError(f"column {column['name']} has {len(rows)} numbers of rows")
    return rows


def assembled(layout: list[Any], values: list[list[Typed]], number: int) -> Typed:
    """Return a value of a field, put together from its columns by a layout."""
    match layout:
        case ["leaf", index]:
            return values[index][number]
        case ["dict", keys, layouts]:
            items = zip(keys, layouts, strict=True)
            return {"dict": [[key, assembled(item, values, number)] for key, item in items]}
        case ["tuple", layouts]:
            return {"tuple": [assembled(item, values, number) for item in layouts]}
    raise DamageError(f"unknown layout {layout!r}")


def leaves(layout: list[Any]) -> list[int]:
    """Return the columns of a layout."""
    if layout[0] == "leaf":
        return [layout[1]]
    return [column for item in layout[-1] for column in leaves(item)]
