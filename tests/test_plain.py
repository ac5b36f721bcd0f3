"""The sets of plain and immutable types, checked against the encoder, copies and NumPy."""

from __future__ import annotations

import copy
import datetime
import decimal
import enum
import pathlib
import uuid
from typing import Any

import numpy as np
import pytest

from trajrec.values import codec
from trajrec.values.copies import copy_for_env, copy_for_record
from trajrec.values.plain import (
    ATOMIC_TYPES,
    IMMUTABLE_BASES,
    IMMUTABLE_TYPES,
    PLAIN_TYPES,
    SCALAR_TYPES,
    STANDARD_VALUES,
    is_immutable,
)


class Colour(enum.Enum):
    RED = 1


# One value of each type in the sets, except for NumPy's scalars, which are made by their class.
EXAMPLES: dict[type, Any] = {
    type(None): None,
    bool: True,
    int: 7,
    float: 0.5,
    str: "lamp",
    bytes: b"lamp",
    np.str_: np.str_("lamp"),
    np.bytes_: np.bytes_(b"lamp"),
    np.datetime64: np.datetime64("2026-01-02"),
    np.timedelta64: np.timedelta64(3, "s"),
}


def example(cls: type) -> Any:
    return EXAMPLES[cls] if cls in EXAMPLES else cls(1)


def test_plain_values_are_stored_without_an_extension() -> None:
    for cls in PLAIN_TYPES:
        assert codec.encode(example(cls))[0] not in range(0xC7, 0xCA), cls
        assert codec.encode(example(cls))[0] not in range(0xD4, 0xD9), cls


def test_immutable_types_come_back_from_a_log_unchanged() -> None:
    for cls in IMMUTABLE_TYPES:
        value = codec.decode(codec.encode(example(cls)))
        assert type(value) is cls
        assert value == example(cls)


def test_second_classes_of_an_integer_are_scalars_only() -> None:
    second = SCALAR_TYPES - IMMUTABLE_TYPES
    assert all(issubclass(cls, np.integer) for cls in second)
    assert all(type(codec.decode(codec.encode(cls(1)))) is not cls for cls in second)
    assert {np.datetime64} == IMMUTABLE_TYPES - SCALAR_TYPES


def test_scalar_types_cover_all_numpy_numbers() -> None:
    numbers = {cls for cls in np.sctypeDict.values() if issubclass(cls, np.number)}
    assert numbers | {np.bool_, np.str_, np.bytes_} | PLAIN_TYPES == SCALAR_TYPES


def test_deep_copies_share_the_values_of_atomic_types() -> None:
    values = [1j, range(3), int, ..., len, example, None, "a"]
    assert {type(value) for value in values} <= ATOMIC_TYPES
    assert all(copy.deepcopy(value) is value for value in values)


@pytest.mark.parametrize(
    "value",
    [
        datetime.date(2026, 1, 2),
        datetime.datetime(2026, 1, 2, 3, 4, 5, 6),
        datetime.time(3, 4),
        decimal.Decimal("1.50"),
        uuid.UUID(int=5),
        pathlib.PurePosixPath("a/b"),
    ],
)
def test_text_describes_a_standard_value_in_full(value: Any) -> None:
    assert isinstance(value, STANDARD_VALUES)
    assert codec.decode(codec.encode(value)).fields == {"value": str(value)}


@pytest.mark.parametrize("value", ["a", b"a", True, 2, 1j, None, Colour.RED, (1, ("a",)), ()])
def test_values_that_can_only_be_replaced_are_immutable(value: Any) -> None:
    assert is_immutable(value)


@pytest.mark.parametrize(
    "value", [[], {}, set(), bytearray(b"a"), (1, []), pathlib.Path("a"), np.zeros(2), object()]
)
def test_values_that_can_change_are_not_immutable(value: Any) -> None:
    assert not is_immutable(value)
    assert not isinstance(value, IMMUTABLE_BASES)


def test_copies_for_a_record_do_not_follow_their_source() -> None:
    buffer = np.zeros(2)
    observation = {"buffer": buffer, "items": [1]}
    whole = copy_for_record(buffer)
    nested = copy_for_record(observation)
    buffer[:] = 1
    observation["items"].append(2)
    assert whole.tolist() == [0.0, 0.0]
    assert nested["buffer"].tolist() == [0.0, 0.0]
    assert nested["items"] == [1]


def test_copies_for_a_record_have_the_types_of_a_log() -> None:
    assert isinstance(copy_for_record(decimal.Decimal("1.5")), codec.Plain)
    assert isinstance(copy_for_env(decimal.Decimal("1.5")), decimal.Decimal)


def test_copies_for_an_environment_leave_the_action_alone() -> None:
    action = {"force": np.ones(2)}
    given = copy_for_env(action)
    given["force"] *= 2
    assert action["force"].tolist() == [1.0, 1.0]
    assert copy_for_env("left") == "left"


def test_copied_array_of_objects_keeps_its_items() -> None:
    items = np.empty(1, object)
    items[0] = [1]
    copied = copy_for_record(items)
    items[0].append(2)
    assert copied.tolist() == [[1]]
