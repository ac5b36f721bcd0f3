"""An agent's loop runs against its recording, and its first other request is reported."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest
from conftest import only
from tiers import third_slow

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.envs import Shop
from trajrec.envs.shop import ToolError
from trajrec.errors import AgentDivergedError, DivergenceError, RecordedError, ReplayError
from trajrec.recording.event_log import close_logs
from trajrec.redaction.redactor import Redactor


class ToolCall(pydantic.BaseModel):
    id: str
    name: str
    arguments: str


class Message(pydantic.BaseModel):
    role: str = "assistant"
    content: str | None = None
    tool_calls: list[ToolCall] = []


@dataclasses.dataclass
class Answer:
    message: Message
    usage: dict[str, int]


class Model:
    """Gives scripted answers."""

    def __init__(self, *script: list[tuple[str, dict[str, Any]]]) -> None:
        self.script = iter(script)

    def create(self, *, messages: list[Any], model: str, **_: Any) -> Answer:
        calls = [
            ToolCall(id=f"c{k}", name=n, arguments=json.dumps(a))
            for k, (n, a) in enumerate(next(self.script, []))
        ]
        return Answer(
            Message(content=None if calls else "done", tool_calls=calls),
            {"prompt_tokens": len(messages)},
        )


def no_network(**_: Any) -> Any:
    raise AssertionError("the model was called")


SCRIPT = (
    [("get_order", {"order": "O1001"})],
    [("refund_order", {"order": "O1001", "cents": 10**6})],
    [
        ("refund_order", {"order": "O1001", "cents": 100}),
        ("send_message", {"customer": "C1", "text": "hi"}),
    ],
)


def agent(
    ep: Any,
    create: Any,
    *,
    prompt: str = "You are a careful clerk.\nRefund what is asked.\nSay done.",
) -> int:
    """Ask a model, call its tools and append the results until it calls none."""
    messages: list[Any] = [
        {"role": "system", "content": prompt},
        {"role": "user", "content": ep.goal["goal"]},
    ]
    for turn in range(10):
        reply = ep.model(create, model="m-1", messages=messages, temperature=0.0)
        messages.append(reply.message)
        if not reply.message.tool_calls:
            ep.stop("done", claimed_done=True)
            return turn
        for call in reply.message.tool_calls:
            try:
                result = ep.execute(call.name, json.loads(call.arguments), call_id=call.id)
            except ToolError as exc:
                result = {"error": str(exc)}
            messages.append(
                {"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)}
            )
    return -1


def record(folder: Path) -> Any:
    with trajrec.episode(folder, world=Shop(seed=7), options={"task": 0}) as ep:
        assert agent(ep, Model(*SCRIPT).create) == 3
    return only(folder)


def test_an_unchanged_agent_reruns_from_the_log_alone(tmp_path: Path) -> None:
    episode = record(tmp_path)
    with trajrec.rerun(episode) as ep:
        assert agent(ep, no_network) == 3
    assert ep.difference is None
    assert ep.n_steps == 4


RERUN = """
import sys
sys.path.insert(0, sys.argv[2])
import test_reruns, trajrec
episode = next(trajrec.open(sys.argv[1]).episodes())
with trajrec.rerun(episode) as ep:
    test_reruns.agent(ep, test_reruns.no_network, **eval(sys.argv[3]))
