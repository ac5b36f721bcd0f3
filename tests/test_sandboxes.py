"""Environments whose state lies outside of this process, in a process of their own here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from outside import Forgetful, Outside

import trajrec
from trajrec.errors import SnapshotError
from trajrec.replay import check_determinism, fork, replay_episode
from trajrec.state.keyframes import Keyframes


@pytest.fixture
def episode(tmp_path: Path) -> Any:
    env = trajrec.record(Outside(), tmp_path)
    env.action_space.seed(0)
    env.reset(seed=1)
    while not env.step(env.action_space.sample())[2]:
        pass
    env.close()
    return next(trajrec.open(tmp_path).episodes())


def test_its_own_snapshots_are_proved_and_processes_that_would_share_it_are_not_forked() -> None:
    report = check_determinism(Outside, n_steps=60)
    assert report.grade == "exact"
    assert {name for name, level in report.levels.items() if level.is_granted} == {"prefix", "sandbox"}
    assert "lies outside of the process" in report.levels["process"].why


@pytest.mark.slow
def test_snapshots_that_are_not_right_are_not_granted() -> None:
    refused = check_determinism(Forgetful, n_steps=60)
    assert {name for name, level in refused.levels.items() if level.is_granted} == {"prefix"}
    assert "it went on otherwise" in refused.levels["sandbox"].why


def test_branches_go_back_by_it_and_go_on_as_recorded(episode: Any) -> None:
    branches = {
        level: fork.many(episode, at=[3, 11], actions=episode.actions[20:22], n=2, env=Outside, level=level, noise="recorded")
        for level in ("auto", "prefix")
    }
    assert {branch.level for branch in branches["auto"]} == {"sandbox"}
    found = {level: [(b.step, b.index, b.total_reward) for b in some] for level, some in branches.items()}
    assert found["auto"] == found["prefix"]
    with trajrec.open(episode.path.parent) as corpus:
        for branch in branches["auto"]:
            assert replay_episode(corpus.episode(branch.episode_id), env=Outside).grade == "exact"


def test_a_log_does_not_take_what_python_holds_of_it_for_its_state() -> None:
    env = Outside()
    env.reset(seed=0)
    with pytest.raises(SnapshotError, match="lies outside of this process"):
        Keyframes(env).take()
    env.close()


def test_one_that_does_not_go_back_is_found_out(episode: Any) -> None:
    branches = fork.many(episode, at=[5, 9], actions=[0], n=30, env=Forgetful, noise="recorded", folder=None)
    assert {branch.level for branch in branches} == {"prefix"}
    with pytest.raises(SnapshotError, match="went on otherwise"):
        fork.many(episode, at=[5], actions=[0], env=Forgetful, level="sandbox", folder=None)
