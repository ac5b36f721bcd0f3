"""Agents of real SDKs and HTTP clients, to be seen by the taps and answered from notes.

`python tapped_agents.py AGENT FOLDER URL` runs one with the network shut, answered from the only
episode of a folder, and prints what it said.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from model_server import Call, Turn

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Häng on"}]}

RETRY = {"retry-after-ms": "1"}
BROKEN = Turn(status=500, headers=RETRY)
BUSY = Turn(status=429, headers=RETRY)
PARALLEL = Turn(calls=[Call("f", '{"a": 1}', "c-1"), Call("f", '{"a": 2}', "c-2")])
MALFORMED = Turn("I try.", calls=[Call("f", '{"a": 1', "c-3")])
SAID = Turn("It is döne now.")

CALLING: list[Turn] = [BROKEN, BUSY, PARALLEL, BUSY, MALFORMED, SAID]
"""Two parallel calls after two failures, malformed arguments after one, a text: six attempts."""


def said_by(message: Any) -> list[Any]:
    """Return a chat message's text and tool calls."""
    calls = [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or []]
    return [message.content, calls]


def openai_client(url: str, **options: Any) -> Any:
    import openai

    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=3, **options)


def openai_create(url: str) -> Any:
    with openai_client(url) as client:
        answers = [client.chat.completions.create(**CHAT, tools=TOOLS) for _ in range(3)]
    return [said_by(answer.choices[0].message) for answer in answers]


def openai_stream(url: str) -> Any:
    said = []
    with openai_client(url) as client:
        for _ in range(3):
            chunks = client.chat.completions.create(**CHAT, stream=True)
            said.append([chunk.choices[0].delta.model_dump(exclude_none=True) for chunk in chunks])
    return said


def openai_helper(url: str) -> Any:
    said = []
    with openai_client(url) as client:
        for _ in range(3):
            with client.chat.completions.stream(**CHAT) as stream:
                kinds = [event.type for event in stream]
                said.append([kinds, said_by(stream.get_final_completion().choices[0].message)])
    return said


def openai_responses(url: str) -> Any:
    with openai_client(url) as client:
        answers = [client.responses.create(model="m", input="Go on") for _ in range(3)]
    return [[item.model_dump() for item in answer.output] for answer in answers]


def openai_responses_stream(url: str) -> Any:
    said = []
    with openai_client(url) as client:
        for _ in range(3):
            with client.responses.stream(model="m", input="Go on") as stream:
                said.append([event.type for event in stream])
    return said


def openai_options(url: str) -> Any:
    with openai_client(url) as client:
        own = client.copy(timeout=20).with_options(max_retries=5).chat.completions.with_raw_response
        answers = [own.create(**CHAT) for _ in range(3)]
        return [
            [answer.status_code, answer.retries_taken, said_by(answer.parse().choices[0].message)]
            for answer in answers
        ]


def openai_async(url: str, **options: Any) -> Any:
    import openai

    async def main() -> Any:
        said: list[Any] = []
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=3, **options
        ) as client:
            for _ in range(2):
                answer = await client.chat.completions.create(**CHAT)
                said.append(said_by(answer.choices[0].message))
            stream = await client.chat.completions.create(**CHAT, stream=True)
            said.append([chunk.choices[0].delta.content async for chunk in stream])
        return said

    return asyncio.run(main())


def openai_aiohttp(url: str) -> Any:
    import openai

    return openai_async(url, http_client=openai.DefaultAioHttpClient())


def openai_threads(url: str) -> Any:
    def ask(number: int) -> Any:
        answer = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": str(number)}]
        )
        return said_by(answer.choices[0].message)

    with openai_client(url) as client, ThreadPoolExecutor(4) as pool:
        return list(pool.map(ask, range(8)))


def anthropic_client(url: str) -> Any:
    import anthropic

    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=3)


def anthropic_create(url: str) -> Any:
    with anthropic_client(url) as client:
        answers = [client.messages.create(**CHAT, max_tokens=99) for _ in range(3)]
    return [answer.model_dump() for answer in answers]


