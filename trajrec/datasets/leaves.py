"""The parts of observations, actions and rewards that become columns: their types over all chunks.

A chunk stores integers as narrow as its own values allow, and a constant once: so the type of a
column follows from all chunks together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from trajrec.errors import CorpusError, LogCorruptError
from trajrec.log import pixels
from trajrec.log.chunk import LogChunk
from trajrec.log.fields import PYTHON_DTYPES, Layout
from trajrec.log.schema import Column
from trajrec.types import Array, Value
from trajrec.values import codec
from trajrec.values.codec import Plain
from trajrec.values.foreign_arrays import ARRAY, as_array

FIELDS = ("obs", "action", "reward")
"""The fields of a chunk that become columns."""

WHOLE = -1

# More texts than these are no categories: a column of codes would be of no use.
_MAX_TEXTS = 1 << 20


@dataclass(frozen=True)
class Leaf:
    """A column of the values of one part of a field.

    Attributes:
        name: The field, or the field and the path in it: "obs", "obs/image".
        dtype: Its dtype; int32 for the codes of texts.
        shape: The shape of a row.
        is_scalar: Whether the rows are numbers, and no arrays.
        is_text: Whether the rows are texts, of which the column has codes.
        axis: The axis along which rows are stacks of frames in at least one chunk, None if there
            is none; `WHOLE` if chunks differ in it, so that rows are not kept as frames.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    is_scalar: bool = False
    is_text: bool = False
    axis: int | None = None


@dataclass
class LeafTable:
    """The leaves of all chunks that were looked at.

    Attributes:
        wanted: The fields, or parts of fields, that become columns.
        leaves: The leaves by name, in the order of fields.
        texts: The texts of each leaf of texts, by name: text -> code.
        parts: The names of all parts of each field of which a column is.
    """

    wanted: tuple[str, ...] = FIELDS
    leaves: dict[str, Leaf] = field(default_factory=dict)
    texts: dict[str, dict[str, int]] = field(default_factory=dict)
    parts: dict[str, list[str]] = field(default_factory=dict)

    def add(self, chunk: LogChunk) -> None:
        """Add the leaves of a chunk.

        Raises:
            CorpusError: A value is no number, text or array of one shape in all chunks.
            LogCorruptError: A column states a type that does not exist.
        """
        for name in FIELDS:
            layout = chunk.layout(name)
            # A field that no column is of may have any form.
            if layout is None or not any(w.partition("/")[0] == name for w in self.wanted):
                continue
            columns = dict(leaf_columns(layout, name))
            if len(columns) < sum(1 for _ in leaf_columns(layout, name)):
                raise CorpusError(
                    f"{chunk.path}: two parts of {name!r} have one name in {list(columns)}; leave "
                    f"{name!r} out of columns=, or read such episodes with corpus.episodes()"
                )
            if name == "reward" and list(columns) != ["reward"]:
                raise CorpusError(
                    f"{chunk.path}: the rewards have the parts {list(columns)}, as of several "
                    "players; leave 'reward' out of columns=, or read them with "
                    "corpus.agent_transitions(), for PettingZoo, or corpus.episodes()"
                )
            known = self.parts.setdefault(name, list(columns))
            # Logs may have the keys of a dict in another order.
            if set(columns) != set(known):
                raise CorpusError(
                    f"{chunk.path}: {name!r} has the parts {list(columns)}, and elsewhere "
                    f"{known}; select episodes of one environment, for instance "
                    "where=\"env_id = '...'\", or read players that come and go with "
                    "corpus.agent_transitions()"
                )
            for leaf_name, index in columns.items():
                if self.is_wanted(leaf_name):
                    self._add_leaf(chunk, leaf_name, index)

    def is_wanted(self, leaf: str) -> bool:
        """Return whether a leaf becomes a column."""
        return any(leaf == name or leaf.startswith(f"{name}/") for name in self.wanted)

    def code_texts(self, name: str, texts: list[Value]) -> Array:
        """Return the codes of texts, int32."""
        codes = self.texts[name]
        return np.fromiter((codes[text] for text in texts), np.int32, len(texts))

    def _add_leaf(self, chunk: LogChunk, name: str, index: int) -> None:
        leaf = self._leaf_of(chunk, name, index)
        if leaf.is_text:
            self._add_texts(chunk, name, index)
        if name == "reward" and not leaf.is_text and math.prod(leaf.shape) == 1:
            # As in SQL: with an axis of its own, it would broadcast against the flags.
            leaf = replace(leaf, shape=(), is_scalar=True)
        known = self.leaves.get(name)
        if known == leaf:
            return
        self.leaves[name] = leaf if known is None else _merge(known, leaf, chunk)

    def _leaf_of(self, chunk: LogChunk, name: str, index: int) -> Leaf:
        column = chunk.record.columns[index]
        if column.kind in ("array", "scalar"):
            try:
                return _numeric_leaf(name, column)
            except (TypeError, ValueError) as exc:
                reason = f"column {name!r}: {exc}"
                raise LogCorruptError(reason, path=chunk.path, offset=chunk.offset) from exc
        if column.kind == "const":
            value = column_value(_constant(chunk.column_bytes(column)))
            return _value_leaf(name, value, chunk)
        values = map(column_value, chunk.rows(index).values())
        leaves = {_value_leaf(name, value, chunk) for value in values}
        leaf = leaves.pop()
        for other in leaves:
            leaf = _merge(leaf, other, chunk)
        return leaf

    def _add_texts(self, chunk: LogChunk, name: str, index: int) -> None:
        codes = self.texts.setdefault(name, {})
        rows = chunk.rows(index)
        values = rows.values(0, 1) if rows.kind == "const" else rows.values()
        for text in values:
            codes.setdefault(text, len(codes))
        if len(codes) > _MAX_TEXTS:
            raise CorpusError(
                f"{chunk.path}: {name!r} has more than {_MAX_TEXTS} different texts, too many for "
                f"codes; leave {name!r} out of columns="
            )


