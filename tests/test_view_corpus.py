"""The corpus page of the viewer: facets and histograms select as many episodes as they say."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import gymnasium as gym
import pytest
from test_view import ROOT, TOKEN, assert_harmless, record_hostile, record_shop, stranger

import trajrec
from trajrec.view import facets
from trajrec.view.corpus_query import CorpusQuery
from trajrec.view.corpus_view import read_corpus
from trajrec.view.facets import EPISODES, read_facets, read_histograms
from trajrec.view.served_corpus import ServedCorpus

LONG = "long " * 1_000
STEPS = (1, 2, 50)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trajrec.Corpus]:
    folder = tmp_path_factory.mktemp("facets")
    record_shop(folder)
    record_hostile(folder)
    # The three episodes of this sample have no task.
    shutil.copy(ROOT / "sample_trajectories" / "won-shop.trj", folder)
    for number, task in enumerate(("(none)", "other", LONG)):
        with trajrec.episode(folder, task=task) as ep:
            for _ in range(STEPS[number]):
                ep.model(lambda **_: "go on", messages=[])
            ep.tool(lambda: 1, name="look", access="read")
            ep.call("look")
            if number:
                ep.stop("done")
    trajrec.close_logs()
    with trajrec.open(folder) as opened:
        yield opened


class Paying(gym.Env[int, int]):
    """Each of its episodes is one step with one reward."""

    observation_space = gym.spaces.Discrete(1)
    action_space = gym.spaces.Discrete(1)

    def __init__(self, rewards: tuple[float, ...]) -> None:
        self._rewards = iter(rewards)

    def reset(self, **_: Any) -> tuple[int, dict[str, Any]]:
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        return action, next(self._rewards), True, False, {}


def query_of(address: str) -> CorpusQuery:
    return CorpusQuery.of(parse_qsl(address.partition("?")[2], keep_blank_values=True))


def count(corpus: trajrec.Corpus, address: str) -> int:
    params: dict[str, object] = {}
    where = query_of(address).where(params)
    found = corpus.sql(f"SELECT count(*) FROM {EPISODES} WHERE {where}", params=params or None)
    return int(found.fetchall()[0][0])


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("address", ["/", "/?tool=look", "/?none=error_type&n_steps_max=50"])
def test_each_choice_selects_as_many_episodes_as_it_says(
    corpus: trajrec.Corpus, address: str
) -> None:
    query = query_of(address)
    facets = read_facets(corpus, query)
    assert {facet.name for facet in facets} >= {"task", "ending", "tool"}
    for facet in facets:
        alone = query.without(facet.name)
        for value in facet.values:
            if value.address is not None:
                assert count(corpus, alone.toggled(facet.name, value.text)) == value.n


def test_each_bar_selects_as_many_episodes_as_it_says(corpus: trajrec.Corpus) -> None:
    found = {item.name: item for item in read_histograms(corpus, CorpusQuery())}
    assert sum(bar.n for bar in found["n_steps"].bars) == count(corpus, "/")
    assert (found["n_steps"].low, found["n_steps"].high) == (1.0, 50.0)
    for item in found.values():
        for bar in item.bars:
            assert count(corpus, bar.address) == bar.n


def test_values_of_one_facet_add_and_facets_narrow(corpus: trajrec.Corpus) -> None:
    one = count(corpus, "/?task=refund-17")
    assert one == 1
    assert count(corpus, "/?task=refund-17&task=(none)") == 2
    assert count(corpus, "/?task=refund-17&task=(none)&tool=look") == 1
    assert count(corpus, "/?tool=look&tool=get_order") == 4
    assert count(corpus, "/?none=task&task=(none)") == 4


def test_no_value_is_not_the_value_none(corpus: trajrec.Corpus) -> None:
    (facet,) = (item for item in read_facets(corpus, CorpusQuery()) if item.name == "task")
    numbers = {value.text: (value.n, value.address) for value in facet.values}
    assert numbers[None] == (3, "/?none=task")
    assert numbers["(none)"] == (1, "/?task=%28none%29")
    assert count(corpus, "/?none=task") == 3
    # A form with an empty field sends it too; a task may have an empty name.
    assert count(corpus, "/?task=") == 0
    assert count(corpus, "/?q=&n_steps_min=") == count(corpus, "/")


def test_a_limit_that_is_no_number_is_named(corpus: trajrec.Corpus) -> None:
    browser = stranger(corpus)
    browser.get(f"/?token={TOKEN}")
    for text in ("abc", "nan", "inf"):
        page = browser.get(f"/?n_steps_min={text}").text
        assert f"n_steps_min must be a number, got &#39;{text}&#39;: it limits nothing" in page
        assert f"<b>{count(corpus, '/')}</b> episode" in page
    assert count(corpus, "/?n_steps_min=50") == 1


def test_a_selected_value_without_episodes_can_be_left(corpus: trajrec.Corpus) -> None:
    view = read_corpus(corpus, [("task", "nothing"), ("outcome", "success"), ("q", "zzz")])
    assert view.n_episodes == 0
    selected = [value for facet in view.facets for value in facet.values if value.is_selected]
    assert [value.text for value in selected] == ["success", "nothing"]
    assert "task=nothing" not in str(selected[1].address)
    assert [name for name, _, _ in view.query.filters] == ["outcome", "task", "q"]


def test_the_success_rate_is_of_the_judged(corpus: trajrec.Corpus) -> None:
    view = read_corpus(corpus, [])
    assert view.success is not None
    judged = corpus.sql(
        "SELECT count(outcome), count(*) FILTER (outcome = 'success') FROM episodes"
    )
    n, n_won = judged.fetchall()[0]
    assert view.success.value == n_won / n
    assert n < view.n_episodes


def test_hostile_texts_are_harmless_as_choices(corpus: trajrec.Corpus) -> None:
    browser = stranger(corpus)
    browser.get(f"/?token={TOKEN}")
    for address in ("/", "/?all=task&sort=task", "/?task=%3Cb%3E%22&q=%3Cb%3E&n_steps_min=%3Cb%3E"):
        page = browser.get(address).text
        assert_harmless(page)
        assert len(page) < 60_000
    # The choice of the hostile text leads to its episode.
    (link,) = re.findall(r'href="(/\?task=%3Cscript[^"]*)"', browser.get("/").text)
    assert "<b>1</b> episode " in browser.get(link.replace("&amp;", "&")).text


def test_a_value_too_long_for_an_address_is_no_link(corpus: trajrec.Corpus) -> None:
    (facet,) = (item for item in read_facets(corpus, CorpusQuery()) if item.name == "task")
    (long,) = (value for value in facet.values if value.text == LONG)
    assert long.address is None
    assert long.n == 1


@pytest.mark.parametrize(
    "address",
    [
        "/",
        "/?forks=1&sort=n_steps&dir=desc",
        "/?task=(none)&task=other&none=task&n_steps_max=50",
        "/?none=replay&none=error_type&tool=look&q=it's",
        "/?replay=exact&q='; DROP VIEW failures",
    ],
)
def test_view_as_sql_selects_the_same_episodes(corpus: trajrec.Corpus, address: str) -> None:
    view = read_corpus(corpus, query_of(address).items)
    ((_, query),) = parse_qsl(view.sql_address.partition("?")[2])
    rows = corpus.sql(query, sandbox=True).fetchall()
    assert [row[0] for row in rows] == [row.id for row in view.rows]


def test_few_whole_numbers_have_a_bar_each(corpus: trajrec.Corpus) -> None:
    histograms = {item.name: item for item in read_histograms(corpus, query_of("/?n_steps_max=4"))}
    failures = histograms["n_failures"]
    assert failures.n_bars == failures.high - failures.low + 1 < 30
    assert {bar.left for bar in failures.bars} == {bar.low - failures.low for bar in failures.bars}
    assert histograms["n_steps"].n_bars == 30


def pairs(corpus: trajrec.Corpus, table: str, column: str) -> list[tuple[Any, ...]]:
    """Return each value of a facet with its rollouts, counted from the table that has its rows."""
    return corpus.sql(
        f"SELECT {column}, count(*), count(*) FILTER (outcome = 'success'), "
        f"count(*) FILTER (outcome = 'failure') FROM episodes LEFT JOIN "
        f"(SELECT DISTINCT episode_id, {column} FROM {table}) USING (episode_id) "
        "GROUP BY 1 ORDER BY 2 DESC, 1 NULLS LAST"
    ).fetchall()


def test_tools_and_errors_are_those_of_the_rows(corpus: trajrec.Corpus) -> None:
    counted = {
        facet.name: [(value.text, value.n, value.n_won, value.n_failed) for value in facet.values]
        for facet in read_facets(corpus, query_of("/"))
    }
    for name, table in (("tool", "attempts"), ("error_type", "failures")):
        assert counted[name] == pairs(corpus, table, name)[: facets.MAX_VALUES]


def test_odd_names_are_facets_that_select_their_episodes(tmp_path: Path) -> None:
    names = ["a", 'a"', ",", '","', "a\\", "\u2028é", "a\0b", "\ud800", "[]", ""]

    def refuse() -> None:
        raise LookupError("no")

    for number, name in enumerate(names):
        with trajrec.episode(tmp_path, task=f"t{number}") as ep:
            ep.tool(refuse, name=name or "a,b", access="read")
            with contextlib.suppress(LookupError):
                ep.call(name or "a,b")
    trajrec.close_logs()
    with trajrec.open(tmp_path) as opened:
        counted = {
            (facet.name, value.text): (value.n, value.address)
            for facet in read_facets(opened, query_of("/?all=tool"))
            for value in facet.values
        }
        of_tools = {text: found for (name, text), found in counted.items() if name == "tool"}
        assert len(of_tools) == len(names)
        for n, address in of_tools.values():
            assert n == count(opened, address or "") == 1
        assert counted["error_type", "builtins.LookupError"][0] == len(names)


def test_a_histogram_holds_the_widest_numbers(tmp_path: Path) -> None:
    env = trajrec.record(Paying((-1.7e308, 1.7e308, float("inf"), 0.0)), tmp_path)
    for _ in range(4):
        env.reset()
        env.step(0)
    env.close()
    with trajrec.open(tmp_path) as opened:
        found = {item.name: item for item in read_histograms(opened, query_of("/"))}
    rewards = found["total_reward"]
    assert [(bar.low, bar.n) for bar in rewards.bars] == [(-1.7e308, 1), (0.0, 1), (1.7e308, 1)]
    assert [bar.left for bar in rewards.bars] == [0, 15, 29]


def test_each_whole_number_has_its_own_bar(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("MountainCar-v0"), tmp_path)
    # A quotient of 15 of 22 times 22 is less than 15.
    for n_steps in (1, 15, 16, 22):
        env.reset()
        for _ in range(n_steps):
            env.step(0)
    env.close()
    with trajrec.open(tmp_path) as opened:
        found = {item.name: item for item in read_histograms(opened, query_of("/"))}
    assert [(bar.left, bar.low) for bar in found["n_steps"].bars] == [
        (0, 1),
        (14, 15),
        (15, 16),
        (21, 22),
    ]


def test_the_table_of_an_unchanged_corpus_is_kept(corpus: trajrec.Corpus) -> None:
    served = ServedCorpus(corpus)
    first = served.table([("outcome", "failure")])
    assert served.table([("outcome", "failure")]) is first
    assert served.table([]) is not first


def test_no_success_rate_is_of_chosen_results(corpus: trajrec.Corpus) -> None:
    usual = read_corpus(corpus, [])
    for chosen in (("outcome", "success"), ("total_reward_min", "1")):
        assert read_corpus(corpus, [chosen]).success is None
    assert read_corpus(corpus, [("total_reward_min", "abc")]).success == usual.success


def test_no_success_rate_counts_forks_and_nested_episodes(tmp_path: Path) -> None:
    @trajrec.verifier(id="won", version="1")
    def won(state: Any) -> bool:
        return bool(state["won"])

    outer = trajrec.episode(tmp_path, watch={"won": False}, checks=[won])
    inner = trajrec.episode(tmp_path, watch={"won": True}, checks=[won])
    with outer, inner:
        pass
    trajrec.close_logs()
    with trajrec.open(tmp_path) as opened:
        with_nested = read_corpus(opened, [("forks", "1")])
        assert (with_nested.n_succeeded, with_nested.n_failed) == (1, 1)
        assert with_nested.success is not None
        assert with_nested.success.value == 0.0


@pytest.mark.slow
def test_probes_are_shown_on_demand_and_named(tmp_path: Path) -> None:
    for probe in (None, "gold", "gold"):
        metadata = {} if probe is None else {"probe": probe}
        with trajrec.episode(tmp_path, metadata=metadata) as ep:
            ep.tool(lambda: 1, name="look", access="read")
            ep.call("look")
    trajrec.close_logs()
    with trajrec.open(tmp_path) as opened:
        browser = stranger(opened)
        browser.get(f"/?token={TOKEN}")
        page = browser.get("/").text
        assert "<b>1</b> episode " in page
        assert "show 2 probes of the checks" in page
        assert "(gold probe)" not in page
        page = browser.get("/?probes=1").text
        assert "<b>3</b> episodes" in page
        assert "hide 2 probes of the checks" in page
        assert page.count("(gold probe)") == 2
