"""The views of a corpus are made when a query first names them, and no query misses one."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import pytest

import trajrec
from trajrec.corpus.corpus import Corpus
from trajrec.errors import QueryError


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    with trajrec.record(gym.make("FrozenLake-v1"), tmp_path) as env:
        env.reset(seed=0)
        env.step(0)
    return trajrec.open(tmp_path)


def made(corpus: Corpus) -> set[str]:
    """Return the public views that are there."""
    return {name.removeprefix("main.") for name in corpus._index._views.made if "main." in name}


QUERIES = {
    "SELECT count(*) FROM steps": {"steps"},
    "SELECT count(*) FROM STEPS": {"steps"},
    'SELECT count(*) FROM "steps"': {"steps"},
    "SELECT count(*) FROM main.steps": {"steps"},
    "FROM steps": {"steps"},
    "SELECT 1 FROM forks": {"all_episodes", "forks"},
    "SELECT 1 FROM steps JOIN forks USING (episode_id)": {"all_episodes", "forks", "steps"},
    "SELECT 1 FROM steps NATURAL JOIN checks": {"checks", "steps"},
    "SELECT 1 FROM steps WHERE step = ? AND episode_id IN (SELECT episode_id FROM forks)": {
        "all_episodes",
        "forks",
        "steps",
    },
    "WITH s AS (SELECT step FROM steps WHERE step = ?) FROM s JOIN s t USING (step)": {"steps"},
    "SELECT 1 FROM generate_series(?) JOIN steps ON true": {"steps"},
}


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("first", ["SELECT 1 FROM checks", "SELECT 1 FROM episodes"])
@pytest.mark.parametrize("query", QUERIES)
def test_a_query_makes_no_more_than_it_names(corpus: Corpus, query: str, first: str) -> None:
    index = corpus._index
    index.rows(first)
    before = made(corpus)
    index.rows(query, [0] if "?" in query else None)
    assert made(corpus) == before | QUERIES[query]


def test_reading_episodes_makes_their_table_alone(corpus: Corpus) -> None:
    assert len(list(corpus.episodes())) == 1
    # Both are made when the corpus is opened.
    assert made(corpus) == {"all_episodes", "logs"}


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 FROM attemps",
        "SELECT 1 FROM attemps JOIN steps USING (episode_id)",
        "SELECT 1 FROM steps JOIN attemps USING (episode_id)",
    ],
)
def test_an_unknown_table_is_answered_with_the_nearest(corpus: Corpus, query: str) -> None:
    list(corpus.episodes())
    with pytest.raises(QueryError, match='Did you mean "attempts"'):
        corpus.sql(query, sandbox=True)
