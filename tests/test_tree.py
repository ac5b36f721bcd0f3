"""Tracking of JSON-like data: every change and no other, and a digest of the value alone."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import enum
import random
from typing import Any

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import strategies as st
from tiers import examples, third_slow

from trajrec.tracking.tree import Tree, is_digest_of
from trajrec.values import codec
from trajrec.values.diff import MISSING, Change, diff
from trajrec.values.patch import apply

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner, max_size=5)
    ),
    max_leaves=30,
)


def fresh(value: Any) -> str:
    return Tree(lambda: value).begin()[1]


def assert_follows(history: list[Any]) -> None:
    """Check that changes lead from each value of a history to the next, with the right digests."""
    value = copy.deepcopy(history[0])
    tree = Tree(lambda: value)
    whole, digest = tree.begin()
    assert (whole, digest) == (history[0], fresh(history[0]))
    for after in history[1:]:
        before = value
        value = copy.deepcopy(after)
        changes, digest = tree.update()
        changed = apply(before, changes)
        assert repr(normal(changed)) == repr(normal(after))
        assert digest == fresh(after)
        assert tree.update() == ([], digest)


def normal(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: normal(value[key]) for key in sorted(value)}
    return [normal(item) for item in value] if isinstance(value, list) else value


@examples("log", st.lists(values, min_size=2, max_size=5), fixed=50, drawn=300, whole=10_000)
def test_changes_lead_through_any_history_of_small_values(history: list[Any]) -> None:
    assert_follows(history)


class Mood(enum.Enum):
    GLAD = "glad"
    SAD = ("sad", 1)


@dataclasses.dataclass
class Guest:
    # Not in the order of the alphabet, which the digest must not depend on.
    room: Any
    age: Any


@attrs.define
class Safe:
    content: Any
    _code: Any = 0


class Ticket(msgspec.Struct, rename="camel"):
    seat_row: Any


any_keys = st.sampled_from(
    ["7", "", "a", 7, 1, 0, True, False, None, 1.0, 0.0, -0.0, b"7", (1, 2), (1, True), Mood.GLAD]
)
times = [
    datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
    datetime.datetime(2026, 1, 2),
    datetime.date(2026, 1, 2),
]
any_values = st.recursive(
    scalars
    | st.sampled_from([*times, *Mood, 2**70, complex(1, 2), float("nan"), b"x", "\ud800"])
    | st.integers(500, 1500).map(lambda n: "x" * n),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(any_keys, inner, max_size=5)
        # No list has these items: one that becomes a set of the same items is not seen.
        | st.sets(st.sampled_from(["set 1", "set 2", "set 3"]), min_size=1)
        | st.lists(inner, max_size=2).map(tuple)
        | st.builds(Guest, inner, inner)
        | st.builds(Safe, inner, inner)
        | st.builds(Ticket, inner)
        # More items than a page, and more than a record may have.
        | inner.map(lambda item: {f"k{i}": item if i == 3 else i for i in range(70)})
    ),
    max_leaves=25,
)


def as_stored(change: Change) -> Change:
    """Return a change as a log gives it back."""
    return Change(
        *(part if part is MISSING else codec.decode(codec.encode(part)) for part in change)
    )


def assert_rebuilt(history: list[Any]) -> None:
    """Check that what a log stores of a history leads to each value, and proves it."""
    box = [copy.deepcopy(history[0])]
    tree = Tree(lambda: box[0])
    whole, digest = tree.begin()
    stored = codec.decode(codec.encode(whole))
    assert is_digest_of(digest, stored)
    for after in history[1:]:
        box[0] = copy.deepcopy(after)
        changes, digest = tree.update()
        read = [as_stored(change) for change in changes]
        stored = apply(stored, read)
        again = Tree(lambda: box[0])
        assert again.begin()[1] == digest
        assert is_digest_of(digest, stored)
        assert tree.update() == ([], digest)


@examples("log", st.lists(any_values, min_size=2, max_size=4), fixed=100, drawn=500, whole=30_000)
def test_stored_changes_rebuild_and_prove_any_state(history: list[Any]) -> None:
    assert_rebuilt(history)


def database(n: int, seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    return {
        "orders": {
            f"O{i}": {
                "cents": draw.randrange(10**5),
                "items": [1, 2],
                "note": "x" * draw.randrange(40),
            }
            for i in range(n)
        },
        "log": [f"line {i}" for i in range(n)],
        "deep": {
            "tables": {"a": {f"r{i}": [i, i * 0.5] for i in range(n)}, "b": {"k": "v" * 20_000}}
        },
        "n": n,
    }


@pytest.mark.slow
@third_slow("agents")
@pytest.mark.parametrize("n", [10, 63, 64, 65, 700])
def test_changes_lead_through_any_edits_of_large_data(n: int) -> None:
    draw = random.Random(n)
    history = [database(n, 0)]
    for _ in range(25):
        value = copy.deepcopy(history[-1])
        orders = value["orders"]
        rows = value["deep"]["tables"]["a"]
        match draw.randrange(9):
            case 0:
                orders[draw.choice(list(orders))]["cents"] += 1
            case 1:
                orders[f"N{len(orders)}{draw.random()}"] = {"cents": 1, "items": [], "note": ""}
            case 2:
                del orders[draw.choice(list(orders))]
            case 3:
                value["log"].append("one more")
            case 4:
                value["log"].insert(0, "first")
            case 5:
                rows[draw.choice(list(rows))][1] = True
            case 6:
                value["deep"]["tables"]["b"] = {"k": "w" * draw.choice([3, 30_000])}
            case 7:
                value["orders"] = dict(sorted(orders.items(), key=lambda item: draw.random()))
            case _:
                value["deep"] = [1] if draw.random() < 0.2 else value["deep"]
                if isinstance(value["deep"], list):
                    value["deep"] = copy.deepcopy(history[0]["deep"])
        history.append(value)
    assert_follows(history)


def test_equal_values_of_different_types_are_changes() -> None:
    box: dict[str, Any] = {"a": 1, "b": 0.0}
    tree = Tree(lambda: box)
    tree.begin()
    box["a"] = True
    assert [tuple(c) for c in tree.update()[0]] == [(("a",), 1, True)]
    box["a"] = 1.0
    box["b"] = -0.0
    assert [c.path for c in tree.update()[0]] == [("a",), ("b",)]


def test_objects_with_fields_are_watched_as_data() -> None:
    @dataclasses.dataclass
    class Account:
        owner: str
        cents: int

    class Mail(pydantic.BaseModel):
        sender: str
        read: bool = False

    @attrs.define
    class Note:
        text: str

    box = {"accounts": [Account("ada", 5)], "inbox": {1: Mail(sender="ben")}, "notes": [Note("x")]}
    tree = Tree(lambda: box)
    whole, _ = tree.begin()
    assert whole == {
        "accounts": [{"owner": "ada", "cents": 5}],
        "inbox": {1: {"sender": "ben", "read": False}},
        "notes": [{"text": "x"}],
    }
    box["accounts"][0].cents = 7  # type: ignore[index, attr-defined]
    box["inbox"][1].read = True  # type: ignore[index, attr-defined]
    box["notes"][0].text = "y"  # type: ignore[index, attr-defined]
    changes, _ = tree.update()
    assert [(c.path, c.before, c.after) for c in changes] == [
        (("accounts", 0, "cents"), 5, 7),
        (("inbox", 1, "read"), False, True),
        (("notes", 0, "text"), "x", "y"),
    ]


def test_enum_is_watched_as_its_value() -> None:
    class Colour(enum.Enum):
        RED = 1

    assert Tree(lambda: {"colour": Colour.RED}).begin() == ({"colour": 1}, fresh({"colour": 1}))


@pytest.mark.parametrize("odd", [2**70, "\ud800", complex(1, 2), object, {1, "a"}])
def test_values_that_msgpack_cannot_hold_are_watched(odd: Any) -> None:
    box: dict[str, Any] = {"a": odd, "b": 1}
    tree = Tree(lambda: box)
    tree.begin()
    assert tree.update()[0] == []
    box["b"] = 2
    assert [tuple(c) for c in tree.update()[0]] == [(("b",), 1, 2)]
    box["a"] = 0
    assert [c.path for c in tree.update()[0]] == [("a",)]
    plain: dict[str, Any] = {"a": 0}
    tree = Tree(lambda: plain)
    tree.begin()
    plain["a"] = odd
    assert [c.path for c in tree.update()[0]][:1] in ([("a",)], [("a", 0)])


@examples("log", values, values, fixed=200, drawn=500, whole=20_000)
def test_applied_changes_turn_one_value_into_the_other(before: Any, after: Any) -> None:
    original = copy.deepcopy(before)
    assert repr(normal(apply(before, diff(before, after)))) == repr(normal(after))
    assert repr(before) == repr(original)


def test_change_that_does_not_fit_a_value_is_refused() -> None:
    with pytest.raises(
        KeyError, match="the change of '/a/0/b' does not fit: the value has no 0 on that path"
    ):
        apply({"a": []}, diff({"a": [{"b": 1}]}, {"a": [{"b": 2}]}))


def test_digest_depends_on_list_order_but_not_key_order() -> None:
    assert fresh({"a": 1, "b": {"x": 1, "y": 2}}) == fresh({"b": {"y": 2, "x": 1}, "a": 1})
    assert fresh({"a": [1, 2]}) != fresh({"a": [2, 1]})
    assert fresh({"a": {}}) != fresh({"a": []}) != fresh({"a": None})
