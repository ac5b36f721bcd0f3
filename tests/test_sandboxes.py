"""Environments whose state lies outside of this process, in a process of their own here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from outside import Forgetful, Full, Outside

import trajrec
from trajrec.envstate.keyframes import Keyframes
from trajrec.errors import SnapshotError
from trajrec.replay import check_determinism, credit, fork_many, replay_episode


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
    assert {name for name, level in report.levels.items() if level.is_granted} == {
        "prefix",
        "sandbox",
    }
    assert "lies outside of the process" in report.levels["process"].why


@pytest.mark.slow
def test_snapshots_that_are_not_right_are_not_granted() -> None:
    refused = check_determinism(Forgetful, n_steps=60)
    assert {name for name, level in refused.levels.items() if level.is_granted} == {"prefix"}
    assert "it went on otherwise" in refused.levels["sandbox"].why


@pytest.mark.slow
def test_branches_go_back_by_it_and_go_on_as_recorded(episode: Any) -> None:
    branches = {
        level: fork_many(
            episode,
            at=[3, 11],
            actions=episode.actions[20:22],
            n_branches=2,
            env=Outside,
            level=level,
            noise="recorded",
        )
        for level in ("auto", "prefix")
    }
    assert {branch.level for branch in branches["auto"]} == {"sandbox"}
    found = {
        level: [(b.step, b.index, b.total_reward) for b in some] for level, some in branches.items()
    }
    assert found["auto"] == found["prefix"]
    with trajrec.open(episode.path.parent) as corpus:
        for branch in branches["auto"]:
            assert replay_episode(corpus.episode(branch.episode_id), env=Outside).grade == "exact"


@pytest.mark.parametrize("level", ["auto", pytest.param("sandbox", marks=pytest.mark.slow)])
def test_a_wrapped_one_goes_back_with_its_wrappers(episode: Any, level: Any) -> None:
    make = lambda: gym.wrappers.TimeLimit(Outside(), 30)  # noqa: E731
    branches = fork_many(
        episode,
        at=[3, 11],
        actions=[0] * 60,
        n_branches=2,
        env=make,
        level=level,
        noise="recorded",
        folder=None,
    )
    assert {
        (branch.level, branch.truncated, branch.step + branch.n_steps) for branch in branches
    } == {("sandbox", True, 30)}
    report = check_determinism(make, n_steps=60)
    assert {name for name, found in report.levels.items() if found.is_granted} == {
        "prefix",
        "sandbox",
    }


def test_it_is_not_forked_with_a_process(episode: Any) -> None:
    with pytest.raises(SnapshotError, match="forked processes would share the state outside"):
        fork_many(episode, at=[3], actions=[0], env=Outside, level="process", folder=None)


def test_one_that_can_keep_nothing_any_more_is_walked_to(episode: Any) -> None:
    branches = fork_many(
        episode, at=[3, 11, 20], actions=[0], env=Full, noise="recorded", folder=None
    )
    assert {branch.level for branch in branches} <= {"sandbox", "prefix"}
    assert branches[-1].level == "prefix"


def test_what_is_not_gone_back_to_any_more_is_let_go(episode: Any) -> None:
    made: list[Outside] = []
    left: list[int] = []

    class Watched(Outside):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def close(self) -> None:
            left.append(self.ask("kept"))
            super().close()

    branches = fork_many(
        episode, at=range(20), actions=[0], env=Watched, noise="recorded", folder=None
    )
    assert {branch.level for branch in branches} == {"sandbox"}
    assert made
    assert left == [0] * len(made)


@pytest.mark.slow
def test_states_that_only_the_sandbox_knows_are_not_taken_for_one(episode: Any) -> None:
    some = lambda observation, rng: int(rng.random() < 0.7)  # noqa: E731
    tables = [
        credit.estimate(episode, some, n=8, steps=[36, 37], env=Outside, memo=memo, folder=None)
        for memo in (True, False)
    ]
    assert [row.value for row in tables[0]] == [row.value for row in tables[1]]
    assert "drawn in the environment's sandbox is the same in each rollout" in "".join(
        tables[0].notes
    )


def test_a_log_does_not_take_what_python_holds_of_it_for_its_state() -> None:
    env = Outside()
    env.reset(seed=0)
    with pytest.raises(SnapshotError, match="lies outside of this process"):
        Keyframes(env).take()
    env.close()


def test_one_that_does_not_go_back_is_found_out(episode: Any) -> None:
    branches = fork_many(
        episode, at=[5, 9], actions=[0], n_branches=30, env=Forgetful, noise="recorded", folder=None
    )
    assert {branch.level for branch in branches} == {"prefix"}
    with pytest.raises(SnapshotError, match="went on otherwise"):
        fork_many(episode, at=[5], actions=[0], env=Forgetful, level="sandbox", folder=None)
