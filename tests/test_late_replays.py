"""Replays of agents' episodes from a later step, with verifiers, and refusals for one reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from conftest import record as record_env
from tiers import third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.episode import Episode
from trajrec.protocols import Tool
from trajrec.recording.event_log import close_logs
from trajrec.replay import replay_episode, replay_episodes


class Tally:
    """Adds numbers; one of its calls may answer otherwise, or add another number."""

    def __init__(self, odd_answer: int = -1, odd_sum: int = -1) -> None:
        self.odd_answer = odd_answer
        self.odd_sum = odd_sum
        self.sum = 0
        self.n = 0

    @property
    def kwargs(self) -> dict[str, Any]:
        return {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> str:
        self.sum = 0
        self.n = 0
        return "Add."

    def tools(self) -> list[Tool]:
        return [Tool.with_args("add", "write", by="integer")]

    def call(self, name: str, arguments: dict[str, Any], /) -> str:
        self.sum += arguments["by"] + (self.n == self.odd_sum)
        answer = "odd" if self.n == self.odd_answer else f"added {arguments['by']}"
        self.n += 1
        return answer

    def get_state(self) -> dict[str, int]:
        return {"sum": self.sum}


@trajrec.verifier(id="enough", version="1")
def enough(tally: Tally) -> bool:
    return tally.sum > 3


@trajrec.verifier(id="enough", version="2")
def never(tally: Tally) -> bool:
    return False


def record(folder: Path, n: int = 4) -> Episode:
    with trajrec.episode(folder, task="t", world=Tally(), checks=[enough]) as ep:
        for k in range(n):
            ep.call("add", by=k)
    close_logs()
    return trajrec.open(folder).episode(ep.id)


def test_a_late_replay_compares_only_later_calls(tmp_path: Path) -> None:
    episode = record(tmp_path)
    late = replay_episode(episode, world=Tally(odd_answer=1), first=2, checks=[enough])
    assert (late.grade, late.divergence) == ("partial", None)
    assert "compared from step 2 on" in late.notes
    found = replay_episode(episode, world=Tally(odd_answer=3), first=2, explain=False)
    assert found.divergence is not None
    assert (found.divergence.step, found.divergence.field) == (3, "result")
    whole = replay_episode(episode, world=Tally(odd_answer=1), explain=False)
    assert whole.divergence is not None
    assert whole.divergence.step == 1


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("first", [2, 3, 4])
def test_a_late_replay_compares_the_state_it_begins_in(tmp_path: Path, first: int) -> None:
    episode = record(tmp_path)
    report = replay_episode(episode, world=Tally(odd_sum=1), first=first, explain=False)
    assert report.divergence is not None
    assert (report.divergence.step, report.divergence.field) == (first - 1, "state/sum")
    beyond = list(replay_episodes([episode], world=Tally, first=5))
    assert [report.grade for report in beyond] == ["refused"]


@third_slow("agents")
@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_verifiers_run_in_batches(tmp_path: Path, jobs: int) -> None:
    episode = record(tmp_path)
    (good,) = replay_episodes([episode], world=Tally, checks=[enough], jobs=jobs)
    assert good.grade == "exact"
    (bad,) = replay_episodes([episode], world=Tally, checks=[never], jobs=jobs, explain=False)
    assert bad.divergence is not None
    assert bad.divergence.field == "check/enough"


@pytest.mark.slow
def test_the_command_takes_verifiers_and_a_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path)
    record_env(gym.make("CartPole-v1"), tmp_path, 1)
    command = ["replay", str(tmp_path), "--no-keep", "--env", f"{__name__}:Tally"]
    agents = ["--where", "task = 't'", "--verifier", f"{__name__}:enough"]
    assert main([*command, *agents]) == 0
    assert "checks not run" not in capsys.readouterr().out
    assert main([*command, *agents, "--from", "2"]) == 0
    assert "partial" in capsys.readouterr().out
    everything = ["replay", str(tmp_path), "--no-keep", *agents[2:], "--allow", __name__]
    assert main(everything) == 4
    assert "agents' episodes only" in capsys.readouterr().out


@pytest.mark.slow
def test_refusals_for_one_reason_take_two_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(6):
        record(tmp_path, 1)
    assert main(["replay", str(tmp_path), "--no-keep"]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "5 more episodes refused" in lines[1]
    assert "6 refused" in lines[2]
    assert main(["replay", str(tmp_path), "--no-keep", "--json"]) == 4
    assert len(capsys.readouterr().out.splitlines()) == 6