print(ep.difference)
"""


@pytest.mark.slow
@third_slow("agents")
def test_a_changed_prompt_is_found_in_another_process(
    tmp_path: Path,
) -> None:
    record(tmp_path)
    close_logs()

    def run(arguments: str) -> Any:
        command = [
            sys.executable,
            "-c",
            RERUN,
            str(tmp_path),
            str(Path(__file__).parent),
            arguments,
        ]
        return subprocess.run(command, capture_output=True, text=True)

    assert run("{}").stdout == "None\n"
    done = run("{'prompt': 'You are a careful clerk.\\nRefund what is due.\\nSay done.'}")
    assert done.returncode == 1
    assert "step 0, model call: it is not the recorded one" in done.stderr
    assert "    -Refund what is asked.\n    +Refund what is due." in done.stderr


def test_the_path_of_a_log_is_enough(tmp_path: Path) -> None:
    record(tmp_path)
    close_logs()
    (path,) = tmp_path.glob("*.trj")
    with trajrec.rerun(path) as ep:
        assert agent(ep, no_network) == 3
    for _ in range(2):
        with trajrec.episode(tmp_path / "two"):
            pass
    close_logs()
    (path,) = (tmp_path / "two").glob("*.trj")
    with pytest.raises(ValueError, match="holds 2 episodes"):
        trajrec.rerun(path)


def test_a_difference_may_be_reported_and_not_raised(tmp_path: Path) -> None:
    episode = record(tmp_path)
    with trajrec.rerun(episode, on_difference="report") as ep:
        agent(ep, no_network, prompt="Be quick.")
    assert (ep.difference.step, ep.difference.kind) == (0, "model call")
    assert [change.path for change in ep.difference.changes] == [("messages", 0, "content")]


def loop(ep: Any, *calls: tuple[str, dict[str, Any]]) -> None:
    for name, arguments in calls:
        ep.call(name, **arguments)


def test_other_more_and_fewer_calls_are_told_apart(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        ep.tool(lambda **a: {"got": a}, name="a")
        ep.tool(lambda **a: {"got": a}, name="b")
        loop(ep, ("a", {"x": 1}), ("b", {"x": 2}))
    episode = only(tmp_path)

    def difference(*calls: tuple[str, dict[str, Any]]) -> Any:
        with trajrec.rerun(episode, on_difference="report") as ep:
            loop(ep, *calls)
        return ep.difference

    assert difference(("a", {"x": 1}), ("b", {"x": 2})) is None
    first = difference(("a", {"x": 1}), ("b", {"x": 3}))
    assert (first.step, first.kind, [tuple(change) for change in first.changes]) == (
        1,
        "tool call",
        [(("arguments", "x"), 2, 3)],
    )
    first = difference(("b", {"x": 2}), ("a", {"x": 1}))
    assert (first.step, first.recorded["tool"], first.actual["tool"]) == (0, "a", "b")
    first = difference(("a", {"x": 1}), ("b", {"x": 2}), ("a", {"x": 9}))
    assert (first.step, first.recorded, first.actual) == (
        2,
        None,
        {"tool": "a", "arguments": {"x": 9}},
    )
    assert "no more of them" in str(first)
    first = difference(("a", {"x": 1}))
    assert (first.step, first.kind, first.recorded["tool"]) == (1, "end", "b")
    with pytest.raises(AgentDivergedError, match="ended before"), trajrec.rerun(episode) as ep:
        loop(ep, ("a", {"x": 1}))


def test_errors_streams_and_checks_come_back_unchanged(tmp_path: Path) -> None:
    class Unknown(Exception):
        pass

    tried: list[int] = []

    def flaky() -> str:
        tried.append(1)
        if len(tried) < 3:
            raise TimeoutError(f"try {len(tried)}")
        return "third"

    def broken() -> None:
        raise Unknown("local class")

    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    def run(ep: Any) -> list[Any]:
        seen: list[Any] = []
        for function in (flaky, broken, later):
            ep.tool(function)
        for attempt in ep.attempts(3, wait=0.01, on=TimeoutError):
            with attempt:
                seen.append(ep.call("flaky"))
        try:
            ep.call("broken")
        except Exception as exc:
            seen.append(str(exc))
        seen.append(list(ep.model(lambda **_: iter(["a", "b"]), messages=[])))
        seen.append(ep.side_effect("dice", lambda: 4))
        seen.append(
            ep.check(
                trajrec.verifier(id="ok", version="1")(lambda _: trajrec.Verdict(True, 0.5, "seen"))
            )
        )

        async def both() -> list[int]:
            with ep.step():
                return list(await asyncio.gather(ep.call("later", x=1), ep.call("later", x=5)))

        return [*seen, asyncio.run(both())]

    with trajrec.episode(tmp_path) as ep:
        first = run(ep)
    tried.clear()
    with trajrec.rerun(only(tmp_path)) as ep:
        assert run(ep) == first
    assert tried == []
    assert first[0] == "third"


@pytest.mark.slow
def test_values_of_unloaded_classes_are_objects(tmp_path: Path) -> None:
    code = """
