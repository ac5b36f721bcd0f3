"""The page of failures: which tool fails most, of what, and where to look."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from starlette.testclient import TestClient
from test_view import TOKEN, assert_harmless, record_hostile, record_shop, signed_in, stranger

import trajrec
from trajrec.envs import Shop
from trajrec.view.failures import read_failures


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trajrec.Corpus]:
    """Refunds that fail with other amounts, an order that is found at once when asked again."""
    folder = tmp_path_factory.mktemp("failures")
    record_shop(folder)
    record_hostile(folder)
    state = {"n": 0}

    def look(**_: Any) -> int:
        state["n"] += 1
        if state["n"] % 2:
            raise TimeoutError(f"no answer after {state['n']} ms")
        return 1

    for cents in (10**7, 10**8):
        with trajrec.episode(folder, task="again", world=Shop(seed=1), options={"task": 0}) as ep:
            ep.tool(look, name="look", access="read")
            for arguments in ({"a": 1}, {"a": 1}):
                ep.model(lambda **_: "go on", messages=[])
                with contextlib.suppress(TimeoutError):
                    ep.call("look", **arguments)
            ep.model(lambda **_: "go on", messages=[])
            with contextlib.suppress(Exception):
                ep.call("refund_order", order="O1001", cents=cents)
    trajrec.close_logs()
    with trajrec.open(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser(corpus: trajrec.Corpus) -> TestClient:
    return signed_in(corpus)


def test_the_counts_are_those_of_the_transcripts(corpus: trajrec.Corpus) -> None:
    failed: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    overcome: Counter[str] = Counter()
    for episode in corpus.episodes():
        for attempt in episode.transcript.attempts:
            tried[attempt.tool] += 1
            failed[attempt.tool] += attempt.has_failed
            overcome[attempt.tool] += attempt.recovered_at is not None
    view = read_failures(corpus, phase=None, tool=None)
    calls = {item.tool: item for item in view.tools if item.phase == "call"}
    assert {tool: item.n for tool, item in calls.items()} == {t: n for t, n in failed.items() if n}
    for tool, item in calls.items():
        assert (item.n_attempts, item.n_overcome) == (tried[tool], overcome[tool])


def test_the_tool_that_fails_most_is_named(corpus: trajrec.Corpus, browser: TestClient) -> None:
    most = read_failures(corpus, phase=None, tool=None).most
    assert most is not None
    assert (most.tool, most.n, most.n_attempts) == ("refund_order", 3, 4)
    assert (
        "<b>refund_order</b> is the tool that fails most: 3 failures"
        in browser.get("/failures").text
    )


def test_success_with_other_arguments_is_told_apart(corpus: trajrec.Corpus) -> None:
    view = read_failures(corpus, phase=None, tool=None)
    calls = {item.tool: item for item in view.tools}
    assert (calls["look"].n_overcome, calls["look"].n_same) == (2, 2)
    assert (calls["refund_order"].n_overcome, calls["refund_order"].n_same) == (1, 0)
    assert calls["refund_order"].overcome == "1 (0 same, 1 other arguments)"


def test_messages_that_differ_by_numbers_are_one_group(corpus: trajrec.Corpus) -> None:
    (group,) = read_failures(corpus, phase="call", tool="look").groups
    assert (group.n, group.n_episodes, group.message) == (2, 2, "no answer after # ms")
    assert group.error.endswith("TimeoutError")


def test_a_tool_without_a_name_leads_to_its_own_failures(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, world=Shop(seed=1), options={"task": 0}) as ep:
        for name in ("", "get_order", "get_order"):
            with contextlib.suppress(Exception):
                ep.call(name, order="O1")
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        for tool in read_failures(corpus, phase=None, tool=None).tools:
            asked = dict(parse_qsl(tool.address.partition("?")[2], keep_blank_values=True))
            view = read_failures(corpus, phase=asked["phase"], tool=asked["tool"])
            assert sum(group.n for group in view.groups) == tool.n
            assert view.chosen == tool.place


def test_each_example_leads_to_its_failure(corpus: trajrec.Corpus, browser: TestClient) -> None:
    for group in read_failures(corpus, phase=None, tool=None).groups:
        for episode_id, step in group.examples:
            page = browser.get(f"/e/{episode_id}/{step}")
            assert page.status_code == 200
            assert f"<h2>Step {step}</h2>" in page.text
            assert re.search('class="badge (failed|overcome)"', page.text)


def test_hostile_failures_are_harmless(browser: TestClient) -> None:
    hostile = {"phase": "<script>", "tool": "\"'><script>alert(1)</script>\u202e"}
    for params in ({}, hostile, {"phase": "call", "tool": "fail"}):
        page = browser.get("/failures", params=params).text
        assert_harmless(page)
        assert len(page) < 20_000
    assert "&lt;script&gt;alert(#)" in page
    assert "None fits" in browser.get("/failures", params=hostile).text


def test_a_corpus_without_failures_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("none")
    with trajrec.episode(folder, task="fine") as ep:
        ep.model(lambda **_: "go on", messages=[])
    trajrec.close_logs()
    with trajrec.open(folder) as corpus:
        client = stranger(corpus)
        client.get(f"/?token={TOKEN}")
        assert "No failure is recorded" in client.get("/failures").text


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("again", "is_same"),
    [
        ({"b": {"y": [2, 3], "x": 1}, "a": 1}, True),
        ({"a": 1, "b": {"x": 1, "y": [3, 2]}}, False),
        ({"b": 1, "a": {"x": 1, "y": [2, 3]}}, False),
    ],
)
def test_the_order_of_arguments_makes_no_other_ones(
    tmp_path: Path, again: dict[str, Any], is_same: bool
) -> None:
    calls = [{"a": 1, "b": {"x": 1, "y": [2, 3]}}, again]

    seen: list[Any] = []

    def look(**arguments: Any) -> int:
        seen.append(arguments)
        if len(seen) == 1:
            raise TimeoutError("no answer")
        return 1

    with trajrec.episode(tmp_path) as ep:
        ep.tool(look, name="look", access="read")
        with contextlib.suppress(TimeoutError):
            ep.call("look", **calls[0])
        ep.call("look", **calls[1])
    trajrec.close_logs()
    with trajrec.open(tmp_path) as opened:
        (item,) = read_failures(opened, phase=None, tool=None).tools
    assert item.n_same == int(is_same)
