"""Changes of the state between calls are recorded as the program's own, and replays make them."""

from __future__ import annotations

import asyncio
import contextvars
import shutil
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import only

import trajrec
from trajrec.agents.state_recorder import CHANGED
from trajrec.cli.main import main
from trajrec.errors import ReplayError, StateUnknownError
from trajrec.recording.event_log import close_logs
from trajrec.replay import replay_episode
from trajrec.replay.agents.answered import Answered
from trajrec.replay.agents.program_changes import FROM_LOG
from trajrec.replay.agents.world_replay import bring_world
from trajrec.replay.differences import first_difference


class Shop:
    """A world whose state the agent's own program can reach."""

    def __init__(self) -> None:
        self.stock: dict[str, int] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> str:
        self.stock = {"lamp": 5}
        return "sell"

    def tools(self) -> list[trajrec.Tool]:
        return [
            trajrec.Tool.with_args("look", "read"),
            trajrec.Tool.with_args("sell", "write", item="string"),
        ]

    def call(self, name: str, arguments: dict[str, Any], /) -> Any:
        if name == "sell":
            self.stock[arguments["item"]] -= 1
        return dict(self.stock)

    def get_state(self) -> dict[str, int]:
        return self.stock

    def set_state(self, state: dict[str, int]) -> None:
        self.stock = dict(state)


def record(folder: Path) -> Shop:
    """Record an agent that changes the stock itself: before, between and after its calls."""
    shop = Shop()
    with trajrec.episode(folder, world=shop) as ep:
        shop.stock["chair"] = 2
        ep.call("sell", item="lamp")
        shop.stock["lamp"] = 9
        ep.call("look")
        ep.call("sell", item="lamp")
        shop.stock["chair"] = 0
    close_logs()
    return shop


def rows(folder: Path, columns: str = "step, call, actor, path, before, after") -> list[Any]:
    with trajrec.open(folder) as corpus:
        sql = f"SELECT {columns} FROM state_changes ORDER BY step, call NULLS LAST, path"
        return corpus.sql(sql).fetchall()


def test_changes_between_calls_are_the_programs_own(tmp_path: Path) -> None:
    record(tmp_path)
    assert rows(tmp_path) == [
        (-1, None, "scaffold", "/chair", None, "2"),
        (0, 0, "agent", "/lamp", "5", "4"),
        (0, None, "scaffold", "/lamp", "4", "9"),
        (2, 0, "agent", "/lamp", "9", "8"),
        (2, None, "scaffold", "/chair", "2", "0"),
    ]
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT count(*) FROM failures").fetchall() == [(0,)]
        assert corpus.sql("SELECT count(finding) FROM attempts").fetchall() == [(0,)]


def test_a_state_has_the_programs_changes_before_its_step(tmp_path: Path) -> None:
    shop = record(tmp_path)
    episode = only(tmp_path)
    assert [episode.state(step)[""] for step in range(4)] == [
        {"lamp": 5, "chair": 2},
        {"lamp": 9, "chair": 2},
        {"lamp": 9, "chair": 2},
        shop.stock,
    ]
    assert episode.transcript.state_after(episode.transcript.attempts[0]) == {
        "": {"lamp": 4, "chair": 2}
    }
    assert episode.transcript.initial_state == {"": {"lamp": 5}}


def test_a_replay_makes_the_programs_changes_from_the_log(tmp_path: Path) -> None:
    record(tmp_path)
    report = replay_episode(only(tmp_path), world=Shop())
    assert (report.grade, report.divergence, report.notes) == ("exact", None, (FROM_LOG,))
    late = replay_episode(only(tmp_path), world=Shop(), first=2)
    assert late.divergence is None


def test_a_replay_still_finds_a_call_that_differs(tmp_path: Path) -> None:
    record(tmp_path)

    class Other(Shop):
        def call(self, name: str, arguments: dict[str, Any], /) -> Any:
            result = super().call(name, arguments)
            if name == "sell" and self.stock["lamp"] == 8:
                self.stock["rug"] = 1
            return result

    report = replay_episode(only(tmp_path), world=Other(), explain=False)
    assert report.divergence is not None
    assert (report.divergence.step, report.divergence.field) == (2, "state/rug")


def test_a_check_judges_the_state_that_the_program_left(tmp_path: Path) -> None:
    shop = Shop()
    with trajrec.episode(tmp_path, world=shop) as ep:
        ep.call("sell", item="lamp")
        shop.stock["lamp"] = 0

        @trajrec.verifier(id="sold", version="1")
        def sold(world: Shop) -> bool:
            return world.stock["lamp"] == 0

        ep.check(sold)
    close_logs()
    episode = only(tmp_path)
    assert episode.checks[0].state_digest == episode.transcript.state_digest
    assert episode.state(1)[""] == {"lamp": 0}


