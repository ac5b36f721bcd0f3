"""The server's own counters against the record: attempts, failures, retries, recoveries, tokens."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from model_server import Attempt, Call, ModelServer, Turn
from tiers import Share, suite

import trajrec

openai = pytest.importorskip("openai", reason="openai is not installed")

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"order": {"type": "string"}},
                "required": ["order"],
            },
        },
    }
    for name in ("get_order", "refund")
]

# Of the calls that the plans ask for, those that cannot be meant.
CALLS = {
    "good": ("get_order", '{"order": "O1"}'),
    "other": ("refund", '{"order": "O2"}'),
    "malformed": ("get_order", '{"order": "O1"'),
    "unknown": ("drop_all", '{"order": "O1"}'),
    "misfit": ("refund", '{"order": 7}'),
}
INVALID = {"malformed", "unknown", "misfit"}


class Script:
    """The plan of one episode, and what it asked for.

    Attributes:
        turns: The answers that are still to come.
        n_calls: The tool calls that were asked for, by their kind.
    """

    def __init__(self, name: str, seed: object) -> None:
        draw = random.Random(str(seed))
        self.turns: list[Turn] = []
        self.n_calls: Counter[str] = Counter()
        for turn in range(draw.randrange(1, 4)):
            for _ in range(draw.choice((0, 0, 0, 1, 2))):
                self.turns.append(self._failure(draw))
            kinds = draw.choices(list(CALLS), k=draw.choice((1, 1, 2, 3)))
            self.n_calls.update(kinds)
            calls = [
                Call(*CALLS[kind], f"{name}-{turn}-{number}") for number, kind in enumerate(kinds)
            ]
            usage = (draw.randrange(1, 500), draw.randrange(1, 90))
            self.turns.append(Turn(calls=calls, usage=usage, is_gzipped=draw.random() < 0.2))
        self.turns.append(Turn("all is done", usage=(draw.randrange(900), 3)))
        self.is_streamed = draw.random() < 0.4
        self.is_async = draw.random() < 0.3
        self.is_cancelled = self.is_async and draw.random() < 0.3

    def _failure(self, draw: random.Random) -> Turn:
        if draw.random() < 0.2:
            return Turn(is_dropped=True)
        status = draw.choice((429, 500, 503))
        return Turn(status=status, headers={"retry-after-ms": "1"})


def request_of(script: Script, messages: list[Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}, "stream": True}
    return {
        "model": "m",
        "messages": messages,
        "tools": TOOLS,
        **(options if script.is_streamed else {}),
    }


def message_of(answer: Any, pieces: list[Any]) -> dict[str, Any]:
    """Return the message of an answer, whole or put together from the pieces of a stream."""
    if answer is not None:
        message = answer.choices[0].message
        calls = [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or ()]
    else:
        parts: dict[int, list[Any]] = {}
        for piece in pieces:
            for call in piece.choices[0].delta.tool_calls or () if piece.choices else ():
                part = parts.setdefault(call.index, [call.id, call.function.name, ""])
                part[2] += call.function.arguments or ""
        calls = [tuple(part) for part in parts.values()]
    tool_calls = [
        {"id": i, "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, name, arguments in calls
    ]
    return {"role": "assistant", "content": None if calls else "done", "tool_calls": tool_calls}


def continue_with(messages: list[Any], message: dict[str, Any]) -> bool:
    """Add an answer and the results of its calls; return whether the loop goes on."""
    if not message["tool_calls"]:
        return False
    messages.append(message)
    for call in message["tool_calls"]:
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": "as asked"})
    return True


def run_sync(url: str, name: str, script: Script) -> None:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=4)
    messages: list[Any] = [{"role": "user", "content": name}]
    while True:
        answer = client.chat.completions.create(**request_of(script, messages))
        pieces = list(answer) if script.is_streamed else []
        if not continue_with(messages, message_of(None if pieces else answer, pieces)):
            return


async def run_async(url: str, name: str, script: Script) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=4) as client:
        messages: list[Any] = [{"role": "user", "content": name}]
        while True:
            answer = await client.chat.completions.create(**request_of(script, messages))
            pieces = [piece async for piece in answer] if script.is_streamed else []
            if not continue_with(messages, message_of(None if pieces else answer, pieces)):
                break
        if script.is_cancelled:
            script.turns.append(Turn("too late", delay_s=600))
            last = client.chat.completions.create(**request_of(script, messages))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(last, 0.3)


def record(folder: Path, url: str, name: str, script: Script) -> None:
    with trajrec.episode(folder, task=name):
        if script.is_async:
            asyncio.run(run_async(url, name, script))
        else:
            run_sync(url, name, script)


def counted_by_server(attempts: list[Attempt]) -> dict[str, tuple[int, ...]]:
    """Return the counters of each episode, from what came to the server and what it sent."""
    by_name: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        by_name[json.loads(attempt.body)["messages"][0]["content"]].append(attempt)
    return {name: tuple(counters(found)) for name, found in by_name.items()}


def counters(attempts: list[Attempt]) -> list[int]:
    failed_bodies: Counter[bytes] = Counter()
    n_failed = n_retries = n_recovered = tokens_in = tokens_out = 0
    for attempt in attempts:
        n_retries += bool(failed_bodies[attempt.body])
        if attempt.status != 200:
            n_failed += 1
            failed_bodies[attempt.body] += 1
            continue
        n_recovered += failed_bodies.pop(attempt.body, 0)
        usage = usage_in(attempt)
        tokens_in += usage.get("prompt_tokens", 0)
        tokens_out += usage.get("completion_tokens", 0)
    return [len(attempts), n_failed, n_retries, n_recovered, tokens_in, tokens_out]


def usage_in(attempt: Attempt) -> dict[str, int]:
    """Return the tokens that an answer told."""
    if attempt.sent.startswith(b"{"):
        return dict(json.loads(attempt.sent)["usage"])
    lines = [line[6:] for line in attempt.sent.split(b"\n") if line.startswith(b"data: {")]
    told = [json.loads(line)["usage"] for line in lines if b'"prompt_tokens"' in line]
    return dict(told[-1]) if told else {}


RECORDED = """
SELECT task, count(*), count(*) FILTER (m.outcome <> 'ok'), count(*) FILTER (m.retry_by = 'transport'),
    (SELECT count(recovered_at) FROM failures f WHERE f.episode_id = any_value(m.episode_id)
        AND phase = 'model'),
    coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0)
