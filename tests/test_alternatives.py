"""Several alternatives of one answer: the one that the agent went on from was said, the others not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import only
from test_export_messages import reply, said
from test_messages import send, user

import trajrec
from trajrec.corpus.corpus import Corpus
from trajrec.exchange.exporting import export_atif, export_otlp
from trajrec.view.panes import _turn_facts

LOOK = ("c0", "look", "{}")
RUN = ("c1", "run", '{"to": 1}')


def answer_of(*others: dict[str, Any], reasons: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return an answer with several alternatives."""
    choices = [{**other["choices"][0], "index": number} for number, other in enumerate(others)]
    for choice, reason in zip(choices, reasons, strict=False):
        choice["finish_reason"] = reason
    return {"choices": choices}


def result(call_id: str, text: str = "seen") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def asked(corpus: Corpus) -> list[tuple[Any, ...]]:
    """Return the tool calls of a corpus, each with its result."""
    query = "SELECT step, tool, call_id, outcome, result->>'$' FROM attempts ORDER BY step, call"
    return corpus.sql(query).fetchall()


def texts(corpus: Corpus) -> list[tuple[Any, ...]]:
    query = "SELECT text, origin FROM messages WHERE role = 'assistant' ORDER BY number"
    return corpus.sql(query).fetchall()


def test_the_calls_of_the_alternative_that_was_taken_were_made(tmp_path: Path) -> None:
    first, second = reply("I look.", LOOK), reply("I run.", RUN)
    talk: list[Any] = [user("Go.")]
    with trajrec.episode(tmp_path, task="t") as ep:
        send(ep, {"model": "m", "messages": talk, "n": 2}, answer_of(first, second))
        send(ep, {"model": "m", "messages": [*talk, *said(second), result("c1")]}, reply("Done."))
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        assert asked(corpus) == [(0, "run", "c1", "unknown", "seen")]
        assert texts(corpus) == [("I run.", "answer"), ("Done.", "answer")]
        tools = corpus.sql("SELECT tools_called->>'$' FROM episodes").fetchall()
    assert tools == [('["run"]',)]


def test_exports_have_the_alternative_that_was_taken(tmp_path: Path) -> None:
    first, second = reply("I look.", LOOK), reply("I run.", RUN)
    talk: list[Any] = [user("Go.")]
    with trajrec.episode(tmp_path / "runs", task="t") as ep:
        send(ep, {"model": "m", "messages": talk, "n": 2}, answer_of(first, second))
        send(ep, {"model": "m", "messages": [*talk, *said(second), result("c1")]}, reply("Done."))
    trajrec.close_logs()
    with trajrec.open(tmp_path / "runs") as corpus:
        export_atif(corpus, tmp_path / "atif.jsonl")
        export_otlp(corpus, tmp_path / "otlp.jsonl")
    (document,) = map(json.loads, (tmp_path / "atif.jsonl").read_text().splitlines())
    steps = [step for step in document["steps"] if step["source"] == "agent"]
    assert [step["message"] for step in steps] == ["I run.", "Done."]
    assert [call["function_name"] for call in steps[0]["tool_calls"]] == ["run"]
    spans = (tmp_path / "otlp.jsonl").read_text()
    assert "I run." in spans
    assert "I look." not in spans


def test_a_tool_that_ran_tells_the_alternative(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, task="t") as ep:
        run = ep.tool(lambda to: "ran", name="run")
        answer = answer_of(reply("I look.", LOOK), reply("I run.", RUN))
        send(ep, {"model": "m", "messages": [user("Go.")], "n": 2}, answer)
        run(to=1)
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        assert asked(corpus) == [(0, "run", "c1", "ok", "ran")]
        assert texts(corpus) == [("I run.", "answer")]


def test_no_call_was_made_if_nothing_tells_the_alternative(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, task="t") as ep:
        answer = answer_of(
            reply("I look.", LOOK), reply("I run.", RUN), reasons=("tool_calls", "length")
        )
        send(ep, {"model": "m", "messages": [user("Go.")], "n": 2}, answer)
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        assert asked(corpus) == []
        query = "SELECT finish_reason FROM model_calls"
        assert corpus.sql(query).fetchall() == [(None,)]
    (call,) = only(tmp_path).transcript.model_calls
    assert call.taken == ()


