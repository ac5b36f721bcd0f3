"""Checks a chunk's record before anything in it is believed: sizes, references and order.

The bounds of single numbers stand in the types of `trajrec.log.schema`; the reader of a column
(`trajrec.log.rows`) checks its bytes. What one record cannot show, the order of an episode's parts,
is checked by those who read episodes (`trajrec.log.episode_parts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trajrec.log.bounds import MAX_ROWS
from trajrec.log.schema import Chunk, Column, Segment
from trajrec.values.digest import CHECK_BYTES, KEY_BYTES

MAX_LAYOUT_DEPTH = 100

OBSERVATION_FIELDS = frozenset(("obs", "state"))
"""The fields with a row for each observation, those of resets included."""

STEP_FIELDS = frozenset(("action", "reward", "info"))
"""The fields with a row for each step."""

_SPARSE_FIELDS = frozenset(("state", "info"))
"""The fields that need not have a value in each row."""

DIGESTS = "state_digest"
"""The column without a layout: it has a row for each observation."""

DIGEST_SHAPES = ((CHECK_BYTES,), (KEY_BYTES,))


def check_chunk(chunk: Chunk, data_size: int, n_steps: int, n_obs: int) -> None:
    """Check the columns of a chunk and its layouts.

    Args:
        chunk: The record.
        data_size: The bytes of the frame's data.
        n_steps: The rows of the steps of its segments.
        n_obs: The rows of their observations.

    Raises:
        ValueError: The record contradicts itself, or its frame.
    """
    if n_obs > MAX_ROWS:
        raise ValueError(f"{n_obs} rows are more than a chunk may have")
    columns = chunk.columns
    _check_places(columns, data_size)
    n_used = 0
    has_unknown = False
    for field, layout in chunk.layouts.items():
        n_rows = n_steps
        if field in OBSERVATION_FIELDS:
            n_rows = n_obs
        elif field not in STEP_FIELDS:
            # A field of a later program: any column may be its own, or be shared with others.
            has_unknown = True
            continue
        n_used += _check_layout(layout, field, columns, n_rows)
    for column in columns:
        if column.name == DIGESTS:
            n_used += 1
            if column.n != n_obs or column.rows_data is not None:
                raise ValueError(f"{column.n} digests of states for {n_obs} observations")
            is_packed = column.dtype == "|u1" and column.shape in DIGEST_SHAPES
            if not is_packed and column.kind != "const":
                raise ValueError("the digests of states have neither 3 nor 8 bytes")
    if n_used != len(columns) and not has_unknown:
        raise ValueError(f"the layouts name {n_used} columns of {len(columns)}")
    layouts = chunk.layouts
    if (n_steps and not ("action" in layouts and "reward" in layouts)) or (
        n_obs and "obs" not in layouts
    ):
        raise ValueError("a field of its steps is missing")
    if chunk.irregular:
        _check_irregular(chunk)


def _check_places(columns: Sequence[Column], data_size: int) -> None:
    """Check that the bytes of the columns fill the frame's data, back to back."""
    position = 0
    for column in columns:
        if column.const_data is None:
            if column.offset != position:
                raise ValueError(f"column {column.name!r} does not follow the one before it")
            position += column.size
        elif column.kind != "const" or column.size:
            raise ValueError(f"column {column.name!r} has a constant and is none")
    if position != data_size:
        raise ValueError(f"the columns have {position} bytes, and the frame has {data_size}")


# A layout is a nested list of unlike items: `trajrec.log.schema.Chunk` describes it.
def _check_layout(layout: Any, path: str, columns: Sequence[Column], n_rows: int) -> int:
    """Check the layout of a field, and return the number of its columns."""
    # Most fields are one column.
    if type(layout) is list and len(layout) == 2 and layout[0] == "leaf":
        column = _column(layout[1], columns)
        if column.name != path:
            raise ValueError(f"the layout of {path!r} names column {column.name!r}")
        if column.rows_data is not None or column.n != n_rows:
            _check_rows(path, column.n, n_rows, is_dense=column.rows_data is None)
        return 1
    leaves = _leaves(layout, path, 0)
    forms = set()
    for name, index in leaves:
        column = _column(index, columns)
        if column.name != name:
            raise ValueError(f"the layout of {name!r} names column {column.name!r}")
        forms.add((column.n, column.rows_data))
    if len(forms) > 1:
        raise ValueError(f"the columns of {path!r} have different rows")
    for n, rows_data in forms:
        _check_rows(path, n, n_rows, is_dense=rows_data is None)
    return len(leaves)


def _check_rows(field: str, n: int, n_rows: int, *, is_dense: bool) -> None:
    """Check the number of rows of a field's columns."""
    if (n != n_rows) if is_dense else (field not in _SPARSE_FIELDS or n > n_rows):
        raise ValueError(f"the columns of {field!r} have {n} rows of {n_rows}")


def _column(index: Any, columns: Sequence[Column]) -> Column:
    if type(index) is not int or not 0 <= index < len(columns):
        raise ValueError(f"a layout names column {index!r} of {len(columns)}")
    return columns[index]


def _leaves(layout: Any, path: str, depth: int) -> list[tuple[str, Any]]:
    """Return the path of each leaf of a layout, and the number of its column.

    Raises:
        ValueError: It is no layout.
    """
    if depth > MAX_LAYOUT_DEPTH:
        raise ValueError("a layout is nested too deeply")
    named: list[tuple[str, Any]]
    match layout:
        case ["leaf", index]:
            return [(path, index)]
        case ["dict", list(keys), list(items)] if len(keys) == len(items):
            if not all(type(key) is str for key in keys) or len(set(keys)) != len(keys):
                raise ValueError(f"the keys of {path!r} are no different texts")
            named = list(zip(keys, items, strict=True))
        case ["tuple", list(items)]:
            named = [(str(number), item) for number, item in enumerate(items)]
        case _:
            raise ValueError(f"the layout of {path!r} is of no known form")
    return [leaf for key, item in named for leaf in _leaves(item, f"{path}/{key}", depth + 1)]


def _check_irregular(chunk: Chunk) -> None:
    """Check that each irregular info is one of a step of the chunk."""
    segments: dict[int, list[Segment]] = {}
    for segment in chunk.segments:
        segments.setdefault(segment.episode, []).append(segment)
    for episode, step, _ in chunk.irregular:
        if not any(
            segment.first_step <= step < segment.first_step + segment.n_steps
            for segment in segments.get(episode, ())
        ):
            raise ValueError(f"an info of episode {episode} step {step}, which is not in the chunk")
