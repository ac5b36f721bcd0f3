"""States that are rebuilt from a log: the right ones, or none."""

from __future__ import annotations

import copy
import enum
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from tiers import examples

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.corpus.recheck import recheck
from trajrec.corpus.state_history import StateHistory
from trajrec.errors import StateUnknownError
from trajrec.log.events import StateChange
from trajrec.protocols import Tool
from trajrec.recording.event_log import close_logs
from trajrec.replay import replay_episode
from trajrec.tracking.tree import Tree
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.diff import MISSING, Change, is_same
from trajrec.values.text_paths import to_text


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Hotel:
    """A world whose rooms have numbers for keys."""

    rooms: dict[Any, Any]

    def __init__(self) -> None:
        self.kwargs: dict[str, Any] = {}
        self.rooms = {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> str:
        self.rooms = {7: "ann"}
        return "Let rooms."

    def tools(self) -> list[Tool]:
        return [Tool.with_args(name, "write") for name in ("let", "clear", "fill", "paint")]

    def call(self, name: str, arguments: dict[str, Any], /) -> str:
        match name:
            case "let":
                self.rooms[arguments["room"]] = arguments["guest"]
            case "clear":
                del self.rooms[arguments["room"]]
            case "fill":
                self.rooms.update(dict.fromkeys(range(100, 400), "crowd"))
            case "paint":
                self.rooms[Size.LARGE] = {Size.SMALL: arguments["colour"]}
        return "done"

    def watch(self) -> Any:
        return self


class Forgetful(Tree):
    """A tracker with a fault: it reports the first change of each call alone."""

    def update(self) -> tuple[list[Change], str]:
        changes, digest = super().update()
        return changes[:1], digest


class BadlyWatched(Hotel):
    def watch(self) -> Any:
        return Forgetful(lambda: self.rooms)


def record(folder: Path, world: Hotel, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """Record calls, and return the state after each of them."""
    states = []
    with trajrec.episode(folder, world=world) as ep:
        states.append(copy.deepcopy(world.rooms))
        for name, arguments in calls:
            ep.call(name, **arguments)
            states.append(copy.deepcopy(world.rooms))
    close_logs()
    return states


def only(folder: Path) -> Episode:
    (episode,) = trajrec.open(folder).episodes()
    return episode


@trajrec.verifier(id="bob is in room 8", version="1")
def bob_is_in_8(state: Any) -> bool:
    rooms: dict[Any, Any] = state["rooms"]
    return rooms.get(8) == "bob"


@pytest.mark.slow
def test_states_with_integer_keys_are_rebuilt_and_judged(tmp_path: Path) -> None:
    calls = [
        ("let", {"room": 8, "guest": "bob"}),
        ("let", {"room": "7", "guest": "eve"}),
        ("let", {"room": 7, "guest": "dan"}),
        ("fill", {}),
        ("let", {"room": "7", "guest": "eva"}),
        ("clear", {"room": 7}),
        ("paint", {"colour": "red"}),
        ("let", {"room": 1, "guest": "one"}),
        ("clear", {"room": 1}),
        ("let", {"room": True, "guest": "yes"}),
    ]
    states = record(tmp_path, Hotel(), *calls)
    episode = only(tmp_path)
    for step, rooms in enumerate(states):
        stored = codec.decode(codec.encode(rooms))
        assert is_same(episode.state(step)[""]["rooms"], stored), step
    assert replay_episode(episode, world=Hotel()).grade == "exact"
    with trajrec.open(tmp_path) as corpus:
        assert [graded.verdict.passed for graded in recheck(corpus, bob_is_in_8)] == [True]
        rows = corpus.sql(
            "SELECT step, path, keys, before, after FROM state_changes WHERE step < 3 ORDER BY step"
        ).fetchall()
    assert rows == [
        (0, "/rooms/8", '["rooms",8]', None, '"bob"'),
        (1, "/rooms/7", '["rooms","7"]', None, '"eve"'),
        (2, "/rooms/7", '["rooms",7]', '"ann"', '"dan"'),
    ]


def test_a_state_that_does_not_match_its_digest_is_never_used(tmp_path: Path) -> None:
    calls = [
        ("let", {"room": 8, "guest": "bob"}),
        ("fill", {}),
        ("let", {"room": 9, "guest": "cy"}),
    ]
    states = record(tmp_path, BadlyWatched(), *calls)
    episode = only(tmp_path)
    assert episode.state(1)[""] == states[1]
    with pytest.raises(StateUnknownError, match=rf"episode {episode.id} step 2: the state is") as e:
        episode.state(2)
    assert (e.value.episode_id, e.value.step, e.value.part) == (episode.id, 2, "")
    with trajrec.open(tmp_path) as corpus:
        (graded,) = recheck(corpus, bob_is_in_8)
    assert (graded.status, graded.verdict.passed) == ("not_evaluated", None)
    assert "lead to another digest" in graded.message
    # The world is the recorded one by its digests; that is all that the log can prove.
    report = replay_episode(episode, world=BadlyWatched())
    assert (report.grade, report.divergence) == ("state", None)
    assert "could not be compared by its values" in report.notes[-1]


def test_resync_stops_at_a_state_that_is_unknown(tmp_path: Path) -> None:
    record(tmp_path, BadlyWatched(), ("fill", {}), ("let", {"room": 8, "guest": "bob"}))

    class Other(BadlyWatched):
        def call(self, name: str, arguments: dict[str, Any], /) -> str:
            super().call(name, arguments)
            self.rooms["more"] = 1
            return "done"

    report = replay_episode(only(tmp_path), world=Other(), resync=True, explain=False)
    assert report.grade == "diverged"
    assert "could not be restored: the recorded changes lead to another digest" in str(report)


class Blinking(Tree):
    """A tracker that cannot see the state after the first call, whichever way it is asked."""

    n = 0

    def begin(self) -> tuple[Value, str]:
        self._look()
        return super().begin()

    def update(self) -> tuple[list[Change], str]:
        self._look()
        return super().update()

    def _look(self) -> None:
        # The first look is at the beginning, the second before the call. A failure is tried again
        # once.
        self.n += 1
        if self.n in (3, 4):
            raise OSError("not now")


def test_a_state_is_known_again_after_it_could_not_be_captured(tmp_path: Path) -> None:
    class Watched(Hotel):
        def watch(self) -> Any:
            return {"": Blinking(lambda: self.rooms)}

    calls = [("let", {"room": 8, "guest": "bob"}), ("let", {"room": 9, "guest": "cy"})]
    states = record(tmp_path, Watched(), *calls)
    episode = only(tmp_path)
    assert episode.state(0)[""] == states[0]
    with pytest.raises(StateUnknownError, match="could not be captured"):
        episode.state(1)
    assert episode.state(2)[""] == states[2]


KILLED = """
import os, sys, trajrec
rooms = {}

def rooms_seen():
    # At the beginning, and before and after each call: the fifth is the last.
    rooms_seen.n += 1
    if rooms_seen.n == 5:
        os.kill(os.getpid(), 9)
    return rooms

rooms_seen.n = 0
with trajrec.episode(sys.argv[1], watch=rooms_seen) as ep:
    ep.tool(rooms.__setitem__, name="let")
    ep.execute("let", {"key": 1, "value": "ann"}, run=lambda: rooms.update({1: "ann"}))
    ep.execute("let", {"key": 2, "value": "bob"}, run=lambda: rooms.update({2: "bob"}))
"""


@pytest.mark.slow
def test_a_state_that_a_kill_kept_out_is_unknown(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -9
    episode = only(tmp_path)
    assert episode.state(1)[""] == {1: "ann"}
    with pytest.raises(StateUnknownError, match="perhaps before its changes were recorded"):
        episode.state(2)


# Logs of format 1


def history(
    states: list[Any], change: Callable[[list[Value]], list[Value]] | None = None
) -> StateHistory:
    """Return the history of a value as format 1 stored it: paths are texts."""
    box = [states[0]]
    tree = Tree(lambda: box[0])
    whole, digest = tree.begin()
    events = [_event(-1, digest, whole)]
    for step, state in enumerate(states[1:]):
        box[0] = state
        changes, digest = tree.update()
        operations = [_operation(change) for change in changes]
        events.append(_event(step, digest, operations if change is None else change(operations)))
    return StateHistory(events, lambda data: codec.decode(data or b"\xc0"), "e")


def _event(step: int, digest: str, value: Any) -> StateChange:
    data = codec.encode(value)
    return StateChange(episode=0, step=step, call=0, attempt=0, part="", digest=digest, data=data)


def _operation(change: Change) -> list[Value]:
    path = to_text(change.path)
    if change.before is MISSING:
        return ["add", path, change.after]
    if change.after is MISSING:
        return ["remove", path, change.before]
    return ["replace", path, change.before, change.after]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({7: "ann"}, {7: "ann", 8: "bob"}),
        ({7: "ann"}, {7: "ann", "8": "bob"}),
        ({7: "ann", "7": "bob"}, {7: "ann", "7": "eve"}),
        ({7: "ann", "7": "bob"}, {7: "eve", "7": "bob"}),
        ({7: "ann", "7": "bob"}, {7: "ann"}),
        ({7: "ann", "7": "bob"}, {"7": "bob"}),
        ({1: "a"}, {True: "a"}),
        ({1: "a"}, {"1": "a"}),
        ({}, {None: 1, "None": 2, (1, 2): 3, b"x": 4, 1.5: 5}),
        ({"a": {"1": {}, 1: {}}}, {"a": {"1": {"k": 1}, 1: {}}}),
        ({"": {"a/b": [1, {"~": 2}]}}, {"": {"a/b": [1, {"~": 3, "": 4}]}}),
    ],
)
def test_text_paths_of_format_1_are_read_as_the_digest_decides(before: Any, after: Any) -> None:
    states = history([before, after])
    assert is_same(states.state(2, 1)[""], after)
    assert states.changes(1)[1]
    assert states.first_unknown() is None


def test_text_paths_that_no_digest_decides_leave_the_state_unknown() -> None:
    def other(operations: list[Value]) -> list[Value]:
        return [[*operations[0][:-1], "eve"]]

    for before, after in (({7: 1, "7": 2}, {7: 1, "7": 3}), ({7: 1}, {7: 1, 8: 2})):
        states = history([before, after, {**after, "x": 1}], other)
        with pytest.raises(StateUnknownError, match="do not fit"):
            states.state(2, 1)
        assert not states.changes(1)[1]
        assert [change.path for change in states.changes(1)[0]] == [(str(list(after)[-1]),)]
        # Nor is a later state guessed.
        with pytest.raises(StateUnknownError):
            states.state(3, 2)
        assert states.first_unknown() is not None


any_keys = st.sampled_from(["7", "8", "None", "a", 7, 8, 1, True, None, b"7", (1, "a"), 1.5])
plain = st.recursive(
    st.integers(0, 3) | st.text(max_size=1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_keys, inner, max_size=3),
    max_leaves=8,
)


@examples(
    "log",
    st.lists(st.dictionaries(any_keys, plain, max_size=3), min_size=2, max_size=4),
    fixed=60,
    drawn=500,
    whole=20_000,
)
def test_text_paths_are_never_read_as_another_state(states: list[Any]) -> None:
    rebuilt = history([copy.deepcopy(state) for state in states])
    for n, state in enumerate(states, 1):
        try:
            value = rebuilt.state(n, n)[""]
        except StateUnknownError:
            continue
        assert is_same(value, codec.decode(codec.encode(state)))
