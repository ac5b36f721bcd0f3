"""Samples of one prompt, which a program draws at once: each is a conversation of its own."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trajrec
from trajrec.agents.routing import router
from trajrec.corpus.call_contents import content_of
from trajrec.wire.exchange import Exchange, HttpRequest

N_TURNS = 3

JSON = [("content-type", "application/json")]

CALL = {"name": "look", "arguments": '{"x": 1}'}


def chat_answer(text: str) -> tuple[bytes, list[Any]]:
    """Return an answer, whose call has the same id in all of them, and the next messages."""
    said = {
        "role": "assistant",
        "content": text,
        "tool_calls": [{"id": "call_0", "type": "function", "function": CALL}],
    }
    body = json.dumps({"choices": [{"index": 0, "message": said}]}).encode()
    return body, [said, {"role": "tool", "tool_call_id": "call_0", "content": "seen"}]


def stream_answer(text: str) -> tuple[bytes, list[Any]]:
    chunks = [{"choices": [{"index": 0, "delta": {"content": letter}}]} for letter in text]
    ends = [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks + ends]
    said = {"role": "assistant", "content": text}
    return "".join([*lines, "data: [DONE]\n\n"]).encode(), [said, {"role": "user", "content": "?"}]


def responses_answer(text: str) -> tuple[bytes, list[Any]]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    items = [
        {"type": "reasoning", "id": "rs", "summary": []},
        {"type": "message", "role": "assistant", "content": content},
    ]
    body = json.dumps({"status": "completed", "output": items}).encode()
    return body, [*items, {"role": "user", "content": "?"}]


def edited_answer(text: str) -> tuple[bytes, list[Any]]:
    """Return an answer to which the program adds something before it sends it back."""
    body, (said, asked) = stream_answer(text)
    return body, [said | {"content": f"[edited] {text}"}, asked]


def second_answer(text: str) -> tuple[bytes, list[Any]]:
    """Return two alternatives, of which the program takes the second."""
    said = {"role": "assistant", "content": text}
    others = ({"role": "assistant", "content": "the other one"}, said)
    choices = [{"index": number, "message": message} for number, message in enumerate(others)]
    return json.dumps({"choices": choices}).encode(), [said, {"role": "user", "content": "?"}]


DIALECTS: dict[str, tuple[str, str, Callable[[str], tuple[bytes, list[Any]]]]] = {
    "chat": ("chat/completions", "messages", chat_answer),
    "stream": ("chat/completions", "messages", stream_answer),
    "second": ("chat/completions", "messages", second_answer),
    "responses": ("responses", "input", responses_answer),
}


class Sample:
    """One sample: it asks, gets its answer, and asks again."""

    def __init__(self, number: int, dialect: str) -> None:
        path, self.name, self.answer = DIALECTS[dialect]
        self.url = f"https://api.example/v1/{path}"
        self.number = number
        self.messages: list[Any] = [{"role": "user", "content": "Play."}]
        self.said: list[str] = []
        self.is_stream = dialect == "stream"
        self._exchange: Exchange | None = None

    @property
    def is_over(self) -> bool:
        return len(self.said) == N_TURNS

    def go_on(self) -> None:
        """Send a request, or get its answer."""
        if self._exchange is None:
            body = json.dumps({"model": "m", self.name: self.messages}).encode()
            self._exchange = router.begin(HttpRequest("POST", self.url, JSON, body))
            return
        text = f"sample {self.number} turn {len(self.said)}"
        body, following = self.answer(text)
        kind = "text/event-stream" if self.is_stream else "application/json"
        self._exchange.responded(200, [("content-type", kind)])
        self._exchange.received(body)
        self._exchange.ended(None)
        self._exchange = None
        self.messages += following
        self.said.append(text)


def told(folder: Path) -> list[list[str | None]]:
    """Return the texts of the answers of each episode."""
    with trajrec.open(folder) as corpus:
        return sorted(
            [content_of(call).answer.text for call in episode.transcript.model_calls]
            for episode in corpus.episodes()
        )


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("seed", range(4))
def test_samples_of_one_prompt_stay_apart(dialect: str, seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    samples = [Sample(number, dialect) for number in range(5)]
    with trajrec.capture(tmp_path):
        while running := [sample for sample in samples if not sample.is_over]:
            draw.choice(running).go_on()
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        talks = [
            [
                message["content"].strip()
                for message in talk.messages
                if message["role"] == "assistant"
            ]
            for talk in corpus.messages()
        ]
    # Of the last answer, no request tells which alternative the program took.
    expected = [sample.said[:-1] for sample in samples]
    assert sorted(talk[:-1] for talk in talks) == expected
    assert [said[:-1] for said in told(tmp_path)] == expected


def test_a_request_goes_on_from_no_call_that_is_open(tmp_path: Path) -> None:
    """An agent that edits what its model says, beside another sample that still waits."""
    url = "https://api.example/v1/chat/completions"
    first = [{"role": "user", "content": "Play."}]

    def begin(messages: list[Any]) -> Exchange:
        body = json.dumps({"model": "m", "messages": messages}).encode()
        exchange = router.begin(HttpRequest("POST", url, JSON, body))
        assert exchange is not None
        return exchange

    def end(exchange: Exchange, text: str) -> list[Any]:
        body, following = edited_answer(text)
        exchange.responded(200, [("content-type", "text/event-stream")])
        exchange.received(body)
        exchange.ended(None)
        return [*first, *following]

    with trajrec.capture(tmp_path):
        waiting = begin(first)
        messages = end(begin(first), "one")
        end(begin(messages), "two")
        end(waiting, "other")
    trajrec.close_logs()
    assert told(tmp_path) == [["one", "two"], ["other"]]


@pytest.mark.parametrize("n_samples", [2, 5, 16])
def test_each_message_of_samples_in_one_episode_is_one_row(n_samples: int, tmp_path: Path) -> None:
    draw = random.Random(n_samples)
    samples = [Sample(number, "stream") for number in range(n_samples)]
    with trajrec.episode(tmp_path, task="t"):
        while running := [sample for sample in samples if not sample.is_over]:
            draw.choice(running).go_on()
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT text, count(*) FROM messages WHERE role = 'user' GROUP BY 1 ORDER BY 1"
        # The program says "?" behind each answer but the last.
        expected = [("?", (N_TURNS - 1) * n_samples), ("Play.", 1)]
        assert corpus.sql(query).fetchall() == expected
        query = "SELECT list(text ORDER BY text) FROM messages WHERE role = 'assistant'"
        ((answers,),) = corpus.sql(query).fetchall()
    assert answers == sorted(text for sample in samples for text in sample.said)


def test_an_answer_that_is_read_half_is_gone_on_from(tmp_path: Path) -> None:
    """A client may ask again before it has closed the stream of its answer."""
    half, whole = Sample(0, "stream"), Sample(1, "stream")
    with trajrec.capture(tmp_path):
        whole.go_on()
        half.go_on()
        whole.go_on()
        exchange = half._exchange
        assert exchange is not None
        body, following = half.answer("half")
        exchange.responded(200, [("content-type", "text/event-stream")])
        exchange.received(body)
        half._exchange = None
        half.messages += following
        half.go_on()
        half.go_on()
        exchange.ended(None)
    assert told(tmp_path) == [["half", "sample 0 turn 0"], ["sample 1 turn 0"]]
