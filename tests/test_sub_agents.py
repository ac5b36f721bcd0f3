"""Agents that run in a tool call of another agent are nested episodes of it under a capture."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from model_server import Call, ModelServer, Turn
from test_capture_command import AGENTS, trajrec_command
from tiers import third_slow

import trajrec
from trajrec.agents.routing import router
from trajrec.instrument.calls import call, call_async
from trajrec.wire.exchange import HttpRequest

JSON = [("content-type", "application/json")]
TASK = "Find the red lamp in the depot."


def ask(user: str, *, calls: dict[str, Any] | None = None, results: str = "") -> None:
    """Make a model call through the router as a tap does; its answer asks for a tool call."""
    messages: list[Any] = [{"role": "user", "content": user}]
    if results:
        messages.append({"role": "tool", "tool_call_id": results, "content": "done"})
    body = json.dumps({"model": "m", "messages": messages}).encode()
    exchange = router.begin(HttpRequest("POST", "http://h/v1/chat/completions", JSON, body))
    assert exchange is not None
    message: dict[str, Any] = {"role": "assistant", "content": "Done."}
    if calls is not None:
        message["tool_calls"] = [
            {"id": i, "type": "function", "function": {"name": "run", "arguments": json.dumps(a)}}
            for i, a in calls.items()
        ]
    exchange.responded(200, JSON)
    exchange.received(json.dumps({"choices": [{"message": message}]}).encode())
    exchange.ended(None)


def families(folder: Path) -> dict[str, tuple[str, int | None]]:
    """Return the first words of each episode: its kind, and its caller's step."""
    trajrec.close_logs()
    with trajrec.open(folder) as corpus:
        rows = corpus.sql(
            "SELECT (SELECT text FROM messages m WHERE m.episode_id = e.episode_id "
            "ORDER BY m.model_call, m.number LIMIT 1), kind, caller_step, caller_id "
            "FROM all_episodes e"
        ).fetchall()
        ids = {row[0]: row[0] for row in corpus.sql("SELECT episode_id FROM episodes").fetchall()}
    assert all(row[3] is None or row[3] in ids for row in rows)
    return {row[0]: (row[1], row[2]) for row in rows}


def test_an_agent_in_a_hooked_tool_call_is_nested(tmp_path: Path) -> None:
    with trajrec.capture(tmp_path):
        ask("Order it.", calls={"c-1": {"n": 1}, "c-2": {"n": 2}})
        call("run", {"n": 1}, "c-1", lambda: ask("Look for it."))

        async def inner() -> None:
            await asyncio.to_thread(ask, "Look again.")

        asyncio.run(call_async("run", {"n": 2}, "c-2", inner))
        ask("Another matter.")
    assert families(tmp_path) == {
        "Order it.": ("rollout", None),
        "Look for it.": ("nested", 0),
        "Look again.": ("nested", 0),
        "Another matter.": ("rollout", None),
    }


def test_an_episode_in_a_hooked_tool_call_is_nested(tmp_path: Path) -> None:
    with trajrec.capture(tmp_path):
        ask("Order it.", calls={"c-1": {}})

        def inner() -> None:
            with trajrec.episode(tmp_path, task="inner"):
                ask("Look for it.")

        call("run", {}, "c-1", inner)
    assert families(tmp_path) == {
        "Order it.": ("rollout", None),
        "Look for it.": ("nested", 0),
    }


def test_a_sub_agents_call_of_the_same_tool_is_recorded(tmp_path: Path) -> None:
    with trajrec.capture(tmp_path):
        ask("Order it.", calls={"c-1": {}})

        def inner() -> None:
            with trajrec.episode(tmp_path, task="inner") as ep:
                run = ep.tool(lambda: "found", name="run")
                # A framework's own hook around the same call adds no record, nor does the wrapper.
                call("run", {}, "c-2", lambda: call("run", {}, "", run))

        call("run", {}, "c-1", lambda: call("run", {}, "c-1", inner))
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT e.kind, call_id FROM attempts JOIN all_episodes e USING (episode_id)"
        assert sorted(corpus.sql(query).fetchall()) == [("nested", "c-2"), ("rollout", "c-1")]


