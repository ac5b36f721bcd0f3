"""Which attempt retries which: the truth table, of agents, programs and clients."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import only

import trajrec
from trajrec.agents.counters import StepCounter
from trajrec.agents.retries import AttemptLoop
from trajrec.corpus.attempts import KEY_WORDS, MAX_OPEN_FAILURES, Attempt, is_key_like
from trajrec.view.lanes import failed_steps
from trajrec.view.rows import agent_row, agent_steps
from trajrec.wire.exchange import HttpRequest

ANSWER = b'{"choices": [{"message": {"role": "assistant", "content": "%d"}}]}'
JSON = [("content-type", "application/json")]


def ask(ep: Any, number: int, status: int = 200) -> None:
    """Make a model call, as a tap reports it."""
    body = b'{"model": "m", "messages": [{"role": "user", "content": "%d"}]}' % number
    url = "http://127.0.0.1/v1/chat/completions"
    exchange = ep.begin_exchange(HttpRequest("POST", url, JSON, body))
    exchange.responded(status, JSON)
    exchange.received(ANSWER % number)
    exchange.ended(None)


def act(ep: Any, tool: str, ok: bool = True, **arguments: Any) -> None:
    ep.execute(tool, arguments, run=lambda: {"ok": 1} if ok else {"error": "no"})


def attempts(folder: Path) -> list[Attempt]:
    trajrec.close_logs()
    return only(folder).transcript.attempts


def links(folder: Path) -> list[tuple[Any, str, Any, Any]]:
    """Return for each attempt the one it retries, who did, the step of recovery, what follows."""
    return [
        (
            a.retry_of and a.retry_of[:2],
            a.retry_by,
            a.recovered_at,
            a.followed_by and a.followed_by[:2],
        )
        for a in attempts(folder)
    ]


NONE = (None, "", None, None)


def test_the_same_arguments_in_a_later_answer_are_a_retry(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        ask(ep, 0)
        act(ep, "search", ok=False, words="lamp")
        ask(ep, 1)
        act(ep, "search", words="lamp")
    assert links(tmp_path) == [(None, "", 1, None), ((0, 0), "agent", None, None)]


def test_parallel_calls_of_one_answer_are_no_retries(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        ask(ep, 0)
        act(ep, "search", ok=False, words="lamp")
        act(ep, "search", words="lamp")
    assert links(tmp_path) == [NONE, NONE]


def test_a_changed_call_about_the_same_thing_is_a_retry(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        ask(ep, 0)
        act(ep, "refund", ok=False, order="O1", cents=540000)
        ask(ep, 1)
        act(ep, "refund", order="O1", cents=5400)
    assert links(tmp_path) == [(None, "", 1, None), ((0, 0), "agent", None, None)]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("name", ["item", "product_sku", "cmd", "recipient", "phone", "question"])
def test_goods_people_and_questions_name_a_thing(tmp_path: Path, name: str) -> None:
    with trajrec.episode(tmp_path) as ep:
        ask(ep, 0)
        act(ep, "buy", ok=False, **{name: "lamp"}, n=99)
        ask(ep, 1)
        act(ep, "buy", **{name: "lamp"}, n=1)
    assert links(tmp_path) == [(None, "", 1, None), ((0, 0), "agent", None, None)]


@pytest.mark.parametrize("name", ["dir", "origin", "date", "mode", "repo"])
def test_what_holds_many_things_names_none_of_them(name: str) -> None:
    assert not is_key_like(name, "lamp")


def test_a_call_about_another_thing_only_follows(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        ask(ep, 0)
        act(ep, "refund", ok=False, order="O1", cents=5400)
        ask(ep, 1)
        act(ep, "refund", order="O2", cents=5400)
        act(ep, "refund", order="O3", cents=5400)
    assert links(tmp_path) == [(None, "", None, (1, 0)), NONE, NONE]


def test_a_failure_is_overcome_once_by_its_best_match(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        ask(ep, 0)
        act(ep, "refund", ok=False, order="O1", cents=1)
        act(ep, "refund", ok=False, order="O2", cents=2)
        ask(ep, 1)
        act(ep, "refund", order="O2", cents=3)
        act(ep, "refund", order="O1", cents=1)
        act(ep, "refund", order="O1", cents=1)
    assert links(tmp_path) == [
        (None, "", 1, None),
        (None, "", 1, None),
        ((0, 1), "agent", None, None),
        ((0, 0), "agent", None, None),
        NONE,
    ]


def test_a_line_of_retries_is_overcome_by_its_last(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        for number in range(3):
            ask(ep, number)
            act(ep, "search", ok=number == 2, words="lamp")
    assert links(tmp_path) == [
        (None, "", 2, None),
        ((0, 0), "agent", 2, None),
        ((1, 0), "agent", None, None),
    ]


def test_the_programs_attempts_are_the_scaffolds(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        ask(ep, 0)
        for number, attempt in enumerate(ep.attempts(3, on=ValueError)):
            with attempt:

                def run(n: int = number) -> str:
                    if not n:
                        raise ValueError("no")
                    return "yes"

                ep.execute("search", {}, run=run)
    assert links(tmp_path) == [(None, "", 0, None), ((0, 0), "scaffold", None, None)]


def test_agents_begun_in_tries_repeat_no_call(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    with trajrec.episode(tmp_path / "outer") as ep:
        for number, attempt in enumerate(ep.attempts(2, on=ValueError)):
            with attempt:
                act(ep, "plan")
                with trajrec.episode(inner) as sub:
                    ask(sub, 0)
                    act(sub, "look")
                    act(sub, "look", at="lamp")
                if not number:
                    raise ValueError("again")
    assert [a.key for a in attempts(tmp_path / "outer")] == [(0, 0, 0), (0, 0, 1)]
    with trajrec.open(inner) as corpus:
        query = "SELECT step, call, attempt, retry_by FROM attempts"
        assert corpus.sql(query).fetchall() == [(0, 0, 0, None), (0, 1, 0, None)] * 2
        query = "SELECT step, attempt, retry_by FROM model_calls"
        assert corpus.sql(query).fetchall() == [(0, 0, None)] * 2


def test_a_rewound_call_is_not_counted_in_its_try() -> None:
    steps = StepCounter()
    made = []
    for number, attempt in enumerate(AttemptLoop(2, 0.0, ValueError)):
        with attempt:
            # As a rerun does that goes on live at this call.
            mark = steps.mark()
            steps.next_call()
            steps.rewind(mark)
            made += [steps.next_call()[:3], steps.next_call()[:3]]
            if not number:
                raise ValueError("again")
    assert made == [(0, 0, 0), (1, 0, 0), (0, 0, 1), (1, 0, 1)]


def test_overlapping_calls_are_no_retries(tmp_path: Path) -> None:
    begun = threading.Event()
    other_is_done = threading.Event()

    def slow() -> dict[str, str]:
        begun.set()
        other_is_done.wait(10)
        return {"error": "no"}

    with trajrec.episode(tmp_path) as ep:
        thread = threading.Thread(target=lambda: ep.execute("search", {"id": 1}, run=slow))
        thread.start()
        begun.wait(10)
        ep.execute("search", {"id": 1}, run=lambda: {"ok": 1})
        other_is_done.set()
        thread.join()
        ep.execute("search", {"id": 1}, run=lambda: {"ok": 1})
    # Without model calls each call is a step. The second one overlaps the first, the third does not.
    assert links(tmp_path) == [(None, "", 2, None), NONE, ((0, 0), "agent", None, None)]


def test_model_calls_are_retried_by_client_and_program(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        ask(ep, 0, status=500)
        ask(ep, 0)
        ask(ep, 1)
    trajrec.close_logs()
    calls = only(tmp_path).transcript.model_calls
    assert [(c.start.step, c.start.attempt, c.start.retry_by, c.outcome) for c in calls] == [
        (0, 0, "", "error"),
        (0, 1, "transport", "ok"),
        (1, 0, "", "ok"),
    ]
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT phase, recovered_at, recovered_by FROM failures"
        assert corpus.sql(query).fetchall() == [("model", 0, "transport")]


def test_the_viewer_counts_steps_whose_model_failed(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        ask(ep, 0, status=500)
        ask(ep, 0)
        act(ep, "search", words="lamp")
        ask(ep, 1)
        act(ep, "search", words="chair")
        ask(ep, 2, status=429)
        ask(ep, 2)
        ask(ep, 3, status=500)
    trajrec.close_logs()
    rows = [agent_row(item, {}, 0) for item in agent_steps(only(tmp_path))]
    assert [(row.name, row.status, row.words) for row in rows] == [
        ("search", "overcome", "overcome 0"),
        ("search", "ok", ""),
        ("model", "overcome", "overcome 2"),
        ("model", "failed", "error"),
    ]
    assert failed_steps(rows) == [0, 2, 3]


def test_a_line_names_the_tool_whose_result_it_shows(tmp_path: Path) -> None:
    def pay(cents: int) -> int:
        raise ValueError("no money")

    with trajrec.episode(tmp_path) as ep:
        ep.tool(lambda words: [words], name="search")
        ep.tool(pay, name="pay")
        with ep.step():
            ep.call("search", words="lamp")
            with pytest.raises(ValueError, match="no money"):
                ep.call("pay", cents=5)
    trajrec.close_logs()
    (row,) = [agent_row(item, {}, 0) for item in agent_steps(only(tmp_path))]
    assert (row.name, row.arguments, row.status) == ("pay +1", '{"cents":5}', "failed")


def test_an_open_failure_is_overcome_by_nobody(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        ask(ep, 0)
        act(ep, "search", ok=False, words="lamp")
        ask(ep, 1)
        act(ep, "read", words="lamp")
        ask(ep, 2, status=500)
    assert links(tmp_path) == [NONE, NONE]


def test_only_the_last_failures_of_a_tool_can_be_retried(tmp_path: Path) -> None:
    n = MAX_OPEN_FAILURES
    with trajrec.episode(tmp_path) as ep:
        for number in range(n + 1):
            act(ep, "search", ok=False, order=f"O{number}")
        for number in (0, 1, n):
            act(ep, "search", order=f"O{number}")
    retried = [a.retry_of and a.retry_of[0] for a in attempts(tmp_path)[n + 1 :]]
    assert retried == [None, 1, n]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("order", "O1", True),
        ("orderId", 7, True),
        ("file_path", "a", True),
        ("URL", "http://x", True),
        ("cents", 5, False),
        ("is_id", True, False),
        ("words", "lamp", False),
        ("", "x", False),
    ],
)
def test_an_argument_is_key_like_by_its_last_word(name: str, value: Any, expected: bool) -> None:
    assert is_key_like(name, value) is expected


@pytest.mark.sources
def test_the_guide_tells_which_arguments_are_key_like() -> None:
    guide = Path(__file__).parents[1] / "docs" / "how-to" / "record-tool-agents.md"
    assert f": {', '.join(KEY_WORDS.split())}.\n" in guide.read_text()
