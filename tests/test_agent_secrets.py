"""Secrets in the episodes of agents, and in the pieces of streamed answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest
from conftest import only, rows
from planted import KINDS, plant
from tiers import mostly_deep

import trajrec
from trajrec.log.reader import LogReader
from trajrec.recording.event_log import close_logs
from trajrec.redaction.redactor import Redactor
from trajrec.redaction.streams import STEP_CHARS
from trajrec.redaction.tracks import WINDOW_CHARS


class Message(pydantic.BaseModel):
    role: str
    content: str


KEY = "sk-proj-" + "Ab3dEfGh" * 4
PLANTED = {
    "openai": KEY,
    "github": "ghp_" + "a1B2c3D4" * 4,
    "aws": "AKIA" + "ABCDEFGH12345678",
    "jwt": "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
    "named": "plain-looking-secret-value",
    "variable": "correct-horse-battery",
}


def test_no_byte_of_a_log_has_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_API_TOKEN", PLANTED["variable"])
    text = f"use {PLANTED['github']} and {PLANTED['aws']}, then {PLANTED['variable']}"
    headers = {
        "Authorization": f"Bearer {PLANTED['named']}",
        "X-API-Key": PLANTED["named"],
        "cookie": PLANTED["jwt"],
    }

    def broken(**_: Any) -> None:
        raise RuntimeError(f"401 for {KEY} ({PLANTED['variable']})")

    state = {"mail": text, "config": {"password": PLANTED["named"]}}
    with trajrec.episode(
        tmp_path,
        task=f"task {KEY}",
        goal=text,
        watch=state,
        interface={"base": {"api_key": PLANTED["named"]}},
        metadata=headers,
    ) as ep:
        ep.tool(lambda **arguments: {"echo": arguments}, name="echo")
        ep.tool(broken, name="broken")
        ep.call("echo", headers=headers, text=text, body=KEY.encode())
        with pytest.raises(RuntimeError, match=KEY):
            ep.call("broken", key=KEY)
        state["mail"] = f"changed: {PLANTED['jwt']}"
        state["config"]["password"] = PLANTED["named"] + "-2"  # type: ignore[index]
        ep.call("echo", x=1)
        ep.model(
            lambda **_: Message(role="assistant", content=text),
            messages=[{"role": "user", "content": text * 20}],
        )
        with pytest.raises(RuntimeError):
            ep.model(broken, messages=[], extra_headers=headers)
        ep.side_effect("getenv", os.environ.get, "SHOP_API_TOKEN")
        ep.check(lambda _: trajrec.Verdict(True, evidence={"seen": text}))
        ep.stop(f"stopped at {KEY}")
    close_logs()
    for path in tmp_path.glob("*.trj"):
        raw = path.read_bytes()
        with LogReader(path) as reader:
            raw += msgspec.msgpack.encode(reader.header)
            for chunk in reader.chunks():
                raw += msgspec.msgpack.encode(chunk.record)
                for event in chunk.record.events:
                    for field in msgspec.structs.astuple(event):
                        raw += field if isinstance(field, bytes) else repr(field).encode()
        for name, secret in PLANTED.items():
            assert secret.encode() not in raw, name
    # Equal secrets stay recognisable, and what was redacted says so.
    assert rows(
        tmp_path,
        "SELECT count(DISTINCT regexp_extract(arguments::VARCHAR, 'api key "
        "[0-9a-f]{8}')) FROM attempts",
    ) != [(0,)]
    assert rows(tmp_path, "SELECT is_redacted FROM attempts ORDER BY step") == [
        (True,),
        (True,),
        (False,),
    ]


@pytest.mark.parametrize(
    "key",
    [
        "apiKey",
        "API_KEY",
        "x-API-key",
        "SECRET",
        "Client-Secret",
        "CLIENT_SECRET",
        "COOKIE",
        "sessionToken",
        "PassWord",
    ],
)
@pytest.mark.parametrize(
    "wrap",
    [lambda text: text, lambda text: [text, text], lambda text: {"a": (text.encode(), None, 3)}],
    ids=["text", "list", "dict"],
)
def test_a_key_names_a_secret_in_any_spelling(key: str, wrap: Callable[[str], Any]) -> None:
    data, is_redacted = Redactor({}).encode({"request": {key: wrap("hunter2")}})
    assert is_redacted
    assert b"hunter2" not in data
    assert f"[redacted {key.lower()} ".encode() in data


def chunk(text: str) -> dict[str, Any]:
    """Return a piece of a streamed answer, as the OpenAI API has it."""
    delta = {"role": "assistant", "content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]}


def openai_chunk(text: str) -> Any:
    """Return the same as the client of OpenAI makes it of a response."""
    types = pytest.importorskip("openai.types.chat")

    return types.ChatCompletionChunk.model_validate({**chunk(text), "created": 1, "model": "m"})


def anthropic_chunk(text: str) -> dict[str, Any]:
    """Return a piece of a streamed answer, as the Anthropic API has it."""
    return {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": text},
    }


PIECES: dict[str, tuple[Callable[[str], Any], Callable[[Any], str]]] = {
    "texts": (str, str),
    "chunks": (chunk, lambda piece: piece["choices"][0]["delta"]["content"]),
    "objects": (
        openai_chunk,
        lambda piece: piece.fields["choices"][0].fields["delta"].fields["content"],
    ),
    "events": (anthropic_chunk, lambda piece: piece["delta"]["text"]),
    "bytes": (str.encode, bytes.decode),
    "lines of events": (
        lambda text: f"data: {json.dumps(chunk(text))}",
        lambda line: json.loads(line[6:])["choices"][0]["delta"]["content"],
    ),
    "lines of JSON": (
        lambda text: json.dumps({"message": {"content": text}}).encode() + b"\n",
        lambda line: json.loads(line)["message"]["content"],
    ),
}
PROSE = "The agent found that the customer had paid twice for the lamp, and wrote to her. "


@mostly_deep("agents", drawn=5)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("size", [3, 11])
@pytest.mark.parametrize("form", PIECES)
def test_no_piece_of_a_stream_has_a_secret(tmp_path: Path, form: str, size: int) -> None:
    wrap, text_of = PIECES[form]
    planted = [plant(kind, form) for kind in KINDS]
    # Some secrets come after the first search, some before, and some in the middle of it.
    texts = [f"{PROSE * (k % 9)}Take {p.text} for it." for k, p in enumerate(planted)]
    with trajrec.episode(tmp_path) as ep:
        for text in texts:
            pieces = [wrap(text[k : k + size]) for k in range(0, len(text), size)]
            assert list(ep.model(lambda pieces=pieces: iter(pieces))) == pieces
    close_logs()
    redactor = Redactor()
    calls = only(tmp_path).transcript.model_calls
    for call, secret, text in zip(calls, planted, texts, strict=True):
        answer = "".join(map(text_of, call.answer))
        assert secret.secret not in answer, secret
        assert answer == redactor.text(text)
        assert call.end is not None
        assert call.end.is_redacted
        assert len(call.answer) == -(-len(text) // size)


def test_pieces_without_secrets_are_recorded_as_they_were(tmp_path: Path) -> None:
    pieces = [chunk(PROSE[k % 7 : k % 7 + 4]) for k in range(700)]
    with trajrec.episode(tmp_path) as ep:
        assert list(ep.model(lambda: iter(pieces))) == pieces
        ep.model(lambda: iter([1, None, (2, "x"), {"usage": {"total_tokens": 3}}])).__next__()
    close_logs()
    first, second = only(tmp_path).transcript.model_calls
    assert first.answer == pieces
    assert second.answer == [1]
    assert first.end is not None
    assert not first.end.is_redacted
    assert rows(tmp_path, "SELECT is_streamed, outcome FROM model_calls ORDER BY number") == [
        (True, "ok"),
        (True, "ok"),
    ]


def test_events_that_the_pieces_of_a_stream_cut_are_redacted(tmp_path: Path) -> None:
    # Pieces of a secret may be equal.
    secret = "sk-proj-" + "Ab3dEfGh" * 6
    text = f"{PROSE * 9}Take {secret} € for it. {PROSE * 9}"
    events = [f"data: {json.dumps(chunk(text[k : k + 8]))}\n\n" for k in range(0, len(text), 8)]
    raw = "".join([*events, "data: [DONE]\n\n"]).encode()
    pieces = [raw[k : k + 100] for k in range(0, len(raw), 100)]
    with trajrec.episode(tmp_path) as ep:
        assert list(ep.model(lambda: iter(pieces))) == pieces
    close_logs()
    lines = b"".join(only(tmp_path).transcript.model_calls[0].answer).decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines[:-2]]
    assert "".join(delta["content"] for delta in deltas) == Redactor().text(text)


def test_json_in_a_stream_is_redacted_by_its_names(tmp_path: Path) -> None:
    document = json.dumps({"to": "bob", "note": PROSE * 20, "secrets": {"db": ["swordfish"]}})
    pieces = [document[k : k + 5] for k in range(0, len(document), 5)]
    with trajrec.episode(tmp_path) as ep:
        assert list(ep.model(lambda: iter(pieces))) == pieces
    close_logs()
    answer = "".join(only(tmp_path).transcript.model_calls[0].answer)
    assert "sword" not in answer
    assert json.loads(answer)["note"] == PROSE * 20
    assert json.loads(answer)["secrets"]["db"][0].startswith("[redacted secrets ")


STREAMING = """
import os, sys, trajrec
with trajrec.episode(sys.argv[1]) as ep:
    stream = ep.model(lambda: iter(["The lamp is sold. "] * 500))
    for k in range(400):
        next(stream)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_killed_stream_keeps_its_pieces_up_to_the_window(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", STREAMING, str(tmp_path)], check=False)
    (call,) = only(tmp_path).transcript.model_calls
    assert call.outcome == "open"
    n_missing = 400 - len(call.answer)
    assert n_missing * len("The lamp is sold. ") <= WINDOW_CHARS + STEP_CHARS + 20
    assert set(call.answer) == {"The lamp is sold. "}
    assert rows(tmp_path, "SELECT outcome, is_streamed, answer IS NULL FROM model_calls") == [
        ("open", True, False)
    ]
    with trajrec.rerun(only(tmp_path)) as ep:
        stream = ep.model(no_model)
        assert [next(stream) for _ in call.answer] == call.answer
        with pytest.raises(TimeoutError):
            next(stream)


def no_model() -> None:
    raise AssertionError("a rerun must not call the model")


@pytest.mark.slow
def test_ordinary_text_is_not_redacted(
    tmp_path: Path,
) -> None:
    ordinary = "the task-list of sky-high disk-usage; token count 5; AKITA; eyJ; sk-ip; max_tokens"
    with trajrec.episode(tmp_path / "a", redact=False) as ep:
        ep.tool(lambda key: key, name="echo")
        ep.call("echo", key=KEY)
    with trajrec.episode(tmp_path / "b") as ep:
        ep.tool(lambda text: text, name="echo")
        ep.call("echo", text=ordinary)
    assert only(tmp_path / "a").transcript.attempts[0].result == KEY
    assert only(tmp_path / "b").transcript.attempts[0].arguments == {"text": ordinary}
    assert not only(tmp_path / "b").transcript.attempts[0].start.is_redacted