FROM model_calls m JOIN episodes USING (episode_id) GROUP BY task
"""

ASKED = """
SELECT task, count(*), count(invalid), count(DISTINCT call_id)
FROM attempts JOIN episodes USING (episode_id) GROUP BY task
"""


@suite("agents", fixed=4, drawn=40, whole=500)
def test_the_servers_counters_are_those_of_the_record(tmp_path: Path, share: Share) -> None:
    names = [f"episode {share.seed}-{number}" for number in range(share.size or 0)]
    scripts = {name: Script(name, name) for name in names}

    def plan(request: dict[str, Any], _number: int) -> Turn:
        return scripts[request["messages"][0]["content"]].turns.pop(0)

    with ModelServer(plan) as server, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: record(tmp_path, f"{server.url}/v1", n, scripts[n]), names))
        attempts = list(server.attempts)
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        recorded = {row[0]: tuple(row[1:]) for row in corpus.sql(RECORDED).fetchall()}
        asked = {row[0]: tuple(row[1:]) for row in corpus.sql(ASKED).fetchall()}
    counted = counted_by_server(attempts)
    assert recorded == counted
    # Streams tell their tokens too, or equal counts would prove nothing of them.
    assert all(counted[name][-1] for name, script in scripts.items() if script.is_streamed)
    for name, script in scripts.items():
        n_invalid = sum(script.n_calls[kind] for kind in INVALID)
        n_calls = script.n_calls.total()
        assert asked[name] == (n_calls, n_invalid, n_calls), name
