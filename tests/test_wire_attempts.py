"""Tool calls that model calls tell of: each has the result that the model was told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import only

import trajrec
from trajrec.corpus.attempts import Attempt
from trajrec.wire.exchange import HttpRequest

JSON = [("content-type", "application/json")]
CHAT = "http://127.0.0.1/v1/chat/completions"
GEMINI = "http://127.0.0.1/v1beta/models/m:generateContent"


def exchange(ep: Any, url: str, body: dict[str, Any], answer: dict[str, Any]) -> None:
    """Make a model call, as a tap reports it."""
    seen = ep.begin_exchange(HttpRequest("POST", url, JSON, json.dumps(body).encode()))
    seen.responded(200, JSON)
    seen.received(json.dumps(answer).encode())
    seen.ended(None)


def attempts(folder: Path) -> list[Attempt]:
    trajrec.close_logs()
    return only(folder).transcript.attempts


class GeminiTalk:
    """A conversation with an API that gives its calls no ids."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.contents: list[Any] = [{"role": "user", "parts": [{"text": name}]}]
        self.n = 0

    def go_on(self, ep: Any) -> None:
        """Let the model ask for two calls of one tool, and tell it their results the next time."""
        parts = [
            {"functionCall": {"name": "look", "args": {"place": f"{self.name}{self.n}{k}"}}}
            for k in range(2)
        ]
        said = {"role": "model", "parts": parts}
        exchange(ep, GEMINI, {"contents": self.contents}, {"candidates": [{"content": said}]})
        results = [
            {"functionResponse": {"name": "look", "response": {"seen": f"{self.name}{self.n}{k}"}}}
            for k in range(2)
        ]
        self.contents = [*self.contents, said, {"role": "user", "parts": results}]
        self.n += 1


def test_results_without_ids_belong_to_their_conversation(tmp_path: Path) -> None:
    talks = [GeminiTalk("a"), GeminiTalk("b"), GeminiTalk("c")]
    with trajrec.episode(tmp_path) as ep:
        for turn in range(4):
            # In another order each time.
            for talk in talks[turn % 3 :] + talks[: turn % 3]:
                talk.go_on(ep)
    found = attempts(tmp_path)
    assert len(found) == 24
    told = [(a.arguments["place"], a.result and a.result["seen"]) for a in found]
    last = {f"{talk.name}3{k}" for talk in talks for k in range(2)}
    assert told == [(place, None if place in last else place) for place, _ in told]


def chat_answer(*calls: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    tool_calls = [
        {"id": i, "type": "function", "function": {"name": n, "arguments": json.dumps(a)}}
        for i, n, a in calls
    ]
    message = {"role": "assistant", "content": None, "tool_calls": tool_calls}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}


def results(**told: str) -> list[dict[str, Any]]:
    return [{"role": "tool", "tool_call_id": i, "content": text} for i, text in told.items()]


def test_results_are_found_though_the_history_was_rewritten(tmp_path: Path) -> None:
    answer = chat_answer(("c1", "look", {"n": 1}), ("c2", "look", {"n": 2}))
    asked = {"messages": [{"role": "user", "content": "a long story"}]}
    summary = [{"role": "user", "content": "in short"}, answer["choices"][0]["message"]]
    with trajrec.episode(tmp_path) as ep:
        exchange(ep, CHAT, asked, answer)
        exchange(ep, CHAT, {"messages": [{"role": "user", "content": "aside"}]}, chat_answer())
        exchange(ep, CHAT, {"messages": summary + results(c2="two", c1="one")}, chat_answer())
    assert [(a.arguments["n"], a.result) for a in attempts(tmp_path)] == [(1, "one"), (2, "two")]


