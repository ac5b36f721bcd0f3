"""Generators among the tools of an agent, in the runs of a what-if."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.replay import what_if
from trajrec.replay.whatif.changes import Result, ToolError
from trajrec.replay.whatif.result import WhatIfResult


class Sender:
    """An agent that looks, and then sends a text by a tool that is a generator.

    Attributes:
        sent: The texts that were really sent.
        got: What each run of the agent got as the items of its calls.
        adds: An item that sending gives too, from the second run on.
    """

    def __init__(self, adds: str = "") -> None:
        self.sent: list[str] = []
        self.got: list[list[str]] = []
        self.adds = adds

    def __call__(self, ep: trajrec.AgentEpisode) -> None:
        @ep.tool(access="read")
        def pages() -> Iterator[str]:
            yield "one"

        @ep.tool(access="external")
        def send(text: str) -> Iterator[str]:
            self.sent.append(text)
            yield f"sent {text}"
            if self.adds and len(self.sent) > 1:
                yield self.adds

        ep.model(lambda messages: "look", messages=[{"role": "user", "content": "a"}])
        try:
            first = list(pages())
        except ConnectionError as exc:
            first = [f"failed: {exc}"]
        ep.model(lambda messages: "send", messages=[{"role": "user", "content": str(first)}])
        self.got.append([*first, *send("hello")])

    def record(self, folder: Path) -> Episode:
        """Record the agent."""
        with trajrec.episode(folder, task="send") as ep:
            self(ep)
        episode = trajrec.open(folder).episode(ep.id)
        self.got.clear()
        return episode


def reasons(result: WhatIfResult) -> str:
    return " ".join(run.reason for run in result.runs)


def test_external_generator_does_not_run_without_leave(tmp_path: Path) -> None:
    agent = Sender()
    episode = agent.record(tmp_path)
    result = what_if(episode, at=1, agent=agent, n=1)
    assert agent.sent == ["hello"]
    assert "declared external" in reasons(result)


def test_external_generator_runs_with_leave(tmp_path: Path) -> None:
    agent = Sender()
    episode = agent.record(tmp_path)
    result = what_if(episode, at=1, agent=agent, n=1, run_tools="external")
    assert [run.status for run in result.runs] == ["done"] * 4, reasons(result)
    assert agent.sent == ["hello"] * 5
    fork = trajrec.open(tmp_path).episode(result.of("changed")[0].episode_id)
    assert [a.result for a in fork.transcript.attempts] == [["sent hello"]]


def test_stub_stands_in_for_a_generator(tmp_path: Path) -> None:
    agent = Sender()
    episode = agent.record(tmp_path)
    result = what_if(
        episode, at=1, agent=agent, n=1, stubs={"send": lambda text: [f"kept {text}", "end"]}
    )
    assert agent.sent == ["hello"]
    assert agent.got.count(["one", "kept hello", "end"]) == 2
    fork = trajrec.open(tmp_path).episode(result.of("changed")[0].episode_id)
    assert [a.result for a in fork.transcript.attempts] == [["kept hello", "end"]]
    notes = [run["notes"] for run in result.to_json()["runs"] if run["arm"] != "control"]
    assert notes == [["a stub stood in for send"]] * 2


def test_stub_without_items_cannot_stand_in_for_a_generator(tmp_path: Path) -> None:
    agent = Sender()
    episode = agent.record(tmp_path)
    result = what_if(episode, at=1, agent=agent, n=1, stubs={"send": lambda text: "sent"})
    assert "its stub must give a list" in reasons(result)


def test_control_compares_the_items_of_a_generator(tmp_path: Path) -> None:
    agent = Sender(adds="and another")
    episode = agent.record(tmp_path)
    result = what_if(episode, at=1, agent=agent, n=1, run_tools="external")
    assert "a control differs from the recording" in result.refused
    assert "and another" in result.refused


def test_other_items_of_a_generator_are_told(tmp_path: Path) -> None:
    agent = Sender()
    episode = agent.record(tmp_path)
    result = what_if(
        episode, at=0, agent=agent, n=1, change=Result(["two", "three"]), run_tools="external"
    )
    assert [run.status for run in result.runs] == ["done"] * 4, reasons(result)
    assert agent.got.count(["two", "three", "sent hello"]) == 1


def test_generator_fails_as_the_change_says(tmp_path: Path) -> None:
    agent = Sender()
    episode = agent.record(tmp_path)
    change = ToolError("down", "builtins.ConnectionError")
    result = what_if(episode, at=0, agent=agent, n=1, change=change, run_tools="external")
    assert [run.status for run in result.runs] == ["done"] * 4, reasons(result)
    assert agent.got.count(["failed: down", "sent hello"]) == 1


def test_result_of_a_generator_must_be_a_list(tmp_path: Path) -> None:
    agent = Sender()
    episode = agent.record(tmp_path)
    result = what_if(episode, at=0, agent=agent, n=1, change=Result("two"), run_tools="external")
    assert "give the list of its items" in reasons(result)


class TextlessError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def test_error_without_a_text_ends_its_run_alone(tmp_path: Path) -> None:
    agent = Sender()
    episode = agent.record(tmp_path)

    def failing(ep: trajrec.AgentEpisode) -> None:
        agent(ep)
        if len(agent.got) == 2:
            raise TextlessError

    result = what_if(episode, at=1, agent=failing, n=1, run_tools="external")
    assert [run.status for run in result.runs] == ["done", "raised", "done", "done"]
    assert result.runs[1].reason == "TextlessError: <exception str() failed>"


def test_async_agent_is_run_where_a_loop_runs(tmp_path: Path) -> None:
    agent = Sender()
    episode = agent.record(tmp_path)

    async def run_later(ep: trajrec.AgentEpisode) -> None:
        await asyncio.sleep(0)
        agent(ep)

    async def cell() -> WhatIfResult:
        # As in the cell of a notebook.
        return what_if(episode, at=1, agent=run_later, n=1, run_tools="external")

    result = asyncio.run(cell())
    assert [run.status for run in result.runs] == ["done"] * 4, reasons(result)
