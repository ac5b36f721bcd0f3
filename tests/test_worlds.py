"""An agent's episode replays in its world, or its first differing call is named."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import trajrec
from trajrec.envs import Shop
from trajrec.envs.shop import PaymentTimeout, ToolError
from trajrec.envs.shop_tasks import TASKS
from trajrec.errors import EnvMissingError, EnvRefusedError, UnknownToolError
from trajrec.protocols import Tool
from trajrec.recording.event_log import close_logs
from trajrec.replay import replay_episode


@trajrec.verifier(id="solved", version="1")
def solved(shop: Shop) -> bool:
    return shop.task_solved()


def record_shop(folder: Path, task: int, seed: int | None = 7) -> None:
    """Record a clumsy agent that solves a task of the shop."""
    with trajrec.episode(
        folder, task=f"shop-{task}", world=Shop(seed=seed), options={"task": task}, checks=[solved]
    ) as ep:
        with pytest.raises(UnknownToolError):
            ep.call("look_up", order="O1001")
        with pytest.raises(ToolError):
            ep.call("get_order", order="none")
        with pytest.raises(ToolError):
            ep.call("get_order", ordre="O1001")
        for name, arguments in ep.world.ground_truth_calls():
            with contextlib.suppress(PaymentTimeout):
                ep.call(name, **arguments)


def episodes(folder: Path) -> list[Any]:
    return sorted(trajrec.open(folder).episodes(), key=lambda episode: episode.number)


class Counter:
    """A world with get_state and without set_state."""

    def __init__(self, step: int = 1) -> None:
        self.n = 0
        self.by = step

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> str:
        self.n = 0
        return "Count."

    def tools(self) -> list[Tool]:
        return [Tool.with_args("count", "write")]

    def call(self, name: str, arguments: dict[str, Any], /) -> str:
        self.n += self.by
        return "counted"

    def get_state(self) -> dict[str, int]:
        return {"n": self.n}


def test_a_world_without_set_state_is_compared(
    tmp_path: Path,
) -> None:
    with trajrec.episode(tmp_path, task="count", world=Counter()) as ep:
        ep.call("count")
    (episode,) = episodes(tmp_path)
    assert trajrec.open(tmp_path).sql("SELECT path, after FROM state_changes").fetchall() == [
        ("/n", "1")
    ]
    same = replay_episode(episode, world=Counter())
    assert (same.grade, same.notes) == ("exact", ())
    other = replay_episode(episode, world=Counter(step=2), explain=False)
    assert other.divergence is not None
    assert (other.divergence.field, other.divergence.expected, other.divergence.actual) == (
        "state/n",
        1,
        2,
    )
    forced = replay_episode(episode, world=Counter(step=2), resync=True, explain=False)
    assert "could not be restored" in forced.notes[0]


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Odd(Counter):
    """A world whose results and exceptions can hardly be stored."""

    def tools(self) -> list[Tool]:
        return [Tool(name) for name in ("cycle", "mute", "surrogate")]

    def call(self, name: str, arguments: dict[str, Any], /) -> Any:
        if name == "mute":
            raise Mute
        if name == "surrogate":
            raise ValueError("cut \ud83d")
        cycle: list[Any] = []
        cycle.append(cycle)
        return cycle


def test_results_that_can_hardly_be_stored_replay(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, world=Odd()) as ep:
        ep.call("cycle")
        for name in ("mute", "surrogate"):
            with pytest.raises((Mute, ValueError)):
                ep.call(name)
    (episode,) = episodes(tmp_path)
    assert replay_episode(episode, world=Odd()).grade == "exact"


REPLAY = """
import json, sys, trajrec
with trajrec.open(sys.argv[1]) as corpus:
    reports = trajrec.replay.replay_episodes(corpus.episodes())
    print(json.dumps([[report.grade, report.n_steps] for report in reports]))
