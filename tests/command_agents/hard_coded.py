"""An agent with its server's address in the code, in a thread of a pool, by several libraries."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import httpx
import requests

URL = f"{sys.argv[1]}/v1/chat/completions"


def body(text: str) -> dict:
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


def text_of(answer: dict) -> str:
    return answer["choices"][0]["message"]["content"]


def by_httpx() -> str:
    return text_of(httpx.post(URL, json=body("by httpx")).json())


def by_requests() -> str:
    return text_of(requests.post(URL, json=body("by requests"), timeout=30).json())


async def by_aiohttp() -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.post(URL, json=body("by aiohttp")) as response,
    ):
        return text_of(await response.json())


with ThreadPoolExecutor(2) as pool:
    print(pool.submit(by_httpx).result())
    print(pool.submit(by_requests).result())
print(asyncio.run(by_aiohttp()))
