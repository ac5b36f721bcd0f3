"""Programs that change their working folder: relative paths mean what they meant when they were given."""

from __future__ import annotations

import os
import pickle
import sqlite3
from pathlib import Path
from typing import Any

import gymnasium as gym
import httpx
import numpy as np
import pytest
from conftest import record
from model_answers import Turn
from model_server import ModelServer

import trajrec
from trajrec.cli.main import main
from trajrec.envs import Workspace
from trajrec.replay import credit, fork, replay_episode
from trajrec.replay.agents.recorded_answers import only_episode

RUNS = "runs"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another folder, with a log of its own where the relative path of the first would lead."""
    (tmp_path / "first").mkdir()
    other = tmp_path / "other"
    record(gym.make("FrozenLake-v1"), other / RUNS, 1)
    monkeypatch.chdir(tmp_path / "first")
    return other


def logs_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / RUNS).glob("*.trj"))


@pytest.mark.slow
def test_a_corpus_stays_in_its_folder(elsewhere: Path) -> None:
    record(gym.make("CartPole-v1"), Path(RUNS), 2)
    with trajrec.open(RUNS) as corpus, trajrec.open(RUNS) as late:
        ids = [episode.id for episode in corpus.episodes()]
        (first, _) = corpus.episodes()
        os.chdir(elsewhere)
        for one in (corpus, late, pickle.loads(pickle.dumps(corpus))):
            assert one.sql("SELECT DISTINCT env_id FROM episodes").fetchall() == [("CartPole-v1",)]
            assert one.sql("SELECT count(*) FROM steps", sandbox=True).fetchall() != [(0,)]
            assert [episode.id for episode in one.episodes("n_steps > 0")] == ids
            assert one.episode(ids[1][:9]).id == ids[1]
            assert one.problems() == []
        assert sum(len(b["action"]) for b in corpus.transitions(batch_size=8)) > 2
        again = pickle.loads(pickle.dumps(first))
        assert np.array_equal(again.observations, first.observations)
        assert replay_episode(again).grade == "exact"
        corpus.tag(ids[0], quality="good")
        assert late.sql("SELECT count(*) FROM labels").fetchall() == [(1,)]


def test_forks_and_credit_stay_beside_the_episode(elsewhere: Path) -> None:
    record(gym.make("CartPole-v1"), Path(RUNS), 1)
    others = logs_of(elsewhere)

    class Moving(gym.Wrapper[Any, Any, Any, Any]):
        """An environment of a package that works in its own folder."""

        def reset(self, **options: Any) -> Any:
            os.chdir(elsewhere)
            return super().reset(**options)

    def make() -> Any:
        return Moving(gym.make("CartPole-v1"))

    first = Path(RUNS).absolute()
    with trajrec.open(RUNS) as corpus:
        (episode,) = corpus.episodes()
        options: Any = {"env": make, "steps": [1], "n_rollouts": 2}
        credit.estimate(episode, lambda _: 0, **options)
        os.chdir(first.parent)
        credit.estimate(episode, lambda _: 0, **options, folder=RUNS)
        os.chdir(first.parent)
        with fork(episode, at=1, env=make, folder=RUNS) as world:
            world.step(0)
    assert logs_of(elsewhere) == others
    with trajrec.open(first) as corpus:
        assert corpus.sql("SELECT count(DISTINCT run_id) FROM credit").fetchall() == [(2,)]
        assert corpus.sql("SELECT count(*) FROM forks").fetchall() == [(1,)]


class Leaving(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that goes to another folder when it is reset."""

    def __init__(self, env_id: str = "CartPole-v1", **options: Any) -> None:
        super().__init__(gym.make(env_id, **options))

    def reset(self, **options: Any) -> Any:
        os.chdir(os.environ["ELSEWHERE"])
        return super().reset(**options)