import dataclasses, sys, trajrec
@dataclasses.dataclass
class Reply:
    text: str
    parts: list
class Odd(Exception): pass
Reply.__module__ = Odd.__module__ = "somewhere"
def refuse(**_): raise Odd("no")
with trajrec.episode(sys.argv[1]) as ep:
    ep.model(lambda **_: Reply("hello", [Reply("inner", [])]), messages=[])
    try:
        ep.model(refuse, messages=[])
    except Odd:
        pass
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    with trajrec.rerun(only(tmp_path)) as ep:
        reply = ep.model(no_network, messages=[])
        assert (reply.text, reply.parts[0].text) == ("hello", "inner")
        assert reply.model_dump() == {"text": "hello", "parts": [{"text": "inner", "parts": []}]}
        with pytest.raises(
            AttributeError, match=r"recorded somewhere\.Reply has no field 'nothing'"
        ):
            _ = reply.nothing
        with pytest.raises(RecordedError, match="no"):
            ep.model(no_network, messages=[])
    assert "somewhere" not in sys.modules


@pytest.mark.slow
def test_redacted_secrets_make_no_difference_elsewhere(
    tmp_path: Path,
) -> None:
    code = """
import sys, trajrec
with trajrec.episode(sys.argv[1]) as ep:
    ep.tool(lambda **a: 1, name="login")
    ep.call("login", key="sk-" + "a1b2c3d4" * 4)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    with trajrec.rerun(only(tmp_path)) as ep:
        assert ep.call("login", key="sk-" + "a1b2c3d4" * 4) == 1
    with trajrec.rerun(only(tmp_path), on_difference="report") as ep:
        ep.call("login", key="none")
    assert ep.difference is not None


@pytest.mark.slow
def test_reruns_of_recordings_without_redaction_compare_what_was_recorded(tmp_path: Path) -> None:
    secret = "sk-" + "a1b2c3d4" * 4
    redactor = Redactor({}, rules={"door code": r"door \d+"})
    for folder, redact in (("plain", False), ("own", redactor)):
        with trajrec.episode(tmp_path / folder, redact=redact) as ep:
            ep.tool(lambda **a: 1, name="open")
            ep.call("open", key=secret, way="door 17")
    with trajrec.rerun(only(tmp_path / "plain")) as ep:
        assert ep.call("open", key=secret, way="door 17") == 1
    with trajrec.rerun(only(tmp_path / "own"), redact=redactor) as ep:
        assert ep.call("open", key=secret, way="door 17") == 1
    for folder in ("plain", "own"):
        with trajrec.rerun(only(tmp_path / folder), on_difference="report") as ep:
            ep.call("open", key=f"{secret}x", way="through the window")
        assert ep.difference is not None
        assert f"{secret}x" not in str(ep.difference)


def test_an_environments_episode_is_refused(tmp_path: Path) -> None:
    import gymnasium

    with trajrec.record(gymnasium.make("CartPole-v1"), tmp_path) as env:
        env.reset(seed=0)
        env.step(0)
    with pytest.raises(ValueError, match="not an agent's; replay it"):
        trajrec.rerun(only(tmp_path))


# Going on live


def only_root(corpus: Any) -> str:
    return str(corpus.sql("SELECT episode_id FROM episodes").fetchall()[0][0])


def queue_agent(ep: Any, cents: int, log: list[str] | None = None) -> None:
    """Ask a model once, refund and send a message; log the functions that are called."""

    def note(text: str) -> str:
        if log is not None:
            log.append(text)
        return text

    ep.tool(note, access="external")
    model = Model([], [], [])
    answer = ep.model(
        model.create, messages=[{"role": "user", "content": "refund O1001"}], model="m"
    )
    assert answer.message.content == "done"
    ep.call("note", text="begin")
    order = ep.call("get_order", order="O1001")
    assert order["cents"] == 5000
    ep.call("refund_order", order="O1001", cents=cents)
    ep.call("send_message", customer="C1", text=f"refunded {cents}")
    ep.call("note", text="end")
    ep.check(in_full)
    ep.stop("done", claimed_done=True)


@trajrec.verifier(id="in-full", version="1")
def in_full(shop: Shop) -> bool:
    order = shop._database["orders"]["O1001"]
    return bool(order["refunded"] == order["cents"])


@pytest.mark.slow
def test_a_changed_agent_continues_live_as_a_fork(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, task="refund", world=Shop(seed=7), options={"task": 0}) as ep:
        queue_agent(ep, 100)
    parent = only(tmp_path)
    log: list[str] = []
    with trajrec.rerun(parent, on_difference="live") as again:
        queue_agent(again, 100, log)
    assert (again.difference, again.live, log) == (None, None, [])
    with trajrec.rerun(parent, on_difference="live") as again:
        queue_agent(again, 5000, log)
    assert again.difference.step == 0
    assert "arguments/cents: recorded 100, now 5000" in str(again.difference)
    assert log == ["end"]  # what came before was answered from the log
    assert again.world.get_state()["database"]["orders"]["O1001"]["refunded"] == 5000
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        rows = corpus.sql(
            "SELECT parent_id, fork_step, outcome, claimed_done FROM all_episodes ORDER "
            "BY parent_id NULLS FIRST"
        ).fetchall()
        assert rows == [(None, None, "failure", True), (parent.id, 0, "success", True)]
        child = corpus.episode(again.id)
        assert [(a.tool, a.key) for a in child.transcript.attempts] == [
            ("refund_order", (0, 2, 0)),
            ("send_message", (0, 3, 0)),
            ("note", (0, 4, 0)),
        ]
        assert child.parent.id == parent.id
        report = trajrec.replay.replay_episode(child, checks=[in_full])
        assert (report.grade, report.divergence) == ("exact", None)


@pytest.mark.slow
def test_a_fork_of_a_live_fork_is_recorded(
    tmp_path: Path,
) -> None:
    def agent(ep: Any, *orders: str) -> None:
        for order in orders:
            ep.call("cancel_order", order=order) if order == "O1002" else ep.call(
                "get_order", order=order
            )

    with trajrec.episode(tmp_path, world=Shop(seed=7), options={"task": 0}) as ep:
        agent(ep, "O1001", "O1002", "O1003")
    with trajrec.rerun(only(tmp_path), on_difference="live") as again:
        agent(again, "O1001", "O1002", "O1004", "O1005")
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        child = corpus.episode(again.id)
        assert (child.first_step, child.n_steps, child.end_step) == (2, 2, 4)
        assert child.state(2)[""]["database"]["orders"]["O1002"]["status"] == "cancelled"
        with trajrec.rerun(child, on_difference="stop") as same:
            agent(same, "O1001", "O1002", "O1004", "O1005")
        with trajrec.rerun(child, on_difference="live") as other:
            agent(other, "O1001", "O1002", "O1004", "O1006")
        close_logs()
        assert corpus.episode(other.id).parent.parent.id == only_root(corpus)
        assert {r.grade for r in trajrec.replay.replay_episodes(corpus.episodes(kind="all"))} == {
            "exact"
        }
        assert corpus.sql(
            f"SELECT step FROM steps WHERE episode_id = '{again.id}' ORDER BY 1"
        ).fetchall() == [(2,), (3,)]


def test_a_changed_world_is_not_continued(tmp_path: Path) -> None:
    class Other(Shop):
        def _get_order(self, order: str) -> dict[str, Any]:
            return {**super()._get_order(order), "cents": 1}

    with trajrec.episode(tmp_path, world=Shop(seed=7), options={"task": 0}) as ep:
        queue_agent(ep, 100)
    with (
        pytest.raises(
            DivergenceError, match="the world is not in the recorded state: step 0, result/cents"
        ),
        trajrec.rerun(only(tmp_path), on_difference="live", world=Other(seed=7)) as again,
    ):
        queue_agent(again, 5000)


def work_until_checked(ep: Any) -> list[bool | None]:
    """Work until the verifier passes; return its verdicts."""
    total = 0
    verdicts = []

    def is_enough(n: int) -> bool:
        return n >= 2

    @ep.tool(access="read")
    def work() -> int:
        return total + 1

    for turn in range(4):
        ep.model(lambda messages: "go on", messages=[{"role": "user", "content": str(turn)}])
        verdicts.append(ep.check(is_enough, total).passed)
        if verdicts[-1]:
            break
        total = work()
    return verdicts


def test_each_check_gets_its_own_recorded_verdict(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        recorded = work_until_checked(ep)
    assert recorded == [False, False, True]
    with trajrec.rerun(trajrec.open(tmp_path).episode(ep.id)) as rerun:
        assert work_until_checked(rerun) == recorded
        assert rerun.check(work_until_checked).passed is None
    assert rerun.difference is None


class Desk:
    """A program that begins its own episode, asks a model and calls a tool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.n_asked = 0
        self.sold: list[str] = []

    def model(self, *, messages: list[str]) -> str:
        self.n_asked += 1
        return "sell 4111 1111"

    def sell(self, card: str) -> dict[str, str]:
        self.sold.append(card)
        return {"sold": "lamp"}

    def __call__(self, question: str = "A lamp?", task: str = "desk") -> str:
        cards = Redactor(rules={"card": r"\d{4} \d{4}"})
        with trajrec.episode(self.folder, task=task, redact=cards) as ep:
            tool = ep.tool(self.sell, access="write")
            asked = str(ep.model(self.model, messages=[question]))
            tool(card=asked.removeprefix("sell "))
            ep.stop("done")
            return str(ep.id)


