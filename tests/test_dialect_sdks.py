"""Dialects against the real SDKs: the requests that they send, the answers that they put together."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import dialect_bodies as bodies
import pytest
from dialect_bodies import ANSWERS, REQUESTS, STREAMS, dump, sse
from tiers import deep, third_slow

from trajrec.wire.contents import AnswerContent, RequestContent
from trajrec.wire.dialects.choose import dialect_named, dialect_of

pytestmark = pytest.mark.slow


class Server:
    """Answers each request with one body, and notes the requests."""

    def __init__(self, content_type: str, body: bytes) -> None:
        self._headers = {"content-type": content_type}
        self._body = body
        self.requests: list[Any] = []

    def client(self, module: str = "httpx2", **options: Any) -> Any:
        """Return a client of httpx2, or of httpx, that asks this server."""
        library = pytest.importorskip(module)

        def respond(request: Any) -> Any:
            self.requests.append(request)
            return library.Response(200, headers=self._headers, content=self._body)

        return library.Client(transport=library.MockTransport(respond), **options)

    def content(self, name: str) -> RequestContent:
        """Return the contents of the last request, which must be in a dialect."""
        request = self.requests[-1]
        dialect = dialect_of(str(request.url), request.content)
        assert dialect.name == name
        return dialect.request(str(request.url), request.content)


def server_of(name: str, *, is_streamed: bool) -> Server:
    if is_streamed:
        return Server(*STREAMS[name])
    return Server("application/json", dump(ANSWERS[name]))


def openai_client(server: Server) -> Any:
    openai = pytest.importorskip("openai")
    return openai.OpenAI(api_key="x", http_client=server.client(), max_retries=0)


def anthropic_client(server: Server) -> Any:
    anthropic = pytest.importorskip("anthropic")
    return anthropic.Anthropic(api_key="x", http_client=server.client(), max_retries=0)


def gemini_client(server: Server) -> Any:
    genai = pytest.importorskip("google.genai")
    options = genai.types.HttpOptions(httpx_client=server.client())
    return genai.Client(api_key="x", http_options=options)


def without(value: Any, *names: str) -> Any:
    """Return a JSON value without some members, and without those that are null."""
    if isinstance(value, dict):
        return {
            key: without(item, *names)
            for key, item in value.items()
            if item is not None and key not in names
        }
    return [without(item, *names) for item in value] if isinstance(value, list) else value


# Members that SDKs add to the answers of their APIs.
ADDED = ("parsed", "parsed_arguments", "parsed_output", "output_parsed", "index")


def same_answer(sdk: Any, ours: Any) -> None:
    assert without(sdk, *ADDED) == without(ours, *ADDED)


def send(name: str, server: Server, **changes: Any) -> Any:
    """Send the request of a dialect by its SDK; return the SDK's answer."""
    value: dict[str, Any] = {**REQUESTS[name][1], **changes}
    if name == "chat":
        return openai_client(server).chat.completions.create(**value)
    if name == "responses":
        return openai_client(server).responses.create(**value)
    if name == "anthropic":
        # This SDK does not know all parameters of the API.
        value["extra_body"] = {"temperature": value.pop("temperature")}
        return anthropic_client(server).messages.create(**value)
    client = gemini_client(server)
    config = {
        "system_instruction": "You help.",
        "temperature": 0.5,
        "max_output_tokens": 99,
        "tools": [
            {
                "function_declarations": [
                    {
                        "name": "get_order",
                        "description": "Look up an order.",
                        "parameters_json_schema": bodies.SCHEMA,
                    }
                ]
            }
        ],
    }
    call = "generate_content_stream" if value.get("stream", True) else "generate_content"
    arguments = {"model": "gemini-2.5-flash", "contents": value["contents"], "config": config}
    return getattr(client.models, call)(**arguments)


SDKS = ["chat", "responses", "anthropic", "gemini"]


@third_slow("agents")
@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("name", SDKS)
def test_requests_of_the_sdks_are_read(name: str, is_streamed: bool) -> None:
    server = server_of(name, is_streamed=is_streamed)
    answer = send(name, server, stream=is_streamed)
    if is_streamed:
        list(answer)
    sent = server.content(name)
    url, value = REQUESTS[name]
    ours = dialect_named(name).request(url, dump(value))
    assert sent.is_streamed is is_streamed
    assert sent.system == "You help."
    assert sent.model == ours.model
    assert sent.tools[0] == ours.tools[0]
    assert sent.parameters["temperature"] == 0.5
    read = dialect_named(name).message
    assert [read(one) for one in sent.messages] == [read(one) for one in ours.messages]


