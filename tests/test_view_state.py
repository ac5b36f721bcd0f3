"""The history of one place of the state, and the changes of the state that a step's page shows."""

from __future__ import annotations

import html
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gymnasium
import pytest
from starlette.testclient import TestClient
from tiers import mostly_deep

import trajrec
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.main import main
from trajrec.corpus.episode import Episode
from trajrec.corpus.place_history import PlaceHistory, place_history, values_at
from trajrec.values.diff import MISSING, Change, is_same
from trajrec.values.patch import patched
from trajrec.view.app import make_app
from trajrec.view.served_corpus import ServedCorpus


def recorded(folder: Path, run: Callable[[Any, dict[Any, Any]], None], **state: Any) -> Episode:
    """Return an episode in which a program and its tools changed a dict."""
    with trajrec.episode(folder, watch=state) as ep:
        run(ep, state)
    trajrec.close_logs()
    with trajrec.open(folder) as corpus:
        return next(iter(corpus.episodes()))


def courses(history: PlaceHistory) -> list[list[tuple[int, str, list[Change]]]]:
    return [[(row.step, row.who, list(row.changes)) for row in p.rows] for p in history.places]


def own(before: Any, after: Any) -> list[Change]:
    """Return the change of a place itself."""
    return [Change((), before, after)]


def page(folder: Path, address: str) -> tuple[int, str]:
    """Return the status and the text of a page, without elements."""
    with trajrec.open(folder) as corpus:
        app = make_app(ServedCorpus(corpus), port=7007, token="t")
        client = TestClient(app, base_url="http://127.0.0.1:7007")
        client.get("/?token=t")
        (own,) = corpus.sql("SELECT episode_id FROM episodes LIMIT 1").fetchall()[0]
        answer = client.get(address.replace("ID", own))
    text = html.unescape(re.sub(r"<[^>]*>", " ", answer.text))
    return answer.status_code, re.sub(r"\s+", " ", text)


def change_and_back(ep: Any, state: dict[Any, Any]) -> None:
    inner = ep.tool(lambda: state.update(n=1), name="raise_it", access="write")

    def outer() -> None:
        inner()
        state["n"] = 0

    ep.tool(outer, name="raise_and_lower", access="write")()


PROGRAM = "the agent's own program"


def test_a_value_changed_and_back_in_a_step_is_two_rows(tmp_path: Path) -> None:
    episode = recorded(tmp_path, change_and_back, n=0, m=0)
    (rows,) = courses(place_history(episode, "/n"))
    assert [row[2] for row in rows] == [own(0, 1), own(1, 0)]
    assert [row[1] for row in rows] == ["raise_it", "raise_and_lower"]


def test_a_step_shows_what_its_program_changed_and_back(tmp_path: Path) -> None:
    def run(ep: Any, state: dict[Any, Any]) -> None:
        look = ep.tool(lambda: None, name="look", access="write")
        with ep.step():
            look()
            state["n"] = 1
            look()
            state["n"] = 0
            look()

    recorded(tmp_path, run, n=0)
    _, text = page(tmp_path, "/e/ID/0")
    assert "State: 2 changed" in text
    assert re.search(r"/n 0 → 1 .*by the agent's own program", text)
    assert re.search(r"/n 1 → 0 .*by the agent's own program", text)


def test_the_list_counts_the_changes_by_the_program(tmp_path: Path) -> None:
    def run(ep: Any, state: dict[Any, Any]) -> None:
        look = ep.tool(lambda: None, name="look", access="write")
        look()
        state["n"] = 1
        look()

    recorded(tmp_path, run, n=0)
    with trajrec.open(tmp_path) as corpus:
        (own,) = corpus.sql("SELECT episode_id FROM episodes").fetchall()[0]
        view = ServedCorpus(corpus).episode(own)
        assert [row.n_changes for row in view.rows(0)] == [1, 0]
        assert any(lane.label == "/n" for lane in view.lanes)


def test_changes_between_calls_have_a_lane_and_a_step(tmp_path: Path) -> None:
    def run(ep: Any, state: dict[Any, Any]) -> None:
        look = ep.tool(lambda: None, name="look", access="write")
        state["n"] = 1
        look()
        look()
        state["n"] = 2
        look()

    recorded(tmp_path, run, n=0)
    with trajrec.open(tmp_path) as corpus:
        (own,) = corpus.sql("SELECT episode_id FROM episodes").fetchall()[0]
        view = ServedCorpus(corpus).episode(own)
        assert [row.n_changes for row in view.rows(0)] == [1, 1, 0]
        (lane,) = [lane for lane in view.lanes if lane.label == "between calls"]
    assert lane.summary == f"2 changes of the state between the calls, by {PROGRAM}"
    assert lane.paths == {"changes": "M0 0h2v1h-2z"}
    _, text = page(tmp_path, "/e/ID/0")
    assert re.search(rf"/n 0 → 1 .*by {PROGRAM}, before this step", text)


