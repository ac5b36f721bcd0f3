"""What a what-if must not say: numbers that its runs do not show."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import only
from imported import write_json
from model_server import ModelServer, Turn
from test_imports import trajectory
from test_whatif_captured import Plain
from whatif_agents import RIGHT, Script, Support, only_episode, record_failure

import trajrec
from trajrec.agents.counters import StepCounter
from trajrec.errors import ReplayError
from trajrec.exchange.importing import import_trajectories
from trajrec.redaction.redactor import Redactor
from trajrec.replay import what_if
from trajrec.replay.agents.agent_difference import AgentDifference
from trajrec.replay.whatif.changes import Arguments, Change, Model, Prompt, Result, ToolError
from trajrec.replay.whatif.control import Control


class Fussy(Script):
    """The model of `Script`, on a server that knows no other name of a model than "small"."""

    def __call__(self, request: dict[str, Any], number: int) -> Turn:
        if request["model"] != "small":
            return Turn(status=404)
        return super().__call__(request, number)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Support]:
    with ModelServer(Fussy()) as server:
        yield Support(server.url, tmp_path / "runs")


class Patient(Support):
    """An agent that ends quietly if its model does not answer."""

    def __call__(self) -> None:
        with contextlib.suppress(httpx.HTTPStatusError):
            super().__call__()


@pytest.mark.slow
def test_run_whose_model_never_answered_is_no_loss(agent: Support) -> None:
    episode = record_failure(agent)
    result = what_if(
        episode, at=1, change=Model("large"), agent=agent, n=2, success=lambda state: False
    )
    assert (result.unchanged.n_losses, result.changed.n_losses) == (2, 0), str(result)
    assert result.changed.n_unknown == 2
    assert "http.404" in str(result)


@pytest.mark.slow
def test_caught_failure_of_each_model_call_is_no_loss(tmp_path: Path) -> None:
    with ModelServer(Fussy()) as server:
        agent = Patient(server.url, tmp_path / "runs")
        episode = record_failure(agent)
        result = what_if(
            episode, at=1, change=Model("large"), agent=agent, n=1, success=lambda state: False
        )
    assert result.changed.n_unknown == 1, str(result)


def test_experiment_without_controls_is_refused(agent: Support) -> None:
    episode = record_failure(agent)
    with pytest.raises(ValueError, match="n_controls must be at least 1"):
        what_if(episode, at=1, agent=agent, n_controls=0)
    with pytest.raises(ValueError, match="n must be at least 1"):
        what_if(episode, at=1, agent=agent, n=0)


@pytest.mark.parametrize("change", [Change(), Prompt("Be brief.")])
def test_call_of_a_change_that_changes_none_is_refused(agent: Support, change: Change) -> None:
    episode = record_failure(agent)
    with pytest.raises(ReplayError, match="changes no call"):
        what_if(episode, at=1, call=0, change=change, agent=agent)


@pytest.mark.parametrize("change", [Result(1), ToolError("down")])
def test_result_on_which_nothing_follows_is_refused(tmp_path: Path, change: Change) -> None:
    def program() -> None:
        with trajrec.episode(tmp_path) as ep:
            for n in range(2):
                ep.execute("look", {"n": n}, run=lambda: 0)

    program()
    episode = only_episode(tmp_path)
    with pytest.raises(ReplayError, match="step 1 is the last one"):
        what_if(episode, at=1, change=change, agent=program, n=1, accept=True)


def test_episode_that_is_still_recorded_is_refused(agent: Support) -> None:
    messages = [{"role": "user", "content": "Refund order O1."}]
    with trajrec.episode(agent.folder, task="t1"), httpx.Client() as client:
        asked = {"model": "small", "messages": messages}
        client.post(f"{agent.url}/v1/chat/completions", json=asked)
        with trajrec.open(agent.folder) as corpus:
            (row,) = corpus.sql("SELECT episode_id FROM all_episodes").fetchall()
            episode = corpus.episode(row[0])
        assert episode.ending == "running"
        with pytest.raises(ReplayError, match="still being recorded"):
            what_if(episode, at=0, agent=agent)


@pytest.mark.slow
def test_agent_that_keeps_answers_between_runs_gives_no_number(tmp_path: Path) -> None:
    kept: dict[str, str] = {}
    state = {"n": 0}

    def ask(text: str) -> str:
        asked = {"model": "small", "messages": [{"role": "user", "content": text}]}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=asked)
        return str(answer.raise_for_status().json()["choices"][0]["message"]["content"])

    def program() -> None:
        state["n"] = 0
        with trajrec.episode(tmp_path, watch=state) as ep:
            add = ep.tool(lambda n: state.update(n=state["n"] + n), name="add", access="write")
            ask("How many?")
            add(n=2)
            # The control fills this cache, and the other runs find its recorded answer there.
            kept["right?"] = kept.get("right?") or ask("Is it right?")
            ep.check(lambda state: state["n"] == 1)

    with ModelServer(lambda request, number: Turn("yes")) as server:
        program()
        kept.clear()
        episode = only_episode(tmp_path)
        server.attempts.clear()
        options: Any = {"change": Arguments({"n": 1}), "agent": program, "n": 1}
        result = what_if(episode, at=0, n_controls=1, **options)
        assert result.unchanged.n_unknown == 1, str(result)
        assert "asked no model after step 0" in str(result)
        kept.clear()
        # A control that comes last finds it too.
        assert "the agent ended before" in what_if(episode, at=0, **options).refused
        assert not server.attempts


@pytest.mark.slow
def test_check_of_a_state_that_is_not_put_back_gives_no_number(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.txt"

    def book(state: Any, cents: int) -> None:
        with ledger.open("a") as file:
            print(cents, file=file)

    def was_refunded(state: Any) -> bool:
        return str(RIGHT) in ledger.read_text().split()

    with ModelServer(Script()) as server:
        agent = Support(server.url, tmp_path / "runs", refund=book)
        episode = record_failure(agent)
        change = Arguments({"cents": RIGHT})
        result = what_if(episode, at=1, change=change, agent=agent, n=2, success=was_refunded)
    # The first run with the change books the right amount, and each later run finds it there.
    assert "was_refunded" in result.refused, str(result)
    assert "controls" in result.refused


@pytest.mark.slow
def test_function_without_an_episode_is_answered_up_to_the_step(tmp_path: Path) -> None:
    with ModelServer(Script()) as server:
        agent = Plain(server.url)
        with trajrec.episode(tmp_path, task="t1"):
            agent.run()
        episode = only_episode(tmp_path)
        server.attempts.clear()
        result = what_if(
            episode,
            at=1,
            change=Arguments({"cents": RIGHT}),
            agent=agent.run,
            n=1,
            success=lambda refunds: refunds[-1] == RIGHT,
            run_tools="all",
            accept=True,
        )
        assert len(server.attempts) == 2
    assert (result.unchanged.n_won, result.changed.n_won) == (0, 1), str(result)


@pytest.mark.slow
def test_what_if_of_a_fork_begins_where_the_fork_did(agent: Support) -> None:
    episode = record_failure(agent)
    first = what_if(episode, at=1, change=Arguments({"cents": RIGHT}), agent=agent, n=1)
    with trajrec.open(agent.folder) as corpus:
        forks = {run.arm: corpus.episode(run.episode_id) for run in first.runs}
        same = what_if(forks["unchanged"], at=1, agent=agent, n=1)
        assert same.n_equal_controls == 2, str(same)
        assert (same.unchanged.n_losses, same.changed.n_losses) == (1, 1)
        with pytest.raises(ReplayError, match="given a change"):
            what_if(forks["changed"], at=1, agent=agent, n=1)


@pytest.mark.slow
def test_tokens_of_episodes_within_a_run_are_counted(tmp_path: Path) -> None:
    state = {"n": 0}

    def ask(text: str) -> None:
        asked = {"model": "small", "messages": [{"role": "user", "content": text}]}
        httpx.post(f"{server.url}/v1/chat/completions", json=asked).raise_for_status()

    def add(n: int) -> None:
        state["n"] += n
        with trajrec.episode(tmp_path, task="helper"):
            ask("Is it right?")

    def program() -> None:
        state["n"] = 0
        with trajrec.episode(tmp_path, watch=state, task="main") as ep:
            tool = ep.tool(add, access="write")
            ask("How many?")
            tool(n=2)

    with ModelServer(lambda request, number: Turn("yes")) as server:
        program()
        trajrec.close_logs()
        with trajrec.open(tmp_path) as corpus:
            (episode,) = corpus.episodes("task = 'main'")
        server.attempts.clear()
        result = what_if(episode, at=0, change=Arguments({"n": 1}), agent=program, n=1)
        assert result.n_equal_controls == 2, str(result)
        n_asked = len(server.attempts)
    with trajrec.open(tmp_path) as corpus:
        ((each,),) = corpus.sql(
            "SELECT DISTINCT input_tokens + output_tokens FROM model_calls"
        ).fetchall()
    # Both arms and both controls run the tool, whose helper asks the model.
    assert (n_asked, result.n_tokens) == (4, 4 * each)


def test_imported_episode_is_refused_by_its_format(tmp_path: Path) -> None:
    import_trajectories(write_json(tmp_path / "in.json", trajectory()), tmp_path / "runs")
    with trajrec.open(tmp_path / "runs") as corpus:
        episode = next(iter(corpus.episodes()))
        with pytest.raises(ReplayError, match=r"imported.*record your program"):
            what_if(episode, at=0, agent=lambda ep: None, accept=True)


def test_arguments_that_change_or_are_new_are_named() -> None:
    change = Arguments({"order": "O1001", "cents": RIGHT, "cent": 1})
    told = change.describe({"order": "O1001", "cents": 540000})
    assert told == "cents 540000 -> 5400, cent -> 1, which the call did not have"


@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError("no"), ValueError("never")])
def test_control_compares_the_class_of_an_error(tmp_path: Path, error: Exception) -> None:
    def run() -> None:
        raise ValueError("no")

    with trajrec.episode(tmp_path) as ep, contextlib.suppress(ValueError):
        ep.execute("look", {}, run=run)
    trajrec.close_logs()
    episode = only(tmp_path)
    found: list[AgentDifference] = []

    class Live:
        def execute(self, *_args: Any, **_options: Any) -> None:
            raise error

    live: Any = Live()
    control = Control(episode, live, StepCounter(), Redactor(), found.append)
    with pytest.raises(type(error)):
        control.execute(episode.transcript.attempts[0], "look", {}, call_id="", run=None)
    assert bool(found) == (str(error) != "no" or type(error) is not ValueError)