def test_a_folder_that_changes_between_calls_blames_no_call(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    with trajrec.episode(tmp_path / "runs", watch=folder) as ep:
        write = ep.tool(lambda name: (folder / name).write_text("by a tool") and None, name="write")
        (folder / "a").write_text("by the program")
        write(name="b")
        (folder / "a").unlink()
    close_logs()
    assert rows(tmp_path / "runs", "step, call, actor, path") == [
        (-1, None, "scaffold", "/a"),
        (0, 0, "agent", "/b"),
        (0, None, "scaffold", "/a"),
    ]


def test_changes_of_tools_that_nothing_records_stand_with_their_step(tmp_path: Path) -> None:
    state = {"n": 0}

    def model(*, messages: list[Any]) -> dict[str, Any]:
        return {"choices": [{"message": {"role": "assistant", "content": "Go on."}}]}

    with trajrec.episode(tmp_path, watch=state) as ep:
        for n in (1, 2):
            ep.model(model, messages=[{"role": "user", "content": f"{n}"}])
            state["n"] = n
    close_logs()
    assert rows(tmp_path) == [
        (0, None, "scaffold", "/n", "0", "1"),
        (1, None, "scaffold", "/n", "1", "2"),
    ]


def test_a_tool_that_calls_a_tool_keeps_its_own_changes(tmp_path: Path) -> None:
    state = {"inner": 0, "outer": 0}
    with trajrec.episode(tmp_path, watch=state) as ep:
        inner = ep.tool(lambda: state.update(inner=1), name="inner", access="write")

        @ep.tool(access="write")
        def outer() -> None:
            state["outer"] = 1
            inner()
            state["outer"] = 2

        outer()
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        joined = corpus.sql(
            "SELECT tool, path, before, after FROM state_changes "
            "JOIN attempts USING (episode_id, step, call, attempt) ORDER BY tool"
        ).fetchall()
    assert joined == [("inner", "/inner", "0", "1"), ("outer", "/outer", "0", "2")]


def test_a_database_closed_before_the_end_is_no_failure(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "shop.db")
    database.execute("CREATE TABLE stock (item TEXT, n INT)")
    database.commit()
    folder = tmp_path / "work"
    folder.mkdir()
    with trajrec.episode(tmp_path / "runs", watch={"db": database, "files": folder}) as ep:

        @ep.tool(access="write")
        def add(item: str) -> None:
            database.execute("INSERT INTO stock VALUES (?, 1)", (item,))
            database.commit()

        add("lamp")
        database.close()
        shutil.rmtree(folder)
    close_logs()
    episode = only(tmp_path / "runs")
    assert episode.failures == []
    assert episode.transcript.state_digest is not None


def test_a_state_that_is_unknown_between_calls_is_not_made_up(tmp_path: Path) -> None:
    class Hidden(Shop):
        is_hidden = False

        def get_state(self) -> dict[str, int]:
            if self.is_hidden:
                raise OSError("not now")
            return self.stock

    shop = Hidden()
    with trajrec.episode(tmp_path, world=shop) as ep:
        ep.call("sell", item="lamp")
        shop.is_hidden = True
        ep.call("look")
        shop.is_hidden = False
        ep.call("sell", item="lamp")
    close_logs()
    episode = only(tmp_path)
    with pytest.raises(StateUnknownError, match="could not be captured"):
        episode.state(1)
    assert episode.state(3)[""] == {"lamp": 3}


def test_show_tells_of_changes_between_calls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path)
    episode = only(tmp_path).id
    assert main(["show", str(tmp_path), episode]) == 0
    told = capsys.readouterr().out
    assert "the agent's own program changed watched state after the reset, step 0, step 2" in told
    assert main(["show", str(tmp_path), episode, "--step", "0"]) == 0
    told = capsys.readouterr().out
    assert "actor          scaffold\nchanged        /lamp: 4 -> 9" in told


def test_two_episodes_that_differ_between_calls_differ(tmp_path: Path) -> None:
    for n in (1, 2):
        state = {"n": 0}
        with trajrec.episode(tmp_path, watch=state) as ep:
            look = ep.tool(lambda: "ok", name="look", access="read")
            state["n"] = n
            look()
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        a, b = corpus.episodes()
        fields = [one.field for one in first_difference(a, b)]
    assert fields == ["state between calls/2/2"]


