"""Restoring of recorded states: live objects, databases and folders; resync; projections."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydantic
import pytest
from hypothesis import strategies as st
from tiers import examples

import trajrec
from trajrec.envs import Office, Shop
from trajrec.envs.scripted import solver
from trajrec.errors import RestoreError
from trajrec.replay import replay_episode
from trajrec.tracking.folder import WHOLE_BYTES, Folder
from trajrec.tracking.sqlite import Database
from trajrec.tracking.tree import Tree
from trajrec.values.diff import Change, is_same
from trajrec.values.patch import apply
from trajrec.values.projection import Projection

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=4)
    ),
    max_leaves=12,
)


@examples(
    "log",
    st.dictionaries(st.text(max_size=2), PLAIN, max_size=4),
    st.dictionaries(st.text(max_size=2), PLAIN, max_size=4),
    fixed=100,
    drawn=300,
    whole=10_000,
)
def test_any_plain_state_is_restored_in_place(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    import copy

    live = copy.deepcopy(before)
    tracker = Tree(lambda: live)
    whole, digest = tracker.begin()
    live.clear()
    live.update(copy.deepcopy(after))
    tracker.update()
    tracker.restore(whole)
    assert is_same(live, before)
    assert tracker.begin()[1] == digest


@dataclasses.dataclass
class Lamp:
    cents: int
    tags: list[str]


class Customer(pydantic.BaseModel):
    name: str
    orders: list[int]


def test_restored_objects_keep_their_identity() -> None:
    lamp = Lamp(5, ["new"])
    customer = Customer(name="Ada", orders=[1])
    live = {"lamps": [lamp], "customers": {"C1": customer}}
    tracker = Tree(lambda: live)
    whole, digest = tracker.begin()
    lamp.cents = 7
    customer.name = "Bob"
    lamp.tags.append("sold")
    customer.orders.clear()
    tracker.restore(whole)
    assert (lamp.cents, lamp.tags, customer.name, customer.orders) == (5, ["new"], "Ada", [1])
    assert live["lamps"][0] is lamp
    assert tracker.begin()[1] == digest
    live["lamps"].append(Lamp(1, []))
    more = tracker.begin()[0]
    live["lamps"].pop()
    with pytest.raises(RestoreError, match=r"lamps/1: an object of class .*Lamp is missing"):
        tracker.restore(more)


def test_state_seen_through_a_copy_cannot_be_restored() -> None:
    count = [1]
    tracker = Tree(lambda: {"n": count[0]})
    whole, _ = tracker.begin()
    count[0] = 2
    with pytest.raises(
        RestoreError, match="n: still differs after it was set; watch the state's own objects"
    ):
        tracker.restore(whole)


@pytest.mark.parametrize("by_path", [False, True])
def test_database_is_restored_with_triggers_and_rowids(tmp_path: Path, by_path: bool) -> None:
    with contextlib.closing(
        sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
    ) as connection:
        connection.executescript(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, cents REAL);"
            "CREATE TABLE log (what);"
            "CREATE TABLE lines (id INTEGER PRIMARY KEY, order_id REFERENCES orders);"
            "CREATE TRIGGER noted AFTER INSERT ON orders BEGIN INSERT INTO log VALUES (new.id); END;"
            "CREATE INDEX by_item ON orders (item);"
            "PRAGMA foreign_keys = ON;"
        )
        connection.executemany(
            "INSERT INTO orders VALUES (?, ?, ?)", [(i, f"item {i}", i / 2) for i in range(20)]
        )
        connection.execute("INSERT INTO lines VALUES (1, 3)")
        connection.execute("DELETE FROM log WHERE rowid = 4")
        tracker = Database(tmp_path / "shop.db" if by_path else connection)
        whole, digest = tracker.begin()
        connection.executescript(
            "UPDATE orders SET item = 'x'; DELETE FROM log WHERE what < 9; CREATE TABLE extra (y); DROP TABLE lines;"
            "INSERT INTO orders VALUES (99, 'new', x'00ff')"
        )
        assert tracker.update()[1] != digest
        tracker.restore(whole)
        assert tracker.update()[1] == digest
        assert tracker.begin()[0] == whole
        connection.executescript("DROP TABLE log; CREATE TABLE log (what, who)")
        with pytest.raises(
            RestoreError, match="log: the SQL that defines it is not the recorded one"
        ):
            tracker.restore(whole)


def test_restored_tables_give_the_same_keys_again(tmp_path: Path) -> None:
    with contextlib.closing(
        sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
    ) as connection:
        add = "INSERT INTO orders (item) VALUES ('lamp') RETURNING id"
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, item)")
        empty = Database(connection).begin()[0]
        assert connection.execute(add).fetchall() == [(1,)]
        connection.execute(add).fetchall()
        connection.execute("DELETE FROM orders WHERE id = 2")
        tracker = Database(tmp_path / "shop.db")
        whole, digest = tracker.begin()
        assert connection.execute(add).fetchall() == [(3,)]
        tracker.restore(whole)
        assert tracker.update()[1] == digest
        assert connection.execute(add).fetchall() == [(3,)]
        tracker.restore(empty)
        assert connection.execute(add).fetchall() == [(1,)]


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("by_path", [False, True])
@pytest.mark.parametrize(
    ("schema", "change"),
    [
        (  # rows of one table go with those that they refer to
            "CREATE TABLE shops (id INTEGER PRIMARY KEY);"
            "CREATE TABLE orders (id INTEGER PRIMARY KEY,"
            "                     shop REFERENCES shops ON DELETE CASCADE);"
            "INSERT INTO shops VALUES (1); INSERT INTO orders VALUES (1, 1)",
            "DELETE FROM orders",
        ),
        (  # a row that is referred to cannot go first
            "CREATE TABLE shops (id INTEGER PRIMARY KEY);"
            "CREATE TABLE stock (id INTEGER PRIMARY KEY,"
            "                    shop REFERENCES shops ON DELETE RESTRICT);"
            "INSERT INTO shops VALUES (1); INSERT INTO stock VALUES (1, 1)",
            "UPDATE stock SET id = 2",
        ),
        (  # several primary keys are NULL
            "CREATE TABLE t (k TEXT PRIMARY KEY, v);"
            "INSERT INTO t (rowid, k, v) VALUES (5, NULL, 1), (7, NULL, 2)",
            "UPDATE t SET v = 3",
        ),
        ("CREATE TABLE t (k TEXT PRIMARY KEY); INSERT INTO t VALUES ('a')", "DROP TABLE t"),
        ("CREATE TABLE t (k)", "CREATE UNIQUE INDEX by_k ON t (k)"),
        ("CREATE TABLE t (k)", "CREATE VIRTUAL TABLE words USING fts5 (text)"),
        (
            "CREATE TABLE t (k); CREATE VIEW v AS SELECT k FROM t;"
            "CREATE TRIGGER a INSTEAD OF INSERT ON v BEGIN INSERT INTO t VALUES (1); END",
            "DROP VIEW v",
        ),
    ],
    ids=["cascade", "restrict", "null-keys", "dropped", "unique", "virtual", "view-trigger"],
)
def test_any_change_of_schema_or_rows_is_restored(
    tmp_path: Path, schema: str, change: str, by_path: bool
) -> None:
    with contextlib.closing(
        sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
    ) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.executescript(schema)
        tracker = Database(tmp_path / "shop.db" if by_path else connection)
        whole, digest = tracker.begin()
        connection.executescript(change)
        assert tracker.update()[1] != digest
        tracker.restore(whole)
        assert tracker.update()[1] == digest


def test_objects_in_a_tuple_are_restored_in_place() -> None:
    cup = SimpleNamespace(n=1)
    state = {"cups": (cup, [1])}
    tracker = Tree(lambda: state)
    whole, _ = tracker.begin()
    cup.n = 2
    tracker.restore(whole)
    assert state["cups"][0] is cup
    assert cup.n == 1


def test_folder_that_cannot_be_written_is_not_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("one")
    folder = Folder(tmp_path)
    whole, _ = folder.begin()
    (tmp_path / "a.txt").write_text("other")

    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(RestoreError, match=r"the folder cannot be restored: .*not permitted"):
        folder.restore(whole)


def test_folder_is_restored_with_modes_links_and_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "src" / "deep").mkdir(parents=True)
    (tmp_path / "src" / "a.py").write_text("x = 1\n")
    (tmp_path / "src" / "deep" / "b.bin").write_bytes(b"\xff\x00")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("src/a.py")
    (tmp_path / "mode").write_text("a file that is called as a field is")
    (tmp_path / "large").write_bytes(bytes(WHOLE_BYTES + 1))
    os.chmod(tmp_path / "src" / "a.py", 0o700)
    folder = Folder(tmp_path)
    whole, digest = folder.begin()
    (tmp_path / "src" / "a.py").unlink()
    (tmp_path / "src" / "a.py").mkdir()
    (tmp_path / "src" / "deep" / "b.bin").rename(tmp_path / "moved")
    (tmp_path / "src" / "deep").rmdir()
    (tmp_path / "src" / "deep").write_text("now a file")
    (tmp_path / "empty").rmdir()
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("moved")
    assert folder.update()[1] != digest
    folder.restore(whole)
    assert folder.begin() == (whole, digest)
    (tmp_path / "large").write_bytes(b"1" * (WHOLE_BYTES + 1))
    (tmp_path / "mode").unlink()
    with pytest.raises(
        RestoreError, match="large: the file is not the recorded one, and only its digest is stored"
    ):
        folder.restore(whole)
    assert not (tmp_path / "mode").exists()


class Stingy(Shop):
    """A shop whose first two refunds are a cent short."""

    def _refund_order(self, order: str, cents: int) -> dict[str, Any]:
        return super()._refund_order(order, cents - (order in ("O1001", "O1003")))


def record_queue(folder: Path) -> Any:
    with trajrec.episode(folder, world=Shop(seed=7), options={"task": 15}) as ep:
        solver(ep, ep.world.ground_truth_calls())
    return next(trajrec.open(folder).episodes())


def test_resync_names_each_step_that_differs_by_itself(tmp_path: Path) -> None:
    episode = record_queue(tmp_path)
    refunds = [
        a.start.step
        for a in episode.transcript.attempts
        if a.tool == "refund_order" and a.outcome == "ok"
    ]
    report = replay_episode(episode, world=Stingy(), resync=True, explain=False)
    assert report.grade == "diverged"
    assert report.differing_steps == tuple(refunds[:2])
    assert (report.divergence.step, report.divergence.field) == (refunds[0], "result/refunded")
    assert f"differing by themselves: {refunds[0]}, {refunds[1]}" in str(report)
    assert replay_episode(episode, world=Shop(), resync=True).grade == "exact"


def test_resync_restores_files_and_rows(tmp_path: Path) -> None:
    class Careless(Office):
        def _delete_file(self, path: str) -> str:
            (self.path / "config.ini").write_text("lost")
            return super()._delete_file(path)

    with trajrec.episode(tmp_path, world=Office(seed=1), options={"task": 4}) as ep:
        ep.call("read_file", path="config.ini")
        ep.call("delete_file", path="notes/dov.md")
        ep.call("read_file", path="config.ini")
        ep.call("execute", sql="DELETE FROM expenses WHERE person = 'Dov'")
    (episode,) = trajrec.open(tmp_path).episodes()
    report = replay_episode(episode, world=Careless(), resync=True, explain=False)
    assert report.differing_steps == (1,)
    assert report.divergence.field == "state/files/config.ini/text"


@pytest.mark.slow
def test_difference_left_out_by_a_projection_gives_grade_state(
    tmp_path: Path,
) -> None:
    episode = record_queue(tmp_path)

    class Later(Shop):
        def _make_database(self) -> dict[str, Any]:
            database = super()._make_database()
            database["customers"]["C1"]["address"] += " (new)"
            return database

    assert replay_episode(episode, world=Later(), explain=False).grade == "diverged"
    addresses = Projection("no-addresses", "1", leave_out=("*/address",))
    report = replay_episode(episode, world=Later(), projection=addresses)
    assert report.grade == "state"
    assert "under projection no-addresses v1" in report.notes[-1]


def test_projections_leave_out_paths_and_round_numbers() -> None:
    rule = Projection("p", "2", leave_out=("*/at", "log"), decimals={"*/x": 1})
    before = {"a": {"x": 1.23, "at": 5}, "log": [1, 2], "b": [{"x": 1, "at": 2}]}
    after = {"a": {"x": 1.19, "at": 6}, "log": [], "b": [{"x": 1, "at": 9}]}
    assert rule.changes(before, after) == []
    assert rule.digest(before) == rule.digest(after)
    assert rule.changes(before, {**after, "a": {"x": 1.31, "at": 6}}) == [
        Change(("a", "x"), 1.23, 1.31)
    ]
    assert rule.digest(before) != Projection("p", "3", rule.leave_out, rule.decimals).digest(before)
    assert apply(before, rule.changes(before, {**before, "c": 1})) == {**before, "c": 1}
