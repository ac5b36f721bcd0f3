"""States of plain numbers, by column: their changes, found in NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trajrec.corpus.index.numeric_changes import MAX_NUMBERS, Number, form_of, number
from trajrec.corpus.index.step_columns import rows_after
from trajrec.log.chunk import LogChunk
from trajrec.log.fields import Layout
from trajrec.log.rows import ColumnRows
from trajrec.types import Array, Value
from trajrec.values.float_lists import unpack_float_lists
from trajrec.values.paths import Path

# Beyond them a float64 does not hold each integer.
_MAX_INTEGER = 1 << 53


class StateNumbers(NamedTuple):
    """The numbers of the states of a chunk.

    Attributes:
        form: Which numbers they are; see `Number`.
        columns: Each number in all states, float64 (n_obs,).
        changed: The numbers that differ from those of the state in the row before, as bits, uint64
            (n_obs,).
    """

    form: str
    columns: list[Array]
    changed: Array


def state_numbers(chunk: LogChunk) -> StateNumbers | None:
    """Return the numbers of a chunk's states; None if the states have anything else.

    Raises:
        LogCorruptError: A column contradicts itself.
    """
    layout = chunk.layout("state")
    if layout is None or not chunk.n_obs:
        return None
    leaves = _leaves(chunk, layout, ())
    if leaves is None or sum(leaf.array[0].size for leaf in leaves) > MAX_NUMBERS:
        return None
    numbers: list[Number] = []
    columns: list[Array] = []
    changed = np.zeros(chunk.n_obs, np.uint64)
    for leaf in leaves:
        flat = np.ascontiguousarray(leaf.array.reshape(chunk.n_obs, -1))
        # By their bits: -0.0 differs from 0.0.
        bits = flat.view(f"u{flat.itemsize}")
        for k, index in enumerate(np.ndindex(leaf.array.shape[1:])):
            differs = (bits[1:, k] != bits[:-1, k]).astype(np.uint64)
            changed[1:] |= differs << np.uint64(len(numbers))
            numbers.append(number((*leaf.path, *index), leaf.type_name))
            columns.append(flat[:, k].astype(np.float64))
    return StateNumbers(form_of(numbers), columns, changed)


class NumericChanges(NamedTuple):
    """The changes of the steps of a chunk, for the table `numeric_changes`.

    Attributes:
        form: Which numbers they are of.
        columns: "episode" and "step" as in the columns of steps, "changed", and the numbers before
            and after the step: "b0", "b1", ... and "a0", "a1", ...
    """

    form: str
    columns: dict[str, Array]


def numeric_changes(chunk: LogChunk, steps: dict[str, Array]) -> NumericChanges | None:
    """Return the changes of a chunk's states if they are plain numbers, else None.

    The first step of a segment without a reset is left out: the state before it is elsewhere.

    Args:
        chunk: The chunk.
        steps: The columns of its steps.
    """
    states = state_numbers(chunk)
    if states is None:
        return None
    after = rows_after(chunk)
    changed = states.changed[after]
    for span in chunk.spans:
        if not span.segment.has_reset and span.segment.n_steps:
            changed[span.start] = 0
    rows = np.flatnonzero(changed)
    columns = {"episode": steps["episode"][rows], "step": steps["step"][rows]}
    columns["changed"] = changed[rows]
    after = after[rows]
    for k, column in enumerate(states.columns):
        columns[f"b{k}"] = column[after - 1]
        columns[f"a{k}"] = column[after]
    return NumericChanges(states.form, columns)


class _Leaf(NamedTuple):
    path: Path
    array: Array
    type_name: str


def _leaves(chunk: LogChunk, layout: Layout, path: Path) -> list[_Leaf] | None:
    """Return the leaves of a layout that hold numbers; None if one holds anything else."""
    if layout[0] == "leaf":
        rows = chunk.rows(layout[1])
        if rows.kind == "const" and rows.row_numbers is None:
            return []  # it changes from chunk to chunk only
        leaf = _leaf(rows, chunk.n_obs, path)
        return None if leaf is None else [leaf]
    keys = layout[1] if layout[0] == "dict" else range(len(layout[1]))
    if not all(type(key) is int or _is_simple(key) for key in keys):
        return None
    leaves: list[_Leaf] = []
    for key, item in zip(keys, layout[-1], strict=True):
        inner = _leaves(chunk, item, (*path, key))
        if inner is None:
            return None
        leaves += inner
    return leaves


def _leaf(rows: ColumnRows, n: int, path: Path) -> _Leaf | None:
    """Return a column of numbers that float64 holds; None for any other column."""
    if rows.row_numbers is not None or rows.n < n:
        return None
    array = unpack_float_lists(rows.encoded(0, n)) if rows.kind == "value" else rows.array(0, n)
    if array is None or not array.size:
        return None
    kind = array.dtype.kind
    if kind == "f":
        is_exact = array.itemsize in (4, 8) and bool(np.isfinite(array).all())
        return _Leaf(path, array, "float") if is_exact else None
    if kind == "b" or rows.type_name in ("bool", "|b1"):
        return _Leaf(path, array.astype(np.bool_), "bool")
    if kind not in "iu":
        return None
    largest = max(abs(int(array.min())), abs(int(array.max())))
    return _Leaf(path, array, "int") if largest <= _MAX_INTEGER else None


def _is_simple(key: Value) -> bool:
    """Return whether a key is the same text in JSON and in SQL."""
    return type(key) is str and key.isascii() and key.isprintable()
