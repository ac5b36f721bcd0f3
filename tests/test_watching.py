"""Tracking of folders, databases and objects: real files, real SQLite."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from tiers import third_slow

import trajrec
from trajrec.envs import Office
from trajrec.envs.office import TASKS, OfficeError
from trajrec.replay import replay_episode
from trajrec.tracking import locked_files
from trajrec.tracking.folder import WHOLE_BYTES, Folder
from trajrec.tracking.parts import find_parts
from trajrec.tracking.sqlite import Database
from trajrec.tracking.tree import Tree
from trajrec.values.diff import MISSING
from trajrec.values.json import to_pointer


@pytest.fixture
def connect() -> Iterator[Callable[..., sqlite3.Connection]]:
    """Connections that are closed at the end of the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(
            contextlib.closing(sqlite3.connect(*args, **kwargs))
        )


def changes(tracker: Any) -> list[tuple[Any, ...]]:
    """Return the changes since the last look, with their pointers for paths."""
    return [(to_pointer(path), before, after) for path, before, after in tracker.update()[0]]


def test_every_change_of_a_folder_is_reported_by_path(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("x = 1\n")
    (tmp_path / "data.bin").write_bytes(b"\xff\x00")
    (tmp_path / ".git").mkdir()
    folder = Folder(tmp_path)
    whole, first = folder.begin()
    mode = f"{(tmp_path / 'data.bin').stat().st_mode & 0o777:o}"
    assert whole == {
        "data.bin": {"mode": mode, "bytes": b"\xff\x00"},
        "src": {"a.py": {"mode": mode, "text": "x = 1\n"}},
    }
    assert changes(folder) == []
    # As long as before, and within one tick of the clock.
    (tmp_path / "src" / "a.py").write_text("x = 2\n")
    assert changes(folder) == [("/src/a.py/text", "x = 1\n", "x = 2\n")]
    (tmp_path / "src" / "a.py").write_text("x = 3\n")
    assert changes(folder) == [("/src/a.py/text", "x = 2\n", "x = 3\n")]
    os.chmod(tmp_path / "data.bin", 0o700)
    assert changes(folder) == [("/data.bin/mode", mode, "700")]
    (tmp_path / "link").symlink_to("data.bin")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ignored")
    (tmp_path / "src" / "__pycache__").mkdir()
    assert changes(folder) == [("/empty", MISSING, {}), ("/link", MISSING, {"link": "data.bin"})]
    (tmp_path / "src" / "a.py").rename(tmp_path / "src" / "b.py")
    entry = {"mode": mode, "text": "x = 3\n"}
    assert changes(folder) == [("/src/a.py", entry, MISSING), ("/src/b.py", MISSING, entry)]
    for name in ("link", "src/b.py"):
        (tmp_path / name).unlink()
    (tmp_path / "empty").rmdir()
    os.chmod(tmp_path / "data.bin", int(mode, 8))
    (tmp_path / "src" / "a.py").write_text("x = 1\n")
    assert folder.update()[1] == first == Folder(tmp_path).begin()[1]


def test_large_file_is_watched_by_its_digest(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(WHOLE_BYTES + 1))
    folder = Folder(tmp_path)
    (whole, _) = folder.begin()
    assert whole["big"]["size"] == WHOLE_BYTES + 1
    with (tmp_path / "big").open("r+b") as file:
        file.seek(WHOLE_BYTES)
        file.write(b"x")
    ((path, _, _),) = changes(folder)
    assert path == "/big/digest"


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("by", ["connection", "path"])
def test_changed_rows_and_tables_are_reported_by_key(
    tmp_path: Path, by: str, connect: Callable[..., Any]
) -> None:
    path = tmp_path / "shop.db"
    connection = connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, cents REAL)")
    connection.execute('CREATE TABLE "odd ""name" (a, b, PRIMARY KEY (b, a)) WITHOUT ROWID')
    connection.execute("CREATE TABLE plain (x)")
    connection.executemany(
        "INSERT INTO orders VALUES (?, ?, ?)", [(i, f"item {i}", i * 1.5) for i in range(300)]
    )
    tracker = Database(connection if by == "connection" else path)
    whole, first = tracker.begin()
    assert whole["orders"][7] == {"id": 7, "item": "item 7", "cents": 10.5}
    assert changes(tracker) == []
    connection.execute("UPDATE orders SET cents = 1 WHERE id IN (5, 200)")
    assert changes(tracker) == [("/orders/5/cents", 7.5, 1.0), ("/orders/200/cents", 300.0, 1.0)]
    connection.execute('INSERT INTO "odd ""name" VALUES (1, ?)', [b"\xff"])
    connection.execute("INSERT INTO plain VALUES (NULL)")
    assert [change[0] for change in changes(tracker)] == ["/odd \"name/['ff', 1]", "/plain/1"]
    connection.execute("DELETE FROM orders WHERE id = 5")
    connection.execute("DROP TABLE plain")
    assert {change[0] for change in changes(tracker)} == {
        "/orders/5",
        "/plain",
        "/sqlite_schema/plain",
    }
    connection.execute("CREATE TABLE plain (x)")
    connection.execute("INSERT INTO orders VALUES (5, 'item 5', 7.5)")
    connection.execute("UPDATE orders SET cents = 300 WHERE id = 200")
    connection.execute('DELETE FROM "odd ""name"')
    assert tracker.update()[1] == first


