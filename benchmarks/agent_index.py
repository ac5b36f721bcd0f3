"""`python -m benchmarks.agent_index`: the cost of indexing logs of agents and whole states.

CPU time of a rebuild by unit (a call, a chunk of a streamed answer, a step), medians of several
rebuilds, each compared with its goal, and the peak of memory of an index of many calls.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

import trajrec
from trajrec.corpus.index.file import update_index
from trajrec.recording.event_log import close_logs
from trajrec.types import JsonObject
from trajrec.wire.exchange import HttpRequest

N_REBUILDS = 3
CALLS_OF_EPISODE = 20
N_ORDERS = 50
N_STREAMS = 20
CHUNKS_OF_STREAM = 2_000
N_TURNS = 200


class BusyError(Exception):
    """The shop is busy; the next call may succeed."""


class Shop:
    """Orders that tools read and change. A tenth of the calls fail.

    Args:
        rng: Decides which calls fail.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.orders = {
            f"O{k}": {"status": "paid", "cents": rng.randrange(10**5), "note": "x" * 60}
            for k in range(N_ORDERS)
        }

    def look(self, order: str, fields: list[str]) -> JsonObject:
        """Return some fields of an order."""
        self._fail()
        return {"order": order, **{name: self.orders[order][name] for name in fields}}

    def change(self, order: str, cents: int, reason: str) -> JsonObject:
        """Change the price of an order."""
        self._fail()
        self.orders[order]["cents"] = cents
        return {"ok": True, "order": order, "cents": cents}

    def _fail(self) -> None:
        if self._rng.random() < 0.1:
            raise BusyError("the shop is busy")


@trajrec.verifier(id="has-orders", version="1")
def has_orders(world: Any) -> bool:
    """Return whether the shop has its orders."""
    return bool(world)


