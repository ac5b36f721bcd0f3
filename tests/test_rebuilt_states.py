"""States of agents' worlds, asked for in any order: those of a slow rebuild, or none."""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from test_state_history import any_keys, plain
from tiers import examples, third_slow

from trajrec.corpus import part_history
from trajrec.corpus.part_history import MIN_COPY_DISTANCE
from trajrec.corpus.state_history import StateHistory
from trajrec.errors import StateUnknownError
from trajrec.log.events import StateChange
from trajrec.tracking.tree import Tree, is_digest_of
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.copies import copy_data
from trajrec.values.diff import MISSING, Change, diff, is_same
from trajrec.values.own_value import OwnValue
from trajrec.values.patch import apply, patched

Events = list[StateChange]


def change_of(part: str, step: int, digest: str, value: Value) -> StateChange:
    data = codec.encode(value, opaque=True)
    return StateChange(episode=0, step=step, call=0, attempt=0, part=part, digest=digest, data=data)


def events_of(states: list[dict[str, Any]]) -> Events:
    """Return the changes that a recorder stores for the states of several parts."""
    live = dict(states[0])
    trees = {part: Tree(lambda part=part: live[part]) for part in live}  # type: ignore[misc]
    events = []
    for part, tree in trees.items():
        value, digest = tree.begin()
        events.append(change_of(part, -1, digest, value))
    for step, state in enumerate(states[1:]):
        live.update(state)
        for part, tree in trees.items():
            changes, digest = tree.update()
            if changes:
                events.append(change_of(part, step, digest, [list(_stored(c)) for c in changes]))
    return events


def _stored(change: Change) -> Iterator[Value]:
    is_added = change.before is MISSING
    is_removed = change.after is MISSING
    yield "add" if is_added else "remove" if is_removed else "replace"
    yield list(change.path)
    yield from (value for value in change[1:] if value is not MISSING)


def decode(data: bytes | None) -> Value:
    return codec.decode(data or b"\xc0")


def history_of(events: Events) -> StateHistory:
    return StateHistory(events, decode, "e")


def slow_states(events: Events) -> list[dict[str, Any] | None]:
    """Return the state after each number of events, or None: rebuilt whole, one after the other."""
    values: dict[str, Any] = {}
    digests: dict[str, str] = {}
    states: list[dict[str, Any] | None] = [{}]
    for event in events:
        before = values.get(event.part)
        digests[event.part] = event.digest
        try:
            if event.step < 0:
                values[event.part] = [decode(event.data)]
            else:
                operations = decode(event.data)
                values[event.part] = [_slowly_changed(before, operations)]
        except KeyError:
            values[event.part] = None
        is_known = all(
            value is not None and is_digest_of(digests[part], value[0])
            for part, value in values.items()
        )
        states.append(
            {part: value[0] for part, value in copy.deepcopy(values).items()} if is_known else None
        )
    return states


def _slowly_changed(before: list[Value] | None, operations: Any) -> Value:
    changes = []
    for name, path, *values in operations:
        old = MISSING if name == "add" else values[0]
        new = MISSING if name == "remove" else values[-1]
        changes.append(Change(tuple(path), old, new))
    if before is None and not any(change.path == () for change in changes):
        raise KeyError
    return patched(None if before is None else before[0], changes)


def known(history: StateHistory, n: int) -> dict[str, Any] | None:
    try:
        return history.state(n, n)
    except StateUnknownError:
        return None


def in_order(states: Any) -> bytes:
    """Return bytes that tell two states apart, also by the order of their keys."""
    return codec.encode(states, opaque=True)


ORDERS: dict[str, Callable[[int], list[int]]] = {
    "forward": lambda n: list(range(n)),
    "backward": lambda n: list(range(n))[::-1],
    "last alone": lambda n: [n - 1],
    "random": lambda n: random.Random(n).choices(range(n), k=2 * n),
    "back and forth": lambda n: [k for pair in zip(range(n), reversed(range(n))) for k in pair],  # noqa: B905
}


