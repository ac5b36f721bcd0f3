"""Frameworks of agents: every call is seen, and a rerun needs neither a network nor a tool."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import only
from framework_agents import ENTRIES, in_new_process, lookup, missing
from model_server import Call, ModelServer, Turn
from test_docs import FRAMEWORKS, run_page
from tiers import deep, third_slow

import trajrec
from trajrec.errors import AgentDivergedError, ToolNotHeldError
from trajrec.instrument import pydantic_ai
from trajrec.instrument.calls import call, call_async
from trajrec.taps import patching
from trajrec.wire.exchange import HttpRequest

HERE = Path(__file__).parent
FAST = ("pydantic_ai", "openai_agents", "langgraph", "smolagents", "openai_threads")
HOOKED = FAST[:4]
JSON = [("content-type", "application/json")]
ASKED = b'{"model": "m", "messages": [{"role": "user", "content": "Pay back."}]}'


def check_agent(name: str, folder: Path) -> None:
    if package := missing(name):
        pytest.skip(f"{package} is not installed")
    first = in_new_process("record", name, str(folder))
    assert first["equal"], f"seen {first['seen']} of {first['sent']}"
    again = in_new_process("rerun", name, str(folder))
    assert (again["said"], again["ran"]) == (first["said"], [])
    if name in HOOKED:
        check_attempts(folder, name)


def check_attempts(folder: Path, name: str) -> None:
    """Check that hooks recorded times and errors, and that model calls tell the ids."""
    rows = {a.start.call_id: a for a in only(folder).transcript.attempts}
    for call_id, outcome in (("c-1", "ok"), ("c-2", "error"), ("c-4", "ok")):
        end = rows[call_id].end
        assert end is not None
        assert (rows[call_id].is_from_wire, end.outcome) == (False, outcome)
        assert end.time_ns > rows[call_id].start.time_ns
    if name in ("pydantic_ai", "openai_agents"):
        assert rows["c-3"].start.invalid == "malformed arguments"


@pytest.mark.slow
@third_slow("agents")
@pytest.mark.parametrize("name", FAST)
def test_an_agent_of_a_framework_is_seen_whole_and_reruns(tmp_path: Path, name: str) -> None:
    check_agent(name, tmp_path)


@deep("frameworks")
@pytest.mark.parametrize("name", [name for name in ENTRIES if name not in FAST])
def test_every_other_agent_is_seen_whole_and_reruns(tmp_path: Path, name: str) -> None:
    check_agent(name, tmp_path)


@pytest.mark.slow
def test_calls_that_fail_in_parallel_are_told_apart(tmp_path: Path) -> None:
    if package := missing("smolagents"):
        pytest.skip(f"{package} is not installed")
    command = [sys.executable, "-W", "ignore", str(HERE / "smolagents_agents.py"), str(tmp_path)]
    done = subprocess.run([*command, "5"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert "fast failed" in seen["told"][3]
    # The framework tells the results in the order of the ids.
    assert [seen["results"][f"c-{k}"] for k in range(4)] == seen["told"][0].split("\n")
    assert (seen["different"], seen["first"]) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(FRAMEWORKS.values())))
def test_agent_of_a_framework_wins_with_another_call(tmp_path: Path, name: str) -> None:
    if package := missing(name):
        pytest.skip(f"{package} is not installed")
    command = [sys.executable, str(HERE / "whatif_frameworks.py"), name, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["unchanged"]["lost"], result["changed"]["won"]) == (2, 2)
    assert result["controls"] == {"equal": 2, "of": 2}
    # No request before the step: each tells the result of the call that was changed.
    assert result["fewest"] > 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_frameworks_take_decorated_functions_as_tools(tmp_path: Path) -> None:
    tool = trajrec.episode(tmp_path).tool(lookup)
    if not missing("pydantic_ai"):
        from pydantic_ai import Tool

        assert Tool(tool).tool_def == Tool(lookup).tool_def
    if not missing("openai_agents"):
        import agents

        ours, plain = agents.function_tool(tool), agents.function_tool(lookup)
        assert (ours.name, ours.params_json_schema) == (plain.name, plain.params_json_schema)
    if not missing("langgraph"):
        from langchain_core.tools import tool as as_tool

        assert as_tool(tool).args_schema.schema() == as_tool(lookup).args_schema.schema()
    if not missing("smolagents"):
        import smolagents

        assert smolagents.tool(tool).inputs == smolagents.tool(lookup).inputs


def answering(request: dict[str, Any], number: int) -> Turn:
    """Answer as the model of a page: a tool call, and then the end."""
    if number == 0:
        return Turn(calls=[Call("get_order", '{"order": "O1001"}', "c-1")])
    offered = [tool["function"]["name"] for tool in request["tools"] if "function" in tool]
    if "final_answer" in offered:
        return Turn(calls=[Call("final_answer", '{"answer": "It is here."}', "c-2")])
    return Turn("It is here.")


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(FRAMEWORKS))
def test_the_page_of_a_framework_runs_as_written(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package := missing(FRAMEWORKS[page]):
        pytest.skip(f"{package} is not installed")
    with ModelServer(answering) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        run_page(page, tmp_path, "-W", "ignore")
        assert len(server.attempts) == 2


class Clerk:
    """A framework: it runs tools by a method that a hook is around."""

    def use(self, name: str, run: Any) -> Any:
        return call(name, {"order": "a"}, "c-1", run)


def asking(ep: Any, answer: bytes = b"{}", body: bytes = ASKED) -> Any:
    """Report a model call to an episode as a tap does."""
    url = "http://h/v1/chat/completions"
    exchange = ep.begin_exchange(HttpRequest("POST", url, JSON, body))
    if exchange.answer is None:
        exchange.responded(200, JSON)
        exchange.received(answer)
        exchange.ended(None)
    return exchange.answer


@pytest.mark.slow
def test_a_hooked_call_is_recorded_once_and_not_run_again(tmp_path: Path) -> None:
    n_ran = []

    def order(order: str) -> str:
        n_ran.append(order)
        asking(trajrec.current_episode(), body=b'{"sub": "agent"}')
        return f"order {order}"

    async def later() -> str:
        return "later"

    def agent(ep: Any) -> list[Any]:
        tool = ep.tool(order, access="read")
        first = Clerk().use("order", lambda: tool("a"))
        return [first, asyncio.run(call_async("later", {}, "c-2", later))]

    with trajrec.episode(tmp_path) as ep:
        said = agent(ep)
    trajrec.close_logs()
    attempts = only(tmp_path).transcript.attempts
    assert [(a.tool, a.start.call_id, a.start.access) for a in attempts] == [
        ("order", "c-1", "read"),
        ("later", "c-2", "unknown"),
    ]
    with trajrec.rerun(only(tmp_path)) as rerun:
        assert agent(rerun) == said
    assert n_ran == ["a"]
    with trajrec.rerun(only(tmp_path), run_tools="read") as rerun:
        assert agent(rerun) == said
    assert n_ran == ["a", "a"]


def test_hooks_do_nothing_outside_of_episodes_or_without_leave(tmp_path: Path) -> None:
    assert Clerk().use("order", lambda: 5) == 5
    with trajrec.episode(tmp_path, tools=False):
        assert Clerk().use("order", lambda: 6) == 6
    trajrec.close_logs()
    assert only(tmp_path).transcript.attempts == []


ASKS = (
    b'{"choices": [{"message": {"role": "assistant", "tool_calls": [{"id": "c-1", "type": '
    b'"function", "function": {"name": "refund", "arguments": "{}"}}]}, "finish_reason": "stop"}]}'
)
TOLD = (
    b'{"model": "m", "messages": [{"role": "tool", "tool_call_id": "c-1", "content": "refunded"}]}'
)


@pytest.mark.parametrize("on_difference", ["stop", "report"])
def test_a_rerun_refuses_tools_that_would_run_for_real(tmp_path: Path, on_difference: Any) -> None:
    with trajrec.episode(tmp_path) as ep:
        asking(ep, ASKS)
        asking(ep, body=TOLD)
    trajrec.close_logs()
    episode = only(tmp_path)
    with (
        pytest.raises(ToolNotHeldError, match="'refund' would run for real"),
        trajrec.rerun(episode, on_difference=on_difference) as rerun,
    ):
        asking(rerun)
    with trajrec.rerun(episode, run_tools="all") as rerun:
        assert asking(rerun).status == 200
        assert asking(rerun, body=TOLD).status == 200


GO = '{"role": "user", "content": "go"}'
BEGUN = f'{{"model": "m", "messages": [{GO}]}}'.encode()
OWN_CALL = '{"id": "own", "type": "function", "function": {"name": "refund", "arguments": "{}"}}'


@pytest.mark.parametrize(
    "told",
    [
        f'{{"role": "assistant", "tool_calls": [{OWN_CALL}]}}, '
        '{"role": "tool", "tool_call_id": "own", "content": "refunded"}',
        '{"role": "assistant", "content": "I refund it."}, '
        '{"role": "user", "content": "Observation: refunded"}',
    ],
    ids=["under an id of its own", "in words"],
)
def test_a_rerun_refuses_tools_whose_results_were_told_otherwise(tmp_path: Path, told: str) -> None:
    later = f'{{"model": "m", "messages": [{GO}, {told}]}}'.encode()
    with trajrec.episode(tmp_path) as ep:
        asking(ep, ASKS, body=BEGUN)
        asking(ep, body=later)
    trajrec.close_logs()
    rerun = trajrec.rerun(only(tmp_path))
    with pytest.raises(ToolNotHeldError, match="'refund' would run for real"), rerun:
        asking(rerun, body=BEGUN)


@pytest.mark.parametrize("holds_another", [False, True])
def test_a_call_that_does_not_fit_may_have_run(tmp_path: Path, holds_another: bool) -> None:
    tools = '[{"type": "function", "function": {"name": "shop-refund"}}]'
    body = f'{{"model": "m", "messages": [{GO}], "tools": {tools}}}'.encode()
    with trajrec.episode(tmp_path) as ep:
        if holds_another:
            ep.execute("look", {}, run=lambda: "seen")
        asking(ep, ASKS, body=body)
        asking(ep, body=TOLD)
    trajrec.close_logs()
    rerun = trajrec.rerun(only(tmp_path))
    # Nothing records what runs in the first; in the second a hook would have.
    refused = contextlib.nullcontext() if holds_another else pytest.raises(ToolNotHeldError)
    with refused, rerun:
        if holds_another:
            rerun.execute("look", {}, run=lambda: "seen")
        assert asking(rerun, body=body).status == 200
        assert asking(rerun, body=TOLD).status == 200


def test_a_call_that_ends_an_agent_needs_no_leave(tmp_path: Path) -> None:
    other = BEGUN.replace(b"go", b"judge this")
    with trajrec.episode(tmp_path) as ep:
        asking(ep, ASKS, body=BEGUN)
        asking(ep, body=other)
    trajrec.close_logs()
    with trajrec.rerun(only(tmp_path)) as rerun:
        assert asking(rerun, body=BEGUN).status == 200
        assert asking(rerun, body=other).status == 200


def test_another_version_of_a_framework_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class ToolManager:
        pass

    module = types.SimpleNamespace(ToolManager=ToolManager)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.0")
    with pytest.raises(LookupError, match=r"99\.0 has no ToolManager\._raw_execute"):
        pydantic_ai.replacements(module)  # type: ignore[arg-type]
    with (
        trajrec_taps(),
        pytest.warns(RuntimeWarning, match="pydantic_ai are recorded as its model calls") as caught,
    ):
        patching._patch_library("pydantic_ai.tool_manager", module)  # type: ignore[arg-type]
    assert len(caught) == 1


class trajrec_taps:
    """The taps turned on for a block."""

    def __enter__(self) -> None:
        patching.install()

    def __exit__(self, *_: object) -> None:
        patching.uninstall()


def conversation(number: int, wait: threading.Barrier) -> None:
    """Hold one of several equal conversations, through the router, as taps do."""
    from trajrec.agents.routing import router

    messages = b'{"role": "user", "content": "the same for all"}'
    for turn in range(3):
        wait.wait()
        call_id = b"c-%d-%d" % (number, turn)
        body = b'{"model": "m", "messages": [%s]}' % messages
        exchange = router.begin(HttpRequest("POST", "http://h/v1/chat/completions", JSON, body))
        assert exchange is not None
        exchange.responded(200, JSON)
        exchange.received(ASKS.replace(b"c-1", call_id))
        exchange.ended(None)
        messages += b', {"role": "tool", "tool_call_id": "%s", "content": "ok"}' % call_id


@pytest.fixture
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_forty_equal_conversations_become_forty_episodes(tmp_path: Path, no_warnings: None) -> None:
    barrier = threading.Barrier(40)
    with trajrec.capture(tmp_path), ThreadPoolExecutor(40) as pool:
        list(pool.map(conversation, range(40), [barrier] * 40))
    trajrec.close_logs()
    ids = []
    for episode in trajrec.open(tmp_path).episodes():
        calls = [a.start.call_id for a in episode.transcript.attempts]
        assert len({call_id.split("-")[1] for call_id in calls}) == 1
        assert len(episode.transcript.exchanges) == 3
        ids += calls
    assert len(set(ids)) == 120


def test_calls_in_a_pool_belong_to_the_only_episode(tmp_path: Path) -> None:
    from trajrec.agents.routing import router

    def ask(number: int) -> None:
        body = b'{"n": %d}' % number
        exchange = router.begin(HttpRequest("POST", "http://h/v1/messages", JSON, body))
        assert exchange is not None
        exchange.ended(None)

    with trajrec.episode(tmp_path) as ep, ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(80)))
        assert trajrec.current_episode() is ep
    assert trajrec.current_episode() is None
    trajrec.close_logs()
    assert len(only(tmp_path).transcript.exchanges) == 80


def test_a_capture_is_begun_twice_and_stopped_once(tmp_path: Path) -> None:
    capture = trajrec.capture(tmp_path)
    assert trajrec.capture(tmp_path) is capture
    with pytest.raises(ValueError, match="runs already"):
        trajrec.capture(tmp_path / "other")
    with pytest.raises(ValueError, match="runs already"):
        trajrec.capture(tmp_path, task="other")
    capture.stop()
    capture.stop()
    assert not patching.is_installed()
    with trajrec.capture(tmp_path / "other") as other:
        assert other is not capture
        with trajrec.capture(tmp_path / "other"):
            pass
        assert patching.is_installed()
    assert not patching.is_installed()


def test_only_the_code_of_an_answered_tool_excuses_requests(tmp_path: Path) -> None:
    def agent(ep: Any, *, run: Any, asks: bool) -> None:
        ep.execute("outer", {}, run=run)
        if asks:
            asking(ep)

    with trajrec.episode(tmp_path) as ep:
        agent(ep, run=lambda: asking(ep, body=b'{"model": "m", "messages": []}'), asks=True)
    trajrec.close_logs()
    episode = only(tmp_path)
    with trajrec.rerun(episode) as rerun:
        agent(rerun, run=lambda: None, asks=True)
    for run, asks in ((None, True), (lambda: None, False)):
        with (
            pytest.raises(AgentDivergedError, match="the agent ended before"),
            trajrec.rerun(episode) as rerun,
        ):
            agent(rerun, run=run, asks=asks)


def test_a_tools_own_exception_gets_no_new_attribute() -> None:
    class Tools:
        async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
            raise KeyError(name)

    toolset = pydantic_ai._HookedToolset(Tools(), "call-1")
    with pytest.raises(KeyError) as raised:
        asyncio.run(toolset.call_tool("look", {}))
    assert not hasattr(raised.value, "message")
