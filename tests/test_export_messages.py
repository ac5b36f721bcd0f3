"""Labels, pairs and advantages as chat messages with tool calls and results."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import gymnasium as gym
import numpy as np
import pytest
from conftest import only
from test_messages import CHAT_URL, JSON, send, user

import trajrec
from trajrec.agents.episode import AgentEpisode
from trajrec.cli.main import main
from trajrec.corpus.chat import decisions
from trajrec.envs import Bank
from trajrec.replay import credit
from trajrec.wire.exchange import HttpRequest

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


def reply(text: str | None, *calls: tuple[str, str, str]) -> dict[str, Any]:
    """Return an answer as the chat API has it."""
    rows = [
        {"id": own, "type": "function", "function": {"name": name, "arguments": arguments}}
        for own, name, arguments in calls
    ]
    message = {"role": "assistant", "content": text, **({"tool_calls": rows} if rows else {})}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def answer_with(said: dict[str, Any], **_: Any) -> dict[str, Any]:
    return said


@trajrec.verifier(id="right", version="1")
def is_right(state: Any) -> bool:
    return bool(state["answer"] == ["7"])


def record_agent(folder: Path, answer: str) -> str:
    """Record an agent that looks at two places at once and answers; "7" is right."""
    written: list[str] = []
    with trajrec.episode(
        folder, task="t", goal="How many?", watch={"answer": written}, checks=[is_right]
    ) as ep:
        look = ep.tool(lambda place: {"lamps": len(place)}, name="look", access="read")
        talk: list[Any] = [{"role": "user", "content": "How many?"}]
        calls = (("c1", "look", '{"place": "hall"}'), ("c2", "look", '{"place": "den"}'))
        for said in (reply("I look.", *calls), reply(answer)):
            got = ep.model(partial(answer_with, said), model="m", messages=list(talk), tools=TOOLS)
            message = got["choices"][0]["message"]
            talk.append(message)
            for call in message.get("tool_calls", ()):
                result = look(**json.loads(call["function"]["arguments"]))
                row = {"role": "tool", "tool_call_id": call["id"], "content": json.dumps(result)}
                talk.append(row)
        written.append(answer)
        ep.stop("done")
    return ep.id


@pytest.mark.slow
def test_advantages_stand_beside_messages_and_results(tmp_path: Path, capsys: Any) -> None:
    for answer in ("7", "8"):
        record_agent(tmp_path / "runs", answer)
    trajrec.close_logs()
    for name in ("rows.jsonl", "rows.parquet"):
        words = ["export", str(tmp_path / "runs"), "grpo", "-o", str(tmp_path / name)]
        assert main([*words, "--messages"]) == 2
        said = capsys.readouterr().err
        assert "no rows: 2 episodes have an outcome and no known return: measure='outcome'" in said
        assert main([*words, "--messages", "--measure", "outcome"]) == 0
        assert "2 rows" in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for row, answer in zip(rows, ("7", "8"), strict=True):
        assert row["prompt"] == [{"role": "user", "content": "How many?"}]
        first, last = row["completions"]
        assert [message["role"] for message in first] == ["assistant", "tool", "tool"]
        assert [call["id"] for call in first[0]["tool_calls"]] == ["c1", "c2"]
        assert [message["content"] for message in first[1:]] == ['{"lamps": 4}', '{"lamps": 3}']
        assert last == [{"role": "assistant", "content": answer}]
        assert len(row["advantages"]) == 2
        assert row["tools"][0]["function"]["name"] == "look"
    assert rows[0]["advantages"][1] > 0 > rows[1]["advantages"][1]
    assert [row["reward"] for row in rows] == [None, None]
    query = (
        f"SELECT prompt[1].role, completions[1][2].content, tools FROM '{tmp_path}/rows.parquet'"
    )
    for role, content, tools in duckdb.sql(query).fetchall():
        assert (role, content) == ("user", '{"lamps": 4}')
        assert json.loads(tools) == rows[0]["tools"]


def test_exports_tell_of_images_and_of_groups_of_several_models(
    tmp_path: Path, capsys: Any
) -> None:
    picture = {"type": "image_url", "image_url": {"url": "x"}}
    prompt = {"role": "user", "content": [{"type": "text", "text": "How many?"}, picture]}
    for model in ("small", "large"):
        with trajrec.episode(
            tmp_path / "runs",
            task="t",
            watch={"answer": [model]},
            checks=[is_right],
            interface=trajrec.interface(base={"model": model}),
        ) as ep:
            ep.model(partial(answer_with, reply(model)), model=model, messages=[prompt])
            ep.stop("done")
    trajrec.close_logs()
    words = ["export", str(tmp_path / "runs")]
    file = tmp_path / "talks.jsonl"
    assert main([*words, "messages", "-o", str(file)]) == 0
    assert "2 conversations have messages with images" in capsys.readouterr().err
    assert json.loads(file.read_text().splitlines()[0])["total_reward"] is None
    words += ["grpo", "-o", str(tmp_path / "rows.jsonl"), "--messages", "--measure", "outcome"]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "2 episodes have messages with images, files or reasoning, which are left out" in said
    assert "1 group holds episodes of several base models" in said


def test_a_last_call_has_the_result_of_its_own_step(tmp_path: Path) -> None:
    talk: list[Any] = [{"role": "user", "content": "How many?"}]
    with trajrec.episode(tmp_path, task="t") as ep:
        ep.tool(lambda place: {"lamps": len(place)}, name="look", access="read")
        for place in ("hall", "cellar"):
            # This server begins to count anew with each answer.
            said = reply(None, ("call_0", "look", json.dumps({"place": place})))
            ep.model(partial(answer_with, said), model="m", messages=list(talk), tools=TOOLS)
            ep.execute("look", {"place": place}, call_id="call_0")
            # The agent forgets what it has seen, so no request has a result.
    trajrec.close_logs()
    found = decisions(only(tmp_path))
    contents = [[message["content"] for message in found[step].results] for step in (0, 1)]
    assert contents == [['{"lamps": 4}'], ['{"lamps": 6}']]


def said(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [choice["message"] for choice in answer["choices"]]


def record_dropping(folder: Path, *, is_right: bool) -> None:
    """Record an agent that drops two answers: one of two samples, and one whose JSON is broken."""
    good = reply("Look.", ("c1", "look", '{"place": "hall"}'))
    other = reply("Look.", ("c2", "look", '{"place": "den"}'))
    broken = reply(None, ("c3", "look", '{"place": '))
    done = reply("7")
    talk: list[Any] = [user("How many?")]
    with trajrec.episode(
        folder, task="t", goal="How many?", watch={"part": {}}, checks=[lambda _: is_right]
    ) as ep:
        look = trajrec.Tool.with_args("look", "read", place="string")
        ep.register_tool(look)
        for answer in (good, other):
            send(ep, {"model": "m", "messages": talk, "tools": TOOLS}, answer)
        ep.execute("look", {"place": "hall"}, call_id="c1", run=lambda: {"lamps": 4})
        talk += [*said(good), {"role": "tool", "tool_call_id": "c1", "content": "four"}]
        for answer in (broken, done):
            send(ep, {"model": "m", "messages": talk, "tools": TOOLS}, answer)
        ep.stop("done")


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("messages", [False, True])
def test_an_answer_that_was_dropped_is_no_completion(
    messages: bool, tmp_path: Path, capsys: Any
) -> None:
    for is_right in (True, False):
        record_dropping(tmp_path / "runs", is_right=is_right)
    trajrec.close_logs()
    target = tmp_path / "rows.jsonl"
    told: list[str] = []
    options: dict[str, Any] = {"measure": "outcome", "messages": messages, "tell": told.append}
    with trajrec.open(tmp_path / "runs") as corpus:
        assert credit.export(corpus, "grpo", target, **options) == 2
        talks = [(talk.is_dropped, talk.answers) for talk in corpus.messages()]
    assert talks[:3] == [(True, [1, 3]), (True, [1]), (False, [1, 3])]
    assert (
        main(["export", str(tmp_path / "runs"), "messages", "-o", str(tmp_path / "all.jsonl")]) == 0
    )
    assert "4 conversations end in an answer that the agent dropped" in capsys.readouterr().err
    assert [remark[:24] for remark in told] == ["4 steps are left out: th"]
    for line in target.read_text().splitlines():
        row = json.loads(line)
        assert len(row["completions"]) == len(row["advantages"]) == 2
        if messages:
            (asked, result), (last,) = row["completions"]
            assert (asked["tool_calls"][0]["id"], result["content"]) == ("c1", "four")
            assert last["content"] == "7"


def send_cut(ep: AgentEpisode, asked: dict[str, Any], text: str) -> None:
    """Send a request whose answer breaks off after a text."""
    begun = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text}}]}
    exchange = ep.begin_exchange(HttpRequest("POST", CHAT_URL, JSON, json.dumps(asked).encode()))
    assert exchange is not None
    exchange.responded(200, [("content-type", "text/event-stream")])
    exchange.received(f"data: {json.dumps(begun)}\n\n".encode())
    exchange.ended(ConnectionError("cut"))


def test_a_stream_that_broke_off_before_a_retry_is_dropped(tmp_path: Path) -> None:
    talk: list[Any] = [user("How many?")]
    whole = reply(None, ("c1", "look", '{"place": "hall"}'))
    with trajrec.episode(tmp_path, task="t") as ep:
        look = ep.tool(lambda place: "two", name="look")
        asked = {"model": "m", "messages": talk, "stream": True}
        send_cut(ep, asked, "I look at")
        send(ep, asked, whole)
        # The program does not say which of the model's calls it makes.
        look(place="hall")
        talk += [*said(whole), {"role": "tool", "tool_call_id": "c1", "content": "two"}]
        send(ep, {"model": "m", "messages": talk}, reply("2"))
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        found = [(one.messages[-1]["content"], one.is_dropped) for one in corpus.messages()]
    assert found == [("I look at", True), ("2", False)]
    assert [len(one.results) for one in decisions(only(tmp_path)).values()] == [1, 0]


def test_answers_that_the_model_did_not_end_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk: list[Any] = [user("How many?")]
    cut = reply("There are fo")
    cut["choices"][0]["finish_reason"] = "length"
    with trajrec.episode(tmp_path / "runs", task="t", checks=[lambda _: True]) as ep:
        send(ep, {"model": "m", "messages": talk}, cut)
        talk += [*said(cut), user("Go on.")]
        whole = reply("ur.")
        send(ep, {"model": "m", "messages": talk}, whole)
        talk += [*said(whole), user("Of what?")]
        send_cut(ep, {"model": "m", "messages": talk, "stream": True}, "Four la")
    trajrec.close_logs()
    told: list[str] = []
    target = tmp_path / "rows.jsonl"
    with trajrec.open(tmp_path / "runs") as corpus:
        (found,) = corpus.messages()
        credit.export(corpus, "grpo", target, measure="outcome", messages=True, tell=told.append)
    assert (found.answers, found.unfinished, found.is_dropped) == ([1, 3, 5], [1, 5], False)
    assert found.messages[5]["content"] == "Four la"
    assert told[1:] == [
        "1 episodes have answers that the model did not end, since a stream broke off or a limit "
        "stopped it: their ends are not the model's"
    ]
    out = str(tmp_path / "all.jsonl")
    assert main(["export", str(tmp_path / "runs"), "messages", "-o", out]) == 0
    assert "1 conversations have answers that the model did not end" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reasons", "expected"), [(("length", "stop"), []), (("stop", "length"), [1])]
)
def test_the_taken_alternative_alone_is_unfinished(
    reasons: tuple[str, str], expected: list[int], tmp_path: Path
) -> None:
    answers = [reply("one"), reply("two")]
    both = {"choices": [answer["choices"][0] for answer in answers]}
    for number, reason in enumerate(reasons):
        both["choices"][number] |= {"index": number, "finish_reason": reason}
    with trajrec.episode(tmp_path, task="t") as ep:
        talk: list[Any] = [user("How many?")]
        send(ep, {"model": "m", "messages": talk, "n": 2}, both)
        talk += [*said(answers[1]), user("Sure?")]
        send(ep, {"model": "m", "messages": talk}, reply("Yes."))
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        (found,) = corpus.messages()
    assert (found.messages[1]["content"], found.unfinished) == ("two", expected)


def test_the_alternative_that_the_agent_took_is_the_answer(tmp_path: Path) -> None:
    first = reply(None, ("c1", "look", '{"place": "hall"}'))["choices"]
    second = reply("I look.", ("c2", "look", '{"place": "den"}'))["choices"]
    both = {"choices": [*first, {**second[0], "index": 1}]}
    result = {"role": "tool", "tool_call_id": "c2", "content": "three"}
    talk: list[Any] = [user("How many?")]
    with trajrec.episode(tmp_path, task="t") as ep:
        send(ep, {"model": "m", "n": 2, "messages": talk, "tools": TOOLS}, both)
        talk += [second[0]["message"], result]
        send(ep, {"model": "m", "messages": talk, "tools": TOOLS}, reply("3"))
    trajrec.close_logs()
    episode = only(tmp_path)
    found = decisions(episode)
    assert found[0].answer["tool_calls"][0]["id"] == "c2"
    assert [row["content"] for row in found[0].results] == ["three"]
    with trajrec.open(tmp_path) as corpus:
        (talk_of_all,) = corpus.messages()
    assert talk_of_all.answers == [1, 3]


def test_a_text_of_unknown_alternatives_is_no_decision(tmp_path: Path) -> None:
    both = {"choices": [*reply("3")["choices"], *reply("4")["choices"]]}
    with trajrec.episode(tmp_path, task="t") as ep:
        send(ep, {"model": "m", "n": 2, "messages": [user("How many?")]}, both)
    trajrec.close_logs()
    assert decisions(only(tmp_path)) == {}


def test_arguments_stand_as_the_model_wrote_them(tmp_path: Path) -> None:
    written = '{ "place" : "caf\\u00e9", "n": 1e2}'
    asked = reply(None, ("c1", "look", written))
    with trajrec.episode(tmp_path, task="t") as ep:
        send(ep, {"model": "m", "messages": [user("How many?")], "tools": TOOLS}, asked)
    trajrec.close_logs()
    (call,) = decisions(only(tmp_path))[0].answer["tool_calls"]
    assert call["function"]["arguments"] == written


def test_a_call_that_never_ended_has_no_result(tmp_path: Path) -> None:
    asked = reply(None, ("c1", "look", '{"place": "hall"}'))
    with trajrec.episode(tmp_path, task="t") as ep:
        send(ep, {"model": "m", "messages": [user("How many?")], "tools": TOOLS}, asked)
    trajrec.close_logs()
    assert decisions(only(tmp_path))[0].results == []


@pytest.mark.slow
def test_a_pair_of_calls_is_two_messages_after_one_prompt(tmp_path: Path) -> None:
    with trajrec.episode(
        tmp_path / "runs", task="t", world=Bank(), checks=[lambda world: world.has_paid]
    ) as ep:
        ep.call("deposit", amount=100)
        ep.call("choose", amount=150)
        ep.call("withdraw")
        ep.stop("done")
    trajrec.close_logs()

    def follow(context: Any, rng: np.random.Generator) -> Any:
        plan = [("deposit", {"amount": 100}), ("choose", {"amount": 50}), ("withdraw", {})]
        return plan[context.step] if context.step < len(plan) else None

    target = tmp_path / "pairs.jsonl"
    with trajrec.open(tmp_path / "runs") as corpus:
        action = ("choose", {"amount": 50})
        episode = corpus.episode(ep.id)
        credit.counterfactual(episode, follow, 1, action=action, n_rollouts=8)
    assert main(["export", str(tmp_path / "runs"), "dpo", "-o", str(target), "--messages"]) == 0
    row = json.loads(target.read_text())
    assert [message["role"] for message in row["prompt"]] == ["user", "assistant", "tool"]
    assert row["prompt"][0]["content"] == "Pay in 100, choose an amount, take it out."
    for name, amount in (("chosen", 50), ("rejected", 150)):
        (message,) = row[name]
        (call,) = message["tool_calls"]
        assert call["function"] == {"name": "choose", "arguments": f'{{"amount":{amount}}}'}


@pytest.mark.slow
def test_labels_stand_beside_the_messages_of_each_step(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path / "runs", world=Bank(), checks=[has_paid]) as ep:
        ep.call("deposit", amount=100)
        ep.call("choose", amount=50)
        ep.call("withdraw")
    trajrec.close_logs()

    def follow(context: Any, rng: np.random.Generator) -> Any:
        plan = [("deposit", {"amount": 100}), ("choose", {"amount": 50}), ("withdraw", {})]
        return plan[context.step] if context.step < len(plan) else None

    with trajrec.open(tmp_path / "runs") as corpus:
        credit.estimate(corpus.episode(ep.id), follow, n_rollouts=4, success=has_paid)
        assert credit.export(corpus, "prm", tmp_path / "rows.jsonl", messages=True) == 1
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert row["labels"] == [True, True, True]
    roles = [[message["role"] for message in step] for step in row["completions"]]
    assert roles == [["assistant", "tool"]] * 3


@trajrec.verifier(id="paid", version="1")
def has_paid(world: Any) -> bool:
    return bool(world.has_paid)


def test_environments_have_no_messages(tmp_path: Path, capsys: Any) -> None:
    env = trajrec.record(gym.make("FrozenLake-v1"), tmp_path / "runs")
    for _ in range(2):
        env.reset(seed=1)
        while not any(env.step(env.action_space.sample())[2:4]):
            pass
    env.close()
    words = ["export", str(tmp_path / "runs"), "grpo", "-o", str(tmp_path / "rows.jsonl")]
    assert main([*words, "--messages"]) == 2
    assert "no rows" in capsys.readouterr().err
    words[2] = "transitions"
    assert main([*words, "--messages"]) == 2
    assert "--messages is for prm, dpo, grpo" in capsys.readouterr().err


@pytest.mark.slow
def test_a_what_if_with_other_arguments_gives_pairs(tmp_path: Path) -> None:
    corpus = Path(__file__).parent.parent / "sample_trajectories" / "support"
    runs = shutil.copytree(corpus, tmp_path / "runs")
    target = tmp_path / "pairs.jsonl"
    assert main(["export", str(runs), "dpo", "-o", str(target), "--messages"]) == 0
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert len(rows) == 8
    for row in rows:
        # The recorded model was asked; the changed call is of its recorded answer.
        assert row["prompt"][-1]["role"] == "tool"
        cents = [
            json.loads(row[name][0]["tool_calls"][0]["function"]["arguments"])["cents"]
            for name in ("chosen", "rejected")
        ]
        assert cents == [12900, 129]
