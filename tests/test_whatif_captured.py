"""What if, of agents that `trajrec.capture` has recorded: their programs mark no episode."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from model_server import ModelServer, Turn
from test_whatif_command import only_id, trajrec_command
from tiers import third_slow
from whatif_agents import RIGHT, TOOLS, WRONG, Script

import trajrec
from trajrec.agents.routing import router
from trajrec.corpus.episode import Episode
from trajrec.errors import RerunStopped, ToolNotHeldError
from trajrec.replay import credit, what_if
from trajrec.replay.whatif.captured import put_back
from trajrec.replay.whatif.changes import Arguments, Prompt

LEAVE: dict[str, Any] = {"run_tools": "all", "accept": True}


class Plain:
    """An agent without a line of trajrec. Its function returns the refunds that it made."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.refunds: list[int] = []
        self.asks: Any = "Refund order O1."
        self.is_hooked = False

    def run(self) -> list[int]:
        with httpx.Client() as client:
            return self.loop(lambda asked: client.post(self.address, json=asked))

    def run_in_threads(self) -> list[int]:
        """Ask the model from the threads of a pool, which have no context."""
        with httpx.Client() as client, ThreadPoolExecutor(1) as pool:
            return self.loop(
                lambda asked: pool.submit(client.post, self.address, json=asked).result()
            )

    async def run_async(self) -> list[int]:
        return await asyncio.to_thread(self.run)

    @property
    def address(self) -> str:
        return f"{self.url}/v1/chat/completions"

    def loop(self, post: Any) -> list[int]:
        self.refunds = []
        messages: list[Any] = [{"role": "user", "content": self.asks}]
        while True:
            answer = post({"model": "small", "messages": messages, "tools": TOOLS})
            message = answer.raise_for_status().json()["choices"][0]["message"]
            messages.append(message)
            if not message.get("tool_calls"):
                return self.refunds
            for call in message["tool_calls"]:
                arguments = json.loads(call["function"]["arguments"])
                result = {"cents": RIGHT}
                if call["function"]["name"] == "refund":
                    result = self.refund(call["id"], arguments)
                told = {"role": "tool", "tool_call_id": call["id"]}
                messages.append({**told, "content": json.dumps(result)})

    def refund(self, call_id: str, arguments: dict[str, Any]) -> Any:
        def run() -> Any:
            self.refunds.append(arguments["cents"])
            return {"refunded": arguments["cents"]}

        # As a hook in a framework does.
        held = router.of_tool_call(call_id) if self.is_hooked else None
        if held is None:
            return run()
        return held.execute("refund", arguments, call_id=call_id, run=run)


def won(refunds: list[int]) -> bool:
    return refunds[-1:] == [RIGHT]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(Script()) as running:
        yield running


def captured(agent: Plain, folder: Path) -> Episode:
    """Record a run of the agent by `trajrec.capture`, and return its episode."""
    with trajrec.capture(folder, task="t1"):
        assert agent.run() == [WRONG]
    trajrec.close_logs()
    with trajrec.open(folder) as corpus:
        (own,) = corpus.episodes()
        return corpus.episode(own.id)


@third_slow("whatif")
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("way", ["run", "run_in_threads", "run_async", "of_episode"])
def test_captured_function_is_run_from_the_step_on(
    server: ModelServer, tmp_path: Path, way: str
) -> None:
    agent = Plain(server.url)
    episode = captured(agent, tmp_path)
    server.attempts.clear()
    functions = {"of_episode": lambda ep: agent.run()}
    function = functions.get(way) or getattr(agent, way)
    change = Arguments({"cents": RIGHT})
    result = what_if(episode, at=1, change=change, agent=function, n=2, success=won, **LEAVE)
    assert (result.unchanged.n_won, result.changed.n_won) == (0, 2), str(result)
    assert result.n_equal_controls == 2
    # One request behind the step in each run, and none in a control.
    assert len(server.attempts) == 4


@pytest.mark.parametrize("messages", [True, False])
def test_changed_call_that_nothing_holds_makes_the_pair(
    server: ModelServer, tmp_path: Path, messages: bool
) -> None:
    agent = Plain(server.url)
    runs = tmp_path / "runs"

    @trajrec.verifier(id="won", version="1")
    def has_won(refunds: list[int]) -> bool:
        return won(refunds)

    def run() -> None:
        with trajrec.episode(runs, task="t1") as ep:
            ep.check(has_won, agent.run())

    run()
    trajrec.close_logs()
    with trajrec.open(runs) as corpus:
        (own,) = corpus.episodes()
        episode = corpus.episode(own.id)
    change = Arguments({"cents": RIGHT})
    result = what_if(episode, at=1, change=change, agent=run, n=2, success="won", **LEAVE)
    assert (result.unchanged.n_won, result.changed.n_won) == (0, 2), str(result)
    trajrec.close_logs()
    told: list[str] = []
    target = tmp_path / "pairs.jsonl"
    with trajrec.open(runs) as corpus:
        n = credit.export(corpus, "dpo", target, messages=messages, tell=told.append)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert n == len(rows) == 2
    for row in rows:
        sides = [row["chosen"], row["rejected"]]
        if messages:
            calls = [side[0]["tool_calls"][0]["function"] for side in sides]
            assert {call["name"] for call in calls} == {"refund"}
            found = [json.loads(call["arguments"]) for call in calls]
            # No second difference, of spaces say.
            assert calls[0]["arguments"].replace(str(RIGHT), str(WRONG)) == calls[1]["arguments"]
            assert [message["role"] for message in row["prompt"]] == ["user", "assistant", "tool"]
        else:
            found = [json.loads(side)["arguments"] for side in sides]
        assert [one.pop("cents") for one in found] == [RIGHT, WRONG]
        assert found[0] == found[1]
    assert told == []