def record_calls(folder: Path, n_calls: int) -> None:
    """Record episodes of tool calls, some of which fail and are retried."""
    rng = random.Random(0)
    for number in range(n_calls // CALLS_OF_EPISODE):
        shop = Shop(rng)
        with trajrec.episode(
            folder, watch={"orders": shop.orders}, task=f"task-{number % 100}"
        ) as ep:
            ep.tool(shop.look, access="read")
            ep.tool(shop.change, access="write")
            for _ in range(CALLS_OF_EPISODE):
                order = f"O{rng.randrange(N_ORDERS)}"
                try:
                    if rng.random() < 0.6:
                        ep.call("look", order=order, fields=["status", "cents"])
                    else:
                        ep.call("change", order=order, cents=rng.randrange(10**5), reason="sale")
                except BusyError:
                    continue
            ep.check(has_orders)
    close_logs()


def record_streams(folder: Path) -> None:
    """Record model calls with streamed answers of many chunks."""

    def answer(**_: Any) -> Iterator[JsonObject]:
        for k in range(CHUNKS_OF_STREAM):
            delta = {"role": "assistant", "content": f"word{k} "}
            choices = [{"index": 0, "delta": delta, "finish_reason": None}]
            yield {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": choices}

    with trajrec.episode(folder, task="stream") as ep:
        messages = []
        for k in range(N_STREAMS):
            messages.append({"role": "user", "content": f"question {k}"})
            for _ in ep.model(answer, model="m", messages=messages, stream=True):
                pass
    close_logs()


URL = "https://models.example/v1/chat/completions"
JSON = [("content-type", "application/json")]
EVENTS = [("content-type", "text/event-stream")]


def send(ep: Any, request: JsonObject, pieces: list[bytes], headers: list[tuple[str, str]]) -> None:
    """Record one HTTP exchange as a tap reports it."""
    body = json.dumps(request).encode()
    exchange = ep.begin_exchange(HttpRequest("POST", URL, JSON, body))
    exchange.responded(200, headers)
    for piece in pieces:
        exchange.received(piece)
    exchange.ended(None)


def record_exchanges(folder: Path) -> None:
    """Record streamed answers of many chunks as HTTP exchanges."""
    with trajrec.episode(folder, task="stream") as ep:
        messages = []
        for k in range(N_STREAMS):
            messages.append({"role": "user", "content": f"question {k}"})
            pieces = [_event({"content": f"word{n} "}) for n in range(CHUNKS_OF_STREAM)]
            pieces += [_event({}, "stop"), b"data: [DONE]\n\n"]
            send(ep, {"model": "m", "messages": messages, "stream": True}, pieces, EVENTS)
    close_logs()


def _event(delta: JsonObject, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    chunk = {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def record_conversation(folder: Path) -> None:
    """Record a conversation in which each turn asks for a tool and says about 900 bytes."""
    rng = random.Random(0)
    tools = [{"type": "function", "function": {"name": f"t{k}", "x": "y" * 300}} for k in range(9)]
    with trajrec.episode(folder, task="long") as ep:
        messages: list[JsonObject] = [{"role": "system", "content": "Be brief. " * 100}]
        for k in range(N_TURNS):
            if k % 4 == 0:
                messages.append({"role": "user", "content": _words(rng, 30)})
            function = {"name": f"t{k % 9}", "arguments": json.dumps({"q": _words(rng, 5)})}
            call = {"id": f"call_{k}", "type": "function", "function": function}
            said = {"role": "assistant", "content": _words(rng, 10), "tool_calls": [call]}
            answer = {
                "id": f"c{k}",
                "model": "m",
                "choices": [{"index": 0, "message": said, "finish_reason": "tool_calls"}],
                "usage": {"prompt_tokens": 90, "completion_tokens": 9},
            }
            request = {"model": "m", "messages": messages, "tools": tools}
            send(ep, request, [json.dumps(answer).encode()], JSON)
            result = {"role": "tool", "tool_call_id": f"call_{k}", "content": _words(rng, 60)}
            messages += [said, result]
    close_logs()


def _words(rng: random.Random, n: int) -> str:
    return " ".join(f"word{rng.randrange(10**5)}" for _ in range(n))


class Body(gym.Env[Any, Any]):
    """A body whose state of four floats changes with each step."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self._numbers = [0.0, 0.0, 0.0, 0.0]
        self._n = 0

    def get_state(self) -> list[float]:
        """Return the state: plain numbers."""
        return list(self._numbers)

    def set_state(self, state: list[float]) -> None:
        """Set the state."""
        self._numbers = list(state)

    def reset(self, *, seed: int | None = None, options: JsonObject | None = None) -> Any:
        """Start again."""
        super().reset(seed=seed)
        self._numbers = self.np_random.random(4).tolist()
        self._n = 0
        return np.zeros(1), {}

    def step(self, action: int) -> Any:
        """Change all four numbers."""
        self._n += 1
        self._numbers = [x * 0.99 + 0.01 * (action + 1) for x in self._numbers]
        return np.zeros(1), 1.0, self._n == 200, False, {}


def record_states(folder: Path, n_steps: int) -> None:
    """Record an environment with whole states."""
    env = trajrec.record(
        Body(), folder, keep_states="all", state=lambda env: env.unwrapped.get_state()
    )
    is_over = True
    for k in range(n_steps):
        if is_over:
            env.reset(seed=k)
        _, _, terminated, truncated, _ = env.step(k % 2)
        is_over = terminated or truncated
    env.close()


class Case(NamedTuple):
    """A corpus to index, the units that its cost is divided by, and the goal."""

    name: str
    record: Callable[[Path], None]
    n_units: int
    unit: str
    goal_us: float


def measure(folder: Path) -> float:
    """Return the median CPU time of a rebuild, in seconds."""
    times = []
    for _ in range(N_REBUILDS):
        begin = time.process_time()
        update_index(folder, rebuild=True)
        times.append(time.process_time() - begin)
    return statistics.median(times)


def main() -> None:
    """Record, index, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agent_index", description=__doc__)
    parser.add_argument("--calls", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument("--only", help="the name of one case")
    options = parser.parse_args()
    n_chunks = N_STREAMS * CHUNKS_OF_STREAM
    cases = [
        Case("calls", lambda f: record_calls(f, options.calls), options.calls, "call", 20),
        Case("streams", record_streams, n_chunks, "chunk", 0.5e6 / n_chunks),
        Case("exchanges", record_exchanges, n_chunks, "chunk", 10),
        Case("conversation", record_conversation, N_TURNS, "turn", 0.3e6 / N_TURNS),
        Case("states", lambda f: record_states(f, options.steps), options.steps, "step", 1.5),
    ]
    for case in cases:
        if options.only not in (None, case.name):
            continue
        with tempfile.TemporaryDirectory() as name:
            case.record(Path(name))
            cpu_s = measure(Path(name))
        us = cpu_s / case.n_units * 1e6
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(
            f"{case.name}: {cpu_s:.2f} s CPU, {us:.2f} us a {case.unit} "
            f"(goal: {case.goal_us:g}); peak so far {peak} MB"
        )


if __name__ == "__main__":
    main()