def test_generated_columns_are_left_out_of_rows(connect: Callable[..., Any]) -> None:
    connection = connect(":memory:")
    connection.execute("CREATE TABLE t (a, b AS (a * 2), c AS (a + 1) STORED)")
    connection.execute("INSERT INTO t VALUES (1)")
    tracker = Database(connection)
    whole, digest = tracker.begin()
    assert whole["t"] == {1: {"a": 1}}
    connection.execute("UPDATE t SET a = 2")
    assert changes(tracker) == [("/t/1/a", 1, 2)]
    tracker.restore(whole)
    assert tracker.update()[1] == digest


def test_tables_with_reserved_looking_names_are_watched(connect: Callable[..., Any]) -> None:
    connection = connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE sqlite3_jobs (id INTEGER PRIMARY KEY, n)")
    tracker = Database(connection)
    whole, digest = tracker.begin()
    connection.execute("INSERT INTO sqlite3_jobs VALUES (1, 2)")
    assert changes(tracker) == [("/sqlite3_jobs/1", MISSING, {"id": 1, "n": 2})]
    tracker.restore(whole)
    assert tracker.update()[1] == digest


def test_column_named_as_the_rowid_hides_no_row(connect: Callable[..., Any]) -> None:
    connection = connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE t (RowId TEXT, n)")
    connection.executemany("INSERT INTO t VALUES ('x', ?)", [(1,), (2,)])
    connection.execute("CREATE TABLE nulls (rowid TEXT PRIMARY KEY, n)")
    connection.executemany("INSERT INTO nulls VALUES (NULL, ?)", [(1,), (2,)])
    tracker = Database(connection)
    whole, digest = tracker.begin()
    assert whole["t"] == {1: {"RowId": "x", "n": 1}, 2: {"RowId": "x", "n": 2}}
    assert [row["n"] for row in whole["nulls"].values()] == [1, 2]
    connection.execute("DELETE FROM t WHERE n = 1")
    assert [change[0] for change in changes(tracker)] == ["/t/1"]
    tracker.restore(whole)
    assert tracker.update()[1] == digest
    connection.execute("CREATE TABLE all_names (rowid, _rowid_, oid)")
    with pytest.raises(ValueError, match="all_names has no primary key"):
        tracker.update()


@pytest.mark.parametrize("way", [os.replace, shutil.copyfile])
def test_database_put_in_place_of_a_watched_one_is_seen(
    tmp_path: Path, connect: Callable[..., Any], way: Callable[[Path, Path], Any]
) -> None:
    for name, n in (("shop.db", 1), ("other.db", 2)):
        connection = connect(tmp_path / name, isolation_level=None)
        connection.execute("CREATE TABLE t (n)")
        connection.execute("INSERT INTO t VALUES (?)", [n])
        connection.close()
    # Clocks of file systems tick every few ms.
    os.utime(tmp_path / "shop.db", (1, 1))
    tracker = Database(tmp_path / "shop.db")
    tracker.begin()
    way(tmp_path / "other.db", tmp_path / "shop.db")
    assert changes(tracker) == [("/t/1/n", 1, 2)]
    connect(tmp_path / "shop.db", isolation_level=None).execute("UPDATE t SET n = 3")
    assert changes(tracker) == [("/t/1/n", 2, 3)]
    assert changes(tracker) == []