@pytest.fixture
def desk(tmp_path: Path) -> tuple[Desk, Episode]:
    made = Desk(tmp_path)
    episode_id = made()
    close_logs()
    made.n_asked = 0
    made.sold.clear()
    return made, trajrec.open(tmp_path).episode(episode_id)


def count_all(folder: Path) -> int:
    close_logs()
    ((number,),) = trajrec.open(folder).sql("SELECT count(*) FROM all_episodes").fetchall()
    return int(number)


@pytest.mark.slow
def test_program_that_begins_its_episode_asks_and_runs_nothing(desk: tuple[Desk, Episode]) -> None:
    agent, episode = desk
    with trajrec.rerun(episode) as rerun:
        assert agent() == episode.id
    assert rerun.difference is None
    assert (agent.n_asked, agent.sold, count_all(agent.folder)) == (0, [], 1)


@pytest.mark.slow
def test_changed_program_that_begins_its_episode_differs(desk: tuple[Desk, Episode]) -> None:
    agent, episode = desk
    with trajrec.rerun(episode, on_difference="report") as rerun:
        agent("A chair?")
    assert "A chair?" in str(rerun.difference)
    assert (agent.n_asked, agent.sold, count_all(agent.folder)) == (0, [], 1)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("on_difference", ["stop", "report"])
