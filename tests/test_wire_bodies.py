"""Requests that are read together: as one by one, with each new part read once."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import dialect_bodies as bodies
import pytest
from conftest import only

import trajrec
from trajrec.wire.body_reader import BodyReader
from trajrec.wire.exchange import HttpRequest
from trajrec.wire.json_bodies import MAX_DEPTH, NOT_JSON, read_json

JSON = [("content-type", "application/json")]


def same(a: Any, b: Any) -> bool:
    """Return whether two values are alike to the type; NaN is like itself."""
    return repr(a) == repr(b) and type(a) is type(b)


def test_bodies_read_together_are_as_if_read_alone() -> None:
    draw = random.Random(3)
    read = BodyReader().read
    texts = [json.dumps(request).encode() for _, request in bodies.REQUESTS.values()]
    insets = [b"NaN", b"\\ud800", b"\xff", b"[", b"]", b"}", b'"', b"1e999", b"\x00", b"9" * 30]
    n_json = 0
    for _ in range(2_000):
        text = draw.choice(texts)
        for _ in range(draw.randrange(3)):
            cut = draw.randrange(len(text))
            inset = draw.choice([b"", *insets])
            text = text[:cut] + inset + text[cut + draw.randrange(3) :]
        alone = read_json(text)
        n_json += alone is not NOT_JSON
        assert same(read(text), alone), text
    assert n_json > 500


@pytest.mark.parametrize("body", [b"", b"[1]", b"7", b"\xef\xbb\xbf{}", b'{"a":1,"a":[2]}', b"{}x"])
def test_other_bodies_are_read_alike(body: bytes) -> None:
    assert same(BodyReader().read(body), read_json(body))


@pytest.mark.parametrize("depth", [MAX_DEPTH - 2, MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1])
@pytest.mark.parametrize("form", ['{"a":%s}', '{"a":[%s]}', '{"a":{"b":%s}}'])
def test_the_limit_of_nesting_is_the_same(depth: int, form: str) -> None:
    body = (form % ("[" * depth + "]" * depth)).encode()
    assert same(BodyReader().read(body), read_json(body))


def test_calls_without_ids_are_answered_by_name_and_place(tmp_path: Path) -> None:
    asked, told = bodies.GEMINI_REQUEST["contents"][1:]  # type: ignore[index]
    first = {**bodies.GEMINI_REQUEST, "contents": bodies.GEMINI_REQUEST["contents"][:1]}  # type: ignore[index]
    with trajrec.episode(tmp_path) as ep:
        for request in (first, bodies.GEMINI_REQUEST):
            url = bodies.GEMINI_URL.format("generateContent")
            body = json.dumps(request).encode()
            exchange = ep.begin_exchange(HttpRequest("POST", url, JSON, body))
            exchange.responded(200, JSON)
            exchange.received(json.dumps({"candidates": [{"content": asked}]}).encode())
            exchange.ended(None)
    trajrec.close_logs()
    attempts = only(tmp_path).transcript.attempts[:2]
    results = [part["functionResponse"]["response"] for part in told["parts"]]
    assert [attempt.result for attempt in attempts] == results