def leaf_columns(layout: Layout, name: str) -> Iterator[tuple[str, int]]:
    """Yield name and column of each part of a field."""
    if layout[0] == "leaf":
        yield name, layout[1]
        return
    keys = layout[1] if layout[0] == "dict" else range(len(layout[1]))
    for key, item in zip(keys, layout[-1], strict=True):
        yield from leaf_columns(item, f"{name}/{key}")


def _numeric_leaf(name: str, column: Column) -> Leaf:
    if column.kind == "scalar":
        dtype = PYTHON_DTYPES.get(column.type_name)
        return Leaf(name, np.dtype(column.type_name) if dtype is None else dtype, is_scalar=True)
    axis = column.filter[1] if column.filter and column.filter[0] == pixels.STACKS else None
    return Leaf(name, np.dtype(column.dtype), column.shape, axis=axis)


# Constants are mostly the same in all chunks.
@lru_cache(maxsize=256)
def _constant(data: bytes) -> Value:
    return codec.decode(data)


def _value_leaf(name: str, value: Value, chunk: LogChunk) -> Leaf:
    """Return the leaf that a value belongs to."""
    if type(value) is str:
        return Leaf(name, np.dtype(np.int32), is_scalar=True, is_text=True)
    dtype = PYTHON_DTYPES.get(type(value).__name__)
    is_array = isinstance(value, np.ndarray)
    if is_array or isinstance(value, np.generic):
        dtype = value.dtype
    is_too_large = type(value) is int and not -(2**63) <= value < 2**63
    if dtype is None or dtype.kind not in "biufcmM" or is_too_large:
        shown = "an integer beyond 64 bits" if is_too_large else _kind(value)
        raise CorpusError(
            f"{chunk.path}: {name!r} holds {shown}, which is no column; leave {name!r} out of "
            "columns=, or read such episodes with corpus.episodes()"
        )
    return Leaf(name, dtype, value.shape if is_array else (), is_scalar=not is_array)


def column_value(value: Value) -> Value:
    """Return a value as a column has it: an array of another library as one of NumPy.

    NumPy lacks bfloat16, so such items become float32, which holds each of them exactly.
    """
    # A column has no place for a mask.
    if not isinstance(value, Plain) or value.kind != ARRAY or "mask" in value.fields:
        return value
    try:
        array = as_array(value)
    except TypeError:
        # Its dtype belongs to a package that is not imported here.
        return value
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _kind(value: Value) -> str:
    """Return the kind of a value that is no column, with its article."""
    if isinstance(value, (np.ndarray, np.generic)):
        return f"an array of {value.dtype}"
    return f"a {value.type_name if isinstance(value, Plain) else type(value).__name__}"


def _merge(known: Leaf, leaf: Leaf, chunk: LogChunk) -> Leaf:
    """Return the leaf that holds the values of two."""
    if known.is_text == leaf.is_text and known.is_scalar and leaf.is_scalar:
        return replace(known, dtype=np.result_type(known.dtype, leaf.dtype))
    # Codes of texts have the dtype of some numbers.
    is_alike = known.is_text == leaf.is_text and known.is_scalar == leaf.is_scalar
    if is_alike and (known.dtype, known.shape) == (leaf.dtype, leaf.shape):
        axes = {known.axis, leaf.axis} - {None}
        return replace(known, axis=axes.pop() if len(axes) == 1 else WHOLE)
    raise CorpusError(
        f"{chunk.path}: {known.name!r} holds {_described(leaf)} here and {_described(known)} "
        "elsewhere; select episodes of one environment, for instance where=\"env_id = '...'\", or "
        f"leave {known.name!r} out of columns="
    )


def _described(leaf: Leaf) -> str:
    if leaf.is_text:
        return "texts"
    return f"{leaf.dtype} numbers" if leaf.is_scalar else f"{leaf.dtype} arrays of {leaf.shape}"


def has_whole_numbers(values: Sequence[Value], array: Array) -> bool:
    """Return whether an array of values has the integers among them unchanged."""
    if array.dtype.kind != "f" or array.ndim != 1:
        return True
    return all(
        int(number) == int(value)
        for value, number in zip(values, array.tolist(), strict=True)
        if isinstance(value, int | np.integer)
    )