@pytest.mark.slow
def test_a_secret_that_the_program_wrote_is_no_divergence(tmp_path: Path) -> None:
    shop = Shop()
    with trajrec.episode(tmp_path, world=shop) as ep:
        ep.call("sell", item="lamp")
        shop.stock["key"] = "sk-proj-" + "aB3dE5gH7jK9mN1pQ3rS5tU7vW9xY1zA"  # type: ignore[assignment]
        ep.call("sell", item="lamp")
    close_logs()
    report = replay_episode(only(tmp_path), world=Shop())
    assert (report.grade, report.divergence) == ("observed-only", None)
    assert any("were not made again after step 0" in note for note in report.notes)
    made = [attempt.key for attempt in only(tmp_path).transcript.recorded_attempts]
    with pytest.raises(ReplayError, match="nothing is proved"):
        bring_world(only(tmp_path), Shop(), Answered(attempts=frozenset(made)))


class Copying(Shop):
    """A world that gives copies of its state, and takes them back."""

    def get_state(self) -> dict[str, int]:
        return dict(self.stock)


class Closed(Copying):
    """A world that gives copies of its state, and takes none back."""

    set_state = None  # type: ignore[assignment]


def record_shop(folder: Path, shop: Shop) -> None:
    with trajrec.episode(folder, world=shop) as ep:
        ep.call("sell", item="lamp")
        shop.stock["lamp"] = 9
        ep.call("sell", item="lamp")
    close_logs()


def test_a_world_of_copies_takes_the_programs_changes(tmp_path: Path) -> None:
    record_shop(tmp_path, Copying())
    report = replay_episode(only(tmp_path), world=Copying())
    assert (report.grade, report.notes) == ("exact", (FROM_LOG,))


def test_a_world_that_takes_no_state_is_not_accused(tmp_path: Path) -> None:
    record_shop(tmp_path, Closed())
    report = replay_episode(only(tmp_path), world=Closed())
    assert (report.grade, report.divergence) == ("observed-only", None)
    assert any("watch the state's own objects instead" in note for note in report.notes)


def test_a_replaced_part_of_a_watched_dict_is_followed(tmp_path: Path) -> None:
    state: dict[str, Any] = {"stock": {"lamp": 3}, "log": []}
    with trajrec.episode(tmp_path, watch=state) as ep:
        bump = ep.tool(lambda: state.update(log=[*state["log"], "sold"]), name="bump")
        bump()
        state["stock"] = {"lamp": 9}
        bump()
    close_logs()
    assert rows(tmp_path, "part, actor, path, before, after") == [
        ("log", "agent", "/0", None, '"sold"'),
        ("stock", "scaffold", "/lamp", "3", "9"),
        ("log", "agent", "/1", None, '"sold"'),
    ]


def solved(world: Any) -> bool:
    return True


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("change", ["comes", "goes"])
def test_a_key_of_watch_that_changes_makes_the_state_unknown(tmp_path: Path, change: str) -> None:
    state: dict[str, Any] = {"stock": {"lamp": 3}, "log": []}
    with trajrec.episode(tmp_path, watch=state) as ep:
        look = ep.tool(lambda: None, name="look", access="write")
        look()
        if change == "comes":
            state["done"] = {"a": 1}
        else:
            del state["log"]
        look()
        ep.check(solved)
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        failures = corpus.sql("SELECT DISTINCT phase, message FROM failures").fetchall()
        assert corpus.sql("SELECT state_digest FROM checks").fetchall() == [(None,)]
    assert len(failures) == 1
    assert failures[0][0] == "state"
    assert "came or went: watch a function that returns the dict" in failures[0][1]


def go_on(*, messages: list[Any]) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": "Go on."}}]}