def test_a_task_that_a_tool_call_hands_on_tells_a_sub_agent(tmp_path: Path) -> None:
    with trajrec.capture(tmp_path):
        ask("Order it.", calls={"c-1": {"agent": "finder", "task": TASK}})
        with ThreadPoolExecutor(1) as pool:
            pool.submit(ask, TASK).result()
        ask("Order it.", calls={"c-2": {"town": "Rome"}}, results="c-1")
        ask("Rome")
        ask("Order it.", results="c-2")
        ask(TASK)
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        told = corpus.sql(
            "SELECT e.kind, caller_step, text FROM all_episodes e JOIN messages USING (episode_id) "
            "WHERE messages.number = 0 AND model_call = 0 ORDER BY ALL"
        ).fetchall()
    assert told == [
        ("nested", 0, TASK),
        # A town may be in the messages of any agent, and the last one came when the call was over.
        ("rollout", None, TASK),
        ("rollout", None, "Order it."),
        ("rollout", None, "Rome"),
    ]


def test_agents_side_by_side_are_not_nested(tmp_path: Path) -> None:
    with trajrec.capture(tmp_path):
        ask("Order it.", calls={"c-1": {"town": "Rome", "task": TASK}})
        ask("Go to Rome and tell me of it.")
        # Which of two agents with the same task it works for, nothing tells.
        ask("Order it, too.", calls={"c-2": {"task": TASK}})
        ask(TASK)
    assert {kind for kind, _ in families(tmp_path).values()} == {"rollout"}


def test_an_agent_that_is_shown_an_answer_is_no_sub_agent(tmp_path: Path) -> None:
    # The first one ended on the call: no request tells that it is over.
    with trajrec.capture(tmp_path):
        ask("Write a poem.", calls={"c-1": {"answer": "Roses grow on seven hills."}})
        ask("Write a poem. An earlier try: Roses grow on seven hills. Do better.")
        ask("Judge this: Roses grow on seven hills.")
    assert {kind for kind, _ in families(tmp_path).values()} == {"rollout"}


def test_a_task_that_outlives_its_tool_call_nests_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        queue: asyncio.Queue[str] = asyncio.Queue()

        async def work() -> None:
            while (text := await queue.get()) != "end":
                ask(text)

        async def inner() -> None:
            tasks.append(asyncio.create_task(work()))

        tasks: list[asyncio.Task[None]] = []
        await call_async("run", {}, "c-1", inner)
        for text in ("Another matter.", "A third one.", "end"):
            queue.put_nowait(text)
        await asyncio.gather(*tasks)

    with trajrec.capture(tmp_path):
        ask("Order it.", calls={"c-1": {}})
        asyncio.run(main())
    assert {kind for kind, _ in families(tmp_path).values()} == {"rollout"}


def test_a_text_that_both_agents_were_told_nests_none(tmp_path: Path) -> None:
    # Samples of one task, each of which searches for the question as it stands.
    with trajrec.capture(tmp_path):
        ask(f"Be brief. {TASK}", calls={"c-1": {"query": TASK}})
        ask(f"Be brief. {TASK} Now.")
        ask("Rome", calls={"c-2": {"query": "Rome"}})
        ask("Rome")
    assert {kind for kind, _ in families(tmp_path).values()} == {"rollout"}


