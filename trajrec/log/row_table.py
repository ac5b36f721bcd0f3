"""Reads encoded rows as columns, most of them without an object for each value.

Rows whose values all have the same types and sizes, as those of most environments with numbers, lie
in one table of bytes: their columns are cut out of it. The other rows, for instance those of resets,
are decoded one by one and put among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from trajrec.log.items import FieldLayout, Row, decode_rows, is_irregular
from trajrec.types import Array, IntArray, Value

# Codes of msgpack, and the types of their numbers, big end first.
_NUMBERS = {
    0xCB: ">f8",
    0xCC: ">u1",
    0xCD: ">u2",
    0xCE: ">u4",
    0xCF: ">u8",
    0xD0: ">i1",
    0xD1: ">i2",
    0xD2: ">i4",
    0xD3: ">i8",
}
# The types in which the numbers of a leaf are gathered; of all others int64.
_WIDE = {">f8": np.float64, ">u8": np.uint64}
_NIL = 0xC0
_BIN_8 = 0xC4
_BIN_16 = 0xC5
_SHORT_ARRAY = 0x90
_MAX_SHORT_ARRAY = 0x9F
_MAX_SHORT_INT = 0x7F

# Fewer rows are decoded one by one as fast.
_FEW_ROWS = 32

LeafValues: TypeAlias = "Array | list[Value]"
"""The values of a leaf: numbers, int64, uint64 or float64 (n,); the bytes of arrays, uint8 (n, size); or a
list of any values."""


def _fits(value: int | float, dtype: np.dtype[Any]) -> bool:
    """Return whether a number fits into an array of 64 bits."""
    if dtype == np.float64:
        return True
    limits = np.iinfo(dtype)
    return limits.min <= value <= limits.max


class _Value(NamedTuple):
    """The place of a value in each row.

    Attributes:
        start: Its first byte.
        size: Its bytes.
        dtype: The dtype of a number, "" for bytes.
    """

    start: int
    size: int
    dtype: str


_Form: TypeAlias = "_Value | list[_Form] | None"


class RowTable:
    """Encoded rows, read by column.

    Args:
        rows: The rows.

    Attributes:
        n: The number of rows.
        others: The rows that are decoded one by one, by position.
    """

    def __init__(self, rows: Sequence[bytes]) -> None:
        self.n = len(rows)
        self._groups: list[_Group] = []
        self.others: dict[int, Row] = {}
        is_other = np.ones(self.n, np.bool_)
        if self.n >= _FEW_ROWS:
            sizes = np.fromiter(map(len, rows), np.int64, self.n)
            for size in (np.bincount(sizes) >= _FEW_ROWS).nonzero()[0].tolist():
                group = _find_group(rows, (sizes == size).nonzero()[0], size)
                if group is not None:
                    self._groups.append(group)
                    is_other[group.positions] = False
        positions = is_other.nonzero()[0].tolist()
        if positions:
            decoded = decode_rows([rows[position] for position in positions])
            self.others = dict(zip(positions, decoded, strict=True))

    def positions_with(self, field: int) -> IntArray:
        """Return the positions of the rows that have a value in a field, in order."""
        has_value = np.zeros(self.n, np.bool_)
        for group in self._groups:
            if group.has_field(field):
                has_value[group.positions] = True
        for position, row in self.others.items():
            if len(row) > field and row[field] is not None and not is_irregular(row[field]):
                has_value[position] = True
        return has_value.nonzero()[0]

    def leaves(self, field: int, layout: FieldLayout, positions: IntArray) -> list[LeafValues]:
        """Return the values of a field, leaf by leaf, of the rows at some positions.

        The rows of a form must either all be among them, or none.
        """
        numbers = np.full(self.n, -1)
        numbers[positions] = np.arange(len(positions))
        groups = [
            group
            for group in self._groups
            if group.has_field(field) and numbers[group.positions[0]] >= 0
        ]
        others = {
            int(numbers[position]): row[field]
            for position, row in self.others.items()
            if numbers[position] >= 0
        }
        values = []
        for index in range(len(layout.leaves)):
            leaf = None if layout.is_single else index
            parts = [(numbers[group.positions], group.column(field, leaf)) for group in groups]
            leaf_others = others
            if leaf is not None:
                leaf_others = {number: value[leaf] for number, value in others.items()}
            values.append(_join(parts, leaf_others, len(positions)))
        return values


class _Group(NamedTuple):
    """Rows of one form.

    Attributes:
        positions: Their positions among all rows.
        fields: The form of each field.
        table: Their bytes, uint8 (n, size).
    """

    positions: IntArray
    fields: list[_Form]
    table: Array

    def has_field(self, field: int) -> bool:
        """Return whether the rows have a value in a field."""
        return field < len(self.fields) and self.fields[field] is not None

    def column(self, field: int, leaf: int | None) -> LeafValues:
        """Return the values of a leaf."""
        form = self.fields[field]
        if leaf is not None:
            assert isinstance(form, list)
            form = form[leaf]
        if not isinstance(form, _Value):
            # Changes of pixels are arrays themselves.
            rows = decode_rows([row.tobytes() for row in self.table])
            return [row[field] if leaf is None else row[field][leaf] for row in rows]
        cut = self.table[:, form.start : form.start + form.size]
        if not form.dtype:
            return cut
        numbers = np.ascontiguousarray(cut).view(form.dtype)[:, 0]
        return numbers.astype(_WIDE.get(form.dtype, np.int64))


def _find_group(rows: Sequence[bytes], positions: IntArray, size: int) -> _Group | None:
    """Return the rows at some positions, which have one size, if they have one form."""
    chosen = rows
    if len(positions) < len(rows):
        chosen = [rows[position] for position in positions.tolist()]
    reader = _FormReader(chosen[0])
    try:
        form = reader.read()
    except LookupError:
        return None
    if not isinstance(form, list) or reader.position != size:
        return None
    table = np.frombuffer(b"".join(chosen), np.uint8).reshape(len(chosen), size)
    return _Group(positions, form, table) if reader.is_form_of(table) else None


def _join(parts: list[tuple[IntArray, LeafValues]], others: dict[int, Value], n: int) -> LeafValues:
    """Return the values of a leaf in the order of their numbers.

    Args:
        parts: Columns, each with the numbers of its values.
        others: Other values, by number.
        n: The number of values.
    """
    if len(parts) == 1 and not others and not isinstance(parts[0][1], list):
        return parts[0][1]
    joined = _join_arrays(parts, others, n)
    if joined is not None:
        return joined
    values: list[Value] = [None] * n
    for numbers, column in parts:
        for number, value in zip(numbers.tolist(), as_list(column), strict=True):
            values[number] = value
    for number, value in others.items():
        values[number] = value
    return values


def _join_arrays(
    parts: list[tuple[IntArray, LeafValues]], others: dict[int, Value], n: int
) -> Array | None:
    """Return the values of a leaf as an array, or None if they are of several types or sizes."""
    if not parts or isinstance(parts[0][1], list):
        return None
    first = parts[0][1]
    joined = np.empty((n, *first.shape[1:]), first.dtype)
    for numbers, column in parts:
        if isinstance(column, list) or (column.dtype, column.shape[1:]) != (
            first.dtype,
            first.shape[1:],
        ):
            return None
        joined[numbers] = column
    number_type = float if first.dtype == np.float64 else int
    for number, value in others.items():
        if first.ndim == 2:
            if type(value) is not bytes or len(value) != first.shape[1]:
                return None
            joined[number] = np.frombuffer(value, np.uint8)
        elif type(value) is not number_type or not _fits(value, first.dtype):
            return None
        else:
            joined[number] = value
    return joined


class _FormReader:
    """Reads the form of an encoded row.

    Attributes:
        position: The bytes that were read.
    """

    def __init__(self, row: bytes) -> None:
        self.position = 0
        self._row = row
        # The bytes that are codes and sizes, and those that are small integers without a code.
        self._codes: list[int] = []
        self._short_ints: list[int] = []

    def is_form_of(self, table: Array) -> bool:
        """Return whether all rows of a table have the form that was read."""
        codes = table[:, self._codes]
        are_short = table[:, self._short_ints] <= _MAX_SHORT_INT
        return bool((codes == codes[0]).all() and are_short.all())

    def read(self) -> _Form:
        """Read a value.

        Raises:
            LookupError: Values of this kind are not read as columns.
        """
        start = self.position
        code = self._row[start]
        self.position = start + 1
        if code <= _MAX_SHORT_INT:
            self._short_ints.append(start)
            return _Value(start, 1, ">u1")
        self._codes.append(start)
        if _SHORT_ARRAY <= code <= _MAX_SHORT_ARRAY:
            return [self.read() for _ in range(code - _SHORT_ARRAY)]
        if code in _NUMBERS:
            return self._take(np.dtype(_NUMBERS[code]).itemsize, _NUMBERS[code])
        if code in (_BIN_8, _BIN_16):
            end = self.position + (1 if code == _BIN_8 else 2)
            size = int.from_bytes(self._row[self.position : end], "big")
            self._codes += range(self.position, end)
            self.position = end
            return self._take(size, "")
        if code == _NIL:
            return None
        raise LookupError(code)

    def _take(self, size: int, dtype: str) -> _Value:
        value = _Value(self.position, size, dtype)
        self.position += size
        return value


def as_list(values: LeafValues) -> list[Any]:
    """Return the values of a leaf as objects."""
    if isinstance(values, list):
        return values
    if values.ndim == 1:
        return list(values.tolist())
    return [row.tobytes() for row in values]
