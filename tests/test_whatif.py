"""An agent's own program, run from a step of its episode on, with a change and without."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiers import third_slow

pytest.importorskip("httpx", reason="httpx is not installed")

from model_server import ModelServer
from whatif_agents import RIGHT, WRONG, Script, Support, only_episode, record_failure, refunded

import trajrec
from trajrec.cli.experiments import LISTED
from trajrec.corpus.episode import Episode
from trajrec.errors import CorpusError, RedactedError, ReplayError, RestoreError
from trajrec.replay import what_if
from trajrec.replay.credit import export
from trajrec.replay.whatif.budget import Budget
from trajrec.replay.whatif.changes import (
    Arguments,
    Change,
    Message,
    Model,
    Prompt,
    Result,
    ToolDefinition,
    ToolError,
)

RIGHT_AMOUNT = Arguments({"cents": RIGHT})


class World:
    """A server with a script, an agent, and an episode of it that failed."""

    def __init__(self, server: ModelServer, script: Script, agent: Support) -> None:
        self.server = server
        self.script = script
        self.agent = agent
        self.episode = record_failure(agent)
        server.attempts.clear()
        agent.n_tools = 0

    def try_(self, change: Change | None, at: int = 1, n: int = 2, **options: Any) -> Any:
        return what_if(self.episode, at=at, change=change, agent=self.agent, n=n, **options)


Make = Callable[..., World]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make worlds, with options of `Support`."""
    servers = []

    def made(script: Script | None = None, **options: Any) -> World:
        script = script or Script()
        server = ModelServer(script).__enter__()
        servers.append(server)
        return World(server, script, Support(server.url, tmp_path / "runs", **options))

    yield made
    for server in servers:
        server.__exit__(None, None, None)


@pytest.mark.slow
def test_changed_arguments_win_and_the_recorded_ones_lose(make: Make) -> None:
    world = make()
    result = world.try_(RIGHT_AMOUNT, n=4)
    assert result.refused == ""
    assert (result.unchanged.n_won, result.unchanged.n_losses) == (0, 4)
    assert (result.changed.n_won, result.changed.n_losses) == (4, 0)
    assert result.n_equal_controls == 2
    assert result.difference.ci_low > 0
    assert str(result).startswith("step 1, refund cents 540000 -> 5400\n  as recorded   0 of 4 won")
    json.dumps(result.to_json())


@pytest.mark.slow
def test_nothing_is_asked_and_nothing_runs_before_the_step(make: Make) -> None:
    world = make()
    world.try_(RIGHT_AMOUNT, n=3)
    # One request for each live run: the answer to the refund. Controls ask nothing.
    assert len(world.server.attempts) == 6
    for attempt in world.server.attempts:
        assert len(json.loads(attempt.body)["messages"]) == 6
    # The refund of each of the 6 runs and 2 controls, and no other tool.
    assert world.agent.n_tools == 8


@pytest.mark.slow
def test_model_is_told_the_arguments_that_it_asked_for(make: Make) -> None:
    world = make()
    world.try_(RIGHT_AMOUNT, n=1)
    bodies = [json.loads(attempt.body) for attempt in world.server.attempts]
    asked = sorted(
        json.loads(body["messages"][4]["tool_calls"][0]["function"]["arguments"])["cents"]
        for body in bodies
    )
    assert asked == [RIGHT, WRONG]
    for body in bodies:
        arguments = body["messages"][4]["tool_calls"][0]["function"]["arguments"]
        told = json.loads(body["messages"][5]["content"])
        assert told == {"refunded": json.loads(arguments)["cents"]}


@pytest.mark.slow
def test_other_result_is_told_and_the_call_stays_made(make: Make) -> None:
    world = make(Script(corrects=1.0))
    world.agent.state["refunds"] = []
    result = world.try_(Result({"refunded": 1}), n=1)
    told = sorted(json.loads(a.body)["messages"][5]["content"] for a in world.server.attempts)
    assert {'{"refunded": 1}', '{"refunded": 540000}'} <= set(told)
    assert result.refused == ""


@pytest.mark.slow
def test_failed_call_has_no_effect(make: Make) -> None:
    world = make()
    seen: list[Any] = []
    agent = world.agent

    def program() -> None:
        try:
            agent()
        finally:
            seen.append(list(agent.state["refunds"]))

    result = what_if(world.episode, at=1, change=ToolError("down"), agent=program, n=1)
    raised = [run for run in result.runs if run.arm == "changed"]
    assert raised[0].reason == "RuntimeError: down"
    assert raised[0].won is None
    assert result.changed.n_unknown == 1


