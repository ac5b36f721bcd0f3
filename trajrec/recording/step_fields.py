"""The fields of steps (action, obs, reward, state, info), and how a value becomes part of a row.

The first value of a field decides how its values are kept: numbers and arrays in columns of their
own, dicts and tuples item by item, all other values encoded. `take` then returns a value's part of
the row. It is the innermost loop of recording, so each kind of value has a `take` of its own, a
closure over everything that it needs: an attribute read or a test of the kind in each call would
cost more than the rest.

`take` changes nothing that a later value depends on, so an exception after it leaves no trace. The
changes of pixels are the exception: after one that no row has taken, `begin_block` must be called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec
import numpy as np

from trajrec.log.columns import LARGE_ROW_BYTES
from trajrec.log.items import ODD, FieldLayout, Leaf
from trajrec.log.pixel_changes import PixelDiff
from trajrec.types import Array, Value
from trajrec.values import codec
from trajrec.values.arrays import PADDED, array_bytes
from trajrec.values.foreign_arrays import has_own_dtype
from trajrec.values.plain import NUMBER_TYPES, PLAIN_NUMBERS, PLAIN_TYPES, SCALAR_TYPES

MAX_DEPTH = 8
"""Dicts and tuples below this depth are encoded whole, which bounds the number of columns."""

Take = Callable[[Value], Any]

Layout = list[Any]
"""How columns make up a value: ["leaf", column], ["dict", keys, layouts] or ["tuple", layouts]."""

_PYTHON_TYPES: dict[str, Callable[[Value], bool | int | float]] = {
    "b": bool,
    "i": int,
    "u": int,
    "f": float,
}
"""Kind of NumPy's numbers -> the type of Python that holds them exactly."""

_NUMBER_BYTES = 8
"""Larger numbers, those of longdouble, have no exact value in Python."""


class MisfitError(Exception):
    """A value is not of the kind that its field's rows have."""


class TextRule(NamedTuple):
    """The texts that the values of a field may have.

    Attributes:
        refused: Returns whether a value may have texts, if the field must have none: their secrets
            would not be found. None if it may have texts.
        clean: Returns a value without secrets, None if all is stored as it is.
    """

    refused: Callable[[Value], bool] | None = None
    clean: Callable[[Value], Value] | None = None


ANY_TEXT = TextRule()
"""Texts are stored as they are."""