def test_a_connections_own_factories_do_not_count(connect: Callable[..., Any]) -> None:
    connection = connect(":memory:")
    connection.execute("CREATE TABLE t (a)")
    connection.execute("INSERT INTO t VALUES ('x')")
    tracker = Database(connection)
    tracker.begin()
    connection.text_factory = bytes
    connection.execute("UPDATE t SET a = 'y'")
    assert changes(tracker) == [("/t/1/a", "x", "y")]
    assert connection.execute("SELECT a FROM t").fetchall() == [(b"y",)]


def test_a_connections_converters_do_not_count(connect: Callable[..., Any]) -> None:
    connection = connect(":memory:", detect_types=sqlite3.PARSE_DECLTYPES)
    connection.execute("CREATE TABLE t (day timestamp PRIMARY KEY, note timestamp)")
    connection.execute("INSERT INTO t VALUES ('2024-01-01 10:00:00', 'none')")
    tracker = Database(connection)
    assert tracker.begin()[0]["t"] == {
        "2024-01-01 10:00:00": {"day": "2024-01-01 10:00:00", "note": "none"}
    }


def test_a_temporary_table_hides_no_table(connect: Callable[..., Any]) -> None:
    connection = connect(":memory:", isolation_level=None)
    connection.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
    tracker = Database(connection)
    whole, _ = tracker.begin()
    connection.executescript("CREATE TEMP TABLE t (a); UPDATE main.t SET a = 2")
    assert changes(tracker) == [("/t/1/a", 1, 2)]
    tracker.restore(whole)
    assert connection.execute("SELECT a FROM main.t").fetchall() == [(1,)]
    assert connection.execute("SELECT a FROM temp.t").fetchall() == []


def test_tables_are_read_in_one_transaction(tmp_path: Path, connect: Callable[..., Any]) -> None:
    path = tmp_path / "shop.db"
    connection = connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(
        "CREATE TABLE a (n); CREATE TABLE b (n); INSERT INTO a VALUES (0); INSERT INTO b VALUES (0)"
    )
    has_ended = threading.Event()

    def write() -> None:
        n = 0
        while not has_ended.is_set():
            n += 1
            connection.executescript(f"BEGIN; UPDATE a SET n = {n}; UPDATE b SET n = {n}; COMMIT")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        tracker = Database(path)
        values = [tracker.begin()[0] for _ in range(300)]
    finally:
        has_ended.set()
        thread.join()
    assert [value for value in values if value["a"] != value["b"]] == []


def test_attached_databases_are_said_not_to_be_watched(
    tmp_path: Path, connect: Callable[..., Any]
) -> None:
    connection = connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE t (a)")
    connection.execute("ATTACH ? AS other", [str(tmp_path / "other.db")])
    connection.execute("CREATE TABLE other.t (a)")
    tracker = Database(connection)
    tracker.begin()
    connection.execute("INSERT INTO t VALUES (1)")
    assert len(changes(tracker)) == 1
    connection.execute("INSERT INTO other.t VALUES (1)")
    with pytest.warns(RuntimeWarning, match="changes of other are not recorded"):
        tracker.update()
    connection.execute("INSERT INTO other.t VALUES (2)")
    assert changes(tracker) == []


def test_changes_by_another_process_are_reported(
    tmp_path: Path, connect: Callable[..., Any]
) -> None:
    path = tmp_path / "shop.db"
    connect(path).execute("CREATE TABLE t (x)")
    for tracker in (Database(path), Database(connect(path))):
        tracker.begin()
        code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('INSERT INTO t VALUES (1)'); c.commit()"
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
        assert [change[2] for change in changes(tracker)] == [{"x": 1}]


@pytest.mark.parametrize("second", ["database", "folder"])
def test_a_second_watch_leaves_the_first_its_locks(
    tmp_path: Path, connect: Callable[..., Any], second: str
) -> None:
    path = tmp_path / "shop.db"
    connection = connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    (first,) = find_parts(None, path)
    value, _ = first.tracker.begin()
    # Each watch looks whether the path leads to a database, and a folder reads its files.
    (other,) = find_parts(None, path if second == "database" else tmp_path)
    other.tracker.begin()
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('INSERT INTO t VALUES (1)'); c.commit(); c.close()"
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
        other.tracker.update()
        assert [change[2] for change in changes(first.tracker)] == [{"x": 1}]
        first.tracker.restore(value)
        assert first.tracker.update()[0]
        assert connect(path).execute("SELECT * FROM t").fetchall() == []


