"""Turns the values of an episode into the columns that Minari stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from trajrec.exchange.minari_spaces import NumberKind
from trajrec.types import Array, Value
from trajrec.values.codec import Plain

_KINDS = "biufc"

_PYTHON = frozenset((bool, int, float))

_MAX_ITEM_BYTES = 16


class NotHeldError(Exception):
    """Minari cannot hold a value.

    Attributes:
        reason: Why not.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.reason = f"{path}: {reason}"
        super().__init__(self.reason)


class Leaf(NamedTuple):
    """A column.

    Attributes:
        values: An array with a row for each value, or texts.
        number: The type of single numbers; "" if they are none.
        is_mixed: Whether the numbers were of several types.
    """

    values: Array | list[str]
    number: NumberKind | Literal[""] = ""
    is_mixed: bool = False


class Composed(NamedTuple):
    """The columns of dicts or tuples.

    Attributes:
        kind: "Dict" or "Tuple".
        parts: By key, or by number.
    """

    kind: Literal["Dict", "Tuple"]
    parts: dict[str, Node]


Node: TypeAlias = Leaf | Composed


def columns_of(values: Sequence[Value], path: str) -> Node:
    """Return the columns of values, of which there is at least one.

    Args:
        values: The values.
        path: Their path, e.g. "observations".

    Raises:
        NotHeldError: They have no common form, or one that Minari cannot hold.
    """
    first = values[0]
    if type(first) is dict:
        return _of_dicts(values, path)
    if type(first) is tuple:
        if any(type(value) is not tuple or len(value) != len(first) for value in values):
            raise NotHeldError(path, "tuples among values of another form")
        parts = {
            str(number): columns_of([value[number] for value in values], f"{path}/{number}")
            for number in range(len(first))
        }
        return Composed("Tuple", parts)
    if type(first) is str:
        return Leaf([_text(value, path) for value in values])
    if type(first) is np.ndarray:
        return _of_arrays(values, path)
    return _of_numbers(values, path)


def _of_dicts(values: Sequence[Value], path: str) -> Node:
    keys = list(values[0])
    for key in keys:
        if type(key) is not str or not is_hdf5_name(key) or key in (".", ".."):
            raise NotHeldError(path, f"the key {key!r:.40} is no name of HDF5")
    if any(type(value) is not dict or value.keys() != values[0].keys() for value in values):
        raise NotHeldError(path, "keys that come and go")
    parts = {key: columns_of([value[key] for value in values], f"{path}/{key}") for key in keys}
    return Composed("Dict", parts)


def _text(value: Value, path: str) -> str:
    if type(value) is not str:
        raise NotHeldError(path, "texts among values of another type")
    if not is_hdf5_text(value):
        raise NotHeldError(path, "a text with a character that HDF5 does not store")
    return value


def is_hdf5_text(text: str) -> bool:
    """Return whether HDF5 stores a text whole: without NUL and lone surrogates."""
    if text.isascii():
        return "\0" not in text
    return not any(c == "\0" or 0xD800 <= ord(c) < 0xE000 for c in text)


def is_hdf5_name(text: str) -> bool:
    """Return whether a text names a part of a path in HDF5."""
    return bool(text) and "/" not in text and is_hdf5_text(text)


def _of_arrays(values: Sequence[Value], path: str) -> Node:
    first = values[0]
    _check_dtype(first.dtype, path)
    for value in values:
        if type(value) is not np.ndarray or value.dtype != first.dtype:
            raise NotHeldError(path, "arrays among values of another type")
        if value.shape != first.shape:
            raise NotHeldError(path, "arrays of several shapes")
    # With the dtype, or the byte order would become the machine's.
    return Leaf(np.stack(values, dtype=first.dtype), "array" if first.shape == () else "")


def _check_dtype(dtype: np.dtype[Value], path: str) -> None:
    if dtype.kind not in _KINDS or dtype.itemsize > _MAX_ITEM_BYTES:
        raise NotHeldError(path, f"values of type {dtype}")


def _of_numbers(values: Sequence[Value], path: str) -> Node:
    types = set(map(type, values))
    for kind in types:
        if kind not in _PYTHON and not issubclass(kind, np.generic):
            value = next(value for value in values if type(value) is kind)
            shown = value.type_name if isinstance(value, Plain) else kind.__name__
            raise NotHeldError(path, f"values of type {shown}")
    if bool in types and len(types) > 1:
        raise NotHeldError(path, "flags among numbers")
    try:
        column = np.array(values)
    except OverflowError as exc:
        raise NotHeldError(path, "a number of more than 64 bits") from exc
    _check_dtype(column.dtype, path)
    if types == {int} and column.dtype.kind not in "iu":
        raise NotHeldError(path, "numbers that no type of 64 bits holds together")
    is_mixed = len(types) > 1
    # As numbers of Python: NumPy rounds a large integer before it compares it with a fraction.
    exact = [value.item() if isinstance(value, np.generic) else value for value in values]
    if is_mixed and any(a != b and a == a for a, b in zip(exact, column.tolist(), strict=True)):
        raise NotHeldError(path, "numbers of several types, which one type does not hold")
    return Leaf(column, "python" if types & _PYTHON else "numpy", is_mixed)


def with_nan(node: Node, path: str) -> Node:
    """Return columns of floats with a row of NaN in front.

    Raises:
        NotHeldError: There are values of another type, which have no NaN.
    """
    if isinstance(node, Composed):
        parts = {name: with_nan(part, f"{path}/{name}") for name, part in node.parts.items()}
        return Composed(node.kind, parts)
    if isinstance(node.values, list) or node.values.dtype.kind != "f":
        raise NotHeldError(path, "not in the info of the reset")
    dtype = node.values.dtype
    row = np.full((1, *node.values.shape[1:]), np.nan, dtype)
    return node._replace(values=np.concatenate([row, node.values], dtype=dtype))


def number_kinds(node: Node, path: str) -> dict[str, NumberKind]:
    """Return the types of single numbers by path."""
    if isinstance(node, Leaf):
        return {path: node.number} if node.number else {}
    kinds: dict[str, NumberKind] = {}
    for name, part in node.parts.items():
        kinds |= number_kinds(part, f"{path}/{name}")
    return kinds


def tuple_paths(node: Node, path: str) -> list[str]:
    """Return the paths of tuples."""
    if isinstance(node, Leaf):
        return []
    inner = [
        found for name, part in node.parts.items() for found in tuple_paths(part, f"{path}/{name}")
    ]
    return [path, *inner] if node.kind == "Tuple" else inner


def mixed_paths(node: Node, path: str) -> list[str]:
    """Return the paths of columns whose numbers were of several types."""
    if isinstance(node, Leaf):
        return [path] if node.is_mixed else []
    return [
        inner for name, part in node.parts.items() for inner in mixed_paths(part, f"{path}/{name}")
    ]