def ask(ep: Any, text: str) -> None:
    ep.model(go_on, messages=[{"role": "user", "content": text}])


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("is_world", [True, False])
def test_a_live_rerun_makes_later_changes_of_the_program_once(
    tmp_path: Path, is_world: bool
) -> None:
    def run(ep: Any, shop: Shop, text: str) -> None:
        sell = lambda: ep.call("sell", item="lamp")  # noqa: E731
        if not is_world:
            sell = ep.tool(lambda: shop.call("sell", {"item": "lamp"}), name="sell")
        shop.stock["chair"] = 1
        sell()
        shop.stock["table"] = 1
        ask(ep, text)
        shop.stock["chair"] += 1
        sell()

    shop = Shop()
    shop.reset()
    given: Any = {"world": shop} if is_world else {"watch": shop.stock}
    with trajrec.episode(tmp_path, **given) as ep:
        run(ep, shop, "first")
    close_logs()
    recorded = dict(shop.stock)
    assert recorded == {"lamp": 3, "chair": 2, "table": 1}
    shop = Shop()
    shop.reset()
    given = {"world": shop} if is_world else {"watch": shop.stock}
    with trajrec.rerun(only(tmp_path), on_difference="live", **given) as again:
        run(again, shop, "second")
    close_logs()
    assert shop.stock == recorded
    with trajrec.open(tmp_path) as corpus:
        (fork,) = corpus.episodes(kind="fork")
        begun = fork.transcript.initial_state[""]
        assert begun == {"lamp": 4, "chair": 1, "table": 1}


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_late_replay_has_the_programs_changes_in_order(tmp_path: Path, when: str) -> None:
    shop = Shop()
    with trajrec.episode(tmp_path, world=shop) as ep:
        ep.call("sell", item="lamp")
        if when == "before":
            shop.stock["lamp"] = 9
        ask(ep, "next")
        if when == "after":
            shop.stock["lamp"] = 9
        ep.call("sell", item="lamp")
        shop.stock["lamp"] = 2
        ask(ep, "last")
        shop.stock["chair"] = 2
    close_logs()
    for first in range(3):
        report = replay_episode(only(tmp_path), world=Shop(), first=first)
        assert report.divergence is None, (first, report)
        assert report.grade == ("partial" if first else "exact"), (first, report)


def joined(folder: Path) -> list[Any]:
    """Return each change with the tool of its call."""
    with trajrec.open(folder) as corpus:
        return corpus.sql(
            "SELECT tool, path, before, after FROM state_changes "
            "JOIN attempts USING (episode_id, step, call, attempt) ORDER BY ALL"
        ).fetchall()


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_change_belongs_to_the_innermost_call_that_made_it(
    tmp_path: Path, is_async: bool
) -> None:
    state = {"a": 0, "b": 0, "c": 0}
    with trajrec.episode(tmp_path, watch=state) as ep:
        if is_async:

            @ep.tool(access="write")
            async def c() -> None:
                state["c"] = 1

            @ep.tool(access="write")
            async def b() -> None:
                state["b"] = 1
                await asyncio.create_task(c())

            @ep.tool(access="write")
            async def a() -> None:
                state["a"] = 1
                await b()

            asyncio.run(a())
        else:
            inner = ep.tool(lambda: state.update(c=1), name="c", access="write")
            middle = ep.tool(lambda: (state.update(b=1), inner()), name="b", access="write")
            ep.tool(lambda: (state.update(a=1), middle()), name="a", access="write")()
    close_logs()
    assert joined(tmp_path) == [
        ("a", "/a", "0", "1"),
        ("b", "/b", "0", "1"),
        ("c", "/c", "0", "1"),
    ]
    assert only(tmp_path).state(2)[""] == {"a": 1, "b": 1, "c": 0}


@pytest.mark.slow
def test_a_read_call_that_calls_a_tool_keeps_its_own_change(tmp_path: Path) -> None:
    state = {"a": 0}
    with trajrec.episode(tmp_path, watch=state) as ep:
        inner = ep.tool(lambda: 1, name="inner", access="write")
        ep.tool(lambda: (state.update(a=1), inner()), name="outer", access="read")()
    close_logs()
    assert joined(tmp_path) == [("outer", "/a", "0", "1")]
    with trajrec.open(tmp_path) as corpus:
        blamed = corpus.sql("SELECT tool, finding FROM attempts WHERE finding IS NOT NULL")
        assert blamed.fetchall() == [("outer", CHANGED)]
        assert corpus.sql("SELECT origin, message FROM failures").fetchall() == [("tool", CHANGED)]


@pytest.mark.slow
def test_a_check_has_the_digest_of_the_state_that_it_judged(tmp_path: Path) -> None:
    reading = threading.Event()

    class Slow(Copying):
        is_slow = False

        def call(self, name: str, arguments: dict[str, Any], /) -> Any:
            self.is_slow = True
            return "seen"

        def get_state(self) -> dict[str, int]:
            state = dict(self.stock)
            if self.is_slow:
                self.is_slow = False
                reading.set()
                time.sleep(0.3)
            return state

    shop = Slow()
    with trajrec.episode(tmp_path, world=shop) as ep:
        run = contextvars.copy_context().run
        thread = threading.Thread(target=run, args=(ep.call, "look"))
        thread.start()
        assert reading.wait(10)
        shop.stock["lamp"] = 99
        ep.check(solved)
        thread.join()
    close_logs()
    episode = only(tmp_path)
    assert episode.state(1)[""] == {"lamp": 99}
    assert episode.checks[0].state_digest == episode.transcript.state_digest