@pytest.mark.slow
@third_slow("whatif")
@pytest.mark.parametrize(
    ("change", "holds"),
    [
        (Prompt("Be brief."), lambda b: b["messages"][0]["content"] == "Be brief."),
        (Message("Refund O2."), lambda b: b["messages"][1]["content"] == "Refund O2."),
        (Model("big", {"temperature": 0}), lambda b: (b["model"], b["temperature"]) == ("big", 0)),
        (
            ToolDefinition("refund", "In cents."),
            lambda b: b["tools"][1]["function"]["description"] == "In cents.",
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_requests_have_the_change_from_the_step_on(
    make: Make, change: Change, holds: Callable[[Any], bool]
) -> None:
    world = make()
    result = world.try_(change, n=1)
    bodies = [json.loads(attempt.body) for attempt in world.server.attempts]
    # Two live requests of each arm: the step's, and the one after the refund.
    assert sorted(len(body["messages"]) for body in bodies) == [4, 4, 6, 6]
    has_change = {True: 0, False: 0}
    for body in bodies:
        body.setdefault("temperature", None)
        has_change[holds({**body, "tools": with_descriptions(body["tools"])})] += 1
    assert has_change == {True: 2, False: 2}
    assert result.n_equal_controls == 2
    # The log has the requests as they were sent.
    with trajrec.open(world.agent.folder) as corpus:
        run = next(run for run in result.runs if run.arm == "changed")
        requests = [
            json.loads(exchange.request_body)
            for exchange in corpus.episode(run.episode_id).transcript.exchanges
        ]
    assert len(requests) == 2
    for body in requests:
        body.setdefault("temperature", None)
        assert holds({**body, "tools": with_descriptions(body["tools"])})


def with_descriptions(tools: list[Any]) -> list[Any]:
    return [{"function": {"description": None, **tool["function"]}} for tool in tools]


@pytest.mark.slow
def test_check_that_nobody_ran_is_named_in_the_result(make: Make) -> None:
    result = make().try_(RIGHT_AMOUNT, n=1, success="refundd")
    assert "2 runs without a verdict: the check 'refundd' was not run" in str(result)


def test_refusal_tells_how_tools_that_nothing_holds_run_again(make: Make, tmp_path: Path) -> None:
    import httpx

    agent = make().agent
    with httpx.Client() as client, trajrec.episode(tmp_path / "plain", task="t1") as ep:
        messages: list[Any] = [{"role": "user", "content": "Refund order O1."}]
        asked = {"model": "small", "messages": messages}
        answer = client.post(f"{agent.url}/v1/chat/completions", json=asked).json()
        messages.append(answer["choices"][0]["message"])
        told = {"role": "tool", "tool_call_id": messages[-1]["tool_calls"][0]["id"]}
        messages.append({**told, "content": json.dumps({"cents": RIGHT})})
        client.post(f"{agent.url}/v1/chat/completions", json=asked)
        ep.check(lambda: False)
    episode = only_episode(tmp_path / "plain")
    with pytest.raises(RestoreError, match=r"calls get_order.* itself.*--run-tools all --accept"):
        what_if(episode, at=1, agent=agent)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("step", [0, 2])
def test_control_that_raises_anew_is_no_equal_control(make: Make, step: int) -> None:
    world = make()

    def program() -> None:
        if step == 0:
            raise OSError("no such file: prices.csv")
        world.agent()
        raise OSError("disk full")

    result = what_if(world.episode, at=1, change=RIGHT_AMOUNT, agent=program, n=1)
    assert result.refused.startswith("no number")
    assert ("no such file: prices.csv" if step == 0 else "OSError: disk full") in result.refused
    assert result.n_equal_controls == 0


@pytest.mark.slow
def test_no_change_tells_how_certain_the_outcome_was(make: Make) -> None:
    world = make(Script(corrects=0.0))
    world.script.corrects = 1.0
    result = world.try_(None, n=3)
    assert (result.unchanged.n_won, result.changed.n_won) == (3, 3)
    assert result.what == "nothing changed"


# State.


class Stores:
    """States of all kinds that a refund is written to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "shop.db"
        self.files = folder / "files"
        self.files.mkdir()
        self.connection = sqlite3.connect(self.path, check_same_thread=False)
        self.connection.execute("CREATE TABLE refunds (cents INTEGER)")
        self.connection.commit()

    def write(self, _state: Any, cents: int) -> Any:
        self.connection.execute("INSERT INTO refunds VALUES (?)", (cents,))
        self.connection.commit()
        with (self.files / "log.txt").open("a") as file:
            file.write(f"{cents}\n")
        rows = self.connection.execute("SELECT cents FROM refunds").fetchall()
        return [[row[0] for row in rows], (self.files / "log.txt").read_text()]


@pytest.mark.slow
@third_slow("whatif")
@pytest.mark.parametrize("kind", ["connection", "path"])
def test_watched_state_is_put_back_for_each_run(make: Make, tmp_path: Path, kind: str) -> None:
    stores = Stores(tmp_path)
    watched: dict[str, Any] = {
        "connection": {"db": stores.connection, "files": stores.files},
        "path": {"db": stores.path, "files": stores.files},
    }
    world = make(refund=stores.write, watch=watched[kind])
    result = what_if(
        world.episode,
        at=1,
        change=RIGHT_AMOUNT,
        agent=world.agent,
        n=2,
        success=lambda parts: parts["db"] is not None,
    )
    stores.connection.close()
    # Each refund finds none before it, or its result would not be the recorded one.
    assert result.refused == ""
    assert result.n_equal_controls == 2
    bodies = [json.loads(attempt.body) for attempt in world.server.attempts]
    for body in bodies:
        told = json.loads(body["messages"][5]["content"])
        assert told["extra"] == [[told["refunded"]], f"{told['refunded']}\n"]


HIDDEN = ["counter", "clock", "file", "child process"]


def hidden(kind: str, folder: Path) -> Callable[[Any, int], Any]:
    """Return an effect of a refund that nothing watches."""
    numbers = itertools.count()
    path = folder / "outside.txt"

    def effect(_state: Any, _cents: int) -> Any:
        if kind == "counter":
            return next(numbers)
        if kind == "clock":
            return time.time_ns()
        if kind == "file":
            with path.open("a") as file:
                file.write("x")
            return path.stat().st_size
        code = f"p = open({str(path)!r}, 'a'); p.write('x'); print(p.tell())"
        return subprocess.run([sys.executable, "-Ic", code], capture_output=True, text=True).stdout

    return effect


@pytest.mark.slow
@third_slow("whatif")
@pytest.mark.parametrize("kind", HIDDEN)
def test_control_catches_a_state_that_is_not_put_back(
    make: Make, tmp_path: Path, kind: str
) -> None:
    world = make(refund=hidden(kind, tmp_path))
    result = world.try_(RIGHT_AMOUNT)
    assert "a control differs from the recording" in result.refused
    assert "step 1, tool result" in result.refused
    assert [run.arm for run in result.runs] == ["control"]
    assert result.difference.value != result.difference.value
    assert "won" not in str(result)


@pytest.mark.slow
def test_effects_that_nothing_watches_are_refused_by_name(make: Make) -> None:
    world = make(watch=False)
    with pytest.raises(RestoreError, match="the effects of refund, which nothing watches"):
        world.try_(None, at=2)
    result = world.try_(None, at=2, n=1, accept=True, success=lambda _: True)
    assert result.not_restored == ("the effects of refund, which nothing watches",)
    assert "not restored: the effects of refund, which nothing watches" in str(result)


def test_recorded_watch_that_is_not_given_is_asked_for(tmp_path: Path) -> None:
    stock = {"lamp": 3}

    def buy(n: int) -> int:
        stock["lamp"] -= n
        return stock["lamp"]

    def agent(ep: Any) -> None:
        tool = ep.tool(buy, access="write")
        for n in (1, 2):
            tool(n)

    with trajrec.episode(tmp_path, task="t1", watch=stock) as ep:
        agent(ep)
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
    options: dict[str, Any] = {"at": 1, "change": Arguments({"n": 1}), "agent": agent, "n": 1}
    same = {**options, "change": Arguments({"n": 2})}
    with pytest.raises(ReplayError, match="was recorded with these arguments: give others, or no"):
        what_if(episode, **same, success=lambda _: True, watch=stock)
    with pytest.raises(
        RestoreError, match=r"watched the watched state \(tree\): give it as watch="
    ):
        what_if(episode, **options, success=lambda _: True)
    result = what_if(episode, **options, success=lambda state: state["lamp"] == 1, watch=stock)
    assert (result.unchanged.n_won, result.changed.n_won) == (0, 1), str(result)


# Tools that must not run.


@pytest.mark.slow
def test_external_tool_does_not_run_without_leave(make: Make) -> None:
    world = make(access="external")
    result = world.try_(RIGHT_AMOUNT, n=2)
    assert world.agent.n_tools == 0
    assert result.changed.n_unknown == result.unchanged.n_unknown == 2
    assert "must not run without leave" in str(result)


@pytest.mark.slow
def test_stub_stands_in_for_an_external_tool(make: Make) -> None:
    world = make(access="external")

    def stub(order: str, cents: int) -> Any:
        world.agent.state["refunds"] = [cents]
        return {"refunded": cents}

    result = world.try_(RIGHT_AMOUNT, n=2, stubs={"refund": stub})
    assert (result.unchanged.n_won, result.changed.n_won) == (0, 2)
    assert world.agent.n_tools == 0
    assert "note: a stub stood in for refund" in str(result)
    assert "the last state of the controls was not compared: refund, an external tool" in str(
        result
    )


@pytest.mark.slow
def test_external_tool_runs_with_leave(make: Make) -> None:
    world = make(access="external")
    result = world.try_(RIGHT_AMOUNT, n=2, run_tools="external")
    assert (result.unchanged.n_won, result.changed.n_won) == (0, 2)


# Programs that do something else.


def test_agent_that_asks_something_else_before_the_step_stops(make: Make) -> None:
    world = make()
    world.agent.system = "Be bad."
    result = world.try_(RIGHT_AMOUNT)
    assert "step 0, model call: it is not the recorded one" in result.refused
    assert not world.server.attempts


@pytest.mark.slow
def test_agent_that_ends_before_the_step_stops(make: Make) -> None:
    world = make()
    world.agent.n_turns = 1
    result = world.try_(RIGHT_AMOUNT)
    assert "the agent ended before step 1" in result.refused


@pytest.mark.slow
def test_program_of_another_task_is_refused(make: Make) -> None:
    world = make()
    world.agent.options["task"] = "t2"
    result = world.try_(RIGHT_AMOUNT)
    assert "begins an episode of the task 't2', and that of the recording is 't1'" in result.refused


@pytest.mark.slow
def test_program_without_an_episode_is_refused(make: Make) -> None:
    world = make()
    result = what_if(world.episode, at=1, agent=lambda: None, change=RIGHT_AMOUNT)
    assert "the program began no episode" in result.refused


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at", "change", "call", "reason"),
    [
        (7, None, None, "has the steps 0 to 2"),
        (2, RIGHT_AMOUNT, None, "step 2 has no call that could be changed"),
        (1, RIGHT_AMOUNT, 3, "step 1 has no call 3"),
    ],
)
def test_step_that_cannot_be_changed_is_refused(
    make: Make, at: int, change: Any, call: int | None, reason: str
) -> None:
    world = make()
    with pytest.raises((IndexError, ReplayError), match=reason):
        world.try_(change, at=at, call=call)


def summed(folder: Path, numbers: Sequence[int]) -> tuple[Episode, dict[str, Any]]:
    """Record an agent that asks no model and adds numbers; return it, and options of `what_if`."""
    state = {"sum": 0}

    def agent(ep: Any) -> None:
        add = ep.tool(lambda n: state.update(sum=state["sum"] + n), name="add", access="write")
        for n in numbers:
            add(n=n)

    with trajrec.episode(folder, watch=state) as ep:
        agent(ep)
    return only_episode(folder), {"agent": agent, "watch": state}


@pytest.mark.slow
def test_change_that_was_never_made_counts_for_nothing(tmp_path: Path) -> None:
    episode, options = summed(tmp_path, (1, 2))

    def three(now: dict[str, int]) -> bool:
        return now["sum"] == 3

    # It asks no model, so another prompt reaches nobody.
    result = what_if(episode, at=1, change=Prompt("Be brief."), success=three, n=2, **options)
    assert (result.unchanged.n_won, result.changed.n_unknown) == (2, 2)
    assert "the change was never made" in str(result)


@pytest.mark.slow
def test_another_result_of_a_tool_that_nothing_holds_is_refused(tmp_path: Path) -> None:
    import httpx

    with ModelServer(Script()) as server, trajrec.episode(tmp_path, watch={"n": [1]}):
        messages: list[Any] = [{"role": "user", "content": "Refund order O1."}]
        url = f"{server.url}/v1/chat/completions"
        asked = httpx.post(url, json={"model": "m", "messages": messages}).json()
        call = asked["choices"][0]["message"]
        told = {"role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": "{}"}
        httpx.post(url, json={"model": "m", "messages": [*messages, call, told]})
    episode = only_episode(tmp_path)
    with pytest.raises(ReplayError, match="nothing recorded the call get_order of step 0 itself"):
        what_if(episode, at=0, change=Result({"cents": 1}), agent=lambda: None)


@pytest.mark.slow
def test_right_one_of_two_calls_is_changed_in_any_order(tmp_path: Path) -> None:
    state: dict[str, Any] = {"sums": {"a": 0, "b": 0}}
    order = ["a", "b"]

    def agent(ep: Any) -> None:
        add = ep.tool(lambda name, n: state["sums"].update({name: n}), name="add", access="write")
        with ep.step():
            for name in order:
                add(name=name, n=1)

    with trajrec.episode(tmp_path, watch=state) as ep:
        agent(ep)
    episode = only_episode(tmp_path)
    order.reverse()
    seen: list[Any] = []

    def judge(now: dict[str, Any]) -> bool:
        seen.append(dict(now["sums"]))
        return True

    change = Arguments({"n": 7})
    what_if(episode, at=0, call=0, change=change, agent=agent, watch=state, success=judge, n=1)
    assert {"a": 7, "b": 1} in seen
    assert {"a": 1, "b": 7} not in seen


@pytest.mark.slow
@pytest.mark.parametrize("messages", [True, False])
@pytest.mark.parametrize(
    ("change", "n_pairs"),
    [
        (RIGHT_AMOUNT, 3),
        # The lost episode did the same at its step, and was lucky later.
        (None, 0),
        # The next action answers another result, or another prompt.
        (Result({"refunded": 7}), 0),
        (Prompt("Be brief."), 0),
    ],
    ids=["arguments", "nothing", "result", "prompt"],
)
def test_pair_of_actions_answers_one_context(
    make: Make, tmp_path: Path, change: Change | None, n_pairs: int, messages: bool
) -> None:
    world = make()
    world.script.corrects = 0.0 if change is RIGHT_AMOUNT else 1.0
    result = world.try_(change, n=3)
    changed = {f"fork {run.episode_id}" for run in result.runs if run.arm == "changed"}
    assert result.changed.n_won == len(changed) == 3
    trajrec.close_logs()
    target = tmp_path / "pairs.jsonl"
    with trajrec.open(world.agent.folder) as corpus, contextlib.suppress(CorpusError):
        export(corpus, "dpo", target, messages=messages)
    lines = target.read_text().splitlines() if target.exists() else []
    sources = [json.loads(line)["source"] for line in lines]
    assert len(changed.intersection(sources)) == n_pairs


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    "change",
    [
        Prompt("The db_password=hunter2Xy! is yours."),
        Message("The db_password=hunter2Xy! is mine."),
        ToolError("refused: db_password=hunter2Xy!"),
        Result({"db_password": "hunter2Xy!"}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_secret_in_a_change_is_in_no_log(make: Make, change: Change) -> None:
    world = make()
    assert world.try_(change, n=1).refused == ""
    trajrec.close_logs()
    with trajrec.open(world.agent.folder) as corpus:
        forks = list(corpus.episodes(kind="fork"))
        assert forks
        for fork in forks:
            assert fork.fork is not None
            for told in (fork.fork.metadata_data, fork.transcript.task_start):
                assert "hunter2" not in str(told)


def test_redacted_state_before_the_step_is_refused_at_once(make: Make, tmp_path: Path) -> None:
    world = make()
    world.agent.folder = tmp_path / "secret"
    world.agent.state["password"] = "correct horse"
    world.episode = record_failure(world.agent)
    world.server.attempts.clear()
    with pytest.raises(RedactedError, match=r"had a secret, which was redacted.* watch only"):
        world.try_(RIGHT_AMOUNT)
    assert not world.server.attempts
    with trajrec.open(world.agent.folder) as corpus:
        assert not list(corpus.episodes(kind="fork"))


@pytest.mark.slow
def test_run_with_a_change_is_not_rerun(make: Make) -> None:
    world = make()
    result = world.try_(RIGHT_AMOUNT, n=1)
    with trajrec.open(world.agent.folder) as corpus:
        by_arm = {run.arm: corpus.episode(run.episode_id) for run in result.runs}
        with pytest.raises(ReplayError, match="given a change at step 1"):
            trajrec.rerun(by_arm["changed"])
        trajrec.rerun(by_arm["unchanged"])


# Budgets and verdicts.


@pytest.mark.slow
@third_slow("whatif")
def test_budget_of_tokens_ends_the_experiment(make: Make) -> None:
    world = make()
    result = world.try_(RIGHT_AMOUNT, n=5, budget=Budget(tokens=30))
    assert "of a budget of 30" in result.was_stopped
    assert 2 <= len(result.runs) < 12
    assert "ended early" in str(result)


@pytest.mark.slow
def test_interrupt_keeps_the_runs_so_far(make: Make) -> None:
    world = make()
    numbers = itertools.count()

    def program() -> None:
        if next(numbers) == 4:
            raise KeyboardInterrupt
        world.agent()

    result = what_if(world.episode, at=1, change=RIGHT_AMOUNT, agent=program, n=5)
    assert result.was_stopped == "interrupted"
    assert len(result.runs) == 4


@pytest.mark.slow
@third_slow("whatif")
def test_runs_without_a_verdict_widen_the_interval(make: Make) -> None:
    world = make()
    verdicts = itertools.cycle([True, None])

    def odd(_: Any) -> trajrec.Verdict:
        return trajrec.Verdict(next(verdicts))

    known = world.try_(RIGHT_AMOUNT, n=4, success=refunded).difference
    result = world.try_(RIGHT_AMOUNT, n=4, success=odd)
    assert result.changed.n_unknown + result.unchanged.n_unknown == 4
    assert result.difference.ci_high - result.difference.ci_low > known.ci_high - known.ci_low


@pytest.mark.slow
def test_runs_are_forks_that_sql_selects(make: Make) -> None:
    world = make()
    result = world.try_(RIGHT_AMOUNT, n=2)
    with trajrec.open(world.agent.folder) as corpus:
        rows = corpus.sql(
            "SELECT metadata->>'$.what_if.arm' AS arm, outcome, count(*) FROM forks "
            "WHERE metadata->>'$.what_if.id' = ? GROUP BY ALL ORDER BY ALL",
            params=[result.experiment],
        ).fetchall()
        assert rows == [
            ("changed", "success", 2),
            ("control", "failure", 2),
            ("unchanged", "failure", 2),
        ]
        assert corpus.sql("SELECT count(*) FROM episodes").fetchall() == [(1,)]


@pytest.mark.slow
def test_list_counts_by_the_check_that_decided(make: Make) -> None:
    world = make()

    def small(_: Any) -> trajrec.Verdict:
        return trajrec.Verdict(passed=True)

    result = world.try_(RIGHT_AMOUNT, n=2, success=small)
    assert (result.unchanged.n_won, result.changed.n_won) == (2, 2)
    with trajrec.open(world.agent.folder) as corpus:
        listed = corpus.sql(LISTED, params={"episode": ""})
        row = dict(zip(listed.columns, listed.fetchall()[0], strict=True))
    assert (row["unchanged_won"], row["changed_won"], row["equal_controls"]) == (2, 2, 2)
    assert "small" in row["success"]


# Agents that are functions of an episode, and worlds.


@pytest.mark.slow
def test_bank_is_won_by_the_right_choice_alone(tmp_path: Path) -> None:
    drawn = random.Random(1)

    def model(*, messages: list[str]) -> str:
        return str(drawn.choice([50, 150])) if messages[-1] == "which amount?" else "go on"

    def agent(ep: Any) -> None:
        ep.model(model, messages=["pay in 100"])
        ep.call("deposit", amount=100)
        ep.call("choose", amount=int(ep.model(model, messages=["which amount?"])))
        ep.model(model, messages=["take it out"])
        ep.call("withdraw")

    while True:
        with trajrec.episode(tmp_path, task="bank", world=trajrec.envs.Bank()) as ep:
            agent(ep)
            verdict = ep.check(trajrec.envs.Bank.task_solved)
        if verdict.passed is False:
            break
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        episode = corpus.episode(next(iter(corpus.episodes("outcome = 'failure'"))).id)
    solved = trajrec.envs.Bank.task_solved
    options: dict[str, Any] = {"agent": agent, "success": solved}
    right = what_if(episode, at=1, change=Arguments({"amount": 50}), n=4, **options)
    assert (right.unchanged.n_won, right.changed.n_won) == (0, 4)
    assert right.n_equal_controls == 2
    deposit = what_if(episode, at=0, change=Arguments({"amount": 101}), n=8, **options)
    assert 0 < deposit.changed.n_won + deposit.unchanged.n_won < 16


@pytest.mark.slow
@third_slow("whatif")
def test_calls_that_no_model_decided_are_controlled(tmp_path: Path) -> None:
    episode, options = summed(tmp_path, (1, 2, 3, 4))

    def ten(now: dict[str, int]) -> bool:
        return now["sum"] == 10

    change = Arguments({"n": 9})
    result = what_if(episode, at=1, change=change, success=ten, n=1, **options)
    assert result.n_equal_controls == 2
    assert (result.unchanged.n_won, result.changed.n_won) == (1, 0)


@pytest.mark.slow
@third_slow("whatif")
@pytest.mark.filterwarnings("default")
def test_state_of_an_mcp_server_is_put_back(tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="mcp is not installed")
    from mcp import ClientSession
    from mcp.client.stdio import StdioServerParameters, stdio_client

    ledger = tmp_path / "ledger.db"

    def run_sql(text: str) -> Any:
        with contextlib.closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
            return connection.execute(text).fetchone()

    run_sql("CREATE TABLE entries (cents INTEGER)")

    def balanced(path: Path) -> bool:
        return bool(run_sql("SELECT sum(cents) FROM entries")[0] == 15)

    async def program() -> None:
        run_sql("DELETE FROM entries")
        server = Path(__file__).parent / "ledger_server.py"
        command = StdioServerParameters(command=sys.executable, args=[str(server), str(ledger)])
        async with stdio_client(command) as (read, write), ClientSession(read, write) as raw:
            await raw.initialize()
            async with trajrec.episode(tmp_path / "runs", watch=ledger) as ep:
                session = trajrec.mcp(raw)
                for cents in (5, 7, 3):
                    await session.call_tool("book", {"cents": cents})
                ep.check(balanced)

    asyncio.run(program())
    episode = only_episode(tmp_path / "runs")
    result = what_if(episode, at=2, agent=program, n=1)
    assert result.n_equal_controls == 2, str(result)
    # Each run has booked 5 and 7 before the step by the recorded state alone.
    assert (result.unchanged.n_won, result.changed.n_won) == (1, 1)


@pytest.mark.slow
def test_async_program_is_run(make: Make, tmp_path: Path) -> None:
    async def agent(ep: Any) -> None:
        @ep.tool(access="write")
        async def add(n: int) -> int:
            state["sum"] += n
            return int(state["sum"])

        state["sum"] = 0
        await add(1)
        await add(2)

    state = {"sum": 0}

    async def record() -> None:
        async with trajrec.episode(tmp_path / "async", watch=state) as ep:
            await agent(ep)
            ep.check(three)

    def three(now: dict[str, int]) -> bool:
        return now["sum"] == 3

    asyncio.run(record())
    episode = only_episode(tmp_path / "async")
    result = what_if(
        episode,
        at=1,
        change=Arguments({"n": 5}),
        agent=agent,
        watch=state,
        success=three,
        n=2,
    )
    assert (result.unchanged.n_won, result.changed.n_won) == (2, 0)
    assert "the arguments were changed in the call itself, not in a model's answer" in str(result)


@pytest.mark.slow
def test_failure_of_an_async_call_comes_when_it_is_awaited(tmp_path: Path) -> None:
    async def agent(ep: Any) -> None:
        async def add(n: int) -> int:
            state["sum"] += n
            return int(state["sum"])

        ep.tool(add, access="write")
        state["sum"] = 0
        await ep.call("add", n=1)
        await asyncio.gather(ep.call("add", n=2), return_exceptions=True)
        await ep.call("add", n=4)

    state = {"sum": 0}

    async def record() -> None:
        async with trajrec.episode(tmp_path, watch=state) as ep:
            await agent(ep)

    asyncio.run(record())
    result = what_if(
        only_episode(tmp_path),
        at=1,
        change=ToolError("down"),
        agent=agent,
        watch=state,
        success=lambda now: now["sum"] == 7,
        n=1,
    )
    assert (result.unchanged.n_won, result.changed.n_losses) == (1, 1), str(result)