def test_second_episode_in_a_rerun_is_refused(
    desk: tuple[Desk, Episode], on_difference: Literal["stop", "report"]
) -> None:
    agent, episode = desk

    def rerun_twice() -> None:
        with trajrec.rerun(episode, on_difference=on_difference):
            agent()
            agent()

    with pytest.raises(ReplayError, match="begins a second episode in its rerun"):
        rerun_twice()
    assert (agent.n_asked, agent.sold, count_all(agent.folder)) == (0, [], 1)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("on_difference", ["stop", "report"])
def test_episode_of_another_task_in_a_rerun_is_refused(
    desk: tuple[Desk, Episode], on_difference: Literal["stop", "report"]
) -> None:
    agent, episode = desk
    with (
        pytest.raises(ReplayError, match="an episode of the task 'other' in its rerun"),
        trajrec.rerun(episode, on_difference=on_difference),
    ):
        agent(task="other")
    assert (agent.n_asked, agent.sold, count_all(agent.folder)) == (0, [], 1)


@pytest.mark.slow
def test_program_that_begins_its_episode_goes_on_live(desk: tuple[Desk, Episode]) -> None:
    agent, episode = desk
    with trajrec.rerun(episode, on_difference="live") as rerun:
        agent("A chair?")
    assert rerun.live is not None
    assert (agent.n_asked, agent.sold, count_all(agent.folder)) == (1, ["4111 1111"], 2)
