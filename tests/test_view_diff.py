"""Two episodes beside each other: what differs is shown, what is the same is folded."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from starlette.testclient import TestClient
from test_view import HOSTILE, ROOT, TOKEN, assert_harmless, record_hostile, signed_in, stranger

import trajrec
from trajrec.replay import first_difference
from trajrec.view import diff_view
from trajrec.view.diff_view import DiffView, compare_views
from trajrec.view.episode_view import EpisodeView
from trajrec.view.evidence import Evidence


def record(folder: Any, amounts: tuple[int, ...], *, text: str = "on") -> str:
    """Record an agent that adds amounts to an account."""
    state = {"cents": 0}

    def add(cents: int) -> int:
        if cents > 1_000:
            raise ValueError(f"{cents} is too much")
        state["cents"] += cents
        return state["cents"]

    with trajrec.episode(folder, task="add", watch=state) as ep:
        ep.tool(add, name="add", access="write")
        for cents in amounts:
            with ep.step(), contextlib.suppress(ValueError):
                ep.model(lambda **_: text, messages=[])
                ep.call("add", cents=cents)
    return ep.id


@pytest.fixture(scope="module")
def ids() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def corpus(
    tmp_path_factory: pytest.TempPathFactory, ids: dict[str, str]
) -> Iterator[trajrec.Corpus]:
    folder = tmp_path_factory.mktemp("diff")
    ids["plain"] = record(folder, (1, 2, 3, 4, 5))
    ids["same"] = record(folder, (1, 2, 3, 4, 5))
    # Its state is another one after step 1, and the same again after step 2.
    ids["swapped"] = record(folder, (1, 3, 2, 4, 5, 6))
    ids["failed"] = record(folder, (1, 2, 5_000), text=HOSTILE)
    record_hostile(folder)
    trajrec.close_logs()
    for name in ("won-keydoor", "crashed-cartpole"):
        shutil.copy(ROOT / "sample_trajectories" / f"{name}.trj", folder)
    with trajrec.open(folder) as opened:
        yield opened


def compared(corpus: trajrec.Corpus, a: str, b: str) -> DiffView:
    return compare_views(*(EpisodeView(corpus.episode(key), Evidence()) for key in (a, b)))


def kinds(view: DiffView) -> list[tuple[str, int, int]]:
    return [(part.kind, part.first, part.last) for part in view.parts]


def test_the_same_steps_are_one_folded_part(corpus: trajrec.Corpus, ids: dict[str, str]) -> None:
    view = compared(corpus, ids["plain"], ids["same"])
    assert kinds(view) == [("same", 0, 4)]
    assert view.first is None


def test_states_that_meet_again_are_marked(corpus: trajrec.Corpus, ids: dict[str, str]) -> None:
    view = compared(corpus, ids["plain"], ids["swapped"])
    assert kinds(view) == [
        ("same", 0, 0),
        ("differs", 1, 1),
        ("differs", 2, 2),
        ("same", 3, 4),
        ("b", 5, 5),
    ]
    assert [part.first for part in view.parts if part.has_met] == [2]
    assert (view.first, view.n_differing) == (1, 2)
    names = [field.name for field in view.parts[1].fields]
    assert names == ["calls", "results", "changes of the state"]


def test_a_failure_differs_from_a_result(corpus: trajrec.Corpus, ids: dict[str, str]) -> None:
    view = compared(corpus, ids["plain"], ids["failed"])
    (result,) = (field for field in view.parts[2].fields if field.name == "results")
    assert "5000 is too much" in result.difference.right
    # The text of the model differs from the first step on.
    assert view.first == 0


def test_both_ways_tell_the_same_differences(corpus: trajrec.Corpus, ids: dict[str, str]) -> None:
    view = compared(corpus, ids["plain"], ids["swapped"])
    back = compared(corpus, ids["swapped"], ids["plain"])
    for part, other in zip(view.parts, back.parts, strict=True):
        assert (part.first, part.last) == (other.first, other.last)
        for field, turned in zip(part.fields, other.fields, strict=True):
            assert field.difference.left == turned.difference.right


@pytest.mark.parametrize("name", ["KeyDoor", "CartPole"])
def test_environments_differ_as_the_command_says(corpus: trajrec.Corpus, name: str) -> None:
    query = "SELECT episode_id FROM all_episodes WHERE contains(env_id, ?) ORDER BY 1"
    a, b = (row[0] for row in corpus.sql(query, params=[name]).fetchall()[:2])
    assert client(corpus).get(f"/diff/{a}/{b}").status_code == 200
    view = compared(corpus, a, b)
    told = {
        difference.field.partition("/")[0]: difference.step
        for difference in first_difference(corpus.episode(a), corpus.episode(b))
    }
    for field in ("action", "observation", "reward"):
        names = {part.first: {item.name for item in part.fields} for part in view.parts}
        # The command leaves out the steps that raised in one of them.
        steps = [step for step, found in names.items() if field in found and "failure" not in found]
        assert min(steps, default=None) == told.get(field)


def test_the_page_opens_the_first_difference(corpus: trajrec.Corpus, ids: dict[str, str]) -> None:
    browser = client(corpus)
    page = browser.get(f"/diff/{ids['plain']}/{ids['swapped']}").text
    assert '<details class="part" id="s1" open>' in page
    assert '<details class="part" id="s2">' in page
    assert "is in B alone" in page
    assert "All 5 steps are the same" in browser.get(f"/diff/{ids['plain']}/{ids['same']}").text
    answer = browser.get(f"/diff/{ids['plain'][:14]}/{ids['same']}")
    assert answer.headers["location"] == f"/diff/{ids['plain']}/{ids['same']}"
    assert browser.get(f"/diff/{ids['plain']}/zz").status_code == 404


def test_an_agent_and_an_environment_are_not_compared(
    corpus: trajrec.Corpus, ids: dict[str, str]
) -> None:
    ((other,), *_) = corpus.sql(
        "SELECT episode_id FROM episodes WHERE env_id LIKE '%Door%'"
    ).fetchall()
    answer = client(corpus).get(f"/diff/{ids['plain']}/{other}")
    assert answer.status_code == 400
    assert "no steps that could be compared" in answer.text


def test_hostile_texts_are_harmless_in_a_difference(
    corpus: trajrec.Corpus, ids: dict[str, str]
) -> None:
    ((hostile,),) = corpus.sql("SELECT episode_id FROM episodes WHERE task LIKE '%<%'").fetchall()
    for other in (ids["plain"], ids["failed"]):
        page = client(corpus).get(f"/diff/{other}/{hostile}").text
        assert_harmless(page)
        assert "&lt;script&gt;" in page
        assert len(page) < 30_000


def client(corpus: trajrec.Corpus) -> TestClient:
    browser = stranger(corpus)
    browser.get(f"/?token={TOKEN}")
    return browser


def test_a_fork_shares_its_parents_steps_before_it(tmp_path: Any) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    env.reset(seed=0)
    for _ in range(4):
        env.step(0)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        parent = next(corpus.episodes())
        with trajrec.replay.fork(parent, at=2) as branch:
            branch.step(0)
            branch.step(1)
        (fork,) = corpus.episodes(kind="fork")
        view = compared(corpus, parent.id, fork.id)
        assert kinds(view) == [("same", -1, -1), ("same", 0, 2), ("differs", 3, 3)]
        assert view.n_shared == 5
        assert view.first == 3


def test_steps_that_are_not_compared_are_counted(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diff_view, "MAX_STEPS", 3)
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    for _ in range(2):
        env.reset(seed=0)
        for _ in range(7):
            env.step(0)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        first, second = (episode.id for episode in corpus.episodes())
        view = compared(corpus, first, second)
    # The reset and two steps of seven.
    assert view.remark.startswith("The last 5 steps are not compared")


def test_calls_are_compared_as_json_without_loss() -> None:
    shown = diff_view._shown([["refund", {"cents": 5, "all": True}]], [["refund", {"cents": 6}]])
    assert shown.before + shown.left + shown.after == '[["refund",{"cents":5,"all":true}]]'
    for a, b in [([1], [True]), ([None], [math.nan]), ([(1,)], [[1]])]:
        shown = diff_view._shown(a, b)
        assert shown.left != shown.right
    assert diff_view._shown([["refund", {}]], []).right == "(nothing)"


def test_a_turn_before_a_fork_is_no_difference(tmp_path: Any) -> None:
    """The fork of a call begins behind the model's turn, which is its parent's."""
    with trajrec.open(ROOT / "sample_trajectories" / "support") as corpus:
        rows = corpus.sql("SELECT parent_id, episode_id FROM forks ORDER BY ALL").fetchall()
        for parent, own in rows:
            views = [EpisodeView(corpus.episode(one), Evidence()) for one in (parent, own)]
            first = views[1].steps[0]
            for part in compare_views(*views).parts:
                assert part.kind != "a" or part.first > first
                names = [field.name for field in part.fields]
                assert part.first != first or not any(name.startswith("model") for name in names)


def test_turns_that_one_log_does_not_have_are_no_difference(tmp_path: Any) -> None:
    shutil.copytree(ROOT / "sample_trajectories" / "support", tmp_path / "support")
    # A control of a what-if experiment makes its parent's calls, and asks no model.
    query = """
    SELECT parent_id, episode_id FROM forks
    WHERE episode_id NOT IN (SELECT episode_id FROM model_calls) ORDER BY 2
    """
    with trajrec.open(tmp_path / "support") as corpus:
        ((parent, control), *_) = corpus.sql(query).fetchall()
        view = compared(corpus, parent, control)
    assert view.n_differing == 0
    assert "B has no model call in its log, so no turn of the model is compared" in view.remark
    assert kinds(view)[-1][0] == "a"


@pytest.mark.slow
def test_steps_that_are_the_same_are_counted_alone(tmp_path: Path) -> None:
    with trajrec.record(gym.make("CartPole-v1"), tmp_path) as env:
        env.reset(seed=0)
        for action in (0, 1, 0, 1):
            env.step(action)
    with trajrec.open(tmp_path) as corpus:
        (root,) = corpus.episodes()
        for _ in range(2):
            with trajrec.replay.fork(root, at=2, folder=tmp_path, control=False) as env:
                env.step(0)
        first, second = (episode.id for episode in corpus.episodes(kind="fork"))
        page = signed_in(corpus).get(f"/diff/{first}/{second}").text
    assert "All 1 steps are the same" in page