def test_the_ids_of_calls_tell_equal_alternatives_apart(tmp_path: Path) -> None:
    first, second = (reply("I run.", (own, *RUN[1:])) for own in ("a", "b"))
    talk: list[Any] = [user("Go.")]
    with trajrec.episode(tmp_path, task="t") as ep:
        send(ep, {"model": "m", "messages": talk, "n": 2}, answer_of(first, second))
        send(ep, {"model": "m", "messages": [*talk, *said(second), result("b")]}, reply("Done."))
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        assert asked(corpus) == [(0, "run", "b", "unknown", "seen")]


def test_an_alternative_with_an_edited_text_is_known_by_its_calls(tmp_path: Path) -> None:
    first, second = reply("I look.", LOOK), reply("I run.", RUN)
    talk: list[Any] = [user("Go.")]
    (message,) = said(second)
    edited = {**message, "content": ""}
    with trajrec.episode(tmp_path, task="t") as ep:
        send(ep, {"model": "m", "messages": talk, "n": 2}, answer_of(first, second))
        send(ep, {"model": "m", "messages": [*talk, edited, result("c1")]}, reply("Done."))
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        assert asked(corpus) == [(0, "run", "c1", "unknown", "seen")]


def test_a_search_goes_on_from_several_alternatives(tmp_path: Path) -> None:
    others = [reply("I look.", LOOK), reply("I wait."), reply("I run.", RUN)]
    talk: list[Any] = [user("Go.")]
    with trajrec.episode(tmp_path, task="t") as ep:
        send(ep, {"model": "m", "messages": talk, "n": 3}, answer_of(*others))
        for other, call_id in ((others[0], "c0"), (others[2], "c1")):
            after = [*talk, *said(other), result(call_id, f"result {call_id}")]
            send(ep, {"model": "m", "messages": after}, reply(f"Done {call_id}."))
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        assert asked(corpus) == [
            (0, "look", "c0", "unknown", "result c0"),
            (0, "run", "c1", "unknown", "result c1"),
        ]
        said_texts = ["I look.", "I run.", "Done c0.", "Done c1."]
        assert texts(corpus) == [(text, "answer") for text in said_texts]


@pytest.mark.parametrize("choice", [0, 1])
def test_candidates_of_gemini_are_alternatives(choice: int, tmp_path: Path) -> None:
    url = "https://generativelanguage.googleapis.com/v1beta/models/m:generateContent"
    calls = [{"functionCall": {"name": name, "args": {"x": name}}} for name in ("look", "run")]
    candidates = [{"content": {"role": "model", "parts": [call]}} for call in calls]
    contents: list[Any] = [{"role": "user", "parts": [{"text": "Go."}]}]
    name = ("look", "run")[choice]
    told = {"functionResponse": {"name": name, "response": {"output": "seen"}}}
    after = [*contents, candidates[choice]["content"], {"role": "user", "parts": [told]}]
    done = {"candidates": [{"content": {"role": "model", "parts": [{"text": "Done."}]}}]}
    with trajrec.episode(tmp_path, task="t") as ep:
        send(ep, {"contents": contents}, {"candidates": candidates}, url=url)
        send(ep, {"contents": after}, done, url=url)
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        assert [row[:2] for row in asked(corpus)] == [(0, name)]
        assert corpus.sql("SELECT result IS NOT NULL FROM attempts").fetchall() == [(True,)]


def test_the_page_says_which_alternative_is_shown(tmp_path: Path) -> None:
    talk: list[Any] = [user("Go.")]
    second = reply("I run.", RUN)
    with trajrec.episode(tmp_path, task="t") as ep:
        send(ep, {"model": "m", "messages": talk, "n": 2}, answer_of(reply("No."), second))
        send(ep, {"model": "m", "messages": [*talk, *said(second), result("c1")]}, reply("Done."))
        both = answer_of(reply("One."), reply("Two."))
        send(ep, {"model": "m", "messages": [user("And?")], "n": 2}, both)
    trajrec.close_logs()
    calls = only(tmp_path).transcript.model_calls
    assert [_turn_facts(call).get("alternative") for call in calls] == [
        "2 of 2",
        None,
        "1 of 2; unknown which one the agent took",
    ]


def test_alternatives_of_a_recorded_function_are_told_too(tmp_path: Path) -> None:
    talk: list[Any] = [user("Go.")]
    second = reply("I run.", RUN)
    with trajrec.episode(tmp_path, task="t") as ep:
        ep.model(lambda **_: answer_of(reply("No."), second), messages=list(talk), n=2)
        talk += [*said(second), result("c1")]
        ep.model(lambda **_: reply("Done."), messages=list(talk))
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        assert texts(corpus) == [("I run.", "answer"), ("Done.", "answer")]
    assert [call.taken for call in only(tmp_path).transcript.model_calls] == [(1,), (0,)]
