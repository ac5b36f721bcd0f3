"""The page of two runs says what `Corpus.compare` says, and runs no condition outside a sandbox."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from counter_runs import interface, record_run
from starlette.testclient import TestClient
from test_view import HOSTILE, assert_harmless, signed_in

import trajrec
from trajrec.corpus.sandbox import Sandbox
from trajrec.view import compare_view, served_corpus
from trajrec.view.compare_view import read_comparison

RUNS = {"it's base": "A", "prompt": "B", HOSTILE[:60]: "B"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trajrec.Corpus]:
    """Three runs of four tasks, twice each; only the prompt differs."""
    folder = tmp_path_factory.mktemp("compare")

    @trajrec.verifier(id="done", version="1")
    def done(state: dict[str, bool]) -> bool:
        return state["done"]

    for run, prompt in RUNS.items():
        for task in range(4):
            for rollout in range(2):
                state = {"done": prompt == "B" and task + rollout > 0}
                with trajrec.episode(
                    folder,
                    task=f"task <{task}>",
                    watch=state,
                    checks=[done],
                    interface=interface(scaffold={"prompt": prompt, "tools": 1}),
                    metadata={"run": run},
                ) as ep:
                    ep.model(lambda **_: "done", messages=[])
    trajrec.close_logs()
    with trajrec.open(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser(corpus: trajrec.Corpus) -> TestClient:
    return signed_in(corpus)


def of_run(name: str) -> str:
    return "metadata->>'$.run' = '" + name.replace("'", "''") + "'"


@pytest.mark.slow
def test_the_page_has_the_numbers_of_the_comparison(
    corpus: trajrec.Corpus, browser: TestClient
) -> None:
    given = {"a": of_run("it's base"), "b": of_run("prompt")}
    comparison = corpus.compare(**given)
    assert comparison.claim == "attributable"
    assert comparison.difference is not None
    page = html.unescape(browser.get("/compare", params=given).text)
    assert f"A = {comparison.difference.signed}" in page
    assert comparison.statement() in page
    assert 'scaffold.prompt "A" -> "B"' in page
    for task in comparison.tasks:
        assert task.task in page
        assert task.difference.signed in page
    # Each task and the mean have a picture with their numbers in words.
    assert len(re.findall(r'<svg role="img" aria-label="\+', page)) == len(comparison.tasks) + 1


def test_the_proposed_runs_lead_to_a_comparison(
    corpus: trajrec.Corpus, browser: TestClient
) -> None:
    runs = {run.name: run for run in read_comparison(corpus, a="", b="", check="").runs}
    assert runs["prompt"].n == 8
    as_b = read_comparison(corpus, a=runs["it's base"].condition, b="", check="").runs
    (address,) = (run.as_b for run in as_b if run.name == "prompt")
    assert ">mean over 4 tasks</th>" in browser.get(address).text


def test_runs_selected_by_outcomes_are_refused_in_words(browser: TestClient) -> None:
    page = browser.get("/compare", params={"a": "outcome = 'success'", "b": "true"}).text
    assert "no difference can be given" in page
    assert "the runs are selected by outcomes (outcome)" in page


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    "condition",
    [
        "read_text('/etc/hostname') = 'x'",
        "true); DROP VIEW failures; SELECT (true",
        "<script>alert(1)</script>",
        "true" + " " * 3_000 + "OR true",
    ],
)
def test_a_wrong_condition_is_an_error_on_the_page(
    corpus: trajrec.Corpus, browser: TestClient, condition: str
) -> None:
    answer = browser.get("/compare", params={"a": condition, "b": of_run("prompt")})
    assert answer.status_code == 400
    assert "Nothing was compared" in answer.text
    assert_harmless(answer.text)
    assert corpus.sql("SELECT count(*) FROM failures").fetchall() == [(0,)]


def test_hostile_runs_and_conditions_are_harmless(browser: TestClient) -> None:
    for params in (
        {},
        {"a": of_run("it's base"), "b": of_run(HOSTILE[:60])},
        {"a": f"run = '{HOSTILE[:40]}'", "b": '"><script>', "check": "<b>\u202e"},
    ):
        page = browser.get("/compare", params=params).text
        assert_harmless(page)
        assert "&lt;script&gt;" in page
        assert len(page) < 40_000


def test_a_condition_that_takes_too_long_is_stopped(
    corpus: trajrec.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_corpus, "SANDBOX", Sandbox(seconds=0.2, memory="1 GiB"))
    tables = ", ".join(f"all_episodes e{k}" for k in range(9))
    given = {"a": f"1 <= (SELECT count(*) FROM {tables})", "b": of_run("prompt")}
    answer = signed_in(corpus).get("/compare", params=given)
    assert answer.status_code == 400
    assert "the query took longer than 0.2 s and was stopped" in answer.text


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Two runs that share one task, and have one of their own each."""
    folder = tmp_path_factory.mktemp("few")
    for run in ("a", "b"):
        record_run(folder, run, {"shared": [True, False], f"of {run}": [True]})
    with trajrec.open(folder) as opened:
        yield signed_in(opened)


def test_one_shared_task_is_shown_and_no_mean(few: TestClient) -> None:
    page = few.get("/compare", params={"a": of_run("a"), "b": of_run("b")}).text
    assert "1 task with graded rollouts in both runs (at least 3 are needed)" in page
    assert "are not shown" not in page
    assert 'class="mean"' not in page


def test_tasks_of_one_run_alone_are_named(few: TestClient) -> None:
    page = few.get("/compare", params={"a": of_run("a"), "b": of_run("b")}).text
    assert (
        "2 tasks have no graded rollouts in one of the runs, and are left out: of a, of b" in page
    )


def test_the_mean_alone_is_bold(browser: TestClient) -> None:
    page = browser.get("/compare", params={"a": of_run("it's base"), "b": of_run("prompt")}).text
    assert page.count('<tr class="mean">') == 1


def test_an_unknown_part_says_that_nobody_recorded_it(tmp_path: Path) -> None:
    for run in ("a", "b"):
        record_run(tmp_path, run, {"t": [True]}, of=trajrec.interface(base={"model": "m"}))
    with trajrec.open(tmp_path) as opened:
        page = signed_in(opened).get("/compare", params={"a": of_run("a"), "b": of_run("b")}).text
    assert "nobody recorded it" in page


def test_a_proposed_run_selects_the_episodes_that_it_counts(tmp_path: Path) -> None:
    given = interface(scaffold={"prompt": "A"})
    for metadata in ({}, {}, {"run": "named"}):
        with trajrec.episode(tmp_path, interface=given, metadata=metadata):
            pass
    trajrec.close_logs()
    with trajrec.open(tmp_path) as opened:
        runs = read_comparison(opened, a="", b="", check="").runs
        for run in runs:
            assert len(list(opened.episodes(run.condition))) == run.n
    assert [run.n for run in runs] == [1, 2]


def test_runs_that_are_not_listed_are_counted(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "more runs are not listed" not in browser.get("/compare").text
    shorter = compare_view._RUNS.replace(f"LIMIT {compare_view.MAX_RUNS}", "LIMIT 2")
    monkeypatch.setattr(compare_view, "_RUNS", shorter)
    assert "1 more runs are not listed" in browser.get("/compare").text
