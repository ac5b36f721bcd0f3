"""Columns: rows of one kind come back from their bytes as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equal_pairs import EQUAL_PAIRS
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tiers import examples
from zstandard import ZstdDecompressor

from trajrec.log.columns import Packer
from trajrec.log.rows import ColumnRows
from trajrec.values import codec
from trajrec.values.diff import is_same


def unpack(packed: tuple[Any, bytes]) -> ColumnRows:
    return ColumnRows(packed[0], packed[1], ZstdDecompressor())


dtypes = (
    npst.integer_dtypes(endianness="?")
    | npst.floating_dtypes(endianness="?")
    | npst.boolean_dtypes()
)
tables = dtypes.flatmap(
    lambda dtype: npst.array_shapes(min_dims=0, max_dims=2, max_side=5).flatmap(
        lambda shape: st.integers(1, 20).flatmap(lambda n: npst.arrays(dtype, (n, *shape)))
    )
)


@examples("log", tables, st.booleans(), fixed=100, drawn=300, whole=10_000)
def test_column_of_arrays_comes_back_bit_by_bit(table: np.ndarray[Any, Any], search: bool) -> None:
    rows = [table[i : i + 1].tobytes() for i in range(len(table))]
    back = unpack(
        Packer(search=search).pack_arrays("x", rows, dtype=table.dtype, shape=table.shape[1:])
    )
    assert back.row_bytes() == table.tobytes()
    assert all(
        is_same(row, table[i : i + 1].reshape(table.shape[1:]))
        for i, row in enumerate(back.values())
    )


@examples("log", st.integers(0, 3), st.integers(1, 6), fixed=24, drawn=24, whole=24)
def test_column_of_frames_comes_back_bit_by_bit(still: int, n: int) -> None:
    images = np.random.default_rng(n).integers(0, 255, (n, 40, 41), np.uint8)
    images[: still + 1] = images[0]
    rows = [image.tobytes() for image in images]
    back = unpack(Packer().pack_arrays("x", rows, dtype=images.dtype, shape=images.shape[1:]))
    assert np.array_equal(np.array(back.values()), images)


scalars = (
    st.lists(st.integers(), min_size=1)
    | st.lists(st.floats(), min_size=1)
    | st.lists(st.booleans(), min_size=1)
)


@examples(
    "log",
    scalars
    | st.lists(st.integers() | st.floats() | st.text() | st.none() | st.booleans(), min_size=1),
    fixed=100,
    drawn=300,
    whole=10_000,
)
def test_column_of_scalars_keeps_types_and_bits(rows: list[Any]) -> None:
    assert is_same(unpack(Packer().pack_scalars("x", rows)).values(), rows)


@pytest.mark.parametrize(
    "cls",
    [np.int8, np.uint64, np.float32, np.float16, np.bool_, np.int64, np.longdouble, np.complex128],
)
def test_column_of_numpy_scalars_keeps_its_type(cls: Any) -> None:
    rows = [cls(value) for value in (0, 1, 1, 0)]
    assert is_same(unpack(Packer().pack_scalars("x", rows)).values(), rows)


@pytest.mark.parametrize("pair", EQUAL_PAIRS, ids=repr)
def test_scalars_that_only_compare_equal_stay_apart(pair: tuple[Any, Any]) -> None:
    for rows in ([*pair], [pair[1], *pair], [pair[0], pair[0], pair[1]]):
        assert is_same(unpack(Packer().pack_scalars("x", rows)).values(), rows)


@pytest.mark.parametrize("value", [[1], ([1],), {"a": 1}, codec.Plain("m.C", "attrs", {"a": 1})])
def test_equal_rows_are_read_as_values_of_their_own(value: Any) -> None:
    first, second = unpack(Packer().pack_values("x", [codec.encode(value)] * 2)).values()
    assert is_same(first, second)
    assert first is not second


def test_equal_rows_cost_next_to_nothing() -> None:
    column, data = Packer().pack_scalars("reward", [1.0] * 8000)
    assert column.kind == "const"
    assert len(data) < 16