def test_equal_agents_at_once_are_each_their_own(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def agent(number: int) -> None:
        barrier.wait()
        ask("Order it.", calls={f"c-{number}": {"task": TASK}})
        barrier.wait()
        call("run", {"task": TASK}, f"c-{number}", lambda: ask(TASK))

    with trajrec.capture(tmp_path), ThreadPoolExecutor(8) as pool:
        list(pool.map(agent, range(8)))
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        kinds = corpus.sql(
            "SELECT kind, count(*), count(DISTINCT caller_id) FROM all_episodes GROUP BY kind"
        )
        assert sorted(kinds.fetchall()) == [("nested", 8, 8), ("rollout", 8, 0)]


def chat(history: list[Any], call: dict[str, Any] | None = None) -> None:
    """Make a model call that repeats its conversation; the answer is added to that."""
    body = json.dumps({"model": "m", "messages": history}).encode()
    exchange = router.begin(HttpRequest("POST", "http://h/v1/chat/completions", JSON, body))
    assert exchange is not None
    message: dict[str, Any] = {"role": "assistant", "content": "Done."}
    if call is not None:
        message["tool_calls"] = [call]
    exchange.responded(200, JSON)
    exchange.received(json.dumps({"choices": [{"message": message}]}).encode())
    exchange.ended(None)
    history.append(message)


def n_calls(folder: Path) -> list[tuple[Any, ...]]:
    """Return the number of model calls of each episode, and of the prompts in them."""
    trajrec.close_logs()
    with trajrec.open(folder) as corpus:
        return corpus.sql(
            "SELECT count(*), (SELECT count(*) FROM messages m WHERE m.role = 'user' "
            "AND m.episode_id = c.episode_id) FROM model_calls c GROUP BY episode_id"
        ).fetchall()


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("prompts", "places"),
    [
        (("Order it.", "Find it."), (0, 0)),
        (("Order it.", "Order it."), (0, 1)),
        # Nothing tells these apart, and each keeps a conversation of its own.
        (("Order it.", "Order it."), (0, 0)),
    ],
)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_equal_call_ids_of_two_agents_mix_nothing(
    tmp_path: Path, prompts: tuple[str, str], places: tuple[int, int], order: tuple[int, int]
) -> None:
    # Some servers count the calls of each conversation: `functions.look:0`.
    agents = [[{"role": "user", "content": prompt}] for prompt in prompts]
    with trajrec.capture(tmp_path):
        for place, history in zip(places, agents, strict=True):
            function = {"name": "look", "arguments": json.dumps({"place": place})}
            chat(history, {"id": "functions.look:0", "type": "function", "function": function})
        for _ in range(2):
            for number in order:
                result = {"role": "tool", "tool_call_id": "functions.look:0", "content": "ok"}
                agents[number].append(result)
                chat(agents[number])
    assert n_calls(tmp_path) == [(3, 1), (3, 1)]


def planned(request: dict[str, Any], _number: int) -> Turn:
    first = request["messages"][0]["content"]
    if first == "Have the lamp found." and len(request["messages"]) == 1:
        return Turn(calls=[Call("delegate", json.dumps({"task": TASK}), "c-1")])
    return Turn("It is in the depot.")


@pytest.mark.slow
@third_slow("agents")
@pytest.mark.parametrize("way", ["process", "thread"])
def test_a_sub_agent_of_a_command_is_nested(tmp_path: Path, way: str) -> None:
    with ModelServer(planned) as server:
        command = [sys.executable, AGENTS / "two_agents.py", way]
        done = trajrec_command("capture", tmp_path, "--", *command, url=server.url)
        assert (done.returncode, done.stdout) == (0, "It is in the depot.\n"), done.stderr
        assert len(server.attempts) == 3
    assert families(tmp_path) == {
        "Have the lamp found.": ("rollout", None),
        TASK: ("nested", 0),
    }


@pytest.mark.slow
def test_a_sub_agent_of_pydantic_ai_is_nested(tmp_path: Path) -> None:
    pytest.importorskip("pydantic_ai")
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    def turns(request: dict[str, Any], _number: int) -> Turn:
        if request["messages"][-1]["content"] == "Order it.":
            return Turn(calls=[Call("find", '{"item": "lamp"}', "c-1")])
        return Turn("It is in the depot.")

    async def main(url: str) -> str:
        provider = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
        model = OpenAIChatModel("m", provider=provider)
        finder = Agent(model)
        agent = Agent(model)

        @agent.tool_plain
        async def find(item: str) -> str:
            return (await finder.run(f"Where is it: {item}?")).output

        async with provider.client:
            return (await agent.run("Order it.")).output

    with ModelServer(turns) as server, trajrec.capture(tmp_path):
        assert asyncio.run(main(server.url)) == "It is in the depot."
        assert len(server.attempts) == 3
    assert families(tmp_path) == {
        "Order it.": ("rollout", None),
        "Where is it: lamp?": ("nested", 0),
    }