def openai_streams(name: str, body: bytes) -> Any:
    """Return the answer that OpenAI's SDK puts together."""
    client = openai_client(Server(bodies.SSE, body))
    value = {key: item for key, item in REQUESTS[name][1].items() if key != "stream"}
    if name == "responses":
        with client.responses.stream(**value) as stream:
            return stream.get_final_response().to_dict()
    value["tools"] = [{"type": "function", "function": {"name": "get_order"}}]
    with client.chat.completions.stream(**value) as stream:
        list(stream)
        return stream.current_completion_snapshot.to_dict()


def anthropic_streams(body: bytes) -> Any:
    """Return the answer that Anthropic's SDK puts together."""
    client = anthropic_client(Server(bodies.SSE, body))
    others = ("stream", "temperature")
    value = {key: item for key, item in bodies.ANTHROPIC_REQUEST.items() if key not in others}
    with client.messages.stream(**value) as stream:
        list(stream)
        return stream.current_message_snapshot.to_dict()


def ours(name: str, body: bytes) -> AnswerContent:
    return dialect_named(name).answer(200, bodies.SSE, body)


def test_sdks_put_the_same_answers_together() -> None:
    for name in ("chat", "responses"):
        body = STREAMS[name][1]
        same_answer(openai_streams(name, body), ours(name, body).value)
    body = STREAMS["anthropic"][1]
    same_answer(anthropic_streams(body), ours("anthropic", body).value)


def test_answers_that_broke_off_are_those_of_the_sdks() -> None:
    for end in range(1, len(bodies.CHAT_CHUNKS)):
        body = sse(*bodies.CHAT_CHUNKS[:end])
        same_answer(openai_streams("chat", body), ours("chat", body).value)
    for end in range(1, len(bodies.ANTHROPIC_EVENTS)):
        body = sse(*bodies.ANTHROPIC_EVENTS[:end], names=True)
        theirs = anthropic_streams(body)
        value = ours("anthropic", body).value
        # Of arguments that are cut off, the SDK reads as much as it can.
        for block in value.get("content", []):
            if isinstance(block.get("input"), str):
                block["input"] = {}
        same_answer(theirs, value)


def chat_pieces(rng: random.Random) -> list[Any]:
    """Return the chunks of a random answer: a text, and calls whose pieces interleave."""
    letters = 'aé🙂 "\\\n{}'

    def pieces(text: str) -> list[str]:
        cuts = sorted(rng.sample(range(len(text) + 1), min(len(text), 5)))
        return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    text = "".join(rng.choices(letters, k=rng.randint(0, 30)))
    deltas: list[Any] = [{"content": piece} for piece in pieces(text)]
    queues = []
    for number in range(rng.randint(0, 3)):
        arguments = json.dumps({"x": "".join(rng.choices(letters, k=10))})
        call = {"id": f"c{number}", "type": "function"}
        first = {**call, "function": {"name": f"f{number}", "arguments": ""}}
        rest = [{"function": {"arguments": piece}} for piece in pieces(arguments)]
        queues.append([{"tool_calls": [{"index": number, **one}]} for one in [first, *rest]])
    # A call begins after those before it.
    deltas += [queue.pop(0) for queue in queues]
    while any(queues):
        deltas.append(rng.choice([queue for queue in queues if queue]).pop(0))
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.insert(0, {"index": 0, "delta": {"role": "assistant"}, "finish_reason": None})
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    return [{**head, "choices": [choice]} for choice in choices]


def test_random_chat_streams_read_as_the_sdk_reads_them() -> None:
    for seed in range(60):
        chunks = chat_pieces(random.Random(seed))
        body = sse(*chunks, done=True)
        answer = ours("chat", body)
        same_answer(openai_streams("chat", body), answer.value)
        assert answer.is_complete
        assert not any(call.is_malformed for call in answer.calls)


def gemini_answers(body: bytes) -> tuple[str, list[Any], Any]:
    """Return the text, the calls and the last usage that Google's SDK tells of a stream."""
    chunks = list(send("gemini", Server(bodies.SSE, body)))
    parts = [
        part
        for chunk in chunks
        for candidate in chunk.candidates or []
        for part in (candidate.content.parts if candidate.content else None) or []
    ]
    text = "".join(part.text for part in parts if part.text and not part.thought)
    calls = [
        (part.function_call.name, part.function_call.args) for part in parts if part.function_call
    ]
    return text, calls, chunks[-1].usage_metadata


def test_google_s_sdk_tells_the_same_text_calls_and_tokens() -> None:
    text, calls, usage = gemini_answers(STREAMS["gemini"][1])
    answer = ours("gemini", STREAMS["gemini"][1])
    assert text == answer.text
    assert calls == [(call.name, call.arguments) for call in answer.calls]
    assert usage.prompt_token_count == answer.usage.input
    assert usage.candidates_token_count + usage.thoughts_token_count == answer.usage.output
    assert usage.cached_content_token_count == answer.usage.cached