def anthropic_stream(url: str) -> Any:
    said = []
    with anthropic_client(url) as client:
        for _ in range(3):
            with client.messages.stream(**CHAT, max_tokens=99) as stream:
                said.append([event.type for event in stream])
    return said


def genai_client(url: str) -> Any:
    from google import genai

    retry = genai.types.HttpRetryOptions(
        attempts=4, initial_delay=0.001, max_delay=0.01, jitter=0, http_status_codes=[429, 500]
    )
    options = genai.types.HttpOptions(base_url=url, retry_options=retry)
    return genai.Client(api_key="none", http_options=options)


def said_by_gemini(answer: Any) -> Any:
    return answer.model_dump(exclude_none=True, exclude={"sdk_http_response"}, mode="json")


def genai_plain(url: str) -> Any:
    client = genai_client(url)
    answers = [client.models.generate_content(model="m", contents="Go on") for _ in range(3)]
    return [said_by_gemini(answer) for answer in answers]


def genai_stream(url: str) -> Any:
    # The client has to outlive its streams.
    client = genai_client(url)
    models = client.models
    answers = [models.generate_content_stream(model="m", contents="Go on") for _ in range(3)]
    return [[said_by_gemini(piece) for piece in answer] for answer in answers]


def genai_async(url: str) -> Any:
    async def main() -> Any:
        client = genai_client(url).aio
        whole = await client.models.generate_content(model="m", contents="Go on")
        said: list[Any] = [said_by_gemini(whole)]
        for _ in range(2):
            stream = await client.models.generate_content_stream(model="m", contents="Go on")
            said.append([said_by_gemini(piece) async for piece in stream])
        await client.aclose()
        return said

    return asyncio.run(main())


def requests_retry(url: str) -> Any:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    retry = Retry(total=5, status_forcelist=[429, 500], allowed_methods=None, backoff_factor=0)
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retry))
        answers = [session.post(f"{url}/v1/chat/completions", json=CHAT) for _ in range(2)]
        said: list[Any] = [[answer.status_code, answer.json()] for answer in answers]
        asked = {**CHAT, "stream": True}
        with session.post(f"{url}/v1/chat/completions", json=asked, stream=True) as answer:
            said.append([line.decode() for line in answer.iter_lines()])
    return said


def http_client_alone(url: str) -> Any:
    import http.client
    from urllib.parse import urlsplit

    said: list[Any] = []
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    for number in range(5):
        connection.request(
            "POST",
            "/v1/chat/completions",
            json.dumps(CHAT),
            {"Content-Type": "application/json"},
        )
        answer = connection.getresponse()
        if number % 2:
            said.append([answer.status, answer.read().decode(), answer.read().decode()])
        else:
            buffer = bytearray(7)
            pieces = []
            while n := answer.readinto(buffer):
                pieces.append(bytes(buffer[:n]).decode("latin-1"))
            said.append([answer.status, "".join(pieces)])
    body = json.dumps({**CHAT, "stream": True}).encode()
    connection.request("POST", "/v1/chat/completions", body=body)
    said.append([line.decode() for line in connection.getresponse()])
    connection.close()
    return said


def urllib_alone(url: str) -> Any:
    import urllib.error
    import urllib.request

    said: list[Any] = []
    for stream in (False, False, False, False, False, True):
        data = json.dumps({**CHAT, "stream": stream}).encode()
        request = urllib.request.Request(f"{url}/v1/chat/completions", data)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                said.append([answer.status, [line.decode() for line in answer]])
        except urllib.error.HTTPError as error:
            said.append([error.code, error.read().decode()])
    return said


def urllib3_alone(url: str) -> Any:
    import urllib3

    said: list[Any] = []
    with urllib3.PoolManager(retries=False) as pool:
        for _ in range(5):
            answer = pool.request("POST", f"{url}/v1/chat/completions", json=CHAT)
            said.append([answer.status, answer.data.decode(), answer.read().decode()])
        asked = {**CHAT, "stream": True}
        answer = pool.request(
            "POST", f"{url}/v1/chat/completions", json=asked, preload_content=False
        )
        said.append([chunk.decode() for chunk in answer.stream()])
        answer.release_conn()
    return said


