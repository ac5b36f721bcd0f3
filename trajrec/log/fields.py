"""Fields of a chunk's steps: as values of the exact recorded types, or as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from trajrec.log.reader import LogChunk
from trajrec.log.rows import ColumnRows


def field_values(chunk: LogChunk, layout: Any, start: int, stop: int) -> list[Any]:
    """Return rows of a field as values of the exact recorded types."""
    if layout[0] == "leaf":
        return chunk.rows(layout[1]).values(start, stop)
    if layout[0] == "dict":
        if not layout[1]:
            return [{} for _ in range(start, stop)]
        columns = [field_values(chunk, item, start, stop) for item in layout[2]]
        return [dict(zip(layout[1], row, strict=True)) for row in zip(*columns, strict=True)]
    if not layout[1]:
        return [()] * (stop - start)
    return list(zip(*(field_values(chunk, item, start, stop) for item in layout[1]), strict=True))


def field_array(chunk: LogChunk, layout: Any, start: int, stop: int) -> Any:
    """Return rows of a field as an array, or a dict or tuple of arrays.

    Raises:
        ValueError: A leaf is not of one dtype and shape.
    """
    if layout is None:
        raise ValueError("the chunk has no such field")
    if layout[0] == "dict":
        return {
            key: field_array(chunk, item, start, stop)
            for key, item in zip(layout[1], layout[2], strict=True)
        }
    if layout[0] == "tuple":
        return tuple(field_array(chunk, item, start, stop) for item in layout[1])
    rows: ColumnRows = chunk.rows(layout[1])
    array = rows.array(start, stop)
    if array is None:
        found = np.empty(stop - start, object)
        found[:] = rows.values(start, stop)
        return found
    return array


def concatenate(parts: list[Any]) -> Any:
    """Return the rows of several chunks as one.

    Raises:
        ValueError: They are not of one form.
    """
    if not parts:
        return np.zeros(0)
    if any(type(part) is not type(parts[0]) for part in parts):
        raise ValueError("parts differ")
    if isinstance(parts[0], dict):
        if any(part.keys() != parts[0].keys() for part in parts):
            raise ValueError("parts differ")
        return {key: concatenate([part[key] for part in parts]) for key in parts[0]}
    if isinstance(parts[0], tuple):
        return tuple(concatenate(list(items)) for items in zip(*parts, strict=True))
    if any(part.dtype != parts[0].dtype for part in parts):
        raise ValueError("parts differ")
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def sparse_values(
    chunk: LogChunk, field: str, start: int, stop: int
) -> tuple[list[int], list[Any]]:
    """Return the rows in [start, stop) of a field that has values only in some rows, and the values."""
    layout = chunk.layout(field)
    if layout is None or stop <= start:
        return [], []
    leaf = _first_leaf(layout)
    place = None if leaf is None else chunk.rows(leaf).row_numbers
    if place is None:
        return list(range(start, stop)), field_values(chunk, layout, start, stop)
    first, last = np.searchsorted(place, [start, stop]).tolist()
    return place[first:last].tolist(), field_values(chunk, layout, first, last)


def dense_columns(chunk: LogChunk, field: str) -> dict[Any, ColumnRows] | None:
    """Return the columns of a field by key, under None where the field is one column; None where some rows have no value, or
    values lie deeper."""
    layout = chunk.layout(field)
    leaves = {None: layout} if layout is not None and layout[0] == "leaf" else None
    if layout is not None and layout[0] == "dict":
        leaves = dict(zip(layout[1], layout[2], strict=True))
    if leaves is None or any(leaf[0] != "leaf" for leaf in leaves.values()):
        return None
    columns = {key: chunk.rows(leaf[1]) for key, leaf in leaves.items()}
    return None if any(rows.row_numbers is not None for rows in columns.values()) else columns


def _first_leaf(layout: Any) -> int | None:
    if layout[0] == "leaf":
        return int(layout[1])
    for item in layout[-1]:
        if (found := _first_leaf(item)) is not None:
            return found
    return None
