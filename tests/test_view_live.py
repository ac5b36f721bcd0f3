"""What is being recorded is shown while it grows, and never as running when nobody writes it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import find_chromium, opened
from starlette.testclient import TestClient
from test_view import HOSTILE, assert_harmless, signed_in
from tiers import third_slow

import trajrec
from trajrec.corpus.corpus import Corpus

KILLED = """
import os, sys, trajrec
episode = trajrec.episode(sys.argv[1], task="killed", watch={}).__enter__()
episode.tool(lambda text: text, name="upper")
episode.call("upper", text="a")
os._exit(1)
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[trajrec.Corpus]:
    (tmp_path / "runs").mkdir()
    with Corpus(tmp_path / "runs") as opened:
        yield opened


@contextlib.contextmanager
def recording(corpus: trajrec.Corpus, *, goal: str = "") -> Iterator[Any]:
    """Begin an episode of an agent with a tool that may fail."""
    with trajrec.episode(corpus.path, task="live", goal=goal, watch={}) as episode:

        def look(text: str) -> str:
            if text == "fail":
                raise ValueError(HOSTILE)
            return text

        episode.tool(look, name="look")
        yield episode
    trajrec.close_logs()


def id_of(corpus: trajrec.Corpus) -> str:
    ((episode_id,),) = corpus.sql(
        "SELECT episode_id FROM all_episodes WHERE task <> 'earlier'"
    ).fetchall()
    return str(episode_id)


def news(client: TestClient, episode: str, version: str, last: int, **more: int) -> Any:
    params: dict[str, Any] = {"version": version, "first": 0, "last": last, "tail": 1, **more}
    answer = client.get(f"/e/{episode}/live", params=params)
    return answer.json() if answer.status_code == 200 else answer.status_code


def test_a_page_that_shows_all_gets_nothing(corpus: trajrec.Corpus) -> None:
    client = signed_in(corpus)
    with recording(corpus) as episode:
        episode.call("look", text="a")
        first = news(client, id_of(corpus), "", -1)
        assert first["isLive"]
        assert [step for step, _ in first["rows"]] == [0]
        assert news(client, id_of(corpus), first["version"], 0) == 204


def test_new_steps_come_without_the_old_ones(corpus: trajrec.Corpus) -> None:
    client = signed_in(corpus)
    with recording(corpus, goal=HOSTILE) as episode:
        for text in "abc":
            episode.call("look", text=text)
        first = news(client, id_of(corpus), "", -1)
        with contextlib.suppress(ValueError):
            episode.call("look", text="fail")
        second = news(client, id_of(corpus), first["version"], 2)
        # The newest step that the page has may have been under way.
        assert [step for step, _ in second["rows"]] == [2, 3]
        assert (second["count"], second["failed"], second["last"]) == (4, [3], 3)
        for name in ("live", "facts", "timeline", "legend"):
            assert_harmless(second[name])
        assert_harmless(second["rows"][1][1])


def test_an_old_row_that_changes_comes_again(corpus: trajrec.Corpus) -> None:
    client = signed_in(corpus)
    with recording(corpus) as episode:
        with contextlib.suppress(ValueError):
            episode.call("look", text="fail")
        episode.call("look", text="b")
        episode.call("look", text="fail2")
        version = news(client, id_of(corpus), "", -1)["version"]
        episode.check(trajrec.verifier(id="done", version="1")(lambda _: True))
        rows = news(client, id_of(corpus), version, 2)["rows"]
        assert [step for step, _ in rows] == [2]


def test_an_ended_episode_is_asked_for_no_more(corpus: trajrec.Corpus) -> None:
    client = signed_in(corpus)
    with recording(corpus) as episode:
        episode.call("look", text="a")
        page = client.get(f"/e/{id_of(corpus)}").text
        assert "data-version" in page
        assert "a process still writes this episode" in page
        version = news(client, id_of(corpus), "", -1)["version"]
    last = news(client, id_of(corpus), version, 0)
    assert not last["isLive"]
    assert "the recording has ended" in last["live"]
    page = client.get(f"/e/{id_of(corpus)}").text
    assert "data-version" not in page
    assert 'id="live"' not in page


@pytest.mark.slow
def test_a_killed_recorder_is_shown_as_interrupted(corpus: trajrec.Corpus) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(corpus.path)], check=False)
    client = signed_in(corpus)
    page = client.get(f"/e/{id_of(corpus)}").text
    assert "the process that wrote it is gone" in page
    assert "data-version" not in page
    assert "newest record" in page
    assert " UTC" in page
    assert not news(client, id_of(corpus), "", -1)["isLive"]


# Rows that go from the journal to the log are read again, and the table comes again.
@pytest.mark.usefixtures("no_flusher")
def test_the_table_comes_again_only_when_it_changes(corpus: trajrec.Corpus) -> None:
    client = signed_in(corpus)
    with recording(corpus) as episode:
        episode.call("look", text="a")
        table = client.get("/table").json()
        assert table["isLive"]
        assert ">running<" in table["episodes"]
        params = {"version": table["version"]}
        assert client.get("/table", params=params).status_code == 204
        episode.call("look", text="b")
        assert client.get("/table", params=params).json()["version"] != table["version"]
    table = client.get("/table").json()
    assert not table["isLive"]
    assert ">running<" not in table["episodes"]
    assert_harmless(table["episodes"] + table["facets"])


def test_a_live_address_with_no_number_is_refused(corpus: trajrec.Corpus) -> None:
    client = signed_in(corpus)
    with recording(corpus) as episode:
        episode.call("look", text="a")
        answer = client.get(f"/e/{id_of(corpus)}/live", params={"first": "x"})
        assert answer.status_code == 400


@pytest.mark.slow
@third_slow("pages")
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")
def test_a_browser_sees_steps_while_they_are_recorded(corpus: trajrec.Corpus) -> None:
    # `trajrec view` refuses a folder without logs.
    with trajrec.episode(corpus.path, task="earlier", watch={}):
        pass
    with opened(Path(corpus.path)) as (base, page):
        with recording(corpus) as episode:
            for text in range(60):
                episode.call("look", text=str(text))
            page.wait_until("document.querySelector('tbody')?.innerText.includes('running')")
            page.goto(f"{base}/e/{id_of(corpus)}/20")
            page.evaluate("document.getElementById('steps').scrollTop = 330")
            top = page.evaluate("document.getElementById('steps').scrollTop")
            episode.call("look", text="60")
            page.wait_until("document.getElementById('s60') !== null")
            assert page.evaluate("document.getElementById('steps').scrollTop") == top
            assert page.evaluate("document.querySelector('#pane h2').textContent") == "Step 20"
            page.press("f")
            page.wait_until("location.pathname.endsWith('/60')")
            episode.call("look", text="61")
            page.wait_until("document.querySelector('#pane h2').textContent === 'Step 61'")
            page.press("k")
            episode.call("look", text="62")
            page.wait_until("document.getElementById('s62') !== null")
            assert page.evaluate("location.pathname").endswith("/60")
        page.wait_until("document.getElementById('live').innerText.includes('has ended')")
        n_asked = len(page.requests)
        page.evaluate("new Promise((done) => setTimeout(done, 1500))")
        assert len(page.requests) == n_asked
        assert page.errors == []
