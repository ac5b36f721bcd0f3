"""`trajrec replay` keeps its verdicts in the corpus, beside the recordings that stay as they are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import record

import trajrec
from trajrec.cli.main import main
from trajrec.errors import LogWriteError
from trajrec.replay import replay_episodes, verdicts
from trajrec.replay.execute.report import Divergence, ReplayReport
from trajrec.replay.verdicts import VerdictLog
from trajrec.values.diff import MISSING

TOKEN = "ghp_" + "a1B2" * 9


class Leaky(gym.Env[Any, Any]):
    """A replay that differs, and shows a secret that the recording did not have."""

    observation_space = gym.spaces.Discrete(9)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, text: str = "x", number: float = 0.5, render_mode: Any = None) -> None:
        self.text = text
        self.number = number
        self.n = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n = 0
        return 0, {}

    def step(self, action: Any) -> Any:
        self.n += 1
        info = {"text": self.text, "number": self.number} if self.n == 2 else {}
        return self.n, 1.0, self.n == 3, False, info


def leaking() -> Leaky:
    return Leaky(f"token {TOKEN}")


def drifting() -> Leaky:
    return Leaky(number=float(np.nextafter(0.5, 1)))


def long_text() -> Leaky:
    return Leaky("x" * 3000 + "y")


@pytest.fixture(autouse=True)
def outside_of_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


def replay(folder: Path, *arguments: str) -> int:
    return int(main(["replay", str(folder), *arguments]))


def replay_unexplained(folder: Path, made: type[Leaky] | Any) -> None:
    """Replay and keep the verdict as the command does, without a search for the cause."""
    log = VerdictLog(folder, made.__name__)
    for report in replay_episodes(trajrec.open(folder).episodes(), env=made, explain=False):
        log.add(report)
    log.close()


def rows(folder: Path, columns: str, table: str = "replays") -> list[tuple[Any, ...]]:
    with trajrec.open(folder) as corpus:
        return corpus.sql(f"SELECT {columns} FROM {table} ORDER BY ALL").fetchall()


def record_leaky(folder: Path) -> None:
    recorder = trajrec.record(Leaky(), folder)
    recorder.reset(seed=1)
    for _ in range(3):
        recorder.step(1)
    recorder.close()


@pytest.mark.slow
def test_verdicts_are_appended_and_logs_stay_as_they_are(tmp_path: Path) -> None:
    record(gym.make("CartPole-v1"), tmp_path, 2)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.trj")}
    assert replay(tmp_path) == 0
    assert replay(tmp_path) == 0
    assert {path: path.read_bytes() for path in before} == before
    kept = rows(tmp_path, "run_id, kind, against, grade, step, field, cause, compared, versions")
    assert len(kept) == 4
    assert len({row[0] for row in kept}) == 2
    assert {row[1:7] for row in kept} == {("rollout", "recorded", "exact", None, None, None)}
    assert "observation" in json.loads(kept[0][7])
    assert json.loads(kept[0][8])["packages"]["gymnasium"] == gym.__version__
    assert len(rows(tmp_path, "*", "latest_replay")) == 2
    with trajrec.open(tmp_path) as corpus:
        assert len(list(corpus.episodes())) == 2


@pytest.mark.slow
def test_a_kept_divergence_tells_step_field_and_values(tmp_path: Path) -> None:
    record_leaky(tmp_path)
    replay_unexplained(tmp_path, drifting)
    assert replay(tmp_path) == 4
    columns = "against, grade, n_steps, step, field, expected, actual, ulps, notes"
    diverged, refused = rows(tmp_path, columns, "latest_replay")
    assert diverged[:8] == (
        "drifting",
        "diverged",
        3,
        1,
        "info/number",
        "0.5",
        "0.5000000000000001",
        1,
    )
    assert refused[:3] == ("recorded", "refused", 0)
    assert "cannot be made" in refused[8]


@pytest.mark.slow
def test_secrets_of_a_replay_are_not_kept(tmp_path: Path) -> None:
    record_leaky(tmp_path)
    replay_unexplained(tmp_path, leaking)
    ((actual,),) = rows(tmp_path, "actual")
    assert TOKEN not in actual
    assert "token" in actual
    assert not any(TOKEN.encode() in path.read_bytes() for path in tmp_path.glob("*.trj"))


@pytest.mark.slow
def test_a_long_value_is_kept_as_the_text_around(tmp_path: Path) -> None:
    record_leaky(tmp_path)
    replay_unexplained(tmp_path, long_text)
    ((actual,),) = rows(tmp_path, "actual")
    assert len(actual) < 200


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("reason", ["flag", "ci", "read-only", "full"])
def test_no_verdict_is_kept_if_none_may_be(
    tmp_path: Path, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    record_leaky(tmp_path)
    arguments = ["--env", f"{__name__}:Leaky"]
    if reason == "flag":
        arguments.append("--no-keep")
    elif reason == "ci":
        monkeypatch.setenv("CI", "true")
    elif reason == "read-only":
        can_access = os.access
        monkeypatch.setattr(
            os, "access", lambda path, mode: mode != os.W_OK and can_access(path, mode)
        )
    else:

        def fail(*args: Any) -> None:
            raise LogWriteError("no space left", path=tmp_path)

        monkeypatch.setattr(verdicts, "EventLog", fail)
    n_logs = len(list(tmp_path.glob("*.trj")))
    assert replay(tmp_path, *arguments) == 0
    monkeypatch.undo()
    assert len(list(tmp_path.glob("*.trj"))) == n_logs
    assert rows(tmp_path, "*") == []
    assert ("not kept" in capsys.readouterr().err) == (reason == "full")


def test_a_value_that_is_missing_is_null(tmp_path: Path) -> None:
    recorder = trajrec.record(Leaky(), tmp_path)
    recorder.reset(seed=1)
    recorder.step(1)
    recorder.step(1)
    recorder.close()
    log = VerdictLog(tmp_path)
    divergence = Divergence(step=1, field="info/text", expected="x", actual=MISSING)
    (episode,) = trajrec.open(tmp_path).episodes()
    log.add(ReplayReport(episode_id=episode.id, grade="diverged", n_steps=2, divergence=divergence))
    log.close()
    assert rows(tmp_path, "expected, actual") == [('"x"', None)]
