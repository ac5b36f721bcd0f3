"""Differences between values: found by type and bits, and applied again."""

from __future__ import annotations

import copy
import pickle

import pytest
from equal_pairs import EQUAL_PAIRS

from trajrec.types import Value
from trajrec.values.diff import MISSING, Change, diff, first_change, is_same
from trajrec.values.json import to_pointer
from trajrec.values.patch import apply


@pytest.mark.parametrize(("one", "other"), EQUAL_PAIRS, ids=repr)
def test_values_that_only_compare_equal_differ(one: Value, other: Value) -> None:
    assert is_same(one, one)
    assert not is_same(one, other)
    assert first_change(one, other) == diff(one, other)[0]


def test_missing_stays_itself_in_copies_and_pickles() -> None:
    change = diff({}, {"a": 1})[0]
    for duplicate in (copy.deepcopy(change), pickle.loads(pickle.dumps(change))):
        assert duplicate.before is MISSING
    assert repr(MISSING) == "(missing)"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1, 2),
        ({"a/b": 1, "": 2, "~": 3}, {"a/b": 2, "": 3, "~": 4}),
        ({1: "x", "y": [1, 2, 3, 4]}, {1: "z", "y": [1]}),
        ({"y": [1]}, {"y": [1, 2, 3], "x": {}}),
        ([{"a": 1}, {"b": 2}], [{"a": 2}]),
    ],
)
def test_applied_changes_give_the_other_value(before: Value, after: Value) -> None:
    original = copy.deepcopy(before)
    assert is_same(apply(before, diff(before, after)), after)
    assert is_same(before, original)


def test_pointer_escapes_slashes_tildes_and_empty_keys() -> None:
    keys = ("a/b", "~", "", 3)
    assert [to_pointer(("p", key)) for key in keys] == ["/p/a~1b", "/p/~0", "/p/", "/p/3"]


def test_change_at_a_missing_key_names_its_path() -> None:
    with pytest.raises(KeyError, match="the change of '/a/b' does not fit"):
        apply({}, [Change(("a", "b"), 1, 2)])