def test_calls_alone_have_no_lane_between_them(tmp_path: Path) -> None:
    recorded(tmp_path, change_and_back, n=0)
    with trajrec.open(tmp_path) as corpus:
        (own,) = corpus.sql("SELECT episode_id FROM episodes").fetchall()[0]
        labels = [lane.label for lane in ServedCorpus(corpus).episode(own).lanes]
    assert "between calls" not in labels


def test_a_record_shows_the_changes_of_its_parts(tmp_path: Path) -> None:
    def run(ep: Any, state: dict[Any, Any]) -> None:
        def put(**lamp: Any) -> None:
            state["stock"]["lamp"] = lamp

        def sell() -> None:
            state["stock"]["lamp"]["n"] -= 1

        def clear() -> None:
            state["stock"].clear()

        ep.tool(put, name="put", access="write")(n=3, color="red")
        ep.tool(sell, name="sell", access="write")()
        ep.tool(clear, name="clear", access="write")()

    episode = recorded(tmp_path, run, stock={}, other=1)
    (lamp,) = courses(place_history(episode, "/stock/lamp"))
    red = {"n": 3, "color": "red"}
    assert lamp == [
        (0, "put", own(MISSING, red)),
        (1, "sell", [Change(("n",), 3, 2)]),
        (2, "clear", own({"n": 2, "color": "red"}, MISSING)),
    ]
    (count,) = courses(place_history(episode, "/stock/lamp/n"))
    assert [row[2] for row in count] == [own(MISSING, 3), own(3, 2), own(2, MISSING)]
    (stock,) = courses(place_history(episode, "/stock"))
    assert [row[0] for row in stock] == [0, 1, 2]
    (whole,) = courses(place_history(episode, ""))
    assert [row[0] for row in whole] == [0, 1, 2]


def test_keys_that_look_alike_have_a_history_each(tmp_path: Path) -> None:
    def run(ep: Any, state: dict[Any, Any]) -> None:
        ep.tool(lambda: state.update({7: "b"}), name="a", access="write")()
        ep.tool(lambda: state.update({"7": "c"}), name="b", access="write")()

    with trajrec.episode(tmp_path, watch=(state := {7: "a", "7": "x"})) as ep:
        run(ep, state)
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        episode = next(iter(corpus.episodes()))
    history = place_history(episode, "/7")
    assert [place.words for place in history.places] == ['/7 ["7"]', "/7"]
    assert courses(history) == [[(1, "b", own("x", "c"))], [(0, "a", own("a", "b"))]]


def test_a_history_names_parts_and_refuses_no_place(tmp_path: Path) -> None:
    stock, users = {"lamp": 1}, {"lamp": 9}
    with trajrec.episode(tmp_path, watch={"stock": stock, "users": users}) as ep:
        ep.tool(lambda: users.update(lamp=8), name="change", access="write")()
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        episode = next(iter(corpus.episodes()))
    assert courses(place_history(episode, "/users/lamp")) == [[(0, "change", own(9, 8))]]
    assert courses(place_history(episode, "/stock/lamp")) == [[]]
    assert values_at(episode, "/stock/lamp", 1) == [("stock", ("lamp",), 1)]
    assert not place_history(episode, "/users/chair").places


def test_a_page_tells_value_and_changer_at_a_step(tmp_path: Path) -> None:
    def run(ep: Any, state: dict[Any, Any]) -> None:
        restock = ep.tool(
            lambda item, n: state["stock"].update({item: n}), name="restock", access="write"
        )
        look = ep.tool(lambda: state["stock"]["lamp"], name="look", access="read")
        for number in range(30):
            look() if number % 10 else restock(item="lamp", n=number)

    recorded(tmp_path, run, stock={"lamp": 7, "chair": 2})
    path = quote("/stock/lamp", safe="")
    status, text = page(tmp_path, f"/e/ID/state?path={path}&at=17")
    assert status == 200
    assert "After step 17 it was 10 , as step 10 had set it, by restock" in text
    assert '{"item":"lamp","n":20}' in text
    _, text = page(tmp_path, f"/e/ID/state?path={quote('/stock/chair', safe='')}&at=17")
    assert "After step 17 it was 2 , as at the reset" in text
    assert "Nothing has changed it" in text


def test_the_address_without_a_path_lists_all_places(tmp_path: Path) -> None:
    recorded(tmp_path, change_and_back, n=0, m=0)
    status, text = page(tmp_path, "/e/ID/state")
    assert status == 200
    assert re.search(r"/n 2 ", text)
    assert "/m" not in text
    status, text = page(tmp_path, "/e/ID/state?path=/nowhere")
    assert status == 404
    assert "has no place /nowhere" in text
    status, _ = page(tmp_path, "/e/ID/state?path=/n&at=99")
    assert status == 404


