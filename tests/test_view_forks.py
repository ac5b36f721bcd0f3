"""The tree of forks: each branch below its parent, with its outcome; many are counted."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest
from starlette.testclient import TestClient
from test_view import TOKEN, assert_harmless, stranger

import trajrec
from trajrec.replay import fork
from trajrec.view.evidence import read_evidence
from trajrec.view.fork_tree import MAX_AT_STEP, Branch, Bundle, read_fork_tree

N_MANY = MAX_AT_STEP + 1


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trajrec.Corpus]:
    """A root with many forks at step 1, one of which has a fork of its own, and one at steps 0 and 2."""
    folder = tmp_path_factory.mktemp("forks")
    with trajrec.record(gym.make("CartPole-v1"), folder) as env:
        env.reset(seed=3)
        for action in (0, 1, 0, 1):
            env.step(action)
    with trajrec.open(folder) as opened:
        (root,) = opened.episodes()
        branch_off(root, 0, folder, 1)
        # A fork that goes on after its parent's end.
        branch_off(root, 1, folder, 5)
        for _ in range(N_MANY):
            branch_off(root, 1, folder, 1)
        branch_off(root, 2, folder, 1)
        (long,) = opened.episodes("n_steps = 5", kind="fork")
        branch_off(long, 3, folder, 1)
        yield opened


def branch_off(episode: trajrec.Episode, at: int, folder: Path, n_steps: int) -> None:
    with fork(episode, at=at, folder=folder, control=False) as env:
        for k in range(n_steps):
            env.step(k % 2)


def client(corpus: trajrec.Corpus) -> TestClient:
    browser = stranger(corpus)
    browser.get(f"/?token={TOKEN}")
    return browser


def root_of(corpus: trajrec.Corpus) -> str:
    return str(corpus.sql("SELECT episode_id FROM episodes").fetchall()[0][0])


@pytest.mark.slow
def test_each_branch_stands_below_its_parent(corpus: trajrec.Corpus) -> None:
    root = root_of(corpus)
    tree = read_fork_tree(corpus, root)
    rows = [item for item in tree.items if isinstance(item, Branch)]
    assert [(row.depth, row.first, row.end) for row in rows] == [
        (0, 0, 4),
        (1, 0, 1),
        (1, 1, 6),
        (2, 3, 4),
        (1, 2, 3),
    ]
    assert rows[3].parent_id == rows[2].id
    assert [isinstance(item, Bundle) for item in tree.items] == [False, False, True, *[False] * 3]
    assert tree.end == 6
    assert tree.n_branches == tree.n_shown == N_MANY + 4


@pytest.mark.slow
def test_many_forks_at_one_step_are_counted(corpus: trajrec.Corpus) -> None:
    (bundle,) = (
        item for item in read_fork_tree(corpus, root_of(corpus)).items if isinstance(item, Bundle)
    )
    assert (bundle.step, len(bundle.branches)) == (1, N_MANY)
    page = client(corpus).get(f"/e/{root_of(corpus)}/forks").text
    assert f"{N_MANY} forks at step 1" in page


@pytest.mark.slow
def test_every_fork_leads_to_the_same_tree(corpus: trajrec.Corpus) -> None:
    whole = read_fork_tree(corpus, root_of(corpus))
    for (episode_id,) in corpus.sql("SELECT episode_id FROM forks LIMIT 3").fetchall():
        assert read_fork_tree(corpus, episode_id) == whole


def test_the_tree_has_each_fork_once(corpus: trajrec.Corpus) -> None:
    page = client(corpus).get(f"/e/{root_of(corpus)}/forks").text
    found = Counter(re.findall(r'class="id" href="/e/(\w+)">\w{10}</a></td>', page))
    ids = [row[0] for row in corpus.sql("SELECT episode_id FROM all_episodes").fetchall()]
    assert found == Counter(ids)
    assert_harmless(page)
    diffs = re.findall(r'href="(/diff/[^"]+)"', page)
    assert len(diffs) == len(ids) - 1
    assert "differ" in client(corpus).get(diffs[-1]).text


def test_a_fork_without_its_parent_says_so(corpus: trajrec.Corpus, tmp_path: Path) -> None:
    query = "SELECT log, episode_id FROM forks WHERE fork_step = 2"
    ((log, episode_id),) = corpus.sql(query).fetchall()
    shutil.copy(corpus.path / log, tmp_path)
    with trajrec.open(tmp_path) as alone:
        tree = read_fork_tree(alone, episode_id)
        root, branch = (item for item in tree.items if isinstance(item, Branch))
        assert (root.id, root.ending) == (root_of(corpus), "not in the corpus")
        assert (branch.id, branch.depth, branch.first) == (episode_id, 1, 2)
        assert f"{root.id[:10]}, which all of these were forked from, is not" in tree.remark
        page = client(alone).get(f"/e/{episode_id[:12]}/forks")
        assert page.headers["location"] == f"/e/{episode_id}/forks"
        assert "is not in the corpus" in client(alone).get(f"/e/{episode_id}/forks").text


@pytest.mark.slow
def test_a_fork_behind_the_last_step_leads_to_it(tmp_path: Path) -> None:
    with trajrec.record(gym.make("CartPole-v1"), tmp_path) as env:
        env.reset(seed=3)
        for action in (0, 1):
            env.step(action)
    with trajrec.open(tmp_path) as opened:
        (root,) = opened.episodes()
        branch_off(root, 2, tmp_path, 1)
        browser = client(opened)
        answer = browser.get(f"/e/{root.id}/2")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/e/{root.id}/1")
        assert browser.get(f"/e/{root.id}/3").status_code == 404
        page = browser.get(f"/e/{root.id}").text
    assert 'aria-label="forks at 1 steps"' in page


@pytest.mark.slow
def test_the_lane_has_all_steps_with_forks(
    corpus: trajrec.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trajrec.view.evidence.MAX_FORKS", 2)
    evidence = read_evidence(corpus, root_of(corpus))
    assert len(evidence.forks) == 2
    assert evidence.fork_steps == [0, 1, 2]
