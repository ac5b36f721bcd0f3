"""A support agent and its scripted model, for experiments that change one of its steps.

The model asks for an order (step 0), refunds a wrong amount (step 1), and may correct itself
(step 2) with a probability that a test gives. A refund of 5400 cents is right.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from model_server import Call, Turn

import trajrec
from trajrec.corpus.episode import Episode

RIGHT = 5400
WRONG = 540000
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("get_order", "refund")
]


def refunded(state: Any) -> bool:
    """Return whether the last refund is the right one."""
    return bool(state["refunds"]) and state["refunds"][-1] == RIGHT


class Script:
    """The model: after a wrong refund it corrects itself with probability `corrects`."""

    def __init__(self, corrects: float = 0.0, spoils: float = 0.0, seed: int = 0) -> None:
        self.corrects = corrects
        self.spoils = spoils
        self.rng = random.Random(seed)

    def __call__(self, request: dict[str, Any], number: int) -> Turn:
        messages = request["messages"]
        last = messages[-1]
        if last["role"] == "user":
            return Turn(calls=[Call("get_order", '{"order": "O1"}', f"a{number}")])
        said = json.loads(last["content"])
        if "cents" in said:
            return self.refund(WRONG, number)
        n_refunds = sum("refunded" in str(m["content"]) for m in messages if m["role"] == "tool")
        chance = self.corrects if said.get("refunded") != RIGHT else self.spoils
        if n_refunds < 2 and self.rng.random() < chance:
            return self.refund(RIGHT if said.get("refunded") != RIGHT else WRONG, number)
        return Turn("Done.")

    def refund(self, cents: int, number: int) -> Turn:
        arguments = json.dumps({"order": "O1", "cents": cents})
        return Turn(calls=[Call("refund", arguments, f"r{number}")])


class Support:
    """The agent's program: it begins its own episode, and its state is a dict.

    Args:
        url: The model server.
        folder: The corpus.
        refund: What a refund does besides; it gets the state and the cents.

    Attributes:
        n_tools: How many tools really ran.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        refund: Callable[[Any, int], Any] | None = None,
        access: Any = "write",
        **options: Any,
    ) -> None:
        self.url = url
        self.folder = folder
        self.state: Any = {"refunds": []}
        self.extra = refund
        self.access = access
        self.options = {"task": "t1", "watch": self.state, **options}
        self.n_tools = 0
        self.system = "Be good."
        self.n_turns = 10

    def __call__(self) -> None:
        self.state["refunds"] = []
        messages: list[Any] = [
            {"role": "system", "content": self.system},
            {"role": "user", "content": "Refund order O1."},
        ]
        with httpx.Client() as client, trajrec.episode(self.folder, **self.options) as ep:
            tools = {
                "get_order": ep.tool(self.get_order, access="read"),
                "refund": ep.tool(self.refund, access=self.access),
            }
            for _ in range(self.n_turns):
                asked = {"model": "small", "messages": messages, "tools": TOOLS}
                answer = client.post(f"{self.url}/v1/chat/completions", json=asked)
                message = answer.raise_for_status().json()["choices"][0]["message"]
                messages.append(message)
                if not message.get("tool_calls"):
                    break
                for call in message["tool_calls"]:
                    function = call["function"]
                    result = tools[function["name"]](**json.loads(function["arguments"]))
                    told = {"role": "tool", "tool_call_id": call["id"]}
                    messages.append({**told, "content": json.dumps(result)})
            ep.check(refunded)

    def get_order(self, order: str) -> Any:
        self.n_tools += 1
        return {"cents": RIGHT}

    def refund(self, order: str, cents: int) -> Any:
        self.n_tools += 1
        self.state["refunds"] = [*self.state["refunds"], cents]
        result = {"refunded": cents}
        return result if self.extra is None else {**result, "extra": self.extra(self.state, cents)}


def only_episode(folder: Path) -> Episode:
    """Return the episode of a corpus that has one."""
    trajrec.close_logs()
    with trajrec.open(folder) as corpus:
        (own,) = corpus.episodes()
        return corpus.episode(own.id)


def record_failure(agent: Support) -> Any:
    """Record an episode of the agent, which must fail, and return it."""
    agent()
    return only_episode(agent.folder)
