"""Secrets in streamed answers that are no lines, of which each object has a piece."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import only
from dialect_bodies import AMAZON, frame

import trajrec
from trajrec.wire.exchange import HttpRequest

KEY = "sk-ant-api03-" + "Ab1xYz9Q" * 11 + "AA"
SAID = f"The key is {KEY}, and that is all."


def converse(pieces: list[str]) -> bytes:
    deltas = [
        frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": piece}})
        for piece in pieces
    ]
    end = frame("messageStop", {"stopReason": "end_turn"})
    counts = frame("metadata", {"usage": {"inputTokens": 3, "outputTokens": 4}})
    return b"".join([frame("messageStart", {"role": "assistant"}), *deltas, end, counts])


def invoke(pieces: list[str]) -> bytes:
    usage = {"input_tokens": 3, "output_tokens": 1}
    events: list[Any] = [
        {"type": "message_start", "message": {"role": "assistant", "usage": usage}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": p}}
            for p in pieces
        ),
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 4}},
        {"type": "message_stop"},
    ]
    data = [base64.b64encode(json.dumps(event).encode()).decode() for event in events]
    return b"".join(frame("chunk", {"bytes": one, "p": "abc"}) for one in data)


def gemini(pieces: list[str]) -> bytes:
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 4}
    objects: list[Any] = [{"candidates": [{"content": {"parts": [{"text": p}]}}]} for p in pieces]
    objects.append({"candidates": [{"finishReason": "STOP"}], "usageMetadata": usage})
    # As the server writes it.
    return json.dumps(objects, indent=2).replace("\n", "\r\n").encode()


def ollama(pieces: list[str]) -> bytes:
    lines: list[Any] = [{"message": {"content": piece}, "done": False} for piece in pieces]
    lines.append({"done": True, "prompt_eval_count": 3, "eval_count": 4})
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


VERTEX = b'{"anthropic_version": "bedrock", "messages": []}'
FORMS: dict[str, tuple[Any, str, str, bytes]] = {
    "converse": (converse, AMAZON, "/model/m/converse-stream", b'{"messages": []}'),
    "invoke": (invoke, AMAZON, "/model/m/invoke-with-response-stream", VERTEX),
    "array": (
        gemini,
        "application/json; charset=UTF-8",
        "/v1beta/models/g:streamGenerateContent",
        b'{"contents": []}',
    ),
    "lines without a type": (ollama, "application/json", "/api/chat", b'{"messages": []}'),
}


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize("form", FORMS)
def test_secret_cut_over_objects_is_redacted_and_the_rest_stays(
    tmp_path: Path, form: str, size: int
) -> None:
    make, kind, path, asked = FORMS[form]
    body = make([SAID[start : start + size] for start in range(0, len(SAID), size)])
    with trajrec.episode(tmp_path) as ep:
        for sent in (body, body[:-9], make(["Nothing."])):
            exchange = ep.begin_exchange(HttpRequest("POST", f"https://h{path}", [], asked))
            assert exchange is not None
            exchange.responded(200, [("content-type", kind)])
            for start in range(0, len(sent), 700):
                exchange.received(sent[start : start + 700])
            exchange.ended(None)
    trajrec.close_logs()
    whole, cut, harmless = only(tmp_path).transcript.model_calls
    assert whole.wire is not None
    assert whole.wire.answer is not None
    answer = whole.wire.answer
    assert answer.text is not None
    assert answer.text.startswith("The key is [redacted api key ")
    assert answer.text.endswith("], and that is all.")
    assert (answer.is_complete, answer.usage[:2]) == (True, (3, 4))
    for call in (whole, cut):
        assert call.wire is not None
        assert call.wire.answer is not None
        assert KEY not in (call.wire.answer.text or "")
    (*_, last) = only(tmp_path).transcript.exchanges
    assert harmless.start.number == last.start.model_call
    assert last.response_body == make(["Nothing."])


def test_text_in_an_array_of_no_objects_is_searched(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        exchange = ep.begin_exchange(HttpRequest("POST", "https://h/v1/embeddings", [], b"{}"))
        assert exchange is not None
        exchange.responded(200, [("content-type", "application/json")])
        exchange.received(json.dumps([KEY, {"a": "b"}]).encode())
        exchange.ended(None)
    trajrec.close_logs()
    (found,) = only(tmp_path).transcript.exchanges
    assert KEY.encode() not in found.response_body
    assert found.response_body.endswith(b'{"a": "b"}]')
