"""Fields of a chunk's steps: as values of the exact recorded types, or as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from trajrec.log.chunk import LogChunk
from trajrec.types import IntArray, Value

# A layout is a nested list of unlike items: `trajrec.log.schema.Chunk` describes it.
Layout = Any

PYTHON_DTYPES = {"int": np.dtype(np.int64), "float": np.dtype(np.float64), "bool": np.dtype("?")}
"""Type of a number of Python -> the dtype of an array of such numbers."""


def field_values(chunk: LogChunk, layout: Layout, start: int, stop: int) -> list[Value]:
    """Return rows [start, stop) of a field as values of the exact recorded types."""
    kind = layout[0]
    if kind == "leaf":
        return chunk.rows(layout[1]).values(start, stop)
    if kind == "dict":
        keys = layout[1]
        if not keys:
            return [{} for _ in range(start, stop)]
        columns = [field_values(chunk, item, start, stop) for item in layout[2]]
        return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
    items = layout[1]
    if not items:
        return [()] * (stop - start)
    return list(zip(*(field_values(chunk, item, start, stop) for item in items), strict=True))


def field_array(chunk: LogChunk, layout: Layout, start: int, stop: int) -> Value:
    """Return rows [start, stop) of a field as an array, or as a dict or tuple of arrays.

    Values that are not of one dtype and shape become an array of objects. Numbers of Python become
    int64, float64 and bool, whatever the width that the chunk stores them in.

    Raises:
        ValueError: The chunk has no such field.
    """
    if layout is None:
        raise ValueError("the chunk has no such field")
    if layout[0] == "dict":
        items = zip(layout[1], layout[2], strict=True)
        return {key: field_array(chunk, item, start, stop) for key, item in items}
    if layout[0] == "tuple":
        return tuple(field_array(chunk, item, start, stop) for item in layout[1])
    rows = chunk.rows(layout[1])
    array = rows.array(start, stop)
    if array is None:
        array = np.empty(stop - start, object)
        array[:] = rows.values(start, stop)
    elif rows.kind == "scalar":
        dtype = PYTHON_DTYPES.get(rows.type_name)
        dtype = np.dtype(rows.type_name) if dtype is None else dtype
        # Large integers of Python are stored as uint64, which int64 does not hold.
        if np.can_cast(array.dtype, dtype) or dtype.kind == "b":
            array = array.astype(dtype, copy=False)
    return array


def concatenate(parts: list[Value]) -> Value:
    """Return the rows of several chunks as one array, or as one dict or tuple of arrays.

    The arrays are copies, those of one chunk too: a caller may change them, and a chunk is read
    again by others.

    Raises:
        ValueError: The parts are not of one form.
    """
    if not parts:
        return np.zeros(0)
    first = parts[0]
    if any(type(part) is not type(first) for part in parts):
        raise ValueError("the parts are of several types")
    if isinstance(first, dict):
        if any(part.keys() != first.keys() for part in parts):
            raise ValueError("the parts have different keys")
        return {key: concatenate([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple):
        return tuple(concatenate(list(items)) for items in zip(*parts, strict=True))
    if any(part.dtype != first.dtype for part in parts):
        raise ValueError("the parts are of several dtypes")
    return np.concatenate(parts)


def sparse_values(
    chunk: LogChunk, field: str, start: int, stop: int
) -> tuple[list[int] | range, list[Value]]:
    """Return the numbers of the rows in [start, stop) that have a value of a field, and the values.

    An info is empty in most steps, so it is stored for the others only.
    """
    rows, first = sparse_span(chunk, field, start, stop)
    if not rows:
        return rows, []
    return rows, field_values(chunk, chunk.layout(field), first, first + len(rows))


def sparse_span(
    chunk: LogChunk, field: str, start: int, stop: int
) -> tuple[list[int] | range, int]:
    """Return the numbers of the rows in [start, stop) that have a value of a field.

    Returns:
        The numbers, and the position of the first value in the columns of the field.
    """
    layout = chunk.layout(field)
    if layout is None or stop <= start:
        return [], 0
    row_numbers = _row_numbers(chunk, layout)
    if row_numbers is None:
        return range(start, stop), start
    first, last = row_numbers.searchsorted((start, stop)).tolist()
    numbers: list[int] = row_numbers[first:last].tolist()
    return numbers, first


def _row_numbers(chunk: LogChunk, layout: Layout) -> IntArray | None:
    """Return the numbers of the rows that have a value of a field, or None if all have one."""
    leaf = _first_leaf(layout)
    return None if leaf is None else chunk.rows(leaf).row_numbers


def _first_leaf(layout: Layout) -> int | None:
    if layout[0] == "leaf":
        return int(layout[1])
    for item in layout[-1]:
        leaf = _first_leaf(item)
        if leaf is not None:
            return leaf
    return None
