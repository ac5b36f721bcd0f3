"""Any value comes back from its bytes as it was, or is refused with the path to what cannot be stored."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import enum
import struct
from typing import Any

import attrs
import gymnasium as gym
import numpy as np
import pydantic
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tiers import examples

from trajrec.errors import EncodeError
from trajrec.values.codec import MAX_DEPTH, Opaque, Plain, decode, digest, encode
from trajrec.values.diff import is_same
from trajrec.values.json_like import NOT_JSON_LIKE, decode_json_like

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.binary(max_size=20)
    | st.text(st.characters(exclude_categories=()), max_size=20)
    | st.complex_numbers(allow_nan=False)
)
hashable = leaves.filter(lambda x: x == x) | st.tuples(st.integers(), st.text(max_size=3))
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=()), max_size=4) | hashable, inner, max_size=4
        )
    ),
    max_leaves=20,
)
dtypes = (
    npst.integer_dtypes(endianness="?")
    | npst.unsigned_integer_dtypes(endianness="?")
    | npst.floating_dtypes(endianness="?")
    | npst.boolean_dtypes()
    | npst.complex_number_dtypes()
    | npst.datetime64_dtypes()
    | npst.unicode_string_dtypes(max_len=5)
    | npst.byte_string_dtypes(max_len=5)
)


@examples("log", values, fixed=40, drawn=500, whole=20_000)
def test_nested_values_come_back_with_types_and_bits(value: Any) -> None:
    assert is_same(decode(encode(value)), value)


@examples(
    "log",
    dtypes.flatmap(
        lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, min_side=0, max_dims=3))
    ),
    fixed=100,
    drawn=500,
    whole=20_000,
)
def test_arrays_come_back_with_dtype_shape_and_bits(array: np.ndarray[Any, Any]) -> None:
    back = decode(encode(array))
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert back.flags.writeable
    if array.size:
        scalar = array.ravel()[0]
        assert is_same(decode(encode(scalar)), scalar)


@pytest.mark.parametrize("text", ["", "a", "a\0", "\0\0", "\ud800", "\U0001f4a1\0"])
def test_numpy_texts_keep_their_trailing_nulls(text: str) -> None:
    for scalar in (np.str_(text), np.bytes_(text.encode("utf-8", "surrogatepass"))):
        back = decode(encode(scalar))
        assert is_same(back, scalar)
        assert encode(back) == encode(scalar)


def test_arrays_of_records_without_fields_come_back() -> None:
    array = np.zeros((2, 3), np.dtype([]))
    back = decode(encode(array))
    assert (back.dtype, back.shape) == (array.dtype, array.shape)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_texts_of_an_array_stay_missing(missing: Any) -> None:
    array = np.array(["lamp", missing, ""], np.dtypes.StringDType(na_object=missing))
    back = decode(encode(array))
    assert back.dtype == array.dtype
    assert back[1] is missing or np.isnan(back[1])
    assert [back[0], back[2]] == ["lamp", ""]


def test_nan_and_minus_zero_keep_their_bits() -> None:
    nan = struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_0000_0123))[0]
    assert struct.pack("<d", decode(encode(nan))) == struct.pack("<d", nan)
    assert struct.pack("<d", decode(encode(-0.0))) == struct.pack("<d", -0.0)


def test_structured_and_object_arrays_come_back_whole() -> None:
    structured = np.array([(1, 2.5), (3, 4.5)], [("a", "<i2"), ("b", ">f8")])
    assert is_same(decode(encode(structured)).tobytes(), structured.tobytes())
    objects = np.array([[1, "a"], [None, 2**70]], object)
    assert decode(encode(objects)).tolist() == objects.tolist()


PADDED = np.dtype(
    {
        "names": ["n", "inner"],
        "formats": ["i1", {"names": ["x"], "formats": ["<i2"], "offsets": [2], "itemsize": 6}],
        "offsets": [1, 4],
        "itemsize": 12,
    }
)


def test_equal_records_have_equal_bytes_despite_their_padding() -> None:
    arrays = [np.frombuffer(bytes([pad]) * 24, PADDED).copy() for pad in (1, 2)]
    for array in arrays:
        array["n"] = [7, -7]
        array["inner"]["x"] = [300, -300]
    assert encode(arrays[0]) == encode(arrays[1])
    assert encode(arrays[0][1]) == encode(arrays[1][1])
    decoded = decode(encode(arrays[0]))
    assert (decoded["n"].tolist(), decoded["inner"]["x"].tolist()) == ([7, -7], [300, -300])
    assert is_same(arrays[0], arrays[1])
    assert is_same([arrays[0][0]], [arrays[1][0]])


def test_long_doubles_in_records_have_bytes_of_their_values() -> None:
    dtype = np.dtype([("a", np.longdouble), ("b", [("c", np.clongdouble)])])
    arrays = [np.frombuffer(bytes([pad]) * 2 * dtype.itemsize, dtype).copy() for pad in (1, 2)]
    for array in arrays:
        used = np.array([3, 4], np.longdouble).view(np.uint8).reshape(2, -1)[:, :10]
        array.view(np.uint8).reshape(2, 3, -1)[:, :, :10] = used[:, None]
    assert encode(arrays[0]) == encode(arrays[1])
    assert decode(encode(arrays[0]))["a"].tolist() == [3, 4]


SPACES = {
    "Box": gym.spaces.Box(-1, 1, (2, 3), np.float32),
    "Discrete": gym.spaces.Discrete(5),
    "MultiBinary": gym.spaces.MultiBinary(4),
    "MultiDiscrete": gym.spaces.MultiDiscrete([3, 4]),
    "Text": gym.spaces.Text(8),
    "Dict": gym.spaces.Dict({"a": gym.spaces.Discrete(2), "b": gym.spaces.Box(0, 1, (2,))}),
    "Tuple": gym.spaces.Tuple([gym.spaces.Discrete(2), gym.spaces.Text(3)]),
    "Sequence": gym.spaces.Sequence(gym.spaces.Box(0, 1, (2,))),
    "Graph": gym.spaces.Graph(gym.spaces.Box(0, 1, (2,)), gym.spaces.Discrete(3)),
    "OneOf": gym.spaces.OneOf([gym.spaces.Discrete(2), gym.spaces.Box(0, 1, (2,))]),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_samples_of_every_space_come_back_as_members(space: gym.Space[Any]) -> None:
    space.seed(0)
    for _ in range(20):
        value = space.sample()
        back = decode(encode(value))
        assert is_same(back, value)
        assert space.contains(back)


class Colour(enum.Enum):
    RED = "r"


@dataclasses.dataclass
class Order:
    item: str
    cents: int


@attrs.define
class Parcel:
    weight: float


class Person(pydantic.BaseModel):
    name: str


class Label(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "kind", "fields"),
    [
        (Colour.RED, "enum", {"name": "RED", "value": "r"}),
        (Order("mug", 5), "dataclass", {"item": "mug", "cents": 5}),
        (Parcel(1.5), "attrs", {"weight": 1.5}),
        (Person(name="Ada"), "pydantic", {"name": "Ada"}),
        (Label("x"), "subclass", {"value": "x"}),
        (datetime.date(2020, 1, 2), "value", {"value": "2020-01-02"}),
        (decimal.Decimal("1.10"), "value", {"value": "1.10"}),
    ],
)
def test_objects_come_back_as_plain_data_with_type_name(
    value: Any, kind: str, fields: dict[str, Any]
) -> None:
    back = decode(encode(value))
    assert isinstance(back, Plain)
    assert (back.kind, back.fields) == (kind, fields)
    assert back.type_name.endswith(type(value).__qualname__)


class Zone(datetime.tzinfo):
    """A zone whose offset depends on the date, which a time of day has not."""

    def __init__(self, name: str) -> None:
        self.name = name

    def utcoffset(self, _when: datetime.datetime | None) -> None:
        return None

    def __str__(self) -> str:
        return self.name


class Money(decimal.Decimal):
    def __init__(self, _amount: str, currency: str) -> None:
        self.currency = currency

    def __new__(cls, amount: str, _currency: str) -> Money:
        return super().__new__(cls, amount)


@dataclasses.dataclass
class Basket(dict[str, int]):
    owner: str


def basket(n: int) -> Basket:
    filled = Basket("Ada")
    filled["mug"] = n
    return filled


class Nanoseconds(datetime.timedelta):
    n: int

    def __str__(self) -> str:
        return f"{self.n} ns"


def nanoseconds(n: int) -> Nanoseconds:
    duration = Nanoseconds()
    duration.n = n
    return duration


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (datetime.datetime(2026, 10, 25, 2), datetime.datetime(2026, 10, 25, 2, fold=1)),
        (datetime.time(2, tzinfo=Zone("A")), datetime.time(2, tzinfo=Zone("B"))),
        (Money("1.5", "EUR"), Money("1.5", "USD")),
        (basket(1), basket(2)),
        (nanoseconds(1), nanoseconds(2)),
    ],
)
def test_all_of_an_object_counts_in_its_encoding(first: Any, second: Any) -> None:
    assert encode(first) != encode(second)


@dataclasses.dataclass(eq=False)
class Node:
    """Compared by identity."""

    at: float


def test_keys_that_would_become_one_are_refused() -> None:
    for value in ({Node(0.0): "a", Node(-0.0): "b"}, {Node(1), Node(True)}):
        with pytest.raises(EncodeError, match="cannot be stored losslessly"):
            encode(value)
    assert len(decode(encode({Node(0.0): "a", Node(1.0): "b"}))) == 2


class Masked(int):
    """A number that it tells nobody."""

    def __int__(self) -> int:
        return 0


def test_number_of_a_subclass_is_its_own() -> None:
    assert decode(encode(Masked(7))).fields == {"value": 7}


class Closed(Order):
    """Its cents are read from a file that is closed."""

    @property  # type: ignore[misc]
    def cents(self) -> int:
        raise ValueError("I/O operation on closed file")

    @cents.setter
    def cents(self, _cents: int) -> None: ...


def test_object_whose_own_code_raises_is_no_error_of_the_loop() -> None:
    value = [Closed("mug", 5)]
    (back,) = decode(encode(value, opaque=True))
    assert isinstance(back, Opaque)
    with pytest.raises(EncodeError, match=r"value\[0\].*Closed cannot be read: ValueError"):
        encode(value)


def test_unstorable_value_is_refused_with_its_path() -> None:
    with pytest.raises(
        EncodeError,
        match=r"step 3: action\['pos'\]\[1\]: builtins.object cannot be stored losslessly",
    ):
        encode({"pos": [1, object()]}, where="step 3: action")


def test_unstorable_value_becomes_opaque_on_request() -> None:
    back = decode(encode({"x": object}, opaque=True))
    assert isinstance(back["x"], Opaque)
    assert back["x"].type_name == "builtins.type"


def test_cyclic_value_is_refused_with_the_depth() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(EncodeError, match=f"deeper than {MAX_DEPTH}"):
        encode(cycle)


@examples("log", st.binary(max_size=200), fixed=300, drawn=1000, whole=50_000)
def test_random_bytes_raise_nothing_but_value_errors(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode(data)


@examples(
    "log",
    values,
    st.integers(0, 10**6),
    st.integers(1, 255),
    fixed=100,
    drawn=500,
    whole=20_000,
)
def test_damaged_encoding_raises_nothing_but_value_errors(
    value: Any, offset: int, flip: int
) -> None:
    data = bytearray(encode(value))
    data[offset % len(data)] ^= flip
    with contextlib.suppress(ValueError):
        decode(bytes(data))


def test_digest_does_not_depend_on_key_order() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.0})


@pytest.mark.parametrize("data", ["a1e7", "81a1e701", "92a1e7", "c1", ""])
def test_bytes_that_are_no_value_have_one_error(data: str) -> None:
    with pytest.raises(NOT_JSON_LIKE):
        decode_json_like(bytes.fromhex(data))
    with pytest.raises(ValueError, match="not an encoded value"):
        decode(bytes.fromhex(data))
