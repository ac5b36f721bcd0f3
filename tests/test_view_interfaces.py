"""The pages of interfaces name each part, and each part that is unknown."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from counter_runs import interface
from starlette.testclient import TestClient
from test_view import HOSTILE, assert_harmless, signed_in

import trajrec
from trajrec.run_interface import missing
from trajrec.view.interface_view import read_interface, read_interfaces, read_pair

PART = {"model": "m-2", "revision": missing("not_captured")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trajrec.Corpus]:
    """Two interfaces, of which the second is hostile and unknown in part, and none."""
    folder = tmp_path_factory.mktemp("interfaces")

    @trajrec.verifier(id="done", version="1")
    def done(state: dict[str, bool]) -> bool:
        return state["done"]

    second = trajrec.interface(base=PART, scaffold={HOSTILE: HOSTILE}, lineage=missing("redacted"))
    for given, n_won in ((interface(), 2), (second, 1), (None, 0)):
        for rollout in range(3):
            with trajrec.episode(
                folder,
                task=f"task {rollout % 2}",
                watch={"done": rollout < n_won},
                checks=[done],
                interface=given,
            ):
                pass
    trajrec.close_logs()
    with trajrec.open(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(corpus: trajrec.Corpus) -> TestClient:
    return signed_in(corpus)


def ids(corpus: trajrec.Corpus) -> tuple[str, str]:
    """Return the digests of the known and the hostile interface."""
    rows = [row for row in read_interfaces(corpus) if row.id != "none"]
    known, hostile = sorted(rows, key=lambda row: len(row.unknown))
    return known.id, hostile.id


def test_each_interface_is_listed_with_its_unknown_parts(corpus: trajrec.Corpus) -> None:
    rows = {row.id: row for row in read_interfaces(corpus)}
    known, hostile = ids(corpus)
    assert rows[known].unknown == []
    assert "base" in rows[hostile].unknown
    assert "scaffold" not in rows[hostile].unknown
    assert len(rows["none"].unknown) == 9
    assert (rows[known].n, rows[known].n_won, rows[known].n_failed) == (3, 2, 1)


def test_each_success_rate_names_its_assumption(corpus: trajrec.Corpus, client: TestClient) -> None:
    first, second = ids(corpus)
    for address in ("/interfaces", f"/i/{first}", f"/i/{first}/vs/{second}"):
        page = client.get(address).text
        assert "95 % interval" in page
        assert "episodes taken as independent" in page


def test_parts_name_what_is_unknown_and_why(corpus: trajrec.Corpus) -> None:
    parts = {part.name: part for part in read_interface(corpus, ids(corpus)[1]).parts}
    assert parts["base"].state == "partial"
    values = {item.path: item.text.text for item in parts["base"].values}
    assert values == {"model": "m-2", "revision": "unknown: it was not captured"}
    assert parts["lineage"].values[0].text.text == "unknown: it was redacted"
    assert parts["budget"].values[0].text.text == "unknown: nobody gave it"
    known = {part.name: part for part in read_interface(corpus, ids(corpus)[0]).parts}
    assert known["optimizer"].state == "not applicable"


def test_tasks_are_counted_by_how_often_they_succeeded(corpus: trajrec.Corpus) -> None:
    # Task 0 has a success and a failure, task 1 a success alone.
    assert read_interface(corpus, ids(corpus)[0]).tasks == (2, 1, 0)


def test_unknown_parts_of_two_interfaces_are_not_equal(corpus: trajrec.Corpus) -> None:
    _, hostile = ids(corpus)
    pair = read_pair(corpus, hostile, hostile)
    status = {name: factor.status for name, _, factor in pair.factors}
    assert status["budget"] == "unknown"
    assert status["scaffold"] == "same"


def test_pages_of_interfaces_are_harmless(corpus: trajrec.Corpus, client: TestClient) -> None:
    known, hostile = ids(corpus)
    for path in (
        "/interfaces", f"/i/{hostile}", "/i/none", f"/i/{known}/vs/{hostile}", f"/i/{known[:16]}",
    ):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert_harmless(answer.text)
    assert "all of it is unknown" in client.get("/i/none").text


def test_an_unknown_interface_is_refused(client: TestClient) -> None:
    for given in ("abc", HOSTILE[:40]):
        answer = client.get(f"/i/{quote(given, safe='')}")
        assert answer.status_code == 404
        assert_harmless(answer.text)


def test_an_episode_leads_to_its_interface(corpus: trajrec.Corpus, client: TestClient) -> None:
    query = "SELECT episode_id FROM episodes WHERE interface_id = ?"
    ((episode, *_), *_) = corpus.sql(query, params=[ids(corpus)[0]]).fetchall()
    assert f'href="/i/{ids(corpus)[0]}"' in client.get(f"/e/{episode}").text