def test_a_state_that_is_unknown_has_no_value(tmp_path: Path) -> None:
    env = trajrec.record(gymnasium.make("CartPole-v1"), tmp_path, keep_states="keys")
    env.reset(seed=1)
    env.step(0)
    env.close()
    _, text = page(tmp_path, "/e/ID/state?path=&at=0")
    assert re.search("After step 0 it is unknown : only the digest", text)
    assert "stored after 1 of 2 steps" in text
    assert "Nothing has changed it" not in text


def test_states_of_environments_have_a_history_by_actions(tmp_path: Path) -> None:
    env = trajrec.record(gymnasium.make("FrozenLake-v1"), tmp_path, keep_states="all")
    env.reset(seed=1)
    done = False
    while not done:
        *_, terminated, truncated, _ = env.step(2)
        done = terminated or truncated
    env.close()
    with trajrec.open(tmp_path) as corpus:
        episode = next(iter(corpus.episodes()))
        final = episode.state(episode.end_step)
    history = place_history(episode, "")
    (rows,) = courses(history)
    assert rows
    assert rows[-1][2][0].after == final
    assert {row[1] for row in rows} == {"the action"}
    _, text = page(tmp_path, "/e/ID/state?path=")
    assert re.search(rf"step {rows[-1][0]} .* the action 2 ", text)


@mostly_deep("index", drawn=6)
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_the_changes_of_a_place_lead_to_its_states(tmp_path: Path, seed: int) -> None:
    """Changed at random by calls and between them, every place of every state is as recorded."""
    draw = random.Random(seed)

    def some(depth: int) -> Any:
        if depth and draw.random() < 0.6:
            keys: list[Any] = draw.sample(["a", "b/c", "~", "1", 1, ""], 3)
            return {key: some(depth - 1) for key in keys}
        return [draw.randrange(3)] * draw.randrange(3) if draw.random() < 0.3 else draw.randrange(3)

    def change() -> None:
        value: Any = state
        while isinstance(value, dict) and value:
            key = draw.choice(list(value))
            if draw.random() < 0.5 or not isinstance(value[key], dict):
                value[key] = some(2)
                return
            value = value[key]

    state = {key: some(3) for key in ("a", "b", 1, "1")}
    with trajrec.episode(tmp_path, watch=state) as ep:
        call = ep.tool(change, name="change", access="write")
        for _ in range(20):
            call()
            if draw.random() < 0.3:
                change()
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        episode = next(iter(corpus.episodes()))
    pointers = {"", "/a", "/1", "/a/a", "/a/b~1c", "/b/~0", "/1/1", "/a/", "/b/a/0", "/a/1/1"}
    for pointer in pointers:
        for place in place_history(episode, pointer).places:
            for step in range(episode.end_step + 1):
                told = {p: v for _, p, v in values_at(episode, pointer, step)}
                state_then = told.get(place.path, MISSING)
                value = {p: v for _, p, v in values_at(episode, pointer, 0)}.get(
                    place.path, MISSING
                )
                for row in place.rows:
                    if row.step < step:
                        (change, *rest) = row.changes
                        is_own = not change.path and not rest
                        value = change.after if is_own else patched(value, row.changes)
                assert is_same(value, state_then), (pointer, step)


def test_show_tells_a_place_after_a_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    episode = recorded(tmp_path, change_and_back, n=0, m=0)
    folder = str(tmp_path)
    assert main(["show", folder, episode.id, "--state", "/n"]) == ExitStatus.OK
    first, *rows = capsys.readouterr().out.splitlines()
    assert first == "/n after step 1: 0, since step 0, by raise_and_lower"
    assert [row.split() for row in rows] == [
        ["step", "changed", "by", "inside", "before", "after"],
        ["1", "raise_it", "0", "1"],
        ["0", "raise_and_lower", "1", "0"],
    ]
    assert main(["show", folder, episode.id, "--state", "/n", "--step", "-1"]) == ExitStatus.OK
    assert capsys.readouterr().out.startswith("/n at the reset: 0, as at the reset")
    assert main(["show", folder, episode.id, "--state", "/n", "--json"]) == ExitStatus.OK
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["place"], line["before"], line["after"]) for line in lines] == [
        ("/n", 0, 1),
        ("/n", 1, 0),
    ]
    for wrong in (["/x"], ["n"], ["/n", "--step", "9"], ["/n", "--follow"]):
        assert main(["show", folder, episode.id, "--state", *wrong]) == ExitStatus.USAGE
