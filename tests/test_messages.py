"""Messages of conversations: each once, whichever way they were recorded, and no secret in them."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import dialect_bodies as bodies
import pytest
from conftest import only
from planted import KINDS, plant
from tiers import third_slow

import trajrec
from trajrec.corpus.said_messages import SaidMessage
from trajrec.wire.exchange import HttpRequest

JSON = [("content-type", "application/json")]
CHAT_URL = "https://models.example/v1/chat/completions"


def send(
    ep: Any, request: Any, answer: Any, *, url: str = CHAT_URL, status: int = 200, kind: str = ""
) -> None:
    """Report one exchange as a tap does."""
    exchange = ep.begin_exchange(HttpRequest("POST", url, JSON, json.dumps(request).encode()))
    exchange.responded(status, [("content-type", kind)] if kind else JSON)
    exchange.received(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
    exchange.ended(None)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def chat(text: str) -> dict[str, Any]:
    """Return an answer that says a text."""
    return {"choices": [{"index": 0, "message": assistant(text), "finish_reason": "stop"}]}


def said(folder: Path) -> list[tuple[str, str, str]]:
    """Return role, origin and text of each message."""
    trajrec.close_logs()
    return [(m.role, m.origin, m.text) for m in only(folder).messages]


def texts(folder: Path) -> list[str]:
    return [text for _, _, text in said(folder)]


STORY = {
    "chat": (bodies.CHAT_URL, bodies.CHAT_REQUEST, "messages"),
    "responses": (bodies.RESPONSES_URL, bodies.RESPONSES_REQUEST, "input"),
    "anthropic": (bodies.ANTHROPIC_URL, bodies.ANTHROPIC_REQUEST, "messages"),
    "gemini": (bodies.GEMINI_URL.format("generateContent"), bodies.GEMINI_REQUEST, "contents"),
    "ollama": (bodies.OLLAMA_URL, bodies.OLLAMA_REQUEST, "messages"),
    "bedrock": (bodies.BEDROCK_URL.format("converse"), bodies.BEDROCK_REQUEST, "messages"),
}


@third_slow("agents")
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("dialect", STORY)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_each_dialect_tells_a_story_once(tmp_path: Path, dialect: str, is_streamed: bool) -> None:
    url, request, name = STORY[dialect]
    whole = copy.deepcopy(request)
    roles = [m.get("role") or m.get("type") for m in whole[name]]
    n_first = max(index for index, role in enumerate(roles) if role == "user" and index < 3) + 1
    if dialect in ("anthropic", "gemini", "bedrock"):
        n_first = 1
    if is_streamed:
        kind, answer = bodies.STREAMS[dialect]
    else:
        kind, answer = "application/json", json.dumps(bodies.ANSWERS[dialect]).encode()
    with trajrec.episode(tmp_path) as ep:
        send(ep, {**whole, name: whole[name][:n_first]}, answer, url=url, kind=kind)
        send(ep, whole, answer, url=url, kind=kind)
        # A retry, and the same question again.
        send(ep, whole, answer, url=url, kind=kind)
    trajrec.close_logs()
    messages = only(tmp_path).messages
    counts = [sum(m.role == role for m in messages) for role in ("system", "user", "tool")]
    assert counts == [1, 1, 2], [(m.role, m.origin, m.text) for m in messages]
    answers = [m for m in messages if m.role == "assistant"]
    assert [m.origin for m in answers] == ["answer"] * 3
    assert {m.text for m in answers} == {"Let me look."}
    results = [m for m in messages if m.role == "tool"]
    assert [m.model_call for m in results] == [1, 1]
    assert [m.tool for m in results] == ["get_order", "refund"]
    if bodies.ANSWERS[dialect] and dialect not in ("gemini", "ollama"):
        assert [m.call_ids for m in results] == [[i] for i in answers[0].call_ids]


def test_a_conversation_of_turns_is_told_in_order(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}]
    expected = [("system", "request", "Be brief.")]
    with trajrec.episode(tmp_path) as ep:
        for k in range(30):
            messages.append(user(f"q{k % 2}"))
            send(ep, {"model": "m", "messages": messages}, chat(f"a{k % 3}"))
            messages.append(assistant(f"a{k % 3}"))
            expected += [("user", "request", f"q{k % 2}"), ("assistant", "answer", f"a{k % 3}")]
    assert said(tmp_path) == expected


def test_conversations_that_take_turns_are_kept_apart(tmp_path: Path) -> None:
    talks: list[list[dict[str, Any]]] = [[user("hello")] for _ in range(9)]
    draw = random.Random(2)
    n = 0
    with trajrec.episode(tmp_path) as ep:
        for _ in range(200):
            talk = draw.choice(talks)
            send(ep, {"messages": talk}, chat(f"a{n}"))
            talk += [assistant(f"a{n}"), user(f"q{n}")]
            n += 1
        for talk in talks:
            send(ep, {"messages": talk}, chat("end"))
    found = texts(tmp_path)
    assert sorted(found) == sorted(
        ["hello", *["end"] * 9, *[f"a{k}" for k in range(n)], *[f"q{k}" for k in range(n)]]
    )


def test_a_window_that_slides_repeats_nothing(tmp_path: Path) -> None:
    messages: list[dict[str, Any]] = []
    with trajrec.episode(tmp_path) as ep:
        for k in range(40):
            messages.append(user(f"q{k}"))
            window = [{"role": "system", "content": "s"}, *messages[-6:]]
            send(ep, {"messages": window}, chat(f"a{k}"))
            messages.append(assistant(f"a{k}"))
    assert texts(tmp_path) == ["s", *[f"{c}{k}" for k in range(40) for c in "qa"]]


def test_marks_of_caches_that_move_are_no_news(tmp_path: Path) -> None:
    def marked(message: dict[str, Any], *, is_last: bool) -> dict[str, Any]:
        if not is_last:
            return message
        mark = {"cache_control": {"type": "ephemeral"}}
        return {**message, "content": [{"type": "text", "text": message["content"], **mark}]}

    messages: list[dict[str, Any]] = []
    url = "https://api.anthropic.com/v1/messages"
    with trajrec.episode(tmp_path) as ep:
        for k in range(20):
            messages.append(user(f"q{k}"))
            sent = [marked(m, is_last=m is messages[-1]) for m in messages]
            answer = {"type": "message", "content": [{"type": "text", "text": f"a{k}"}]}
            send(ep, {"messages": sent, "system": "s", "max_tokens": 9}, answer, url=url)
            messages.append(assistant(f"a{k}"))
    assert texts(tmp_path) == ["s", *[f"{c}{k}" for k in range(20) for c in "qa"]]


@pytest.mark.slow
def test_a_system_prompt_with_a_clock_repeats_no_messages(tmp_path: Path) -> None:
    messages: list[dict[str, Any]] = []
    with trajrec.episode(tmp_path) as ep:
        for k in range(5):
            messages.append(user(f"q{k}"))
            sent = [{"role": "system", "content": f"It is {k}."}, *messages]
            send(ep, {"messages": sent}, chat(f"a{k}"))
            messages.append(assistant(f"a{k}"))
    assert texts(tmp_path) == [t for k in range(5) for t in (f"It is {k}.", f"q{k}", f"a{k}")]


def test_the_same_words_in_a_continued_response_count_again(tmp_path: Path) -> None:
    url = "https://api.openai.com/v1/responses"

    def answer(k: int) -> dict[str, Any]:
        part = {"type": "output_text", "text": f"a{k}"}
        item = {"type": "message", "role": "assistant", "content": [part]}
        return {"id": f"resp_{k}", "status": "completed", "output": [item]}

    with trajrec.episode(tmp_path) as ep:
        send(ep, {"input": "yes"}, answer(0), url=url)
        send(ep, {"input": "yes", "previous_response_id": "resp_0"}, b"{}", url=url, status=500)
        send(ep, {"input": "yes", "previous_response_id": "resp_0"}, answer(1), url=url)
        send(ep, {"input": "yes", "previous_response_id": "resp_1"}, answer(2), url=url)
    assert texts(tmp_path) == ["yes", "a0", "yes", "a1", "yes", "a2"]


def test_calls_by_ep_model_are_read_by_the_same_code(tmp_path: Path) -> None:
    use = {"type": "tool_use", "id": "t1", "name": "look", "input": {"x": 1}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "42"}
    with trajrec.episode(tmp_path) as ep:
        ep.model(
            lambda **_: {"type": "message", "stop_reason": "tool_use", "content": [use]},
            system="s",
            messages=[user("q")],
            tools=[{"name": "look", "input_schema": {}}],
        )
        messages = [
            user("q"),
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
        ]
        ep.model(lambda **_: "done", system="s", messages=messages)
        list(ep.model(lambda **_: iter(["a", "b"]), prompt="again?"))
        ep.model(lambda **_: {"content": "c", "usage": {}}, messages=[user("last")])
        list(
            ep.model(
                lambda **_: iter(
                    [{"choices": [{"index": 0, "delta": {"content": c}}]} for c in "xy"]
                ),
                messages=[user("stream")],
            )
        )
    trajrec.close_logs()
    messages_ = only(tmp_path).messages
    assert [(m.role, m.origin, m.text, m.tool, m.call_ids) for m in messages_] == [
        ("system", "request", "s", None, []),
        ("user", "request", "q", None, []),
        ("assistant", "answer", "", None, ["t1"]),
        ("tool", "request", "42", "look", ["t1"]),
        ("assistant", "answer", "done", None, []),
        ("user", "request", "again?", None, []),
        ("assistant", "answer", "ab", None, []),
        ("user", "request", "last", None, []),
        ("assistant", "answer", "c", None, []),
        ("user", "request", "stream", None, []),
        ("assistant", "answer", "xy", None, []),
    ]
    corpus = trajrec.open(tmp_path)
    tools = corpus.sql("SELECT tools FROM model_calls ORDER BY number").fetchall()
    assert tools == [('["look"]',), (None,), (None,), (None,), (None,)]


def test_the_repr_of_an_object_is_no_text(tmp_path: Path) -> None:
    class Unknown:
        __slots__ = ()

    odd = Unknown()
    with trajrec.episode(tmp_path) as ep:
        ep.model(lambda **_: odd, messages=[user("q"), odd], tools=[odd])
        ep.model(lambda **_: {"content": odd}, messages=[{"role": "user", "content": odd}])
        list(ep.model(lambda **_: iter([odd, odd]), messages=[user("r")]))
    found = texts(tmp_path)
    assert set(found) == {"q", "r", ""}
    corpus = trajrec.open(tmp_path)
    assert corpus.sql("SELECT count(*) FROM model_calls WHERE tools IS NULL").fetchall() == [(3,)]


def test_the_table_has_the_beginning_and_the_episode_all(tmp_path: Path) -> None:
    long = "lamp " * 1_000
    with trajrec.episode(tmp_path) as ep:
        send(ep, {"messages": [user(long)]}, chat("ok"))
    trajrec.close_logs()
    corpus = trajrec.open(tmp_path)
    columns = "number, model_call, step, role, origin, n_chars, text, digest, kind"
    rows = corpus.sql(f"SELECT {columns} FROM messages ORDER BY number").fetchall()
    first, second = only(tmp_path).messages
    assert rows == [
        (0, 0, 0, "user", "request", 5_000, long[:4_000], first.digest, "rollout"),
        (1, 0, 0, "assistant", "answer", 2, "ok", second.digest, "rollout"),
    ]
    assert isinstance(first, SaidMessage)
    assert (first.text, first.value) == (long, user(long))


def test_offered_tools_stand_in_calls_and_in_the_episode(tmp_path: Path) -> None:
    def tools(*names: str) -> list[Any]:
        return [{"type": "function", "function": {"name": name}} for name in names]

    for folder, names in (("a", "xy"), ("b", "xy"), ("c", "xz")):
        with trajrec.episode(tmp_path / folder) as ep:
            send(ep, {"messages": [user("q")], "tools": tools(*names)}, chat("ok"))
            send(ep, {"messages": [user("r")]}, chat("ok"))
    trajrec.close_logs()
    corpus = trajrec.open(tmp_path)
    rows = corpus.sql("SELECT tools FROM model_calls ORDER BY episode_id, number").fetchall()
    assert sorted(map(str, rows)) == sorted(
        map(str, [('["x","y"]',), ('["x","y"]',), ('["x","z"]',), *[(None,)] * 3])
    )
    digests = corpus.sql("SELECT tools_digest FROM episodes").fetchall()
    assert len(set(digests)) == 2
    assert (None,) not in digests


ODD_TEXTS = ["a\0b", "\ud800", "é\ud83d", "\\u0000", "", "\0"]


def test_no_text_breaks_a_query(tmp_path: Path) -> None:
    for text in ODD_TEXTS:
        call = {"id": text, "function": {"name": text, "arguments": json.dumps({text: text})}}
        message = {**assistant(text), "tool_calls": [call]}
        result = {"role": "tool", "tool_call_id": text, "content": text}
        tool = {"type": "function", "function": {"name": text}}
        first = {"messages": [user(text)], "tools": [tool], "model": text}
        second = {"messages": [user(text), message, result, {"role": text, "content": text}]}
        with trajrec.episode(tmp_path) as ep:
            send(ep, first, {"choices": [{"message": message}]})
            send(ep, second, chat("x"))
            model = ep.model(lambda **_: text, messages=[user(text)], system=text)  # noqa: B023
            assert model == text
    trajrec.close_logs()
    corpus = trajrec.open(tmp_path)
    assert corpus.sql("SELECT text FROM messages WHERE text ILIKE '%a%'").fetchall()
    for table in ("messages", "model_calls", "attempts"):
        assert corpus.sql(f"SELECT * FROM {table}").fetchall()
    lists = "SELECT call_ids->>0, call_ids->'$[*]', json_array_length(call_ids) FROM messages"
    assert len(corpus.sql(lists).fetchall()) >= 4 * len(ODD_TEXTS)
    assert corpus.sql("SELECT tools->>0 FROM model_calls").fetchall()


@pytest.mark.slow
def test_hostile_bodies_never_break_the_index(tmp_path: Path) -> None:
    draw = random.Random(8)
    with trajrec.episode(tmp_path) as ep:
        for k in range(120):
            url, request, _ = STORY[draw.choice(list(STORY))]
            answer = bodies.ANSWERS[draw.choice(list(STORY))]
            sent = bodies.changed(draw, copy.deepcopy(request))
            send(ep, sent, bodies.changed(draw, copy.deepcopy(answer)), url=url)
            if k % 10 == 0:
                ep.model(lambda **_: bodies.changed(draw, copy.deepcopy(answer)), messages=[sent])  # noqa: B023
    trajrec.close_logs()
    corpus = trajrec.open(tmp_path)
    assert not corpus.problems()
    ((n, n_chars),) = corpus.sql("SELECT count(*), sum(n_chars) FROM messages").fetchall()
    messages = only(tmp_path).messages
    assert (n, n_chars) == (len(messages), sum(len(m.text) for m in messages))


def test_no_secret_comes_back_in_the_index(tmp_path: Path) -> None:
    planted = [plant(kind, k) for k, kind in enumerate(KINDS)]
    with trajrec.episode(tmp_path) as ep:
        for text in (one.text for one in planted):
            send(ep, {"messages": [user(f"use {text}")]}, chat(f"I used {text}"))
            ep.model(lambda **_: f"it is {text}", messages=[user(f"see {text}")])  # noqa: B023
    trajrec.close_logs()
    corpus = trajrec.open(tmp_path)
    rows = str(corpus.sql("SELECT * FROM messages").fetchall())
    assert rows.count("use ")
    assert [one.kind for one in planted if one.secret in rows] == []


def test_system_prompts_of_each_sdk_are_told(tmp_path: Path) -> None:
    def answer(**_: Any) -> dict[str, Any]:
        return {"candidates": [{"content": {"parts": [{"text": "ok"}]}}]}

    content = {"role": "user", "parts": [{"text": "hi"}]}
    with trajrec.episode(tmp_path) as ep:
        ep.model(answer, contents=content, system_instruction={"parts": [{"text": "a"}]})
        ep.model(answer, contents="ho", config={"system_instruction": "b"})
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        said = corpus.sql("SELECT role, text FROM messages ORDER BY number").fetchall()
        [(digest,)] = corpus.sql("SELECT system_digest FROM episodes").fetchall()
    assert said == [
        ("system", "a"),
        ("user", "hi"),
        ("assistant", "ok"),
        ("system", "b"),
        ("user", "ho"),
        ("assistant", "ok"),
    ]
    assert digest
