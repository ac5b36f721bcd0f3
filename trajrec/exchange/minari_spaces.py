"""The spaces of a Minari dataset: the forms of its observations and actions.

`metadata.json` holds each as JSON text. Columns of a composed space are dicts, a column of a leaf
is an array, or a list of texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Literal, TypeAlias

import msgspec
import numpy as np

from trajrec.exchange.reading import Place, parse_json
from trajrec.types import Array, JsonObject, Value

Columns: TypeAlias = "dict[str, Columns] | Array | list[str]"
"""The rows of a space, of a reward or of infos. The parts of a Tuple are named by their numbers."""

IMAGE_SIDE = 32
"""Minari takes a Box of bytes with at least so many rows and columns for images."""

MAX_NESTED = 40

_LEAF_KINDS = "biufc"


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """A space.

    Attributes:
        kind: "Box", "Discrete", "MultiDiscrete", "MultiBinary", "Text", "Dict" or "Tuple".
        shape: The shape of a value of a leaf.
        is_image: Whether Minari may hold its values as JPEG.
        parts: The spaces in a Dict or Tuple, by name or number.
    """

    kind: str
    shape: tuple[int, ...] = ()
    is_image: bool = False
    parts: dict[str, Space] = msgspec.field(default_factory=dict)

    @property
    def is_composed(self) -> bool:
        """Whether it is a Dict or a Tuple."""
        return self.kind in ("Dict", "Tuple")


def read_space(metadata: JsonObject, name: str, place: Place) -> Space:
    """Return a space of a dataset.

    Raises:
        ImportFileError: It is missing, or none that is read.
    """
    value = metadata.get(name)
    if value is None:
        raise place.error(f"{name} is missing: load the dataset with Minari, and save it again")
    at = place.at(name)
    if type(value) is str:
        value = parse_json(value, path=place.path, position=at.position)
    return _space(value, at, 0)


def _space(value: Value, place: Place, depth: int) -> Space:
    fields = place.expect(dict, value, "a space")
    kind = place.expect(str, fields.get("type"), "type")
    if depth > MAX_NESTED:
        raise place.error(f"nests deeper than {MAX_NESTED} spaces")
    if kind in ("Dict", "Tuple"):
        inner: Value = place.expect(
            dict if kind == "Dict" else list, fields.get("subspaces"), "subspaces"
        )
        items = inner.items() if kind == "Dict" else enumerate(inner)
        parts = {str(key): _space(item, place.at(str(key)), depth + 1) for key, item in items}
        return Space(kind=kind, parts=parts)
    if kind == "Box":
        shape = _shape(fields.get("shape"), place)
        return Space(kind=kind, shape=shape, is_image=_is_image(fields, shape))
    if kind == "MultiDiscrete":
        return Space(kind=kind, shape=_array(fields.get("nvec"), place).shape)
    if kind == "MultiBinary":
        n = fields.get("n")
        return Space(kind=kind, shape=_shape([n] if type(n) is int else n, place))
    if kind in ("Discrete", "Text"):
        return Space(kind=kind)
    raise place.error(f"is a space of type {kind!r}, which is not read")


def _shape(value: Value, place: Place) -> tuple[int, ...]:
    sizes = place.expect(list, value, "shape")
    if not all(type(size) is int and 0 <= size < 1 << 31 for size in sizes):
        raise place.error(f"shape must be sizes, got {sizes!r:.60}")
    return tuple(sizes)


def _array(value: Value, place: Place) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as exc:
        raise place.error(f"is no array: {exc}") from exc
    if array.dtype.kind not in _LEAF_KINDS:
        raise place.error("is no array of numbers")
    return array


def _is_image(fields: JsonObject, shape: tuple[int, ...]) -> bool:
    """Return whether Minari takes a Box for images."""
    return (
        len(shape) in (2, 3)
        and min(shape[:2]) >= IMAGE_SIDE
        and fields.get("dtype") == "uint8"
        and bool(np.all(np.asarray(fields.get("low")) == 0))
        and bool(np.all(np.asarray(fields.get("high")) == 255))
    )


def check_column(space: Space, column: Array, n_rows: int, place: Place) -> Array:
    """Return the column of a leaf, if it has the rows and the shape of its space.

    Raises:
        ImportFileError: It has others.
    """
    wanted = (n_rows, *space.shape)
    if column.dtype.kind not in _LEAF_KINDS:
        raise place.error(f"is of type {column.dtype}, which is no number")
    if column.shape == wanted:
        return column
    # Minari takes a Discrete action that is an array of one number.
    if column.size == math.prod(wanted) and column.shape[:1] == (n_rows,):
        return column.reshape(wanted)
    raise place.error(f"has the shape {column.shape}, and not {wanted}")


Rows: TypeAlias = Callable[[int], Value]
"""Returns a row by its number."""

NumberKind = Literal["python", "numpy", "array"]
"""The type of a single number: Python's own, NumPy's, or an array without dimensions."""

_PLAIN_DTYPES = frozenset(map(np.dtype, (np.float64, np.int64, np.uint64, np.bool_)))


def rows_of(
    space: Space,
    columns: Columns,
    path: str,
    kinds: Mapping[str, NumberKind],
    *,
    discrete: NumberKind,
) -> Rows:
    """Return a function that returns the value of a row.

    Args:
        space: The space.
        columns: Its columns.
        path: Its path, e.g. "observations/position".
        kinds: The types of single numbers by path, as far as they are known.
        discrete: The type of a number of a Discrete of which it is not known.
    """
    if space.is_composed:
        assert isinstance(columns, dict)
        parts = {
            name: rows_of(part, columns[name], f"{path}/{name}", kinds, discrete=discrete)
            for name, part in space.parts.items()
        }
        if space.kind == "Dict":
            return lambda row: {name: part(row) for name, part in parts.items()}
        items = tuple(parts.values())
        return lambda row: tuple(part(row) for part in items)
    leaf: Value = columns
    if space.kind == "Text":
        return lambda row: leaf[row]
    if leaf.ndim == 1:
        default: NumberKind = discrete if space.kind == "Discrete" else "array"
        return number_rows(leaf, kinds.get(path, default))
    return lambda row: leaf[row]


def number_rows(column: Value, kind: NumberKind) -> Rows:
    """Return a function that returns a number of a column."""
    if kind == "array":
        return lambda row: column[row, ...]
    if kind == "python" and column.dtype in _PLAIN_DTYPES:
        return lambda row: column[row].item()
    return lambda row: column[row]


def info_rows(
    columns: Columns,
    path: str,
    kinds: Mapping[str, NumberKind],
    tuples: Collection[str] = (),
) -> Rows:
    """Return a function that returns a row of infos, or of rewards.

    Args:
        columns: Their columns.
        path: Their path, e.g. "infos".
        kinds: The types of single numbers by path, as far as they are known.
        tuples: The paths of tuples, which are stored as dicts.
    """
    if isinstance(columns, dict):
        names = {str(number): f"_index_{number}" for number in range(len(columns))}
        is_tuple = path in tuples and columns.keys() == set(names.values())
        if not is_tuple:
            names = {name: name for name in columns}
        parts = {
            name: info_rows(columns[stored], f"{path}/{name}", kinds, tuples)
            for name, stored in names.items()
        }
        if is_tuple:
            return lambda row: tuple(part(row) for part in parts.values())
        return lambda row: {name: part(row) for name, part in parts.items()}
    leaf: Value = columns
    if isinstance(leaf, list) or leaf.ndim > 1:
        return lambda row: leaf[row]
    return number_rows(leaf, kinds.get(path, "python"))


def lengths(columns: Columns) -> set[int]:
    """Return the numbers of rows of all columns."""
    if isinstance(columns, dict):
        return set().union(*map(lengths, columns.values()))
    return {len(columns)}
