"""Large values are stored once and referred to; whoever reads an episode gets the values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiers import third_slow

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.protocols import Tool
from trajrec.recording.event_log import close_logs
from trajrec.replay import credit, replay_episode
from trajrec.replay.credit.texts import prompt_text

LARGE = {"note": "a long note " * 900, "amount": 3}
GOAL = "Take the money out, and read this first. " * 20


class Ledger:
    """A world whose reset depends on large options; task_solved reads them too."""

    def __init__(self) -> None:
        self.options: Any = None
        self.n = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> str:
        assert options is not None
        self.options = options
        self.n = options["amount"]
        return options["note"][:5]

    def tools(self) -> list[Tool]:
        return [Tool.with_args("add", "write", by=int)]

    def call(self, name: str, arguments: dict[str, Any], /) -> str:
        self.n += arguments["by"] * len(self.options["note"])
        return f"{self.n}"

    def get_state(self) -> dict[str, Any]:
        return {"n": self.n}

    def task_solved(self) -> bool:
        return self.n > 10


@trajrec.verifier(id="large", version="1")
def enough(world: Ledger) -> trajrec.Verdict:
    return trajrec.Verdict(world.task_solved(), 1.0, {"text": GOAL, "n": world.n})


def add(ep: Any) -> None:
    ep.call("add", by=1)
    ep.call("add", by=2)


def record(folder: Path) -> Episode:
    with trajrec.episode(
        folder,
        task="t",
        world=Ledger(),
        options=LARGE,
        goal=GOAL,
        metadata={"text": GOAL},
        checks=[enough],
    ) as ep:
        add(ep)
    close_logs()
    return trajrec.open(folder).episode(ep.id)


def test_large_options_are_replayed_and_continued_as_given(tmp_path: Path) -> None:
    episode = record(tmp_path)
    report = replay_episode(episode, world=Ledger(), checks=[enough])
    assert report.grade == "exact", report
    live = trajrec.rerun(episode, on_difference="live", world=Ledger(), folder=tmp_path / "live")
    with live as ep:
        ep.call("add", by=1)
        ep.call("add", by=5)
    close_logs()
    (branch,) = trajrec.open(tmp_path).episodes(kind="fork")
    assert branch.transcript.attempts[-1].result == str(3 + 6 * len(LARGE["note"]))


@third_slow("agents")
@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_large_options_reach_the_rollouts_of_credit(tmp_path: Path, jobs: int) -> None:
    episode = record(tmp_path)
    table = credit.estimate(
        episode, lambda context: None, n_rollouts=4, env=Ledger, jobs=jobs, folder=None
    )
    assert [row.value for row in table.of("value")] == [0.0, 1.0]


def test_prompts_and_evidence_hold_values_not_references(tmp_path: Path) -> None:
    episode = record(tmp_path)
    assert prompt_text(episode).startswith(GOAL)
    row = (
        trajrec.open(tmp_path)
        .sql("SELECT evidence, metadata FROM checks JOIN episodes USING (episode_id)")
        .fetchall()[0]
    )
    assert json.loads(row[0])["text"] == GOAL
    assert json.loads(row[1])["text"] == GOAL