def aiohttp_alone(url: str) -> Any:
    import aiohttp

    async def main() -> Any:
        said: list[Any] = []
        async with aiohttp.ClientSession(base_url=url) as session:
            for _ in range(4):
                async with session.post("/v1/chat/completions", json=CHAT) as answer:
                    said.append([answer.status, answer.reason, await answer.text()])
            asked = {**CHAT, "stream": True}
            async with session.post("/v1/chat/completions", json=asked) as answer:
                said.append([line.decode() async for line in answer.content])
            async with session.post("/v1/chat/completions", json=asked) as answer:
                # The end of the body is one more chunk, an empty one, if it comes late.
                chunks = [chunk async for chunk, _ in answer.content.iter_chunks()]
                said.append([chunk.decode() for chunk in chunks if chunk])
        return said

    return asyncio.run(main())


def httpx_alone(url: str, name: str = "httpx") -> Any:
    httpx = __import__(name)
    said: list[Any] = []
    with httpx.Client(base_url=url) as client:
        for _ in range(5):
            answer = client.post("/v1/chat/completions", json=CHAT)
            said.append([answer.status_code, answer.reason_phrase, answer.http_version])
            said.append(answer.text)
            assert answer.elapsed.total_seconds() >= 0
        asked = {**CHAT, "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
            said.append(list(answer.iter_lines()))
    return said


def httpx2_alone(url: str) -> Any:
    return httpx_alone(url, "httpx2")


class Agent:
    """An agent, the packages that it needs, and the server's plan for it."""

    def __init__(
        self, run: Callable[[str], Any], needs: str, plan: list[Turn] | None = None
    ) -> None:
        self.run = run
        self.needs = needs.split()
        self.plan = CALLING if plan is None else plan


# Gemini's arguments are no text, so they cannot be malformed.
_GEMINI = [BROKEN, BUSY, PARALLEL, BUSY, SAID, SAID]

AGENTS = {
    agent.run.__name__: agent
    for agent in (
        Agent(openai_create, "openai"),
        Agent(openai_stream, "openai"),
        Agent(openai_helper, "openai"),
        Agent(openai_responses, "openai"),
        Agent(openai_responses_stream, "openai"),
        Agent(openai_options, "openai"),
        Agent(openai_async, "openai"),
        Agent(openai_aiohttp, "openai aiohttp"),
        Agent(openai_threads, "openai", [BROKEN, BUSY, *[SAID] * 8]),
        Agent(anthropic_create, "anthropic"),
        Agent(anthropic_stream, "anthropic"),
        Agent(genai_plain, "google.genai", _GEMINI),
        Agent(genai_stream, "google.genai", _GEMINI),
        Agent(genai_async, "google.genai aiohttp", _GEMINI),
        Agent(requests_retry, "requests"),
        Agent(http_client_alone, "http.client"),
        Agent(urllib_alone, "urllib.request"),
        Agent(urllib3_alone, "urllib3"),
        Agent(aiohttp_alone, "aiohttp"),
        Agent(httpx_alone, "httpx"),
        Agent(httpx2_alone, "httpx2"),
    )
}


class NetworkError(BaseException):
    """The network was used although it is shut."""


def shut_the_network() -> None:
    """Make each attempt to connect an error that no client handles."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise NetworkError("the network is shut")

    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, refuse)
    socket.getaddrinfo = refuse
    asyncio.base_events.BaseEventLoop.create_connection = refuse  # type: ignore[method-assign]


def main(name: str, folder: str, url: str) -> None:
    """Run an agent with the network shut."""
    import trajrec

    (episode,) = trajrec.open(folder).episodes()
    shut_the_network()
    with trajrec.rerun(episode):
        said = AGENTS[name].run(url)
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