def test_calls_that_a_program_names_anew_keep_their_results(tmp_path: Path) -> None:
    first = chat_answer(("c1", "look", {"n": 1}), ("c2", "look", {"n": 2}))
    second = chat_answer(("c3", "take", {"n": 3}))
    messages = [{"role": "user", "content": "go"}]
    with trajrec.episode(tmp_path) as ep:
        exchange(ep, CHAT, {"messages": messages}, first)
        anew = chat_answer(("own-0", "look", {"n": 1}), ("own-1", "look", {"n": 2}))
        messages += [anew["choices"][0]["message"], *results(**{"own-0": "one", "own-1": "two"})]
        exchange(ep, CHAT, {"messages": messages}, second)
        anew = chat_answer(("own-2", "take", {"n": 3}))
        messages += [anew["choices"][0]["message"], *results(**{"own-2": "three"})]
        exchange(ep, CHAT, {"messages": messages}, chat_answer())
    told = [(a.start.call_id, a.arguments["n"], a.result) for a in attempts(tmp_path)]
    assert told == [("c1", 1, "one"), ("c2", 2, "two"), ("c3", 3, "three")]


def test_results_of_an_equal_conversation_are_not_taken(tmp_path: Path) -> None:
    # Two samples of one prompt: the first one ends with its call.
    asked = {"messages": [{"role": "user", "content": "go"}]}
    answers = [chat_answer((call_id, "look", {"n": 1})) for call_id in ("c1", "d1")]
    with trajrec.episode(tmp_path) as ep:
        for answer in answers:
            exchange(ep, CHAT, asked, answer)
        told = [*asked["messages"], answers[1]["choices"][0]["message"], *results(d1="seen")]
        exchange(ep, CHAT, {"messages": told}, chat_answer())
    assert [(a.start.call_id, a.result) for a in attempts(tmp_path)] == [
        ("c1", None),
        ("d1", "seen"),
    ]


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        # A framework may convert "1" to 1, or refuse it: the request does not tell.
        (("c1", "look", {"n": "1"}), "unknown"),
        (("c1", "peek", {"n": 1}), "error"),
    ],
    ids=["mismatch", "unknown tool"],
)
def test_only_what_cannot_have_run_has_failed_for_sure(
    tmp_path: Path, call: Any, outcome: str
) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    tool = {"type": "function", "function": {"name": "look", "parameters": schema}}
    answer = chat_answer(call)
    messages = [{"role": "user", "content": "go"}, answer["choices"][0]["message"]]
    with trajrec.episode(tmp_path) as ep:
        exchange(ep, CHAT, {"messages": messages[:1], "tools": [tool]}, answer)
        told = {"messages": messages + results(c1="seen"), "tools": [tool]}
        exchange(ep, CHAT, told, chat_answer())
    (attempt,) = attempts(tmp_path)
    assert (attempt.outcome, bool(attempt.start.invalid)) == (outcome, True)


def test_two_calls_of_one_id_have_a_result_each(tmp_path: Path) -> None:
    answer = chat_answer(("c", "look", {"n": 1}), ("c", "look", {"n": 2}))
    messages = [{"role": "user", "content": "go"}, answer["choices"][0]["message"]]
    told = [*results(c="one"), *results(c="two")]
    with trajrec.episode(tmp_path) as ep:
        exchange(ep, CHAT, {"messages": messages[:1]}, answer)
        exchange(ep, CHAT, {"messages": messages + told}, chat_answer())
    assert [(a.arguments["n"], a.result) for a in attempts(tmp_path)] == [(1, "one"), (2, "two")]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("value", [np.arange(3), [1, 2, 3]])
def test_recorded_arrays_are_compared_with_the_arguments_of_a_call(
    tmp_path: Path, value: Any
) -> None:
    with trajrec.episode(tmp_path) as ep:
        answer = chat_answer(("c1", "plot", {"points": [1, 2, 3]}))
        exchange(ep, CHAT, {"messages": []}, answer)
        ep.execute("plot", {"points": value}, run=lambda: "drawn")
    joined = [a.start.call_id for a in attempts(tmp_path)]
    # An array is not the list that the model wrote.
    assert joined == (["", "c1"] if isinstance(value, np.ndarray) else ["c1"])
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT count(*) FROM attempts").fetchall() == [(len(joined),)]
