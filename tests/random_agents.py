"""Random episodes of agents: calls, failures, retries, changes of a world, model calls, blobs."""

from __future__ import annotations

import contextlib
import datetime
import sqlite3
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import random_values as rv
from random_values import Rng, pick

import trajrec
from trajrec.errors import TrajrecError

LONG = "The quick brown fox jumps over the lazy dog. " * 20


MOMENTS = [
    datetime.datetime(2025, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
    datetime.datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC),
    datetime.datetime(1900, 1, 1, tzinfo=datetime.UTC),
    datetime.datetime(2900, 1, 1, 0, 0, 0, 1, tzinfo=datetime.UTC),
]


class BusyError(Exception):
    pass


@trajrec.verifier(id="has-items", version="1")
def has_items(world: Any) -> bool:
    return bool(world)


def plain(rng: Rng, depth: int = 3) -> Any:
    """Return data as worlds mostly have them: dicts and lists, with keys of several types."""
    if depth == 0 or rng.random() < 0.3:
        leaves: list[Callable[[], Any]] = [
            lambda: None,
            lambda: rng.random() < 0.5,
            lambda: int(rng.integers(-1000, 1000)),
            lambda: rv.real(rng),
            lambda: pick(rng, ["", "a", "b/c~", "ü", LONG]),
            lambda: rng.bytes(3),
            lambda: MOMENTS[int(rng.integers(len(MOMENTS)))],
        ]
        return pick(rng, leaves)()
    n = 70 if rng.random() < 0.03 else int(rng.integers(0, 5))
    items = [plain(rng, depth - 1) for _ in range(n)]
    if rng.random() < 0.4:
        return items
    return {key_of(rng, number): item for number, item in enumerate(items)}


def key_of(rng: Rng, number: int) -> Any:
    return pick(rng, [f"k{number}", f"k{number}", number, str(number), "", "a/b"])


def change(rng: Rng, value: Any) -> None:
    """Change something in a world, in place."""
    inner = list(value.values()) if isinstance(value, dict) else value
    containers = [item for item in inner if isinstance(item, (dict, list))]
    if containers and rng.random() < 0.6:
        change(rng, pick(rng, containers))
    elif isinstance(value, dict):
        if value and rng.random() < 0.3:
            del value[pick(rng, list(value))]
        elif value and rng.random() < 0.5:
            value[pick(rng, list(value))] = plain(rng, 1)
        else:
            value[key_of(rng, int(rng.integers(9)))] = plain(rng, 2)
    elif value and rng.random() < 0.4:
        del value[int(rng.integers(len(value))) :]
    elif value and rng.random() < 0.5:
        value[int(rng.integers(len(value)))] = plain(rng, 1)
    else:
        value.insert(int(rng.integers(len(value) + 1)), plain(rng, 1))


class RandomAgent:
    """An agent that calls tools of a world that it changes.

    Args:
        folder: The corpus.
        rng: Decides everything.
    """

    def __init__(self, folder: Path, rng: Rng) -> None:
        self.folder = folder
        self.rng = rng
        self.log: list[Any] = []
        self.world = {"items": plain(rng), "log": self.log}
        if rng.random() < 0.2:
            # No plain data: such a world is watched as an encoded value.
            self.world["odd"] = rv.value(rng)
        self.messages: list[Any] = [{"role": "system", "content": LONG}]
        self.database = sqlite3.connect(":memory:")
        weakref.finalize(self, self.database.close)
        self.database.execute("CREATE TABLE stock (item TEXT, n INT)")

    def watch(self) -> Any:
        kind = int(self.rng.integers(4))
        if kind == 0:
            return None
        if kind == 1:
            return {"items": self.log, "a/b": self.world}
        return {"db": self.database, "world": self.world} if kind == 2 else self.world

    def act(self, **arguments: Any) -> Any:
        if self.rng.random() < 0.2:
            raise pick(self.rng, [BusyError, TimeoutError, ValueError])("failed")
        for _ in range(int(self.rng.integers(0, 4))):
            change(self.rng, self.world)
        if self.rng.random() < 0.3:
            self.database.execute(
                "INSERT INTO stock VALUES (?, ?)", (pick(self.rng, ["pear", "fig"]), 1)
            )
        return rv.value(self.rng) if self.rng.random() < 0.5 else {"note": LONG}

    def ask(self, messages: list[Any], **settings: Any) -> Any:
        if self.rng.random() < 0.1:
            raise TimeoutError("no answer")
        if self.rng.random() < 0.2:
            return iter(["first ", "second"])
        return {"content": rv.value(self.rng, 1), "usage": {"input": 3}}

    def run(self, depth: int = 0) -> None:
        """Record an episode; another one may begin in it."""
        rng = self.rng
        options = {
            "task": pick(rng, ["", "fruit"]),
            "goal": pick(rng, [None, "buy", rv.value(rng)]),
            "interface": pick(rng, [None, {"model": "m"}]),
            "metadata": pick(rng, [None, {"about": rv.value(rng)}]),
        }
        episode = trajrec.episode(self.folder, watch=self.watch(), **options)
        with contextlib.suppress(BusyError, TimeoutError, ValueError), episode as ep:
            ep.tool(self.act, access=pick(rng, ["unknown", "read", "write", "external"]))
            for _ in range(int(rng.integers(0, 12))):
                self.turn(ep, depth)
            if rng.random() < 0.7:
                ep.stop(pick(rng, ["", "done"]), claimed_done=pick(rng, [None, True, False]))

    def turn(self, ep: Any, depth: int) -> None:
        rng = self.rng
        arguments = {"item": rv.value(rng), "n": 1}
        kind = int(rng.integers(8))
        if kind < 2:
            self.messages.append({"role": "user", "content": rv.leaf(rng)})
            with contextlib.suppress(TimeoutError):
                answer = ep.model(self.ask, messages=list(self.messages), temperature=0.5)
                if not isinstance(answer, dict):
                    answer = list(answer)
                self.messages.append({"role": "assistant", "content": answer})
        elif kind == 2:
            for attempt in ep.attempts(3):
                with attempt:
                    ep.call("act", **arguments)
        elif kind == 3:
            ep.side_effect("clock", lambda: rv.value(rng))
        elif kind == 4 and rng.random() < 0.5:
            ep.check(has_items)
        elif kind == 5 and depth == 0 and rng.random() < 0.3:
            self.run(1)
        elif kind == 6 and rng.random() < 0.2:
            with contextlib.suppress(TrajrecError):
                ep.call("steal")
        else:
            with contextlib.suppress(BusyError, TimeoutError, ValueError):
                ep.call("act", **arguments)


def record_agents(folder: Path, rng: Rng) -> None:
    """Record some episodes of random agents into one log."""
    for _ in range(int(rng.integers(1, 4))):
        agent = RandomAgent(folder, rng)
        # Python 3.13 warns of connections that nobody closes.
        with contextlib.closing(agent.database):
            agent.run()
    trajrec.close_logs()
