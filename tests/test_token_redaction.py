"""Secrets stay out of the tokens of answers, which would spell them piece by piece."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import only

import trajrec
from trajrec.agents.routing import router
from trajrec.wire.exchange import HttpRequest

PIECES = [
    "The key is ",
    "sk",
    "-ant",
    "-api03",
    "-Zx81",
    "kPq0aT",
    "eVn4Rw",
    "7YbM2cQq",
    "12345678",
    " .",
]
IDS = list(range(7001, 7001 + len(PIECES)))
SECRETS = PIECES[3:-1]


def entry(piece: str) -> dict[str, Any]:
    told = {"token": piece, "logprob": -0.5, "bytes": list(piece.encode())}
    return {**told, "top_logprobs": [told]}


def spelled(body: bytes) -> list[str]:
    """Return what of the secret a recorded answer still has, as text, bytes or ids."""
    text = "".join(body.decode().split())
    found = [piece for piece in SECRETS if piece in text]
    found += [piece for piece in SECRETS if ",".join(map(str, piece.encode())) in text]
    return found + [str(number) for number in IDS[3:-1] if str(number) in text]


def recorded(folder: Path, body: bytes, kind: str, *, asked: str = "The key?") -> Any:
    request = json.dumps({"model": "m", "messages": [{"role": "user", "content": asked}]}).encode()
    url = "http://h/v1/chat/completions"
    with trajrec.episode(folder):
        exchange = router.begin(HttpRequest("POST", url, [], request))
        assert exchange is not None
        exchange.responded(200, [("content-type", kind)])
        for start in range(0, len(body), 100):
            exchange.received(body[start : start + 100])
        exchange.ended(None)
    trajrec.close_logs()
    return only(folder).transcript.exchanges[0]


def whole(**fields: Any) -> bytes:
    message = {"role": "assistant", "content": "".join(PIECES)}
    return json.dumps({"choices": [{"index": 0, "message": message, **fields}]}).encode()


def streamed(size: int, lag: int, *, has_content: bool = True) -> bytes:
    """Return a stream with some tokens in each piece, whose texts come some pieces later."""
    n = len(PIECES)
    groups = [list(range(start, min(start + size, n))) for start in range(0, n, size)]
    lines = []
    for tokens, texts in itertools.zip_longest(groups, [[]] * lag + groups, fillvalue=[]):
        content = "".join(PIECES[number] for number in texts) if has_content else ""
        piece = {
            "index": 0,
            "delta": {"content": content},
            "logprobs": {"content": [entry(PIECES[number]) for number in tokens]},
            "token_ids": [IDS[number] for number in tokens],
        }
        lines.append(b"data: " + json.dumps({"choices": [piece]}).encode() + b"\n\n")
    return b"".join([*lines, b"data: [DONE]\n\n"])


@pytest.mark.parametrize(
    "told",
    [
        {"logprobs": {"content": [entry(piece) for piece in PIECES]}},
        {"logprobs": {"content": [entry(f"token_id:{number}") for number in IDS]}},
        {"token_ids": IDS, "prompt_token_ids": [1, 2]},
        {"logprobs": {"tokens": PIECES, "token_logprobs": [-0.5] * len(PIECES)}},
    ],
)
def test_an_answer_without_its_secret_has_no_tokens_of_it(
    tmp_path: Path, told: dict[str, Any]
) -> None:
    assert spelled(whole(**told))
    exchange = recorded(tmp_path, whole(**told), "application/json")
    assert spelled(exchange.response_body) == []
    assert b"The key is [redacted" in exchange.response_body
    # It is JSON as before.
    assert json.loads(exchange.response_body)["choices"][0]["index"] == 0


@pytest.mark.parametrize("size", [1, 2, 3, 10])
@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("has_content", [True, False])
def test_a_stream_without_its_secret_has_no_tokens_of_it(
    tmp_path: Path, size: int, lag: int, has_content: bool
) -> None:
    body = streamed(size, lag, has_content=has_content)
    assert spelled(body)
    exchange = recorded(tmp_path, body, "text/event-stream")
    assert spelled(exchange.response_body) == []
    for line in exchange.response_body.splitlines():
        if line.startswith(b"data: {"):
            json.loads(line[6:])


def test_the_tokens_of_a_prompt_with_a_secret_are_not_kept(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": "No."}
    choice = {
        "index": 0,
        "message": message,
        "token_ids": [5],
        "logprobs": {"content": [entry("No.")]},
    }
    body = json.dumps({"choices": [choice], "prompt_token_ids": IDS}).encode()
    exchange = recorded(tmp_path, body, "application/json", asked=f"Is {''.join(PIECES)} right?")
    answer = json.loads(exchange.response_body)
    assert answer["prompt_token_ids"] is None
    # The answer says nothing secret.
    assert answer["choices"] == [choice]
    assert exchange.end.is_redacted
    other = recorded(tmp_path / "other", body, "application/json")
    assert other.response_body == body
    assert not other.end.is_redacted


def test_the_answer_of_a_client_has_no_tokens_of_its_secret(tmp_path: Path) -> None:
    answer = json.loads(whole(token_ids=IDS, logprobs={"content": [entry(p) for p in PIECES]}))
    with trajrec.episode(tmp_path) as ep:
        assert ep.model(lambda messages: answer, messages=[]) is answer
    trajrec.close_logs()
    episode = only(tmp_path)
    text = json.dumps(episode.transcript.model_calls[0].answer)
    assert "[redacted" in text
    assert spelled(text.encode()) == []
    assert answer["choices"][0]["token_ids"] == IDS


def test_without_a_secret_tokens_keep_their_bytes(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": "No."}
    told = {"logprobs": {"content": [entry("No.")]}, "token_ids": [5], "prompt_token_ids": IDS}
    body = json.dumps({"choices": [{"index": 0, "message": message, **told}]}).encode()
    assert recorded(tmp_path, body, "application/json").response_body == body


def test_the_streamed_answer_of_a_client_has_no_tokens_of_its_secret(tmp_path: Path) -> None:
    pieces = [
        {
            "choices": [
                {
                    "delta": {"content": piece},
                    "logprobs": {"content": [entry(piece)]},
                    "token_ids": [number],
                }
            ]
        }
        for piece, number in zip(PIECES, IDS, strict=True)
    ]
    with trajrec.episode(tmp_path) as ep:
        assert list(ep.model(lambda messages: iter(pieces), messages=[])) == pieces
    trajrec.close_logs()
    text = json.dumps(only(tmp_path).transcript.model_calls[0].answer)
    assert "[redacted" in text
    assert spelled(text.encode()) == []