def check_orders(events: Events) -> None:
    expected = slow_states(events)
    for name, order in ORDERS.items():
        history = history_of(events)
        for n in order(len(events) + 1):
            state = known(history, n)
            assert in_order(state) == in_order(expected[n]), (name, n)


def random_states(seed: int, n: int) -> list[dict[str, Any]]:
    """Return states of a world with records, lists, rows with numbers for keys, and an array."""
    rng = random.Random(seed)
    orders = {f"O{k}": {"cents": k, "note": "n" * 9, "tags": []} for k in range(20)}
    rows: dict[Any, Any] = {k: {"id": k, "name": "x"} for k in range(20)}
    state: dict[str, Any] = {"orders": orders, "rows": rows, "odd": {1: "a", "log": [], 2.5: {}}}
    states = [copy.deepcopy(state)]
    for step in range(n):
        match rng.randrange(8):
            case 0 | 1 | 2:
                orders[rng.choice(list(orders))]["cents"] = step
            case 3:
                rows[rng.randrange(40)] = {"id": step, "name": str(step)}
            case 4:
                rows.pop(rng.choice([*rows, 99]), None)
            case 5:
                state["odd"]["log"].append({"step": step, "at": (step, 1)})
            case 6:
                del state["odd"]["log"][rng.randrange(4) :]
            case 7:
                state["odd"][rng.choice([True, 1, 1.0, "1", None])] = {"big": 2**70, "n": [step]}
        states.append(copy.deepcopy(state))
    return states


@pytest.mark.slow
@third_slow("agents")
@pytest.mark.parametrize("seed", range(3))
def test_states_in_any_order_are_those_of_a_slow_rebuild(seed: int) -> None:
    states = random_states(seed, 2 * MIN_COPY_DISTANCE)
    events = events_of(states)
    check_orders(events)
    assert is_same(known(history_of(events), len(events)), decode(codec.encode(states[-1])))


@pytest.mark.slow
def test_damaged_changes_make_the_same_states_unknown_in_any_order() -> None:
    rng = random.Random(5)
    for seed in range(5):
        events = events_of(random_states(seed, 40))
        for _ in range(3):
            number = rng.randrange(3, len(events))
            events[number] = _damaged(events[number], rng)
        check_orders(events)


def _damaged(event: StateChange, rng: random.Random) -> StateChange:
    operations = decode(event.data)
    operation = operations[0]
    match rng.randrange(6):
        case 0:
            return change_of(event.part, event.step, "0" * 32, operations)
        case 1:
            operation[1] = [*operation[1], "deeper"]
        case 2:
            operation[1] = operation[1][:-1]
        case 3:
            operation[-1] = ["another value"]
        case 4:
            operation[1] = [[1, 2]]
        case 5:
            operations.append(operation)
    return change_of(event.part, event.step, event.digest, operations)


@examples(
    "log",
    st.lists(st.dictionaries(any_keys, plain, max_size=3), min_size=2, max_size=5),
    st.integers(0, 2**32),
    fixed=60,
    drawn=300,
    whole=20_000,
)
def test_states_with_any_keys_are_rebuilt_in_any_order(states: list[Any], seed: int) -> None:
    events = events_of([{"": state} for state in states])
    check_orders(events)
    rng = random.Random(seed)
    if len(events) > 1:
        number = rng.randrange(1, len(events))
        check_orders([*events[:number], _damaged(events[number], rng), *events[number + 1 :]])


@examples("log", plain, plain, fixed=100, drawn=500, whole=50_000)
def test_changes_in_place_give_the_value_that_a_copy_gets(before: Value, after: Value) -> None:
    for changes in (diff(before, after), diff(after, before)):
        try:
            expected = apply(before, changes)
        except KeyError:
            with pytest.raises(KeyError):
                OwnValue(copy.deepcopy(before)).patch(changes)
            continue
        own = OwnValue(copy.deepcopy(before))
        own.patch(copy.deepcopy(changes))
        assert in_order(own.value) == in_order(expected)