def leave_and_draw() -> Any:
    return Leaving(render_mode="rgb_array")


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("command", "files"),
    [
        (["replay", "--junit", "a.xml", "--html", "a.html"], {"a.xml", "a.html"}),
        (["film", "--render", "-o", "a.gif"], {"a.gif"}),
        (
            ["credit", "-n", "2", "--policy", "random", "--steps", "1:2", "--plot", "a.html"],
            {"a.html"},
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_files_of_a_command_stay_in_its_folder(
    command: list[str], files: set[str], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(gym.make("CartPole-v1"), Path(RUNS), 1)
    monkeypatch.setenv("ELSEWHERE", str(elsewhere))
    first = Path.cwd()
    with trajrec.open(RUNS) as corpus:
        (episode,) = corpus.episodes()
    name, *options = command
    which = [] if name == "replay" else [episode.id]
    env = "leave_and_draw" if name == "film" else "Leaving"
    assert main([name, RUNS, *which, "--env", f"test_changed_folder:{env}", *options]) == 0
    assert Path.cwd() == elsewhere
    assert files <= {path.name for path in first.iterdir()}
    assert not files & {path.name for path in elsewhere.iterdir()}
    # The verdict of a replay and the numbers of credit are appended to the logs.
    assert len(logs_of(first)) == (1 if name == "film" else 2)
    assert len(logs_of(elsewhere)) == 1


@pytest.mark.slow
def test_a_capture_records_where_it_began(elsewhere: Path) -> None:
    others = logs_of(elsewhere)
    with ModelServer([Turn("yes"), Turn("no")]) as server, trajrec.capture(RUNS) as capture:
        for content in ("Is it so?", "And now?"):
            message = {"role": "user", "content": content}
            body = {"model": "m", "messages": [message]}
            httpx.post(f"{server.url}/v1/chat/completions", json=body).raise_for_status()
            os.chdir(elsewhere)
    assert capture.folder.is_absolute()
    assert logs_of(elsewhere) == others
    with trajrec.open(capture.folder) as corpus:
        assert corpus.sql("SELECT count(*) FROM episodes").fetchall() == [(2,)]


@pytest.mark.slow
def test_an_episode_is_recorded_where_it_was_made(elsewhere: Path) -> None:
    others = logs_of(elsewhere)
    first = Path.cwd()
    episode = trajrec.episode(RUNS, task="t")
    os.chdir(elsewhere)
    with episode as ep:
        ep.tool(lambda: 1, name="look", access="read")()
    assert ep.path.parent == first / RUNS
    assert logs_of(elsewhere) == others
    os.chdir(first)
    only = only_episode(Path(RUNS) / ep.path.name)
    rerun = trajrec.rerun(Path(RUNS) / ep.path.name)
    os.chdir(elsewhere)
    assert only.path == ep.path
    with rerun as again:
        again.tool(lambda: 1, name="look", access="read")()
    assert rerun.difference is None


def test_an_address_is_refused_for_an_episode_at_once() -> None:
    with pytest.raises(ValueError, match="s3://bucket/runs"):
        trajrec.episode("s3://bucket/runs")


def test_watched_paths_stay_where_they_were(elsewhere: Path) -> None:
    (Path("shop") / "orders").mkdir(parents=True)
    (Path("shop") / "orders" / "a").write_text("1")
    with sqlite3.connect("shop.db") as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, cents INTEGER)")
    connection.close()
    first = Path.cwd()

    def change() -> None:
        os.chdir(elsewhere)
        (first / "shop" / "orders" / "b").write_text("2")
        with sqlite3.connect(first / "shop.db") as connection:
            connection.execute("INSERT INTO orders VALUES (1, 5)")
        connection.close()

    watch = {"files": Path("shop"), "db": Path("shop.db")}
    late = trajrec.episode(first / RUNS, watch={"files": Path("shop")})
    with trajrec.episode(first / RUNS, watch=watch) as ep:
        ep.tool(change, access="write")()
    with late as other:
        other.tool(lambda: None, name="look", access="read")()
    with trajrec.open(first / RUNS) as corpus:
        states = corpus.episode(ep.id).state(1)
        assert set(states["files"]["orders"]) == {"a", "b"}
        assert states["db"]["orders"] == {1: {"id": 1, "cents": 5}}
        (attempt,) = corpus.episode(ep.id).transcript.attempts
        assert len(attempt.changes) == 2
        assert set(corpus.episode(other.id).state(1)["files"]["orders"]) == {"a", "b"}


def test_values_beside_a_watched_path_may_be_replaced(elsewhere: Path) -> None:
    Path("shop").mkdir()
    watch: dict[str, Any] = {"files": Path("shop"), "order": {"cents": 1}}
    with trajrec.episode(RUNS, watch=watch) as ep:
        ep.tool(lambda: watch.update(order={"cents": 2}), name="change", access="write")()
        verdict = ep.check(lambda state: state["order"] == {"cents": 2})
    assert verdict.passed
    with trajrec.open(RUNS) as corpus:
        assert corpus.episode(ep.id).state(1)["order"] == {"cents": 2}
    given: list[Any] = []
    with trajrec.episode(RUNS, watch={"files": Path("shop")}) as ep:
        ep.check(lambda state: given.append(state) is None)
    assert given == [{"files": Path("shop").absolute()}]


def test_a_workspace_stays_in_its_folder(elsewhere: Path) -> None:
    world = Workspace(seed=1, root="work")
    first = Path.cwd()
    os.chdir(elsewhere)
    world.reset(seed=1)
    assert list((first / "work").iterdir())
    assert not (elsewhere / "work").exists()
