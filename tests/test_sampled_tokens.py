"""The tokens of answers, and their log-probabilities, stand beside the messages to train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import trajrec
from trajrec.agents.routing import router
from trajrec.corpus.chat import Conversation
from trajrec.wire.dialects.choose import dialect_named
from trajrec.wire.exchange import HttpRequest
from trajrec.wire.sampled_tokens import SampledTokens, sampled_tokens

CHAT = "http://h/v1/chat/completions"
JSON = [("content-type", "application/json")]
ASKED = {"role": "user", "content": "Where?"}


def logprobs(*tokens: tuple[str, float]) -> dict[str, Any]:
    content = [
        {"token": text, "bytes": None, "logprob": number, "top_logprobs": []}
        for text, number in tokens
    ]
    return {"content": content, "refusal": None}


def choice(text: str, **fields: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"index": 0, "message": message, "finish_reason": "stop", **fields}


def answer_to(messages: list[Any], *choices: dict[str, Any], n: int | None = None) -> None:
    """Make a model call through the router as a tap does, and give it an answer."""
    body = json.dumps({"model": "m", "messages": messages}).encode()
    exchange = router.begin(HttpRequest("POST", CHAT, JSON, body))
    assert exchange is not None
    answer: dict[str, Any] = {"choices": list(choices), "prompt_token_ids": [7, len(messages)]}
    if n is not None:
        answer["usage"] = {"prompt_tokens": 1, "completion_tokens": n}
    exchange.responded(200, JSON)
    exchange.received(json.dumps(answer).encode())
    exchange.ended(None)


def talks(folder: Path) -> list[Conversation]:
    trajrec.close_logs()
    with trajrec.open(folder) as corpus:
        return list(corpus.messages())


def read(
    dialect: str, answer: Any, *, content_type: str = "application/json"
) -> SampledTokens | None:
    body = answer if type(answer) is bytes else json.dumps(answer).encode()
    content = dialect_named(dialect).answer(200, content_type, body)
    return sampled_tokens(content.value, 0, content.usage.output)


def sse(*events: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


THERE = choice("There.", logprobs=logprobs(("The", -0.5), ("re.", -0.25)), token_ids=[11, 12])


def test_each_answer_of_a_conversation_has_its_own_tokens(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path):
        answer_to([ASKED], THERE, n=2)
        said = {"role": "assistant", "content": "There."}
        last = choice("Yes", logprobs=logprobs(("Yes", -1.0)), token_ids=[13])
        answer_to([ASKED, said, {"role": "user", "content": "Sure?"}], last, n=1)
    [talk] = talks(tmp_path)
    assert [talk.messages[number]["content"] for number in talk.answers] == ["There.", "Yes"]
    assert talk.sampled == [
        SampledTokens(
            ids=[11, 12],
            texts=["The", "re."],
            logprobs=[-0.5, -0.25],
            prompt_ids=[7, 1],
            is_whole=True,
        ),
        SampledTokens(ids=[13], texts=["Yes"], logprobs=[-1.0], prompt_ids=[7, 3], is_whole=True),
    ]
    row = json.loads(json.dumps(talk.as_dict()))
    assert row["sampled"][1]["logprobs"] == [-1.0]


def test_equal_texts_at_two_places_keep_their_own_tokens(tmp_path: Path) -> None:
    ok = {"role": "assistant", "content": "OK"}
    more = {"role": "user", "content": "More"}
    with trajrec.episode(tmp_path):
        answer_to([ASKED], choice("OK", logprobs=logprobs(("OK", -1.0))))
        answer_to([ASKED, ok, more], choice("OK", logprobs=logprobs(("O", -2.0), ("K", -3.0))))
        answer_to([ASKED, ok, more, ok, more], choice("OK"))
    [talk] = talks(tmp_path)
    assert [one and one.logprobs for one in talk.sampled] == [[-1.0], [-2.0, -3.0], None]


def test_equal_answers_to_one_prompt_leave_their_tokens_unknown(tmp_path: Path) -> None:
    ok = {"role": "assistant", "content": "OK"}
    with trajrec.episode(tmp_path):
        answer_to([ASKED], choice("OK", logprobs=logprobs(("OK", -1.0))))
        answer_to([ASKED], choice("OK", logprobs=logprobs(("OK", -1.5))))
        answer_to([ASKED, ok, {"role": "user", "content": "A"}], choice("a"))
    found = {talk.messages[-1]["content"]: talk.sampled[0] for talk in talks(tmp_path)}
    assert found["a"] is None


def test_the_alternative_that_was_taken_has_its_own_tokens(tmp_path: Path) -> None:
    other = choice("Here.", logprobs=logprobs(("Here.", -3.0)))
    with trajrec.episode(tmp_path):
        answer_to([ASKED], other, THERE, n=3)
        said = {"role": "assistant", "content": "There."}
        answer_to([ASKED, said, {"role": "user", "content": "Sure?"}], choice("Yes"))
    [talk] = talks(tmp_path)
    assert talk.sampled[0] is not None
    assert (talk.sampled[0].ids, talk.sampled[0].is_whole) == ([11, 12], True)


def test_tokens_that_are_not_all_are_said_to_be_a_part() -> None:
    message = {"role": "assistant", "content": "I look.", "tool_calls": []}
    told = {"message": message, "logprobs": logprobs(("I", -1.0), (" look.", -2.0))}
    found = read("chat", {"choices": [told], "usage": {"completion_tokens": 20}})
    assert found is not None
    assert found.is_whole is False
    uncounted = read("chat", {"choices": [told]})
    assert uncounted is not None
    assert uncounted.is_whole is None


def test_a_log_probability_that_is_not_told_is_none() -> None:
    numbers = [("a", -9999.0), ("b", -1), ("c", None), ("d", "x"), ("e", float("nan"))]
    found = sampled_tokens({"choices": [{"logprobs": logprobs(*numbers)}]}, 0, None)  # type: ignore[arg-type]
    assert found is not None
    assert found.logprobs == [None, -1.0, None, None, None]


def test_ids_and_log_probabilities_of_other_lengths_are_not_paired() -> None:
    told = {"logprobs": logprobs(("a", -1.0)), "token_ids": [1, 2], "prompt_token_ids": [5]}
    assert read("chat", {"choices": [told]}) == SampledTokens(ids=[1, 2], prompt_ids=[5])


@pytest.mark.parametrize("ids", [[1, "2"], [True], [], "12", [-1], [1.5]])
def test_ids_that_are_no_numbers_are_unknown(ids: Any) -> None:
    assert read("chat", {"choices": [{"token_ids": ids}]}) is None


def test_ids_in_place_of_texts_are_read() -> None:
    told = logprobs(("token_id:13", -1.0), ("token_id:9", -2.0))
    assert read("chat", {"choices": [{"logprobs": told}]}) == SampledTokens(
        ids=[13, 9], logprobs=[-1.0, -2.0]
    )


def test_a_streamed_chat_has_the_tokens_of_a_whole_one() -> None:
    def piece(text: str, token: str, number: float, token_id: int) -> dict[str, Any]:
        told = logprobs((token, number))
        return {"index": 0, "delta": {"content": text}, "logprobs": told, "token_ids": [token_id]}

    body = sse(
        {"choices": [{"index": 0, "delta": {"role": "assistant"}}], "prompt_token_ids": [7]},
        {"choices": [piece("The", "The", -0.5, 11)], "prompt_token_ids": None},
        {"choices": [piece("re.", "re.", -0.25, 12)]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "logprobs": None}]},
        {"choices": [], "usage": {"completion_tokens": 2}},
    )
    whole = {"choices": [THERE], "prompt_token_ids": [7], "usage": {"completion_tokens": 2}}
    found = read("chat", body, content_type="text/event-stream")
    assert found is not None
    assert found == read("chat", whole)
    assert found.logprobs == [-0.5, -0.25]


def test_completions_without_a_chat_tell_tokens_in_columns() -> None:
    told = {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0], "text_offset": [0, 1]}
    found = read("chat", {"choices": [{"text": "ab", "logprobs": told}]})
    assert found == SampledTokens(texts=["a", "b"], logprobs=[-1.0, -2.0])
    # With `echo`, the first token is one of the prompt, and where the answer begins is not told.
    repeated = {**told, "token_logprobs": [None, -2.0]}
    assert read("chat", {"choices": [{"text": "ab", "logprobs": repeated}]}) is None


def test_the_tokens_of_a_gemini_stream_are_those_of_all_pieces() -> None:
    def piece(token: str, token_id: int, number: float, **more: Any) -> dict[str, Any]:
        chosen = [{"token": token, "tokenId": token_id, "logProbability": number}]
        result = {"chosenCandidates": chosen, "topCandidates": [{"candidates": chosen}]}
        content = {"role": "model", "parts": [{"text": token}]}
        return {"candidates": [{"content": content, "logprobsResult": result, **more}]}

    last = piece("b", 9, -2.0, finishReason="STOP") | {"usageMetadata": {"candidatesTokenCount": 2}}
    body = sse(piece("a", 8, -1.0), last)
    assert read("gemini", body, content_type="text/event-stream") == SampledTokens(
        ids=[8, 9], texts=["a", "b"], logprobs=[-1.0, -2.0], is_whole=True
    )


def test_the_tokens_of_an_ollama_stream_are_those_of_all_pieces() -> None:
    def piece(token: str, number: float, **more: Any) -> bytes:
        told = [{"token": token, "logprob": number, "bytes": list(token.encode())}]
        message = {"role": "assistant", "content": token}
        return json.dumps({"message": message, "logprobs": told, "done": False, **more}).encode()

    lines = [piece("a", -1.0), piece("b", -2.0), piece("", -3.0, done=True, eval_count=3)]
    found = read("ollama", b"\n".join(lines), content_type="application/x-ndjson")
    assert found == SampledTokens(texts=["a", "b", ""], logprobs=[-1.0, -2.0, -3.0], is_whole=True)


def test_the_tokens_of_responses_are_those_of_its_texts() -> None:
    told = [{"token": "Hi", "logprob": -1.0, "bytes": [72, 105], "top_logprobs": []}]
    content = [{"type": "output_text", "text": "Hi", "logprobs": told, "annotations": []}]
    items = [{"type": "reasoning", "summary": []}, {"type": "message", "content": content}]
    answer = {"output": items, "usage": {"output_tokens": 40}}
    found = read("responses", answer)
    assert found == SampledTokens(texts=["Hi"], logprobs=[-1.0], is_whole=False)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "text",
        {"choices": None},
        {"choices": [{"logprobs": 5}]},
        {"choices": [{"logprobs": {"content": [{}]}}]},
        {"choices": [{"logprobs": {"content": [7]}}]},
        {"choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": [-1.0, -2.0]}}]},
        {"candidates": [{"logprobsResult": {"chosenCandidates": [{"tokenId": "9"}]}}]},
        {"output": [{"content": [{"logprobs": {}}]}]},
        {"logprobs": True},
    ],
)
def test_an_answer_that_tells_no_tokens_has_none(answer: Any) -> None:
    assert sampled_tokens(answer, 0, 3) is None
    assert sampled_tokens(answer, 5, 3) is None