@pytest.mark.parametrize("name", SDKS)
def test_sdk_reads_the_whole_answers_that_we_do(name: str) -> None:
    sdk = send(name, server_of(name, is_streamed=False), stream=False)
    answer = dialect_named(name).answer(200, "application/json", dump(ANSWERS[name]))
    reads: dict[str, Callable[[], Any]] = {
        "chat": lambda: sdk.choices[0].message.content,
        "responses": lambda: sdk.output_text,
        "anthropic": lambda: "".join(b.text for b in sdk.content if b.type == "text"),
        "gemini": lambda: sdk.text,
    }
    assert reads[name]() == answer.text


class RawResponse:
    """The body of a response as botocore reads it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, amt: int = 1024, **options: Any) -> Iterator[bytes]:
        """Yield the body in pieces."""
        for start in range(0, len(self._body), amt):
            yield self._body[start : start + amt]

    def close(self) -> None:
        """Do nothing."""


def bedrock_client(content_type: str, body: bytes) -> tuple[Any, list[Any]]:
    """Return a client of Bedrock that gets one response, and the list of its requests."""
    botocore = pytest.importorskip("botocore")
    session = pytest.importorskip("botocore.session").get_session()
    awsrequest = pytest.importorskip("botocore.awsrequest")
    session.set_credentials("a", "b")
    client = session.create_client("bedrock-runtime", region_name="eu-west-1")
    requests = []

    def respond(request: Any, **options: Any) -> Any:
        requests.append(request)
        headers = {"content-type": content_type}
        return awsrequest.AWSResponse(request.url, 200, headers, RawResponse(body))

    assert botocore.__version__
    client.meta.events.register("before-send.bedrock-runtime.*", respond)
    return client, requests


def bedrock_request() -> Any:
    value = json.loads(json.dumps(bodies.BEDROCK_REQUEST))
    value["messages"][0]["content"][1]["image"]["source"]["bytes"] = b"\0"
    return {"modelId": "amazon.nova-lite-v1:0", **value}


def same_bedrock_request(request: Any, *, is_streamed: bool) -> None:
    dialect = dialect_of(request.url, request.body)
    assert dialect.name == "bedrock"
    url, value = REQUESTS["bedrock"]
    expected = dialect.request(url, dump(value))
    sent = dialect.request(request.url, request.body)
    assert sent[1:-1] == expected[1:-1]
    assert sent.is_streamed is is_streamed


@deep("agents")
def test_amazons_sdk_reads_the_same_answer_and_events() -> None:
    client, requests = bedrock_client("application/json", dump(bodies.BEDROCK_ANSWER))
    answer = client.converse(**bedrock_request())
    del answer["ResponseMetadata"]
    assert answer == bodies.BEDROCK_ANSWER
    same_bedrock_request(requests[0], is_streamed=False)
    client, requests = bedrock_client(*STREAMS["bedrock"])
    events = list(client.converse_stream(**bedrock_request())["stream"])
    assert [next(iter(event)) for event in events] == [name for name, _ in bodies.BEDROCK_EVENTS]
    same_bedrock_request(requests[0], is_streamed=True)


def ollama_client(content_type: str, body: bytes) -> tuple[Any, Server]:
    ollama = pytest.importorskip("ollama")
    server = Server(content_type, body)
    client = ollama.Client(host="http://127.0.0.1:11434")
    client._client.close()
    client._client = server.client("httpx", base_url="http://127.0.0.1:11434")
    return client, server


@deep("agents")
@pytest.mark.parametrize("is_streamed", [False, True])
def test_ollamas_sdk_reads_the_same_answer(is_streamed: bool) -> None:
    kind, body = STREAMS["ollama"] if is_streamed else ("", dump(bodies.OLLAMA_ANSWER))
    client, server = ollama_client(kind, body)
    answer = client.chat(**bodies.OLLAMA_REQUEST, stream=is_streamed)
    pieces = list(answer) if is_streamed else [answer]
    read = dialect_named("ollama").answer(200, kind, body)
    assert "".join(piece.message.content or "" for piece in pieces) == read.text
    calls = [call.function for piece in pieces for call in piece.message.tool_calls or []]
    assert [(call.name, call.arguments) for call in calls] == [
        (call.name, call.arguments) for call in read.calls
    ]
    assert pieces[-1].prompt_eval_count == read.usage.input
    assert pieces[-1].eval_count == read.usage.output
    sent = server.content("ollama")
    assert sent.is_streamed is is_streamed
    expected = dialect_named("ollama").request("", dump(bodies.OLLAMA_REQUEST))
    message = dialect_named("ollama").message
    assert [message(one) for one in sent.messages] == [message(one) for one in expected.messages]
    assert sent.tools == expected.tools
