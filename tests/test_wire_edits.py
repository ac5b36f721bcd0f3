"""Bodies of model calls are changed as wanted, in every dialect, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dialect_bodies import ANTHROPIC_URL, CHAT_URL, GEMINI_URL, OLLAMA_URL, REQUESTS, RESPONSES_URL
from model_answers import Call, Turn, stream_pieces, whole_answer

from trajrec.replay.whatif.rewriting import with_edit
from trajrec.wire.dialects.choose import dialect_named, dialect_of
from trajrec.wire.edits import AnswerBody, EditError, RequestEdit, edit_arguments
from trajrec.wire.edits import edit_request as edit_whole
from trajrec.wire.exchange import HttpRequest

DIALECTS = ("chat", "responses", "anthropic", "gemini", "ollama")
CALLS = [
    Call("refund", '{"order": "O1", "cents": 540000}', "call-1"),
    Call("get_order", '{"order": "O1"}', "call-2"),
    Call("refund", '{"order": "O1", "cents": 540000}', "call-3"),
]


def answer(dialect: str, turn: Turn, *, is_streamed: bool) -> AnswerBody:
    if not is_streamed:
        return AnswerBody(200, "application/json", json.dumps(whole_answer(dialect, turn)).encode())
    kind = "application/x-ndjson" if dialect == "ollama" else "text/event-stream"
    return AnswerBody(200, kind, b"".join(stream_pieces(dialect, turn)))


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_one_call_has_other_arguments(name: str, is_streamed: bool, number: int) -> None:
    dialect = dialect_named(name)
    before = answer(name, Turn("One moment.", CALLS), is_streamed=is_streamed)
    wanted = {"order": "O1", "cents": 5400, "why": 'a "quote" — é'}
    after = edit_arguments(dialect, before, number, wanted)
    calls = dialect.answer(200, before.content_type, after).calls
    expected = [json.loads(call.arguments) for call in CALLS]
    expected[number] = wanted
    assert [call.arguments for call in calls] == expected
    assert [call.name for call in calls] == [call.name for call in CALLS]


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", DIALECTS)
def test_half_a_pair_of_surrogates_stays_an_escape(name: str, is_streamed: bool) -> None:
    before = answer(name, Turn("One moment \ud83d", CALLS), is_streamed=is_streamed)
    wanted = {"order": "O\ude00"}
    after = edit_arguments(dialect_named(name), before, 1, wanted)
    assert after.decode("utf-8")
    answered = dialect_named(name).answer(200, before.content_type, after)
    assert answered.calls[1].arguments == wanted
    assert answered.text == "One moment \ud83d"


def test_a_changed_request_is_utf_8() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"a\\ud83d"}]}'
    changed = edit_whole(HttpRequest("POST", CHAT_URL, [], body), RequestEdit(model="n")).body
    assert changed == body.replace(b'"m"', b'"n"')


def test_call_without_arguments_gets_some() -> None:
    for name in DIALECTS:
        for is_streamed in (False, True):
            before = answer(name, Turn(None, [Call("list_orders", "{}")]), is_streamed=is_streamed)
            dialect = dialect_named(name)
            try:
                after = edit_arguments(dialect, before, 0, {"page": 2})
            except EditError:
                # Refused is right; a wrong answer would not be.
                continue
            calls = dialect.answer(200, before.content_type, after).calls
            assert [call.arguments for call in calls] == [{"page": 2}], name


def test_call_that_is_not_there_is_refused() -> None:
    before = answer("chat", Turn("Done."), is_streamed=False)
    with pytest.raises(EditError, match="it has no call 0"):
        edit_arguments(dialect_named("chat"), before, 0, {})


URLS = {
    "chat": CHAT_URL,
    "responses": RESPONSES_URL,
    "anthropic": ANTHROPIC_URL,
    "gemini": GEMINI_URL.format("generateContent"),
    "ollama": OLLAMA_URL,
}


def request(name: str) -> tuple[str, bytes]:
    found: Any = REQUESTS[name]
    url, body = found if isinstance(found, tuple) else (URLS[name], found)
    return url, body if isinstance(body, bytes) else json.dumps(body).encode()


def edit_request(url: str, body: bytes, edit: RequestEdit) -> bytes:
    edited = edit_whole(HttpRequest("POST", url, [], body), edit)
    assert edited.url == url
    return edited.body


@pytest.mark.parametrize("name", sorted(REQUESTS))
def test_system_prompt_is_replaced_alone(name: str) -> None:
    url, body = request(name)
    dialect = dialect_of(url, body)
    before = dialect.request(url, body)
    if before.system is None and name in ("completions", "embeddings"):
        with pytest.raises(EditError):
            edit_request(url, body, RequestEdit(system="Be brief."))
        return
    after = dialect.request(url, edit_request(url, body, RequestEdit(system="Be brief.")))
    assert after.system == "Be brief."
    assert after.parameters == before.parameters
    assert after.tools == before.tools
    assert [m for m in map(dialect.message, after.messages) if m.role != "system"] == [
        m for m in map(dialect.message, before.messages) if m.role != "system"
    ]


@pytest.mark.parametrize("name", DIALECTS)
def test_sampling_and_tools_are_replaced(name: str) -> None:
    url, body = request(name)
    dialect = dialect_of(url, body)
    before = dialect.request(url, body)
    tool = before.tools[0].name
    edit = RequestEdit(parameters={"temperature": 0.25}, tools={tool: {"description": "New."}})
    after = dialect.request(url, edit_request(url, body, edit))
    assert after.parameters["temperature"] == 0.25
    assert after.tools[0].description == "New."
    assert after.tools[0].schema == before.tools[0].schema
    assert after.tools[1:] == before.tools[1:]
    assert after.messages == before.messages


@pytest.mark.parametrize(
    ("name", "model", "before", "after"),
    [
        ("gemini", "gemini-9", "gemini-2.5-flash", "gemini-9"),
        ("gemini", "models/gemini-9", "gemini-2.5-flash", "gemini-9"),
        ("bedrock", "eu.a.m-v1:0", "amazon.nova-lite-v1%3A0", "eu.a.m-v1%3A0"),
    ],
)
def test_model_in_the_address_is_replaced_there(
    name: str, model: str, before: str, after: str
) -> None:
    url, body = request(name)
    assert before in url
    edited = edit_whole(HttpRequest("POST", url, [], body), RequestEdit(model=model))
    assert edited.url == url.replace(before, after)
    assert json.loads(edited.body) == json.loads(body)


def test_deployment_of_azure_is_replaced_in_both_places() -> None:
    body = json.dumps({"model": "mini", "messages": [{"role": "user", "content": "hi"}]}).encode()
    url = "https://x.openai.azure.com/openai/deployments/mini/chat/completions?api-version=1"
    edited = edit_whole(HttpRequest("POST", url, [], body), RequestEdit(model="large"))
    assert edited.url == url.replace("mini", "large")
    assert json.loads(edited.body)["model"] == "large"


def test_signed_request_is_refused_by_name() -> None:
    url, body = request("bedrock")
    headers = [("authorization", "AWS4-HMAC-SHA256 Credential=A/20260101/eu/bedrock/aws4_request")]
    for edit in (RequestEdit(model="other"), RequestEdit(system="Be brief.")):
        with pytest.raises(EditError, match=r"signed for AWS.*AWS_BEARER_TOKEN_BEDROCK"):
            edit_whole(HttpRequest("POST", url, headers, body), edit)


def test_request_without_a_model_is_refused() -> None:
    url, _ = request("chat")
    with pytest.raises(EditError, match="names no model"):
        edit_request(url, b'{"messages":[]}', RequestEdit(model="other"))


def test_tool_that_is_not_offered_is_refused() -> None:
    url, body = request("chat")
    with pytest.raises(EditError, match="offers no tool 'fly'"):
        edit_request(url, body, RequestEdit(tools={"fly": {"description": "Up."}}))


def test_changed_message_and_schema_are_proved() -> None:
    url, body = request("anthropic")
    value = json.loads(body)
    value["tools"].append({"type": "web_search_20250305", "name": "web_search"})
    # The server runs this tool: it has no schema that could be another one.
    edit = RequestEdit(tools={"web_search": {"schema": {"type": "object"}}})
    with pytest.raises(EditError, match="could not be changed as wanted"):
        edit_request(url, json.dumps(value).encode(), edit)
    edited = json.loads(edit_request(url, body, RequestEdit(message="Again, please.")))
    assert "Again, please." in [message["content"] for message in edited["messages"]]


@pytest.mark.parametrize("member", ["generationConfig", "generation_config"])
def test_parameters_of_gemini_are_set_in_its_own_spelling(member: str) -> None:
    body = json.dumps({"contents": [{"parts": [{"text": "hi"}]}], member: {"topK": 1}}).encode()
    edited = json.loads(edit_request(URLS["gemini"], body, RequestEdit(parameters={"topK": 2})))
    assert edited == json.loads(body) | {member: {"topK": 2}}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            {"system": "Old.", "messages": [{"role": "user", "content": "hi"}]},
            {"system": "New.", "messages": [{"role": "user", "content": "hi"}]},
        ),
        ({"instructions": "Old.", "input": "hi"}, {"instructions": "New.", "input": "hi"}),
        ({"input": "hi"}, {"instructions": "New.", "input": "hi"}),
        (
            {"messages": ({"role": "user", "content": "hi"},)},
            {
                "messages": [
                    {"role": "system", "content": "New."},
                    {"role": "user", "content": "hi"},
                ]
            },
        ),
    ],
)
def test_system_prompt_of_a_functions_arguments_is_replaced(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    assert with_edit(before, RequestEdit(system="New.")) == after


@pytest.mark.parametrize("arguments", [{"prompt": "hi"}, {}, {"messages": ["hi"]}])
def test_arguments_without_a_place_for_a_prompt_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(EditError):
        with_edit(arguments, RequestEdit(system="New."))