@pytest.mark.slow
def test_control_that_made_no_live_call_has_no_steps(server: ModelServer, tmp_path: Path) -> None:
    agent = Plain(server.url)
    episode = captured(agent, tmp_path)
    what_if(episode, at=1, change=None, agent=agent.run, n=1, n_controls=1, success=won, **LEAVE)
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        query = (
            "SELECT metadata->>'$.what_if.arm', fork_step, n_steps, end_step FROM forks ORDER BY 1"
        )
        (changed, control, unchanged) = corpus.sql(query).fetchall()
        assert changed[1:] == unchanged[1:] == (1, 2, 3)
        assert control[1:] == (1, 0, 1)
        (read,) = corpus.episodes("metadata->>'$.what_if.arm' = 'control'", kind="fork")
        assert (read.n_steps, read.end_step) == (0, 1)


@pytest.mark.slow
def test_prompt_reaches_requests_of_threads_without_context(
    server: ModelServer, tmp_path: Path
) -> None:
    agent = Plain(server.url)
    episode = captured(agent, tmp_path)
    for function in (agent.run_in_threads, lambda ep: agent.run_in_threads()):
        server.attempts.clear()
        result = what_if(
            episode, at=1, change=Prompt("Be brief."), agent=function, n=1, success=won, **LEAVE
        )
        assert (result.unchanged.n_losses, result.changed.n_losses) == (1, 1), str(result)
        firsts = [json.loads(a.body)["messages"][0]["role"] for a in server.attempts]
        assert sorted(firsts) == ["system", "system", "user", "user"]


def test_run_that_is_live_takes_the_tool_calls_of_threads(
    server: ModelServer, tmp_path: Path
) -> None:
    agent = Plain(server.url)
    episode = captured(agent, tmp_path)
    taken: list[bool] = []

    def run(ep: Any) -> None:
        agent.run()
        with ThreadPoolExecutor(1) as pool:
            # A hook of a framework asks this, in whichever thread the tool runs.
            taken.append(pool.submit(router.of_tool_call, "r1").result() is ep)

    what_if(episode, at=1, agent=run, n=1, **LEAVE)
    assert taken == [True] * 4


def n_model_calls(folder: Path) -> Any:
    with trajrec.open(folder) as corpus:
        return corpus.sql("SELECT count(*) FROM model_calls").fetchall()


@pytest.mark.slow
def test_capture_that_goes_on_gets_nothing_of_an_experiment(
    server: ModelServer, tmp_path: Path
) -> None:
    agent = Plain(server.url)
    episode = captured(agent, tmp_path / "first")
    n_calls = n_model_calls(tmp_path / "first")
    with trajrec.capture(tmp_path / "second"):
        agent.run()
        server.attempts.clear()
        result = what_if(episode, at=1, agent=agent.run, n=1, success=won, **LEAVE)
    assert result.n_equal_controls == 2, str(result)
    assert len(server.attempts) == 4
    trajrec.close_logs()
    assert n_model_calls(tmp_path / "second") == n_calls


def test_other_conversation_stops_before_a_model_is_asked(
    server: ModelServer, tmp_path: Path
) -> None:
    agent = Plain(server.url)
    episode = captured(agent, tmp_path)
    server.attempts.clear()
    agent.asks = "Refund order O2."
    result = what_if(episode, at=1, agent=agent.run, n=1, success=won, **LEAVE)
    assert "it is not the recorded one" in result.refused
    assert not server.attempts


def test_caught_error_of_a_rerun_is_told_and_not_an_early_end(
    server: ModelServer, tmp_path: Path
) -> None:
    agent = Plain(server.url)
    episode = captured(agent, tmp_path)
    rerun = trajrec.rerun(episode)
    with pytest.raises(ToolNotHeldError), rerun, contextlib.suppress(RerunStopped):
        agent.run()
    with trajrec.rerun(episode, run_tools="all"):
        assert agent.run() == [WRONG]


PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[3])
import trajrec
from test_whatif_captured import Plain, won
trajrec.capture(sys.argv[1])
agent = Plain(sys.argv[2])
agent.is_hooked = sys.argv[4:] == ["hooked"]
has_won = won(agent.run())
if sys.argv[4:] == ["dies"]:
    os._exit(9)
sys.exit(not has_won)
"""


@pytest.mark.slow
@third_slow("whatif")
@pytest.mark.parametrize("way", ["plain", "hooked"])
def test_program_that_captures_itself_is_run_from_the_step_on(
    server: ModelServer, tmp_path: Path, way: str
) -> None:
    runs = tmp_path / "runs"
    command = [sys.executable, "-c", PROGRAM, runs, server.url, Path(__file__).parent, way]
    assert subprocess.run(command, check=False).returncode == 1
    server.attempts.clear()
    own = only_id(runs)
    given = ["whatif", runs, own, "--at", 1, "--arguments", f'{{"cents": {RIGHT}}}', "-n", 2]
    refused = trajrec_command(*given, "--", *command)
    assert refused.returncode == 4
    assert "--run-tools all" in refused.stderr
    bases = ["--openai-base", f"{server.url}/v1"]
    leave = ["--run-tools", "all", "--accept", "--json"]
    ended = trajrec_command(*given, *bases, *leave, "--", *command)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    result = json.loads(ended.stdout)
    assert (result["unchanged"]["lost"], result["changed"]["won"]) == (2, 2), result
    assert result["controls"] == {"equal": 2, "of": 2}
    assert len(server.attempts) == 4
    with trajrec.open(runs) as corpus:
        assert [episode.id for episode in corpus.episodes()] == [own]


@pytest.mark.slow
@third_slow("whatif")
def test_command_whose_model_does_not_answer_is_no_loss(tmp_path: Path) -> None:
    def plan(request: dict[str, Any], number: int) -> Turn:
        return Turn(status=404) if request["model"] == "large" else script(request, number)

    script = Script()
    runs = tmp_path / "runs"
    with ModelServer(plan) as server:
        command = [sys.executable, "-c", PROGRAM, runs, server.url, Path(__file__).parent]
        assert subprocess.run(command, check=False).returncode == 1
        given = ["whatif", runs, only_id(runs), "--at", 1, "--model", "large", "-n", 1]
        leave = ["--openai-base", f"{server.url}/v1", "--run-tools", "all", "--accept", "--json"]
        ended = trajrec_command(*given, *leave, "--", *command)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    result = json.loads(ended.stdout)
    assert (result["unchanged"]["lost"], result["changed"]["unknown"]) == (1, 1), result


@pytest.mark.slow
@third_slow("whatif")
def test_program_that_was_killed_has_controls_and_no_verdict(
    server: ModelServer, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    command = [sys.executable, "-c", PROGRAM, runs, server.url, Path(__file__).parent]
    assert subprocess.run([*command, "dies"], check=False).returncode == 9
    given = ["whatif", runs, only_id(runs), "--at", 1, "-n", 1, "--run-tools", "all", "--accept"]
    ended = trajrec_command(*given, "--json", "--", *command)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    result = json.loads(ended.stdout)
    assert result["controls"] == {"equal": 2, "of": 2}
    assert (result["unchanged"]["unknown"], result["changed"]["unknown"]) == (1, 1)


@pytest.mark.parametrize("raised", [KeyError, ValueError])
def test_a_program_may_raise_what_it_raised_in_its_capture(
    server: ModelServer, tmp_path: Path, raised: type[Exception]
) -> None:
    agent = Plain(server.url)
    kind: type[Exception] = KeyError

    def program() -> None:
        agent.run()
        raise kind("at its end")

    with pytest.raises(KeyError), trajrec.capture(tmp_path, task="t1"):
        program()
    trajrec.close_logs()
    kind = raised
    with trajrec.open(tmp_path) as corpus:
        (own,) = corpus.episodes()
        episode = corpus.episode(own.id)
        assert episode.ending == "unknown"
        change = Arguments({"cents": RIGHT})
        result = what_if(episode, at=1, change=change, agent=program, n=1, **LEAVE)
    assert ("what it did not raise" in result.refused) == (raised is not KeyError), result


def spoil(folders: dict[str, Path], broken: str) -> None:
    """Change watched folders, and make one a file."""
    for folder in folders.values():
        (folder / "stock").write_text("4")
    (folders[broken] / "stock").unlink()
    folders[broken].rmdir()
    folders[broken].write_text("no folder any more")


@pytest.mark.parametrize("broken", ["first", "last"])
def test_a_folder_is_put_back_although_another_cannot_be(tmp_path: Path, broken: str) -> None:
    folders = {name: tmp_path / name for name in ("first", "last")}
    for folder in folders.values():
        folder.mkdir()
        (folder / "stock").write_text("5")
    with pytest.raises(OSError, match="directory"), put_back(folders):
        spoil(folders, broken)
    del folders[broken]
    assert [(folder / "stock").read_text() for folder in folders.values()] == ["5"]
