"""Dialects of model calls: requests, answers, streams, tokens, errors."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import dialect_bodies as bodies
import pytest
from dialect_bodies import ANSWERS, REQUESTS, SSE, STREAMS, changed, damaged, dump, frame, sse
from tiers import Share, suite, third_slow

from trajrec.values.diff import diff
from trajrec.wire.contents import AnswerContent, Message, ToolCall, ToolResult, Usage
from trajrec.wire.dialects.choose import dialect_named, dialect_of
from trajrec.wire.json_bodies import NOT_JSON
from trajrec.wire.results import results_of

DIALECTS = sorted(REQUESTS)
JSON = "application/json"

CALL_IDS = {
    "chat": ("call_1", "call_2"),
    "responses": ("call_1", "call_2"),
    "anthropic": ("toolu_1", "toolu_2"),
    "gemini": (None, None),
    "ollama": (None, None),
    "bedrock": ("tooluse_1", "tooluse_2"),
}
HAS_TEXT_ARGUMENTS = ("chat", "responses")


def calls_of(name: str) -> list[ToolCall]:
    """Return the two calls of the story."""
    first, second = CALL_IDS[name]
    is_malformed = name in HAS_TEXT_ARGUMENTS
    arguments = bodies.BROKEN if is_malformed else {}
    text = '{"order":"O1"}' if name in HAS_TEXT_ARGUMENTS else None
    return [
        ToolCall(first, "get_order", {"order": "O1"}, False, 0, text=text),
        ToolCall(second, "refund", arguments, is_malformed, 1),
    ]


def streamed(name: str, body: bytes, content_type: str = SSE) -> AnswerContent:
    return dialect_named(name).answer(200, content_type, body)


def whole(name: str, value: Any, status: int = 200) -> AnswerContent:
    return dialect_named(name).answer(status, JSON, dump(value))


@pytest.mark.parametrize("name", DIALECTS)
def test_request_tells_its_model_parameters_and_prompt(name: str) -> None:
    url, value = REQUESTS[name]
    dialect = dialect_of(url, dump(value))
    assert dialect.name == name
    request = dialect.request(url, dump(value))
    assert request.value == value
    assert (
        request.model
        == {
            "chat": "gpt-5-mini",
            "responses": "gpt-5-mini",
            "anthropic": "claude-test",
            "gemini": "gemini-2.5-flash",
            "ollama": "qwen3",
            "bedrock": "amazon.nova-lite-v1:0",
        }[name]
    )
    assert request.system == "You help."
    assert request.is_streamed
    assert request.parameters["temperature"] == 0.5
    assert not {"messages", "input", "contents", "tools", "system"} & {*request.parameters}
    assert request.previous_response_id == ("resp_0" if name == "responses" else None)
    offered = request.tools[0]
    assert offered == ("get_order", "Look up an order.", bodies.SCHEMA)


@pytest.mark.parametrize("name", DIALECTS)
def test_messages_read_alike_in_every_dialect(name: str) -> None:
    url, value = REQUESTS[name]
    dialect = dialect_named(name)
    messages = [dialect.message(one) for one in dialect.request(url, dump(value)).messages]
    user = next(one for one in messages if one.role == "user")
    assert user.text == "Look at\norder O1."
    calls = [call for one in messages if one.role == "assistant" for call in one.calls]
    assert [call._replace(number=0) for call in calls] == [
        call._replace(number=0) for call in calls_of(name)
    ]
    results = [result for one in messages if one.role == "tool" for result in one.results]
    assert [result.text for result in results] == ['{"cents":500}', "no such order"]
    assert tuple(result.call_id for result in results) == CALL_IDS[name]
    # Without ids, names and the order join results to calls.
    if CALL_IDS[name][0] is None:
        assert [result.name for result in results] == ["get_order", "refund"]
    can_say = {"anthropic": (False, True), "bedrock": (False, True), "gemini": (None, True)}
    assert tuple(result.is_error for result in results) == can_say.get(name, (None, None))


@pytest.mark.parametrize("name", DIALECTS)
def test_results_join_the_calls_of_the_answer_before(name: str) -> None:
    url, value = REQUESTS[name]
    dialect = dialect_named(name)
    calls = whole(name, ANSWERS[name]).calls
    messages = [dialect.message(one) for one in dialect.request(url, dump(value)).messages]
    joined = results_of(calls, messages)
    assert [result.text if result else None for result in joined] == [
        '{"cents":500}',
        "no such order",
    ]
    # One result is missing yet; the user said something more.
    last = messages[-1]
    messages[-1] = last._replace(results=last.results[:-1])
    joined = results_of(calls, [*messages, Message("user", "Well?")])
    assert [result is None for result in joined] == [False, True]


def test_results_without_ids_join_equal_names_in_order() -> None:
    calls = [ToolCall(None, name, {}, False, k) for k, name in enumerate("abac")]
    earlier = Message("tool", "", results=(ToolResult(None, "a", "old", None, None, 0),))
    results = [ToolResult(None, name, str(k), None, None, k) for k, name in enumerate("baad")]
    messages = [earlier, Message("assistant", ""), Message("tool", "", results=tuple(results))]
    joined = results_of(calls, messages)
    assert [result.text if result else None for result in joined] == ["1", "0", "2", None]
    nameless = [result._replace(name=None) for result in results]
    joined = results_of(calls, [Message("tool", "", results=tuple(nameless))])
    assert [result.text if result else None for result in joined] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("name", DIALECTS)
def test_answer_tells_its_text_calls_and_end(name: str) -> None:
    answer = whole(name, ANSWERS[name])
    assert answer.value == ANSWERS[name]
    assert answer.text == "Let me look."
    assert list(answer.calls) == calls_of(name)
    assert answer.is_complete is True
    assert not answer.is_streamed
    assert answer.error is None
    assert (
        answer.finish_reason
        == {
            "chat": "tool_calls",
            "responses": "completed",
            "anthropic": "tool_use",
            "gemini": "STOP",
            "ollama": "stop",
            "bedrock": "tool_use",
        }[name]
    )
    ids = {"chat": "chatcmpl-1", "responses": "resp_1", "anthropic": "msg_1", "gemini": "r1"}
    assert answer.response_id == ids.get(name)


@pytest.mark.parametrize("name", DIALECTS)
def test_stream_is_put_together_to_the_whole_answer(name: str) -> None:
    content_type, body = STREAMS[name]
    answer = streamed(name, body, content_type)
    assert diff(ANSWERS[name], answer.value) == []
    expected = whole(name, ANSWERS[name])
    assert answer == expected._replace(value=answer.value, is_streamed=True)


def responses_without_end() -> bytes:
    return sse(*bodies.RESPONSES_EVENTS[:-1], names=True)


BROKEN_STREAMS = {
    "chat": sse(*bodies.CHAT_CHUNKS[:-2]),
    "responses": responses_without_end(),
    "anthropic": sse(*bodies.ANTHROPIC_EVENTS[:-2]),
    "gemini": sse(*bodies.GEMINI_CHUNKS[:-1]),
    "ollama": b"".join(dump(line) + b"\n" for line in bodies.OLLAMA_LINES[:-1]),
    "bedrock": b"".join(frame(*event) for event in bodies.BEDROCK_EVENTS[:-2]),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_broken_stream_gives_its_part_and_no_count(name: str) -> None:
    content_type, _ = STREAMS[name]
    # Another event has begun.
    answer = streamed(name, BROKEN_STREAMS[name] + BROKEN_STREAMS[name][:9], content_type)
    assert answer.is_complete is False
    assert answer.text == "Let me look."
    assert answer.calls[:1] == tuple(calls_of(name)[:1]) or name == "gemini"
    assert answer.usage.output is None
    assert answer.usage.reasoning is None
    assert answer.error is None


@pytest.mark.parametrize("name", DIALECTS)
def test_cut_at_any_byte_a_stream_is_never_complete(name: str) -> None:
    content_type, body = STREAMS[name]
    # Only the end of the last line may be missing; Bedrock's counts come behind the mark.
    needed = len(body) - 6
    if name == "bedrock":
        needed -= len(frame(*bodies.BEDROCK_EVENTS[-1]))
    for end in (*range(0, needed, 7), needed):
        assert not streamed(name, body[:end], content_type).is_complete


CHAT_COUNTS = {"prompt_tokens": 82, "completion_tokens": 17}
USAGES: list[tuple[str, str, Any, Usage]] = [
    ("chat", "usage", bodies.CHAT_USAGE, Usage(82, 17, 64, None, 9)),
    ("chat", "usage", CHAT_COUNTS, Usage(82, 17)),
    (
        "chat",
        "usage",
        {**CHAT_COUNTS, "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 7}},
        Usage(82, 17, 0, 7),
    ),
    ("chat", "usage", {"prompt_tokens": 5, "total_tokens": 5}, Usage(5)),
    ("responses", "usage", ANSWERS["responses"]["usage"], Usage(82, 17, 64, None, 9)),
    ("responses", "usage", {"input_tokens": 8, "output_tokens": 3}, Usage(8, 3)),
    ("anthropic", "usage", ANSWERS["anthropic"]["usage"], Usage(82, 17, 64, 10)),
    ("anthropic", "usage", {"input_tokens": 8, "output_tokens": 3}, Usage(8, 3)),
    ("anthropic", "usage", {"cache_read_input_tokens": 8}, Usage(None, None, 8)),
    (
        "anthropic",
        "usage",
        {"input_tokens": 8, "output_tokens": 3, "output_tokens_details": {"thinking_tokens": 2}},
        Usage(8, 3, None, None, 2),
    ),
    ("gemini", "usageMetadata", bodies.GEMINI_USAGE, Usage(82, 17, 64, None, 9)),
    ("gemini", "usageMetadata", {"promptTokenCount": 4, "candidatesTokenCount": 2}, Usage(4, 2)),
    (
        "gemini",
        "usageMetadata",
        {"promptTokenCount": 4, "thoughtsTokenCount": 9},
        Usage(4, 9, None, None, 9),
    ),
    ("gemini", "usageMetadata", {"promptTokenCount": 4}, Usage(4)),
    (
        "gemini",
        "usageMetadata",
        # The server has searched, and told the model what it found.
        {"promptTokenCount": 4, "toolUsePromptTokenCount": 90, "candidatesTokenCount": 2},
        Usage(94, 2),
    ),
    ("ollama", "prompt_eval_count", 82, Usage(82, 17)),
    ("ollama", "eval_count", None, Usage(82)),
    ("bedrock", "usage", ANSWERS["bedrock"]["usage"], Usage(82, 17, 64, 10)),
    ("bedrock", "usage", {"inputTokens": 8, "outputTokens": 3}, Usage(8, 3)),
]


@pytest.mark.parametrize("status", ["queued", "in_progress", "completed", "incomplete"])
def test_answer_that_comes_later_is_not_complete(status: str) -> None:
    answer = whole("responses", {**ANSWERS["responses"], "status": status})
    assert answer.is_complete is (status in ("completed", "incomplete"))


@pytest.mark.parametrize(("name", "member", "usage", "expected"), USAGES)
def test_tokens_are_counted_by_the_table(
    name: str, member: str, usage: Any, expected: Usage
) -> None:
    assert whole(name, {**ANSWERS[name], member: usage}).usage == expected


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("usage", [None, [], "9", 9, {}, {"a": 1}])
def test_missing_counts_are_unknown_and_never_zero(name: str, usage: Any) -> None:
    members = {"usage": usage, "usageMetadata": usage, "eval_count": "9"}
    value = {**ANSWERS[name], **members}
    value.pop("prompt_eval_count", None)
    assert whole(name, value).usage == Usage()


@pytest.mark.parametrize("count", [-1, True, 1.5, "7", 2**63, None, [1]])
def test_count_that_is_no_count_is_unknown(count: Any) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": 3}
    assert whole("chat", {**ANSWERS["chat"], "usage": usage}).usage == Usage(None, 3)


def test_chat_stream_without_usage_has_none() -> None:
    answer = streamed("chat", sse(*bodies.CHAT_CHUNKS[:-1], done=True))
    assert answer.is_complete
    assert answer.usage == Usage()


def test_counts_so_far_of_a_broken_chat_stream_are_no_totals() -> None:
    # Some servers count in each chunk.
    chunks = [{**chunk, "usage": CHAT_COUNTS} for chunk in bodies.CHAT_CHUNKS]
    assert streamed("chat", sse(*chunks[:4])).usage == Usage(82, None)
    assert streamed("chat", sse(*chunks[:-1])).usage == Usage(82, 17)


def test_output_of_a_message_that_broke_off_is_unknown() -> None:
    # The first event counts one token, which is no total.
    answer = streamed("anthropic", sse(*bodies.ANTHROPIC_EVENTS[:9]))
    assert answer.usage == Usage(82, None, 64, 10)


ERRORS: list[tuple[str, int, Any, tuple[str | None, str | None, str | None]]] = [
    (
        "chat",
        429,
        {"error": {"message": "slow down", "type": "tokens", "param": None, "code": "limit"}},
        ("tokens", "slow down", "limit"),
    ),
    (
        "responses",
        400,
        {"error": {"message": "bad", "type": "invalid_request_error", "code": None}},
        ("invalid_request_error", "bad", None),
    ),
    (
        "anthropic",
        529,
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        ("overloaded_error", "Overloaded", None),
    ),
    (
        "gemini",
        400,
        {"error": {"code": 400, "message": "bad", "status": "INVALID_ARGUMENT"}},
        ("INVALID_ARGUMENT", "bad", "400"),
    ),
    (
        "gemini",
        400,
        [{"error": {"code": 400, "message": "bad", "status": "INVALID_ARGUMENT"}}],
        ("INVALID_ARGUMENT", "bad", "400"),
    ),
    ("ollama", 404, {"error": "model 'x' not found"}, (None, "model 'x' not found", None)),
    (
        "bedrock",
        400,
        {"__type": "ValidationException", "message": "bad"},
        ("ValidationException", "bad", None),
    ),
    (
        "chat",
        422,
        {"object": "error", "message": {"detail": [1]}, "type": "invalid", "code": 7},
        ("invalid", '{"detail":[1]}', "7"),
    ),
    ("chat", 200, {"error": {"message": "upstream", "code": 502}}, (None, "upstream", "502")),
    ("chat", 500, {}, (None, None, None)),
]


@pytest.mark.parametrize(("name", "status", "value", "expected"), ERRORS)
def test_error_is_read_in_the_form_of_its_api(
    name: str, status: int, value: Any, expected: tuple[str | None, ...]
) -> None:
    answer = whole(name, value, status)
    assert answer.error == expected
    assert answer.is_complete is False
    assert answer.usage == Usage()
    assert answer.calls == ()


@pytest.mark.parametrize("name", [*DIALECTS, "unknown"])
def test_page_of_a_gateway_is_the_message_of_its_error(name: str) -> None:
    page = b"<html><h1>502 Bad Gateway</h1>" + b" " * 9_000
    answer = dialect_named(name).answer(502, "text/html", page)
    assert answer.value is NOT_JSON
    assert answer.error is not None
    assert answer.error.message == page.decode()[:4_000]
    assert not answer.is_complete


STREAM_ERRORS = {
    "chat": sse(*bodies.CHAT_CHUNKS[:3], {"error": {"message": "boom", "type": "server_error"}}),
    "responses": sse(
        *bodies.RESPONSES_EVENTS[:-1],
        {"type": "error", "code": "server_error", "message": "boom", "param": None},
    ),
    "anthropic": sse(
        *bodies.ANTHROPIC_EVENTS[:9],
        {"type": "error", "error": {"type": "server_error", "message": "boom"}},
    ),
    "gemini": sse(
        *bodies.GEMINI_CHUNKS[:3], {"error": {"status": "server_error", "message": "boom"}}
    ),
    "ollama": BROKEN_STREAMS["ollama"] + dump({"error": "boom"}) + b"\n",
    "bedrock": BROKEN_STREAMS["bedrock"] + frame("server_error", {"message": "boom"}, "exception"),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_error_within_a_stream_is_read(name: str) -> None:
    answer = streamed(name, STREAM_ERRORS[name], STREAMS[name][0])
    assert answer.error is not None
    assert answer.error.message == "boom"
    assert "server_error" in (answer.error.kind, answer.error.code) or name == "ollama"
    assert not answer.is_complete
    assert answer.text == "Let me look." or name == "anthropic"


@pytest.mark.parametrize("names", [True, False])
def test_failed_response_is_an_error(names: bool) -> None:
    failed = {
        **ANSWERS["responses"],
        "status": "failed",
        "error": {"code": "rate_limit_exceeded", "message": "boom"},
    }
    event = {"type": "response.failed", "response": failed}
    for answer in (streamed("responses", sse(event, names=names)), whole("responses", failed)):
        assert answer.error == (None, "boom", "rate_limit_exceeded")
        assert not answer.is_complete


def test_incomplete_response_tells_the_reason() -> None:
    cut = {
        **ANSWERS["responses"],
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
    }
    answer = streamed("responses", sse({"type": "response.incomplete", "response": cut}))
    assert answer.finish_reason == "max_output_tokens"
    assert answer.is_complete
    assert answer.usage.output == 17


# Forms that other servers and older APIs have.


def chat_stream(*deltas: Any) -> AnswerContent:
    chunks = [{"id": "c", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    return streamed("chat", sse(*chunks, done=True))


def call_delta(**fields: Any) -> dict[str, Any]:
    return {"tool_calls": [fields]}


def test_calls_under_one_number_are_told_apart_by_their_ids() -> None:
    answer = chat_stream(
        call_delta(index=0, id="a", function={"name": "look", "arguments": "{}"}),
        call_delta(index=0, id="b", function={"name": "look", "arguments": '{"x":1}'}),
    )
    assert [(call.call_id, call.arguments) for call in answer.calls] == [("a", {}), ("b", {"x": 1})]


def test_calls_without_numbers_are_continued() -> None:
    answer = chat_stream(
        call_delta(id="a", function={"name": "look", "arguments": '{"x"'}),
        call_delta(function={"arguments": ":1}"}),
        call_delta(id="b", function={"name": "go", "arguments": ""}),
    )
    assert [(call.name, call.arguments) for call in answer.calls] == [
        ("look", {"x": 1}),
        ("go", {}),
    ]


def test_id_and_name_in_each_piece_count_once() -> None:
    answer = chat_stream(
        {"role": "assistant", **call_delta(index=0, id="a", function={"name": "look"})},
        {
            "role": "assistant",
            **call_delta(
                index=0, id="a", type="function", function={"name": "look", "arguments": "{"}
            ),
        },
        {
            "role": "assistant",
            **call_delta(
                index=0, id="a", type="function", function={"name": "look", "arguments": "}"}
            ),
        },
    )
    assert answer.calls == (ToolCall("a", "look", {}, False, 0, text="{}"),)
    message = answer.value["choices"][0]["message"]
    assert message["role"] == "assistant"
    assert message["tool_calls"][0]["type"] == "function"


def test_parts_before_a_text_stay() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Two calls."}]}
    answer = chat_stream({"content": [thinking]}, {"content": "Let me "}, {"content": "look."})
    assert answer.text == "Let me look."
    content = answer.value["choices"][0]["message"]["content"]
    assert content == [thinking, {"type": "text", "text": "Let me look."}]


def test_alternatives_keep_their_own_texts_and_calls() -> None:
    def chunk(index: int, **delta: Any) -> dict[str, Any]:
        return {"choices": [{"index": index, "delta": delta}]}

    call = {"index": 0, "id": "a", "function": {"name": "look", "arguments": "{}"}}
    answer = streamed(
        "chat",
        sse(
            chunk(1, content="b"),
            chunk(0, content="a"),
            chunk(1, content="b", tool_calls=[call]),
            done=True,
        ),
    )
    assert answer.text == "a"
    assert [choice["message"]["content"] for choice in answer.value["choices"]] == ["a", "bb"]
    assert answer.calls == (ToolCall("a", "look", {}, False, 0, choice=1, text="{}"),)


def test_older_function_call_is_a_call_without_id() -> None:
    call = {"name": "look", "arguments": '{"x":1}'}
    message = {"role": "assistant", "content": None, "function_call": call}
    answer = whole("chat", {"choices": [{"index": 0, "message": message}]})
    assert answer.calls == (ToolCall(None, "look", {"x": 1}, False, 0, text='{"x":1}'),)
    pieces = chat_stream(
        {"function_call": {"name": "look", "arguments": ""}},
        {"function_call": {"arguments": '{"x":1}'}},
    )
    assert pieces.calls == answer.calls
    result = dialect_named("chat").message({"role": "function", "name": "look", "content": "ok"})
    assert result.role == "tool"
    assert result.results[0].name == "look"


@pytest.mark.parametrize("name", ["chat", "responses"])
def test_input_of_a_custom_tool_is_text_and_not_malformed(name: str) -> None:
    if name == "chat":
        call = {"id": "a", "type": "custom", "custom": {"name": "note", "input": "{x"}}
        value: Any = {"choices": [{"message": {"tool_calls": [call]}}]}
        stream = chat_stream(
            call_delta(index=0, id="a", type="custom", custom={"name": "note", "input": ""}),
            call_delta(index=0, custom={"input": "{x"}),
        )
    else:
        item = {"type": "custom_tool_call", "call_id": "a", "name": "note", "input": "{x"}
        value = {"output": [item]}
        stream = streamed(
            name,
            sse(
                {
                    "type": "response.output_item.added",
                    "output_index": 0,
                    "item": {**item, "input": ""},
                },
                {"type": "response.custom_tool_call_input.delta", "output_index": 0, "delta": "{x"},
            ),
        )
    assert whole(name, value).calls == (ToolCall("a", "note", "{x", False, 0),)
    assert stream.calls == whole(name, value).calls


def test_calls_that_the_provider_ran_are_none_of_the_agents() -> None:
    shell = {"type": "shell_call", "call_id": "a", "action": {"commands": ["ls"]}}
    done = {"type": "shell_call_output", "call_id": "a", "output": []}
    search = {"type": "web_search_call", "id": "w", "action": {"type": "search"}}
    assert whole("responses", {"output": [search, shell, done]}).calls == ()
    call = ToolCall("a", "shell", {"commands": ["ls"]}, False, 0)
    assert whole("responses", {"output": [search, shell]}).calls == (call,)
    block = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    assert whole("anthropic", {"content": [block]}).calls == ()


def test_malformed_input_of_anthropic_keeps_its_raw_text() -> None:
    events: list[Any] = bodies.ANTHROPIC_EVENTS
    start = next(e for e in events if e.get("content_block", {}).get("name") == "get_order")
    delta = {"type": "input_json_delta", "partial_json": bodies.BROKEN}
    piece = {"type": "content_block_delta", "index": 2, "delta": delta}
    answer = streamed("anthropic", sse(events[0], start, piece))
    assert answer.calls == (ToolCall("toolu_1", "get_order", bodies.BROKEN, True, 0),)


def test_anthropic_on_bedrock_is_read_from_frames() -> None:
    import base64

    url = bodies.BEDROCK_URL.format("invoke-with-response-stream")
    request = {**bodies.ANTHROPIC_REQUEST, "anthropic_version": "bedrock-2023-05-31"}
    del request["model"], request["stream"]
    dialect = dialect_of(url, dump(request))
    assert dialect.name == "anthropic"
    assert dialect.request(url, dump(request)).model == "amazon.nova-lite-v1:0"
    assert dialect.request(url, dump(request)).is_streamed
    body = b"".join(
        frame("chunk", {"bytes": base64.b64encode(dump(event)).decode(), "p": "abc"})
        for event in bodies.ANTHROPIC_EVENTS
    )
    answer = dialect.answer(200, bodies.AMAZON, body)
    assert answer.value == ANSWERS["anthropic"]
    assert answer.is_complete


def test_gemini_streams_as_an_array_too() -> None:
    text = json.dumps(bodies.GEMINI_CHUNKS, indent=1).encode()
    answer = streamed("gemini", text, JSON)
    assert answer.value == ANSWERS["gemini"]
    assert answer.is_complete
    assert answer.is_streamed
    cut = streamed("gemini", text[: len(text) // 2], JSON)
    assert not cut.is_complete
    assert cut.text is not None
    assert "Let me look.".startswith(cut.text)


def test_gemini_takes_both_spellings_of_names() -> None:
    value = {
        "system_instruction": {"parts": {"text": "You help."}},
        "contents": {"parts": {"text": "hi"}},
        "tools": [{"function_declarations": [{"name": "look", "parameters": bodies.SCHEMA}]}],
        "generation_config": {"temperature": 0.5},
    }
    url = bodies.GEMINI_URL.format("generateContent")
    request = dialect_named("gemini").request(url, dump(value))
    assert request.system == "You help."
    assert [dialect_named("gemini").message(one).text for one in request.messages] == ["hi"]
    assert request.tools == (("look", None, bodies.SCHEMA),)
    assert request.parameters == {"temperature": 0.5}
    assert not request.is_streamed


def gemini_arguments(*pieces: Any) -> ToolCall:
    calls = [{"functionCall": {"name": "look", "willContinue": True}}]
    calls += [{"functionCall": {"partialArgs": [p], "willContinue": True}} for p in pieces]
    calls.append({"functionCall": {}})
    chunks = [{"candidates": [{"content": {"parts": [part]}}]} for part in calls]
    return streamed("gemini", sse(*chunks)).calls[0]


def test_gemini_arguments_in_pieces_are_put_together() -> None:
    call = gemini_arguments(
        {"jsonPath": "$.city", "stringValue": "New ", "willContinue": True},
        {"jsonPath": "$.city", "stringValue": "York"},
        {"jsonPath": "$.days[0].n", "numberValue": 3},
    )
    assert call == ToolCall(None, "look", {"city": "New York", "days": [{"n": 3}]}, False, 0)


@pytest.mark.parametrize("path", ["$", "city", "$[9]", "$.a[7]", "$..a", "$" + ".a" * 99])
def test_gemini_piece_of_an_unknown_form_makes_the_call_malformed(path: str) -> None:
    call = gemini_arguments({"jsonPath": path, "stringValue": "x"})
    assert call.is_malformed
    assert path in call.arguments


def test_refused_prompt_of_gemini_is_complete() -> None:
    value = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}}
    for answer in (whole("gemini", value), streamed("gemini", sse(value))):
        assert answer.finish_reason == "SAFETY"
        assert answer.is_complete
        assert answer.text is None


def test_legacy_completions_and_embeddings_are_read() -> None:
    url = "https://example.org/v1/completions"
    dialect = dialect_of(url, b'{"prompt": "Once", "model": "m", "stream": true}')
    assert dialect.name == "completions"
    assert dialect.message("Once").text == "Once"
    pieces = [{"choices": [{"index": 0, "text": text}]} for text in ("upon ", "a time")]
    assert dialect.answer(200, SSE, sse(*pieces, done=True)).text == "upon a time"
    url = "https://example.org/v1/embeddings"
    dialect = dialect_of(url, b'{"input": ["a", "b"], "model": "m"}')
    assert dialect.name == "embeddings"
    assert len(dialect.request(url, b'{"input": ["a", "b"], "model": "m"}').messages) == 2
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    assert dialect.answer(200, JSON, dump({"data": [], "usage": usage})).usage == Usage(4)


def test_completion_of_ollama_is_read() -> None:
    url = "http://127.0.0.1:11434/api/generate"
    body = dump({"model": "qwen3", "prompt": "Once", "system": "You tell.", "stream": False})
    dialect = dialect_of(url, body)
    request = dialect.request(url, body)
    assert (dialect.name, request.system, request.messages) == ("ollama", "You tell.", ["Once"])
    assert not request.is_streamed
    lines = [
        {"response": "upon ", "done": False},
        {"response": "a time", "done": False},
        {"response": "", "done": True, "done_reason": "length", "eval_count": 4},
    ]
    answer = streamed("ollama", b"\n".join(map(dump, lines)), "application/x-ndjson")
    assert (answer.text, answer.finish_reason, answer.usage.output) == ("upon a time", "length", 4)


@pytest.mark.parametrize(
    ("url", "body", "name"),
    [
        (
            "https://x/openai/deployments/d/chat/completions?api-version=1",
            '{"messages":[]}',
            "chat",
        ),
        ("https://x/v1/responses/", '{"input":"hi"}', "responses"),
        ("https://x/v1/responses", '{"answers":[1]}', "unknown"),
        ("https://x/v1/threads/t/messages", '{"role":"user","content":"hi"}', "unknown"),
        ("https://x/v1/messages", '{"messages":[]}', "anthropic"),
        ("https://x/v1/messages", "", "unknown"),
        ("https://x/v1/chat/completions", "hello", "unknown"),
        ("https://x/model/meta.llama/invoke", '{"prompt":"hi"}', "unknown"),
        ("https://x/other", '{"messages":[]}', "unknown"),
        ("", "", "unknown"),
    ],
)
def test_dialect_is_told_by_address_and_body(url: str, body: str, name: str) -> None:
    assert dialect_of(url, body.encode()).name == name


def test_model_of_azure_stands_in_the_address() -> None:
    url = "https://x.openai.azure.com/openai/deployments/my%20gpt/chat/completions?api-version=1"
    assert dialect_named("chat").request(url, b'{"messages":[]}').model == "my gpt"


def test_unknown_dialect_gives_json_and_guesses_nothing() -> None:
    dialect = dialect_named("unknown")
    request = dialect.request("https://x/other", dump(bodies.CHAT_REQUEST))
    assert request.value == bodies.CHAT_REQUEST
    assert request[1:] == type(request)(None)[1:]
    answer = dialect.answer(200, SSE, STREAMS["chat"][1])
    assert answer.value == bodies.CHAT_CHUNKS
    assert answer[1:] == AnswerContent(None, is_streamed=True)[1:]


# Hostile bodies.

HOSTILE = [
    b"",
    b"[" * 4_000,
    b'{"a":' * 4_000,
    b"[" * 900 + b"]" * 900,
    b'{"messages":' * 500 + b"1" + b"}" * 500,
    b"1" * 5_000,
    b"NaN",
    b'{"a": "\xff"}',
    b'{"choices": 1, "choices": [{"message": {"content": "last"}}]}',
    b"\x00" * 50,
    b"data: " * 1_000,
    b"data: [DONE]",
    b"data: {\n\ndata: []\n\ndata: 7\n\ndata: null\n\n",
    b"\xef\xbb\xbfdata: {}\n\n",
    b'{"choices": [{"index": 1' + b"0" * 400 + b', "delta": {"content": "x"}}]}',
]
CONTENT_TYPES = ["", JSON, SSE, "application/x-ndjson", bodies.AMAZON]


def read_all(name: str, url: str, request: bytes, status: int, kind: str, body: bytes) -> None:
    """Read everything of a call: nothing may raise, and all is of the declared types."""
    dialect = dialect_named(name)
    dialect_of(url, request)
    content = dialect.request(url, request)
    for message in content.messages:
        one = dialect.message(message)
        assert type(one.role) is str
        assert type(one.text) is str
        assert all(type(result.text) is str for result in one.results)
    assert content.model is None or type(content.model) is str
    assert content.system is None or type(content.system) is str
    assert all(type(tool.name) is str for tool in content.tools)
    answer = dialect.answer(status, kind, body)
    for text in (answer.text, answer.finish_reason, answer.response_id, answer.model):
        assert text is None or type(text) is str
    assert all(count is None or type(count) is int for count in answer.usage)
    assert answer.error is None or all(part is None or type(part) is str for part in answer.error)
    for call in answer.calls:
        assert call.name is None or type(call.name) is str
        assert not call.is_malformed or type(call.arguments) is str
    json.dumps(answer.value, default=repr)


@pytest.mark.parametrize("name", [*DIALECTS, "completions", "embeddings", "unknown"])
def test_hostile_bytes_never_raise(name: str) -> None:
    for body in HOSTILE:
        for kind in CONTENT_TYPES:
            for status in (200, 500):
                read_all(name, "https://x/v1/messages", body, status, kind, body)


EVENTS: dict[str, list[Any]] = {
    "chat": bodies.CHAT_CHUNKS,
    "responses": bodies.RESPONSES_EVENTS,
    "anthropic": bodies.ANTHROPIC_EVENTS,
    "gemini": bodies.GEMINI_CHUNKS,
    "ollama": bodies.OLLAMA_LINES,
    "bedrock": bodies.BEDROCK_EVENTS,
}


def random_stream(rng: random.Random, name: str) -> bytes:
    """Return a stream of changed events; some are missing, doubled or out of order."""
    events = [rng.choice(EVENTS[name]) for _ in range(rng.randint(0, 3))]
    events += EVENTS[name][rng.randint(0, 3) :]
    if name == "bedrock":
        events = [[*event] for event in events]
    events = [changed(rng, event) if rng.random() < 0.3 else event for event in events]
    if name == "bedrock":
        pairs = [event for event in events if len(event) == 2 and isinstance(event[0], str)]
        return b"".join(
            frame(kind[:200].encode("ascii", "replace").decode(), v) for kind, v in pairs
        )
    lines = [json.dumps(event).encode() for event in events]
    if name == "ollama":
        return b"\n".join(lines)
    return b"".join(b"data: " + line + b"\n\n" for line in lines)


@suite("hostile", fixed=1000, drawn=8_000, whole=200_000)
def test_changed_bodies_never_raise(share: Share) -> None:
    rng = random.Random(share.seed)
    for _ in range(share.size or 0):
        name = rng.choice(DIALECTS)
        url, request = REQUESTS[name]
        sent = damaged(rng, json.dumps(changed(rng, request)).encode())
        kind = STREAMS[name][0] if rng.random() < 0.9 else rng.choice(CONTENT_TYPES)
        if rng.random() < 0.6:
            body = random_stream(rng, name)
        else:
            body = json.dumps(changed(rng, ANSWERS[name])).encode()
            kind = JSON
        if rng.random() < 0.5:
            body = damaged(rng, body)
        read_all(name, url, sent, rng.choice((200, 200, 429)), kind, body)


def large_bodies() -> list[tuple[str, str, bytes]]:
    """Return streams of megabytes whose pieces could cost the more the more there are."""

    def chat(delta: Any) -> Any:
        return {"choices": [{"index": 0, "delta": delta}]}

    n = 20_000
    citation = {"type": "citations_delta", "citation": {"cited_text": "x"}}
    many: dict[str, list[Any]] = {
        "texts": [chat({"content": "x"})] * n,
        "names": [chat(call_delta(index=0, function={"name": f"n{k}"})) for k in range(n)],
        "calls": [chat(call_delta(index=k, id=f"c{k}", function={})) for k in range(n)],
        "lists": [chat({"annotations": [k], "audio": {"x": [k]}}) for k in range(n)],
        "choices": [{"choices": [{"index": -k, "delta": {}}]} for k in range(n)],
    }
    streams = [("chat", SSE, sse(*events)) for events in many.values()]
    pieces = [{"type": "content_block_delta", "index": 0, "delta": citation}] * n
    streams.append(("anthropic", SSE, sse(*pieces)))
    streams += [("ollama", JSON, b'{"a":"}' * n), ("gemini", JSON, b'[{"a":[{' * n)]
    streams += [("gemini", SSE, b"data: {\n" * n), ("chat", SSE, b"\r\n{" * n)]
    return streams


@pytest.mark.slow
@third_slow("agents")
def test_large_streams_are_read_in_little_time() -> None:
    for name, kind, body in large_bodies():
        start = time.process_time()
        read_all(name, "https://x/", body, 200, kind, body)
        assert time.process_time() - start < 5, (name, body[:40])