@pytest.mark.skipif(os.name != "posix", reason="only POSIX drops locks with a descriptor")
def test_a_folder_keeps_no_deleted_database_open(
    tmp_path: Path, connect: Callable[..., Any]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    tracker = Folder(folder)
    tracker.begin()
    n_before = len(os.listdir("/dev/fd"))
    for number in range(20):
        path = folder / f"{number}.db"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE t (x)")
        assert len(changes(tracker)) == 1
        assert changes(tracker) == []
        path.write_text("no database any more")
        assert changes(tracker)
        path.unlink()
        assert len(changes(tracker)) == 1
    assert len(os.listdir("/dev/fd")) <= n_before + 1


def test_file_that_is_no_database_cannot_be_watched(tmp_path: Path) -> None:
    for text in ("hello", "long" * 1000, ""):
        (tmp_path / "note.txt").write_text(text)
        with (
            pytest.raises(TypeError, match=r"folder or of a SQLite database, got .*note\.txt"),
            trajrec.episode(tmp_path / "runs", watch=tmp_path / "note.txt"),
        ):
            pass


def test_closed_database_is_recorded_as_a_failure_of_the_state(
    tmp_path: Path,
) -> None:
    connection = sqlite3.connect(":memory:")
    with trajrec.episode(tmp_path, watch=connection) as ep:
        ep.tool(connection.close, name="close")
        ep.call("close")
        assert ep.state_digest is None
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT phase, error_type FROM failures").fetchall() == [
            ("state", "sqlite3.ProgrammingError")
        ]


def test_a_database_that_cannot_be_read_stays_unknown(connect: Callable[..., Any]) -> None:
    connection = connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
    connection.execute("INSERT INTO t VALUES (1, 'x')")
    database = Database(connection)
    database.begin()
    # No UTF-8, which no text of Python is.
    connection.execute("UPDATE t SET a = CAST(x'ff' AS TEXT)")
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError):
            database.update()
        with pytest.raises(sqlite3.OperationalError):
            database.begin()
    connection.execute("UPDATE t SET a = 'y'")
    assert changes(database) == [("/t/1/a", "x", "y")]


class ClosedFolder(Folder):
    """A folder that cannot be read while it is closed."""

    is_closed = False

    def _read(self) -> Any:
        if self.is_closed:
            raise PermissionError("closed")
        return super()._read()


