"""Clients, against real servers in processes of their own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import only
from tiers import third_slow

import trajrec
from trajrec.envs import Shop
from trajrec.errors import AgentDivergedError

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, str(HERE / "model_server.py")], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
        server.kill()


def agent(ep: Any, client: Any, prompt: str = "Look up order O1001.") -> str:
    """Ask a model and call its tools until it calls none."""
    messages: list[Any] = [{"role": "user", "content": prompt}]
    while True:
        reply = (
            client.chat.completions.create(model="m", messages=messages, temperature=0.5)
            .choices[0]
            .message
        )
        messages.append(reply)
        if not reply.tool_calls:
            return str(reply.content)
        for call in reply.tool_calls:
            result = ep.execute(
                call.function.name, json.loads(call.function.arguments), call_id=call.id
            )
            messages.append(
                {"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)}
            )


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_an_openai_client_reruns_without_a_server(tmp_path: Path, url: str) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    with openai.OpenAI(base_url=url, api_key="sk-" + "planted0" * 4) as raw:
        client = trajrec.openai(raw)
        assert client is raw
        with trajrec.episode(tmp_path, wire=False, world=Shop(seed=7), options={"task": 0}) as ep:
            said = agent(ep, client)
        # Outside of an episode nothing is recorded.
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    query = (
        "SELECT step, model, n_messages, finish_reason, input_tokens, output_tokens, "
        "outcome FROM model_calls ORDER BY 1"
    )
    corpus = trajrec.open(tmp_path)
    assert corpus.sql(query).fetchall() == [
        (0, "scripted-1", 1, "tool_calls", 7, 5, "ok"),
        (1, "scripted-1", 3, "stop", 21, 5, "ok"),
    ]
    assert corpus.sql("SELECT step, tool, call_id FROM attempts").fetchall() == [
        (0, "get_order", "call-1")
    ]
    gone = trajrec.openai(
        openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="none", max_retries=0)
    )
    with trajrec.rerun(only(tmp_path)) as ep:
        assert agent(ep, gone) == said
    with (
        pytest.raises(AgentDivergedError, match="messages/0/content"),
        trajrec.rerun(only(tmp_path)) as ep,
    ):
        agent(ep, gone, "Look up order O1002.")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_async_calls_streams_and_errors_are_recorded(tmp_path: Path, url: str) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    asked = {"model": "m", "messages": [{"role": "tool", "tool_call_id": "c", "content": "abc"}]}

    async def main() -> str:
        # A client that is not closed leaves a socket for whichever test the collector runs in.
        async with (
            openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as raw,
            trajrec.episode(tmp_path),
        ):
            client = trajrec.openai(raw)
            stream = await client.chat.completions.create(stream=True, **asked)
            words = [piece.choices[0].delta.content async for piece in stream]
            reply = await client.chat.completions.create(**asked)
            with pytest.raises(openai.BadRequestError, match="the script says so"):
                await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "fail"}]
                )
        assert "".join(words[:-1]) == reply.choices[0].message.content
        return str(reply.choices[0].message.content)

    assert asyncio.run(main()) == "I have read 3 characters."
    query = (
        "SELECT is_streamed, finish_reason, outcome, error_type FROM model_calls ORDER BY number"
    )
    assert trajrec.open(tmp_path).sql(query).fetchall() == [
        (True, "stop", "ok", None),
        (False, "stop", "ok", None),
        (False, None, "error", "http.400"),
    ]


@pytest.mark.slow
@third_slow("replay")
@pytest.mark.filterwarnings("default")
def test_an_mcp_session_records_calls_and_access(tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="mcp is not installed")
    from mcp import ClientSession
    from mcp.client.stdio import StdioServerParameters, stdio_client

    async def use(session: Any) -> list[Any]:
        await session.list_tools()
        await session.call_tool("write", {"text": "a note"})
        result = await session.call_tool("read")
        failed = await session.call_tool("fail", {})
        return [result.content[0].text, failed.is_error]

    async def main() -> list[Any]:
        server = StdioServerParameters(command=sys.executable, args=[str(HERE / "tool_server.py")])
        async with stdio_client(server) as (read, write), ClientSession(read, write) as raw:
            await raw.initialize()
            async with trajrec.episode(tmp_path):
                return await use(trajrec.mcp(raw))

    first = asyncio.run(main())
    assert first == ["a note", True]
    query = "SELECT step, tool, access, outcome, is_raised FROM attempts ORDER BY step"
    assert trajrec.open(tmp_path).sql(query).fetchall() == [
        (0, "write", "unknown", "ok", False),
        (1, "read", "read", "ok", False),
        (2, "fail", "unknown", "error", False),
    ]

    class Gone:
        async def list_tools(self) -> Any:
            class Nothing:
                tools = ()

            return Nothing()

    async def again() -> list[Any]:
        async with trajrec.rerun(only(tmp_path)):
            return await use(trajrec.mcp(Gone()))

    assert asyncio.run(again()) == first
