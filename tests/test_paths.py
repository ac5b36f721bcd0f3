"""Typed paths: differences between values with any keys, found, applied, shown and read again."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tiers import examples

from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.codec import Plain
from trajrec.values.diff import MISSING, Change, diff, is_same
from trajrec.values.json import describe_path, to_json, to_keys, to_pointer
from trajrec.values.patch import apply, patched
from trajrec.values.paths import key_id, path_id
from trajrec.values.text_paths import possible_paths, to_text


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass(frozen=True)
class Place:
    x: int
    y: int


OBJECTS = (Colour.RED, Colour.BLUE, Place(0, 1), Place(0, 2), datetime.date(2026, 1, 2))

# Few keys, and many that Python takes for each other.
simple_keys = st.sampled_from(
    [
        *("", "7", "a/b", "~", "True", "None", "\ud800", 7, 0, 1, -1, 2**70, True, False, None),
        *(0.0, -0.0, 1.0, 7.0, float("nan"), float("inf"), b"", b"7", 1j, *OBJECTS),
        *(
            np.int64(7),
            np.float32(0.5),
            np.float64(7.0),
            np.bool_(True),
            np.str_("7"),
            np.bytes_(b"7"),
        ),
        np.datetime64("2026-01-02"),
    ]
)
keys = (
    simple_keys
    | st.tuples(simple_keys, simple_keys)
    | st.frozensets(st.integers(0, 2), max_size=2)
    | st.tuples(st.tuples(st.integers(0, 1)))
)
leaves = (
    simple_keys
    | st.integers(-3, 3)
    | st.floats(width=16)
    | st.text(max_size=2)
    | st.sets(st.integers(0, 3), max_size=2)
    | npst.arrays(
        st.sampled_from([np.int8, np.float32, ">f8", "U2", "S2", "M8[s]", np.complex64, np.bool_]),
        npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=2),
    )
)


def boxed(items: list[Any]) -> np.ndarray[Any, Any]:
    array = np.empty(len(items), object)
    for index, item in enumerate(items):
        array[index] = item
    return array


values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.lists(inner, max_size=2).map(boxed)
        | st.dictionaries(keys, inner, max_size=4)
        | st.builds(
            lambda a, b: {"object": Plain("shop.Order", "dataclass", {"a": a, "b": b})},
            inner,
            inner,
        )
    ),
    max_leaves=12,
)
recorded = values.map(lambda value: codec.decode(codec.encode(value)))


def bits(value: Value) -> Any:
    """Return what a value is, by type and bits, as nested tuples: a slow and independent account."""
    name = type(value).__name__
    if isinstance(value, np.ndarray):
        items = [bits(item) for item in value.ravel()] if value.dtype == object else value.tobytes()
        return name, value.dtype.str, value.shape, tuple(items)
    if isinstance(value, np.generic):
        return name, value.dtype.str, value.tobytes()
    if isinstance(value, float):
        return name, np.float64(value).tobytes()
    if isinstance(value, complex):
        return name, np.complex128(value).tobytes()
    if isinstance(value, dict):
        pairs = [(bits(key), bits(item)) for key, item in value.items()]
        return name, tuple(sorted(pairs, key=repr))
    if isinstance(value, Plain):
        return name, value.type_name, value.kind, bits(value.fields)
    if isinstance(value, (list, tuple)):
        return name, tuple(map(bits, value))
    if isinstance(value, (set, frozenset)):
        return name, tuple(sorted(map(bits, value), key=repr))
    return name, repr(value)


@examples("log", recorded, recorded, fixed=100, drawn=700, whole=100_000)
def test_applied_changes_of_any_keys_give_the_other_value(before: Value, after: Value) -> None:
    was = bits(before)
    changes = diff(before, after)
    assert bits(apply(before, changes)) == bits(after)
    assert bits(before) == was
    assert is_same(before, after) == (bits(before) == bits(after)) == (not changes)


@examples("log", recorded, recorded, fixed=100, drawn=500, whole=20_000)
def test_changes_obey_the_rules_of_their_order(before: Value, after: Value) -> None:
    paths = [path_id(change.path) for change in diff(before, after)]
    assert len(set(paths)) == len(paths)
    for path in paths:
        assert not any(path[:depth] in paths for depth in range(len(path)))
    for change in diff(before, after):
        assert (change.before is MISSING) + (change.after is MISSING) < 2


@examples("log", recorded, recorded, fixed=100, drawn=500, whole=20_000)
def test_stored_paths_come_back_with_their_types(before: Value, after: Value) -> None:
    changes = diff(before, after)
    stored = codec.decode(codec.encode([list(change.path) for change in changes]))
    read = [change._replace(path=tuple(path)) for change, path in zip(changes, stored, strict=True)]
    assert bits(apply(before, read)) == bits(after)


@examples(
    "log",
    st.lists(keys, max_size=3),
    st.lists(keys, max_size=3),
    fixed=300,
    drawn=1_000,
    whole=50_000,
)
def test_different_paths_are_shown_as_different_keys(a: list[Any], b: list[Any]) -> None:
    # As a log gives them back.
    a, b = codec.decode(codec.encode(a)), codec.decode(codec.encode(b))
    assert (to_keys(tuple(a)) == to_keys(tuple(b))) == (bits(a) == bits(b))
    assert (describe_path(tuple(a)) == describe_path(tuple(b))) == (bits(a) == bits(b))
    assert (path_id(tuple(a)) == path_id(tuple(b))) == (bits(a) == bits(b))
    json.loads(to_keys(tuple(a)))


@examples(
    "log", st.dictionaries(keys, st.integers(), max_size=6), fixed=100, drawn=500, whole=20_000
)
def test_json_shows_every_item_of_a_dict(mapping: dict[Any, Any]) -> None:
    assert len(json.loads(to_json(mapping))) == len(mapping)


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ({7: "ann"}, {7: "ann", 8: "bob"}, [((8,), MISSING, "bob")]),
        ({7: "ann", "7": "bob"}, {7: "ann", "7": "eve"}, [(("7",), "bob", "eve")]),
        ({1: "a"}, {True: "a"}, [((1,), "a", MISSING), ((True,), MISSING, "a")]),
        ({1: "a"}, {1.0: "a"}, [((1,), "a", MISSING), ((1.0,), MISSING, "a")]),
        ({0.0: 1}, {-0.0: 1}, [((0.0,), 1, MISSING), ((-0.0,), MISSING, 1)]),
        ({(1, 2): 1}, {(1, True): 1}, [(((1, 2),), 1, MISSING), (((1, True),), MISSING, 1)]),
        ([1, 2, 3], [0, 1], [((0,), 1, 0), ((1,), 2, 1), ((2,), 3, MISSING)]),
        ({"b": [], "a": 1}, {"c": 1, "b": [1, 2]}, [
            (("b", 0), MISSING, 1), (("b", 1), MISSING, 2), (("a",), 1, MISSING), (("c",), MISSING, 1),
        ]),
    ],
)  # fmt: skip
def test_changes_have_keys_with_their_types(before: Value, after: Value, changes: Any) -> None:
    assert bits([tuple(change) for change in diff(before, after)]) == bits(changes)
    assert bits(apply(before, diff(before, after))) == bits(after)


def test_dict_with_one_key_twice_changes_as_a_whole() -> None:
    before = {float("nan"): 1, float("nan"): 2}
    after = {float("nan"): 1, float("nan"): 3}
    assert diff(before, after) == [Change((), before, after)]
    assert diff(before, dict(zip(list(after), [1, 2], strict=True))) == []
    with pytest.raises(KeyError, match="does not fit"):
        apply(before, [Change((float("nan"),), 1, 3)])


@pytest.mark.parametrize(
    ("value", "changes"),
    [
        ({1: "a"}, [Change((True,), "a", "b")]),
        ({1: "a"}, [Change((True,), MISSING, "b")]),
        ({"a": 1}, [Change(("a",), MISSING, 2)]),
        ({"a": 1}, [Change(("b",), 1, MISSING)]),
        ([1, 2, 3], [Change((0,), 1, MISSING)]),
        ([1, 2, 3], [Change(("0",), 1, 2)]),
        ([1, 2, 3], [Change((True,), 1, 2)]),
        ([1, 2, 3], [Change((5,), MISSING, 2)]),
        ([1, 2, 3], [Change((-1,), 3, 2)]),
        ({"a": {"b": 1}}, [Change(("a",), 1, 2), Change(("a", "b"), 1, 2)]),
        ({"a": 1}, [Change(("a",), 1, 2), Change(("a",), 1, 3)]),
        (np.zeros(3), [Change((3,), 0.0, 1.0)]),
        (np.zeros((3, 2)), [Change((1,), 0.0, 1.0)]),
        (np.zeros(3, np.int8), [Change((1,), 0, np.float64(1.5))]),
        ("text", [Change((0,), "t", "T")]),
        ({}, [Change((), {}, MISSING)]),
    ],
)
def test_changes_that_do_not_fit_are_refused(value: Value, changes: list[Change]) -> None:
    with pytest.raises(KeyError, match=r"does not fit|contradict"):
        patched(value, changes)


def test_objects_as_keys_are_read_again() -> None:
    value = {Colour.RED: 1, datetime.date(2026, 1, 2): 2, (Colour.BLUE, 1): {Place(0, 1)}}
    read = codec.decode(codec.encode(value))
    assert codec.encode(read) == codec.encode(value)
    assert [key_id(key) for key in read] == [key_id(key) for key in value]
    assert diff(read, codec.decode(codec.encode({**value, Colour.RED: 5})))[0][1:] == (1, 5)


def test_two_objects_that_would_be_one_key_are_not_stored_as_one() -> None:
    class Token:
        def __init__(self) -> None:
            self.name = "a"

    @dataclasses.dataclass(eq=False)
    class Card:
        suit: str

    for value in ({Card("clubs"): 1, Card("clubs"): 2}, {Card("clubs"), Card("clubs")}):
        with pytest.raises(codec_error(), match="cannot be stored losslessly"):
            codec.encode(value)
        assert isinstance(codec.decode(codec.encode(value, opaque=True)), codec.Opaque)
    assert len(codec.decode(codec.encode({Token(): 1, Token(): 2}, opaque=True))) == 2


def codec_error() -> type[Exception]:
    from trajrec.errors import EncodeError

    return EncodeError


def test_pointer_alone_is_clear_and_has_its_keys_beside_it_otherwise() -> None:
    assert describe_path(("orders", 7)) == "/orders/7"
    assert describe_path(("orders", "7")) == '/orders/7 ["orders","7"]'
    assert describe_path(("orders", "O7")) == "/orders/O7"
    assert describe_path((None, True)) == "/None/True [null,true]"
    assert to_pointer((Colour.RED, codec.decode(codec.encode(Colour.RED)))) == "/Colour.RED/RED"
    assert to_json({7: "ann", "7": "bob"}) == '{"7":"bob","7 (builtins.int)":"ann"}'


@examples("log", recorded, recorded, fixed=100, drawn=500, whole=20_000)
def test_text_paths_of_format_1_stand_for_the_typed_paths(before: Value, after: Value) -> None:
    for change in diff(before, after):
        if any(type(key) not in (str, int, bool, bytes) for key in change.path):
            continue
        is_addition = change.before is MISSING
        possible = possible_paths(before, to_text(change.path), is_addition=is_addition)
        assert path_id(change.path) in {path_id(path) for path in possible}