@examples("log", plain, fixed=50, drawn=200, whole=5_000)
def test_a_copy_of_data_shares_nothing_that_can_change(value: Value) -> None:
    data = {"value": value, "array": np.zeros(2), "plain": [codec.Plain("a.B", "dataclass", {})]}
    copied: Any = copy_data(data)
    assert in_order(copied) == in_order(data)
    copied["array"][0] = 1
    copied["plain"][0].fields["x"] = 1
    copied["more"] = 1
    assert data["array"][0] == 0  # type: ignore[index]
    assert data["plain"][0].fields == {}  # type: ignore[index]
    assert list(data) == ["value", "array", "plain"]


def test_a_state_belongs_to_its_reader() -> None:
    history = history_of(events_of(random_states(1, 30)))
    expected = in_order(known(history, 20))
    state: Any = known(history, 20)
    state["orders"]["O1"]["tags"].append("mine")
    state["odd"]["log"].clear()
    state.clear()
    assert in_order(known(history, 20)) == expected


class Counted:
    """Decodes values, and counts them."""

    n = 0

    def __call__(self, data: bytes | None) -> Value:
        self.n += 1
        return decode(data)


@pytest.mark.slow
def test_a_loop_reads_each_change_once() -> None:
    events = events_of(random_states(2, 300))
    counted = Counted()
    history = StateHistory(events, counted, "e")
    for n in range(len(events) + 1):
        known(history, n)
    assert counted.n == len(events)


@pytest.mark.slow
def test_a_look_back_reads_few_changes_again() -> None:
    events = events_of(random_states(2, 600))
    counted = Counted()
    history = StateHistory(events, counted, "e")
    for n in range(len(events), 0, -1):
        known(history, n)
    distance = max(MIN_COPY_DISTANCE, len(events) // 16)
    assert counted.n <= 2 * len(events) + len(events) * distance


def test_copies_of_states_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    events = events_of(random_states(2, 600))
    size = len(codec.encode(random_states(2, 1)[0]["orders"]))
    monkeypatch.setattr(part_history, "MAX_COPY_BYTES", 3 * size)
    history = history_of(events)
    for n in (len(events), 1, len(events), 200, 100, 400):
        assert known(history, n) is not None
    for part in history._parts.values():
        assert sum(part._copies._sizes.values()) <= 3 * size
        assert part._copies._sizes.keys() == part._copies._values.keys()
    assert len(history._parts["orders"]._copies._values) in (1, 2, 3)


@pytest.mark.slow
def test_threads_get_their_own_states() -> None:
    events = events_of(random_states(3, 200))
    expected = [in_order(state) for state in slow_states(events)]
    history = history_of(events)
    wrong: list[int] = []

    def look(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            n = rng.randrange(len(events) + 1)
            if in_order(known(history, n)) != expected[n]:
                wrong.append(n)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_values_nested_without_end_leave_the_state_unknown() -> None:
    events = events_of([{"": {"a": 1}}])
    path: list[str] = []
    for step in range(40):
        value: Any = {}
        for _ in range(90):
            value = {"a": value}
        events.append(change_of("", step, "0" * 32, [["replace", ["a", *path], 0, value]]))
        path += ["a"] * 90
    history = history_of(events)
    assert known(history, 1) == {"": {"a": 1}}
    assert [known(history, n) for n in range(2, 42)] == [None] * 40


def test_changes_that_an_array_cannot_take_leave_the_state_unknown() -> None:
    state = np.zeros(3, np.int8)
    event = change_of("", -1, codec.digest(state), state)
    for item in (np.int64(2**40), [1], "text", None):
        history = history_of([event, change_of("", 0, "0" * 32, [["replace", [1], 0, item]])])
        assert known(history, 1) is not None
        assert known(history, 2) is None