class Field:
    """One field of the steps, as leaves.

    Args:
        name: The field's name.
        value: Its first value, which is not taken yet.
        whole: Whether each value is encoded as a whole, without looking at its kind.
        text: The texts that values may have, and their redaction.

    Attributes:
        layout: The field's columns.
        take: Returns a value's part of a row: the value of the only leaf, or a tuple of the values
            of all leaves. Raises MisfitError if the value is of another kind than the first one.
        fit: Does the same, but leaves secrets in the value.
        is_outdated: Whether a value did not fit, so that the next block needs another field.
        has_pixels: Whether a leaf keeps changes from row to row.
    """

    def __init__(
        self, name: str, value: Value, *, whole: bool = False, text: TextRule = ANY_TEXT
    ) -> None:
        self.is_outdated = False
        self._name = name
        self._has_text = text.refused
        self._plain_types = PLAIN_TYPES if text.refused is None else PLAIN_NUMBERS
        self._odd = _odd if text.refused is None else _odd_number
        self._leaves: list[Leaf] = []
        self._pixels: list[Callable[[], None]] = []
        self.fit: Take
        self.fit, layout = self._object(name) if whole else self._fit(name, value, 0)
        if not self._leaves:
            # Empty dicts and tuples alone have no columns, and a column says which rows have a
            # value: an info {"a": {}} would be read of steps that had none.
            self.fit, layout = self._object(name)
        self.take = self.fit if text.clean is None else _cleaned(self.fit, text.clean)
        self.layout = FieldLayout(layout, self._leaves)
        self.has_pixels = bool(self._pixels)

    def begin_block(self) -> None:
        """Begin a block: its first row of pixels is whole."""
        for begin in self._pixels:
            begin()

    def _fit(self, path: str, value: Value, depth: int) -> tuple[Take, Layout]:
        cls = type(value)
        if cls in SCALAR_TYPES:
            return self._scalar(path, cls)
        is_array = cls is np.ndarray and value.dtype.kind in "biufcmM" and value.size
        if is_array and not has_own_dtype(value):
            # Only observations: rows of other fields may be taken back, and changes cannot be.
            is_large = self._name == "obs" and value.nbytes > LARGE_ROW_BYTES
            is_large = is_large and value.dtype.char not in PADDED
            return self._array_of_pixels(path, value) if is_large else self._array(path, value)
        if cls is dict and depth < MAX_DEPTH and all(map(_is_plain_key, value)):
            return self._dict(path, value, depth)
        if cls is tuple and depth < MAX_DEPTH:
            return self._tuple(path, value, depth)
        return self._object(path)

    def _add_leaf(self, leaf: Leaf) -> Layout:
        self._leaves.append(leaf)
        return ["leaf", len(self._leaves) - 1]

    def _scalar(self, path: str, scalar_type: type) -> tuple[Take, Layout]:
        if issubclass(scalar_type, np.generic):
            dtype = np.dtype(scalar_type)
            if dtype.kind in _PYTHON_TYPES and dtype.itemsize <= _NUMBER_BYTES:
                return self._numpy_scalar(path, scalar_type)
        plain_types = self._plain_types
        odd = self._odd

        def take(value: Value) -> Any:
            # The type of the first value first: a look into a set takes longer.
            if type(value) is scalar_type or type(value) in plain_types:
                return value
            return odd(value)

        if scalar_type not in PLAIN_TYPES:
            return odd, self._add_leaf(Leaf(path, "scalar"))
        return take, self._add_leaf(Leaf(path, "scalar"))

    def _numpy_scalar(self, path: str, scalar_type: type[np.generic]) -> tuple[Take, Layout]:
        dtype = np.dtype(scalar_type)
        convert = _PYTHON_TYPES[dtype.kind]
        odd = self._odd

        def take(value: Value) -> Any:
            return convert(value) if type(value) is scalar_type else odd(value)

        return take, self._add_leaf(Leaf(path, "scalar", dtype.str))

    def _array(self, path: str, first: Array) -> tuple[Take, Layout]:
        dtype = first.dtype
        shape = first.shape
        ndarray = np.ndarray
        to_bytes = array_bytes if dtype.char in PADDED else ndarray.tobytes

        def take(value: Value) -> bytes:
            # `is` before `!=`: NumPy's comparison of dtypes is slow, and most are one object.
            if (
                type(value) is not ndarray
                or value.shape != shape
                or (value.dtype is not dtype and value.dtype != dtype)
            ):
                raise MisfitError
            # Bytes, not the array: environments write their next observation into the same array.
            return to_bytes(value)

        return take, self._add_leaf(Leaf(path, "array", dtype.str, shape))

    def _array_of_pixels(self, path: str, first: Array) -> tuple[Take, Layout]:
        dtype = first.dtype
        shape = first.shape
        ndarray = np.ndarray
        diff = PixelDiff(dtype, shape)

        def take(value: Value) -> Any:
            if (
                type(value) is not ndarray
                or value.shape != shape
                or (value.dtype is not dtype and value.dtype != dtype)
            ):
                raise MisfitError
            return diff.take(value)

        def begin() -> None:
            nonlocal diff
            diff = PixelDiff(dtype, shape)

        self._pixels.append(begin)
        return take, self._add_leaf(Leaf(path, "pixels", dtype.str, shape))

    def _object(self, path: str) -> tuple[Take, Layout]:
        encode = codec.encode
        # An info may hold anything; a part that cannot be stored is named in its place.
        opaque = self._name == "info"
        has_text = self._has_text

        def take(value: Value) -> bytes:
            return encode(value, where=path, opaque=opaque)

        def take_numbers(value: Value) -> bytes:
            if has_text is not None and has_text(value):
                raise MisfitError
            return encode(value, where=path, opaque=opaque)

        return take if has_text is None else take_numbers, self._add_leaf(Leaf(path, "value"))

    def _dict(self, path: str, first: dict[str, Value], depth: int) -> tuple[Take, Layout]:
        keys = tuple(first)
        fitted = [self._fit(f"{path}/{key}", item, depth + 1) for key, item in first.items()]
        take_items = _join([take for take, _ in fitted], [layout for _, layout in fitted])

        def take(value: Value) -> tuple[Any, ...]:
            if type(value) is not dict or tuple(value) != keys:
                raise MisfitError
            return take_items(value.values())

        return take, ["dict", list(keys), [layout for _, layout in fitted]]

    def _tuple(self, path: str, first: tuple[Value, ...], depth: int) -> tuple[Take, Layout]:
        fitted = [self._fit(f"{path}/{index}", item, depth + 1) for index, item in enumerate(first)]
        take_items = _join([take for take, _ in fitted], [layout for _, layout in fitted])
        n_items = len(first)

        def take(value: Value) -> tuple[Any, ...]:
            if type(value) is not tuple or len(value) != n_items:
                raise MisfitError
            return take_items(value)

        return take, ["tuple", [layout for _, layout in fitted]]


def _join(takes: list[Take], layouts: list[Layout]) -> Callable[[Iterable[Value]], tuple[Any, ...]]:
    """Return a function that takes several values and returns the values of all their leaves."""
    are_leaves = [layout[0] == "leaf" for layout in layouts]

    def take_leaves(values: Iterable[Value]) -> tuple[Any, ...]:
        return tuple([take(value) for take, value in zip(takes, values, strict=True)])

    def take_nested(values: Iterable[Value]) -> tuple[Any, ...]:
        leaves: list[Any] = []
        for take, is_leaf, value in zip(takes, are_leaves, values, strict=True):
            if is_leaf:
                leaves.append(take(value))
            else:
                leaves += take(value)
        return tuple(leaves)

    return take_leaves if all(are_leaves) else take_nested


def _is_plain_key(key: Value) -> bool:
    """Return whether a key can stand in a layout: layouts hold texts, without lone surrogates."""
    if type(key) is not str:
        return False
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cleaned(take: Take, clean: Callable[[Value], Value]) -> Take:
    """Return a function that takes values without their secrets."""

    def take_clean(value: Value) -> Any:
        return take(clean(value))

    return take_clean


def _odd_number(value: Value) -> msgspec.msgpack.Ext:
    """Return the same as `_odd`, but of numbers only."""
    if type(value) not in NUMBER_TYPES:
        raise MisfitError
    return _odd(value)


def _odd(value: Value) -> msgspec.msgpack.Ext:
    """Return a scalar of another type than the leaf's as an extension."""
    if type(value) not in SCALAR_TYPES:
        raise MisfitError
    return msgspec.msgpack.Ext(ODD, codec.encode(value))