"""


@pytest.mark.slow
def test_the_shop_replays_exactly_in_another_process(tmp_path: Path) -> None:
    for task in range(len(TASKS)):
        record_shop(tmp_path, task)
        record_shop(tmp_path, task, seed=None)
    close_logs()
    done = subprocess.run(
        [sys.executable, "-c", REPLAY, str(tmp_path)], capture_output=True, text=True, check=True
    )
    divergence = json.loads(done.stdout)
    assert [grade for grade, _ in divergence] == ["exact"] * 2 * len(TASKS)
    assert min(n_steps for _, n_steps in divergence) >= 5


@pytest.mark.slow
def test_the_first_call_of_a_changed_tool_diverges(tmp_path: Path) -> None:
    record_shop(tmp_path, 0)
    (episode,) = episodes(tmp_path)

    class Stingy(Shop):
        def _refund_order(self, order: str, cents: int) -> dict[str, Any]:
            return super()._refund_order(order, cents - 1)

    class Silent(Shop):
        def _send_message(self, customer: str, text: str) -> dict[str, Any]:
            return {"sent": True}

    class Strict(Shop):
        def _get_order(self, order: str) -> dict[str, Any]:
            raise ToolError("closed")

    assert replay_episode(episode, world=Shop(), checks=[solved]).grade == "exact"
    divergence = replay_episode(episode, world=Stingy()).divergence
    assert (divergence.step, divergence.field, divergence.expected - divergence.actual) == (
        4,
        "result/refunded",
        1,
    )
    assert "changed" in divergence.cause
    divergence = replay_episode(episode, world=Silent()).divergence
    assert (divergence.step, divergence.field, divergence.actual) == (
        5,
        "state/database/messages/0",
        trajrec.values.diff.MISSING,
    )
    divergence = replay_episode(episode, world=Strict()).divergence
    assert (divergence.step, divergence.field) == (1, "error")
    assert divergence.actual == "trajrec.envs.shop.ToolError: closed"
    report = replay_episode(
        episode,
        world=Shop(),
        checks=[trajrec.verifier(id="solved", version="2")(lambda shop: False)],
    )
    assert (report.divergence.field, report.divergence.expected) == ("check/solved", (True, None))


@pytest.mark.slow
def test_another_initial_state_diverges_before_any_call(tmp_path: Path) -> None:
    record_shop(tmp_path, 1)
    (episode,) = episodes(tmp_path)

    class Renamed(Shop):
        def _make_database(self) -> dict[str, Any]:
            database = super()._make_database()
            database["customers"]["C2"]["name"] = "Zoe"
            return database

    divergence = replay_episode(episode, world=Renamed()).divergence
    assert (divergence.step, divergence.field, divergence.actual) == (
        -1,
        "state/database/customers/C2/name",
        "Zoe",
    )


class Notes:
    """A world that depends on the clock or on random, if it is told to."""

    def __init__(self, clock: bool = False, chance: bool = False) -> None:
        self.kwargs = {"clock": clock, "chance": chance}
        self.notes: list[Any] = []
        self.fetched = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> str:
        self.notes.clear()
        return "take notes"

    def tools(self) -> list[Tool]:
        return [
            Tool("note", access="write"),
            Tool("fetch", access="external"),
            Tool("later", access="write"),
        ]

    def watch(self) -> dict[str, Any]:
        return {"notes": self.notes}

    def call(self, name: str, arguments: dict[str, Any], /) -> Any:
        if name == "fetch":
            self.fetched += 1
            return self.fetched
        if name == "later":
            return self._later(**arguments)
        note = {"text": arguments["text"]}
        if self.kwargs["clock"]:
            note["at"] = datetime.datetime.now().isoformat()
        if self.kwargs["chance"]:
            note["id"] = random.random()
        self.notes.append(note)
        return len(self.notes)

    async def _later(self, text: str) -> str:
        self.notes.append(text)
        return text.upper()


def record_notes(folder: Path, **kwargs: bool) -> Any:
    with trajrec.episode(folder, world=Notes(**kwargs)) as ep:
        ep.call("note", text="a")
        ep.call("fetch")
        ep.call("note", text="b")
    return episodes(folder)[-1]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("kwargs", "field", "cause"),
    [({"clock": True}, "at", "clock"), ({"chance": True}, "id", "random")],
)
def test_clock_and_chance_are_named_as_causes(
    tmp_path: Path, kwargs: dict[str, bool], field: str, cause: str
) -> None:
    report = replay_episode(record_notes(tmp_path, **kwargs), allow=[__name__])
    assert (report.grade, report.divergence.step) == ("diverged", 0)
    assert report.divergence.field == f"state/notes/0/{field}"
    assert cause in report.divergence.cause
    ignore = [f"state/notes/{k}/{field}" for k in range(2)]
    assert replay_episode(episodes(tmp_path)[-1], allow=[__name__], ignore=ignore).grade == "state"


def test_external_tools_are_answered_from_the_log(tmp_path: Path) -> None:
    async def main() -> None:
        async with trajrec.episode(tmp_path, world=Notes()) as ep:
            ep.call("fetch")
            assert await ep.call("later", text="a") == "A"
            ep.tool(lambda: 1, name="outside")
            ep.call("outside")

    asyncio.run(main())
    world = Notes()
    report = replay_episode(episodes(tmp_path)[0], world=world)
    assert report.grade == "exact"
    assert world.fetched == 0
    assert "calls of external tools were answered from the log" in report.notes


def test_async_tool_is_replayed_where_a_loop_runs(tmp_path: Path) -> None:
    async def main() -> str:
        async with trajrec.episode(tmp_path, world=Notes()) as ep:
            assert await ep.call("later", text="a") == "A"
        # As in the cell of a notebook.
        return replay_episode(episodes(tmp_path)[0], world=Notes()).grade

    assert asyncio.run(main()) == "exact"


@pytest.mark.parametrize("before", [["a"], ["a", "b", "c"], [["a", "b"]]])
def test_result_with_another_number_of_items_diverges(tmp_path: Path, before: list[Any]) -> None:
    items: list[Any] = list(before)

    class Shelf:
        def reset(self, *, seed: int | None = None, options: Any = None) -> None: ...

        def tools(self) -> list[Tool]:
            return [Tool("look", access="read")]

        def call(self, tool: str, arguments: dict[str, Any]) -> Any:
            return {"items": items}

    with trajrec.episode(tmp_path, world=Shelf()) as ep:
        ep.call("look")
    items[:] = ["a", "b"]
    report = replay_episode(episodes(tmp_path)[0], world=Shelf(), explain=False)
    assert report.divergence is not None
    assert report.divergence.field.startswith("result/items")


@pytest.mark.slow
def test_a_world_is_imported_only_if_allowed(
    tmp_path: Path,
) -> None:
    episode = record_notes(tmp_path)
    with pytest.raises(EnvRefusedError, match="unless you allow it: pass --allow test_worlds"):
        replay_episode(episode)
    assert replay_episode(episode, allow=[__name__]).grade == "exact"
    with trajrec.episode(tmp_path) as ep:
        ep.tool(lambda: 1, name="one")
        ep.call("one")
    with pytest.raises(
        EnvMissingError, match="no world that could be made again; give a function that makes it"
    ):
        replay_episode(episodes(tmp_path)[-1])
    done = subprocess.run(
        [sys.executable, "-m", "trajrec", "replay", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 4
    assert done.stdout.count("refused") >= 2


@pytest.mark.slow
def test_commands_show_an_agents_episode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trajrec.cli.main import main

    with trajrec.episode(tmp_path, task="notes", world=Notes(), interface={"base": "m-1"}) as ep:
        ep.model(
            lambda **_: {"content": "I note."},
            model="m-1",
            messages=[{"role": "user", "content": "note a"}],
        )
        ep.call("note", text="a")
        with pytest.raises(UnknownToolError):
            ep.call("forget")
    assert main(["show", str(tmp_path), ep.id[:6]]) == 0
    shown = capsys.readouterr().out
    assert all(
        text in shown
        for text in ("notes", '{"base":"m-1"}', "model m-1", "no tool 'forget'", '{"text":"a"}')
    )
    assert main(["show", str(tmp_path), ep.id, "--step", "0"]) == 0
    shown = capsys.readouterr().out
    assert '"note a"' in shown
    assert 'notes: /0: (missing) -> {"text":"a"}' in shown
    assert main(["show", str(tmp_path), ep.id, "--step", "2"]) == 2
    assert main(["show", str(tmp_path), ep.id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["task"] == "notes"


def test_an_object_that_is_no_world_is_refused(tmp_path: Path) -> None:
    class Shelf:
        def tools(self) -> list[Any]:
            return []

    with pytest.raises(TypeError, match="Shelf lacks reset, call"):
        trajrec.episode(tmp_path / "runs", world=Shelf())  # type: ignore[arg-type]
    assert not (tmp_path / "runs").exists()
