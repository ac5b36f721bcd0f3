"""An agent whose tools are those of MCP servers: `mcp_agent.py --config=FILE`."""

import asyncio
import contextlib
import json
import os
import sys

import httpx
from mcp import ClientSession
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

CONFIG = sys.argv[1].removeprefix("--config=")


def ask(messages: list) -> dict:
    url = f"{os.environ['OPENAI_BASE_URL']}/chat/completions"
    answer = httpx.post(url, json={"model": "m", "messages": messages}, timeout=60)
    return answer.json()["choices"][0]["message"]


async def connect(stack: contextlib.AsyncExitStack, entry: dict) -> ClientSession:
    if entry.get("type") == "sse":
        streams = await stack.enter_async_context(sse_client(entry["url"], entry.get("headers")))
    elif "url" in entry:
        streams = await stack.enter_async_context(streamable_http_client(entry["url"]))
    else:
        server = StdioServerParameters(**entry)
        streams = await stack.enter_async_context(stdio_client(server))
    session = await stack.enter_async_context(ClientSession(streams[0], streams[1]))
    await session.initialize()
    return session


async def main() -> None:
    with open(CONFIG) as file:
        servers = json.load(file)["mcpServers"]
    async with contextlib.AsyncExitStack() as stack:
        tools = {}
        for entry in servers.values():
            session = await connect(stack, entry)
            for tool in (await session.list_tools()).tools:
                tools[tool.name] = session
        messages = [{"role": "user", "content": "Keep the books."}]
        while calls := (message := ask(messages)).get("tool_calls"):
            messages.append(message)
            for call in calls:
                function = call["function"]
                arguments = json.loads(function["arguments"])
                try:
                    result = await tools[function["name"]].call_tool(function["name"], arguments)
                    text = result.content[0].text
                except Exception as exc:
                    text = f"{type(exc).__name__}: {exc}"
                print(function["name"], text, flush=True)
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})
        print(message["content"])


asyncio.run(main())