def test_a_folder_that_cannot_be_read_stays_unknown(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("x")
    os.utime(file, ns=(0, 0))
    folder = ClosedFolder(tmp_path)
    folder.begin()
    file.write_text("yy")
    os.utime(file, ns=(0, 0))
    folder.is_closed = True
    for _ in range(2):
        with pytest.raises(PermissionError):
            folder.update()
        with pytest.raises(PermissionError):
            folder.begin()
    folder.is_closed = False
    assert changes(folder) == [("/a.txt/text", "x", "yy")]


def test_changes_of_an_unknown_state_blame_no_later_call(tmp_path: Path) -> None:
    office = Office(seed=0)
    with trajrec.episode(tmp_path, world=office) as ep:
        before = ep.state_digest
        ep.call("execute", sql="UPDATE expenses SET thing = CAST(x'ff' AS TEXT) WHERE id = 1")
        ep.call("list_files")
        assert ep.state_digest is None
        # Behind the recorder's back.
        office.database.execute("UPDATE expenses SET thing = 'tea' WHERE id = 1")
        ep.call("list_files")
        assert ep.state_digest not in (None, before)
    with trajrec.open(tmp_path) as corpus:
        found = corpus.sql("SELECT step, message FROM failures ORDER BY step").fetchall()
    assert [step for step, _ in found] == [0, 1]
    assert all(message.startswith("Could not decode to UTF-8") for _, message in found)


# Objects


class Till:
    """Has attributes, and no declaration of them."""

    def __init__(self) -> None:
        self.n = 0
        self.items: dict[str, int] = {"a": 1}

    def sell(self) -> None:
        self.n += 1
        self.items["b"] = 2


class SlottedTill(Till):
    __slots__ = ("__secret", "n")


class LinkedTill(Till):
    """Refers to itself, and has attributes that are no plain data."""

    def __init__(self) -> None:
        super().__init__()
        self.me = self
        self.others = [self]
        self.lock = threading.Lock()
        self.weights = np.zeros(3)


def watched(folder: Path, state: Any, tool: Callable[[], Any]) -> list[tuple[Any, ...]]:
    with trajrec.episode(folder, watch=state) as ep:
        ep.tool(tool, name="tool")
        ep.call("tool")
    with trajrec.open(folder) as corpus:
        assert corpus.sql("SELECT count(*) FROM failures").fetchall() == [(0,)]
        return corpus.sql("SELECT part, path, after FROM state_changes").fetchall()


@third_slow("agents")
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("cls", [Till, SlottedTill, LinkedTill])
def test_attributes_of_an_object_are_watched(tmp_path: Path, cls: type[Till]) -> None:
    for name, wrap, part, base in (
        ("itself", lambda till: till, "", ""),
        ("by name", lambda till: {"till": till}, "till", ""),
        ("in a whole", lambda till: {"till": till, "count": 1}, "", "/till"),
        ("in a list", lambda till: [till], "", "/0"),
        ("of a function", lambda till: lambda: till, "", ""),
    ):
        till = cls()
        assert watched(tmp_path / name, wrap(till), till.sell) == [
            (part, f"{base}/n", "1"),
            (part, f"{base}/items/b", "2"),
        ]


def test_attributes_are_restored_in_place() -> None:
    till = Till()
    tree = Tree(lambda: till)
    before, digest = tree.begin()
    items = till.items
    till.sell()
    tree.restore(before)
    assert (till.n, till.items, tree.update()) == (0, {"a": 1}, ([], digest))
    assert till.items is items


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("given_as", [lambda state: state, MappingProxyType])
def test_dict_with_immutable_values_is_watched_whole(tmp_path: Path, given_as: Any) -> None:
    state: dict[str, Any] = {"users": {"ada": 1}, "count": 0}

    def tool() -> None:
        state["users"]["ben"] = 2
        state["count"] += 1

    assert watched(tmp_path, given_as(state), tool) == [
        ("", "/users/ben", "2"),
        ("", "/count", "1"),
    ]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("some/folder", r"give pathlib.Path\('some/folder'\) for a folder or a database"),
        (
            5,
            "watch must be a value that can change, got 5 of type int: give an object with attributes, a dict",
        ),
        ((1.5, None), r"must be a value that can change, got \(1.5, None\) of type tuple"),
        (
            {"db": Path(), "n": 1},
            r"watch\['n'\] must be a value that can change, got 1 of type int",
        ),
        (
            {"db": Path(), "docs": "docs"},
            r"watch\['docs'\] must not be a text, got 'docs': give pathlib.Path",
        ),
    ],
)
def test_immutable_values_cannot_be_watched(tmp_path: Path, state: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message), trajrec.episode(tmp_path, watch=state):
        pass
    # The mistake is the caller's: no episode with a fault of its environment is recorded.
    assert not list(tmp_path.iterdir())


# The office


@trajrec.verifier(id="office-task", version="1")
def solved(world: Office) -> bool:
    return world.task_solved()


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("task", range(len(TASKS)))
def test_each_office_task_can_be_solved_failed_and_replayed(tmp_path: Path, task: int) -> None:
    for solves in (True, False):
        with trajrec.episode(
            tmp_path,
            task=str(solves),
            world=Office(seed=task),
            options={"task": task},
            checks=[solved],
        ) as ep:
            with pytest.raises(OfficeError):
                ep.call("read_file", path="../../etc/passwd")
            for name, arguments in ep.world.ground_truth_calls() if solves else ():
                ep.call(name, **arguments)
    corpus = trajrec.open(tmp_path)
    assert corpus.sql("SELECT task, outcome FROM episodes ORDER BY 1").fetchall() == [
        ("False", "failure"),
        ("True", "success"),
    ]
    changed = corpus.sql(
        "SELECT count(*) FROM state_changes JOIN episodes USING (episode_id) WHERE task = 'True'"
    ).fetchall()
    assert changed[0][0] >= 1
    assert corpus.sql("SELECT count(*) FROM attempts WHERE finding IS NOT NULL").fetchall() == [
        (0,)
    ]
    for episode in corpus.episodes():
        # From the log alone: the state before each step follows from the first one and the changes.
        assert set(episode.state(0)) == {"files", "database"}
        assert (episode.state(0) == episode.state(episode.n_steps)) == (
            episode.transcript.task == "False"
        )
        assert replay_episode(episode, checks=[solved], allow=["trajrec"]).grade == "exact"
        assert replay_episode(episode, allow=["trajrec"]).grade == "exact"


