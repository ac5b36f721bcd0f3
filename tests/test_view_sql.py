"""The SQL box answers queries of the tables, and refuses all else."""

from __future__ import annotations

import csv
import html
import io
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from test_view import assert_harmless, record_hostile, record_shop, signed_in

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.sandbox import Sandbox
from trajrec.view import served_corpus
from trajrec.view.sql_view import SANDBOX


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trajrec.Corpus]:
    folder = tmp_path_factory.mktemp("sql")
    record_shop(folder)
    record_hostile(folder)
    trajrec.close_logs()
    with trajrec.open(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser(corpus: trajrec.Corpus) -> TestClient:
    return signed_in(corpus)


QUERY = "SELECT episode_id, step, tool, outcome FROM attempts ORDER BY 1, 2, call, attempt"


def test_all_forms_have_the_rows_of_the_query(corpus: trajrec.Corpus, browser: TestClient) -> None:
    rows = corpus.sql(QUERY).fetchall()
    page = browser.get("/sql", params={"q": QUERY}).text
    assert f"<b>{len(rows)}</b> rows" in page
    for episode_id, step, _, _ in rows:
        assert f'href="/e/{episode_id}/{step}"' in page
    told = browser.get("/sql", params={"q": QUERY, "format": "json"}).json()
    assert [tuple(record.values()) for record in told] == rows
    text = browser.get("/sql", params={"q": QUERY, "format": "csv"}).text
    assert len(list(csv.reader(io.StringIO(text)))) == len(rows) + 1


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY episodes TO '{folder}/out.csv'",
        "ATTACH '{folder}/other.db'",
        "INSTALL httpfs",
        "SET memory_limit = '90%'",
        "SELECT getenv('HOME')",
        "DROP VIEW failures",
        "DELETE FROM all_episodes",
        "CREATE TABLE t AS SELECT 1",
        "CREATE TEMP TABLE t AS SELECT 1",
        "SELECT 1; SELECT 2",
        "EXPORT DATABASE '{folder}/out'",
        "SELECT * FROM corpus",
        "PRAGMA database_list",
    ],
)
def test_queries_of_anything_else_are_refused(
    corpus: trajrec.Corpus, browser: TestClient, tmp_path: Path, query: str
) -> None:
    answer = browser.get("/sql", params={"q": query.format(folder=tmp_path)})
    assert answer.status_code == 400
    assert 'class="note failed"' in answer.text
    assert list(tmp_path.iterdir()) == []
    assert corpus.sql("SELECT count(*) FROM failures").fetchall() != [(0,)]


@pytest.mark.slow
def test_rows_beyond_the_page_are_announced(browser: TestClient) -> None:
    page = browser.get("/sql", params={"q": "SELECT range AS n FROM range(1001)"}).text
    assert "<b>1,000</b> rows, <b>and there are more</b>" in page
    answer = browser.get("/sql", params={"q": "SELECT * FROM range(100001)", "format": "csv"})
    assert answer.status_code == 400
    assert "more than 100,000 rows" in answer.text
    large = "SELECT repeat('x', 6000000) AS x FROM range(12)"
    assert "and there are more" in browser.get("/sql", params={"q": large}).text
    answer = browser.get("/sql", params={"q": large, "format": "json"})
    assert "more than 50,000,000 characters" in answer.text


@pytest.mark.slow
def test_hostile_rows_and_queries_are_harmless(browser: TestClient) -> None:
    for query in (
        "SELECT * FROM attempts",
        "SELECT '<script>alert(1)</script>' AS \"<img src=x onerror=alert(1)>\"",
        "</textarea><script>alert(1)</script>",
        "SELECT repeat('<b>', 100000) AS x FROM range(900)",
        'SELECT chr(8238) || chr(27) AS "\u202e"',
    ):
        page = browser.get("/sql", params={"q": query}).text
        assert_harmless(page)
        assert len(page) < 2_000_000
    assert browser.get("/sql", params={"q": "x" * 30_000}).status_code == 400


def test_a_file_of_rows_is_never_shown_as_a_page(browser: TestClient) -> None:
    query = "SELECT '<script>alert(1)</script>' AS x, NULL AS y, 'nan'::DOUBLE AS z"
    for name in ("csv", "json"):
        answer = browser.get("/sql", params={"q": query, "format": name})
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json()[0]["y"] is None


def test_no_text_of_a_csv_file_is_a_formula(browser: TestClient) -> None:
    query = "SELECT '=1+1' AS \"@x\", 'a=b' AS y, -1 AS z"
    text = browser.get("/sql", params={"q": query, "format": "csv"}).text
    assert list(csv.reader(io.StringIO(text))) == [["'@x", "y", "z"], ["'=1+1", "a=b", "-1"]]


ENDLESS = "WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r) SELECT max(x) FROM r"


def test_a_query_that_takes_too_long_is_stopped(
    corpus: trajrec.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Sandbox(seconds=10, memory="1 GiB") == SANDBOX
    monkeypatch.setattr(served_corpus, "SANDBOX", Sandbox(seconds=0.2, memory="1 GiB"))
    impatient = signed_in(corpus)
    assert "is stopped after 10 s" in impatient.get("/sql").text
    for name in ("", "csv", "json"):
        answer = impatient.get("/sql", params={"q": ENDLESS, "format": name})
        assert answer.status_code == 400
        assert "took longer than 0.2 s and was stopped" in answer.text


def test_a_query_that_needs_too_much_memory_is_refused(browser: TestClient) -> None:
    answer = browser.get("/sql", params={"q": "SELECT list(range) FROM range(200_000_000)"})
    assert answer.status_code == 400
    assert "needs more memory than 1 GiB" in answer.text


def test_the_command_on_the_page_gives_the_same_rows(
    browser: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "SELECT count(*) AS n FROM attempts WHERE tool <> 'it''s'"
    page = browser.get("/sql", params={"q": query}).text
    text = html.unescape(page.partition("<code>trajrec sql ")[2].partition("</code>")[0])
    assert main(["sql", *shlex.split(text), "--json"]) == 0
    told = browser.get("/sql", params={"q": query, "format": "json"}).json()
    assert capsys.readouterr().out.strip().replace(" ", "") == f'{{"n":{told[0]["n"]}}}'