def test_office_returns_its_state_and_can_be_set_to_it() -> None:
    world = Office(seed=1)
    world.reset(options={"task": 4})
    before = world.get_state()
    for name, arguments in world.ground_truth_calls():
        world.call(name, arguments)
    assert world.task_solved()
    world.set_state(before)
    assert world.get_state() == before
    assert not world.task_solved()
    with pytest.raises(OfficeError, match="SQL: no such table"):
        world.call("query", {"sql": "SELECT * FROM nowhere"})
    with pytest.raises(OfficeError, match="takes exactly the texts"):
        world.call("query", {"q": "SELECT 1"})


SQL = {
    "insert": "INSERT INTO t(v) VALUES ({a})",
    "update": "UPDATE t SET v = {a} WHERE id = {b}",
    "delete": "DELETE FROM t WHERE id = {b}",
    "empty": "DELETE FROM u",
    "begin": "BEGIN",
    "commit": "COMMIT",
    "rollback": "ROLLBACK",
    "savepoint": "SAVEPOINT s",
    "rollback to": "ROLLBACK TO s",
    "release": "RELEASE s",
    "create": "CREATE TABLE IF NOT EXISTS w(x)",
    "drop": "DROP TABLE IF EXISTS w",
    "rename": "ALTER TABLE u RENAME COLUMN b TO c",
}


@pytest.mark.slow
@pytest.mark.parametrize("place", [":memory:", "file", "file and another connection"])
def test_a_database_is_seen_right_whatever_its_transactions(
    tmp_path: Path, connect: Callable[..., sqlite3.Connection], place: str
) -> None:
    for seed in range(40):
        draw = random.Random(seed)
        path = ":memory:" if place == ":memory:" else tmp_path / f"{seed}.db"
        connection = connect(path, isolation_level=draw.choice([None, "DEFERRED"]))
        connection.executescript("CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE u(a, b)")
        connection.commit()
        other = connect(path, timeout=0.0, isolation_level=None) if "another" in place else None
        tracker = Database(connection)
        _, digest = tracker.begin()
        # The independent truth: the statements that make the database anew.
        seen = {"".join(connection.iterdump()): digest}
        for _ in range(25):
            sql = draw.choice(list(SQL.values())).format(a=draw.random(), b=draw.randrange(5))
            with contextlib.suppress(sqlite3.Error):
                if other is not None and draw.random() < 0.2:
                    other.execute("INSERT INTO u VALUES (1, 2)")
                connection.execute(sql)
            is_open = connection.in_transaction
            _, digest = tracker.update()
            assert connection.in_transaction == is_open
            content = "".join(connection.iterdump())
            assert seen.setdefault(content, digest) == digest, (seed, sql)
            assert len(set(seen.values())) == len(seen), (seed, sql)


@pytest.mark.skipif(os.name != "posix", reason="closes each file that it has read")
def test_a_folder_of_many_databases_leaves_files_to_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locked_files, "MAX_HELD", 2)
    monkeypatch.setattr(locked_files, "_held", {})
    for k in range(5):
        with contextlib.closing(sqlite3.connect(tmp_path / f"{k}.db")) as connection:
            connection.execute(f"CREATE TABLE t{k} (a)")
            connection.commit()
    for _ in range(2):
        for k in range(5):
            path = tmp_path / f"{k}.db"
            with locked_files.open_to_read(str(path)) as file:
                assert file.read() == path.read_bytes()
            assert len(locked_files._held) <= 2
    for descriptor in locked_files._held.values():
        os.close(descriptor)
